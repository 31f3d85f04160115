"""Reading request bodies, bounded in size and time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from insula.lambda_api.service import ModelledOperation
from insula.lambda_api.shapes import SerializationException
from insula.model.errors import LambdaError, RequestEntityTooLargeException

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

READ_SECONDS = 300.0
_DRAIN_BYTES = 16 * 1024 * 1024
_DRAIN_SECONDS = 10.0


class ClientDisconnected(Exception):
    """The client went away before its request was complete."""


class RequestTimeoutException(LambdaError):
    """The body did not arrive in time."""

    status = 408


async def read_body(receive: Receive, length: bytes | None, operation: ModelledOperation) -> bytes:
    """The whole body.

    Args:
        length: the Content-Length header.

    Raises:
        RequestEntityTooLargeException: the body is over the operation's limit; the rest was not read.
        RequestTimeoutException: it took over five minutes.
        ClientDisconnected: the client went away.
    """
    if length is not None and _number(length) > operation.body_limit:
        raise _too_large(operation)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnected
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        body = await _read_rest(receive, body, operation)
    if len(body) > operation.body_limit:
        raise _too_large(operation)
    return body


async def drain(receive: Receive) -> None:
    """Throw away what the client is still sending, so that it gets to read our refusal.

    Bounded: a client that sends more than 16 MiB, or slowly, has its connection closed instead.
    """
    left = _DRAIN_BYTES
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return
    except TimeoutError:
        return


async def _read_rest(receive: Receive, first: bytes, operation: ModelledOperation) -> bytes:
    body = bytearray(first)
    try:
        async with asyncio.timeout(READ_SECONDS):
            while len(body) <= operation.body_limit:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnected
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
    except TimeoutError:
        raise RequestTimeoutException(f"The request's body did not arrive within {READ_SECONDS:.0f} s.") from None
    return bytes(body)


def _number(text: bytes) -> int:
    if not text.isdigit() or len(text) > 18:
        raise SerializationException("The Content-Length header is not a number.")
    return int(text)


def _too_large(operation: ModelledOperation) -> RequestEntityTooLargeException:
    return RequestEntityTooLargeException(
        f"Request must be smaller than {operation.body_limit} bytes for the {operation.action} operation"
    )
