"""Reserved and provisioned concurrency through real boto3 clients; messages and shapes are AWS's recorded ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from insula.dispatch.provision import Provisioned
from insula.lambda_api.provision import restore
from insula.lambda_api.service import Service
from tests.unit.lambda_api.api_harness import ACCOUNT, REGION, Harness, settings, zipped
from tests.unit.lambda_api.test_aliases import refused, shown

ARN = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:hello"
INVALID = "InvalidParameterValueException"
UNPUBLISHED = "Provisioned Concurrency Configs cannot be applied to unpublished function versions."
NEITHER = "The function resource provided must be an alias or a published version."
BELOW = "Specified {} for function decreases account's UnreservedConcurrentExecution below its minimum value of [{}]."


@pytest.fixture(autouse=True)
def function(client: Any) -> None:
    """The function ``hello`` with versions 1 and 2 and the alias ``live`` of version 1."""
    client.create_function(**settings(Publish=True))
    client.get_waiter("function_active_v2").wait(FunctionName="hello", WaiterConfig={"Delay": 0})
    client.update_function_code(FunctionName="hello", ZipFile=zipped("x = 2"), Publish=True)
    client.create_alias(FunctionName="hello", Name="live", FunctionVersion="1")


@pytest.fixture
def small(service: Service, tmp_path: Path) -> Iterator[Any]:
    """A client of a server with a concurrency of 50, and a function."""
    harness = Harness(service, tmp_path / "small", concurrency=50)
    client = harness.client()
    client.create_function(**settings(Publish=True))
    yield client
    harness.close()


def reserve(client: Any, count: int, name: str = "hello") -> Any:
    return client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=count)


def put(client: Any, count: int, qualifier: str = "1", name: str = "hello") -> Any:
    return client.put_provisioned_concurrency_config(
        FunctionName=name, Qualifier=qualifier, ProvisionedConcurrentExecutions=count
    )


def get(client: Any, qualifier: str = "1") -> Any:
    return shown(client.get_provisioned_concurrency_config(FunctionName="hello", Qualifier=qualifier))


def account(client: Any) -> tuple[int, int]:
    limit = client.get_account_settings()["AccountLimit"]
    return limit["ConcurrentExecutions"], limit["UnreservedConcurrentExecutions"]


def test_reserved_concurrency_is_kept_told_and_taken_away(harness: Harness, client: Any) -> None:
    assert shown(client.get_function_concurrency(FunctionName="hello")) == {}
    assert shown(reserve(client, 5)) == {"ReservedConcurrentExecutions": 5}
    assert shown(client.get_function_concurrency(FunctionName=ARN)) == {"ReservedConcurrentExecutions": 5}
    assert client.get_function(FunctionName="hello")["Concurrency"] == {"ReservedConcurrentExecutions": 5}
    assert (harness.invoker.reserved, account(client)) == ({"hello": 5}, (1000, 995))
    answer = client.delete_function_concurrency(FunctionName="hello")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert (harness.invoker.reserved, account(client)) == ({"hello": None}, (1000, 1000))
    assert "Concurrency" not in client.get_function(FunctionName="hello")


def test_zero_stops_a_function(harness: Harness, client: Any) -> None:
    reserve(client, 0)
    assert harness.invoker.reserved == {"hello": 0}
    assert shown(client.get_function_concurrency(FunctionName="hello")) == {"ReservedConcurrentExecutions": 0}


def test_a_hundred_stay_unreserved(client: Any) -> None:
    client.create_function(**settings(FunctionName="other"))
    reserve(client, 500)
    wanted = (INVALID, 400, BELOW.format("ReservedConcurrentExecutions", 100))
    assert refused(reserve, client=client, count=401, name="other") == wanted
    reserve(client, 400, "other")
    assert refused(reserve, client=client, count=501) == wanted
    assert account(client) == (1000, 100)
    reserve(client, 499)
    assert account(client) == (1000, 101)


def test_the_body_of_that_error_has_no_type_as_on_aws(unsigned: Harness) -> None:
    unsigned.client().create_function(**settings())
    body = json.dumps({"ReservedConcurrentExecutions": 901}).encode()
    answer = unsigned.request("PUT", "/2017-10-31/functions/hello/concurrency", body)
    assert json.loads(answer.body) == {"message": BELOW.format("ReservedConcurrentExecutions", 100)}


def test_a_small_account_keeps_all_unreserved(small: Any) -> None:
    wanted = (INVALID, 400, BELOW.format("ReservedConcurrentExecutions", 50))
    assert refused(reserve, client=small, count=1) == wanted
    reserve(small, 0)
    assert account(small) == (50, 50)
    small.delete_function_concurrency(FunctionName="hello")
    assert refused(put, client=small, count=1) == (INVALID, 400, BELOW.format("ConcurrentExecutions", 50))


def test_reserved_concurrency_belongs_to_whole_functions_that_exist(client: Any) -> None:
    assert refused(reserve, client=client, count=1, name="hello:1")[2].startswith("This operation is permitted on")
    missing = f"Function not found: {ARN[:-5]}other"
    code = "ResourceNotFoundException"
    assert refused(reserve, client=client, count=1, name="other") == (code, 404, f"{missing}:$LATEST")
    assert refused(client.get_function_concurrency, FunctionName="other") == (code, 404, missing)
    assert refused(client.delete_function_concurrency, FunctionName="other") == (code, 404, missing)


def test_a_deleted_function_gives_its_concurrency_back(harness: Harness, client: Any) -> None:
    reserve(client, 5)
    put(client, 2)
    client.delete_function(FunctionName="hello")
    assert harness.invoker.reserved == {"hello": None}
    assert set(harness.invoker.kept.values()) == {0}
    assert account(client) == (1000, 1000)


def test_provisioned_concurrency_begins_and_gets_ready(harness: Harness, client: Any) -> None:
    answer = put(client, 3)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    modified = answer.pop("LastModified")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+0000", modified)
    begun = {
        "RequestedProvisionedConcurrentExecutions": 3,
        "AllocatedProvisionedConcurrentExecutions": 0,
        "AvailableProvisionedConcurrentExecutions": 0,
        "Status": "IN_PROGRESS",
    }
    assert shown(answer) == begun
    assert harness.invoker.kept["hello:1"] == 3
    deployment = harness.catalog.function(ACCOUNT, "hello", "1")
    assert deployment is not None
    harness.invoker.states[deployment.deployment] = Provisioned(3, 3, 3)
    ready = get(client)
    assert ready == {
        **begun,
        "AllocatedProvisionedConcurrentExecutions": 3,
        "AvailableProvisionedConcurrentExecutions": 3,
        "Status": "READY",
        "LastModified": modified,
    }
    harness.invoker.states[deployment.deployment] = Provisioned(3, 1, 0, "FUNCTION_ERROR_INIT_FAILURE")
    failed = get(client)
    assert (failed["Status"], failed["StatusReason"]) == ("FAILED", "FUNCTION_ERROR_INIT_FAILURE")
    harness.invoker.states[deployment.deployment] = Provisioned(3, 3, 3, "an earlier attempt's")
    assert get(client) == ready
    harness.invoker.states[deployment.deployment] = Provisioned(3, 1, 0, "FUNCTION_ERROR_INIT_FAILURE")
    listed = client.list_provisioned_concurrency_configs(FunctionName="hello")["ProvisionedConcurrencyConfigs"]
    assert listed == [{"FunctionArn": f"{ARN}:1", **failed}]


def test_provisioned_concurrency_ends_when_it_is_deleted(harness: Harness, client: Any) -> None:
    put(client, 3)
    for _ in range(2):
        answer = client.delete_provisioned_concurrency_config(FunctionName="hello", Qualifier="1")
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert harness.invoker.kept["hello:1"] == 0
    assert refused(get, client=client) == (
        "ProvisionedConcurrencyConfigNotFoundException",
        404,
        "No Provisioned Concurrency Config found for this function",
    )


def test_provisioned_concurrency_follows_its_alias(harness: Harness, client: Any) -> None:
    put(client, 10, "live")
    kept = harness.invoker.kept
    assert (kept["hello:1"], kept["hello:2"]) == (10, 0)
    client.update_alias(FunctionName="hello", Name="live", RoutingConfig={"AdditionalVersionWeights": {"2": 0.3}})
    assert (kept["hello:1"], kept["hello:2"]) == (7, 3)
    client.update_alias(FunctionName="hello", Name="live", FunctionVersion="2", RoutingConfig={})
    assert (kept["hello:1"], kept["hello:2"]) == (0, 10)
    assert refused(client.update_alias, FunctionName="hello", Name="live", FunctionVersion="$LATEST")[2] == UNPUBLISHED
    client.delete_alias(FunctionName="hello", Name="live")
    assert (kept["hello:1"], kept["hello:2"]) == (0, 0)
    assert refused(get, client=client, qualifier="live")[2] == f"Cannot find alias arn: {ARN}:live"


def test_a_shared_version_is_shown_to_each_alias_by_its_share(harness: Harness, client: Any) -> None:
    client.create_alias(FunctionName="hello", Name="next", FunctionVersion="2")
    put(client, 2, "live")
    put(client, 3, "next")
    client.update_alias(FunctionName="hello", Name="live", FunctionVersion="2")
    assert harness.invoker.kept == {"hello:$LATEST": 0, "hello:1": 0, "hello:2": 5}
    version = harness.catalog.function(ACCOUNT, "hello", "2")
    assert version is not None
    harness.invoker.states[version.deployment] = Provisioned(5, 5, 2)
    assert (get(client, "live")["Status"], get(client, "next")["Status"]) == ("READY", "IN_PROGRESS")


def test_everything_holds_again_after_a_restart(harness: Harness, client: Any) -> None:
    reserve(client, 9)
    put(client, 3)
    put(client, 4, "2")
    harness.invoker.reserved.clear()
    harness.invoker.kept.clear()
    restore(harness.services)
    assert harness.invoker.reserved == {"hello": 9}
    assert harness.invoker.kept == {"hello:$LATEST": 0, "hello:1": 3, "hello:2": 4}


@pytest.mark.parametrize(
    ("qualifier", "name", "wanted"),
    [
        ("$LATEST", "hello", (INVALID, 400, UNPUBLISHED)),
        ("9", "hello", ("ResourceNotFoundException", 404, f"Function not found: {ARN}:9")),
        ("x", "hello", ("ResourceNotFoundException", 404, f"Cannot find alias arn: {ARN}:x")),
        ("x", "gone", ("ResourceNotFoundException", 404, f"Cannot find alias arn: {ARN[:-5]}gone:x")),
        ("1", "gone", ("ResourceNotFoundException", 404, f"Function not found: {ARN[:-5]}gone:1")),
    ],
)
def test_it_needs_a_version_or_an_alias(client: Any, qualifier: str, name: str, wanted: tuple[str, int, str]) -> None:
    assert refused(put, client=client, count=1, qualifier=qualifier, name=name) == wanted
    request = {"FunctionName": name, "Qualifier": qualifier}
    wanted = wanted if qualifier != "$LATEST" else (INVALID, 400, NEITHER)
    assert refused(client.get_provisioned_concurrency_config, **request) == wanted
    assert refused(client.delete_provisioned_concurrency_config, **request) == wanted


def test_a_version_has_it_once_by_itself_or_by_an_alias(client: Any) -> None:
    conflict = "ResourceConflictException"
    put(client, 1, "live")
    assert refused(put, client=client, count=1) == (
        conflict,
        409,
        "Version is pointed by a Provisioned Concurrency alias",
    )
    put(client, 1, "2")
    client.create_alias(FunctionName="hello", Name="next", FunctionVersion="2")
    assert refused(put, client=client, count=1, qualifier="next")[:2] == (conflict, 409)


def test_weighted_aliases_and_those_of_the_latest_code_cannot_have_it(client: Any) -> None:
    routing = {"AdditionalVersionWeights": {"2": 0.5}}
    client.update_alias(FunctionName="hello", Name="live", RoutingConfig=routing)
    assert refused(put, client=client, count=1, qualifier="live")[2] == (
        "Alias with weights can not be used with Provisioned Concurrency"
    )
    client.create_alias(FunctionName="hello", Name="newest", FunctionVersion="$LATEST")
    assert refused(put, client=client, count=1, qualifier="newest") == (INVALID, 400, UNPUBLISHED)


def test_zero_environments_are_refused_by_the_model(client: Any) -> None:
    assert refused(put, client=client, count=0) == (
        "ValidationException",
        400,
        (
            "1 validation error detected: Value '0' at 'provisionedConcurrentExecutions' failed to satisfy constraint: "
            "Member must have value greater than or equal to 1"
        ),
    )


def test_it_comes_out_of_what_is_unreserved(client: Any) -> None:
    assert refused(put, client=client, count=1001) == (
        INVALID,
        400,
        "Specified ConcurrentExecutions for function is greater than account's unreserved concurrency [1000].",
    )
    assert refused(put, client=client, count=901)[2] == BELOW.format("ConcurrentExecutions", 100)
    put(client, 900)
    assert account(client) == (1000, 100)
    assert refused(put, client=client, count=1, qualifier="2")[2] == BELOW.format("ConcurrentExecutions", 100)
    put(client, 899)
    put(client, 1, "2")


def test_it_comes_out_of_what_the_function_reserves(client: Any) -> None:
    reserve(client, 3)
    put(client, 2)
    assert refused(put, client=client, count=2, qualifier="2") == (
        INVALID,
        400,
        "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function",
    )
    put(client, 1, "2")
    put(client, 1)
    assert refused(reserve, client=client, count=1) == (
        INVALID,
        400,
        " ReservedConcurrentExecutions  1 should not be lower than function's total provisioned concurrency [2].",
    )
    assert account(client) == (1000, 997)


def test_the_list_is_paged(client: Any) -> None:
    client.create_alias(FunctionName="hello", Name="b", FunctionVersion="2")
    put(client, 1, "live")
    put(client, 2, "b")
    call = client.list_provisioned_concurrency_configs
    first = call(FunctionName="hello", MaxItems=1)
    rest = call(FunctionName="hello", Marker=first["NextMarker"])
    found = first["ProvisionedConcurrencyConfigs"] + rest["ProvisionedConcurrencyConfigs"]
    assert [each["FunctionArn"] for each in found] == [f"{ARN}:b", f"{ARN}:live"]
    assert "NextMarker" not in rest
    assert refused(call, FunctionName="gone")[2] == f"Function not found: {ARN[:-5]}gone"


def test_functions_with_tenant_isolation_cannot_have_it(harness: Harness, client: Any) -> None:
    client.create_function(
        **settings(FunctionName="tenants", Publish=True, TenancyConfig={"TenantIsolationMode": "PER_TENANT"})
    )
    message = "Provisioned concurrency is not supported for functions with tenant isolation mode."
    request = {"FunctionName": "tenants", "Qualifier": "1"}
    assert refused(put, client=client, count=1, name="tenants") == (INVALID, 400, message)
    for call in (client.get_provisioned_concurrency_config, client.delete_provisioned_concurrency_config):
        assert refused(call, **request) == (INVALID, 400, message)
    assert refused(client.list_provisioned_concurrency_configs, FunctionName="tenants")[2] == message
    assert harness.invoker.kept == {}
