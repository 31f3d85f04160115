"""What the platform says of one environment: lines of its log, and telemetry while an extension listens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from insula.dispatch.events import Events
from insula.dispatch.log import Log
from insula.dispatch.report import (
    Failure,
    extension_line,
    init_report_line,
    init_start_line,
    report_lines,
    start_line,
)
from insula.model.function import FunctionVersion
from insula.model.invocation import Invocation
from insula.runtime_api.extensions import Extension
from insula.runtime_api.telemetry import Telemetry


@dataclass(slots=True)
class Outcome:
    """How an invocation went.

    Attributes:
        duration: seconds.
        init: seconds that initialization took, for an environment's first invocation.
        produced: bytes of the answer.
        failure: why the platform ended it, if it did.
        error: type of the error that the function or its runtime reported.
    """

    invocation: Invocation
    duration: float
    init: float | None
    produced: int
    failure: Failure | None
    error: str | None


class Journal:
    """Tells an environment's life, in the log always and to extensions if any subscribed.

    Args:
        phase: in which it is initialised, ``init`` or ``invoke``.
        provisioned: whether it is one of a version's provisioned environments.
        wall: unix seconds.
    """

    def __init__(
        self,
        log: Log,
        telemetry: Telemetry,
        function: FunctionVersion,
        *,
        phase: str,
        provisioned: bool,
        wall: Callable[[], float],
    ) -> None:
        self._log = log
        self._telemetry = telemetry
        self._events = Events(telemetry, function, phase=phase, provisioned=provisioned)
        self._function = function
        self._phase = phase
        self._wall = wall

    def init_started(self) -> None:
        """The first line."""
        self._log.platform(init_start_line(self._function))
        self._events.init_started()

    def init_ended(self, seconds: float, extensions: Sequence[Extension]) -> None:
        """The runtime and all extensions are ready; what they printed until now stands before."""
        self._log.drain()
        for extension in extensions:
            self._log.platform(extension_line(extension.name, extension.events))
        if self._telemetry.active:
            self._events.init_ended(seconds, extensions)
        self._telemetry.end_init()

    def init_failed(self, seconds: float, failure: Failure) -> None:
        """The environment ended before it was ready."""
        self._log.platform(init_report_line(seconds, failure.status, failure.kind, self._phase))

    def started(self, invocation: Invocation) -> None:
        """An invocation begins."""
        self._log.platform(start_line(invocation))
        if self._telemetry.active:
            self._events.started(invocation)

    def failed(self, invocation: Invocation, failure: Failure) -> None:
        """The platform ends an invocation; ``finished`` follows."""
        request_id = invocation.request_id
        if failure.status == "timeout":
            stamp = datetime.fromtimestamp(self._wall(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
            self._log.platform(f"{stamp} {request_id} {failure.message}")
        else:
            self._log.platform(f"RequestId: {request_id} Error: {failure.message}\n{failure.kind}")

    def finished(self, outcome: Outcome, peak: int) -> None:
        """An invocation is over; ``peak`` is the most bytes of memory that were used at once."""
        invocation, failure = outcome.invocation, outcome.failure
        lines = report_lines(invocation, duration=outcome.duration, init=outcome.init, peak=peak, failure=failure)
        for line in lines:
            self._log.platform(line)
        if self._telemetry.active:
            self._events.finished(
                invocation,
                duration=outcome.duration,
                init=outcome.init,
                peak=peak,
                produced=outcome.produced,
                failure=failure or (Failure(outcome.error, "") if outcome.error else None),
            )
