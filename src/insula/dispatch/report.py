"""The platform's own log lines, and the error documents of invocations that the platform ended.

Sources: https://docs.aws.amazon.com/lambda/latest/dg/python-logging.html and what AWS answers (see
tests/functional/test_failures.py).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from insula.model.function import FunctionVersion
from insula.model.invocation import Invocation
from insula.model.limits import RESPONSE_PAYLOAD_BYTES
from insula.sandbox.driver import Exit

_MAX_MESSAGE = 1024  # characters that an extension may say
_SIGNALS = {
    4: "illegal instruction",
    6: "aborted",
    7: "bus error",
    8: "floating point exception",
    9: "killed",
    11: "segmentation fault",
    15: "terminated",
    31: "bad system call",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the platform ended an invocation.

    Attributes:
        kind: AWS's ``errorType``.
        message: AWS's ``errorMessage``, after the request id.
        status: the REPORT line's status: ``error`` or ``timeout``.
    """

    kind: str
    message: str
    status: str = "error"

    def document(self, request_id: str) -> bytes:
        """The payload that the caller gets."""
        message = f"RequestId: {request_id} Error: {self.message}"
        return json.dumps({"errorType": self.kind, "errorMessage": message}, separators=(",", ":")).encode()


def timed_out(seconds: float) -> Failure:
    """The function, or its initialization, took too long."""
    return Failure("Sandbox.Timedout", f"Task timed out after {seconds:.2f} seconds", "timeout")


def exited(how: Exit) -> Failure:
    """The runtime process ended, or there was none."""
    if how.entrypoint is not None:
        return Failure("Runtime.InvalidEntrypoint", how.entrypoint)
    if how.out_of_memory:
        return Failure("Runtime.OutOfMemory", "Runtime exited with error: signal: killed")
    if how.signal is not None:
        name = _SIGNALS.get(how.signal, f"signal {how.signal}")
        return Failure("Runtime.ExitError", f"Runtime exited with error: signal: {name}")
    if how.status == 0:
        return Failure("Runtime.ExitError", "Runtime exited without providing a reason")
    return Failure("Runtime.ExitError", f"Runtime exited with error: exit status {how.status}")


def extension_failed(kind: str, body: bytes) -> Failure:
    """An extension reported an error of its own, with a document that may have an ``errorMessage``."""
    try:
        message = json.loads(body)["errorMessage"]
    except (ValueError, TypeError, LookupError, RecursionError):
        message = None
    return Failure(kind, message[:_MAX_MESSAGE] if isinstance(message, str) else "extension reported an error")


def oversize_document() -> bytes:
    """The payload in place of an answer that was over the limit."""
    message = f"Response payload size exceeded maximum allowed payload size ({RESPONSE_PAYLOAD_BYTES} bytes)."
    document = {"errorType": "Function.ResponseSizeTooLarge", "errorMessage": message}
    return json.dumps(document, separators=(",", ":")).encode()


def init_start_line(function: FunctionVersion) -> str:
    """First line of a stream."""
    runtime = function.runtime.replace("python", "python:")
    return f"INIT_START Runtime Version: {runtime}\tRuntime Version ARN: {function.runtime_version_arn}"


def init_report_line(seconds: float, status: str, kind: str, phase: str = "init") -> str:
    """Last line of an initialisation that failed; ``kind`` is AWS's error type, ``phase`` ``init`` or ``invoke``."""
    fields = [f"INIT_REPORT Init Duration: {seconds * 1000:.2f} ms", f"Phase: {phase}", f"Status: {status}"]
    if status == "error":
        fields.append(f"Error Type: {kind}")
    return "\t".join(fields)


def extension_line(name: str, events: tuple[str, ...]) -> str:
    """Says that an extension is ready, and for what."""
    return f"EXTENSION\tName: {name}\tState: Ready\tEvents: [{', '.join(events)}]"


def start_line(invocation: Invocation) -> str:
    """First line of an invocation."""
    return f"START RequestId: {invocation.request_id} Version: {invocation.function.version}"


def report_lines(
    invocation: Invocation, *, duration: float, init: float | None, peak: int, failure: Failure | None
) -> tuple[str, str]:
    """END and REPORT; durations in seconds, ``peak`` in bytes. ``init`` only for an environment's first invocation."""
    request_id, function = invocation.request_id, invocation.function
    fields = [
        f"REPORT RequestId: {request_id}",
        f"Duration: {duration * 1000:.2f} ms",
        f"Billed Duration: {billed_ms(duration, init)} ms",
        f"Memory Size: {function.memory} MB",
        f"Max Memory Used: {used_mb(peak, function)} MB",
    ]
    if init is not None:
        fields.append(f"Init Duration: {init * 1000:.2f} ms")
    if failure is not None:
        fields.append(f"Status: {failure.status}")
        if failure.status == "error":
            fields.append(f"Error Type: {failure.kind}")
    return f"END RequestId: {request_id}", "\t".join(fields) + "\t"


def billed_ms(duration: float, init: float | None) -> int:
    """Milliseconds that an invocation costs. AWS bills the init phase with the first one (since August 2025)."""
    return math.ceil((duration + (init or 0.0)) * 1000)


def used_mb(peak: int, function: FunctionVersion) -> int:
    """Memory that was used at most, as AWS shows it: never more than there is."""
    return min(math.ceil(peak / (1 << 20)), function.memory)
