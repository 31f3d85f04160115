"""The listening side: takes up connections, looks at their times, and stops gracefully."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from email.utils import formatdate
from socket import socket

from insula.front.connection import Connection
from insula.front.exchange import Application
from insula.front.limits import Limits


class Front:
    """Serves an ASGI application over HTTP/1.1.

    Args:
        application: answers the requests.
        limits: what a client may cost.
        grace: seconds that requests in flight may take after ``stop``.
        wall: unix seconds, for the Date header.

    Attributes:
        date: the Date header of this moment.
    """

    def __init__(
        self, application: Application, limits: Limits, *, grace: float, wall: Callable[[], float] = time.time
    ) -> None:
        self.application = application
        self.limits = limits
        self.date: tuple[tuple[bytes, bytes], ...] = ()
        self._grace = grace
        self._wall = wall
        self._connections: set[Connection] = set()
        self._workers: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._forced = False
        self._changed = asyncio.Event()

    async def serve(self, sock: socket) -> None:
        """Serve on the listening socket until ``stop``."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(self), sock=sock, backlog=2048)
        watch = asyncio.create_task(self._watch())
        try:
            await self._stopping.wait()
        finally:
            server.close()
            await self._drain()
            watch.cancel()

    def stop(self) -> None:
        """Stop accepting, and let requests in flight finish; the second call stops at once."""
        self._forced = self._stopping.is_set()
        self._stopping.set()
        self._changed.set()

    # What connections report.

    def opened(self, connection: Connection) -> bool:
        """Take up a connection; False if there are too many."""
        self._connections.add(connection)
        return len(self._connections) <= self.limits.connections

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        self._changed.set()

    def started(self, worker: asyncio.Task[None]) -> None:
        """Hold a connection's task until it ends: the event loop itself keeps only weak references."""
        self._workers.add(worker)
        worker.add_done_callback(self._ended)

    def _ended(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        self._changed.set()

    async def _watch(self) -> None:
        """Look at all connections' times, for ever: a timer for each would be set anew at each request."""
        loop = asyncio.get_running_loop()
        while True:
            self.date = ((b"date", formatdate(self._wall(), usegmt=True).encode()),)
            for connection in list(self._connections):
                connection.check(loop.time())
            await asyncio.sleep(self.limits.check_seconds)

    async def _drain(self) -> None:
        """Let requests in flight finish, as long as they may take, and then their answers be read."""
        deadline = asyncio.get_running_loop().time() + self._grace
        for connection in list(self._connections):
            connection.stop()
        await self._wait(self._workers.__len__, deadline)
        for worker in list(self._workers):
            worker.cancel()
        for connection in list(self._connections):
            connection.close()
        await self._wait(self._connections.__len__, deadline)
        for connection in list(self._connections):
            connection.abort()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _wait(self, left: Callable[[], int], deadline: float) -> None:
        """Until there is none left, or the time or the patience is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while left() and not self._forced:
                    self._changed.clear()
                    await self._changed.wait()
