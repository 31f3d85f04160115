"""Response streaming end to end: a function writes, boto3 reads."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conftest import Function
from tests.functional.test_runtimes import NODES
from tests.server import Server

MEGABYTE = 1 << 20

# awslambdaric does not stream. This answers behind its back, as a runtime that does. Its own answer, later, is refused,
# and it ends; the next event finds another environment.
PYTHON = """
import inspect, json, socket, time

def request_id():
    frame = inspect.currentframe()
    while "context" not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals["context"].aws_request_id

def stream(parts, trailers=b"", content_type="text/plain", end=True):
    sock = socket.create_connection(("127.0.0.1", 9001))
    head = [
        f"POST /2018-06-01/runtime/invocation/{request_id()}/response HTTP/1.1", "Host: a",
        "Lambda-Runtime-Function-Response-Mode: streaming", "Transfer-Encoding: chunked",
        f"Content-Type: {content_type}",
        "Trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body",
    ]
    sock.sendall("\\r\\n".join(head).encode() + b"\\r\\n\\r\\n")
    for part in parts:
        sock.sendall(b"%x\\r\\n%s\\r\\n" % (len(part), part))
    if end:
        sock.sendall(b"0\\r\\n" + trailers + b"\\r\\n")
        answer = sock.recv(65536)
        sock.close()
        return int(answer.split()[1])
    sock.close()

def pieces(count, size, pause):
    for number in range(count):
        yield bytes([65 + number % 26]) * size
        time.sleep(pause)

def handler(event, context):
    if event.get("count") is not None:
        stream(pieces(event["count"], event.get("size", 1), event.get("pause", 0)))
        print("all was sent", flush=True)
    elif "error" in event:
        import base64
        body = base64.b64encode(json.dumps(event["error"]).encode())
        trailers = b"Lambda-Runtime-Function-Error-Type: Function.Broken\\r\\n"
        stream([b"half"], trailers + b"Lambda-Runtime-Function-Error-Body: " + body + b"\\r\\n")
    elif event.get("leave"):
        stream([b"half"], end=False)
        time.sleep(0.3)  # else the runtime's own answer may be read first
    elif event.get("hang"):
        stream(pieces(100, 1, 0.2))
    elif event.get("exit"):
        stream([b"half"], end=False) if event["exit"] == "after" else None
        import os
        os._exit(3)
    elif event.get("raise"):
        raise ValueError("no")
    return "done"
"""


def stream(function: Function, event: Any = None, **options: Any) -> Iterator[Mapping[str, Any]]:
    answer = function.client.invoke_with_response_stream(
        FunctionName=function.name, Payload=json.dumps(event), **options
    )
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
    yield from answer["EventStream"]


def collect(function: Function, event: Any = None, **options: Any) -> tuple[bytes, Mapping[str, Any]]:
    """All that was streamed, and what its end said."""
    *chunks, last = stream(function, event, **options)
    return b"".join(chunk["PayloadChunk"]["Payload"] for chunk in chunks), last["InvokeComplete"]


@pytest.fixture
def streaming(function: Callable[..., Function]) -> Function:
    return function(PYTHON, tenancy=True, Timeout=5, MemorySize=512)


@pytest.mark.parametrize("runtime", NODES)
def test_node_streams_with_awss_own_client(function: Callable[..., Function], runtime: str) -> None:
    source = """
