"""Invoke: what goes in, what comes out, and how invocations share environments."""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ReadTimeoutError

from tests.conftest import Function
from tests.functional.deployment import COUNTER, send, sign
from tests.server import Server

MEGABYTE = 1 << 20
IMPATIENT = Config(retries={"total_max_attempts": 1}, read_timeout=0.2)
ECHO = "def handler(event, context):\n    return event\n"

CONTEXT = """
import os
AT_INIT = dict(os.environ)
def handler(event, context):
    client = context.client_context
    return {
        "name": context.function_name,
        "version": context.function_version,
        "arn": context.invoked_function_arn,
        "memory": context.memory_limit_in_mb,
        "request": context.aws_request_id,
        "group": context.log_group_name,
        "stream": context.log_stream_name,
        "tenant": context.tenant_id,
        "remaining": context.get_remaining_time_in_millis(),
        "custom": client and client.custom,
        "app": client and client.client and client.client.app_title,
        "identity": context.identity.cognito_identity_id,
        "init": AT_INIT,
        "environ": dict(os.environ),
    }
"""

NAP = COUNTER.replace(
    "def handler(event, context):", "import time\ndef handler(event, context):\n    time.sleep(event)"
)


@pytest.mark.parametrize(
    "event",
    [
        None,
        True,
        0,
        -1.5,
        1e300,
        "",
        "text",
        [],
        {},
        [1, [2, {"three": None}]],
        {"k": "v" * 1000},
        "ü€😀\u2028\x00\x7f",
    ],
    ids=lambda event: type(event).__name__ + repr(event)[:8],
)
def test_json_comes_back_as_it_was_sent(function: Callable[..., Function], event: Any) -> None:
    assert function(ECHO).invoke(event) == event


def test_an_empty_body_is_an_empty_event(function: Callable[..., Function]) -> None:
    echo = function(ECHO)
    assert json.load(echo.client.invoke(FunctionName=echo.name)["Payload"]) == {}


@pytest.mark.parametrize(
    "body", [b"{", b"not json", b"\xff\xfe", b"{'a': 1}", b"[1,]", b"NaN", b"{} {}", b"[" * 100_000]
)
def test_a_body_that_is_not_json_is_refused_and_not_run(function: Callable[..., Function], body: bytes) -> None:
    counter = function(COUNTER)
    with pytest.raises(ClientError, match="Could not parse request body into json") as caught:
        counter.client.invoke(FunctionName=counter.name, Payload=body)
    assert caught.value.response["Error"]["Code"] == "InvalidRequestContentException"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert counter.invoke()["count"] == 1


def test_a_request_of_six_megabytes_passes_and_one_byte_more_does_not(function: Callable[..., Function]) -> None:
    length = function("def handler(event, context):\n    return len(event)\n", MemorySize=256)
    assert length.invoke("x" * (6 * MEGABYTE - 2)) == 6 * MEGABYTE - 2
    with pytest.raises(ClientError) as caught:
        length.invoke("x" * (6 * MEGABYTE - 1))
    assert caught.value.response["Error"]["Code"] == "RequestEntityTooLargeException"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 413


def test_an_answer_of_six_megabytes_passes_and_a_larger_one_is_an_error(function: Callable[..., Function]) -> None:
    text = function("def handler(event, context):\n    return 'x' * event\n", MemorySize=256)
    assert len(text.invoke(6 * MEGABYTE + 98)) == 6 * MEGABYTE + 98
    error = text.fail(6 * MEGABYTE + 99)
    assert error == {
        "errorType": "Function.ResponseSizeTooLarge",
        "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
    }
    assert text.invoke(3) == "xxx"


def test_an_answer_that_is_not_json_is_an_error(function: Callable[..., Function]) -> None:
    error = function("def handler(event, context):\n    return {1, 2}\n").fail()
    assert error["errorType"] == "Runtime.MarshalError"
    assert "set is not JSON serializable" in error["errorMessage"]


def test_dry_run_runs_nothing(function: Callable[..., Function]) -> None:
    counter = function(COUNTER)
    answer = counter.call(InvocationType="DryRun")
    assert (answer["StatusCode"], answer["Payload"].read()) == (204, b"")
    assert counter.invoke()["count"] == 1


