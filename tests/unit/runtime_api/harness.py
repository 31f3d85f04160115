"""A Runtime API on a real loopback socket, clients for it, and a listener that only remembers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from insula.model.function import FunctionVersion
from insula.model.invocation import Invocation
from insula.model.stream import ResponseStream
from insula.runtime_api.server import RuntimeApi, RuntimeFailure
from insula.runtime_api.telemetry import Telemetry

PATH = "/2018-06-01/runtime"
FUNCTION = FunctionVersion(
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
NEXT = f"GET {PATH}/invocation/next HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {PATH}/{path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def response(body: bytes, request_id: str = "id") -> bytes:
    return post(f"invocation/{request_id}/response", body)


def new_event(**fields: Any) -> Invocation:
    return Invocation(**{"request_id": "id", "function": FUNCTION, "payload": b"{}", "invoked_arn": "arn", **fields})


class Listener:
    """Remembers what it heard.

    Attributes:
        stream: where streamed answers go; None collects them.
    """

    function = FUNCTION

    def __init__(self) -> None:
        self.stream: ResponseStream | None = None
        self.heard: list[Any] = []
        self.hangups = 0

    def on_hangup(self) -> None:
        self.hangups += 1

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

    def on_stream(self, request_id: str, content_type: str) -> ResponseStream | None:
        self.heard.append(("stream", request_id, content_type))
        return self.stream

    def on_stream_end(self, request_id: str, error: RuntimeFailure | None) -> None:
        self.heard.append(("end", request_id, error and error.kind, error and error.body))
        if self.stream is not None:
            self.stream.end()

    def on_registered(self) -> None:
        self.heard.append("registered")

    def on_extension_error(self, kind: str, body: bytes) -> None:
        self.heard.append(("extension", kind, body))


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

    def __init__(self, extensions: tuple[str, ...] = (), telemetry: Telemetry | None = None) -> None:
        self.listener = Listener()
        self.api = RuntimeApi(self.listener, extensions=extensions, telemetry=telemetry)
        self._clients: list[Client] = []

    async def connect(self) -> Client:
        self._clients.append(Client(*await asyncio.open_connection(*self.address)))
        return self._clients[-1]

    async def waiting(self) -> Client:
        """A connection that has asked for the next event."""
        client = await self.connect()
        heard = len(self.listener.heard)
        await client.send(NEXT)
        await self.until(lambda: len(self.listener.heard) > heard)
        return client

    async def running(self) -> Client:
        """One that works on the event ``id``."""
        client = await self.waiting()
        self.api.deliver(new_event(), 0)
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
async def new_bench(extensions: tuple[str, ...] = (), telemetry: Telemetry | None = None) -> AsyncIterator[Bench]:
    made = Bench(extensions, telemetry)
    await made.open()
    try:
        yield made
    finally:
        made.close()
        await asyncio.sleep(0.01)  # transports close on the loop's next turns


def on_bench(test: Callable[[Bench], Coroutine[Any, Any, None]], extensions: tuple[str, ...] = ()) -> None:
    """Run the test on a loop of its own."""

    async def run() -> None:
        async with new_bench(extensions) as bench:
            await test(bench)

    asyncio.run(run())
