"""One HTTP/1.1 connection from inside an environment, and which request goes where.

What connects here is hostile: everything that is buffered is bounded, and so is the time that it takes from others.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from typing import TYPE_CHECKING, cast

import httptools

from insula.model.limits import RESPONSE_PAYLOAD_BYTES
from insula.model.stream import MAX_STREAM_BYTES, ResponseStream
from insula.runtime_api.failure import RuntimeFailure, too_large, truncated

if TYPE_CHECKING:
    from insula.runtime_api.server import RuntimeApi

_PREFIX = b"/2018-06-01/runtime/"
_INVOCATION = _PREFIX + b"invocation/"
_NEXT = _INVOCATION + b"next"
_EXTENSION = {
    (b"POST", b"/2020-01-01/extension/register"): "register",
    (b"GET", b"/2020-01-01/extension/event/next"): "event",
    (b"POST", b"/2020-01-01/extension/init/error"): "failure",
    (b"POST", b"/2020-01-01/extension/exit/error"): "failure",
    (b"PUT", b"/2022-07-01/telemetry"): "telemetry",
    (b"PUT", b"/2022-07-01/telemetry/"): "telemetry",
    (b"PUT", b"/2020-08-15/logs"): "logs",
}
# awslambdaric puts a trace of up to 1 MiB into a header of its error reports.
_MAX_HEADER_BYTES = (1 << 20) + (64 << 10)
_MAX_ERROR_BYTES = RESPONSE_PAYLOAD_BYTES
_MAX_EXTENSION_BYTES = 64 << 10  # of a body to the Extensions and Telemetry APIs
_MAX_URL_BYTES = 1024
_MAX_KEPT_BYTES = 256  # of a header
_PAUSE_SECONDS = 0.01  # who hammers this server must not slow down other environments
_MAX_PIECES = 1024  # of a body in one piece of data; each costs a call
_MAX_UNREAD_BYTES = 64 << 10  # of answers that a runtime does not fetch while it sends more

_ERROR_TYPE = b"lambda-runtime-function-error-type"
_ERROR_BODY = b"lambda-runtime-function-error-body"
_MODE = b"lambda-runtime-function-response-mode"
_EXTENSION_ERROR = b"lambda-extension-function-error-type"
_EXTENSION_NAME = b"lambda-extension-name"
_EXTENSION_ID = b"lambda-extension-identifier"
_EXTENSION_FEATURES = b"lambda-extension-accept-feature"
_KEPT = frozenset(
    (
        b"content-type",
        _ERROR_TYPE,
        _MODE,
        _EXTENSION_ERROR,
        _EXTENSION_NAME,
        _EXTENSION_ID,
        _EXTENSION_FEATURES,
    )
)
_SHORTEST_KEPT = min(map(len, _KEPT))
_EXPECT = b"expect"

_REASONS = {
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    413: "Payload Too Large",
}
ACCEPTED = b'HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{"status":"OK"}\n'
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class _PipelinedError(Exception):
    """Stops the parser."""


class Connection(asyncio.Protocol):
    """One connection. Its requests are reported to the Runtime API when they are whole."""

    def __init__(self, api: RuntimeApi) -> None:
        self._api = api
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._header_bytes = 0
        self._pieces = 0
        self._completed = False
        self._last = False
        self._resting = False
        self._headers: dict[bytes, bytes] = {}
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        if self._headers:
            self._headers.clear()
        self._body: bytes | bytearray | None = None
        self._stream: ResponseStream | None = None
        self._size = 0
        self._limit = 0
        self._request_id = ""
        self._action = ""

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The first thing that happens."""
        self._transport = cast("asyncio.Transport", transport)
        if not self._api.opened(self):
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The last thing that happens."""
        self._transport = None
        if self._stream is not None:
            self._end_stream(truncated())
        self._api.closed(self)
        # The parser refers to this object and this object to it: what it holds would stay until a garbage collection.
        self._body = None
        del self._parser

    def data_received(self, data: bytes) -> None:
        """Bytes from inside."""
        if self._transport is None or self._transport.get_write_buffer_size() > _MAX_UNREAD_BYTES:
            self.abort()
            return
        self._header_bytes += len(data)
        self._completed = False
        self._pieces = 0
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort()
        if self._header_bytes > _MAX_HEADER_BYTES:
            self.abort()
        if self._pieces > _MAX_PIECES:
            self._rest()

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
        if len(name) < _SHORTEST_KEPT:  # as most are
            if len(name) == len(_EXPECT) and name.lower() == _EXPECT and value.lower() == b"100-continue":
                self.send(_CONTINUE)
            return
        lowered = name.lower()
        if lowered in _KEPT:
            self._headers[lowered] = value[:_MAX_KEPT_BYTES]
        elif lowered == _ERROR_BODY and self._action in ("stream", "collected"):
            self._headers[lowered] = value

    def on_headers_complete(self) -> None:
        self._header_bytes = 0
        method, path = self._parser.get_method(), self._url
        if method == b"GET" and path == _NEXT:
            self._action = "next"
        elif method == b"POST" and path.startswith(_INVOCATION):
            self._expect_outcome(path)
        elif method == b"POST" and path == _PREFIX + b"init/error":
            self._expect("init", _MAX_ERROR_BYTES)
            self._api.receive(self)
        elif action := _EXTENSION.get((method, path)):
            self._expect(action, _MAX_EXTENSION_BYTES)

    def _expect_outcome(self, path: bytes) -> None:
        request_id, _, kind = path[len(_INVOCATION) :].decode("ascii", "replace").partition("/")
        self._request_id = request_id
        if kind not in ("response", "error"):
            return
        if not self._api.is_current(request_id):
            self._action = "foreign"  # its body is read past, never kept
        elif _MODE in self._headers and kind == "response" and self._headers[_MODE].lower() == b"streaming":
            self._expect_stream()
        else:
            self._action, self._limit, self._body = kind, RESPONSE_PAYLOAD_BYTES, b""
            self._api.receive(self)

    def _expect_stream(self) -> None:
        content_type = self._text(b"content-type") or "application/octet-stream"
        self._headers.clear()  # what comes with these names from here on are trailers
        self._api.receive(self)
        stream = self._api.begin_stream(self._request_id, content_type)
        if stream is None:
            self._expect("collected", RESPONSE_PAYLOAD_BYTES)
        else:
            self._action, self._stream = "stream", stream
            stream.begin(content_type, self._resume)

    def _expect(self, action: str, limit: int) -> None:
        self._action, self._limit, self._body = action, limit, b""

    def on_body(self, body: bytes) -> None:
        self._header_bytes = 0
        self._pieces += 1
        if self._body is not None:
            self._size += len(body)
            if self._size > self._limit:
                self._body = b""
            elif self._body:
                self._append(self._body, body)
            else:
                self._body = body
        elif self._stream is not None:
            self._forward(self._stream, body)

    def _append(self, held: bytes | bytearray, body: bytes) -> None:
        grown = bytearray(held) if isinstance(held, bytes) else held  # most bodies come in one piece, and stay bytes
        grown += body
        self._body = grown

    def _forward(self, stream: ResponseStream, body: bytes) -> None:
        if stream.size + len(body) > MAX_STREAM_BYTES:
            self._action = "oversize"  # the rest is read past
            self._end_stream(too_large(MAX_STREAM_BYTES))
        elif not stream.write(body) and self._transport is not None:
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self._header_bytes = 0
        self._completed = True
        self._last = not self._parser.should_keep_alive()
        action, api = self._action, self._api
        if self._transport is None:  # aborted meanwhile, with more requests in the same piece of data
            return
        if action == "next":
            api.poll(self)
        elif self._size > self._limit:
            self._refuse_oversize(action)
        elif action == "response":
            api.settle(self, self._request_id, bytes(self._body or b""), None)
        elif action in ("error", "init", "collected"):
            self._complete_report(action)
        elif action == "stream":
            self.send(ACCEPTED)
            self._end_stream(self._trailer())
        elif action == "foreign":
            self.refuse_request_id()
        elif action == "oversize":
            self._refuse_size(MAX_STREAM_BYTES)
        elif self._body is not None:
            self._complete_extension(action)
        else:
            self.refuse(404, "InvalidRequest", "The Runtime API has no such path.")
        self._body = None

    def _complete_report(self, action: str) -> None:
        body, api = bytes(self._body or b""), self._api
        kind = self._text(_ERROR_TYPE)
        if action == "error":
            api.settle(self, self._request_id, body, kind or "Unhandled")
        elif action == "init":
            api.fail_init(self, body, kind or "Runtime.Unknown")
        elif broken := self._trailer():
            api.settle(self, self._request_id, broken.body, broken.kind)
        else:
            api.settle(self, self._request_id, body, None)

    def _complete_extension(self, action: str) -> None:
        body, extensions = bytes(self._body or b""), self._api.extensions
        if action == "register":
            extensions.register(self, self._text(_EXTENSION_NAME), self._text(_EXTENSION_FEATURES), body)
        elif action == "event":
            extensions.poll(self, self._text(_EXTENSION_ID))
        elif action == "failure":
            extensions.fail(self, self._text(_EXTENSION_ID), self._text(_EXTENSION_ERROR), body)
        elif action == "telemetry":
            extensions.subscribe(self, self._text(_EXTENSION_ID), body)
        else:
            self.refuse(403, "Logs.NotSupported", "The Logs API is not supported. Use PUT /2022-07-01/telemetry.")

    def _trailer(self) -> RuntimeFailure | None:
        """The error that a streamed answer ended with."""
        kind = self._text(_ERROR_TYPE)
        encoded = self._headers.get(_ERROR_BODY)
        if not kind and encoded is None:
            return None
        try:
            body = base64.b64decode(encoded or b"", validate=True)
        except binascii.Error:
            body = encoded or b""
        return RuntimeFailure(body, kind or "Runtime.Unknown")

    def _end_stream(self, error: RuntimeFailure | None) -> None:
        self._stream = None
        self._resume()  # the caller may be slow to read what is left; the runtime need not wait for that
        self._api.end_stream(self._request_id, error)

    def _text(self, header: bytes) -> str:
        return self._headers.get(header, b"").decode("utf-8", "replace")

    # Answers

    def send(self, data: bytes) -> None:
        """Write to the runtime, unless it is gone; the answer to its last request closes the connection."""
        if self._transport is not None:
            self._transport.write(data)
            if self._last:
                self._transport.close()

    def answer(self, status: int, body: bytes, *headers: str) -> None:
        """Answer with a JSON document."""
        self.send(_document(status, body, *headers))

    def refuse(self, status: int, kind: str, message: str) -> None:
        """Answer with an error document, after a moment in which nothing more is read."""
        body = json.dumps({"errorMessage": message, "errorType": kind}).encode()
        self._rest(_document(status, body))

    def refuse_request_id(self) -> None:
        """Answer that the request id is not the current one."""
        self.refuse(400, "InvalidRequestID", "Invalid request ID")

    def _refuse_oversize(self, action: str) -> None:
        self._refuse_size(self._limit)
        if action in ("response", "error", "collected"):
            self._api.oversize(self._request_id)

    def _refuse_size(self, limit: int) -> None:
        self.refuse(413, "RequestEntityTooLarge", f"Exceeded maximum allowed payload size ({limit} bytes).")

    def _rest(self, answer: bytes = b"") -> None:
        """Read nothing for a moment, then answer."""
        if self._transport is not None:
            self._resting = True
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self._end_rest, answer)

    def _end_rest(self, answer: bytes) -> None:
        self._resting = False
        self._resume()
        self.send(answer)

    def _resume(self) -> None:
        blocked = self._resting or (self._stream is not None and self._stream.paused)
        if self._transport is not None and not blocked:
            self._transport.resume_reading()

    def abort(self) -> None:
        """Drop the connection."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()


def _document(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
