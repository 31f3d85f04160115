"""The document of tenant isolation mode, sentence by sentence.

Each docstring quotes the sentence, shortened, that its test holds Insula to.
Source: https://docs.aws.amazon.com/lambda/latest/dg/tenant-isolation.html
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conftest import Function
from tests.functional.deployment import COUNTER, deploy, eventually, send, sign
from tests.server import ROLE, RUNTIME, Server, zip_of

# Keeps what a tenant leaves in memory, in /tmp and in its environment variables, and tells what was there before.
KEEPER = """
import os, pathlib, time
seen = []
def handler(event, context):
    note = pathlib.Path("/tmp/note")
    before = [list(seen), note.read_text() if note.exists() else None, os.environ.get("NOTE")]
    seen.append(event["note"])
    note.write_text(event["note"])
    os.environ["NOTE"] = event["note"]
    time.sleep(event.get("seconds", 0))
    return before
"""

# Executes code that its users supply.
RUNNER = """
import os
count = 0
def handler(event, context):
    global count
    count += 1
    exec(event)
    return count
"""


def refusal(call: Callable[[], Any]) -> tuple[str, str, int]:
    with pytest.raises(ClientError) as caught:
        call()
    response = caught.value.response
    return response["Error"]["Code"], response["Error"]["Message"], response["ResponseMetadata"]["HTTPStatusCode"]


def test_environments_serve_the_specified_tenant_only(function: Callable[..., Function]) -> None:
    """Lambda uses a customer-specified tenant identifier to route requests to execution environments, ensuring that
    they are only used to serve invocations from the specified tenant."""
    counter = function(COUNTER, tenancy=True)
    tenants = ["blue", "green", "red"] * 10
    answers = [counter.invoke(tenant=tenant) for tenant in tenants]
    assert [answer["tenant"] for answer in answers] == tenants
    assert len({(answer["environment"], answer["tenant"]) for answer in answers}) == 3
    assert len({answer["environment"] for answer in answers}) == 3


def test_an_available_environment_of_the_tenant_is_located_first(function: Callable[..., Function]) -> None:
    """Lambda first attempts to locate an available execution environment associated with that tenant identifier."""
    counter = function(COUNTER, tenancy=True)
    assert [counter.invoke(tenant="blue")["count"] for _ in range(5)] == [1, 2, 3, 4, 5]


def test_an_environment_is_created_and_assigned_if_there_is_none(function: Callable[..., Function]) -> None:
    """If no execution environments exist, Lambda creates and assigns a new execution environment to that tenant."""
    counter = function(COUNTER, tenancy=True)
    counter.invoke(tenant="blue")
    assert counter.invoke(tenant="green")["count"] == 1


def test_environments_are_added_as_a_tenants_invocations_scale_up(function: Callable[..., Function]) -> None:
    """As function invocations with the specified tenant identifier scale up, Lambda locates or creates new execution
    environments as necessary."""
    keeper = function(KEEPER, tenancy=True, Timeout=30)
    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(lambda _: keeper.invoke({"note": "x", "seconds": 1.5}, "blue"), range(3)))
    assert answers == [[[], None, None]] * 3


def test_incorrect_code_of_a_tenant_harms_that_tenant_alone(function: Callable[..., Function]) -> None:
    """Maintaining separate execution environments for individual tenants can limit the impact of executing
    user-supplied code that may be incorrect or malicious."""
    runner = function(RUNNER, tenancy=True, Timeout=2)
    assert runner.invoke("", tenant="green") == 1
    for evil in ("os._exit(1)", "x = bytearray(1 << 30)", "while True: pass", "for f in (1, 2, 3, 4): os.close(f)"):
        runner.call(evil, tenant="blue")
    assert runner.invoke("", tenant="green") == 2
    assert runner.invoke("", tenant="blue") >= 1


def test_data_of_other_tenants_is_not_accessible(function: Callable[..., Function]) -> None:
    """With tenant isolation: data from other tenants is not accessible. [...] Execution environments are never reused
    across different tenants."""
    keeper = function(KEEPER, tenancy=True)
    keeper.invoke({"note": "secret of blue"}, tenant="blue")
    assert keeper.invoke({"note": "x"}, tenant="green") == [[], None, None]


def test_a_tenants_invocations_reuse_its_environment(function: Callable[..., Function]) -> None:
    """Multiple invocation requests from the same tenant can re-use the same function execution environment."""
    keeper = function(KEEPER, tenancy=True)
    keeper.invoke({"note": "mine"}, tenant="blue")
    assert keeper.invoke({"note": "x"}, tenant="blue") == [["mine"], "mine", "mine"]


def test_without_tenancy_environments_are_reused_for_everyone(function: Callable[..., Function]) -> None:
    """Without tenant isolation: execution environments might be reused across invocations of the same function; data
    from previous invocations of the same function version may be accessible."""
    keeper = function(KEEPER)
    keeper.invoke({"note": "first"})
    assert keeper.invoke({"note": "x"}) == [["first"], "first", "first"]


def test_isolation_without_tenancy_is_per_function(function: Callable[..., Function]) -> None:
    """Isolation type without tenant isolation: function-level isolation."""
    one, other = function(KEEPER), function(KEEPER)
    one.invoke({"note": "of one"})
    assert other.invoke({"note": "x"}) == [[], None, None]


def test_function_urls_are_refused(function: Callable[..., Function]) -> None:
    """Tenant isolation mode is not supported with functions that use function URLs."""
    made = function(COUNTER, tenancy=True)
    code, message, status = refusal(
        lambda: made.client.create_function_url_config(FunctionName=made.name, AuthType="NONE")
    )
    assert (code, status) == ("InvalidParameterValueException", 400)
    assert "tenant isolation" in message


def test_provisioned_concurrency_is_refused(function: Callable[..., Function]) -> None:
    """Tenant isolation mode is not supported with functions that use [...] provisioned concurrency."""
    made = function(COUNTER, tenancy=True, Publish=True)
    code, message, status = refusal(
        lambda: made.client.put_provisioned_concurrency_config(
            FunctionName=made.name, Qualifier="1", ProvisionedConcurrentExecutions=1
        )
    )
    assert (code, status) == ("InvalidParameterValueException", 400)
    assert "tenant isolation" in message


def test_snapstart_is_refused(function: Callable[..., Function]) -> None:
    """Tenant isolation mode is not supported with functions that use [...] SnapStart."""
    snap = {"ApplyOn": "PublishedVersions"}
    code, message, status = refusal(lambda: function(COUNTER, tenancy=True, SnapStart=snap))
    assert (code, status) == ("InvalidParameterValueException", 400)
    assert "tenant isolation" in message
    made = function(COUNTER, tenancy=True)
    change = made.client.update_function_configuration
    code, message, _ = refusal(lambda: change(FunctionName=made.name, SnapStart=snap))
    assert code == "InvalidParameterValueException"
    assert "tenant isolation" in message


def test_synchronous_invocations_are_answered(function: Callable[..., Function]) -> None:
    """You can send requests to a tenant-isolated function using synchronous invocations."""
    assert function(COUNTER, tenancy=True).invoke(tenant="blue", InvocationType="RequestResponse")["tenant"] == "blue"


def test_the_mode_is_not_offered_in_new_zealand(new_server: Callable[..., Server]) -> None:
    """Tenant isolation mode is supported in all commercial Regions except Asia Pacific (New Zealand)."""
    server = new_server("--region", "ap-southeast-6")
    code, message, status = refusal(lambda: deploy(server, COUNTER, tenancy=True))
    assert (code, status) == ("InvalidParameterValueException", 400)
    assert "ap-southeast-6" in message
    assert deploy(server, COUNTER).invoke()["count"] == 1


@pytest.mark.parametrize("region", ["eu-central-1", "ap-southeast-2"])
def test_the_mode_is_offered_in_other_regions(new_server: Callable[..., Server], region: str) -> None:
    """Tenant isolation mode is supported in all commercial Regions [...]."""
    assert deploy(new_server("--region", region), COUNTER, tenancy=True).invoke(tenant="blue")["tenant"] == "blue"


def test_the_mode_is_immutable(function: Callable[..., Function], server: Server) -> None:
    """Tenant isolation is an immutable function property. It can only be enabled when creating a function."""
    made = function(COUNTER)
    path = f"/2015-03-31/functions/{made.name}/configuration"
    body = b'{"TenancyConfig":{"TenantIsolationMode":"PER_TENANT"}}'
    send(server, "PUT", path, body, sign(server, "PUT", path, body).headers)
    assert made.invoke()["tenant"] is None
    assert "TenancyConfig" not in made.client.get_function_configuration(FunctionName=made.name)


def test_an_invocation_without_tenant_id_fails(function: Callable[..., Function]) -> None:
    """Functions using tenant isolation mode must be invoked with a tenant-id parameter. Omitting this parameter will
    cause function invocations to fail."""
    made = function(COUNTER, tenancy=True)
    for options in ({}, {"Qualifier": "$LATEST"}, {"InvocationType": "DryRun"}, {"InvocationType": "Event"}):
        code, message, _ = refusal(partial(made.call, **options))
        assert code == "InvalidParameterValueException"
        assert message.endswith("Add a valid tenant ID in your request and try again.")


def test_the_role_is_one_for_all_tenants(function: Callable[..., Function]) -> None:
    """Invocations from all tenants use the permissions defined in your Lambda function's execution role."""
    made = function("import os\ndef handler(event, context):\n    return sorted(os.environ)\n", tenancy=True)
    assert made.client.get_function_configuration(FunctionName=made.name)["Role"] == ROLE
    assert made.invoke(tenant="blue") == made.invoke(tenant="green")


