"""The HTTP front: whole answers in one write, and no patience with requests that do not come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn

from insula import front

Use = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"body"})


@contextlib.asynccontextmanager
async def _serving() -> AsyncIterator[int]:
    config = uvicorn.Config(_app, port=0, http=front.FrontProtocol, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


def _talk(use: Use) -> None:
    async def run() -> None:
        async with _serving() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await use(reader, writer)
            finally:
                writer.close()

    asyncio.run(run())


def test_head_and_body_are_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    flush = front.BatchingTransport.flush

    def spy(self: front.BatchingTransport) -> None:
        written.append(b"|".join(self._waiting))
        flush(self)

    monkeypatch.setattr(front.BatchingTransport, "flush", spy)

    async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):  # the connection is kept
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert await reader.readexactly(4) == b"body"

    _talk(use)
    answers = [data for data in written if data]
    assert len(answers) == 2
    assert all(data.startswith(b"HTTP/1.1 200") and data.endswith(b"|body") for data in answers)


@pytest.mark.parametrize("beginning", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_request_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, beginning: bytes) -> None:
    monkeypatch.setattr(front, "HEADER_SECONDS", 0.05)

    async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        assert await reader.read() == b""

    _talk(use)


def test_a_second_request_that_comes_in_drops_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "HEADER_SECONDS", 0.05)

    async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nX-Slow: ")
        assert (await reader.read()).endswith(b"body")

    _talk(use)
