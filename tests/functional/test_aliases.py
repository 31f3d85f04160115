"""Aliases on a real server: which version answers, and what a restart leaves of them."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Function
from tests.functional.deployment import deploy, update
from tests.server import Server

WHO = """
import os
def handler(event, context):
    return [NUMBER, context.function_version, context.invoked_function_arn, os.environ["AWS_LAMBDA_FUNCTION_VERSION"]]
"""


def source(number: int) -> str:
    """A function that says which of the test's packages it is."""
    return f"NUMBER = {number}\n{WHO}"


def publish(function: Function) -> None:
    """Make version 1 of package 1 and version 2 of package 2; package 3 is the latest."""
    for number in (1, 2):
        assert function.client.publish_version(FunctionName=function.name)["Version"] == str(number)
        update(function, source(number + 1))


def ask(function: Function, qualifier: str, **options: Any) -> tuple[str, Any]:
    """``ExecutedVersion`` of an invocation, and what the function says of itself."""
    answer = function.call({}, Qualifier=qualifier, **options)
    assert "FunctionError" not in answer, answer["Payload"].read()
    return answer["ExecutedVersion"], json.load(answer["Payload"])


def arn(function: Function, alias: str) -> str:
    return f"{function.client.get_function_configuration(FunctionName=function.name)['FunctionArn']}:{alias}"


def create(function: Function, name: str, version: str, **weights: float) -> None:
    shares = {number.removeprefix("v"): weight for number, weight in weights.items()}
    function.client.create_alias(
        FunctionName=function.name,
        Name=name,
        FunctionVersion=version,
        RoutingConfig={"AdditionalVersionWeights": shares},
    )


def test_an_alias_runs_its_version_under_its_own_arn(function: Callable[..., Function]) -> None:
    made = function(source(1))
    publish(made)
    create(made, "live", "1")
    assert ask(made, "live") == ("1", [1, "1", arn(made, "live"), "1"])
    made.client.update_alias(FunctionName=made.name, Name="live", FunctionVersion="2")
    assert ask(made, "live") == ("2", [2, "2", arn(made, "live"), "2"])


def test_an_alias_of_the_latest_code_follows_updates(function: Callable[..., Function]) -> None:
    made = function(source(1))
    create(made, "head", "$LATEST")
    assert ask(made, "head")[1][0] == 1
    update(made, source(2))
    assert ask(made, "head")[:1] == ("$LATEST",)
    assert ask(made, "head")[1][0] == 2


def test_weights_divide_the_invocations(function: Callable[..., Function]) -> None:
    made = function(source(1))
    publish(made)
    create(made, "live", "1", v2=0.5)
    answers = [ask(made, "live") for _ in range(100)]
    counts = Counter(version for version, _ in answers)
    assert all(version == str(number) == told for version, (number, told, _, _) in answers)
    assert set(counts) == {"1", "2"}  # that one of them gets none of 100 happens once in 10^30 runs
    made.client.update_alias(
        FunctionName=made.name, Name="live", RoutingConfig={"AdditionalVersionWeights": {"2": 1.0}}
    )
    assert {ask(made, "live")[0] for _ in range(20)} == {"2"}


@pytest.mark.parametrize("tenants", [("blue", "green")])
def test_an_alias_leads_each_tenant_to_environments_of_its_own(
    function: Callable[..., Function], tenants: tuple[str, ...]
) -> None:
    made = function(
        "import uuid\nME = uuid.uuid4().hex\ndef handler(event, context): return [ME, context.tenant_id]", tenancy=True
    )
    made.client.publish_version(FunctionName=made.name)
    create(made, "live", "1")
    seen = {tenant: {ask(made, "live", tenant=tenant)[1][0] for _ in range(3)} for tenant in tenants}
    assert [len(environments) for environments in seen.values()] == [1, 1]
    assert not seen["blue"] & seen["green"]
    # The version's own environments serve its alias: they are the same deployment.
    assert ask(made, "1", tenant="blue")[1] == [*seen["blue"], "blue"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_aliases_survive_the_server(new_server: Callable[..., Server], number: int) -> None:
    server = new_server()
    made = deploy(server, source(1))
    publish(made)
    create(made, "live", "1", v2=0.0)
    before = made.client.list_aliases(FunctionName=made.name)["Aliases"]
    server.stop(number)
    again = Function(new_server(data_dir=server.data_dir).client(), made.name)
    assert again.client.list_aliases(FunctionName=made.name)["Aliases"] == before
    assert ask(again, "live")[0] == "1"
