"""Tenant isolation mode as its document describes it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conftest import Function
from tests.functional.deployment import COUNTER, send, sign
from tests.server import Server

MISSING = (
    "The invoked function is enabled with tenancy configuration. Add a valid tenant ID in your request and try again."
)
UNEXPECTED = (
    "The invoked function is not enabled with tenancy configuration. "
    "Remove the tenant ID from your request and try again."
)

# Looks for the tenant wherever an environment could know it from, while it is initialised.
INIT = """
import os, sys
SEEN = [dict(os.environ), sys.argv, open("/proc/self/environ").read(), open("/proc/self/cmdline").read()]
FOUND = "secret-tenant" in repr(SEEN)
def handler(event, context):
    return {"at_init": FOUND, "in_handler": context.tenant_id, "in_environ": "secret-tenant" in repr(os.environ)}
"""


def test_a_tenant_reuses_its_environment_and_never_another_ones(function: Callable[..., Function]) -> None:
    counter = function(COUNTER, tenancy=True)
    answers: dict[str, list[Any]] = {"blue": [], "green": []}
    for tenant in ("blue", "green", "blue", "green"):
        answers[tenant].append(counter.invoke(tenant=tenant))
    for tenant, (first, second) in answers.items():
        assert first["tenant"] == second["tenant"] == tenant
        assert first["environment"] == second["environment"]
        assert (first["count"], second["count"]) == (1, 2)
    assert answers["blue"][0]["environment"] != answers["green"][0]["environment"]


def test_many_tenants_at_once_never_meet_in_an_environment(function: Callable[..., Function]) -> None:
    counter = function(COUNTER, tenancy=True)
    tenants = [f"tenant-{number % 8}" for number in range(80)]
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda tenant: counter.invoke(tenant=tenant), tenants))
    assert [answer["tenant"] for answer in answers] == tenants
    owners: dict[str, set[str]] = {}
    for answer in answers:
        owners.setdefault(answer["environment"], set()).add(answer["tenant"])
    assert all(len(served) == 1 for served in owners.values())


def test_versions_of_a_function_do_not_share_environments(function: Callable[..., Function]) -> None:
    counter = function(COUNTER, tenancy=True)
    counter.client.publish_version(FunctionName=counter.name)
    latest = counter.invoke(tenant="blue")
    published = counter.invoke(tenant="blue", Qualifier="1")
    assert published["environment"] != latest["environment"]
    assert published["count"] == 1


def test_functions_do_not_share_environments_of_a_tenant(function: Callable[..., Function]) -> None:
    one, other = function(COUNTER, tenancy=True), function(COUNTER, tenancy=True)
    assert one.invoke(tenant="blue")["environment"] != other.invoke(tenant="blue")["environment"]


def test_without_tenancy_all_callers_share_environments(function: Callable[..., Function]) -> None:
    counter = function(COUNTER)
    first, second = counter.invoke(), counter.invoke()
    assert first["environment"] == second["environment"]
    assert first["tenant"] is second["tenant"] is None


def test_the_tenant_is_not_known_during_init(function: Callable[..., Function]) -> None:
    answer = function(INIT, tenancy=True).invoke(tenant="secret-tenant")
    assert answer == {"at_init": False, "in_handler": "secret-tenant", "in_environ": False}


def test_an_invocation_without_tenant_is_refused(function: Callable[..., Function]) -> None:
    counter = function(COUNTER, tenancy=True)
    with pytest.raises(ClientError) as caught:
        counter.call()
    assert caught.value.response["Error"] == {"Code": "InvalidParameterValueException", "Message": MISSING}
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_a_tenant_on_a_function_without_tenancy_is_refused(function: Callable[..., Function]) -> None:
    counter = function(COUNTER)
    with pytest.raises(ClientError) as caught:
        counter.call(tenant="blue")
    assert caught.value.response["Error"] == {"Code": "InvalidParameterValueException", "Message": UNEXPECTED}
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_dry_run_judges_the_tenant_as_well(function: Callable[..., Function]) -> None:
    counter = function(COUNTER, tenancy=True)
    assert counter.call(tenant="blue", InvocationType="DryRun")["StatusCode"] == 204
    with pytest.raises(ClientError, match="Add a valid tenant ID"):
        counter.call(InvocationType="DryRun")
    assert counter.invoke(tenant="blue")["count"] == 1


@pytest.mark.parametrize(
    "tenant", ["a", "x" * 256, "../../etc/passwd", "a b", "arn:aws:x/y=z+w@v", ".", "..", "-rf", "$LATEST-"[1:]]
)
def test_every_allowed_tenant_id_arrives_as_it_was_sent(function: Callable[..., Function], tenant: str) -> None:
    assert function(COUNTER, tenancy=True).invoke(tenant=tenant)["tenant"] == tenant


@pytest.mark.parametrize("tenant", ["x" * 257, "~", "a\tb", "a,b", "a$b", "a'b", 'a"b', "a;b", "a\\b", "%41", "*"])
def test_other_tenant_ids_are_refused(function: Callable[..., Function], server: Server, tenant: str) -> None:
    counter = function(COUNTER, tenancy=True)
    path = f"/2015-03-31/functions/{counter.name}/invocations"
    request = sign(server, "POST", path, b"{}", [("X-Amz-Tenant-Id", tenant)])
    status, headers, body = send(server, "POST", path, b"{}", request.headers)
    assert status == 400
    assert headers["x-amzn-errortype"] in {"ValidationException", "InvalidParameterValueException"}
    assert b"enant" in body


def test_tenant_ids_are_compared_byte_for_byte(function: Callable[..., Function]) -> None:
    counter = function(COUNTER, tenancy=True)
    tenants = ["acme", "Acme", "ACME", "acme.", "acme/", "a cme", "a  cme", "acme:1", "acme=1"]
    answers = [counter.invoke(tenant=tenant) for tenant in tenants]
    assert [answer["tenant"] for answer in answers] == tenants
    assert len({answer["environment"] for answer in answers}) == len(tenants)


def test_two_tenant_ids_in_one_request_are_refused(function: Callable[..., Function], server: Server) -> None:
    counter = function(COUNTER, tenancy=True)
    path = f"/2015-03-31/functions/{counter.name}/invocations"
    # As the canonical request joins them, so that the signature is right.
    headers = dict(sign(server, "POST", path, b"{}", [("X-Amz-Tenant-Id", "blue,green")]).headers)
    del headers["X-Amz-Tenant-Id"]
    twice = {**headers, "X-Amz-Tenant-Id": "blue", "x-amz-tenant-id": "green"}
    status, _, body = send(server, "POST", path, b"{}", twice)
    assert (status, b"enant" in body) == (400, True)


def test_a_tenant_that_was_not_signed_is_refused(function: Callable[..., Function], server: Server) -> None:
    counter = function(COUNTER, tenancy=True)
    path = f"/2015-03-31/functions/{counter.name}/invocations"
    headers = {**sign(server, "POST", path, b"{}").headers, "X-Amz-Tenant-Id": "blue"}
    assert send(server, "POST", path, b"{}", headers)[0] == 403


def test_every_configuration_echoes_the_tenancy(function: Callable[..., Function]) -> None:
    counter = function(COUNTER, tenancy=True)
    client, name = counter.client, counter.name
    published = client.publish_version(FunctionName=name)
    listed = [f for page in client.get_paginator("list_functions").paginate() for f in page["Functions"]]
    shown = [
        published,
        client.get_function(FunctionName=name)["Configuration"],
        client.get_function_configuration(FunctionName=name),
        client.get_function_configuration(FunctionName=name, Qualifier="1"),
        *client.list_versions_by_function(FunctionName=name)["Versions"],
        *[f for f in listed if f["FunctionName"] == name],
        client.update_function_configuration(FunctionName=name, Description="changed"),
    ]
    assert len(shown) == 8
    assert all(configuration["TenancyConfig"] == {"TenantIsolationMode": "PER_TENANT"} for configuration in shown)


def test_a_function_without_tenancy_shows_none(function: Callable[..., Function]) -> None:
    counter = function(COUNTER)
    assert "TenancyConfig" not in counter.client.get_function_configuration(FunctionName=counter.name)


@pytest.mark.parametrize("tenancy", [True, False])
def test_tenancy_cannot_be_changed_after_creation(
    function: Callable[..., Function], server: Server, tenancy: bool
) -> None:
    counter = function(COUNTER, tenancy=tenancy)
    before = counter.client.get_function_configuration(FunctionName=counter.name)
    body = b'{"TenancyConfig":{"TenantIsolationMode":"PER_TENANT"}}' if not tenancy else b'{"TenancyConfig":null}'
    path = f"/2015-03-31/functions/{counter.name}/configuration"
    send(server, "PUT", path, body, sign(server, "PUT", path, body).headers)
    counter.client.get_waiter("function_updated_v2").wait(FunctionName=counter.name, WaiterConfig={"Delay": 0})
    after = counter.client.get_function_configuration(FunctionName=counter.name)
    assert after.get("TenancyConfig") == before.get("TenancyConfig")


def test_another_isolation_mode_is_refused(client: Any, function: Callable[..., Function]) -> None:
    with pytest.raises(ClientError) as caught:
        function(COUNTER, TenancyConfig={"TenantIsolationMode": "PER_USER"})
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_a_failing_tenant_does_not_touch_another_ones_environment(function: Callable[..., Function]) -> None:
    source = COUNTER.replace(
        "    count += 1\n", "    count += 1\n    if event == 'die':\n        import os\n        os._exit(1)\n"
    )
    counter = function(source, tenancy=True)
    before = counter.invoke(tenant="green")
    assert counter.invoke(tenant="blue")["count"] == 1
    assert counter.fail("die", tenant="blue")["errorType"] == "Runtime.ExitError"
    after = counter.invoke(tenant="green")
    assert (after["environment"], after["count"]) == (before["environment"], 2)
    assert counter.invoke(tenant="blue")["count"] == 1
