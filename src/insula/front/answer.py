"""Answers as bytes."""

from __future__ import annotations

import http
import json
from collections.abc import Iterable, Sequence

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus}
_REFUSALS = {
    400: "The request is not well-formed. RFC 9112 says how it is written.",
    408: "The request did not arrive in time.",
    414: "The request's path and query are too long.",
    417: "The only expectation that is met here is 100-continue.",
    431: "The request's headers are too many or too long.",
    500: "An error occurred in the service.",
    501: "The only transfer coding that is understood here is chunked.",
    503: "There are too many connections. Try again.",
    505: "The only versions of HTTP that are spoken here are 1.1 and 1.0.",
}


def head(status: int, *blocks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Status line and headers.

    Raises:
        ValueError: a header would forge another one, or another answer.
    """
    parts = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
    lines = 2
    for block in blocks:
        for name, value in block:
            parts += (name, b": ", value, b"\r\n")
            lines += 1
    parts.append(b"\r\n")
    whole = b"".join(parts)
    if whole.count(b"\n") != lines or whole.count(b"\r") != lines or b"\0" in whole:
        raise ValueError("a header of the answer holds a line break or a zero byte")
    return whole


def refusal(status: int, date: Sequence[tuple[bytes, bytes]], *, bodiless: bool = False) -> bytes:
    """The front's own answer, after which the connection is closed.

    Args:
        bodiless: answer a HEAD request.
    """
    body = json.dumps({"message": _REFUSALS[status]}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    return head(status, date, headers) + (b"" if bodiless else body)
