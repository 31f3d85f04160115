"""The Runtime API, Extensions API and Telemetry API, served to one execution environment on its own listening socket.

What connects here is hostile: everything that is buffered is bounded, only the environment's current request can be
answered, and only once.

Source: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from insula.model.invocation import Invocation
from insula.model.stream import ResponseStream
from insula.runtime_api import extensions as extensions_api
from insula.runtime_api.connection import ACCEPTED, Connection
from insula.runtime_api.extensions import Extensions
from insula.runtime_api.failure import RuntimeFailure
from insula.runtime_api.telemetry import Telemetry

__all__ = ["Listener", "RuntimeApi", "RuntimeFailure"]

_MAX_CONNECTIONS = 32


class Listener(extensions_api.Listener, Protocol):
    """Who hears what happens in an environment."""

    def on_next(self) -> None:
        """The runtime and all registered extensions are ready for an event."""
        ...

    def on_hangup(self) -> None:
        """The runtime, which was ready, does not wait for an event any more; ``on_next`` may follow."""
        ...

    def on_response(self, request_id: str, payload: bytes) -> None:
        """The runtime answered its current event."""
        ...

    def on_stream(self, request_id: str, content_type: str) -> ResponseStream | None:
        """The runtime begins to answer as a stream. None: collect it, and tell by ``on_response``."""
        ...

    def on_stream_end(self, request_id: str, error: RuntimeFailure | None) -> None:
        """A streamed answer is complete, or broke off."""
        ...

    def on_error(self, request_id: str, error: RuntimeFailure) -> None:
        """The function failed on its current event."""
        ...

    def on_oversize(self, request_id: str) -> None:
        """The answer was over the limit and was refused."""
        ...

    def on_init_error(self, error: RuntimeFailure) -> None:
        """The runtime could not be initialised."""
        ...


class RuntimeApi:
    """Serves one environment.

    Args:
        listener: who hears of it.
        extensions: file names of the external extensions that must register before the runtime starts.
        telemetry: what extensions may subscribe to; None refuses subscriptions.

    Attributes:
        extensions: those that registered.
    """

    def __init__(
        self, listener: Listener, *, extensions: Sequence[str] = (), telemetry: Telemetry | None = None
    ) -> None:
        self.extensions = Extensions(listener, extensions, self._announce, telemetry)
        self._listener = listener
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._waiting: deque[Connection] = deque()
        self._receiving: Connection | None = None
        self._current: str | None = None
        self._streaming = False
        self._undelivered: bytes | None = None
        self._initialised = False

    @property
    def grace(self) -> float:
        """Seconds that the shutdown phase may take: 0 without extensions."""
        return self.extensions.grace

    async def serve(self, sock: socket.socket) -> None:
        """Start to serve on the listening socket, which is owned from here on."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), sock=sock)

    def close(self) -> None:
        """Stop serving and drop all connections."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()

    def deliver(self, invocation: Invocation, deadline_ms: int) -> None:
        """Hand an event to the runtime and to extensions; one that hung up while it waited gets it when it returns."""
        event = _event(invocation, deadline_ms)
        self._current = invocation.request_id
        if self._waiting:
            self._waiting.popleft().send(event)
        else:
            self._undelivered = event
        if self.extensions.all:
            self.extensions.invoke(invocation, deadline_ms)

    def shutdown(self, reason: str, deadline_ms: int) -> None:
        """Tell extensions that the environment ends.

        Args:
            reason: ``SPINDOWN``, ``TIMEOUT`` or ``FAILURE``.
            deadline_ms: until when it is left to them, in milliseconds since the epoch.
        """
        self.extensions.shutdown(reason, deadline_ms)

    # What connections report.

    def opened(self, connection: Connection) -> bool:
        """Take up a connection; False if there are too many."""
        if len(self._connections) >= _MAX_CONNECTIONS:
            return False
        self._connections.add(connection)
        return True

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        if connection in self._waiting:
            self._waiting.remove(connection)
            if not self._waiting:
                self._listener.on_hangup()
        if connection is self._receiving:
            self._receiving = None
        self.extensions.forget(connection)

    def poll(self, connection: Connection) -> None:
        """``GET invocation/next``."""
        if self._undelivered is not None:
            event, self._undelivered = self._undelivered, None
            connection.send(event)
            return
        if self._current is not None or self._streaming:
            connection.refuse(403, "InvalidStateTransition", "The current event has not been answered yet.")
            return
        if connection in self._waiting:
            connection.abort()  # a second request behind one that waits: no runtime does that
            return
        self._waiting.append(connection)
        if len(self._waiting) == 1:
            self._initialised = True
            if not self.extensions.busy:
                self._ready()

    def is_current(self, request_id: str) -> bool:
        """Whether this is the event that the runtime works on, and has not begun to answer as a stream."""
        return request_id == self._current

    def receive(self, connection: Connection) -> None:
        """A connection begins to send a body that is kept. One at a time does: the latest, as after a retry.

        Else every connection could make the server hold as much as the largest answer.
        """
        if self._receiving not in (None, connection):
            self._receiving.abort()
        self._receiving = connection

    def begin_stream(self, request_id: str, content_type: str) -> ResponseStream | None:
        """``POST invocation/ID/response`` begins to stream; None collects it. Nobody else can answer any more."""
        stream = self._listener.on_stream(request_id, content_type)
        if stream is not None:
            self._current = self._receiving = None
            self._streaming = True
        return stream

    def end_stream(self, request_id: str, error: RuntimeFailure | None) -> None:
        """The streamed answer is complete, or broke off."""
        self._streaming = False
        self._listener.on_stream_end(request_id, error)
        self._announce()

    def settle(self, connection: Connection, request_id: str, body: bytes, error_kind: str | None) -> None:
        """``POST invocation/ID/response`` or ``.../error``, complete."""
        if request_id != self._current:  # answered meanwhile, over another connection
            connection.refuse_request_id()
            return
        self._current = None
        if error_kind is None:
            self._listener.on_response(request_id, body)
        else:
            self._listener.on_error(request_id, RuntimeFailure(body, error_kind))
        # After what the listener set off: whoever waits for this answer gets it before the runtime goes on.
        asyncio.get_running_loop().call_soon(connection.send, ACCEPTED)
        self._announce()

    def _announce(self) -> None:
        """All may be ready: a runtime with several pollers is as soon as it has answered."""
        if self._waiting and self._current is None and not self._streaming and not self.extensions.busy:
            self._ready()

    def _ready(self) -> None:
        self.extensions.closed = True  # the first time, init is over
        self._listener.on_next()

    def oversize(self, request_id: str) -> None:
        """An answer was too large: the event is settled with AWS's error for it."""
        if request_id == self._current:
            self._current = None
            self._listener.on_oversize(request_id)
            self._announce()

    def fail_init(self, connection: Connection, body: bytes, kind: str) -> None:
        """``POST init/error``."""
        if self._initialised:
            connection.refuse(403, "InvalidStateTransition", "Initialization is over.")
            return
        self._initialised = True
        connection.send(ACCEPTED)
        self._listener.on_init_error(RuntimeFailure(body, kind))


def _event(invocation: Invocation, deadline_ms: int) -> bytes:
    """The answer to ``next``."""
    lines = [
        "HTTP/1.1 200 OK",
        "Content-Type: application/json",
        f"Lambda-Runtime-Aws-Request-Id: {invocation.request_id}",
        f"Lambda-Runtime-Deadline-Ms: {deadline_ms}",
        f"Lambda-Runtime-Invoked-Function-Arn: {invocation.invoked_arn}",
        f"Lambda-Runtime-Trace-Id: {invocation.trace_id}",
    ]
    if invocation.tenant is not None:
        lines.append(f"Lambda-Runtime-Aws-Tenant-Id: {invocation.tenant}")
    if invocation.client_context is not None:
        # A line break in JSON text is white space between its tokens; in strings it is written as an escape.
        context = invocation.client_context.replace("\r", " ").replace("\n", " ")
        lines.append(f"Lambda-Runtime-Client-Context: {context}")
    lines.append(f"Content-Length: {len(invocation.payload)}")
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1:
        raise ValueError("a line break in an event's header would forge another header")
    return f"{head}\r\n\r\n".encode() + invocation.payload
