"""One client's connection: requests are answered one after the other, and nobody is waited for without end."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Any, Protocol, cast

from insula.front.answer import refusal
from insula.front.exchange import Application, Exchange
from insula.front.limits import Limits
from insula.front.receiver import Receiver, RefusedError

_NEVER = math.inf


class Owner(Protocol):
    """The server that a connection belongs to."""

    application: Application
    limits: Limits
    date: tuple[tuple[bytes, bytes], ...]

    def opened(self, connection: Connection) -> bool:
        """Take up a connection; False if there are too many."""
        ...

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        ...

    def started(self, worker: asyncio.Task[None]) -> None:
        """Hold a connection's task until it ends."""
        ...


class Connection(asyncio.Protocol):
    """A client's connection.

    No timer is started for a request: the owner calls ``check`` of all connections every now and then.

    Attributes:
        last: no further request is accepted.
        writable: set when the client has read what it was sent; None while it keeps up.
    """

    def __init__(self, owner: Owner) -> None:
        self.last = False
        self.writable: asyncio.Event | None = None
        self._owner = owner
        self._limits = owner.limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._receiver: Receiver
        self._deaf = False  # what arrives is thrown away
        self._discarded = 0
        self._half_closed = False  # nothing more arrives
        self._ended = False  # nothing more is sent
        self._paused = False
        self._deadline = _NEVER  # by then the client must have sent something
        self._unsent = 0
        self._write_deadline = _NEVER  # by then it must have read something
        self._queue: deque[Exchange] = deque()
        self._running: Exchange | None = None
        self._worker: asyncio.Task[None] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._refusal = 0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        # uvloop's transports implement the interface without inheriting it.
        self._transport = cast("asyncio.Transport", transport)
        server, client = (_address(transport.get_extra_info(end)) for end in ("sockname", "peername"))
        self._receiver = Receiver(self, self._limits, server, client)
        self._expect(self._limits.head_seconds)
        if not self._owner.opened(self):
            self._deaf = True
            self._transport.write(refusal(503, self._owner.date))
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse; a request whose head is complete is handed to the worker."""
        if self._deaf:
            self._discard(len(data))
            return
        try:
            self._receiver.feed(data)
        except RefusedError as error:
            self._refuse(error.status)

    def eof_received(self) -> bool:
        """The client sends no more. It may wait for its answers, so what came whole is still answered."""
        if self._deaf or self._receiver.incoming is not None or not self._is_busy():
            return False
        self.last = self._half_closed = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The client is gone. The exchange that runs goes on, the ones behind it are forgotten."""
        self._owner.closed(self)
        self._transport = None
        self.last = self._deaf = True
        self._deadline = _NEVER
        self._queue.clear()
        if self._running is not None:
            self._running.leave()
        self.resume_writing()
        self._rouse()
        self._receiver.close()
        del self._receiver  # the two refer to each other: what they hold would stay until a garbage collection

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        self.writable = asyncio.Event()
        self._unsent = self._count_unsent()
        self._write_deadline = self._loop.time() + self._limits.write_seconds

    def resume_writing(self) -> None:
        """The client has read."""
        self._write_deadline = _NEVER
        if self.writable is not None:
            self.writable.set()
            self.writable = None

    # What the receiver reports.

    def on_head(self) -> None:
        """A request begins."""
        if self.last or len(self._queue) > self._limits.pipelined:
            raise RefusedError(503)
        self._expect(self._limits.head_seconds)

    def on_exchange(self, exchange: Exchange) -> None:
        """A request's head has come."""
        self._expect(self._limits.body_seconds)
        self._queue.append(exchange)
        self._rouse()

    def on_progress(self, exchange: Exchange) -> None:
        """Another piece of its body has come."""
        if exchange.buffered > self._limits.body_bytes:
            self._pause()
        else:
            self._expect(self._limits.body_seconds)

    def on_received(self) -> None:
        """All of a request has come."""
        self._deadline = _NEVER
        if self._must_wait():
            self._pause()

    # What exchanges use.

    def date(self) -> tuple[tuple[bytes, bytes], ...]:
        """The Date header."""
        return self._owner.date

    def is_last(self) -> bool:
        """Whether nothing more is sent after the answer that is being made."""
        return self.last and not self._queue and not self._refusal

    def write(self, data: bytes) -> None:
        """Send, unless the client is gone."""
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def resume(self) -> None:
        """Read on, unless a request or enough of a body waits already."""
        if self._transport is None or not self._paused or self._must_wait():
            return
        incoming = self._receiver.incoming
        if incoming is not None and incoming.buffered > self._limits.body_bytes:
            return
        self._paused = False
        self._transport.resume_reading()
        if incoming is not None or self._receiver.in_head:
            self._expect(self._limits.body_seconds)

    def abort(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    # What the owner uses.

    def check(self, now: float) -> None:
        """Look at the times that the client has to keep.

        Args:
            now: as the event loop tells it.
        """
        if now > self._write_deadline:
            self._check_reader(now)
        if now <= self._deadline:
            return
        if self._deaf:
            self.abort()
        elif self._receiver.incoming is not None or self._receiver.in_head:
            self._refuse(408)
        else:
            self._finish()

    def _check_reader(self, now: float) -> None:
        unsent = self._count_unsent()
        if unsent >= self._unsent:
            self.abort()
        self._unsent = unsent
        self._write_deadline = now + self._limits.write_seconds

    def stop(self) -> None:
        """Answer what has come, accept no more, and end."""
        if self._is_busy():
            self.last = True
        else:
            self._finish()

    def close(self) -> None:
        """End as soon as what was sent is on its way."""
        if self._transport is not None:
            self._transport.close()

    # The worker.

    async def _work(self) -> None:
        """Answer one request after the other. One task does it, as to start one for each would cost more."""
        try:
            while await self._has_next():
                self._running = exchange = self._queue.popleft()
                self.resume()
                await exchange.run(self._owner.application)
                self._running = None
                if not exchange.keep_alive:
                    self._refusal = 0  # what came behind the last request does not matter any more
                    break
                self.resume()
                if self._deadline == _NEVER:
                    self._expect(self._limits.keep_alive_seconds)
        finally:
            self._running = None
            self._end()

    async def _has_next(self) -> bool:
        while not self._queue:
            if self.last:
                return False
            self._wake = self._loop.create_future()
            await self._wake
        return True

    def _rouse(self) -> None:
        """Something has changed for the worker."""
        if self._wake is not None:
            if not self._wake.done():
                self._wake.set_result(None)
        elif self._worker is None and self._queue:
            self._worker = self._loop.create_task(self._work())
            self._owner.started(self._worker)

    def _is_busy(self) -> bool:
        return self._running is not None or bool(self._queue)

    def _must_wait(self) -> bool:
        """Whether a complete request waits behind another one."""
        return len(self._queue) > (self._running is None)

    # The end.

    def _refuse(self, status: int) -> None:
        """Read no more; answer with this status, after the answers to what came before."""
        if self._receiver.incoming is not None:
            self._receiver.incoming.refuse(status)
        else:
            self._refusal = status
        self._finish()

    def _finish(self) -> None:
        """Read no more, and end when the requests that have come are answered."""
        self.last = self._deaf = True
        self._deadline = _NEVER
        if self._worker is None:
            self._end()
        else:
            self._rouse()

    def _end(self) -> None:
        """Close so that the client gets to read its answer even if it still sends (RFC 9112, 9.6)."""
        transport = self._transport
        if transport is None or transport.is_closing() or self._ended:
            return
        self._ended = True
        if self._refusal:
            transport.write(refusal(self._refusal, self._owner.date))
        if self._half_closed:
            transport.close()
            return
        self.last = self._deaf = True
        self._expect(self._limits.linger_seconds)
        transport.write_eof()
        if self._paused:
            self._paused = False
            transport.resume_reading()

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > self._limits.linger_bytes:
            self.abort()

    # Flow and time.

    def _pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._deadline = _NEVER
            self._transport.pause_reading()

    def _expect(self, seconds: float) -> None:
        """Within this time the client must send something."""
        self._deadline = self._loop.time() + seconds

    def _count_unsent(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()


def _address(name: Any) -> tuple[str, int] | None:
    """Host and port, if the connection is one over IP."""
    return (name[0], name[1]) if isinstance(name, tuple) else None