def test_the_limit_of_tenant_environments(new_server: Callable[..., Server]) -> None:
    """Lambda imposes a limit of 2,500 tenant-isolated execution environments (active or idle) for every 1,000
    concurrent executions: 5 for 2."""
    server = new_server("--concurrency", "2")
    counter = deploy(server, COUNTER, "one", tenancy=True)
    for number in range(5):
        assert counter.invoke(tenant=f"tenant-{number}")["count"] == 1
    assert refusal(lambda: counter.invoke(tenant="tenant-5")) == ("TooManyRequestsException", "Rate exceeded", 429)
    assert counter.invoke(tenant="tenant-0")["count"] == 2
    # Each function has a limit of its own, and its versions share one.
    assert deploy(server, COUNTER, "other", tenancy=True).invoke(tenant="blue")["count"] == 1
    counter.client.publish_version(FunctionName="one")
    assert refusal(lambda: counter.invoke(tenant="tenant-0", Qualifier="1"))[2] == 429
    # What is deleted counts no more.
    counter.client.delete_function(FunctionName="one")
    again = deploy(server, COUNTER + "\n", "one", tenancy=True)

    def has_room() -> bool:
        try:
            return bool(again.invoke(tenant="tenant-9")["count"] == 1)
        except again.client.exceptions.TooManyRequestsException:
            return False

    eventually(has_room)


