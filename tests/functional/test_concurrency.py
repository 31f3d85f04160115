"""Reserved and provisioned concurrency on a real server."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conftest import Function
from tests.functional.deployment import COUNTER, deploy, eventually, update
from tests.server import Server

NAP = """
import time
def handler(event, context):
    time.sleep(event)
    return "done"
"""
KIND = """
import os, uuid
ME = uuid.uuid4().hex
def handler(event, context): return [ME, os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"]]
"""


def reserve(function: Function, count: int) -> None:
    function.client.put_function_concurrency(FunctionName=function.name, ReservedConcurrentExecutions=count)


def throttled(function: Function, event: Any = 0) -> str:
    """The reason that an invocation is throttled for."""
    with pytest.raises(function.client.exceptions.TooManyRequestsException) as caught:
        function.call(event)
    return str(caught.value.response["Reason"])


def provision(function: Function, qualifier: str, count: int) -> None:
    function.client.put_provisioned_concurrency_config(
        FunctionName=function.name, Qualifier=qualifier, ProvisionedConcurrentExecutions=count
    )


def state(function: Function, qualifier: str) -> Any:
    return function.client.get_provisioned_concurrency_config(FunctionName=function.name, Qualifier=qualifier)


def wait_until_ready(function: Function, qualifier: str) -> None:
    eventually(lambda: state(function, qualifier)["Status"] == "READY")


def kinds(function: Function, qualifier: str) -> Any:
    """An environment's identity, and how it was initialised."""
    return json.load(function.call(None, Qualifier=qualifier)["Payload"])


def test_zero_stops_a_function_until_it_is_taken_away(function: Callable[..., Function]) -> None:
    made = function(COUNTER)
    first = made.invoke()
    reserve(made, 0)
    assert throttled(made) == "ReservedFunctionConcurrentInvocationLimitExceeded"
    made.client.delete_function_concurrency(FunctionName=made.name)
    assert made.invoke()["environment"] == first["environment"]


def test_a_function_has_no_more_than_it_reserves(function: Callable[..., Function]) -> None:
    made = function(NAP, Timeout=30)
    reserve(made, 2)

    def nap(_: int) -> str:
        try:
            return str(made.invoke(4))
        except made.client.exceptions.TooManyRequestsException as error:
            return str(error.response["Reason"])

    with ThreadPoolExecutor(6) as threads:
        outcomes = Counter(threads.map(nap, range(6)))
    assert outcomes == {"done": 2, "ReservedFunctionConcurrentInvocationLimitExceeded": 4}
    assert made.invoke(0) == "done"


def test_what_is_reserved_is_not_there_for_others(new_server: Callable[..., Server]) -> None:
    server = new_server("--concurrency", "101")
    owner, other = deploy(server, COUNTER, "owner"), deploy(server, COUNTER, "other")
    reserve(owner, 1)
    limit = owner.client.get_account_settings()["AccountLimit"]
    assert (limit["ConcurrentExecutions"], limit["UnreservedConcurrentExecutions"]) == (101, 100)
    with pytest.raises(ClientError, match=r"below its minimum value of \[100\]"):
        reserve(other, 1)
    assert owner.invoke()["count"] == other.invoke()["count"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_reservations_hold_after_a_restart(new_server: Callable[..., Server], number: int) -> None:
    server = new_server()
    made = deploy(server, COUNTER)
    reserve(made, 0)
    server.stop(number)
    again = Function(new_server(data_dir=server.data_dir).client(), made.name)
    assert throttled(again) == "ReservedFunctionConcurrentInvocationLimitExceeded"
    again.client.delete_function_concurrency(FunctionName=made.name)
    assert again.invoke()["count"] == 1


def test_a_name_that_is_used_again_reserves_nothing(new_server: Callable[..., Server]) -> None:
    server = new_server()
    made = deploy(server, COUNTER)
    reserve(made, 0)
    made.client.delete_function(FunctionName=made.name)
    assert deploy(server, COUNTER).invoke()["count"] == 1


def test_provisioned_environments_are_initialised_before_they_are_asked(function: Callable[..., Function]) -> None:
    made = function(KIND)
    made.client.publish_version(FunctionName=made.name)
    provision(made, "1", 2)
    wait_until_ready(made, "1")
    found = state(made, "1")
    assert found["AllocatedProvisionedConcurrentExecutions"] == found["AvailableProvisionedConcurrentExecutions"] == 2
    answer = made.call(None, Qualifier="1", LogType="Tail")
    assert json.load(answer["Payload"])[1] == "provisioned-concurrency"
    assert json.load(made.call(None)["Payload"])[1] == "on-demand"


def test_provisioned_environments_move_with_their_alias_and_end(function: Callable[..., Function]) -> None:
    made = function(KIND)
    made.client.publish_version(FunctionName=made.name)
    update(made, KIND + "\n")
    made.client.publish_version(FunctionName=made.name)
    made.client.create_alias(FunctionName=made.name, Name="live", FunctionVersion="1")
    provision(made, "live", 1)
    wait_until_ready(made, "live")
    first, kind = kinds(made, "live")
    assert kind == "provisioned-concurrency"
    made.client.update_alias(FunctionName=made.name, Name="live", FunctionVersion="2")
    wait_until_ready(made, "live")
    assert kinds(made, "live")[1] == "provisioned-concurrency"
    made.client.delete_provisioned_concurrency_config(FunctionName=made.name, Qualifier="live")
    assert kinds(made, "live")[1] in {"provisioned-concurrency", "on-demand"}
    eventually(lambda: kinds(made, "1")[0] != first)


def test_a_function_that_cannot_start_says_so(function: Callable[..., Function]) -> None:
    made = function("raise ValueError('no')\ndef handler(event, context): return 1")
    made.client.publish_version(FunctionName=made.name)
    provision(made, "1", 1)
    failed = eventually(lambda: (found := state(made, "1"))["Status"] == "FAILED" and found)
    assert failed["StatusReason"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_provisioned_environments_are_there_again_after_a_restart(
    new_server: Callable[..., Server], number: int
) -> None:
    server = new_server()
    made = deploy(server, KIND)
    made.client.publish_version(FunctionName=made.name)
    provision(made, "1", 2)
    server.stop(number)
    again = Function(new_server(data_dir=server.data_dir).client(), made.name)
    wait_until_ready(again, "1")
    assert kinds(again, "1")[1] == "provisioned-concurrency"
