"""A random world around the real dispatcher, made from a seed, with its promises checked after each turn."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter

from insula.dispatch.environment import Environment, State
from insula.dispatch.idle import FREEZE_SECONDS
from insula.model.errors import LambdaError
from insula.model.function import FunctionVersion
from insula.model.invocation import Invocation, InvocationResult
from insula.model.settings import FunctionSettings
from insula.model.share import Shares, TenantLimits
from insula.sandbox.driver import Exit, SandboxError
from tests.simulation.fakes import FakeDriver, FakeSandbox, Rig, deployed_name, new_function, new_invocation
from tests.simulation.loop import VirtualLoop

_ACCOUNT = "111111111111"
_TENANTS = ("blue", "green", "Blue", "red")
_SECONDS = 12.0  # in which invocations arrive
_PATIENCE = 30.0  # longer than any init, any invocation and the end of the idle ones after it
_HORIZON = 700.0  # longer than anything lies ready in vain
_EXITS = (Exit(0, None), Exit(1, None), Exit(None, 9), Exit(None, 11), Exit(None, 9, out_of_memory=True))
_LIMITS = (TenantLimits(), TenantLimits(), TenantLimits(1), TenantLimits(2, 2), TenantLimits(None, 1, 3))


class BrokenPromiseError(AssertionError):
    """An invariant does not hold."""


class World:
    """Random arrivals, starts, answers, crashes, departures, updates and changes of limits."""

    def __init__(self, seed: int) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self._loop = loop
        self._random = random.Random(seed)
        self._driver = _RandomDriver(self._random)
        self._rig = Rig(
            self._random.choice((1, 2, 4, 8, 20)),
            idle_seconds=5.0,
            max_age=self._random.choice((3.0, 1000.0)),
            proactive=self._random.choice((0, 0, 1, 3)),
            driver=self._driver,
            shares=self._shares(),
        )
        self._numbers = 0
        self._names = Counter[str]()
        for name in ("f", "g"):
            self._rig.catalog.own[name] = FunctionSettings(evict_idle=self._random.random() < 0.5)
        self._functions = [self._deploy(name, version) for name, version in _VERSIONS]
        self._callers: list[asyncio.Task[None]] = []
        self._before = Counter[object]()
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
        self._rig.memory = 1 << 40
        _, late = await asyncio.wait(self._callers, timeout=_PATIENCE)
        _expect(not late, "L2, nobody waits for ever", late)
        self._provision(0)
        await asyncio.sleep(_PATIENCE)
        self._loop.on_turn = None  # nothing happens but that what lies ready ends one day
        await asyncio.sleep(_HORIZON)
        self._check_rest()
        _expect(not background.done(), "the dispatcher's own task lives on", background)
        await self._rig.dispatcher.close(grace=0.0)
        background.cancel()
        for caller in self._callers:
            with contextlib.suppress(asyncio.CancelledError):
                caller.result()

    # What happens

    def _deploy(self, name: str, version: str) -> FunctionVersion:
        self._names[name] += 1
        tenancy = None if name == "shared" else "PER_TENANT"
        function = new_function(f"{name}-{self._names[name]}", name=name, version=version, tenancy=tenancy)
        self._rig.catalog.deployed[deployed_name(function)] = function
        return function

    def _act(self) -> None:
        chance = self._random.random()
        if chance < 0.08:
            self._check()  # before a limit changes
        if chance < 0.03:
            self._update()
        elif chance < 0.05:
            self._rig.dispatcher.reserve(_ACCOUNT, self._random.choice("fg"), self._random.choice((None, 0, 1, 2, 5)))
        elif chance < 0.06:
            self._provision(self._random.choice((0, 1, 3)))
        elif chance < 0.07:
            self._rig.quotas.shares = self._shares()
        elif chance < 0.08:
            self._rig.memory = self._random.choice((0, 1 << 40))
        else:
            for _ in range(self._random.choice((1, 1, 1, 1, 4))):
                self._arrive()

    def _update(self) -> None:
        index = self._random.randrange(len(self._functions))
        old = self._functions[index]
        new = self._deploy(old.name, old.version)
        if self._random.random() < 0.8:  # else callers still name the old one
            self._functions[index] = new
        self._rig.dispatcher.retire(old.deployment)

    def _provision(self, count: int) -> None:
        current = self._rig.catalog.deployed["shared"]
        assert current is not None
        self._rig.dispatcher.provision(current, count)

    def _shares(self) -> Shares:
        return Shares(self._random.choice(_LIMITS), {"red": self._random.choice(_LIMITS)})

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
            wanted = f"{invocation.function.name}- {invocation.tenant} {invocation.request_id}"
            deployment, _, rest = result.payload.decode().partition(" ")
            found = f"{deployment.rstrip('0123456789')} {rest}"
            _expect(found == wanted, "T2, the answer is to the question", wanted, found)
        self.outcomes[result.error or "answered"] += 1

    # What must hold

    def _check(self) -> None:
        _expect(not self._driver.breaches, "isolation", *self._driver.breaches)
        rig = self._rig
        environments = list(rig.dispatcher.environments())
        self._check_environments(environments)
        self._check_limits(environments)
        alive = rig.dispatcher.made - rig.dispatcher.ended
        _expect(alive == len(environments), "L3, made = ended + alive", alive, len(environments))
        slots = rig.quotas.taken - rig.quotas.given
        _expect(slots == rig.quotas.running, "L2, taken = given + running", slots, rig.quotas.running)
        for (deployment, tenant), tenancy in rig.tenancies.items():
            waiting = [waiter for waiter in tenancy.waiters if not waiter.done()]
            idle = [*tenancy.idle, *tenancy.provisioned]
            _expect(not (waiting and idle), "nobody waits beside an idle environment", deployment, tenant)
            supplied = tenancy.coming or tenancy.environments
            _expect(supplied or not waiting, "L2, something comes for who waits", deployment, tenant)
            for environment in idle:
                _expect(environment.state is State.IDLE, "the idle ones are idle", environment.state)
                _expect(environment.tenant == tenant, "T1, each lies in its own tenant's store", tenant)

    def _check_environments(self, environments: list[Environment]) -> None:
        idle, kept, now = self._rig.dispatcher.idle, self._rig.dispatcher.kept, self._loop.time()
        for environment in environments:
            served = environment._sandbox.served  # type: ignore[attr-defined]  # a fake one
            _expect(environment.bound or not served, "T3, an unbound environment has run nothing", served)
            frozen = environment._sandbox.frozen  # type: ignore[attr-defined]
            if environment.state is State.BUSY:
                _expect(not frozen, "a busy environment is not frozen", environment)
            elif environment in idle or environment in kept:
                cool = now - environment.idle_since < FREEZE_SECONDS + 0.002
                _expect(frozen or cool or not environment._sandbox.alive, "an idle one is frozen", environment)  # type: ignore[attr-defined]

    def _check_limits(self, environments: list[Environment]) -> None:
        quotas = self._rig.quotas
        busy = [environment for environment in environments if environment.state is State.BUSY]
        _expect(len(busy) <= quotas.running <= quotas.concurrency, "Q1, of the account", len(busy), quotas.running)
        for name in ("f", "g"):  # not "shared", which has no tenants
            quota = quotas.function(_ACCOUNT, name)
            bound = sum(environment.bound and environment.function.name == name for environment in environments)
            _expect(bound <= quota.environments, "Q1, all environments are counted", bound, quota.environments)
            self._not_above(("environments", name), quota.environments, quota.most_environments)
            self._not_above(("reserved", name), quota.running, quota.reserved)
        running = Counter(environment.tenant for environment in busy)
        owned = Counter(environment.tenant for environment in environments if environment.bound)
        for name, tenant in quotas._accounts[_ACCOUNT].tenants.items():
            limits = quotas.shares.of(name)
            _expect(running[name] <= tenant.running, "Q1, a tenant's invocations are counted", name)
            _expect(owned[name] <= tenant.environments, "Q1, a tenant's environments are counted", name)
            self._not_above(("running", name), tenant.running, limits.concurrency)
            self._not_above(("owned", name), tenant.environments, limits.environments)

    def _not_above(self, what: object, now: int, limit: int | None) -> None:
        """What is above a limit that was lowered does not grow."""
        allowed = max(limit, self._before[what]) if limit is not None else now
        _expect(now <= allowed, "Q1, a limit", what, now, limit)
        self._before[what] = now

    def _check_rest(self) -> None:
        """All callers have left, and every environment was idle for longer than it is kept."""
        rig = self._rig
        _expect(rig.quotas.running == 0, "L2, slots are given back", rig.quotas.running)
        _expect(not self._driver.live, "L3, no environment stays", len(self._driver.live))
        _expect(rig.quotas.rooms == 0, "Q1, none stays counted", rig.quotas.rooms)
        _expect(not rig.dispatcher._pools, "empty pools are forgotten", list(rig.dispatcher._pools))
        _expect(not rig.dispatcher._busy, "no environment stays busy", rig.dispatcher._busy)
        _expect(not len(rig.dispatcher.idle) + len(rig.dispatcher.kept), "the shelves are empty", rig.dispatcher.idle)
        for account in rig.quotas._accounts.values():
            _expect(not account.tenants, "tenants without anything are forgotten", account.tenants)
            _expect(account.shared == 0, "Q1, what is shared is given back", account.shared)


_VERSIONS = (("f", "$LATEST"), ("f", "1"), ("g", "$LATEST"), ("shared", "$LATEST"))


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
        sandbox.grace = self._random.choice((0.0, 0.0, 0.0, 0.5, 2.0))
        sandbox.ignores_term = self._random.random() < 0.3
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
