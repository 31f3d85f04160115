"""The Lambda Runtime API, served to one execution environment on its own listening socket.

What connects here is hostile: everything that is buffered is bounded, only the environment's current request can be
answered, and only once.

Source: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from dataclasses import dataclass
from typing import Protocol, cast

import httptools

from insula.model.invocation import Invocation
from insula.model.limits import RESPONSE_PAYLOAD_BYTES

_PREFIX = b"/2018-06-01/runtime/"
_INVOCATION = _PREFIX + b"invocation/"
_MAX_CONNECTIONS = 32
# awslambdaric puts a trace of up to 1 MiB into a header of its error reports.
_MAX_HEADER_BYTES = (1 << 20) + (64 << 10)
_MAX_ERROR_BYTES = RESPONSE_PAYLOAD_BYTES
_MAX_URL_BYTES = 1024
_REFUSAL_SECONDS = 0.01  # before each refusal: who hammers this server must not slow down other environments
_MAX_UNREAD_BYTES = 64 << 10  # of answers that a runtime does not fetch while it sends more

_REASONS = {202: "Accepted", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 413: "Payload Too Large"}
_ACCEPTED = b'HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{"status":"OK"}\n'
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True)
class RuntimeFailure:
    """An error that the runtime reported.

    Attributes:
        body: the error document as the runtime sent it.
        kind: value of ``Lambda-Runtime-Function-Error-Type``.
    """

    body: bytes
    kind: str


class Listener(Protocol):
    """Who hears what a runtime does: its execution environment."""

    def on_next(self) -> None:
        """The runtime is ready for an event."""
        ...

    def on_response(self, request_id: str, payload: bytes) -> None:
        """The runtime answered its current event."""
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
    """Serves the Runtime API to one environment.

    Args:
        listener: who hears of it.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._waiting: deque[_Connection] = deque()
        self._receiving: _Connection | None = None
        self._current: str | None = None
        self._undelivered: bytes | None = None
        self._initialised = False

    async def serve(self, sock: socket.socket) -> None:
        """Start to serve on the listening socket, which is owned from here on."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), sock=sock)

    def close(self) -> None:
        """Stop serving and drop all connections."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()

    def deliver(self, invocation: Invocation, deadline_ms: int) -> None:
        """Hand an event to the runtime; if it hung up while it waited, then as soon as it asks again."""
        event = _event(invocation, deadline_ms)
        self._current = invocation.request_id
        if self._waiting:
            self._waiting.popleft().send(event)
        else:
            self._undelivered = event

    # What connections report.

    def opened(self, connection: _Connection) -> bool:
        """Take up a connection; False if there are too many."""
        if len(self._connections) >= _MAX_CONNECTIONS:
            return False
        self._connections.add(connection)
        return True

    def closed(self, connection: _Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        if connection in self._waiting:
            self._waiting.remove(connection)
        if connection is self._receiving:
            self._receiving = None

    def poll(self, connection: _Connection) -> None:
        """``GET invocation/next``."""
        if self._undelivered is not None:
            event, self._undelivered = self._undelivered, None
            connection.send(event)
            return
        if self._current is not None:
            connection.refuse(403, "InvalidStateTransition", "The current event has not been answered yet.")
            return
        if connection in self._waiting:
            connection.abort()  # a second request behind one that waits: no runtime does that
            return
        self._waiting.append(connection)
        if len(self._waiting) == 1:
            self._initialised = True
            self._listener.on_next()

    def is_current(self, request_id: str) -> bool:
        """Whether this is the event that the runtime works on."""
        return request_id == self._current

    def receive(self, connection: _Connection) -> None:
        """A connection begins to send a body that is kept. One at a time does: the latest, as after a retry.

        Else every connection could make the server hold as much as the largest answer.
        """
        if self._receiving not in (None, connection):
            self._receiving.abort()
        self._receiving = connection

    def settle(self, connection: _Connection, request_id: str, body: bytes, error_kind: str | None) -> None:
        """``POST invocation/ID/response`` or ``.../error``, complete."""
        if request_id != self._current:  # answered meanwhile, over another connection
            connection.refuse_request_id()
            return
        self._current = None
        connection.send(_ACCEPTED)
        if error_kind is None:
            self._listener.on_response(request_id, body)
        else:
            self._listener.on_error(request_id, RuntimeFailure(body, error_kind))
        self._announce()

    def _announce(self) -> None:
        """A runtime with several pollers may be ready as soon as it has answered."""
        if self._waiting and self._current is None:
            self._listener.on_next()

    def oversize(self, connection: _Connection, request_id: str) -> None:
        """An answer that is too large: the event is settled with AWS's error for it."""
        connection.refuse(
            413,
            "RequestEntityTooLarge",
            f"Exceeded maximum allowed payload size ({RESPONSE_PAYLOAD_BYTES} bytes).",
        )
        if request_id == self._current:
            self._current = None
            self._listener.on_oversize(request_id)
            self._announce()

    def fail_init(self, connection: _Connection, body: bytes, kind: str) -> None:
        """``POST init/error``."""
        if self._initialised:
            connection.refuse(403, "InvalidStateTransition", "Initialization is over.")
            return
        self._initialised = True
        connection.send(_ACCEPTED)
        self._listener.on_init_error(RuntimeFailure(body, kind))


class _PipelinedError(Exception):
    """Stops the parser."""


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection from inside an environment."""

    def __init__(self, api: RuntimeApi) -> None:
        self._api = api
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._header_bytes = 0
        self._completed = False
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._body: list[bytes] | None = None
        self._size = 0
        self._limit = 0
        self._request_id = ""
        self._error_kind: str | None = None
        self._action = ""

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._api.opened(self):
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._api.closed(self)
        self._transport = None
        # The parser refers to this object and this object to it: what it holds would stay until a garbage collection.
        self._body = None
        del self._parser

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.get_write_buffer_size() > _MAX_UNREAD_BYTES:
            self.abort()
            return
        self._header_bytes += len(data)
        self._completed = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort()
        if self._header_bytes > _MAX_HEADER_BYTES:
            self.abort()

    # httptools callbacks

    def on_message_begin(self) -> None:
        if self._completed:  # no runtime sends a request before the last one was answered
            raise _PipelinedError
        self._reset()

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > _MAX_URL_BYTES:
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        lowered = name.lower()
        if lowered == b"lambda-runtime-function-error-type":
            self._error_kind = value[:256].decode("utf-8", "replace")
        elif lowered == b"expect" and value.lower() == b"100-continue":
            self.send(_CONTINUE)

    def on_headers_complete(self) -> None:
        self._header_bytes = 0
        method, path = self._parser.get_method(), self._url
        if method == b"GET" and path == _INVOCATION + b"next":
            self._action = "next"
        elif method == b"POST" and path == _PREFIX + b"init/error":
            self._expect("init", _MAX_ERROR_BYTES)
        elif method == b"POST" and path.startswith(_INVOCATION):
            request_id, _, kind = path[len(_INVOCATION) :].decode("ascii", "replace").partition("/")
            self._request_id = request_id
            if kind not in ("response", "error"):
                return
            if self._api.is_current(request_id):
                self._expect(kind, RESPONSE_PAYLOAD_BYTES)
            else:
                self._action = "foreign"  # its body is read past, never kept

    def _expect(self, action: str, limit: int) -> None:
        self._action, self._limit, self._body = action, limit, []
        self._api.receive(self)

    def on_body(self, body: bytes) -> None:
        self._header_bytes = 0
        if self._body is None:
            return
        self._size += len(body)
        if self._size <= self._limit:
            self._body.append(body)
        else:
            self._body.clear()

    def on_message_complete(self) -> None:
        self._header_bytes = 0
        self._completed = True
        action, api = self._action, self._api
        if self._transport is None:  # aborted meanwhile, with more requests in the same piece of data
            return
        if action == "next":
            api.poll(self)
        elif action == "foreign":
            self.refuse_request_id()
        elif self._body is None:
            self.refuse(404, "InvalidRequest", "The Runtime API has no such path.")
        elif self._size > self._limit:
            api.oversize(self, self._request_id)
        elif action == "init":
            api.fail_init(self, b"".join(self._body), self._error_kind or "Runtime.Unknown")
        elif action == "error":
            api.settle(self, self._request_id, b"".join(self._body), self._error_kind or "Unhandled")
        else:
            api.settle(self, self._request_id, b"".join(self._body), None)
        self._body = None

    # Answers

    def send(self, data: bytes) -> None:
        """Write to the runtime, unless it is gone."""
        if self._transport is not None:
            self._transport.write(data)

    def refuse(self, status: int, kind: str, message: str) -> None:
        """Answer with an error document, after a moment in which nothing more is read."""
        body = json.dumps({"errorMessage": message, "errorType": kind}).encode()
        head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
        answer = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        if self._transport is not None:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(_REFUSAL_SECONDS, self._send_refusal, answer)

    def _send_refusal(self, answer: bytes) -> None:
        if self._transport is not None:
            self._transport.resume_reading()
            self.send(answer)

    def refuse_request_id(self) -> None:
        """Answer that the request id is not the current one."""
        self.refuse(400, "InvalidRequestID", "Invalid request ID")

    def abort(self) -> None:
        """Drop the connection."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()


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
