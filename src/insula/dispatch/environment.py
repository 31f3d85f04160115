"""One execution environment: from its sandbox's start to the moment that nothing of it is left.

    STARTING ──next──▶ IDLE ──run──▶ BUSY ──answer──▶ FINISHING ──next──▶ IDLE
        └───────────────┴─────────────┴──────────────────┴──── kill, exit ──▶ ENDED

An environment that answered is FINISHING until its runtime polls again: it is nearly idle, and whoever waits for one
should rather wait for it than start another.
"""

from __future__ import annotations

import asyncio
import enum
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from insula.dispatch.report import (
    Failure,
    exited,
    init_report_line,
    init_start_line,
    oversize_document,
    report_lines,
    start_line,
    timed_out,
)
from insula.model.function import FunctionVersion
from insula.model.invocation import Invocation, InvocationResult
from insula.model.limits import INIT_TIMEOUT_SECONDS, LOG_TAIL_BYTES
from insula.runtime_api.server import RuntimeApi, RuntimeFailure
from insula.sandbox.driver import Exit, Sandbox
from insula.telemetry.logs import LogStream

_LOG_CHUNK = 1 << 16
_MAX_LINE = 1 << 18  # a line without end is cut: CloudWatch's limit for one event
_MAX_LINES = 1024  # of one chunk; what follows in it becomes one event: a flood of tiny lines must not hold the loop
_MAX_DRAIN = 2  # chunks: what was in the pipe (pipe(7): 64 KiB) when the answer came; not what is still being written
# After more than this many bytes at once the function waits for its reader, so that other environments need not.
_LOG_BURST = 4096
_LOG_PAUSE_SECONDS = 0.01


class State(enum.Enum):
    """Where an environment is in its life."""

    STARTING = enum.auto()
    IDLE = enum.auto()
    BUSY = enum.auto()
    FINISHING = enum.auto()
    ENDED = enum.auto()


class Owner(Protocol):
    """Who is told of changes: the pool."""

    def on_idle(self, environment: Environment) -> None:
        """It is ready for an invocation."""
        ...

    def on_failed_start(self, environment: Environment, outcome: Callable[[Invocation], InvocationResult]) -> None:
        """It ended before it was ever ready; ``outcome`` is what that means for an invocation that waited for it."""
        ...

    def on_ended(self, environment: Environment) -> None:
        """Nothing of it is left."""
        ...


class TenancyViolationError(Exception):
    """An invocation was about to run in an environment that is not its own. Nothing was handed over."""


@dataclass(slots=True)
class _Run:
    """The invocation that an environment works on."""

    invocation: Invocation
    future: asyncio.Future[InvocationResult]
    started: float
    tail: bytearray | None


