"""Telemetry of one environment, composed as AWS documents it. Asked for only while somebody listens.

Source: https://docs.aws.amazon.com/lambda/latest/dg/telemetry-schema-reference.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from insula.dispatch.report import Failure, billed_ms, used_mb
from insula.model.function import FunctionVersion
from insula.model.invocation import Invocation
from insula.runtime_api.extensions import Extension
from insula.runtime_api.telemetry import Telemetry


class Events:
    """Tells of an environment's life.

    Args:
        telemetry: who listens.
        function: what runs in it.
        phase: of its initialization, ``init`` or ``invoke``.
        provisioned: whether it is one of a version's provisioned environments.
    """

    def __init__(self, telemetry: Telemetry, function: FunctionVersion, *, phase: str, provisioned: bool) -> None:
        self._telemetry = telemetry
        self._function = function
        kind = "provisioned-concurrency" if provisioned else "on-demand"
        self._init = {"initializationType": kind, "phase": phase}

    def init_started(self) -> None:
        """The first event."""
        record = {
            **self._init,
            "functionName": self._function.name,
            "functionVersion": self._function.version,
            "runtimeVersion": self._function.runtime.replace("python", "python:"),
            "runtimeVersionArn": self._function.runtime_version_arn,
        }
        self._telemetry.emit("platform.initStart", record)

    def init_ended(self, seconds: float, extensions: Sequence[Extension]) -> None:
        """Initialization is over, and went well."""
        for extension in extensions:
            record = {"name": extension.name, "state": "Ready", "events": list(extension.events)}
            self._telemetry.emit("platform.extension", record)
        record = {**self._init, "status": "success"}
        self._telemetry.emit("platform.initRuntimeDone", record)
        self._telemetry.emit("platform.initReport", {**record, "metrics": {"durationMs": _ms(seconds)}})

    def started(self, invocation: Invocation) -> None:
        """An invocation begins."""
        record = {**_subject(invocation), "version": self._function.version}
        self._telemetry.emit("platform.start", record)

    def finished(
        self,
        invocation: Invocation,
        *,
        duration: float,
        init: float | None,
        peak: int,
        produced: int,
        failure: Failure | None,
    ) -> None:
        """An invocation is over.

        Args:
            duration: seconds.
            init: seconds that initialization took, for an environment's first invocation.
            peak: most bytes of memory that were used at once.
            produced: bytes of the answer.
        """
        record = {**_subject(invocation), **_status(failure)}
        done = {"durationMs": _ms(duration), "producedBytes": produced}
        self._telemetry.emit("platform.runtimeDone", {**record, "metrics": done})
        metrics: dict[str, Any] = {
            "durationMs": _ms(duration),
            "billedDurationMs": billed_ms(duration, init),
            "memorySizeMB": self._function.memory,
            "maxMemoryUsedMB": used_mb(peak, self._function),
        }
        if init is not None:
            metrics["initDurationMs"] = _ms(init)
        self._telemetry.emit("platform.report", {**record, "metrics": metrics})


def _subject(invocation: Invocation) -> dict[str, Any]:
    subject: dict[str, Any] = {"requestId": invocation.request_id}
    if invocation.tenant is not None:
        subject["tenantId"] = invocation.tenant
    subject["tracing"] = {"type": "X-Amzn-Trace-Id", "value": invocation.trace_id}
    return subject


def _status(failure: Failure | None) -> dict[str, str]:
    if failure is None:
        return {"status": "success"}
    if failure.status == "timeout":
        return {"status": "timeout"}
    return {"status": failure.status, "errorType": failure.kind}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
