"""A driver whose sandboxes start slowly or not at all, with runtimes and extensions that do what these do."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable

from insula.dispatch.variables import PROVISIONED_CONCURRENCY
from insula.model.invocation import Invocation
from insula.sandbox.driver import Exit, SandboxError, SandboxSpec
from tests.simulation.fakes import KILLED, FakeDriver, FakeSandbox
from tests.simulation.history import History, Scale

_EXITS = (Exit(0, None), Exit(1, None), KILLED, Exit(None, 11), Exit(None, 9, out_of_memory=True))
_OUTAGE_SECONDS = 0.5  # after the death of the spawner


class RandomDriver(FakeDriver):
    """Makes sandboxes that live their own lives.

    Args:
        source: of all chance.
        history: who is told.
        wall: unix seconds.
        scale: limits of this world.

    Attributes:
        broken: deployments that can never be initialised.
        closing: whether the server stops, and ends what works.
    """

    def __init__(self, source: random.Random, history: History, wall: Callable[[], float], scale: Scale) -> None:
        super().__init__(self._animate)
        self.broken: set[str] = set()
        self.closing = False
        self._random = source
        self._history = history
        self._wall = wall
        self._scale = scale
        self._loop = asyncio.get_running_loop()
        self._starts: defaultdict[str, list[float]] = defaultdict(list)
        self._down_until = 0.0
        self._failing = source.choice((0.0, 0.02, 0.1))  # of those that are to be made

    async def create(self, spec: SandboxSpec) -> FakeSandbox:
        self._check_start(spec)
        if self._loop.time() < self._down_until:
            raise SandboxError("the spawner is dead")
        gate: asyncio.Future[None] = self._loop.create_future()
        self.gates.append(gate)
        delay, fails = self._random.choice((0.0, 0.01, 0.2)), self._random.random() < self._failing
        self._loop.call_later(delay, self._open, gate, fails)
        return await super().create(spec)

    def collapse(self) -> None:
        """The spawner dies, and with it all sandboxes."""
        self._history.note("the spawner dies")
        self._down_until = self._loop.time() + _OUTAGE_SECONDS
        for sandbox in self.live:
            self._end(sandbox, KILLED)

    def _check_start(self, spec: SandboxSpec) -> None:
        deployment, now = str(spec.code), self._loop.time()
        _, retired = self._history.retirement(deployment)
        self._expect(now <= retired, "no environment is made of a retired deployment", deployment)
        if spec.environment["AWS_LAMBDA_INITIALIZATION_TYPE"] == PROVISIONED_CONCURRENCY:
            return
        starts = self._starts[deployment.rpartition("-")[0]]
        starts.append(now)
        recent = sum(start > now - self._scale.seconds for start in starts)
        self._expect(recent <= self._scale.environments, "Q1, scaling rate", deployment, recent)

    def _open(self, gate: asyncio.Future[None], fails: bool) -> None:
        if fails and not gate.done():
            gate.set_exception(self._random.choice((SandboxError("no room"), OSError(12, "memory"), IndexError())))
        elif not gate.done():
            gate.set_result(None)

    def _animate(self, sandbox: FakeSandbox) -> None:
        sandbox.teardown = self._random.choice((0.0, 0.0, 0.01, 0.5))
        sandbox.lag = self._random.choice((0.0, 0.0, 0.001, 0.05))
        sandbox.grace = self._random.choice((0.0, 0.0, 0.0, 0.5, 2.0))
        sandbox.ignores_term = self._random.random() < 0.3
        sandbox.on_event = lambda invocation: self._work(sandbox, invocation)
        sandbox.on_dismissed = lambda reason: self._dismissed(sandbox, reason)
        sandbox.serving.add_done_callback(lambda _: self._initialise(sandbox))
        if self._random.random() < 0.3:
            self._later(self._random.uniform(0, 10), self._die, sandbox)
        if self._random.random() < 0.2:
            self._later(self._random.uniform(0, 2), self._reconnect, sandbox)
        if sandbox.grace and self._random.random() < 0.2:
            self._later(self._random.uniform(0, 10), self._crash_extension, sandbox)
        self._note(sandbox, "is made")

    def _die(self, sandbox: FakeSandbox) -> None:
        if sandbox.alive:
            self._note(sandbox, "dies")
            self._end(sandbox, self._random.choice(_EXITS))

    def _end(self, sandbox: FakeSandbox, how: Exit) -> None:
        """Its connections are seen to close before all of it is gone."""
        sandbox.die(how)
        if sandbox.serving.done():
            self._later(self._random.choice((0.0, 0.001)), sandbox.hang_up)

    def _reconnect(self, sandbox: FakeSandbox) -> None:
        """The runtime hangs up while it waits for an event, and asks again."""
        if sandbox.alive and sandbox.invocations_begun and sandbox.current is None and not sandbox.frozen:
            self._note(sandbox, "hangs up")
            sandbox.hang_up()
            self._later(self._random.choice((0.0, 0.02, 0.2)), self._poll, sandbox)

    def _crash_extension(self, sandbox: FakeSandbox) -> None:
        if not sandbox.alive or not sandbox.serving.done():
            return
        self._note(sandbox, "loses an extension")
        sandbox.extension_failed = True
        if self._random.random() < 0.5:
            sandbox.on_extension_exit("extension")
        else:
            sandbox.fail_extension("Extension.Crash", b"{}")

    def _dismissed(self, sandbox: FakeSandbox, reason: str) -> None:
        self._note(sandbox, f"is dismissed: {reason}")
        work = sandbox.current
        if work is not None and not (sandbox.extension_failed or self.closing):
            late = self._wall() * 1000 >= sandbox.deadline_ms - 2 or self._loop.time() >= sandbox.until - 0.001
            self._expect(late, "what works is not ended", reason, work.request_id)
        if reason != "KILL" and self._random.random() < 0.5:  # its extensions are quick
            self._later(self._random.choice((0.0, 0.1)), sandbox.on_extension_exit, "extension")

    def _initialise(self, sandbox: FakeSandbox) -> None:
        chance, delay = self._random.random(), self._random.choice((0.0, 0.01, 0.1, 0.5))
        if sandbox.deployment in self.broken:
            chance = self._random.choice((0.0, 0.0, 0.06))
        if chance < 0.05:
            self._later(delay, sandbox.fail_init, f'{{"init":"{sandbox.deployment}"}}'.encode())
        elif chance < 0.1:
            self._later(delay, self._die, sandbox)
        elif chance < 0.98:  # else it hangs
            self._later(delay, self._first_poll, sandbox)

    def _first_poll(self, sandbox: FakeSandbox) -> None:
        self._note(sandbox, "is initialised")
        sandbox.poll()

    def _work(self, sandbox: FakeSandbox, invocation: Invocation) -> None:
        self._note(sandbox, f"gets {invocation.request_id[-4:]} of {invocation.tenant}")
        self._check_work(sandbox, invocation)
        sandbox.until = self._loop.time() + invocation.function.timeout
        chance, delay = self._random.random(), self._random.choice((0.0, 0.001, 0.02, 0.2, 1.0))
        answer = f"{sandbox.deployment} {invocation.tenant} {invocation.request_id}".encode()
        if chance < 0.05:
            self._later(delay, self._die, sandbox)
            return
        if chance < 0.08:
            return  # it hangs
        if chance < 0.13:
            self._later(delay, sandbox.raise_error, b"{}")
        elif chance < 0.16:
            self._later(delay, sandbox.answer_too_much)
        elif chance < 0.2:
            sandbox.memory_used = 1 << 40
        else:
            self._later(delay, sandbox.answer, answer)
        if self._random.random() < 0.97:  # else it answers and never polls again
            self._later(delay + self._random.choice((0.0, 0.0, 0.001, 0.2)), self._poll, sandbox)

    def _check_work(self, sandbox: FakeSandbox, invocation: Invocation) -> None:
        history, request = self._history, invocation.request_id
        tenants = {served.tenant for served in sandbox.served}
        self._expect(not sandbox.killed, "what was ended is given no work", sandbox.number, request)
        self._expect(len(tenants) == 1, "T1, one environment serves one tenant", tenants)
        self._expect(
            invocation.function.deployment == sandbox.deployment, "T2, and one deployment", sandbox.deployment, request
        )
        self._expect(request not in history.delivered, "L2, an invocation runs once", request)
        history.delivered.add(request)
        retired, _ = history.retirement(sandbox.deployment)
        self._expect(history.arrived[request] < retired, "who arrives after an update gets it", request)
        left = sandbox.deadline_ms / 1000 - self._wall()
        self._expect(abs(left - invocation.function.timeout) < 0.01, "the deadline is right", request, left)

    def _poll(self, sandbox: FakeSandbox) -> None:
        """A runtime polls once it has answered, and the Runtime API refuses it before."""
        if sandbox.current is None and not sandbox.frozen:  # it may have polled before, and been frozen since
            sandbox.poll()

    def _later(self, delay: float, what: Callable[..., object], *arguments: object) -> None:
        self._loop.call_later(delay, what, *arguments)

    def _note(self, sandbox: FakeSandbox, event: str) -> None:
        self._history.note(f"{sandbox.deployment} #{sandbox.number} {event}")

    def _expect(self, holds: object, promise: str, *found: object) -> None:
        self._history.expect(holds, promise, *found)
