"""What a client may cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one connection, and the number of connections.

    Attributes:
        connections: at once; one more is answered with 503.
        head_bytes: of a request's line and headers, and of what a body's chunks carry beside the body.
        line_bytes: of a request's path and query.
        headers: of a request.
        body_bytes: how much of a body waits for the application before no more is read.
        pipelined: requests that wait behind the one that is answered; then the connection is closed.
        linger_bytes: thrown away after a refusal, so that the client gets to read it.
        head_seconds: from a connection's start, or from a request's first byte, to the end of its head.
        body_seconds: between two pieces of a body.
        write_seconds: without the client reading anything of an answer that it was sent.
        keep_alive_seconds: from an answer to the next request.
        linger_seconds: from a refusal, or from the last answer, to the end of the connection.
        check_seconds: how often all these times are looked at.
    """

    connections: int = 8192
    head_bytes: int = 64 * 1024
    line_bytes: int = 16 * 1024
    headers: int = 100
    body_bytes: int = 64 * 1024
    pipelined: int = 16
    linger_bytes: int = 1024 * 1024
    head_seconds: float = 30.0
    body_seconds: float = 30.0
    write_seconds: float = 60.0
    keep_alive_seconds: float = 75.0
    linger_seconds: float = 5.0
    check_seconds: float = 1.0
