"""Streamed answers: from the runtime's connection into a ResponseStream, or collected."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

from insula.model import stream as stream_module
from insula.model.limits import RESPONSE_PAYLOAD_BYTES
from insula.model.stream import ResponseStream
from insula.runtime_api import connection as connection_module
from tests.unit.runtime_api.harness import NEXT, PATH, Bench, Client, new_event, on_bench, post, response


def head(*headers: str) -> bytes:
    lines = [
        f"POST {PATH}/invocation/id/response HTTP/1.1",
        "Host: a",
        "Lambda-Runtime-Function-Response-Mode: streaming",
        "Transfer-Encoding: chunked",
        "Trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def end(kind: str = "", body: bytes = b"") -> bytes:
    if not kind:
        return b"0\r\n\r\n"
    encoded = base64.b64encode(body).decode()
    trailers = f"Lambda-Runtime-Function-Error-Type: {kind}\r\nLambda-Runtime-Function-Error-Body: {encoded}\r\n"
    return b"0\r\n" + trailers.encode() + b"\r\n"


async def streaming(bench: Bench) -> tuple[Client, ResponseStream]:
    """A runtime that works on an event whose caller takes a stream."""
    bench.listener.stream = ResponseStream()
    return await bench.running(), bench.listener.stream


async def read_all(stream: ResponseStream) -> bytes:
    parts = []
    while part := await stream.read():
        parts.append(part)
    return b"".join(parts)


def test_pieces_arrive_while_the_function_still_writes() -> None:
    async def test(bench: Bench) -> None:
        client, stream = await streaming(bench)
        await client.send(head("Content-Type: text/plain") + chunk(b"one"))
        assert await stream.begun()
        assert stream.content_type == "text/plain"
        assert await stream.read() == b"one"
        await client.send(chunk(b"two"))
        assert await stream.read() == b"two"
        assert await client.ask(end()) == 202
        assert await stream.read() == b""
        assert bench.listener.heard[1:] == [("stream", "id", "text/plain"), ("end", "id", None, None)]
        await client.send(NEXT)
        await bench.until(lambda: bench.listener.heard[-1] == "next")

    on_bench(test)


def test_an_error_in_mid_stream_is_told() -> None:
    async def test(bench: Bench) -> None:
        client, stream = await streaming(bench)
        assert await client.ask(head() + chunk(b"half") + end("Runtime.Broken", b'{"errorMessage":"x"}')) == 202
        assert await read_all(stream) == b"half"
        assert bench.listener.heard[-1] == ("end", "id", "Runtime.Broken", b'{"errorMessage":"x"}')

    on_bench(test)


def test_only_trailers_tell_of_an_error() -> None:
    async def test(bench: Bench) -> None:
        client, _ = await streaming(bench)
        assert await client.ask(head("Lambda-Runtime-Function-Error-Type: Early") + chunk(b"x") + end()) == 202
        assert bench.listener.heard[-1] == ("end", "id", None, None)

    on_bench(test)


def test_an_error_body_that_is_not_base64_is_kept_as_it_is() -> None:
    async def test(bench: Bench) -> None:
        client, _ = await streaming(bench)
        trailers = b"0\r\nLambda-Runtime-Function-Error-Body: *plain*\r\n\r\n"
        assert await client.ask(head() + trailers) == 202
        assert bench.listener.heard[-1] == ("end", "id", "Runtime.Unknown", b"*plain*")

    on_bench(test)


def test_a_stream_that_breaks_off_is_an_error() -> None:
    async def test(bench: Bench) -> None:
        client, stream = await streaming(bench)
        await client.send(head() + chunk(b"half"))
        assert await stream.read() == b"half"
        client.close()
        assert await stream.read() == b""
        assert bench.listener.heard[-1][2] == "Runtime.TruncatedResponse"

    on_bench(test)


@pytest.mark.parametrize("error", ["", "Function.Broken"])
def test_without_a_caller_for_a_stream_it_is_collected(error: str) -> None:
    async def test(bench: Bench) -> None:
        client = await bench.running()
        assert await client.ask(head() + chunk(b"one") + chunk(b"two") + end(error, b"why")) == 202
        wanted = ("error", "id", b"why", error) if error else ("response", "id", b"onetwo")
        assert bench.listener.heard[-1] == wanted

    on_bench(test)


def test_a_collected_stream_has_the_limit_of_any_answer() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.running()
        assert await client.ask(head() + chunk(b"x" * (RESPONSE_PAYLOAD_BYTES + 1)) + end()) == 413
        assert bench.listener.heard[-1] == ("oversize", "id")

    on_bench(test)


def test_a_stream_over_the_limit_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MAX_STREAM_BYTES", 10)

    async def test(bench: Bench) -> None:
        client, stream = await streaming(bench)
        assert await client.ask(head() + chunk(b"12345") + chunk(b"67890") + chunk(b"!") + end()) == 413
        assert await read_all(stream) == b"1234567890"
        assert bench.listener.heard[-1][2] == "Function.ResponseSizeTooLarge"

    on_bench(test)


def test_nobody_else_can_answer_once_a_stream_has_begun() -> None:
    async def test(bench: Bench) -> None:
        client, stream = await streaming(bench)
        await client.send(head() + chunk(b"mine"))
        assert await stream.begun()
        other = await bench.connect()
        assert await other.ask(response(b"theirs")) == 400
        assert await other.ask(post("invocation/id/error", b"theirs")) == 400
        assert await other.ask(NEXT) == 403
        assert await other.ask(post("init/error", b"theirs")) == 403
        assert await client.ask(end()) == 202
        assert await read_all(stream) == b"mine"

    on_bench(test)


def test_a_slow_reader_pauses_the_runtime_and_a_gone_one_does_not() -> None:
    """What waits is bounded, whatever the runtime sends."""
    size = 32 << 20

    async def test(bench: Bench) -> None:
        client, stream = await streaming(bench)
        await client.send(head())
        sending = asyncio.create_task(client.send(chunk(b"x" * size)))
        assert await stream.begun()
        await bench.until(lambda: stream.paused)
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert len(stream._waiting) <= stream_module._HIGH_WATER + (256 << 10)
        assert not sending.done()
        read = 0
        while read < size // 2:
            read += len(await stream.read())
        stream.abandon()
        await sending
        assert await client.ask(end()) == 202
        assert (stream.size, len(stream._waiting)) == (size, 0)

    on_bench(test)


def test_a_flood_of_tiny_pieces_does_not_lift_the_pause() -> None:
    async def test(bench: Bench) -> None:
        client, stream = await streaming(bench)
        await client.send(head() + chunk(b"x" * (stream_module._HIGH_WATER + 1)))
        await bench.until(lambda: stream.paused)
        flood = asyncio.create_task(client.send(chunk(b"y") * 2_000_000))
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert len(stream._waiting) <= 2 * stream_module._HIGH_WATER + (256 << 10)
        stream.abandon()
        await flood
        assert await client.ask(end()) == 202

    on_bench(test)


def test_what_is_left_unread_does_not_hold_up_the_next_event() -> None:
    async def test(bench: Bench) -> None:
        client, stream = await streaming(bench)
        await client.send(head() + chunk(b"x" * (stream_module._HIGH_WATER + 1)) + end())
        assert (await client.answer())[0] == 202
        await client.send(NEXT)
        await bench.until(lambda: bench.listener.heard[-1] == "next")
        bench.listener.stream = None
        bench.api.deliver(new_event(request_id="2"), 0)
        assert (await client.answer())[1]["lambda-runtime-aws-request-id"] == "2"
        assert len(await read_all(stream)) == stream_module._HIGH_WATER + 1

    on_bench(test)


def test_an_error_before_the_stream_begins_is_an_error_as_ever() -> None:
    async def test(bench: Bench) -> None:
        client, stream = await streaming(bench)
        body = json.dumps({"errorType": "E"}).encode()
        assert await client.ask(post("invocation/id/error", body, "Lambda-Runtime-Function-Error-Type: E")) == 202
        assert bench.listener.heard[-1] == ("error", "id", body, "E")
        assert stream.content_type is None

    on_bench(test)
