"""The HTTP front: uvicorn's protocol, with one write per response and a limit on slow requests."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_SECONDS = 30.0  # how long a request's head may take, and a new connection to send one


class FrontProtocol(HttpToolsProtocol):
    """Uvicorn's protocol, and two things that it leaves out.

    It writes a response's head and body apart: two system calls, and two packets for the client to read. And it waits
    for ever for a request that does not come, or whose head comes in drops.
    """

    _deadline: asyncio.TimerHandle | None = None
    _head_is_complete = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Put the batching transport in between."""
        self._batching = BatchingTransport(transport)
        super().connection_made(self._batching)  # type: ignore[arg-type]
        self._arm()

    def data_received(self, data: bytes) -> None:
        """Let uvicorn parse; what is left open then must be closed in time."""
        super().data_received(data)
        if self._deadline is not None and self._head_is_complete:
            self._deadline.cancel()
            self._deadline = None
        elif self._deadline is None and not self._head_is_complete:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._head_is_complete = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A request's head has come."""
        self._head_is_complete = True
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """A response is whole: it need not wait for the end of this turn."""
        self._batching.flush()
        super().on_response_complete()

    def _arm(self) -> None:
        self._deadline = self.loop.call_later(HEADER_SECONDS, self._too_slow)

    def _too_slow(self) -> None:
        self._deadline = None
        self.transport.close()


class BatchingTransport:
    """A transport that joins what is written in one turn of the event loop."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._waiting: list[bytes] = []
        self._loop = asyncio.get_running_loop()

    def write(self, data: bytes) -> None:
        """Write at the end of this turn."""
        if not self._waiting:
            self._loop.call_soon(self.flush)
        self._waiting.append(data)

    def close(self) -> None:
        """Close after what was written."""
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def flush(self) -> None:
        """Write now."""
        waiting, self._waiting = self._waiting, []
        if waiting and not self._transport.is_closing():
            self._transport.write(b"".join(waiting) if len(waiting) > 1 else waiting[0])
