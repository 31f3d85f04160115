"""Errors that a runtime reports, or that the way of its answer has."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RuntimeFailure:
    """An error that the runtime reported.

    Attributes:
        body: the error document as the runtime sent it.
        kind: value of ``Lambda-Runtime-Function-Error-Type``.
    """

    body: bytes
    kind: str


def truncated() -> RuntimeFailure:
    """A streamed answer broke off."""
    return _failure("Runtime.TruncatedResponse", "The runtime ended the connection before the response was complete.")


def too_large(limit: int) -> RuntimeFailure:
    """A streamed answer went over the limit."""
    return _failure(
        "Function.ResponseSizeTooLarge",
        f"Response payload size exceeded maximum allowed payload size ({limit} bytes).",
    )


def _failure(kind: str, message: str) -> RuntimeFailure:
    document = {"errorType": kind, "errorMessage": message}
    return RuntimeFailure(json.dumps(document, separators=(",", ":")).encode(), kind)
