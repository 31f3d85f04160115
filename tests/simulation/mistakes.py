"""Dispatchers with a mistake: what the simulation must notice."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest

from insula.dispatch.dispatcher import Dispatcher
from insula.dispatch.environment import Environment, State
from insula.dispatch.idle import Shelf
from insula.dispatch.pool import Pool
from insula.dispatch.provision import Provision
from insula.dispatch.quotas import FunctionQuota, Slot
from insula.dispatch.rates import Bucket, Window
from insula.dispatch.spares import Spares
from insula.dispatch.tenancy import Tenancy
from insula.model.invocation import Invocation, InvocationResult

Mistake = Callable[[pytest.MonkeyPatch], None]

# Tenants


def reuse_across_tenants(patch: pytest.MonkeyPatch) -> None:
    """Any idle environment of the function will do, and nobody looks again."""
    acquire, run = Pool.acquire, Environment.run

    def any_idle(pool: Pool, tenant: str | None) -> Environment | asyncio.Future[Environment]:
        idle = [tenancy.idle for tenancy in pool._tenants.values() if tenancy.idle]
        return idle[0].pop() if idle else acquire(pool, tenant)

    def unchecked(environment: Environment, invocation: Invocation) -> asyncio.Future[InvocationResult]:
        own, environment.tenant = environment.tenant, invocation.tenant
        try:
            return run(environment, invocation)
        finally:
            environment.tenant = own

    patch.setattr(Pool, "acquire", any_idle)
    patch.setattr(Environment, "run", unchecked)


def give_to_the_wrong_tenant(patch: pytest.MonkeyPatch) -> None:
    """What becomes idle goes to whichever tenant waits."""
    on_idle = Pool.on_idle

    def first_come(pool: Pool, environment: Environment) -> None:
        for tenancy in pool._tenants.values():
            if tenancy.give(environment):
                return
        on_idle(pool, environment)

    patch.setattr(Pool, "on_idle", first_come)


def use_again_for_anybody(patch: pytest.MonkeyPatch) -> None:
    """An environment that has served goes back among the spares."""
    on_idle = Pool.on_idle

    def put_back(pool: Pool, environment: Environment) -> None:
        wanted = len(pool._spares) + pool._spares.making < pool._most_spares()
        if environment.tenant is not None and wanted and not pool._tenants[environment.tenant].waiters:
            pool._tenants[environment.tenant].environments.discard(environment)
            pool.quota.give_room(environment.tenant)
            environment.bound, environment.tenant = False, None
            pool._spares.add(environment)
        on_idle(pool, environment)

    patch.setattr(Pool, "on_idle", put_back)


def bind_twice(patch: pytest.MonkeyPatch) -> None:
    """A spare that was given away can be given away again."""
    take = Spares.take

    def keep(spares: Spares, *, ready: bool) -> Environment | None:
        found = take(spares, ready=ready)
        if found is not None:
            spares.add(found)
        return found

    def bind(environment: Environment, tenant: str | None) -> None:
        environment.bound, environment.tenant = True, tenant

    patch.setattr(Spares, "take", keep)
    patch.setattr(Environment, "bind", bind)


# Slots and limits


def forget_a_slot(patch: pytest.MonkeyPatch) -> None:
    """One of a hundred slots is not given back."""
    give, count = Slot.give, itertools.count(1)
    patch.setattr(Slot, "give", lambda slot: give(slot) if next(count) % 100 else None)


def give_a_slot_twice(patch: pytest.MonkeyPatch) -> None:
    """One of fifty slots is given back twice."""
    give, count = FunctionQuota.give, itertools.count(1)

    def twice(quota: FunctionQuota) -> None:
        give(quota)
        if next(count) % 50 == 0:
            give(quota)

    patch.setattr(FunctionQuota, "give", twice)


def forget_an_environment(patch: pytest.MonkeyPatch) -> None:
    """An environment that ends stays counted."""
    patch.setattr(FunctionQuota, "give_room", lambda *_, **__: None)


def do_not_count_spares(patch: pytest.MonkeyPatch) -> None:
    """Who is given a spare needs no room."""
    settle_in = Pool._settle_in

    def uncounted(pool: Pool, tenant: str | None, tenancy: Tenancy, spare: Environment) -> None:
        pool.quota.environments -= 1
        settle_in(pool, tenant, tenancy, spare)

    patch.setattr(Pool, "_settle_in", uncounted)


def ignore_the_reserve(patch: pytest.MonkeyPatch) -> None:
    """Reserved concurrency is set aside, and does not limit."""
    take = FunctionQuota.take

    def unlimited(quota: FunctionQuota, tenant: str | None) -> Slot:
        reserved, quota.reserved = quota.reserved, None
        try:
            return take(quota, tenant)
        finally:
            quota.reserved = reserved

    patch.setattr(FunctionQuota, "take", unlimited)


def ignore_the_share(patch: pytest.MonkeyPatch) -> None:
    """A tenant may run as much as there is."""
    patch.setattr(FunctionQuota, "_take_share", lambda quota, tenant, _now: quota._tenant(tenant))


def ignore_the_share_of_room(patch: pytest.MonkeyPatch) -> None:
    """A tenant may have as many environments as there is room for."""

    def take(quota: FunctionQuota, tenant: str) -> None:
        quota._tenant(tenant).environments += 1

    patch.setattr(FunctionQuota, "take_share_of_room", take)


def ignore_the_scaling_rate(patch: pytest.MonkeyPatch) -> None:
    """Environments are made as fast as they are asked for."""
    patch.setattr(Window, "take", lambda *_: True)


def ignore_the_request_rate(patch: pytest.MonkeyPatch) -> None:
    """Invocations begin as fast as they come."""
    patch.setattr(Bucket, "take", lambda *_: True)


# Who waits


def drop_a_waiter(patch: pytest.MonkeyPatch) -> None:
    """Who waited for an environment that could not be made is not told."""
    patch.setattr(Tenancy, "fail_first", lambda tenancy, _error: tenancy.waiters and tenancy.waiters.popleft())


def lose_what_was_promised(patch: pytest.MonkeyPatch) -> None:
    """What was given to a caller that went away is given to nobody else."""

    forget = Pool.abandon

    def abandon(pool: Pool, tenant: str | None, waiter: asyncio.Future[Environment]) -> None:
        if waiter.cancelled():
            forget(pool, tenant, waiter)

    patch.setattr(Pool, "abandon", abandon)


def let_them_wait(patch: pytest.MonkeyPatch) -> None:
    """What becomes idle is stored, whoever waits."""
    on_idle = Pool.on_idle

    def lazy(pool: Pool, environment: Environment) -> None:
        tenancy = pool._tenants.get(environment.tenant)
        if environment.bound and tenancy is not None and len(tenancy.environments) > 1:
            tenancy.idle.append(environment)
        else:
            on_idle(pool, environment)

    patch.setattr(Pool, "on_idle", lazy)


def forget_the_successor(patch: pytest.MonkeyPatch) -> None:
    """Who was promised the place of an evicted environment does not get it."""
    on_ended = Pool.on_ended

    def forgetful(pool: Pool, environment: Environment) -> None:
        if environment.successor is not None:
            environment.successor = lambda: None
        on_ended(pool, environment)

    patch.setattr(Pool, "on_ended", forgetful)


def try_for_ever(patch: pytest.MonkeyPatch) -> None:
    """After each failed init there is another try."""

    def once_more(pool: Pool, environment: Environment, _outcome: object) -> bool:
        if environment.bound:
            pool._tenants[environment.tenant].retries = 0
        return False

    patch.setattr(Pool, "on_failed_start", once_more)


def forget_them_when_stopping(patch: pytest.MonkeyPatch) -> None:
    """A server that stops tells nobody who still waits."""
    close = Pool.close

    async def silent(pool: Pool) -> None:
        for tenancy in pool._tenants.values():
            tenancy.waiters.clear()
        await close(pool)

    patch.setattr(Pool, "close", silent)


# The life of environments


def keep_the_dead(patch: pytest.MonkeyPatch) -> None:
    """An environment that ended while idle stays in the store."""
    patch.setattr(Pool, "_forget_idle", lambda pool, environment: pool._shelf(environment).take(environment))


def evict_a_busy_one(patch: pytest.MonkeyPatch) -> None:
    """Whatever the function has makes room."""

    def anything(pool: Pool) -> Environment | None:
        owned = (e for tenancy in pool._tenants.values() for e in tenancy.environments)
        return next((e for e in owned if e.state is State.BUSY and e.successor is None), None)

    patch.setattr(Pool, "_find_victim", anything)


def evict_anothers(patch: pytest.MonkeyPatch) -> None:
    """An idle environment of any function makes room."""
    patch.setattr(Pool, "_find_victim", lambda pool: next(iter(pool._home.idle), None))


def run_what_was_replaced(patch: pytest.MonkeyPatch) -> None:
    """An update ends what is idle, and what comes later is as before."""
    retire = Pool.retire

    def once(pool: Pool) -> None:
        retire(pool)
        pool.retired = False

    patch.setattr(Pool, "retire", once)


def keep_spares_of_what_was_replaced(patch: pytest.MonkeyPatch) -> None:
    """Nobody ends what lies ready when nobody needs it any more."""
    balance = Spares.balance
    patch.setattr(Spares, "balance", lambda spares: balance(spares) if spares._most() else None)


def keep_what_is_provisioned(patch: pytest.MonkeyPatch) -> None:
    """Fewer provisioned environments means that none is made."""
    balance = Provision.balance

    def only_more(provision: Provision) -> None:
        if provision.requested >= len(provision._environments):
            balance(provision)

    patch.setattr(Provision, "balance", only_more)


def never_freeze(patch: pytest.MonkeyPatch) -> None:
    """What is idle goes on."""
    patch.setattr(Shelf, "_freeze", lambda _: None)


def never_thaw(patch: pytest.MonkeyPatch) -> None:
    """What was frozen is handed an invocation as it is."""
    patch.setattr(Environment, "_thaw", lambda _: None)


def freeze_a_busy_one(patch: pytest.MonkeyPatch) -> None:
    """What is given work within a moment is frozen all the same."""
    run = Environment.run

    def late(environment: Environment, invocation: Invocation) -> asyncio.Future[InvocationResult]:
        environment._loop.call_later(0.01, environment.freeze)
        return run(environment, invocation)

    patch.setattr(Environment, "run", late)


def keep_the_old(patch: pytest.MonkeyPatch) -> None:
    """Nothing is ever idle too long."""
    patch.setattr(Dispatcher, "_end_old", lambda _: None)


MISTAKES: list[tuple[Mistake, str]] = [
    (reuse_across_tenants, "T1"),
    (give_to_the_wrong_tenant, "T2|L2"),
    (use_again_for_anybody, "T3"),
    (bind_twice, "T1|made = ended"),
    (forget_a_slot, "L2"),
    (give_a_slot_twice, "L2|Q1"),
    (forget_an_environment, "Q1"),
    (do_not_count_spares, "Q1"),
    (ignore_the_reserve, "Q1"),
    (ignore_the_share, "Q1"),
    (ignore_the_share_of_room, "Q1"),
    (ignore_the_scaling_rate, "Q1"),
    (ignore_the_request_rate, "Q1"),
    (drop_a_waiter, "L2"),
    (lose_what_was_promised, "who is idle is found"),
    (let_them_wait, "nobody waits beside an idle environment"),
    (forget_the_successor, "L2|Q1"),
    (try_for_ever, "nobody waits for ever"),
    (forget_them_when_stopping, "nobody waits for ever"),
    (keep_the_dead, "the idle ones are idle|the idle ones live|the last look finds nothing"),
    (evict_a_busy_one, "what works is not ended"),
    (evict_anothers, "Q1"),
    (run_what_was_replaced, "no environment is made of a retired deployment|arrives after an update"),
    (keep_spares_of_what_was_replaced, "what is retired keeps nothing ready"),
    (keep_what_is_provisioned, "what is provisioned|L3"),
    (never_freeze, "an idle environment is frozen"),
    (never_thaw, "only an idle environment is frozen"),
    (freeze_a_busy_one, "only an idle environment is frozen"),
    (keep_the_old, "what is idle too long ends|what is too old ends"),
]
