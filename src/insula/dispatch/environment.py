"""One execution environment: from its sandbox's start to the moment that nothing of it is left.

    STARTING ──next──▶ IDLE ──run──▶ BUSY ──answer──▶ FINISHING ──next──▶ IDLE
        │                └─────────────┴── end ──┬───────┘
        │                                        ▼
        │                                     ENDING   (SHUTDOWN phase, with extensions only)
        └───────────────────── kill, exit ───────┴──▶ ENDED

An environment that answered is FINISHING until its runtime and its extensions poll again: it is nearly idle, and
whoever waits for one should rather wait for it than start another.

Source: https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from insula.dispatch.journal import Journal, Outcome
from insula.dispatch.log import Log
from insula.dispatch.report import Failure, exited, extension_failed, oversize_document, timed_out
from insula.dispatch.start import Start
from insula.model.function import FunctionVersion
from insula.model.invocation import Invocation, InvocationResult
from insula.model.stream import ResponseStream
from insula.runtime_api.server import RuntimeApi, RuntimeFailure
from insula.runtime_api.telemetry import Telemetry
from insula.sandbox.driver import Exit, Sandbox
from insula.telemetry.logs import LogStream

# Of the shutdown phase, at its end, in which the runtime has heard SIGTERM; before, extensions write what they hold.
_TERMINATION_SECONDS = 0.5
_ON_DEMAND = Start()


class State(enum.Enum):
    """Where an environment is in its life."""

    STARTING = enum.auto()
    IDLE = enum.auto()
    BUSY = enum.auto()
    FINISHING = enum.auto()
    ENDING = enum.auto()
    ENDED = enum.auto()


class Owner(Protocol):
    """Who is told of changes: the pool."""

    def on_started(self, environment: Environment) -> None:
        """Its init is over; ``on_idle`` follows."""
        ...

    def on_idle(self, environment: Environment) -> None:
        """It is ready for an invocation."""
        ...

    def on_failed_start(self, environment: Environment, outcome: Callable[[Invocation], InvocationResult]) -> bool:
        """It ended before it was ever ready; ``outcome`` is what that means for an invocation that waited for it.

        Returns:
            Whether ``outcome`` will be called.
        """
        ...

    def on_unready(self, environment: Environment) -> None:
        """It was idle, and nobody may be given it any more, unless ``on_idle`` follows."""
        ...

    def on_ended(self, environment: Environment) -> None:
        """Nothing of it is left."""
        ...

    def dismiss(self, environment: Environment) -> None:
        """Told by others: it is idle, and is to end."""
        ...


class TenancyViolationError(Exception):
    """An invocation was about to run in an environment that is not its own. Nothing was handed over."""


@dataclass(slots=True)
class _Run:
    """The invocation that an environment works on."""

    invocation: Invocation
    future: asyncio.Future[InvocationResult]
    started: float


class Environment:
    """An execution environment of one function version, bound to at most one tenant in its life (T1).

    Args:
        function: whose code runs in it.
        sandbox: where it runs; its runtime was started.
        stream: where its log goes.
        owner: who is told of its changes.
        start: why it was started.
        on_settled: called when an invocation is over, whether or not its caller still waits.
        clock: monotonic seconds.
        wall: unix seconds.

    Attributes:
        born: when its runtime was started, monotonic seconds.
        idle_since: when it last became idle, monotonic seconds.
        init_seconds: how long init took; None until it is over.
        served: invocations that it has finished.
        successor: called once nothing of it is left, by who was promised its place in the function's share.
    """

    def __init__(
        self,
        function: FunctionVersion,
        sandbox: Sandbox,
        stream: LogStream,
        owner: Owner,
        *,
        start: Start = _ON_DEMAND,
        on_settled: Callable[[Environment], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.function = function
        self.owner = owner
        self.start = start
        self.tenant: str | None = None
        self.bound = False
        self.state = State.STARTING
        self.born = sandbox.started
        self.idle_since = 0.0
        self.init_seconds: float | None = None
        self.successor: Callable[[], None] | None = None
        self.served = 0
        self._sandbox = sandbox
        self._extensions = set(sandbox.spec.extensions)
        self._telemetry = Telemetry(sandbox.connect, wall, expected=bool(self._extensions))
        self._log = Log(stream, self._telemetry)
        self._journal = Journal(
            self._log, self._telemetry, function, phase=start.phase, provisioned=start.provisioned, wall=wall
        )
        self._on_settled = on_settled
        self._clock = clock
        self._wall = wall
        self._api = RuntimeApi(self, extensions=sandbox.spec.extensions, telemetry=self._telemetry)
        self._loop = asyncio.get_running_loop()
        self._run: _Run | None = None
        self._unrecorded: Outcome | None = None
        self._killed = False
        self._hung_up = False
        self._init_error: RuntimeFailure | None = None
        self._failure: Failure | None = None
        self._timer = self._loop.call_later(start.limit, self._on_init_timeout)  # until the next poll
        self._ended: asyncio.Task[None] | None = None
        sandbox.on_extension_exit = self._on_extension_exit

    async def open(self) -> None:
        """Serve the Runtime API and follow the log."""
        self._journal.init_started()
        self._ended = asyncio.create_task(self._watch())
        self._log.follow(self._sandbox.log, "extension" if self._extensions else "function")
        try:
            await self._api.serve(self._sandbox.listener)
        except OSError:
            self.kill()  # _watch cleans up and tells the owner

    def bind(self, tenant: str | None) -> None:
        """Give the environment to a tenant, once and for all.

        Raises:
            TenancyViolationError: it was bound before, or has run an invocation.
        """
        if self.bound or self.served:
            self._violation(f"bound to {self.tenant!r}, and was to be bound to {tenant!r}")
        self.bound = True
        self.tenant = tenant
        self._log.stream.bind(tenant)

    def run(self, invocation: Invocation) -> asyncio.Future[InvocationResult]:
        """Hand an invocation to the runtime; the future is its result.

        Raises:
            TenancyViolationError: the invocation is another function version's or tenant's. The environment is killed.
        """
        # T2, the last look before the payload leaves: whatever went wrong above, it stops here.
        if (
            not self.bound
            or self.tenant != invocation.tenant
            or self.function.deployment != invocation.function.deployment
            or self.state is not State.IDLE
        ):
            self._violation(
                f"{self.state.name} for {self.function.arn} ({self.function.deployment}), tenant {self.tenant!r}, "
                f"and was to run {invocation.function.arn} ({invocation.function.deployment}), "
                f"tenant {invocation.tenant!r}"
            )
        self._record()
        self._thaw()
        now = self._clock()
        timeout = self.function.timeout
        self._api.deliver(invocation, int((self._wall() + timeout) * 1000))
        self.state = State.BUSY
        self._timer = self._loop.call_later(timeout, self._on_timeout)
        self._run = run = _Run(invocation, self._loop.create_future(), now)
        self._log.tail = bytearray() if invocation.tail else None
        self._journal.started(invocation)
        return run.future

    def check_memory(self) -> None:
        """End it if it uses more memory than the function has."""
        self._sandbox.check_memory()

    def freeze(self) -> None:
        """Let nothing run in it until its next invocation."""
        self._sandbox.freeze()
        if self._telemetry.active:
            self._telemetry.pause()

    def _thaw(self) -> None:
        self._sandbox.thaw()
        if self._telemetry.active:
            self._telemetry.resume()

    def end(self, reason: str = "SPINDOWN") -> None:
        """End it, after a shutdown phase if it has extensions, at once if it has none.

        Args:
            reason: what extensions are told: ``SPINDOWN``, ``TIMEOUT`` or ``FAILURE``.
        """
        grace = self._api.grace
        if not grace or self.state in {State.STARTING, State.ENDING, State.ENDED}:
            self.kill()
            return
        self._leave_service(State.ENDING)
        self._timer.cancel()
        self._thaw()
        self._telemetry.flush()
        self._api.shutdown(reason, int((self._wall() + grace) * 1000))
        if grace <= _TERMINATION_SECONDS:
            self._terminate()
        else:
            self._timer = self._loop.call_later(grace - _TERMINATION_SECONDS, self._terminate)

    def kill(self) -> None:
        """End it now."""
        self._timer.cancel()
        self._killed = True  # a poll may be on its way
        if self.state not in {State.STARTING, State.ENDED}:
            self._leave_service(State.ENDING)
        self._sandbox.kill()

    def _leave_service(self, state: State) -> None:
        idle, self.state = self.state is State.IDLE, state
        if idle:
            self.owner.on_unready(self)

    async def wait(self) -> None:
        """Wait until nothing of it is left."""
        if self._ended is not None:
            await asyncio.shield(self._ended)

    # The runtime speaks: Listener of the Runtime API.

    def on_registered(self) -> None:
        """The extensions are there; now the runtime starts."""
        self._log.drain()
        self._log.source = "function"
        self._sandbox.start_runtime()

    def on_next(self) -> None:
        """The runtime and the extensions are ready."""
        if self._killed or self._failure is not None:
            return  # it is being ended
        if self.state is State.STARTING:
            self.init_seconds = self._clock() - self.born
            self._journal.init_ended(self.init_seconds, self._api.extensions.all)
            self._log.tail = None
            self._sandbox.begin_invocations()
            self.owner.on_started(self)
        elif self.state is not State.FINISHING:
            return
        self._timer.cancel()
        self.state = State.IDLE
        if not self._hung_up:  # else it has done nothing since: it is to be frozen, and to end, as if it had waited
            self.idle_since = self._clock()
        self._hung_up = False
        self.owner.on_idle(self)

    def on_hangup(self) -> None:
        """The runtime does not wait for an event any more: it died, or asks again."""
        if self.state is not State.IDLE:
            return
        if not self.bound or self.start.provisioned:  # it is there for whoever comes: another is sooner ready
            self.kill()
            return
        self._timer = self._loop.call_later(self.function.timeout, self._on_timeout)
        self._hung_up = True
        self._leave_service(State.FINISHING)

    def on_response(self, request_id: str, payload: bytes) -> None:  # noqa: ARG002
        """The function answered."""
        self._finish(payload, None, None)

    def on_stream(self, request_id: str, content_type: str) -> ResponseStream | None:  # noqa: ARG002
        """The function begins to answer piece by piece."""
        return None if self._run is None else self._run.invocation.stream

    def on_stream_end(self, request_id: str, error: RuntimeFailure | None) -> None:  # noqa: ARG002
        """The function sent its last piece, or its answer broke off."""
        if error is None:
            self._finish(b"", None, None)
        else:
            self._finish(error.body, error.kind, None, error.kind)

    def on_error(self, request_id: str, error: RuntimeFailure) -> None:  # noqa: ARG002
        """The function raised."""
        self._finish(error.body, "Unhandled", None, error.kind)

    def on_oversize(self, request_id: str) -> None:  # noqa: ARG002
        """The answer was too large."""
        self._finish(oversize_document(), "Unhandled", None)

    def on_init_error(self, error: RuntimeFailure) -> None:
        """The runtime gives up; it exits by itself, and if not, it is made to."""
        self._init_error = error
        self.kill()

    def on_extension_error(self, kind: str, body: bytes) -> None:
        """An extension gives up, and the environment with it."""
        if self._failure is None and self.state not in {State.ENDING, State.ENDED}:
            self._failure = extension_failed(kind, body)
            self.kill()

    # The clock speaks.

    def _on_timeout(self) -> None:
        """An answer does not stop the clock, only the poll after it does: else who never polls would never end."""
        self._failure = timed_out(self.function.timeout)
        self._log.drain()
        self.end("TIMEOUT")
        self._finish_failed(self._failure)

    def _on_init_timeout(self) -> None:
        self._failure = timed_out(self.start.limit)
        self.kill()

    def _terminate(self) -> None:
        self._sandbox.terminate()
        self._timer = self._loop.call_later(_TERMINATION_SECONDS, self._sandbox.kill)

    # The sandbox speaks.

    def _on_extension_exit(self, name: str) -> None:
        self._extensions.discard(name)
        if self.state is State.ENDING:
            if not self._extensions:  # all have written what they held
                self._timer.cancel()
                self._terminate()
        elif self.state is not State.ENDED and self._failure is None:
            self._failure = Failure("Extension.Crash", f"{name}: extension exited unexpectedly")
            self.kill()

    async def _watch(self) -> None:
        self._close(await self._sandbox.wait())

    def _close(self, how: Exit) -> None:
        self._record()
        self._log.end()
        was, self.state = self.state, State.ENDED
        self._timer.cancel()
        self._api.close()
        self._telemetry.close()
        failure = self._failure or exited(how)
        if how.out_of_memory and failure.kind == "Extension.Crash":
            failure = exited(how)
        if self._run is not None:
            self._finish_failed(failure)
        if was is State.STARTING:
            self._fail_start(failure)
        else:
            self._log.stream.close()
        self.owner.on_ended(self)

    def _fail_start(self, failure: Failure) -> None:
        posted = self._init_error
        if posted is not None:
            failure = Failure(posted.kind, "")
        seconds, peak = self._clock() - self.born, self._sandbox.peak_memory()
        self._journal.init_failed(seconds, failure)

        def outcome(invocation: Invocation) -> InvocationResult:
            """The invocation came no further than init: so say its lines and its answer."""
            self._journal.started(invocation)
            self._journal.finished(Outcome(invocation, seconds, None, 0, failure, None), peak)
            self._log.stream.close()
            payload = failure.document(invocation.request_id) if posted is None else posted.body
            kept = self._log.latest() if invocation.tail else None
            return InvocationResult(payload, "Unhandled", self.function.version, kept)

        if not self.owner.on_failed_start(self, outcome):
            self._log.stream.close()

    # The end of an invocation.

    def _finish_failed(self, failure: Failure) -> None:
        run = self._run
        if run is not None:
            self._journal.failed(run.invocation, failure)
            self._finish(failure.document(run.invocation.request_id), "Unhandled", failure)

    def _finish(self, payload: bytes, error: str | None, failure: Failure | None, kind: str | None = None) -> None:
        run = self._run
        if run is None:
            return
        self._run = None
        if self.state is State.BUSY:
            self.state = State.FINISHING
        stream = run.invocation.stream
        produced = len(payload) if stream is None else len(payload) + stream.size
        init = self.init_seconds if self.served == 0 else None
        self.served += 1
        self._unrecorded = Outcome(run.invocation, self._clock() - run.started, init, produced, failure, kind)
        tail = self._record() if run.invocation.tail or failure is not None else None
        if not run.future.done():
            run.future.set_result(InvocationResult(payload, error, self.function.version, tail))
        # The answer goes first, and is on its way while this is written.
        self._loop.call_soon(self._record)
        self._on_settled(self)

    def _record(self) -> bytes | None:
        """Write what is still to be said of the last invocation; returns the end of its log, if it was asked for."""
        outcome, self._unrecorded = self._unrecorded, None
        if outcome is None:
            return None
        self._log.drain()
        self._journal.finished(outcome, self._sandbox.peak_memory())
        tail = self._log.latest() if outcome.invocation.tail else None
        self._log.tail = None
        return tail

    def _violation(self, what: str) -> None:
        self.kill()
        raise TenancyViolationError(f"environment {self._sandbox.spec.id} is {what}; it was killed")
