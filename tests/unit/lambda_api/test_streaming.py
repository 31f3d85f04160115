"""InvokeWithResponseStream through real boto3 clients, and the encoding against botocore's own parser."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from botocore.eventstream import EventStreamBuffer
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from insula.lambda_api.eventstream import encode_event
from insula.model.errors import ServiceUnavailableException, TooManyRequestsException
from insula.model.invocation import Invocation, InvocationResult
from insula.model.limits import REQUEST_PAYLOAD_BYTES
from insula.model.stream import ResponseStream
from tests.unit.lambda_api.api_harness import Harness, settings

PER_TENANT = {"TenantIsolationMode": "PER_TENANT"}
Behaviour = Callable[[Invocation, ResponseStream], Awaitable[InvocationResult]]


@pytest.fixture(autouse=True)
def functions(client: Any) -> None:
    client.create_function(**settings())
    client.create_function(**settings(FunctionName="tenants", TenancyConfig=PER_TENANT))


@pytest.fixture
def behave(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> Callable[[Behaviour], None]:
    """Lets the function behave as the test says."""

    def set_behaviour(behaviour: Behaviour) -> None:
        async def invoke(invocation: Invocation) -> InvocationResult:
            assert invocation.stream is not None
            return await behaviour(invocation, invocation.stream)

        monkeypatch.setattr(harness.invoker, "invoke", invoke)

    return set_behaviour


def stream(client: Any, **request: Any) -> list[Mapping[str, Any]]:
    answer = client.invoke_with_response_stream(**{"FunctionName": "hello", **request})
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
    assert answer["ResponseStreamContentType"] == "application/vnd.amazon.eventstream"
    return list(answer["EventStream"])


def refused(client: Any, **request: Any) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        client.invoke_with_response_stream(**{"FunctionName": "hello", **request})
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


@given(
    kind=st.sampled_from(["PayloadChunk", "InvokeComplete"]),
    payload=st.binary(max_size=5000),
    content_type=st.text(st.characters(codec="ascii"), min_size=1, max_size=100),
)
def test_botocore_reads_every_message(kind: str, payload: bytes, content_type: str) -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(encode_event(kind, payload, content_type) * 2)
    messages: list[Any] = list(buffer)
    assert len(messages) == 2
    for message in messages:
        assert message.headers == {":message-type": "event", ":event-type": kind, ":content-type": content_type}
        assert message.payload == payload


def test_a_function_that_does_not_stream_answers_in_one_piece(harness: Harness, client: Any) -> None:
    assert stream(client, Payload=b'{"a": 1}') == [{"PayloadChunk": {"Payload": b'{"a": 1}'}}, {"InvokeComplete": {}}]
    assert harness.invoker.invocations[0].payload == b'{"a": 1}'


def test_pieces_are_passed_on_one_by_one(client: Any, behave: Callable[[Behaviour], None]) -> None:
    async def behaviour(invocation: Invocation, to: ResponseStream) -> InvocationResult:
        to.begin("text/plain", lambda: None)
        for piece in (b"one", b"two"):
            to.write(piece)
            await asyncio.sleep(0.01)
        return InvocationResult(b"", None, "$LATEST", b"END")

    behave(behaviour)
    log = base64.b64encode(b"END").decode()
    assert stream(client, LogType="Tail") == [
        {"PayloadChunk": {"Payload": b"one"}},
        {"PayloadChunk": {"Payload": b"two"}},
        {"InvokeComplete": {"LogResult": log}},
    ]


def test_an_error_in_mid_stream_stands_at_its_end(client: Any, behave: Callable[[Behaviour], None]) -> None:
    async def behaviour(invocation: Invocation, to: ResponseStream) -> InvocationResult:
        to.begin("text/plain", lambda: None)
        to.write(b"half")
        return InvocationResult(b'{"errorMessage":"x"}', "Runtime.Broken", "$LATEST")

    behave(behaviour)
    complete = {"ErrorCode": "Runtime.Broken", "ErrorDetails": '{"errorMessage":"x"}'}
    assert stream(client) == [{"PayloadChunk": {"Payload": b"half"}}, {"InvokeComplete": complete}]


def test_an_error_of_the_function_is_no_payload(harness: Harness, client: Any) -> None:
    harness.invoker.error = "Unhandled"
    complete = {"ErrorCode": "Unhandled", "ErrorDetails": '{"errorType":"E"}'}
    assert stream(client, Payload=b'{"errorType":"E"}') == [{"InvokeComplete": complete}]


def test_an_error_of_the_invocation_is_the_answer(harness: Harness, client: Any) -> None:
    harness.invoker.failure = TooManyRequestsException("Rate Exceeded.", reason="ConcurrentInvocationLimitExceeded")
    assert refused(client) == ("TooManyRequestsException", 429)


def test_once_it_has_begun_an_error_can_only_stand_at_the_end(client: Any, behave: Callable[[Behaviour], None]) -> None:
    async def behaviour(invocation: Invocation, to: ResponseStream) -> InvocationResult:
        to.begin("text/plain", lambda: None)
        await asyncio.sleep(0.01)
        raise ServiceUnavailableException("The server is stopping.")

    behave(behaviour)
    complete = {"ErrorCode": "ServiceUnavailableException", "ErrorDetails": "The server is stopping."}
    assert stream(client) == [{"InvokeComplete": complete}]


def test_a_dry_run_runs_nothing(harness: Harness, client: Any) -> None:
    answer = client.invoke_with_response_stream(FunctionName="hello", InvocationType="DryRun")
    assert answer["StatusCode"] == 204
    assert harness.invoker.invocations == []


def test_what_invoke_refuses_is_refused(harness: Harness, client: Any) -> None:
    assert refused(client, FunctionName="nobody") == ("ResourceNotFoundException", 404)
    assert refused(client, FunctionName="tenants") == ("InvalidParameterValueException", 400)
    assert refused(client, TenantId="blue") == ("InvalidParameterValueException", 400)
    assert refused(client, Payload=b"{") == ("InvalidRequestContentException", 400)
    assert refused(client, InvocationType="Event") == ("ValidationException", 400)
    assert refused(client, Payload=b" " * (REQUEST_PAYLOAD_BYTES + 1)) == ("RequestEntityTooLargeException", 413)
    assert harness.invoker.invocations == []
    assert stream(client, FunctionName="tenants", TenantId="blue", Payload=b"1")
    assert harness.invoker.invocations[0].tenant == "blue"


def test_a_caller_that_goes_away_early_stops_the_waiting(
    harness: Harness, client: Any, behave: Callable[[Behaviour], None]
) -> None:
    """A cancelled request takes its invocation along; nothing is left running."""
    cancelled = []

    async def behaviour(invocation: Invocation, to: ResponseStream) -> InvocationResult:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        raise AssertionError("not reached")

    behave(behaviour)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}"}

    async def scenario() -> None:
        path = b"/2021-11-15/functions/hello/response-streaming-invocations"
        asking = asyncio.create_task(harness.exchange("POST", path, receive))
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.sleep(0)

    harness.app._verifier = None
    harness.run(scenario())
    assert cancelled == [True]