exports.handler = awslambda.streamifyResponse(async (event, stream, context) => {
  stream.setContentType("text/plain");
  for (let i = 0; i < event.count; i++) {
    stream.write(`${context.tenantId ?? ""}${i} `);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  if (event.fail) throw new Error("broken");
  stream.end();
});
"""
    made = function({"index.js": source}, tenancy=True, Runtime=runtime, Handler="index.handler")
    assert collect(made, {"count": 3}, TenantId="t") == (b"t0 t1 t2 ", {})
    body, complete = collect(made, {"count": 2, "fail": True}, TenantId="t")
    assert body == b"t0 t1 "
    assert complete["ErrorCode"]
    assert json.loads(complete["ErrorDetails"])["errorMessage"] == "broken"
    answer = made.client.invoke(FunctionName=made.name, Payload=b'{"count": 2}', TenantId="t")
    assert answer["Payload"].read() == b"t0 t1 "


def test_pieces_arrive_while_the_function_runs(streaming: Function) -> None:
    collect(streaming, {}, TenantId="blue")
    *pieces, last = stream(streaming, {"count": 5, "pause": 0.3}, TenantId="blue")
    assert last == {"InvokeComplete": {}}
    assert b"".join(piece["PayloadChunk"]["Payload"] for piece in pieces) == b"ABCDE"
    assert len(pieces) > 1  # what waits for a reader is joined: had it waited for the end, this were one


def test_who_does_not_stream_answers_in_one_piece(streaming: Function) -> None:
    assert collect(streaming, {}, TenantId="blue") == (b'"done"', {})
    body, complete = collect(streaming, {}, TenantId="blue", LogType="Tail")
    assert body == b'"done"'
    assert b"REPORT RequestId" in base64.b64decode(complete["LogResult"])


def test_a_streamed_answer_is_collected_for_invoke(streaming: Function) -> None:
    answer = streaming.call({"count": 3, "size": 4}, "blue")
    assert answer["Payload"].read() == b"AAAABBBBCCCC"
    answer = streaming.call({"error": {"errorMessage": "why"}}, "blue")
    assert (answer["FunctionError"], json.load(answer["Payload"])) == ("Unhandled", {"errorMessage": "why"})
    answer = streaming.call({"count": 7, "size": MEGABYTE}, "blue")
    assert json.load(answer["Payload"])["errorType"] == "Function.ResponseSizeTooLarge"


@pytest.mark.parametrize(
    ("event", "body", "code"),
    [
        ({"error": {"errorMessage": "why"}}, b"half", "Function.Broken"),
        ({"leave": True}, b"half", "Runtime.TruncatedResponse"),
        ({"raise": True}, b"", "Unhandled"),
        ({"exit": "before"}, b"", "Unhandled"),
        ({"hang": True}, b"ABC", "Unhandled"),
    ],
)
def test_an_error_stands_at_the_end_and_the_next_event_is_served(
    function: Callable[..., Function], event: Any, body: bytes, code: str
) -> None:
    made = function(PYTHON, tenancy=True, Timeout=1, MemorySize=512)
    got, complete = collect(made, event, TenantId="blue")
    assert got.startswith(body)
    assert complete["ErrorCode"] == code
    assert "errorMessage" in json.loads(complete["ErrorDetails"])
    assert collect(made, {}, TenantId="blue") == (b'"done"', {})


def test_more_than_an_answer_may_have_is_streamed(streaming: Function) -> None:
    body, complete = collect(streaming, {"count": 26, "size": MEGABYTE}, TenantId="blue")
    assert body == b"".join(bytes([65 + number]) * MEGABYTE for number in range(26))
    assert complete == {}


def test_a_slow_caller_pauses_the_function_and_a_gone_one_does_not(streaming: Function, server: Server) -> None:
    """What the caller does not read waits in the function, not in the server."""
    event = {"count": 64, "size": MEGABYTE}
    collect(streaming, {}, TenantId="slow")
    before = _memory(server)
    answer = streaming.client.invoke_with_response_stream(
        FunctionName=streaming.name, Payload=json.dumps(event), TenantId="slow"
    )
    events = iter(answer["EventStream"])
    next(events)
    time.sleep(1.0)
    assert _memory(server) - before < 32
    reply = answer["EventStream"]._raw_stream
    sock = reply._connection.sock
    reply._fp.close()
    reply._connection.close()
    sock.close()
    deadline = time.monotonic() + 20
    while "all was sent" not in server.cli("logs", streaming.name).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "Status: timeout" not in server.cli("logs", streaming.name).stdout


def _memory(server: Server) -> int:
    text = Path(f"/proc/{server.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) // 1024


def test_streams_of_tenants_do_not_mix(streaming: Function) -> None:
    wrong: list[Any] = []

    def run(tenant: str, count: int) -> None:
        for _ in range(5):
            body, complete = collect(streaming, {"count": count, "size": 1000, "pause": 0.002}, TenantId=tenant)
            if (len(body), complete) != (1000 * count, {}):
                wrong.append((tenant, len(body), complete))

    threads = [threading.Thread(target=run, args=(f"t{n}", n)) for n in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_tenant_id_is_checked_as_for_invoke(streaming: Function, function: Callable[..., Function]) -> None:
    plain = function(PYTHON)
    for made, options in ((streaming, {}), (plain, {"TenantId": "blue"})):
        with pytest.raises(ClientError) as caught:
            collect(made, {}, **options)
        assert caught.value.response["Error"]["Code"] == "InvalidParameterValueException"
    with pytest.raises(ClientError, match="tenancy configuration"):
        plain.client.invoke_with_response_stream(FunctionName=streaming.name, InvocationType="DryRun", Payload=b"{}")
    answer = plain.client.invoke_with_response_stream(FunctionName=plain.name, InvocationType="DryRun")
    assert answer["StatusCode"] == 204
    answer["EventStream"].close()
