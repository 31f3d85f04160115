"""Races that were found by thought, each as the schedule that it takes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from insula.dispatch import quotas as quotas_module
from insula.dispatch.environment import State
from insula.dispatch.provision import Provisioned
from insula.model.errors import ServiceUnavailableException, TooManyRequestsException
from insula.model.function import FunctionVersion
from insula.sandbox.driver import SandboxError
from tests.simulation.fakes import KILLED, FakeSandbox, Rig, new_function, settle
from tests.simulation.loop import run

FUNCTION = new_function()
SHARED = new_function(tenancy=None)


async def initialise(rig: Rig, *, fail: bool = False) -> None:
    """Let every sandbox that starts become ready, or fail."""
    await asyncio.sleep(0.01)
    for sandbox in rig.driver.made:
        if sandbox.alive and sandbox.serving.done() and sandbox.init_pending:
            sandbox.init_pending = False
            if fail:
                sandbox.fail_init(b'{"errorType":"Runtime.ImportModuleError"}')
            else:
                sandbox.poll()
    await settle()


async def serve(rig: Rig, tenant: str | None, function: FunctionVersion = FUNCTION) -> FakeSandbox:
    """Run one invocation in an environment that is made for it."""
    task = rig.invoke(function, tenant)
    await initialise(rig)
    (busy,) = [sandbox for sandbox in rig.driver.live if sandbox.current is not None]
    busy.answer()
    assert (await task).error is None
    busy.poll()
    return busy


# Draining


def test_who_arrives_after_an_update_does_not_wait_for_an_environment_of_the_old_code() -> None:
    async def main() -> None:
        rig = Rig()
        first = rig.invoke(FUNCTION, "blue")
        await initialise(rig)
        old = rig.driver.made[0]
        old.answer()  # and it is about to poll
        await first
        rig.catalog.deployed["f"] = new_function("d2")
        rig.dispatcher.retire("d1")
        late = rig.invoke(FUNCTION, "blue")
        await settle()
        old.poll()
        await initialise(rig)
        new = rig.driver.made[1]
        assert (new.deployment, len(new.served)) == ("d2", 1)
        new.answer()
        assert (await late).error is None
        assert len(old.served) == 1

    run(main())


def test_a_function_that_is_always_busy_does_not_keep_what_its_updates_replaced() -> None:
    async def main() -> None:
        rig = Rig()
        background = asyncio.create_task(rig.dispatcher.run())
        last = new_function("d5", timeout=100)
        rig.quota.take(None)  # something of it runs all the time
        for deployment in ("d1", "d2", "d3", "d4"):
            await serve(rig, "blue", new_function(deployment))
            rig.catalog.deployed["f"] = last
            rig.dispatcher.retire(deployment)
            rig.catalog.deployed["f"] = new_function(f"d{int(deployment[1]) + 1}")
        await asyncio.sleep(5)
        assert rig.dispatcher.code_in_use() == set()
        background.cancel()

    run(main())


def test_what_was_started_counts_for_ten_seconds_whatever_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas_module, "SCALING_ENVIRONMENTS", 2)

    async def main() -> None:
        rig = Rig(idle_seconds=1)
        background = asyncio.create_task(rig.dispatcher.run())
        for tenant in ("one", "two"):
            await serve(rig, tenant)
        rig.dispatcher.retire("d1")
        rig.catalog.deployed["f"] = newer = new_function("d2")
        await asyncio.sleep(5)
        assert not rig.dispatcher._pools
        with pytest.raises(TooManyRequestsException):
            await rig.invoke(newer, "three")
        await asyncio.sleep(5.1)
        await serve(rig, "three", newer)
        background.cancel()

    run(main())


# Waiting


def test_nobody_waits_for_a_busy_environment_when_its_own_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that invokes itself would wait for itself."""
    monkeypatch.setattr(quotas_module, "SCALING_ENVIRONMENTS", 2)

    async def main() -> None:
        rig = Rig()
        busy = rig.invoke(FUNCTION, "blue")
        await initialise(rig)
        second = rig.invoke(FUNCTION, "blue")
        await initialise(rig, fail=True)  # and there is no second try: two were started within 10 s
        with pytest.raises(TooManyRequestsException):
            await asyncio.wait_for(second, 1)
        rig.driver.made[0].answer()
        assert (await busy).error is None

    run(main())


