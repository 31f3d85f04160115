"""The Runtime API over a real loopback socket, with a listener that only remembers."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insula.model.function import FunctionVersion
from insula.model.invocation import Invocation
from insula.model.limits import RESPONSE_PAYLOAD_BYTES
from insula.runtime_api.server import RuntimeApi, RuntimeFailure

_PATH = "/2018-06-01/runtime"
_FUNCTION = FunctionVersion(
    account="000000000000",
    region="us-east-1",
    name="f",
    version="$LATEST",
    runtime="python3.11",
    role="arn:aws:iam::000000000000:role/r",
    handler="app.handler",
    code_sha256="",
    code_size=0,
    deployment="d",
    revision="r",
    last_modified="",
)
_NEXT = f"GET {_PATH}/invocation/next HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def _post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {_PATH}/{path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _response(body: bytes, request_id: str = "id") -> bytes:
    return _post(f"invocation/{request_id}/response", body)


def _event(**fields: Any) -> Invocation:
    return Invocation(**{"request_id": "id", "function": _FUNCTION, "payload": b"{}", "invoked_arn": "arn", **fields})


class Listener:
    """Remembers what it heard."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def on_next(self) -> None:
        self.heard.append("next")

    def on_response(self, request_id: str, payload: bytes) -> None:
        self.heard.append(("response", request_id, payload))

    def on_error(self, request_id: str, error: RuntimeFailure) -> None:
        self.heard.append(("error", request_id, error.body, error.kind))

    def on_oversize(self, request_id: str) -> None:
        self.heard.append(("oversize", request_id))

    def on_init_error(self, error: RuntimeFailure) -> None:
        self.heard.append(("init", error.body, error.kind))


class Client:
    """One raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower case) and body of the next answer."""
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)).decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(head[0].split()[1]), headers, body

    async def ask(self, data: bytes) -> int:
        await self.send(data)
        return (await self.answer())[0]

    async def is_dropped(self) -> bool:
        """Whether the server hangs up."""
        try:
            while await asyncio.wait_for(self.reader.read(65536), 10):
                pass
        except ConnectionError:
            pass
        return True

    def close(self) -> None:
        self.writer.transport.abort()


class Bench:
    """A Runtime API and its clients."""

    def __init__(self) -> None:
        self.listener = Listener()
        self.api = RuntimeApi(self.listener)
        self._clients: list[Client] = []

    async def connect(self) -> Client:
        self._clients.append(Client(*await asyncio.open_connection(*self.address)))
        return self._clients[-1]

    async def waiting(self) -> Client:
        """A connection that has asked for the next event."""
        client = await self.connect()
        heard = len(self.listener.heard)
        await client.send(_NEXT)
        await self.until(lambda: len(self.listener.heard) > heard)
        return client

    async def running(self) -> Client:
        """One that works on the event ``id``."""
        client = await self.waiting()
        self.api.deliver(_event(), 0)
        await client.answer()
        return client

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.001)

    async def open(self) -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        self.address = sock.getsockname()
        sock.setblocking(False)
        await self.api.serve(sock)

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.api.close()


@asynccontextmanager
async def _bench() -> AsyncIterator[Bench]:
    made = Bench()
    await made.open()
    try:
        yield made
    finally:
        made.close()
        await asyncio.sleep(0.01)  # transports close on the loop's next turns


