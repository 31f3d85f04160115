"""Requests and answers as bytes on a connection, so that the client costs microseconds.

A boto3 call costs about a millisecond of client time, several times what is measured.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

import httptools

TIMEOUT = 30.0
"""Seconds to wait for one answer."""


class WireError(Exception):
    """An answer did not come, or is not the expected one; the message says how."""


@dataclass(frozen=True, slots=True)
class Request:
    """One ready-made HTTP request.

    Attributes:
        raw: head and body, signed.
        expected: the body of a right answer.
    """

    raw: bytes
    expected: bytes


class Reader:
    """Reads the answers of one kept-alive connection."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._error = b""
        self._complete = False

    def feed(self, data: bytes) -> bool:
        """Take what was received; whether an answer is complete.

        Raises:
            WireError: the peer does not speak HTTP/1.1.
        """
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise WireError(f"malformed answer: {error}") from error
        return self._complete

    def take(self, expected: bytes) -> str | None:
        """Check the complete answer and forget it; what is wrong with it, or None."""
        status, error, body = self._parser.get_status_code(), self._error, self._body
        self._body, self._error, self._complete = b"", b"", False
        if status == 200 and not error and body == expected:
            return None
        text = repr(body[:120])
        if status != 200:
            return f"status {status}: {text}"
        if error:
            return f"function error {error.decode('latin-1')}: {text}"
        return f"wrong body: {text} instead of {expected!r}"

    # Called by httptools.

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-amz-function-error":
            self._error = value

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._complete = True


def connect(host: str, port: int) -> socket.socket:
    """Open a connection that sends small writes at once.

    Raises:
        OSError: nobody listens there.
    """
    connection = socket.create_connection((host, port), TIMEOUT)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class Connection:
    """One kept-alive connection that is used by one caller at a time."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = connect(host, port)
        self._reader = Reader()

    def call(self, request: Request) -> float:
        """Send a request and wait for its answer; seconds between the two.

        Raises:
            WireError: the answer is missing or wrong.
        """
        start = time.perf_counter()
        try:
            self._socket.sendall(request.raw)
            while not self._reader.feed(self._receive()):
                pass
        except OSError as error:
            raise WireError(f"connection: {error}") from error
        seconds = time.perf_counter() - start
        if problem := self._reader.take(request.expected):
            raise WireError(problem)
        return seconds

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _receive(self) -> bytes:
        data = self._socket.recv(65536)
        if not data:
            raise WireError("connection closed without an answer")
        return data