def test_an_asynchronous_invocation_is_refused_until_there_is_a_queue(function: Callable[..., Function]) -> None:
    counter = function(COUNTER)
    with pytest.raises(ClientError, match="asynchronous") as caught:
        counter.call(InvocationType="Event")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501
    assert counter.invoke()["count"] == 1


def test_the_answer_tells_status_version_and_request(function: Callable[..., Function]) -> None:
    answer = function(CONTEXT).call()
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
    assert json.load(answer["Payload"])["request"] == answer["ResponseMetadata"]["RequestId"]
    assert uuid.UUID(answer["ResponseMetadata"]["RequestId"]).version == 4
    assert "LogResult" not in answer


def test_the_context_is_as_on_aws(function: Callable[..., Function]) -> None:
    shown = function(CONTEXT, tenancy=True, MemorySize=192, Timeout=7)
    context = shown.invoke(tenant="blue")
    assert (context["name"], context["version"], context["memory"]) == (shown.name, "$LATEST", "192")
    assert context["arn"] == f"arn:aws:lambda:us-east-1:000000000000:function:{shown.name}"
    assert context["group"] == f"/aws/lambda/{shown.name}"
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", context["stream"])
    assert context["tenant"] == "blue"
    assert 0 < context["remaining"] <= 7000
    assert context["custom"] is context["app"] is context["identity"] is None


def test_a_qualifier_is_part_of_the_context(function: Callable[..., Function]) -> None:
    shown = function(CONTEXT)
    shown.client.publish_version(FunctionName=shown.name)
    answer = shown.call(Qualifier="1")
    context = json.load(answer["Payload"])
    assert (answer["ExecutedVersion"], context["version"]) == ("1", "1")
    assert context["arn"].endswith(f":function:{shown.name}:1")
    assert "/[1]" in context["stream"]
    assert shown.invoke(Qualifier="$LATEST")["version"] == "$LATEST"


def test_a_function_answers_to_its_arn(function: Callable[..., Function]) -> None:
    echo = function(ECHO)
    arn = echo.client.get_function_configuration(FunctionName=echo.name)["FunctionArn"]
    for name in (arn, f"000000000000:function:{echo.name}", f"{echo.name}:$LATEST", f"{arn}:$LATEST"):
        assert json.load(echo.client.invoke(FunctionName=name, Payload=b"1")["Payload"]) == 1


@pytest.mark.parametrize("name", ["nobody", "arn:aws:lambda:us-east-1:000000000000:function:nobody"])
def test_what_is_not_there_cannot_be_invoked(client: Any, name: str) -> None:
    with pytest.raises(client.exceptions.ResourceNotFoundException, match=r"function:nobody$"):
        client.invoke(FunctionName=name)


def test_a_version_that_is_not_there_cannot_be_invoked(function: Callable[..., Function]) -> None:
    echo = function(ECHO)
    with pytest.raises(echo.client.exceptions.ResourceNotFoundException, match=rf"{echo.name}:7$"):
        echo.call(Qualifier="7")


def test_the_client_context_reaches_the_handler(function: Callable[..., Function]) -> None:
    given = {"custom": {"colour": "blü"}, "client": {"app_title": "shop"}, "env": {"locale": "de"}}
    encoded = base64.b64encode(json.dumps(given).encode()).decode()
    context = function(CONTEXT).invoke(ClientContext=encoded)
    assert (context["custom"], context["app"]) == ({"colour": "blü"}, "shop")


@pytest.mark.parametrize("given", ["%%%", base64.b64encode(b"{").decode(), base64.b64encode(b"1\r\nX: y").decode()])
def test_a_client_context_that_is_not_json_is_refused(function: Callable[..., Function], given: str) -> None:
    with pytest.raises(ClientError) as caught:
        function(CONTEXT).invoke(ClientContext=given)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_environment_variables_are_as_on_aws(function: Callable[..., Function]) -> None:
    shown = function(CONTEXT, Environment={"Variables": {"COLOUR": "blü €", "TZ": "Asia/Tokyo"}}, MemorySize=192)
    context = shown.invoke()
    variables = context["init"]
    assert {name: variables.get(name) for name in EXPECTED} == {**EXPECTED, "AWS_LAMBDA_FUNCTION_NAME": shown.name}
    assert variables["AWS_LAMBDA_LOG_GROUP_NAME"] == context["group"]
    assert variables["AWS_LAMBDA_LOG_STREAM_NAME"] == context["stream"]
    assert variables["AWS_EXECUTION_ENV"].startswith("AWS_Lambda_python3.")
    assert variables["PATH"].startswith("/var/lang/bin:")
    assert "/opt/lib" in variables["LD_LIBRARY_PATH"].split(":")