def on_bench(test: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    """Run the test on a loop of its own."""

    async def run() -> None:
        async with _bench() as bench:
            await test(bench)

    asyncio.run(run())


def test_an_event_is_handed_over_and_answered_once() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.waiting()
        bench.api.deliver(_event(payload=b'{"a":1}', tenant="blue", trace_id="t"), 17)
        status, headers, body = await client.answer()
        assert (status, body) == (200, b'{"a":1}')
        assert headers["lambda-runtime-aws-request-id"] == "id"
        assert headers["lambda-runtime-aws-tenant-id"] == "blue"
        assert headers["lambda-runtime-deadline-ms"] == "17"
        assert await client.ask(_response(b"one")) == 202
        assert await client.ask(_response(b"two")) == 400
        assert bench.listener.heard == ["next", ("response", "id", b"one")]

    on_bench(test)


def test_only_the_current_event_can_be_answered() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.connect()
        assert await client.ask(_response(b"early")) == 400
        client = await bench.running()
        assert await client.ask(_response(b"x", "another")) == 400
        assert await client.ask(_post("invocation/another/error", b"x")) == 400
        assert await client.ask(_post("invocation/id/other", b"x")) == 404
        assert bench.listener.heard == ["next"]

    on_bench(test)


def test_of_two_answers_at_once_one_counts() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.running()
        second = await bench.connect()
        answers = await asyncio.gather(first.ask(_response(b"1")), second.ask(_response(b"2")), return_exceptions=True)
        assert answers.count(202) == 1
        assert len(bench.listener.heard) == 2

    on_bench(test)


def test_the_next_event_is_refused_before_the_answer() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.running()
        assert await client.ask(_NEXT) == 403
        assert await client.ask(_response(b"x")) == 202

    on_bench(test)


def test_an_error_carries_its_kind() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.running()
        header = "Lambda-Runtime-Function-Error-Type: " + "k" * 300
        assert await client.ask(_post("invocation/id/error", b"{}", header)) == 202
        assert bench.listener.heard[1] == ("error", "id", b"{}", "k" * 256)

    on_bench(test)


def test_initialisation_fails_before_the_first_event_only() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.connect()
        assert await client.ask(_post("init/error", b"{}", "Lambda-Runtime-Function-Error-Type: E")) == 202
        assert await client.ask(_post("init/error", b"{}")) == 403
        assert bench.listener.heard == [("init", b"{}", "E")]

    on_bench(test)


@pytest.mark.parametrize("excess", [0, 1])
def test_the_largest_answer_is_taken_and_a_byte_more_is_refused(excess: int) -> None:
    async def test(bench: Bench) -> None:
        client = await bench.running()
        body = b"x" * (RESPONSE_PAYLOAD_BYTES + excess)
        assert await client.ask(_response(body)) == (413 if excess else 202)
        assert bench.listener.heard[1:] == [("oversize", "id") if excess else ("response", "id", body)]
        assert await client.ask(_response(b"again")) == 400

    on_bench(test)


def test_chunked_answers_are_put_together() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.running()
        head = f"POST {_PATH}/invocation/id/response HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert await client.ask(head.encode() + b"2\r\nab\r\n1;x=y\r\nc\r\n0\r\nTrailer: t\r\n\r\n") == 202
        assert bench.listener.heard[1] == ("response", "id", b"abc")

    on_bench(test)


def test_an_event_waits_for_a_runtime_that_hung_up() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.waiting()
        client.close()
        await bench.until(lambda: not bench.api._waiting)
        bench.api.deliver(_event(payload=b"kept"), 0)
        client = await bench.connect()
        await client.send(_NEXT)
        assert (await client.answer())[2] == b"kept"
        assert await client.ask(_NEXT) == 403  # it is handed over once
        assert await client.ask(_response(b"x")) == 202

    on_bench(test)


def test_with_several_pollers_every_event_goes_to_one() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.waiting()
        second = await bench.connect()
        await second.send(_NEXT)
        await bench.until(lambda: len(bench.api._waiting) == 2)
        bench.api.deliver(_event(request_id="1"), 0)
        assert (await first.answer())[1]["lambda-runtime-aws-request-id"] == "1"
        assert await first.ask(_response(b"", "1")) == 202
        assert bench.listener.heard == ["next", ("response", "1", b""), "next"]
        bench.api.deliver(_event(request_id="2"), 0)
        assert (await second.answer())[1]["lambda-runtime-aws-request-id"] == "2"

    on_bench(test)


def test_a_line_break_never_makes_a_header() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.waiting()
        bench.api.deliver(_event(client_context='{"a":\r\n1,\n"b":2}'), 0)
        _, headers, _ = await client.answer()
        assert json.loads(headers["lambda-runtime-client-context"]) == {"a": 1, "b": 2}
        assert await client.ask(_response(b"")) == 202
        await client.send(_NEXT)
        await bench.until(lambda: bench.listener.heard.count("next") == 2)
        with pytest.raises(ValueError, match="line break"):
            bench.api.deliver(_event(request_id="2", tenant="a\r\nEvil: b"), 0)
        bench.api.deliver(_event(request_id="3"), 0)  # nothing was spoilt
        assert (await client.answer())[1]["lambda-runtime-aws-request-id"] == "3"

    on_bench(test)


def test_a_second_request_behind_a_waiting_one_is_dropped() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.waiting()
        await client.send(_NEXT)
        assert await client.is_dropped()
        await bench.until(lambda: not bench.api._waiting)

    on_bench(test)


def test_what_follows_a_dropped_request_in_the_same_packet_is_not_heard() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.running()
        await client.send(b"GET /" + b"x" * 2000 + b" HTTP/1.1\r\n\r\n" + _response(b"late"))
        assert await client.is_dropped()
        assert bench.listener.heard == ["next"]

    on_bench(test)


def test_connections_are_counted() -> None:
    async def test(bench: Bench) -> None:
        taken = [await bench.connect() for _ in range(32)]
        await bench.until(lambda: len(bench.api._connections) == 32)
        assert await (await bench.connect()).is_dropped()
        taken[0].close()
        await bench.until(lambda: len(bench.api._connections) == 31)
        client = await bench.connect()
        assert await client.ask(_post("nothing", b"")) == 404

    on_bench(test)


def test_one_body_at_a_time_is_kept() -> None:
    """Thirty-two connections that each send six megabytes for the same event must not hold two hundred."""

    async def test(bench: Bench) -> None:
        client = await bench.running()
        head = _post("invocation/id/response", b"x" * RESPONSE_PAYLOAD_BYTES)[: 1 << 20]
        others = [await bench.connect() for _ in range(5)]
        for other in others:
            await other.send(head)
        for other in others[:-1]:
            assert await other.is_dropped()
        assert await client.ask(_response(b"done")) == 202

    on_bench(test)


def test_who_does_not_fetch_answers_is_dropped() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.connect()
        request = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n" * 1000
        with pytest.raises((ConnectionError, TimeoutError)):  # noqa: PT012 - the loop is the attack
            async with asyncio.timeout(10):
                for _ in range(5000):
                    await client.send(request)
        assert client.writer.is_closing()

    on_bench(test)


def test_requests_behind_each_other_are_dropped() -> None:
    """Thousands of them in one packet would hold the loop that serves every tenant."""

    async def test(bench: Bench) -> None:
        client = await bench.running()
        await client.send(_response(b"first") + _NEXT + _NEXT)
        assert await client.is_dropped()
        assert bench.listener.heard == ["next", ("response", "id", b"first")]

    on_bench(test)


def test_headers_are_bounded() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.connect()
        with pytest.raises(ConnectionError):  # noqa: PT012 - the loop is the attack
            await client.send(b"GET /x HTTP/1.1\r\nA: ")
            for _ in range(200):
                await client.send(b"x" * 65536)
                await asyncio.sleep(0)
            raise AssertionError("13 MB of header were taken")

    on_bench(test)


def test_a_body_without_end_for_nobody_is_not_kept() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.connect()
        head = f"POST {_PATH}/invocation/foreign/response HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(head.encode())
        for _ in range(50):
            await client.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        (connection,) = bench.api._connections
        assert connection._body is None
        assert await client.ask(b"0\r\n\r\n") == 400

    on_bench(test)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\0\1\2\3\r\n\r\n",
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n\r\n",
        b"GET /x HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\r\n",
        _response(b"ab").replace(b"Content-Length: 2", b"Content-Length: 2\r\nContent-Length: 1"),
        _response(b"ab").replace(b"Content-Length: 2", b"Content-Length: 2\r\nTransfer-Encoding: chunked"),
        _response(b"ab").replace(b"Content-Length: 2", b"Content-Length: -2"),
        _response(b"ab").replace(b"Content-Length: 2", b"Content-Length: 99999999999999999999999"),
        _response(b"ab").replace(b"Content-Length: 2", b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n"),
        _response(b"ab").replace(b"Host: a", b"Host : a\n b"),
    ],
)
def test_garbage_and_conflicting_lengths_are_dropped_and_the_event_lives_on(request_bytes: bytes) -> None:
    async def test(bench: Bench) -> None:
        client = await bench.running()
        other = await bench.connect()
        await other.send(request_bytes)
        assert await other.is_dropped()
        assert bench.listener.heard == ["next"]
        assert await client.ask(_response(b"fine")) == 202

    on_bench(test)


