"""The life of environments around invocations: frozen, spared, evicted, drained, provisioned, shut down."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from insula.dispatch.environment import State
from insula.dispatch.idle import FREEZE_SECONDS
from insula.dispatch.provision import Provisioned
from insula.model.errors import InvalidParameterValueException, ResourceNotFoundException, TooManyRequestsException
from insula.model.settings import FunctionSettings
from insula.model.share import Shares, TenantLimits
from insula.sandbox.driver import Exit, SandboxError
from tests.simulation.fakes import KILLED, FakeSandbox, Rig, new_function, settle
from tests.simulation.loop import run

FUNCTION = new_function()
SHARED = new_function(tenancy=None)


async def serve(rig: Rig, tenant: str | None, function: Any = FUNCTION) -> FakeSandbox:
    """Run an invocation in whatever environment it gets, and return that."""
    served = {sandbox: len(sandbox.served) for sandbox in rig.driver.made}
    task = rig.invoke(function, tenant)
    while True:
        await asyncio.sleep(0.001)
        for sandbox in rig.driver.made:
            if sandbox.alive and sandbox.serving.done() and sandbox.init_pending:
                sandbox.init_pending = False
                sandbox.poll()
        found = [sandbox for sandbox in rig.driver.made if len(sandbox.served) > served.get(sandbox, 0)]
        if found:
            found[0].answer()
            assert (await task).error is None
            found[0].poll()
            return found[0]


async def initialise(rig: Rig) -> None:
    """Let every sandbox that starts become ready."""
    await asyncio.sleep(0.01)
    for sandbox in rig.driver.made:
        if sandbox.alive and sandbox.serving.done() and sandbox.init_pending:
            sandbox.init_pending = False
            sandbox.poll()
    await settle()


# Freezing


def test_between_invocations_it_is_frozen_and_thawed_for_the_next() -> None:
    async def main() -> None:
        rig = Rig()
        sandbox = await serve(rig, "blue")
        assert not sandbox.frozen
        await asyncio.sleep(FREEZE_SECONDS * 1.1)
        assert sandbox.frozen
        assert await serve(rig, "blue") is sandbox
        assert not sandbox.frozen

    run(main())


def test_who_is_called_again_at_once_is_not_frozen() -> None:
    async def main() -> None:
        rig = Rig()
        for _ in range(20):
            sandbox = await serve(rig, "blue")
            await asyncio.sleep(FREEZE_SECONDS / 2)
        assert sandbox.freezes == 0

    run(main())


def test_each_is_frozen_in_its_own_time() -> None:
    async def main() -> None:
        rig = Rig()
        blue = await serve(rig, "blue")
        await asyncio.sleep(FREEZE_SECONDS / 2)
        green = await serve(rig, "green")
        await asyncio.sleep(FREEZE_SECONDS * 0.6)
        assert (blue.frozen, green.frozen) == (True, False)
        await asyncio.sleep(FREEZE_SECONDS * 0.5)
        assert green.frozen

    run(main())


# Proactive initialization


def test_the_second_tenant_finds_an_environment_that_is_initialised_and_bound_to_nobody() -> None:
    async def main() -> None:
        rig = Rig(proactive=1)
        blue = await serve(rig, "blue")
        await initialise(rig)
        (spare,) = (sandbox for sandbox in rig.driver.made if sandbox is not blue)
        assert rig.rooms == 1  # it counts from its binding on
        assert rig.streams.opened[1].tenant is None
        assert await serve(rig, "green") is spare
        assert rig.streams.opened[1].tenant == "green"
        assert rig.rooms == 2
        await initialise(rig)
        assert len(rig.driver.live) == 3  # and another lies ready

    run(main())


def test_a_spare_is_frozen_while_it_waits() -> None:
    async def main() -> None:
        rig = Rig(proactive=1)
        await serve(rig, "blue")
        await initialise(rig)
        await asyncio.sleep(1)
        assert all(sandbox.frozen for sandbox in rig.driver.live)

    run(main())


def test_a_spare_that_still_initialises_is_bound_at_once() -> None:
    async def main() -> None:
        rig = Rig(proactive=1)
        await serve(rig, "blue")
        spare = await rig.sandbox(1)
        task = rig.invoke(FUNCTION, "green")
        await settle()
        assert rig.rooms == 2
        spare.poll()
        await settle()
        spare.answer()
        assert (await task).error is None
        assert {invocation.tenant for invocation in spare.served} == {"green"}

    run(main())


def test_zero_turns_it_off_and_a_function_may_say_itself() -> None:
    async def main() -> None:
        rig = Rig(proactive=0)
        await serve(rig, "blue")
        await asyncio.sleep(1)
        assert len(rig.driver.made) == 1
        rig.catalog.own["f"] = FunctionSettings(proactive=1)
        await serve(rig, "green")
        await initialise(rig)
        assert len(rig.driver.made) == 3

    run(main())


def test_nothing_lies_ready_for_a_function_without_tenancy() -> None:
    async def main() -> None:
        rig = Rig(proactive=5)
        await serve(rig, None, SHARED)
        await asyncio.sleep(1)
        assert len(rig.driver.made) == 1

    run(main())


def test_more_lie_ready_the_more_new_tenants_come() -> None:
    async def main() -> None:
        rig = Rig(concurrency=1000, proactive=20)
        background = asyncio.create_task(rig.dispatcher.run())
        for number in range(60):
            await serve(rig, f"tenant-{number}")
            await asyncio.sleep(0.5)  # so long does it take
            await initialise(rig)
        ready = len(rig.driver.live) - 60
        assert 2 <= ready <= 20
        await asyncio.sleep(500)
        assert len(rig.driver.live) - 60 == 1  # the rate fell
        await asyncio.sleep(700)
        assert rig.driver.live == []  # and then nobody came
        background.cancel()

    run(main())


def test_spares_that_cannot_be_initialised_are_not_made_again_and_again() -> None:
    async def main() -> None:
        rig = Rig(proactive=1)
        background = asyncio.create_task(rig.dispatcher.run())
        await rig.ready(FUNCTION, "blue")
        (await rig.sandbox(1)).die(Exit(1, None))
        await asyncio.sleep(20)
        assert len(rig.driver.made) == 2
        await asyncio.sleep(20)
        assert len(rig.driver.made) == 3
        background.cancel()

    run(main())


def test_an_update_ends_what_lies_ready() -> None:
    async def main() -> None:
        rig = Rig(proactive=1)
        await serve(rig, "blue")
        await initialise(rig)
        rig.dispatcher.retire("d1")
        await settle()
        assert rig.driver.live == []

    run(main())


# Eviction


async def _full(rig: Rig) -> list[FakeSandbox]:
    """A function with as many idle tenant environments as it may have, the first idle longest."""
    return [await serve(rig, name) for name in ("one", "two", "three", "four", "five")]


def test_a_new_tenant_is_throttled_when_the_function_is_full() -> None:
    async def main() -> None:
        rig = Rig(concurrency=2)
        await _full(rig)
        with pytest.raises(TooManyRequestsException) as refused:
            await rig.invoke(FUNCTION, "six")
        assert (refused.value.message, refused.value.retry_after) == ("Rate exceeded", 1)
        assert len(rig.driver.live) == 5

    run(main())


def test_or_the_environment_that_was_idle_longest_makes_room() -> None:
    async def main() -> None:
        rig = Rig(concurrency=2)
        rig.catalog.own["f"] = FunctionSettings(evict_idle=True)
        one, two, *_ = await _full(rig)
        await serve(rig, "one")
        two.teardown = 0.5
        task = asyncio.create_task(serve(rig, "six"))
        await asyncio.sleep(0.4)
        assert (one.alive, two.alive) == (True, False)
        assert len(rig.driver.made) == 5  # it comes once nothing is left of the other: never more than the limit
        six = await task
        assert {invocation.tenant for invocation in six.served} == {"six"}
        assert (len(rig.driver.live), rig.rooms) == (5, 5)

    run(main())


def test_a_busy_environment_is_never_evicted() -> None:
    async def main() -> None:
        rig = Rig(concurrency=2)
        rig.catalog.own["f"] = FunctionSettings(evict_idle=True)
        quota = rig.quota
        for _ in range(4):
            quota.take_room("elsewhere")
        blue = await serve(rig, "blue")
        task = rig.invoke(FUNCTION, "blue")
        await settle()
        with pytest.raises(TooManyRequestsException):
            await rig.invoke(FUNCTION, "green")
        blue.answer()
        assert (await task).error is None

    run(main())


def test_only_the_own_functions_environments_are_evicted() -> None:
    async def main() -> None:
        rig = Rig(concurrency=1)
        rig.catalog.own["f"] = FunctionSettings(evict_idle=True)
        other = await serve(rig, "blue", new_function("g-1", name="g"))
        await serve(rig, "one")
        await serve(rig, "two")
        await serve(rig, "three")
        assert other.alive

    run(main())


# A tenant's share


def test_a_tenant_at_its_limit_of_environments_is_turned_away_and_the_others_are_not() -> None:
    async def main() -> None:
        rig = Rig(shares=Shares(TenantLimits(environments=1)))
        await serve(rig, "blue")
        task = rig.invoke(FUNCTION, "blue")
        await settle()
        with pytest.raises(TooManyRequestsException, match="Tenant 'blue' has 1 execution environments"):
            await rig.invoke(FUNCTION, "blue")
        await serve(rig, "green")
        rig.driver.made[0].answer()
        assert (await task).error is None

    run(main())


# Draining


def test_who_waits_when_the_function_is_updated_gets_the_new_code() -> None:
    async def main() -> None:
        rig = Rig()
        task = rig.invoke(FUNCTION, "blue")
        old = await rig.sandbox(0)
        newer = new_function("d2")
        rig.catalog.deployed["f"] = newer
        rig.dispatcher.retire("d1")
        old.die(KILLED)
        new = await rig.sandbox(1)
        assert new.deployment == "d2"
        new.poll()
        await settle()
        new.answer(b'"new"')
        assert (await task).payload == b'"new"'
        assert (rig.quotas.running, rig.rooms) == (0, 1)

    run(main())


def test_nothing_is_started_on_code_that_was_replaced() -> None:
    async def main() -> None:
        rig = Rig()
        rig.catalog.deployed["f"] = new_function("d2")
        new = await serve(rig, "blue")  # of d1, as the caller found it
        assert new.deployment == "d2"

    run(main())


def test_a_function_that_was_deleted_meanwhile_is_not_found() -> None:
    async def main() -> None:
        rig = Rig()
        rig.catalog.deployed["f"] = None
        with pytest.raises(ResourceNotFoundException, match="Function not found: arn:aws:lambda"):
            await rig.invoke(FUNCTION, "blue")
        assert rig.quotas.running == 0

    run(main())


def test_a_function_that_was_made_anew_without_tenancy_does_not_get_a_tenant() -> None:
    async def main() -> None:
        rig = Rig()
        rig.catalog.deployed["f"] = new_function("d2", tenancy=None)
        with pytest.raises(InvalidParameterValueException, match="not enabled with tenancy"):
            await rig.invoke(FUNCTION, "blue")

    run(main())


# Provisioned concurrency


def test_provisioned_environments_are_there_before_anybody_calls() -> None:
    async def main() -> None:
        rig = Rig()
        rig.dispatcher.provision(SHARED, 2)
        await asyncio.sleep(0.01)
        assert rig.dispatcher.provisioned("d1") == Provisioned(2, 2, 0)
        await initialise(rig)
        assert rig.dispatcher.provisioned("d1") == Provisioned(2, 2, 2)
        assert await serve(rig, None, SHARED) in rig.driver.made[:2]
        assert len(rig.driver.made) == 2
        await asyncio.sleep(1)
        assert all(sandbox.frozen for sandbox in rig.driver.made)

    run(main())


def test_they_outlive_the_idle_time_and_are_replaced_when_they_die() -> None:
    async def main() -> None:
        rig = Rig(idle_seconds=5)
        background = asyncio.create_task(rig.dispatcher.run())
        rig.dispatcher.provision(SHARED, 1)
        await initialise(rig)
        await asyncio.sleep(60)
        assert rig.driver.made[0].alive
        rig.driver.made[0].die(KILLED)
        await asyncio.sleep(2)
        assert (len(rig.driver.live), len(rig.driver.made)) == (1, 2)
        background.cancel()

    run(main())


def test_fewer_ends_those_that_are_too_many_when_they_are_idle() -> None:
    async def main() -> None:
        rig = Rig()
        background = asyncio.create_task(rig.dispatcher.run())
        rig.dispatcher.provision(SHARED, 3)
        await initialise(rig)
        task = rig.invoke(SHARED, None)
        await settle()
        rig.dispatcher.provision(SHARED, 0)
        await settle()
        (busy,) = rig.driver.live
        busy.answer()
        assert (await task).error is None
        busy.poll()
        await asyncio.sleep(2)
        assert rig.driver.live == []
        background.cancel()

    run(main())


def test_why_one_could_not_be_made_is_told_and_it_is_tried_again() -> None:
    async def main() -> None:
        rig = Rig()
        background = asyncio.create_task(rig.dispatcher.run())
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        gate.set_exception(SandboxError("no room"))
        rig.driver.gates = [gate]
        rig.dispatcher.provision(SHARED, 1)
        await settle()
        assert rig.dispatcher.provisioned("d1") == Provisioned(1, 0, 0, "no room")
        await asyncio.sleep(15)
        rig.driver.made[0].fail_init(b"{}")
        await settle()
        assert rig.dispatcher.provisioned("d1").failure == "FUNCTION_ERROR_INIT_FAILURE"
        await asyncio.sleep(15)
        rig.driver.made[1].poll()
        await settle()
        assert rig.dispatcher.provisioned("d1") == Provisioned(1, 1, 1)
        background.cancel()

    run(main())


# The end


def test_memory_that_the_host_lacks_comes_from_what_was_idle_longest() -> None:
    async def main() -> None:
        rig = Rig(concurrency=100, proactive=1)
        background = asyncio.create_task(rig.dispatcher.run())
        patient = new_function(timeout=60)
        first = await serve(rig, "first", patient)
        await initialise(rig)
        last = await serve(rig, "last", patient)
        busy = rig.invoke(patient, "last")
        await settle()
        rig.memory = 0
        await asyncio.sleep(1.1)
        assert (first.alive, last.alive) == (False, True)
        await asyncio.sleep(5)
        assert rig.driver.live == [last]  # a busy one is never ended, and none lies ready
        last.answer()
        assert (await busy).error is None
        background.cancel()

    run(main())


def test_an_environment_ends_at_its_maximum_age_though_it_is_used() -> None:
    async def main() -> None:
        rig = Rig(max_age=100)
        background = asyncio.create_task(rig.dispatcher.run())
        sandbox = await serve(rig, "blue")
        for _ in range(11):
            await asyncio.sleep(9)
            assert await serve(rig, "blue") is sandbox
        await asyncio.sleep(3)
        assert not sandbox.alive
        assert await serve(rig, "blue") is not sandbox
        background.cancel()

    run(main())


def test_one_without_extensions_is_killed_at_once() -> None:
    async def main() -> None:
        rig = Rig()
        sandbox = await serve(rig, "blue")
        rig.dispatcher.retire("d1")
        assert not sandbox.alive
        assert not sandbox.terminated

    run(main())


def test_one_with_extensions_has_a_shutdown_phase() -> None:
    async def main() -> None:
        rig = Rig()
        sandbox = await serve(rig, "blue")
        sandbox.grace = 2.0
        sandbox.ignores_term = True
        await asyncio.sleep(1)
        rig.dispatcher.retire("d1")
        assert (sandbox.frozen, sandbox.shutdown_reason) == (False, "SPINDOWN")
        await asyncio.sleep(1.4)
        assert not sandbox.terminated
        await asyncio.sleep(0.2)
        assert (sandbox.terminated, sandbox.alive) == (True, True)
        await asyncio.sleep(0.5)
        assert not sandbox.alive

    run(main())


def test_a_timeout_answers_at_once_and_lets_extensions_finish() -> None:
    async def main() -> None:
        rig = Rig()
        sandbox = await serve(rig, "blue")
        sandbox.grace = 0.5
        task = rig.invoke(FUNCTION, "blue")
        assert b"timed out" in (await task).payload
        assert sandbox.shutdown_reason == "TIMEOUT"
        assert rig.quotas.running == 0
        (environment,) = rig.dispatcher.environments()
        assert environment.state in {State.ENDING, State.ENDED}
        await asyncio.sleep(0.1)
        assert rig.driver.live == []

    run(main())


def test_an_extension_that_exits_ends_the_environment_and_its_invocation() -> None:
    async def main() -> None:
        rig = Rig()
        sandbox = await serve(rig, "blue")
        task = rig.invoke(FUNCTION, "blue")
        await settle()
        sandbox.on_extension_exit("collector")
        assert b'"Extension.Crash"' in (await task).payload
        assert not sandbox.alive

    run(main())


def test_one_that_ends_while_it_is_idle_is_given_to_nobody() -> None:
    async def main() -> None:
        rig = Rig()
        sandbox = await serve(rig, "blue")
        sandbox.teardown = 1.0  # what is left of it takes a moment to go
        sandbox.on_extension_exit("collector")
        assert await serve(rig, "blue") is not sandbox

    run(main())


def test_a_spare_that_ends_is_given_to_nobody() -> None:
    async def main() -> None:
        rig = Rig(proactive=1)
        await serve(rig, "blue")
        await initialise(rig)
        spare = rig.driver.made[1]
        spare.teardown = 1.0
        spare.on_extension_exit("collector")
        assert await serve(rig, "green") is not spare

    run(main())


def test_who_calls_while_a_runtime_that_hung_up_dies_gets_another() -> None:
    """The connection is closed before word comes that nothing is left of the process."""

    async def main() -> None:
        rig = Rig()
        sandbox = await serve(rig, "blue")
        sandbox.teardown = 0.05
        sandbox.hang_up()
        sandbox.die(KILLED)
        assert await serve(rig, "blue") is not sandbox

    run(main())


def test_a_runtime_that_hangs_up_and_asks_again_is_used_again() -> None:
    async def main() -> None:
        rig = Rig()
        sandbox = await serve(rig, "blue")
        sandbox.hang_up()
        sandbox.poll()
        assert await serve(rig, "blue") is sandbox
        sandbox.hang_up()
        await asyncio.sleep(FUNCTION.timeout + 1)
        assert not sandbox.alive  # it never asked again

    run(main())


def test_a_runtime_that_hangs_up_and_asks_again_does_not_stay_awake_or_for_ever() -> None:
    async def main() -> None:
        rig = Rig(idle_seconds=5)
        background = asyncio.create_task(rig.dispatcher.run())
        sandbox = await serve(rig, "blue")
        for _ in range(3):
            sandbox.hang_up()
            sandbox.poll()
            await asyncio.sleep(FREEZE_SECONDS * 0.4)
        assert sandbox.frozen
        await asyncio.sleep(7)
        assert not sandbox.alive
        background.cancel()

    run(main())