def test_who_is_told_that_none_can_be_made_is_not_one_who_has_one_coming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas_module, "SCALING_ENVIRONMENTS", 2)

    async def main() -> None:
        rig = Rig()
        first, second = rig.invoke(FUNCTION, "blue"), rig.invoke(FUNCTION, "blue")
        await asyncio.sleep(0.01)
        rig.driver.made[0].die(KILLED)
        first.cancel()
        await settle()
        await initialise(rig)
        rig.driver.made[1].answer()
        assert (await second).error is None

    run(main())


# The second try


def test_the_second_try_ends_though_others_are_made_ahead() -> None:
    """Each spare whose init fails for a caller is followed by another that was begun ahead."""

    async def main() -> None:
        rig = Rig(proactive=3)
        task = rig.invoke(FUNCTION, "blue")
        for _ in range(20):
            await asyncio.sleep(0.01)
            for oldest in rig.driver.live[:1]:
                oldest.fail_init(b'{"errorType":"Runtime.ImportModuleError"}')
        assert task.done()
        assert b"ImportModuleError" in task.result().payload
        assert len(rig.driver.made) < 10

    run(main())


def test_a_second_try_may_use_what_lies_ready() -> None:
    async def main() -> None:
        rig = Rig(proactive=1)
        await serve(rig, "blue")
        await initialise(rig)
        (spare,) = [sandbox for sandbox in rig.driver.made if not sandbox.served]
        task = rig.invoke(FUNCTION, "green")
        await settle()
        assert spare.current is not None
        other = rig.invoke(FUNCTION, "red")
        await asyncio.sleep(0.01)
        spare.answer()
        assert (await task).error is None
        made = [sandbox for sandbox in rig.driver.made if sandbox.init_pending]
        made[0].fail_init(b"{}")
        made[1].poll()
        await settle()
        busy = [sandbox for sandbox in rig.driver.live if sandbox.current is not None]
        if not busy:  # the one that lay ready was the one that failed
            await initialise(rig)
            busy = [sandbox for sandbox in rig.driver.live if sandbox.current is not None]
        busy[0].answer()
        assert (await other).error is None

    run(main())


# What lies ready


def test_one_spare_that_fails_does_not_end_the_others() -> None:
    async def main() -> None:
        rig = Rig(concurrency=100, proactive=3)
        background = asyncio.create_task(rig.dispatcher.run())
        for tenant in range(10):
            task = rig.invoke(FUNCTION, str(tenant))
            await asyncio.sleep(0.5)
            await initialise(rig)
            busy = [sandbox for sandbox in rig.driver.live if sandbox.current is not None]
            busy[0].answer()
            await task
            busy[0].poll()
        await initialise(rig)
        spares = [sandbox for sandbox in rig.driver.live if not sandbox.served]
        assert len(spares) > 1
        spares[0].die(KILLED)  # and the next one cannot be made
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        gate.set_exception(SandboxError("no room"))
        rig.driver.gates = [gate]
        await asyncio.sleep(2.5)
        assert not rig.driver.gates
        assert [sandbox for sandbox in rig.driver.live if not sandbox.served] == spares[1:]
        background.cancel()

    run(main())


def test_a_spare_that_is_ending_is_put_on_no_shelf_when_it_polls() -> None:
    async def main() -> None:
        rig = Rig(proactive=1)
        await serve(rig, "blue")
        spare = await rig.sandbox(1)
        spare.lag = 0.1
        rig.dispatcher.retire("d1")
        spare.poll()  # sent before the kill came
        await settle()
        assert not len(rig.dispatcher.kept)

    run(main())