_fragments = st.sampled_from(
    [
        _NEXT,
        _response(b"x"),
        _response(b"x", "id\xff"),
        _post("init/error", b""),
        b"\r\n",
        b"\0",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"ffff\r\n",
        b"0\r\n\r\n",
        b"GET ",
        b"POST ",
        b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n",
        f"{_PATH}/invocation/id/response".encode(),
        b"Content-Length: 3\r\n",
    ]
)


@settings(max_examples=150, deadline=None)
@given(pieces=st.lists(_fragments | st.binary(max_size=200), min_size=1, max_size=12))
def test_no_bytes_harm_the_server_or_the_current_event(pieces: list[bytes]) -> None:
    """Whatever comes, it is answered or dropped, and whoever works on the event can still answer it, once."""
    errors: list[dict[str, Any]] = []

    async def test(bench: Bench) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        client = await bench.running()
        attacker = await bench.connect()
        try:
            for piece in pieces:
                await attacker.send(piece)
                await asyncio.sleep(0)
        except ConnectionError:
            pass
        attacker.close()
        await bench.until(lambda: len(bench.api._connections) == 1)
        answered = [heard for heard in bench.listener.heard if heard[0] in ("response", "error")]
        assert len(answered) <= 1  # the attacker knows the id, as the function does
        assert await client.ask(_response(b"mine")) == (400 if answered else 202)

    on_bench(test)
    assert errors == []