def test_an_environment_that_ended_makes_room(new_server: Callable[..., Server]) -> None:
    """[...] a limit of 2,500 tenant-isolated execution environments (active or idle) [...]: none that is gone."""
    server = new_server("--concurrency", "1")
    made = deploy(server, "import os\ndef handler(event, context):\n    if event: os._exit(1)\n", tenancy=True)
    for number in range(6):
        assert made.fail(True, tenant=f"tenant-{number}")["errorType"] == "Runtime.ExitError"
    for number in range(2):
        assert made.invoke(tenant=f"other-{number}") is None
    assert refusal(lambda: made.invoke(tenant="other-2"))[0] == "TooManyRequestsException"


def test_there_is_no_such_limit_without_tenancy(new_server: Callable[..., Server]) -> None:
    """There are no changes to your function's concurrency or scaling behavior when using tenant isolation: the
    account's limit of concurrent executions holds for both."""
    server = new_server("--concurrency", "2")
    source = "import time\ndef handler(event, context):\n    time.sleep(event)\n    return True\n"
    for tenancy in (False, True):
        nap = deploy(server, source, f"nap-{tenancy}".lower(), tenancy=tenancy, Timeout=20)
        for number in range(2):
            nap.invoke(0, tenant=f"tenant-{number}" if tenancy else None)

        def answer(number: int, nap: Function = nap, tenancy: bool = tenancy) -> str:
            try:
                return str(nap.invoke(2, tenant=f"tenant-{number % 2}" if tenancy else None))
            except ClientError as error:
                return str(error.response["Error"]["Code"]) + str(error.response["ResponseMetadata"]["HTTPStatusCode"])

        with ThreadPoolExecutor(3) as threads:
            answers = sorted(threads.map(answer, range(3)))
        assert answers == ["TooManyRequestsException429", "True", "True"]


def test_more_cold_starts_with_tenancy(function: Callable[..., Function]) -> None:
    """More cold starts due to tenant-specific environments; without: fewer cold starts due to environment reuse."""
    isolated, plain = function(COUNTER, tenancy=True), function(COUNTER)
    tenants = [f"tenant-{number % 4}" for number in range(12)]
    cold = sum(isolated.invoke(tenant=tenant)["count"] == 1 for tenant in tenants)
    assert cold == 4
    assert sum(plain.invoke()["count"] == 1 for _ in tenants) == 1


def test_a_new_function_may_ask_for_the_mode_by_a_plain_request(server: Server, client: Any) -> None:
    """It can only be enabled when creating a function: with `TenancyConfig` of CreateFunction."""
    made = client.create_function(
        FunctionName="seed",
        Runtime=RUNTIME,
        Role=ROLE,
        Handler="app.handler",
        Code={"ZipFile": zip_of(COUNTER)},
        TenancyConfig={"TenantIsolationMode": "PER_TENANT"},
    )
    assert made["TenancyConfig"] == {"TenantIsolationMode": "PER_TENANT"}
    client.delete_function(FunctionName="seed")