class Environment:
    """An execution environment of one function version, bound to at most one tenant in its life (T1).

    Args:
        function: whose code runs in it.
        sandbox: where it runs; its runtime was started.
        stream: where its log goes.
        owner: who is told of its changes.
        on_settled: called when an invocation is over, whether or not its caller still waits.
        clock: monotonic seconds.
        wall: unix seconds.
    """

    def __init__(
        self,
        function: FunctionVersion,
        sandbox: Sandbox,
        stream: LogStream,
        owner: Owner,
        *,
        on_settled: Callable[[Environment], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.function = function
        self.tenant: str | None = None
        self.state = State.STARTING
        self.idle_since = 0.0
        self._bound = False
        self._served = 0
        self._sandbox = sandbox
        self._stream = stream
        self._owner = owner
        self._on_settled = on_settled
        self._clock = clock
        self._wall = wall
        self._api = RuntimeApi(self)
        self._loop = asyncio.get_running_loop()
        self._run: _Run | None = None
        self._partial = b""
        self._init_started = sandbox.started
        self._init: float | None = None
        self._init_error: RuntimeFailure | None = None
        self._init_tail = bytearray()  # for a caller who waits for an environment that never starts
        self._failure: Failure | None = None
        self._timer = self._loop.call_later(INIT_TIMEOUT_SECONDS, self._on_init_timeout)  # until the next poll
        self._ended: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Serve the Runtime API and follow the log."""
        self._log(init_start_line(self.function))
        self._ended = asyncio.create_task(self._watch())
        self._follow_log()
        try:
            await self._api.serve(self._sandbox.listener)
        except OSError:
            self.kill()  # _watch cleans up and tells the owner

    def bind(self, tenant: str | None) -> None:
        """Give the environment to a tenant, once and for all.

        Raises:
            TenancyViolationError: it was bound before.
        """
        if self._bound:
            self._violation(f"bound to {self.tenant!r}, and was to be bound to {tenant!r}")
        self._bound = True
        self.tenant = tenant

    def run(self, invocation: Invocation) -> asyncio.Future[InvocationResult]:
        """Hand an invocation to the runtime; the future is its result.

        Raises:
            TenancyViolationError: the invocation is another function version's or tenant's. The environment is killed.
        """
        # T2, the last look before the payload leaves: whatever went wrong above, it stops here.
        if (
            not self._bound
            or self.tenant != invocation.tenant
            or self.function.deployment != invocation.function.deployment
            or self.state is not State.IDLE
        ):
            self._violation(
                f"{self.state.name} for {self.function.arn} ({self.function.deployment}), tenant {self.tenant!r}, "
                f"and was to run {invocation.function.arn} ({invocation.function.deployment}), "
                f"tenant {invocation.tenant!r}"
            )
        now = self._clock()
        timeout = self.function.timeout
        self._api.deliver(invocation, int((self._wall() + timeout) * 1000))
        self.state = State.BUSY
        future: asyncio.Future[InvocationResult] = self._loop.create_future()
        self._timer = self._loop.call_later(timeout, self._on_timeout)
        self._run = _Run(invocation, future, now, bytearray() if invocation.tail else None)
        self._log(start_line(invocation))
        return future

    def check_memory(self) -> None:
        """End it if it uses more memory than the function has."""
        self._sandbox.check_memory()

    def kill(self) -> None:
        """End it now."""
        self._sandbox.kill()

    async def wait(self) -> None:
        """Wait until nothing of it is left."""
        if self._ended is not None:
            await asyncio.shield(self._ended)

    # The runtime speaks: Listener of the Runtime API.

    def on_next(self) -> None:
        """The runtime is ready."""
        if self._init_error is not None or self._failure is not None:
            return  # it is being ended
        if self.state is State.STARTING:
            self._take_log()  # what init printed stands before START
            self._init = self._clock() - self._init_started
            self._sandbox.begin_invocations()
        elif self.state is not State.FINISHING:
            return
        self._timer.cancel()
        self.state = State.IDLE
        self.idle_since = self._clock()
        self._owner.on_idle(self)

    def on_response(self, request_id: str, payload: bytes) -> None:  # noqa: ARG002
        """The function answered."""
        self._finish(payload, None, None)

    def on_error(self, request_id: str, error: RuntimeFailure) -> None:  # noqa: ARG002
        """The function raised."""
        self._finish(error.body, "Unhandled", None)

    def on_oversize(self, request_id: str) -> None:  # noqa: ARG002
        """The answer was too large."""
        self._finish(oversize_document(), "Unhandled", None)

    def on_init_error(self, error: RuntimeFailure) -> None:
        """The runtime gives up; it exits by itself, and if not, it is made to."""
        self._init_error = error
        self.kill()

    # The clock speaks.

    def _on_timeout(self) -> None:
        """An answer does not stop the clock, only the poll after it does: else who never polls would never end."""
        self._failure = timed_out(self.function.timeout)
        run = self._run
        if run is not None:
            self._take_log()
            self._log(f"{_timestamp(self._wall())} {run.invocation.request_id} {self._failure.message}")
        self.kill()
        self._finish_failed(self._failure)

    def _on_init_timeout(self) -> None:
        self._failure = timed_out(INIT_TIMEOUT_SECONDS)
        self.kill()

    # The sandbox speaks.

    async def _watch(self) -> None:
        how = await self._sandbox.wait()
        self._take_log()
        self._end(how)

    def _end(self, how: Exit) -> None:
        was, self.state = self.state, State.ENDED
        self._timer.cancel()
        self._loop.remove_reader(self._sandbox.log)
        self._api.close()
        failure = self._failure or exited(how)
        if was is State.BUSY:
            self._finish_failed(failure)
        elif was is State.STARTING:
            self._fail_start(failure)
        os.close(self._sandbox.log)
        self._stream.close()
        self._owner.on_ended(self)

    def _fail_start(self, failure: Failure) -> None:
        posted = self._init_error
        kind = failure.kind if posted is None else posted.kind
        self._stream_init_report(failure.status, kind)
        tail = bytes(self._init_tail[-LOG_TAIL_BYTES:])

        def outcome(invocation: Invocation) -> InvocationResult:
            payload = failure.document(invocation.request_id) if posted is None else posted.body
            kept = tail if invocation.tail else None
            return InvocationResult(payload, "Unhandled", self.function.version, kept)

        self._owner.on_failed_start(self, outcome)

    def _stream_init_report(self, status: str, kind: str) -> None:
        line = init_report_line(self._clock() - self._init_started, status, kind)
        self._stream.write(line, platform=True)
        self._init_tail += line.encode() + b"\n"

    # The end of an invocation.

    def _finish_failed(self, failure: Failure) -> None:
        run = self._run
        if run is not None:
            if failure.status == "error":
                self._log(f"RequestId: {run.invocation.request_id} Error: {failure.message}\n{failure.kind}")
            self._finish(failure.document(run.invocation.request_id), "Unhandled", failure)

    def _finish(self, payload: bytes, error: str | None, failure: Failure | None) -> None:
        run = self._run
        if run is None:
            return
        self._take_log()
        self._run = None
        if self.state is State.BUSY:
            self.state = State.FINISHING if failure is None else State.ENDED
        duration = self._clock() - run.started
        init = self._init if self._served == 0 else None
        self._served += 1
        peak = self._sandbox.peak_memory()
        for line in report_lines(run.invocation, duration=duration, init=init, peak=peak, failure=failure):
            self._log(line, run)
        tail = None if run.tail is None else bytes(run.tail[-LOG_TAIL_BYTES:])
        if not run.future.done():
            run.future.set_result(InvocationResult(payload, error, self.function.version, tail))
        self._on_settled(self)

    # The log.

    def _log(self, line: str, run: _Run | None = None) -> None:
        self._stream.write(line, platform=True)
        self._keep_tail(line, run or self._run)

    def _keep_tail(self, line: str, run: _Run | None) -> None:
        tail = self._init_tail if self.state is State.STARTING else None if run is None else run.tail
        if tail is None:
            return
        tail += line.encode() + b"\n"
        if len(tail) > 4 * LOG_TAIL_BYTES:
            del tail[:-LOG_TAIL_BYTES]

    def _take_log(self) -> None:
        """Take what the function wrote so far, a line without end too: the platform's next line stands behind it."""
        for _ in range(_MAX_DRAIN):
            if not self._read_log():
                break
        if self._partial:
            self._flush_partial(self._run)

    def _follow_log(self) -> None:
        if self.state is not State.ENDED:  # what is left then is read once the sandbox is gone
            self._loop.add_reader(self._sandbox.log, self._on_log)

    def _on_log(self) -> None:
        size = self._read_log()
        if size is None:
            return
        if size == 0 or size > _LOG_BURST:
            self._loop.remove_reader(self._sandbox.log)
        if size > _LOG_BURST:
            self._loop.call_later(_LOG_PAUSE_SECONDS, self._follow_log)

    def _read_log(self) -> int | None:
        """Take what is there; returns how many bytes, 0 at the end and None if there is nothing now."""
        try:
            chunk = os.read(self._sandbox.log, _LOG_CHUNK)
        except BlockingIOError:
            return None
        *lines, rest = (self._partial + chunk).split(b"\n", _MAX_LINES)
        if b"\n" in rest:
            flood, _, rest = rest.rpartition(b"\n")
            lines.append(flood)
        self._partial = rest
        for line in lines:
            self._write_line(line, self._run)
        if len(self._partial) > _MAX_LINE:
            self._flush_partial(self._run)
        return len(chunk)

    def _flush_partial(self, run: _Run | None) -> None:
        line, self._partial = self._partial, b""
        self._write_line(line, run)

    def _write_line(self, line: bytes, run: _Run | None) -> None:
        # awslambdaric joins the lines of a traceback by carriage returns, to keep them one event.
        text = line.decode("utf-8", "replace").replace("\r", "\n")
        self._stream.write(text)
        self._keep_tail(text, run)

    def _violation(self, what: str) -> None:
        self.kill()
        raise TenancyViolationError(f"environment {self._sandbox.spec.id} is {what}; it was killed")


def _timestamp(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
