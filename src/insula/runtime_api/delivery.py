"""Batches of telemetry on their way to one extension, over HTTP into its sandbox.

What listens there is hostile: little is read from it, for a limited time, and it never holds up anybody. What it does
not take in time is dropped and counted.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable

import httptools

from insula.runtime_api.subscription import Subscription

Connect = Callable[[int], Awaitable[socket.socket]]

_POST_SECONDS = 5.0
_BACKOFF_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.6)  # then the batch is dropped
_MAX_ANSWER_BYTES = 64 << 10
_FELL_BEHIND = "Consumer seems to have fallen behind as it has not acknowledged receipt of logs."


class Delivery:
    """Takes events for one subscriber and delivers them, in order.

    Args:
        subscription: where to, and in which batches.
        connect: opens a connection to a port inside the sandbox.
        stamp: the time as events bear it.

    Attributes:
        held: bytes of events that are not delivered yet.
    """

    def __init__(self, subscription: Subscription, connect: Connect, stamp: Callable[[], str]) -> None:
        self.held = 0
        self._subscription = subscription
        self._connect = connect
        self._stamp = stamp
        self._waiting: list[bytes] = []
        self._size = 0
        self._dropped_records = 0
        self._dropped_bytes = 0
        self._some = asyncio.Event()
        self._full = asyncio.Event()
        self._awake = asyncio.Event()
        self._awake.set()
        self._limit: asyncio.Timeout | None = None
        self._task = asyncio.create_task(self._run())

    def offer(self, event: bytes, *, room: bool = True) -> None:
        """Take an event, or drop it if too much waits, or if there is no ``room`` otherwise."""
        wanted = self._subscription
        over = self._size + len(event) > 2 * wanted.max_bytes or len(self._waiting) >= 2 * wanted.max_items
        if over or not room:
            self._drop(1, len(event))
            return
        self._waiting.append(event)
        self._size += len(event)
        self.held += len(event)
        self._some.set()
        if self._size >= wanted.max_bytes or len(self._waiting) >= wanted.max_items:
            self._full.set()

    def flush(self) -> None:
        """Send what waits without waiting for more."""
        self._full.set()

    def pause(self) -> None:
        """The sandbox is frozen: nothing in it can answer, and no time counts."""
        self._awake.clear()
        if self._limit is not None:
            self._limit.reschedule(None)

    def resume(self) -> None:
        """The sandbox runs again."""
        self._awake.set()
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time() + _POST_SECONDS)

    def close(self) -> None:
        """Deliver nothing more."""
        self._task.cancel()

    def _drop(self, records: int, size: int) -> None:
        self._dropped_records += records
        self._dropped_bytes += size

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            try:
                async with asyncio.timeout(self._subscription.timeout):
                    await self._full.wait()
            except TimeoutError:
                pass
            batch = self._take()
            if not await self._deliver(b"[" + b",".join(batch) + b"]"):
                self._drop(len(batch), sum(map(len, batch)))
            self.held = self._size

    def _take(self) -> list[bytes]:
        batch, self._waiting, self._size = self._waiting, [], 0
        self._some.clear()
        self._full.clear()
        if self._dropped_records:
            record = {
                "droppedBytes": self._dropped_bytes,
                "droppedRecords": self._dropped_records,
                "reason": _FELL_BEHIND,
            }
            event = {"time": self._stamp(), "type": "platform.logsDropped", "record": record}
            batch.append(json.dumps(event).encode())
            self._dropped_records = self._dropped_bytes = 0
        return batch

    async def _deliver(self, body: bytes) -> bool:
        for seconds in _BACKOFF_SECONDS:
            await self._awake.wait()
            if await self._post(body):
                return True
            await asyncio.sleep(seconds)
        return False

    async def _post(self, body: bytes) -> bool:
        """Send one batch; whether the subscriber took it."""
        wanted = self._subscription
        head = (
            f"POST {wanted.target} HTTP/1.1\r\nHost: sandbox.localdomain:{wanted.port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        try:
            async with asyncio.timeout(_POST_SECONDS) as self._limit:
                with await self._connect(wanted.port) as sock:
                    await asyncio.get_running_loop().sock_sendall(sock, head.encode() + body)
                    return 200 <= await _status(sock) < 300
        except (OSError, httptools.HttpParserError):  # a TimeoutError is an OSError
            return False
        finally:
            self._limit = None


class _Answer:
    """Whether an answer is complete, as its parser finds."""

    def __init__(self) -> None:
        self.complete = False

    def on_message_complete(self) -> None:
        self.complete = True


async def _status(sock: socket.socket) -> int:
    """The status of the answer, read to its end so that the subscriber can finish; 0 if there was none."""
    answer = _Answer()
    parser = httptools.HttpResponseParser(answer)
    left = _MAX_ANSWER_BYTES
    while left > 0 and not answer.complete:
        data = await asyncio.get_running_loop().sock_recv(sock, left)
        if not data:
            break
        left -= len(data)
        parser.feed_data(data)
    status: int = parser.get_status_code()
    return status
