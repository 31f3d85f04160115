"""What must hold in every world, looked at after each turn of the event loop."""

from __future__ import annotations

import asyncio
from collections import Counter, deque

from insula.dispatch.environment import Environment, State
from insula.dispatch.idle import FREEZE_SECONDS
from insula.dispatch.pool import Pool
from insula.dispatch.quotas import FunctionQuota
from insula.dispatch.tenancy import Tenancy
from tests.simulation.fakes import FakeSandbox, Rig
from tests.simulation.history import History, Scale, expect

_COOLING = 2 * FREEZE_SECONDS + 0.002  # twice: one that is given away and comes back unused is timed once more
_SLACK = 1.2  # seconds: the dispatcher looks after what is old once a second


class Promises:
    """Looks at a dispatcher, and at nothing but what it keeps.

    Args:
        rig: the dispatcher and what is around it.
        history: what was noticed elsewhere.
        scale: limits of this world.
    """

    def __init__(self, rig: Rig, history: History, scale: Scale) -> None:
        self._rig = rig
        self._history = history
        self._scale = scale
        self._loop = asyncio.get_running_loop()
        self._before = Counter[object]()
        self._shelved: dict[Environment, float] = {}  # since when
        self._promised: dict[Environment, float] = {}  # since when; it is kept before time goes on
        self._taken: deque[tuple[float, int]] = deque([(0.0, 0)])

    def check(self) -> None:
        """Look now.

        Raises:
            BrokenPromiseError: a promise does not hold.
        """
        expect(not self._history.breaches, "outside", *self._history.breaches)
        rig = self._rig
        pools = list(rig.dispatcher._pools.values())
        environments = list(rig.dispatcher.environments())
        self._check_environments(environments)
        self._check_account(environments)
        for quota in {pool.quota: None for pool in pools}:
            self._check_function(quota, [pool for pool in pools if pool.quota is quota])
        self._check_tenants(pools, environments)
        promised: dict[Environment, float] = {}
        for pool in pools:
            self._check_pool(pool)
            for tenant, tenancy in pool._tenants.items():
                self._check_tenancy(pool, tenant, tenancy, promised)
        self._promised = promised

    def check_end(self) -> None:
        """Nobody has called for long, or the dispatcher was closed: nothing is left.

        Raises:
            BrokenPromiseError: something is left.
        """
        rig = self._rig
        dispatcher, quotas, driver = rig.dispatcher, rig.quotas, rig.driver
        expect(quotas.running == 0, "L2, slots are given back", quotas.running)
        expect(not driver.live, "L3, no environment stays", len(driver.live))
        expect(quotas.rooms == 0, "Q1, none stays counted", quotas.rooms)
        expect(not dispatcher._busy, "no environment stays busy", dispatcher._busy)
        expect(len(dispatcher.idle) + len(dispatcher.kept) == 0, "the shelves are empty", dispatcher.idle)
        quotas.sweep()
        for account in quotas._accounts.values():
            expect(not account.tenants, "tenants without anything are forgotten", account.tenants)
            expect(account.running == account.shared == 0, "Q1, what is shared is given back", account.shared)

    # One look

    def _check_environments(self, environments: list[Environment]) -> None:
        dispatcher, now = self._rig.dispatcher, self._loop.time()
        alive = dispatcher.made - dispatcher.ended
        expect(alive == len(environments), "L3, made = ended + alive", alive, len(environments))
        self._shelved = {e: since for e, since in self._shelved.items() if e in dispatcher.idle}
        for environment in environments:
            sandbox = _sandbox(environment)
            expect(environment.bound or not sandbox.served, "T3, an unbound environment has run nothing", environment)
            if environment in dispatcher.idle or environment in dispatcher.kept:
                cool = now - environment.idle_since < _COOLING
                resting = sandbox.frozen or cool or sandbox.killed or not sandbox.alive
                expect(resting, "an idle environment is frozen", sandbox.number)
                self._check_age(environment, sandbox)
            elif sandbox.alive and not sandbox.killed:
                rests = not sandbox.frozen or environment.state is State.IDLE  # promised, and not run yet
                expect(rests, "only an idle environment is frozen", sandbox.number, environment.state)

    def _check_age(self, environment: Environment, sandbox: FakeSandbox) -> None:
        dispatcher, now = self._rig.dispatcher, self._loop.time()
        if environment in dispatcher.idle:
            # A spare that was bound to a caller who left was idle before, too, but for no tenant.
            idle = now - max(environment.idle_since, self._shelved.setdefault(environment, now))
            expect(idle < dispatcher._policy.idle_seconds + _SLACK, "what is idle too long ends", sandbox.number, idle)
        rested = min(now - environment.born - dispatcher.max_age, now - environment.idle_since)
        expect(rested < _SLACK, "what is too old ends", sandbox.number, rested)

    def _check_account(self, environments: list[Environment]) -> None:
        quotas, now = self._rig.quotas, self._loop.time()
        running = quotas.taken - quotas.given
        busy = sum(environment.state is State.BUSY for environment in environments)
        expect(running == quotas.running, "L2, taken = given + running", running, quotas.running)
        expect(busy <= running <= quotas.concurrency, "Q1, of the account", busy, running)
        for account in quotas._accounts.values():
            expect(account.running == running, "Q1, the account counts what runs", account.running, running)
        if self._taken[-1][1] != quotas.taken:
            self._taken.append((now, quotas.taken))
        while self._taken[0][0] <= now - 1.0 and len(self._taken) > 1:
            self._taken.popleft()
        most = 2 * quotas.concurrency * self._scale.requests  # a second's worth at once, and one more
        recent = quotas.taken - self._taken[0][1]
        expect(recent <= most, "Q1, requests a second", recent, most)

    def _check_function(self, quota: FunctionQuota, pools: list[Pool]) -> None:
        name = pools[0].function.name
        held = [tenancy for pool in pools for tenant, tenancy in pool._tenants.items() if tenant is not None]
        # Whoever makes room for another passes on its place: the two are counted once.
        counted = sum(tenancy.starting + sum(e.successor is None for e in tenancy.environments) for tenancy in held)
        expect(counted == quota.environments, "Q1, all environments are counted", name, counted, quota.environments)
        self._not_above(("environments", name), quota.environments, quota.most_environments)
        self._not_above(("reserved", name), quota.running, quota.reserved)

    def _check_tenants(self, pools: list[Pool], environments: list[Environment]) -> None:
        quotas = self._rig.quotas
        owned, running = Counter[str | None](), Counter(e.tenant for e in environments if e.state is State.BUSY)
        for pool in pools:
            for tenant, tenancy in pool._tenants.items():
                owned[tenant] += tenancy.starting + len(tenancy.environments)
        for account in quotas._accounts.values():
            for name, tenant_ in account.tenants.items():
                limits = quotas.shares.of(name)
                expect(owned[name] == tenant_.environments, "Q1, a tenant's environments are counted", name)
                expect(running[name] <= tenant_.running, "Q1, a tenant's invocations are counted", name)
                self._not_above(("running", name), tenant_.running, limits.concurrency)
                self._not_above(("owned", name), tenant_.environments, limits.environments)

    def _check_pool(self, pool: Pool) -> None:
        deployment, spares, provision = pool.function.deployment, pool._spares, pool._provision
        self._not_above(("spares", deployment), len(spares) + spares.making, pool._most_spares())
        if pool.retired and not self._rig.dispatcher._stopping:
            ready = [spare for spare in spares if spare.state is State.IDLE and not _sandbox(spare).killed]
            expect(not ready, "what is retired keeps nothing ready", deployment)
        allocated = provision.status().allocated
        self._not_above(("provisioned", deployment), allocated, provision.requested)

    def _check_tenancy(
        self, pool: Pool, tenant: str | None, tenancy: Tenancy, promised: dict[Environment, float]
    ) -> None:
        where, now = (pool.function.deployment, tenant), self._loop.time()
        waiting = sum(not waiter.done() for waiter in tenancy.waiters)
        stored = {*tenancy.idle, *tenancy.provisioned}
        expect(not (waiting and stored), "nobody waits beside an idle environment", where)
        ending = sum(environment.state is State.ENDING for environment in tenancy.environments)
        expect(waiting <= tenancy.coming + ending, "L2, something comes for who waits", where, waiting, tenancy.coming)
        for environment in tenancy.environments:
            expect(environment.tenant == tenant, "T1, each is kept with its own tenant's", where)
            if environment.state is State.IDLE and environment not in stored:
                since = promised[environment] = self._promised.get(environment, now)
                expect(since == now, "who is idle is found", where, _sandbox(environment).number)
        for environment in stored:
            expect(environment in tenancy.environments, "the idle ones live", where)
            expect(environment.state in {State.IDLE, State.ENDING}, "the idle ones are idle", environment.state)

    def _not_above(self, what: object, now: int, limit: int | None) -> None:
        """What is above a limit that was lowered does not grow."""
        allowed = now if limit is None else max(limit, self._before[what])
        expect(now <= allowed, "Q1, a limit", what, now, limit)
        self._before[what] = now


def _sandbox(environment: Environment) -> FakeSandbox:
    sandbox = environment._sandbox
    assert isinstance(sandbox, FakeSandbox)
    return sandbox
