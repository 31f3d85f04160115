"""A random world around the real dispatcher, made from a seed, with its promises checked after each turn."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter

from insula.dispatch.environment import State
from insula.model.errors import LambdaError
from insula.model.function import FunctionVersion
from insula.model.invocation import Invocation, InvocationResult
from insula.sandbox.driver import Exit, SandboxError
from tests.simulation.fakes import FakeDriver, FakeSandbox, Rig, new_function, new_invocation
from tests.simulation.loop import VirtualLoop

_TENANTS = ("blue", "green", "Blue")
_SECONDS = 12.0  # in which invocations arrive
_PATIENCE = 30.0  # longer than any init, any invocation and the end of the idle ones after it
_EXITS = (Exit(0, None), Exit(1, None), Exit(None, 9), Exit(None, 11), Exit(None, 9, out_of_memory=True))


class BrokenPromiseError(AssertionError):
    """An invariant does not hold."""


class World:
    """Random arrivals, starts, answers, crashes and departures."""

    def __init__(self, seed: int) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self._loop = loop
        self._random = random.Random(seed)
        self._driver = _RandomDriver(self._random)
        self._rig = Rig(self._random.randint(1, 8), idle_seconds=5.0, driver=self._driver)
        self._numbers = 0
        self._names = Counter[str]()
        self._functions = [self._deploy(name) for name in ("f", "f", "g", "shared")]
        self._callers: list[asyncio.Task[None]] = []
        self.outcomes = Counter[str]()

    async def run(self) -> None:
        """Live through it.

        Raises:
            BrokenPromiseError: an invariant does not hold.
        """
        background = asyncio.create_task(self._rig.dispatcher.run())
        self._loop.on_turn = self._check
        end = self._loop.time() + _SECONDS
        while self._loop.time() < end:
            self._act()
            await asyncio.sleep(self._random.choice((0.0, 0.001, 0.02, 0.06, 0.3, 1.0)))
        _, late = await asyncio.wait(self._callers, timeout=_PATIENCE)
        _expect(not late, "L2, nobody waits for ever", late)
        await asyncio.sleep(_PATIENCE)
        self._check_rest()
        _expect(not background.done(), "the dispatcher's own task lives on", background)
        await self._rig.dispatcher.close(grace=0.0)
        background.cancel()
        self._loop.on_turn = None
        for caller in self._callers:
            with contextlib.suppress(asyncio.CancelledError):
                caller.result()

    # What happens

    def _deploy(self, name: str) -> FunctionVersion:
        self._names[name] += 1
        tenancy = None if name == "shared" else "PER_TENANT"
        return new_function(f"{name}-{self._names[name]}", name=name, tenancy=tenancy)

    def _act(self) -> None:
        chance = self._random.random()
        if chance < 0.02:
            index = self._random.randrange(len(self._functions))
            old = self._functions[index]
            self._functions[index] = self._deploy(old.name)
            self._rig.dispatcher.retire(old.deployment)
        else:
            for _ in range(self._random.choice((1, 1, 1, 1, 4))):
                self._arrive()

    def _arrive(self) -> None:
        function = self._random.choice(self._functions)
        tenant = self._random.choice(_TENANTS) if function.per_tenant else None
        self._numbers += 1
        task = asyncio.create_task(self._call(new_invocation(function, tenant, self._numbers)))
        self._callers.append(task)
        if self._random.random() < 0.15:
            self._loop.call_later(self._random.choice((0.0, 0.01, 0.1, 1.0)), task.cancel)

    async def _call(self, invocation: Invocation) -> None:
        try:
            result = await self._rig.dispatcher.invoke(invocation)
        except LambdaError as error:
            _expect("security check" not in error.message, "T2, the last look finds nothing", invocation)
            self.outcomes[error.code] += 1
        else:
            self._check_result(invocation, result)

    def _check_result(self, invocation: Invocation, result: InvocationResult) -> None:
        if result.error is None:
            expected = f"{invocation.function.deployment} {invocation.tenant} {invocation.request_id}"
            _expect(result.payload.decode() == expected, "T2, the answer is to the question", expected, result.payload)
        self.outcomes[result.error or "answered"] += 1

    # What must hold

    def _check(self) -> None:
        _expect(not self._driver.breaches, "isolation", *self._driver.breaches)
        self._check_limits()
        for (deployment, tenant), tenancy in self._rig.tenancies.items():
            waiting = [waiter for waiter in tenancy.waiters if not waiter.done()]
            _expect(not (waiting and tenancy.idle), "nobody waits beside an idle environment", deployment, tenant)
            supplied = tenancy.coming or tenancy.environments
            _expect(supplied or not waiting, "L2, something comes for who waits", deployment, tenant)
            for environment in tenancy.idle:
                _expect(environment.state is State.IDLE, "the idle ones are idle", environment.state)
                _expect(environment.tenant == tenant, "T1, each lies in its own tenant's store", tenant)

    def _check_limits(self) -> None:
        driver, quotas = self._driver, self._rig.quotas
        busy = sum(sandbox.current is not None for sandbox in driver.live)
        _expect(busy <= quotas.running <= quotas.concurrency, "Q1, of the account", busy, quotas.running)
        existing = Counter(sandbox.deployment.partition("-")[0] for sandbox in driver.live)
        for name in ("f", "g"):  # not "shared", which has no tenants
            counted = quotas.environments(f"111111111111:{name}")
            _expect(existing[name] <= counted, "Q1, all environments are counted", existing, counted)
            _expect(counted <= quotas.tenant_environments, "Q1, of the function", name, counted)

    def _check_rest(self) -> None:
        """All callers have left, and every environment was idle for longer than it is kept."""
        rig = self._rig
        _expect(rig.quotas.running == 0, "L2, slots are given back", rig.quotas.running)
        _expect(not self._driver.live, "L3, no environment stays", len(self._driver.live))
        _expect(not rig.quotas._environments, "Q1, none stays counted", rig.quotas._environments)
        _expect(not rig.dispatcher._pools, "empty pools are forgotten", list(rig.dispatcher._pools))
        _expect(not rig.dispatcher._busy, "no environment stays busy", rig.dispatcher._busy)


class _RandomDriver(FakeDriver):
    """Starts that are slow or fail, and a runtime that does what runtimes do."""

    def __init__(self, source: random.Random) -> None:
        super().__init__(self._animate)
        self._random = source
        self.breaches: list[object] = []

    async def create(self, spec: object) -> FakeSandbox:
        loop = asyncio.get_running_loop()
        gate: asyncio.Future[None] = loop.create_future()
        self.gates.append(gate)
        loop.call_later(self._random.choice((0.0, 0.01, 0.2)), self._open, gate, self._random.random() < 0.1)
        return await super().create(spec)  # type: ignore[arg-type]

    def _open(self, gate: asyncio.Future[None], fails: bool) -> None:
        if fails and not gate.done():
            gate.set_exception(self._random.choice((SandboxError("no room"), OSError(12, "memory"), IndexError())))
        elif not gate.done():
            gate.set_result(None)

    def _animate(self, sandbox: FakeSandbox) -> None:
        sandbox.teardown = self._random.choice((0.0, 0.0, 0.01, 0.5))
        sandbox.on_event = lambda invocation: self._work(sandbox, invocation)
        sandbox.serving.add_done_callback(lambda _: self._initialise(sandbox))
        if self._random.random() < 0.3:
            self._later(self._random.uniform(0, 10), sandbox.die, self._random.choice(_EXITS))

    def _initialise(self, sandbox: FakeSandbox) -> None:
        chance, delay = self._random.random(), self._random.choice((0.0, 0.01, 0.1, 0.5))
        if chance < 0.05:
            self._later(delay, sandbox.fail_init, b'{"errorType":"Runtime.ImportModuleError"}')
        elif chance < 0.1:
            self._later(delay, sandbox.die, self._random.choice(_EXITS))
        elif chance < 0.98:  # else it hangs
            self._later(delay, sandbox.poll)

    def _work(self, sandbox: FakeSandbox, invocation: Invocation) -> None:
        if len({served.tenant for served in sandbox.served}) > 1:
            self.breaches.append(("T1, one environment serves one tenant", sandbox.served))
        if invocation.function.deployment != sandbox.deployment:
            self.breaches.append(("T2, and one deployment", sandbox.served))
        chance, delay = self._random.random(), self._random.choice((0.0, 0.001, 0.02, 0.2, 1.0))
        answer = f"{sandbox.deployment} {invocation.tenant} {invocation.request_id}".encode()
        if chance < 0.05:
            self._later(delay, sandbox.die, self._random.choice(_EXITS))
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

    def _poll(self, sandbox: FakeSandbox) -> None:
        """A runtime polls once it has answered, and the Runtime API refuses it before."""
        if sandbox.current is None:
            sandbox.poll()

    def _later(self, delay: float, what: object, *arguments: object) -> None:
        assert callable(what)
        asyncio.get_running_loop().call_later(delay, what, *arguments)


def _expect(holds: object, promise: str, *found: object) -> None:
    if not holds:
        raise BrokenPromiseError(f"{promise}: {found}")