EXPECTED = {
    "_HANDLER": "app.handler",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "192",
    "AWS_LAMBDA_FUNCTION_NAME": "",
    "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
    "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
    "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001",
    "AWS_REGION": "us-east-1",
    "COLOUR": "blü €",
    "LAMBDA_RUNTIME_DIR": "/var/runtime",
    "LAMBDA_TASK_ROOT": "/var/task",
    "LANG": "en_US.UTF-8",
    "TZ": "Asia/Tokyo",
    "_X_AMZN_TRACE_ID": None,  # of an invocation, so not there during init
}


def test_nothing_of_the_servers_environment_reaches_a_function(
    function: Callable[..., Function], server: Server
) -> None:
    variables = function(CONTEXT).invoke()["environ"]
    assert not {"HOME", "USER", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST", "AWS_SECRET_ACCESS_KEY"} & variables.keys()
    assert server.variables["AWS_SECRET_ACCESS_KEY"] not in repr(variables)


def test_the_time_zone_is_utc_unless_the_function_says_otherwise(function: Callable[..., Function]) -> None:
    source = "import time\ndef handler(event, context):\n    return time.strftime('%z')\n"
    assert function(source).invoke() == "+0000"
    assert function(source, Environment={"Variables": {"TZ": "<+09>-9"}}).invoke() == "+0900"


def test_a_trace_id_is_handed_on_and_made_if_there_is_none(server: Server, function: Callable[..., Function]) -> None:
    shown = function(CONTEXT)
    made = shown.invoke()["environ"]["_X_AMZN_TRACE_ID"]
    assert re.fullmatch(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=[01]", made)
    given = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
    path = f"/2015-03-31/functions/{shown.name}/invocations"
    headers = sign(server, "POST", path).headers
    _, _, body = send(server, "POST", path, headers={**headers, "X-Amzn-Trace-Id": given})
    assert json.loads(body)["environ"]["_X_AMZN_TRACE_ID"] == given


def test_invocations_one_after_another_reuse_the_environment(function: Callable[..., Function]) -> None:
    counter = function(COUNTER)
    answers = [counter.invoke() for _ in range(30)]
    assert [answer["count"] for answer in answers] == list(range(1, 31))
    assert len({answer["environment"] for answer in answers}) == 1


@pytest.mark.parametrize("tenant", ["blue", None])
def test_invocations_at_once_use_environments_of_their_own(
    function: Callable[..., Function], tenant: str | None
) -> None:
    nap = function(NAP, tenancy=tenant is not None, Timeout=30)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: nap.invoke(1.5, tenant=tenant), range(4)))
    assert len({answer["environment"] for answer in answers}) == 4
    again = nap.invoke(0, tenant=tenant)
    assert again["environment"] in {answer["environment"] for answer in answers}


def test_two_hundred_callers_of_twenty_tenants_are_all_answered(function: Callable[..., Function]) -> None:
    counter = function(COUNTER, tenancy=True, Timeout=60)
    tenants = [f"tenant-{number % 20}" for number in range(1000)]
    with ThreadPoolExecutor(200) as threads:
        answers = list(threads.map(lambda tenant: counter.invoke(tenant=tenant), tenants))
    assert [answer["tenant"] for answer in answers] == tenants
    served = Counter(answer["tenant"] for answer in answers)
    assert set(served.values()) == {50}
    owner: dict[str, str] = {}
    assert all(owner.setdefault(answer["environment"], answer["tenant"]) == answer["tenant"] for answer in answers)


def test_a_caller_that_goes_away_leaves_the_environment_usable(
    function: Callable[..., Function], server: Server
) -> None:
    nap = function(NAP, tenancy=True, Timeout=10)
    first = nap.invoke(0, tenant="blue")
    impatient = server.client(config=IMPATIENT)
    with pytest.raises(ReadTimeoutError):
        impatient.invoke(FunctionName=nap.name, TenantId="blue", Payload=b"0.6")
    second = nap.invoke(0, tenant="blue")
    assert second["tenant"] == first["tenant"] == "blue"
