"""The dispatcher keeps its promises in random worlds, and these worlds notice a dispatcher that does not."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from insula.dispatch.environment import Environment, State
from insula.dispatch.pool import Pool
from insula.dispatch.quotas import FunctionQuota, Slot
from insula.dispatch.tenancy import Tenancy
from insula.model.invocation import Invocation, InvocationResult
from tests.simulation.fakes import fake_runtime_api
from tests.simulation.loop import run
from tests.simulation.world import World

SEEDS = 240
_STEP = 20


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Failed starts are logged, hundreds of times."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def live(seed: int) -> Counter[str]:
    """Live through the world of a seed; how its invocations came out."""

    async def main() -> Counter[str]:
        world = World(seed)
        await world.run()
        return world.outcomes

    with fake_runtime_api():
        return run(main())


@pytest.mark.parametrize("first", range(0, SEEDS, _STEP))
def test_promises_hold_in_every_world(first: int) -> None:
    outcomes = Counter[str]()
    for seed in range(first, first + _STEP):
        try:
            outcomes += live(seed)
        except AssertionError as error:
            pytest.fail(f"seed {seed}: {error!r}")
    # A world in which nothing happens keeps every promise.
    for outcome in ("answered", "Unhandled", "TooManyRequestsException", "ServiceException"):
        assert outcomes[outcome], outcomes


def test_a_seed_is_one_history() -> None:
    assert live(7) == live(7)
    assert live(7) != live(8)


# Dispatchers with a mistake


def _reuse_across_tenants(patch: pytest.MonkeyPatch) -> None:
    """Any idle environment of the function will do, and nobody looks again."""
    acquire, run_ = Pool.acquire, Environment.run

    def any_idle(pool: Pool, tenant: str | None) -> Environment | asyncio.Future[Environment]:
        idle = [tenancy.idle for tenancy in pool._tenants.values() if tenancy.idle]
        return idle[0].pop() if idle else acquire(pool, tenant)

    def unchecked(environment: Environment, invocation: Invocation) -> asyncio.Future[InvocationResult]:
        own, environment.tenant = environment.tenant, invocation.tenant
        try:
            return run_(environment, invocation)
        finally:
            environment.tenant = own

    patch.setattr(Pool, "acquire", any_idle)
    patch.setattr(Environment, "run", unchecked)


def _forget_a_slot(patch: pytest.MonkeyPatch) -> None:
    """One of a hundred slots is not given back."""
    give, count = Slot.give, iter(range(1_000_000))

    def forgetful(slot: Slot) -> None:
        if next(count) % 100 != 99:
            give(slot)

    patch.setattr(Slot, "give", forgetful)


def _forget_an_environment(patch: pytest.MonkeyPatch) -> None:
    """An environment that ends stays counted."""
    patch.setattr(FunctionQuota, "give_room", lambda *_, **__: None)


def _give_to_the_wrong_tenant(patch: pytest.MonkeyPatch) -> None:
    """What becomes idle goes to whichever tenant waits."""
    on_idle = Pool.on_idle

    def first_come(pool: Pool, environment: Environment) -> None:
        for tenancy in pool._tenants.values():
            for waiter in tenancy.waiters:
                if not waiter.done():
                    tenancy.waiters.remove(waiter)
                    waiter.set_result(environment)
                    return
        on_idle(pool, environment)

    patch.setattr(Pool, "on_idle", first_come)


def _drop_a_waiter(patch: pytest.MonkeyPatch) -> None:
    """Who waited for an environment that could not be made is not told."""
    patch.setattr(Tenancy, "fail_first", lambda tenancy, _error: tenancy.waiters and tenancy.waiters.popleft())


def _keep_the_dead(patch: pytest.MonkeyPatch) -> None:
    """An environment that ended while idle stays in the store."""
    on_ended = Pool.on_ended

    def careless(pool: Pool, environment: Environment) -> None:
        tenancy = pool._tenants[environment.tenant]
        dead = environment in tenancy.idle
        on_ended(pool, environment)
        if dead:
            tenancy.idle.append(environment)
            pool._tenants[environment.tenant] = tenancy

    patch.setattr(Pool, "on_ended", careless)


def _let_them_wait(patch: pytest.MonkeyPatch) -> None:
    """What becomes idle is stored, whoever waits."""
    on_idle = Pool.on_idle

    def lazy(pool: Pool, environment: Environment) -> None:
        tenancy = pool._tenants[environment.tenant]
        if environment.state is State.IDLE and len(tenancy.environments) > 1:
            tenancy.idle.append(environment)
        else:
            on_idle(pool, environment)

    patch.setattr(Pool, "on_idle", lazy)


@pytest.mark.parametrize(
    ("mistake", "promise"),
    [
        (_reuse_across_tenants, "T1"),
        (_give_to_the_wrong_tenant, "T2"),
        (_forget_a_slot, "L2"),
        (_forget_an_environment, "Q1"),
        (_drop_a_waiter, "L2"),
        (_keep_the_dead, "the idle ones are idle"),
        (_let_them_wait, "nobody waits beside an idle environment"),
    ],
)
def test_a_mistake_is_noticed(mistake: Callable[[pytest.MonkeyPatch], None], promise: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        mistake(patch)
        with pytest.raises(AssertionError, match=promise):
            [live(seed) for seed in range(20)]