# Provisioned concurrency


async def _provisioned(rig: Rig, count: int) -> list[FakeSandbox]:
    rig.dispatcher.provision(SHARED, count)
    await initialise(rig)
    return list(rig.driver.made)


def test_fewer_ends_no_more_than_are_too_many_however_long_they_take() -> None:
    async def main() -> None:
        rig = Rig()
        background = asyncio.create_task(rig.dispatcher.run())
        for sandbox in await _provisioned(rig, 5):
            sandbox.grace, sandbox.ignores_term = 2.0, True
        rig.dispatcher.provision(SHARED, 4)
        await asyncio.sleep(1.9)
        assert sum(sandbox.shutdown_reason is None for sandbox in rig.driver.made) == 4
        await asyncio.sleep(5)
        assert len(rig.driver.live) == 4
        background.cancel()

    run(main())


def test_those_that_are_not_ready_yet_end_first_and_that_is_no_failure() -> None:
    async def main() -> None:
        rig = Rig()
        await _provisioned(rig, 2)
        rig.dispatcher.provision(SHARED, 3)
        await asyncio.sleep(0.01)
        rig.dispatcher.provision(SHARED, 2)
        await settle()
        assert [sandbox.alive for sandbox in rig.driver.made] == [True, True, False]
        assert rig.dispatcher.provisioned("d1") == Provisioned(2, 2, 2)

    run(main())


# Limits


def test_a_function_over_its_own_rate_takes_nothing_from_the_others() -> None:
    async def main() -> None:
        rig = Rig(concurrency=2)
        quotas = rig.quotas
        quotas.reserve("111111111111", "f", 1)
        f, g = rig.quota, quotas.function("111111111111", "g")
        for _ in range(100):
            try:
                f.take(None).give()
            except TooManyRequestsException as error:
                assert error.reason == "ReservedFunctionInvocationRateLimitExceeded"  # noqa: PT017
        for _ in range(10):
            g.take(None).give()

    run(main())


# Ends


def test_an_invocation_is_not_given_to_an_environment_that_was_killed_while_it_started() -> None:
    async def main() -> None:
        rig = Rig()
        rig.dispatcher.provision(SHARED, 1)
        await asyncio.sleep(0.01)
        (doomed,) = rig.driver.made
        doomed.lag = 0.1
        task: asyncio.Task[Any] = rig.invoke(SHARED, None)
        await settle()
        rig.dispatcher.provision(SHARED, 0)
        doomed.poll()  # sent before the kill came
        await settle()
        assert not doomed.served
        own = await rig.sandbox(1)
        own.poll()
        await settle()
        own.answer()
        assert (await task).error is None

    run(main())


def test_a_start_that_did_not_begin_before_the_server_stops_is_given_back() -> None:
    async def main() -> None:
        rig = Rig()
        task = rig.invoke(FUNCTION, "blue")
        await asyncio.sleep(0)  # the invocation has asked for an environment, and nothing more
        (pool,) = rig.dispatcher._pools.values()
        await pool.close()
        with pytest.raises(ServiceUnavailableException):
            await task
        assert (rig.rooms, rig.quotas.running) == (0, 0)

    run(main())


def test_one_that_dies_in_the_turn_in_which_it_was_promised_is_not_used() -> None:
    async def main() -> None:
        rig = Rig()
        task = rig.invoke(FUNCTION, "blue")
        sandbox = await rig.sandbox(0)
        sandbox.poll()
        (environment,) = rig.dispatcher.environments()
        environment.kill()
        assert environment.state is State.ENDING
        await initialise(rig)
        assert len(rig.driver.made) == 2
        rig.driver.made[1].answer()
        assert (await task).error is None
        assert not sandbox.served

    run(main())
