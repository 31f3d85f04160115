"""A random world around the real dispatcher, made from a seed, with its promises checked after each turn."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import random
from collections import Counter
from collections.abc import Callable

import pytest

from insula.dispatch import forecast, pool, provision, quotas, spares
from insula.dispatch.environment import Environment
from insula.model.errors import LambdaError
from insula.model.function import PER_TENANT, FunctionVersion
from insula.model.invocation import Invocation, InvocationResult
from insula.model.settings import FunctionSettings
from insula.model.share import Shares, TenantLimits
from tests.simulation.driver import RandomDriver
from tests.simulation.fakes import FakeSandbox, Rig, deployed_name, new_function, new_invocation
from tests.simulation.history import History, Scale, expect
from tests.simulation.loop import VirtualLoop, run
from tests.simulation.promises import Promises
from tests.simulation.runtime_api import fake_runtime_api

_ACCOUNT = "111111111111"
_TENANTS = ("red", "blue", "Blue", "green", "white", "black", "grey", "pink")
_VERSIONS = (("f", "$LATEST"), ("f", "1"), ("g", "$LATEST"), ("shared", "$LATEST"))
_SECONDS = 12.0  # in which invocations arrive
_PATIENCE = 30.0  # longer than any init, the second try, the invocation and a shutdown phase
_REST = 60.0  # longer than anything lies idle or ready in vain, or is initialised
_LIMITS = (*[TenantLimits()] * 5, TenantLimits(1), TenantLimits(2, 2), TenantLimits(None, 1, 3))
_PAUSES = (0.0, 0.001, 0.02, 0.06, 0.3, 1.0)


def live(seed: int, tell: Callable[[str], None] = lambda _: None) -> Counter[str]:
    """Live through the world of a seed; how its invocations came out.

    Args:
        tell: hears each event, as one line.

    Raises:
        AssertionError: an invariant does not hold.
    """

    async def main() -> Counter[str]:
        world = World(seed, tell, scale)
        await world.run()
        return world.outcomes

    scale = _scale(random.Random(f"the scale of {seed}"))
    gc.disable()  # a quota that is held by nothing but a cycle lives until that is found: at the same moment each time
    try:
        with fake_runtime_api() as patch:
            _make_small(patch, scale)
            return run(main())
    finally:
        gc.enable()


def _scale(source: random.Random) -> Scale:
    return Scale(source.choice((1000, 1000, 1000, 20, 4)), 2.0, source.choice((10, 10, 10, 10, 1)))


def _make_small(patch: pytest.MonkeyPatch, scale: Scale) -> None:
    """Bring into reach what takes long or needs many."""
    patch.setattr(quotas, "SCALING_ENVIRONMENTS", scale.environments)
    patch.setattr(quotas, "SCALING_SECONDS", scale.seconds)
    patch.setattr(quotas, "REQUESTS_PER_CONCURRENCY", scale.requests)
    patch.setattr(forecast, "_HORIZON_SECONDS", 15.0)
    patch.setattr(spares, "_PAUSE_SECONDS", 3.0)
    patch.setattr(provision, "_PAUSE_SECONDS", 2.0)
    patch.setattr(pool, "PROVISIONED_INIT_SECONDS", 20.0)
    patch.setattr(Environment, "__hash__", _number)  # sets are in the same order each time


def _number(environment: Environment) -> int:
    sandbox = environment._sandbox
    assert isinstance(sandbox, FakeSandbox)
    return sandbox.number


class World:
    """Random arrivals, starts, answers, crashes, departures, updates and changes of limits."""

    def __init__(self, seed: int, tell: Callable[[str], None], scale: Scale) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self._loop = loop
        self._random = random.Random(seed)
        self._history = History(tell)
        self._driver = RandomDriver(self._random, self._history, self._wall, scale)
        self._rig = Rig(
            self._random.choice((1, 2, 4, 8, 20, 50)),
            idle_seconds=5.0,
            max_age=self._random.choice((3.0, 1000.0)),
            proactive=self._random.choice((0, 0, 1, 3)),
            driver=self._driver,
            shares=self._shares(),
        )
        self._promises = Promises(self._rig, self._history, scale)
        self._tenants = _TENANTS[: self._random.choice((2, 4, 8))]
        self._numbers = itertools.count(1)
        self._names = Counter[str]()
        self._failed = Counter[str]()
        self._functions = [self._deploy(name, version) for name, version in _VERSIONS]
        for name in ("f", "g"):
            self._set(name)
        self._callers: list[asyncio.Task[None]] = []
        self._leaving: list[asyncio.Task[None]] = []
        self.outcomes = Counter[str]()

    async def run(self) -> None:
        """Live through it.

        Raises:
            BrokenPromiseError: an invariant does not hold.
        """
        background = asyncio.create_task(self._rig.dispatcher.run())
        self._loop.on_turn = self._after_turn
        end = self._loop.time() + _SECONDS
        closes = self._loop.time() + self._random.uniform(0, 4 * _SECONDS)
        while self._loop.time() < min(end, closes):
            self._act()
            await asyncio.sleep(self._random.choice(_PAUSES))
        if closes < end:
            await self._close()
        else:
            await self._rest()
        expect(not background.done(), "the dispatcher's own task lives on", background)
        background.cancel()
        for caller in self._callers:
            with contextlib.suppress(asyncio.CancelledError):
                caller.result()

    async def _rest(self) -> None:
        """Nobody calls any more."""
        self._history.note("all have called")
        self._rig.memory = 1 << 40
        _, late = await asyncio.wait(self._callers, timeout=_PATIENCE)
        expect(not late, "L2, nobody waits for ever", late)
        await self._await_provisioned()
        self._provision(0)
        await asyncio.sleep(_REST)
        self._promises.check_end()
        pools = self._rig.dispatcher._pools
        expect(not pools, "empty pools are forgotten", list(pools))
        await self._rig.dispatcher.close(grace=0.0)

    async def _close(self) -> None:
        """The server stops in the middle of everything."""
        for _ in range(5):
            self._arrive()
            await asyncio.sleep(self._random.choice((0.0, 0.001)))
        self._history.note("the server stops")
        closing = asyncio.create_task(self._rig.dispatcher.close(grace=self._random.choice((0.0, 0.1, 5.0))))
        self._driver.closing = True
        for _ in range(3):
            self._arrive()
            await asyncio.sleep(self._random.choice(_PAUSES))
        _, late = await asyncio.wait([closing, *self._callers], timeout=_PATIENCE)
        expect(not late, "L2, nobody waits for ever for a server that stops", late)
        closing.result()
        await asyncio.sleep(2 * _SECONDS)  # until no rate of a tenant counts any more
        self._promises.check_end()

    async def _await_provisioned(self) -> None:
        current = self._rig.catalog.deployed["shared"]
        if current is None or current.deployment in self._driver.broken:
            return
        for _ in range(200):
            status = self._rig.dispatcher.provisioned(current.deployment)
            if status.available == status.requested:
                return
            await asyncio.sleep(0.5)
        expect(False, "what is provisioned is there one day", status)

    def _after_turn(self) -> None:
        self._promises.check()
        for task in list(self._leaving):
            awaited = task._fut_waiter  # type: ignore[attr-defined]
            if awaited is not None and awaited.done():  # and the caller goes away just before it is told
                task.cancel()
            if task.done() or task.cancelling():
                self._leaving.remove(task)

    def _wall(self) -> float:
        return self._rig.wall()

    # What happens

    def _deploy(self, name: str, version: str) -> FunctionVersion:
        self._names[name] += 1
        function = new_function(
            f"{name}-{self._names[name]}",
            name=name,
            version=version,
            tenancy=None if name == "shared" else PER_TENANT,
            timeout=self._random.choice((1, 3)),
        )
        if self._random.random() < 0.05:
            self._driver.broken.add(function.deployment)
        self._rig.catalog.deployed[deployed_name(function)] = function
        return function

    def _act(self) -> None:
        chance = self._random.random()
        if chance < 0.12:
            self._promises.check()  # before a limit changes
            self._change(chance)
        else:
            for _ in range(self._random.choice((1, 1, 1, 1, 4))):
                self._arrive()

    def _change(self, chance: float) -> None:
        if chance < 0.03:
            self._update()
        elif chance < 0.05:
            self._reserve(self._random.choice("fg"), self._random.choice((None, 0, 1, 2, 5)))
        elif chance < 0.065:
            self._provision(self._random.choice((0, 1, 3)))
        elif chance < 0.08:
            self._history.note("the limits of tenants change")
            self._rig.quotas.shares = self._shares()
        elif chance < 0.09:
            self._rig.memory = self._random.choice((0, 1 << 40))
            self._history.note(f"the host has {self._rig.memory} bytes left")
        elif chance < 0.1:
            self._set(self._random.choice("fg"))
        elif chance < 0.11:
            self._rig.step += self._random.choice((-3600.0, -1.0, 1.0, 3600.0))
            self._history.note("the clock is set")
        else:
            self._driver.collapse()

    def _update(self) -> None:
        """A function is deployed anew, or deleted; a later update makes it again."""
        index = self._random.randrange(len(self._functions))
        name, version = _VERSIONS[index]
        old = self._rig.catalog.deployed[name if version == "$LATEST" else f"{name}:{version}"]
        new = self._deploy(name, version)
        if old is not None and self._random.random() < 0.1:
            self._rig.catalog.deployed[deployed_name(old)] = None
        elif self._random.random() < 0.8:  # else callers still name the old one
            self._functions[index] = new
        if old is not None:
            self._history.retire(old.deployment)
            self._rig.dispatcher.retire(old.deployment)

    def _reserve(self, name: str, concurrency: int | None) -> None:
        self._history.note(f"{name} reserves {concurrency}")
        self._rig.dispatcher.reserve(_ACCOUNT, name, concurrency)

    def _provision(self, count: int) -> None:
        current = self._rig.catalog.deployed["shared"]
        if current is not None:
            self._history.note(f"{current.deployment} has {count} provisioned")
            self._rig.dispatcher.provision(current, count)

    def _shares(self) -> Shares:
        return Shares(self._random.choice(_LIMITS), {"red": self._random.choice(_LIMITS)})

    def _set(self, name: str) -> None:
        own = FunctionSettings(self._random.random() < 0.5, self._random.choice((None, None, 0, 1, 3)))
        self._history.note(f"{name}: {own}")
        self._rig.catalog.own[name] = own

    def _arrive(self) -> None:
        function = self._random.choice(self._functions)
        tenant = self._random.choice(self._tenants) if function.per_tenant else None
        task = asyncio.create_task(self._call(new_invocation(function, tenant, next(self._numbers))))
        self._callers.append(task)
        chance = self._random.random()
        if chance < 0.1:
            self._loop.call_later(self._random.choice((0.0, 0.01, 0.1, 1.0)), task.cancel)
        elif chance < 0.15:
            self._cancel_in(self._random.randrange(12), task)
        elif chance < 0.2:
            self._leaving.append(task)

    def _cancel_in(self, turns: int, task: asyncio.Task[None]) -> None:
        """The caller goes away after so many turns of the loop, in which no time needs to pass."""
        if turns:
            self._loop.call_soon(self._cancel_in, turns - 1, task)
        else:
            task.cancel()

    async def _call(self, invocation: Invocation) -> None:
        name = f"{invocation.request_id[-4:]} for {invocation.function.deployment}, {invocation.tenant}"
        self._history.note(f"{name} arrives")
        self._history.arrive(invocation.request_id)
        try:
            result = await self._rig.dispatcher.invoke(invocation)
        except LambdaError as error:
            expect("security check" not in error.message, "T2, the last look finds nothing", invocation)
            outcome = error.code
        else:
            self._check_result(invocation, result)
            outcome = result.error or "answered"
        self._history.note(f"{name}: {outcome}")
        self.outcomes[outcome] += 1

    def _check_result(self, invocation: Invocation, result: InvocationResult) -> None:
        if result.error is None:
            wanted = f"{invocation.function.name}- {invocation.tenant} {invocation.request_id}"
            deployment, _, rest = result.payload.decode().partition(" ")
            found = f"{deployment.rstrip('0123456789')} {rest}"
            expect(found == wanted, "T2, the answer is to the question", wanted, found)
        elif result.payload.startswith(b'{"init":'):
            deployment = result.payload.decode().split('"')[3]
            self._failed[deployment] += 1
            made = [sandbox for sandbox in self._driver.made if sandbox.deployment == deployment and sandbox.gone]
            failed = sum(not sandbox.invocations_begun for sandbox in made)
            expect(2 * self._failed[deployment] <= failed, "each second failure answers one", deployment, failed)
