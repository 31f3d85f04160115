"""Invoke through real boto3 clients."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from botocore.exceptions import ClientError

from insula.model.errors import TooManyRequestsException
from tests.unit.lambda_api.api_harness import ACCOUNT, REGION, Harness, settings

ARN = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:hello"
PER_TENANT = {"TenantIsolationMode": "PER_TENANT"}
MISSING = (
    "The invoked function is enabled with tenancy configuration. Add a valid tenant ID in your request and try again."
)
UNEXPECTED = (
    "The invoked function is not enabled with tenancy configuration. "
    "Remove the tenant ID from your request and try again."
)


def refused(client: Any, **request: Any) -> tuple[str, str, int]:
    with pytest.raises(ClientError) as caught:
        client.invoke(**request)
    response = caught.value.response
    return response["Error"]["Code"], response["Error"]["Message"], response["ResponseMetadata"]["HTTPStatusCode"]


@pytest.fixture(autouse=True)
def functions(client: Any) -> None:
    client.create_function(**settings(Publish=True))
    client.create_function(**settings(FunctionName="tenants", TenancyConfig=PER_TENANT))


def test_the_payload_goes_through_untouched(harness: Harness, client: Any) -> None:
    payload = ' {"a": 1.0, "é": "\\ud800"}\n'.encode()
    response = client.invoke(FunctionName="hello", Payload=payload)
    assert response["Payload"].read() == payload
    assert (response["StatusCode"], response["ExecutedVersion"]) == (200, "$LATEST")
    assert "FunctionError" not in response
    assert "LogResult" not in response
    assert harness.invoker.invocations[0].payload == payload


def test_the_invocation_says_what_was_asked_for(harness: Harness, client: Any) -> None:
    context = base64.b64encode(b'{"custom": {"a": 1}}').decode()
    response = client.invoke(
        FunctionName="tenants", TenantId="Blue: 1/2", ClientContext=context, LogType="Tail", Payload=b"[]"
    )
    invocation = harness.invoker.invocations[0]
    assert invocation.tenant == "Blue: 1/2"
    assert invocation.client_context == '{"custom": {"a": 1}}'
    assert invocation.tail
    assert invocation.request_id == response["ResponseMetadata"]["RequestId"]
    assert invocation.invoked_arn == ARN[:-5] + "tenants"
    assert invocation.trace_id.startswith("Root=1-")
    assert base64.b64decode(response["LogResult"]) == b"END RequestId"


def test_no_payload_is_an_empty_object(harness: Harness, client: Any) -> None:
    client.invoke(FunctionName="hello")
    assert harness.invoker.invocations[0].payload == b"{}"


@pytest.mark.parametrize("reference", [{"Qualifier": "1"}, {"FunctionName": "hello:1"}, {"FunctionName": f"{ARN}:1"}])
def test_a_qualifier_chooses_the_version(harness: Harness, client: Any, reference: dict[str, str]) -> None:
    response = client.invoke(**{"FunctionName": "hello"} | reference)
    assert response["ExecutedVersion"] == "1"
    assert harness.invoker.invocations[0].invoked_arn == f"{ARN}:1"


def test_a_failed_function_is_an_answer_not_an_error(harness: Harness, client: Any) -> None:
    harness.invoker.error = "Unhandled"
    response = client.invoke(FunctionName="hello", Payload=b"{}")
    assert (response["StatusCode"], response["FunctionError"]) == (200, "Unhandled")


@pytest.mark.parametrize("kind", ["RequestResponse", "DryRun", "Event"])
def test_a_tenant_id_must_fit_the_function(harness: Harness, client: Any, kind: str) -> None:
    code = "InvalidParameterValueException"
    assert refused(client, FunctionName="tenants", InvocationType=kind) == (code, MISSING, 400)
    assert refused(client, FunctionName="hello", TenantId="a", InvocationType=kind) == (code, UNEXPECTED, 400)
    assert harness.invoker.invocations == []


def test_a_dry_run_runs_nothing(harness: Harness, client: Any) -> None:
    response = client.invoke(FunctionName="hello", InvocationType="DryRun")
    assert (response["StatusCode"], response["Payload"].read()) == (204, b"")
    assert harness.invoker.invocations == []


def test_events_are_not_accepted_silently(harness: Harness, client: Any) -> None:
    code, message, status = refused(client, FunctionName="hello", InvocationType="Event")
    assert (code, status) == ("NotImplementedException", 501)
    assert "asynchronous invocations yet" in message
    assert harness.invoker.invocations == []


def test_durable_executions_are_refused(client: Any) -> None:
    code, message, _ = refused(client, FunctionName="hello", DurableExecutionName="d")
    assert (code, "DurableExecutionName" in message) == ("InvalidParameterValueException", True)


@pytest.mark.parametrize(
    "payload", [b"{", b"\x87", b"a\x87", b"NaN", b"[1,]", b"\xef\xbb\xbf{}", b"[" * 100_000, b"9" * 5000, b"{'a': 1}"]
)
def test_a_payload_that_is_not_json_is_refused(harness: Harness, client: Any, payload: bytes) -> None:
    code, message, status = refused(client, FunctionName="hello", Payload=payload)
    assert (code, status) == ("InvalidRequestContentException", 400)
    assert message.startswith("Could not parse request body into json: Could not parse payload into json: ")
    assert harness.invoker.invocations == []


@pytest.mark.parametrize(
    "context", ["!", base64.b64encode(b"[]").decode(), base64.b64encode(b'{"a":' + b"1" * 3000 + b"}").decode()]
)
def test_a_client_context_must_be_a_small_json_object(client: Any, context: str) -> None:
    code, message, _ = refused(client, FunctionName="hello", ClientContext=context)
    assert code == "InvalidRequestContentException"
    assert message.startswith("Client context must be a valid Base64-encoded JSON object")


def test_six_megabytes_are_the_limit(harness: Harness, client: Any) -> None:
    limit = 6_291_456
    client.invoke(FunctionName="hello", Payload=b'"' + b"a" * (limit - 2) + b'"')
    assert refused(client, FunctionName="hello", Payload=b'"' + b"a" * (limit - 1) + b'"') == (
        "RequestEntityTooLargeException",
        "Request must be smaller than 6291456 bytes for the InvokeFunction operation",
        413,
    )
    assert len(harness.invoker.invocations) == 1


def test_throttling_says_why_and_when_to_come_back(harness: Harness, client: Any) -> None:
    harness.invoker.failure = TooManyRequestsException("Rate exceeded", reason="ConcurrentInvocationLimitExceeded")
    with pytest.raises(client.exceptions.TooManyRequestsException) as caught:
        client.invoke(FunctionName="hello")
    assert caught.value.response["Reason"] == "ConcurrentInvocationLimitExceeded"
    assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "1"


def test_an_unexpected_failure_is_logged_and_not_shown(
    harness: Harness, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    harness.invoker.failure = RuntimeError("secret detail")
    code, message, status = refused(client, FunctionName="hello")
    assert (code, status) == ("ServiceException", 500)
    assert "secret" not in message
    assert "secret detail" in caplog.text


def test_an_invocation_waits_for_the_activation(harness: Harness, client: Any) -> None:
    client.create_function(**settings(FunctionName="new"))
    client.invoke(FunctionName="new")
    assert harness.invoker.invocations[0].function.state == "Active"


def test_an_invocation_waits_not_for_ever(harness: Harness, client: Any) -> None:
    harness.hold_activation()
    client.create_function(**settings(FunctionName="held"))
    code, message, status = refused(client, FunctionName="held")
    assert (code, status) == ("ResourceConflictException", 409)
    assert message.endswith("The function is currently in the following state: Pending")


@pytest.mark.parametrize("sent", ["Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1", "bad\rvalue", "x" * 300])
def test_a_trace_header_is_passed_on_if_it_is_one(harness: Harness, client: Any, sent: str) -> None:
    def trace(request: Any, **_: Any) -> None:
        request.headers["X-Amzn-Trace-Id"] = sent

    client.meta.events.register("before-sign.lambda.Invoke", trace)
    client.invoke(FunctionName="hello")
    passed = harness.invoker.invocations[0].trace_id
    assert passed == sent if sent.endswith("Sampled=1") else passed.startswith("Root=1-")
