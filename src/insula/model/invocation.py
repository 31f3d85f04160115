"""One invocation, and its outcome."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from insula.model.function import FunctionVersion
from insula.model.stream import ResponseStream

# Ids must be unique, not secret, and are made twice per invocation: three system calls saved each time.
_random = random.Random()  # noqa: S311 - seeded by the operating system


@dataclass(frozen=True, slots=True)
class Invocation:
    """A request to run a function version once.

    Attributes:
        request_id: AWS request id, a UUID.
        payload: the event, JSON as bytes.
        tenant: tenant id, for functions in tenant isolation mode.
        invoked_arn: the ARN that the caller used, qualifier included.
        client_context: JSON text (already decoded from base64), or None.
        trace_id: value of ``X-Amzn-Trace-Id``.
        tail: whether the caller wants the last 4 KB of the log.
        stream: where a streamed answer goes; None collects it.
    """

    request_id: str
    function: FunctionVersion
    payload: bytes
    invoked_arn: str
    tenant: str | None = None
    client_context: str | None = None
    trace_id: str = ""
    tail: bool = False
    stream: ResponseStream | None = None


@dataclass(frozen=True, slots=True)
class InvocationResult:
    """What a synchronous caller gets.

    Attributes:
        payload: the handler's answer, or the error document; empty if the answer was streamed.
        error: ``Unhandled`` or ``Handled`` if the function failed, else None. Of a streamed answer that broke off, the
            error type that its runtime gave.
        executed_version: ``$LATEST`` or the number of the version that ran.
        log_tail: the last 4 KB of the log, if asked for.
    """

    payload: bytes
    error: str | None
    executed_version: str
    log_tail: bytes | None = None


def new_request_id() -> str:
    """A fresh request id, a random UUID (RFC 9562, version 4)."""
    bits = f"{_random.getrandbits(128):032x}"
    return f"{bits[:8]}-{bits[8:12]}-4{bits[13:16]}-{'89ab'[int(bits[16], 16) & 3]}{bits[17:20]}-{bits[20:]}"


def new_trace_id() -> str:
    """A fresh X-Ray trace header, unsampled.

    Source: https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader
    """
    bits = f"{_random.getrandbits(160):040x}"
    return f"Root=1-{int(time.time()):08x}-{bits[:24]};Parent={bits[24:]};Sampled=0"
