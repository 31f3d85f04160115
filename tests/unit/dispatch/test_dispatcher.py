"""Dispatcher and Pool: who gets which environment, what waits, and what is given back."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from insula.model.errors import (
    InvalidParameterValueException,
    ServiceException,
    ServiceUnavailableException,
    TooManyRequestsException,
)
from insula.sandbox.driver import Exit, IsolationError, SandboxError
from tests.simulation.fakes import KILLED, FakeDriver, FakeSandbox, Rig, new_function, settle
from tests.simulation.loop import run

FUNCTION = new_function()


async def start(rig: Rig, tenant: str | None = "blue", number: int = 0) -> tuple[asyncio.Task[Any], FakeSandbox]:
    """An invocation that runs, in a new sandbox."""
    index = len(rig.driver.made) + rig.driver.making
    task = rig.invoke(FUNCTION, tenant, number)
    sandbox = await rig.sandbox(index)
    sandbox.poll()
    await settle()
    assert sandbox.current is not None
    return task, sandbox


def kind(result: Any) -> str:
    """The error type of a failed invocation."""
    assert result.error == "Unhandled"
    return str(json.loads(result.payload)["errorType"])


# Which environment


def test_a_tenant_comes_back_to_its_environment() -> None:
    async def main() -> None:
        rig = Rig()
        sandbox = await rig.ready(FUNCTION, "blue")
        task = rig.invoke(FUNCTION, "blue", 1)
        await settle()
        sandbox.answer(b'"warm"')
        assert (await task).payload == b'"warm"'
        assert len(rig.driver.made) == 1

    run(main())


@pytest.mark.parametrize("tenant", ["green", "Blue", "blue "])
def test_another_tenant_gets_another_environment(tenant: str) -> None:
    async def main() -> None:
        rig = Rig()
        blue = await rig.ready(FUNCTION, "blue")
        other = await rig.ready(FUNCTION, tenant)
        assert blue is not other
        assert {invocation.tenant for invocation in blue.served} == {"blue"}
        assert [stream.tenant for stream in rig.streams.opened] == ["blue", tenant]

    run(main())


def test_another_deployment_gets_another_environment() -> None:
    async def main() -> None:
        rig = Rig()
        first = await rig.ready(FUNCTION, "blue")
        second = await rig.ready(new_function("d2"), "blue")
        assert (first.deployment, second.deployment) == ("d1", "d2")

    run(main())


def test_without_tenancy_all_callers_share() -> None:
    async def main() -> None:
        rig = Rig()
        function = new_function(tenancy=None)
        await rig.ready(function, None)
        task = rig.invoke(function, None, 1)
        await settle()
        rig.driver.made[0].answer()
        await task
        assert rig.rooms == 0  # tenant environments only

    run(main())


def test_the_most_recently_used_comes_first() -> None:
    async def main() -> None:
        rig = Rig()
        tasks = [rig.invoke(FUNCTION, "blue", number) for number in range(3)]
        sandboxes = [await rig.sandbox(index) for index in range(3)]
        for sandbox in sandboxes:
            sandbox.poll()
        await settle()
        for index in (0, 2, 1):
            sandboxes[index].answer()
            sandboxes[index].poll()
        await asyncio.gather(*tasks)
        for index in (1, 2, 0):
            rig.invoke(FUNCTION, "blue")
            await settle()
            assert sandboxes[index].current is not None

    run(main())


def test_who_waits_longest_is_served_first() -> None:
    async def main() -> None:
        rig = Rig(concurrency=1000)
        _, sandbox = await start(rig)
        rig.driver.gates = [asyncio.get_running_loop().create_future() for _ in range(3)]
        tasks = []
        for number in (1, 2, 3):
            tasks.append(rig.invoke(FUNCTION, "blue", number))
            await settle()
        for number in (1, 2, 3):
            sandbox.answer()
            sandbox.poll()
            await settle()
            assert sandbox.current is not None
            assert sandbox.current.request_id.endswith(f"{number}")
        sandbox.answer()
        await asyncio.gather(*tasks)

    run(main())


def test_a_waiter_takes_whichever_comes_first() -> None:
    async def main() -> None:
        rig = Rig()
        first, busy = await start(rig)
        second = rig.invoke(FUNCTION, "blue", 2)
        fresh = await rig.sandbox(1)
        busy.answer()
        await first
        busy.poll()  # before the new one is ready
        await settle()
        assert busy.current is not None
        fresh.poll()  # and stays for the next
        await settle()
        assert fresh.current is None
        busy.answer()
        await second
        rig.invoke(FUNCTION, "blue", 3)
        await settle()
        assert fresh.current is not None

    run(main())


def test_one_that_has_answered_is_waited_for_instead_of_starting_another() -> None:
    async def main() -> None:
        rig = Rig()
        first, sandbox = await start(rig)
        sandbox.answer()
        await first
        second = rig.invoke(FUNCTION, "blue", 2)
        await asyncio.sleep(0.04)
        sandbox.poll()
        await settle()
        sandbox.answer()
        await second
        await asyncio.sleep(1)
        assert len(rig.driver.made) == 1

    run(main())


def test_after_150_ms_it_is_no_longer_trusted() -> None:
    async def main() -> None:
        rig = Rig()
        first, sandbox = await start(rig)
        sandbox.answer()
        await first
        second = rig.invoke(FUNCTION, "blue", 2)
        await asyncio.sleep(0.149)
        assert rig.driver.made == [sandbox]
        await asyncio.sleep(0.005)
        assert len(rig.driver.made) == 2
        (await rig.sandbox(1)).poll()
        await settle()
        rig.driver.made[1].answer()
        assert (await second).error is None

    run(main())


def test_a_violation_is_refused_logged_and_costs_the_environment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        rig = Rig()
        sandbox = await rig.ready(FUNCTION, "blue")
        [environment] = rig.tenancies["d1", "blue"].environments
        monkeypatch.setattr("insula.dispatch.pool.Pool.acquire", lambda *_: environment)
        with pytest.raises(ServiceException, match="security check"):
            await rig.invoke(FUNCTION, "green", 1)
        assert [invocation.tenant for invocation in sandbox.served] == ["blue"]
        assert not sandbox.alive
        assert rig.quotas.running == 0

    run(main())
    [record] = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert "SECURITY" in record.getMessage()
    assert "'green'" in record.getMessage()


def test_tenant_isolation_without_a_wall_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        rig = Rig()
        monkeypatch.setattr(FakeDriver, "isolates", False)
        with pytest.raises(InvalidParameterValueException, match="without isolation"):
            await rig.invoke(FUNCTION, "blue")
        assert rig.driver.made == []
        await rig.ready(new_function(tenancy=None), None)

    run(main())


# Failures


@pytest.mark.parametrize("error", [SandboxError("no room"), OSError(24, "files"), IndexError("spawner is gone")])
def test_a_failed_start_answers_one_waiter_and_the_others_are_served(error: Exception) -> None:
    async def main() -> None:
        rig = Rig()
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        rig.driver.gates = [gate]
        first, second = rig.invoke(FUNCTION, "blue", 1), rig.invoke(FUNCTION, "blue", 2)
        await settle()
        gate.set_exception(error)
        with pytest.raises(ServiceException, match="could not be made"):
            await first
        (await rig.sandbox(0)).poll()
        await settle()
        rig.driver.made[0].answer()
        assert (await second).error is None
        assert (rig.quotas.running, rig.rooms) == (0, 1)

    run(main())


def test_who_relied_on_one_that_ended_while_the_quota_was_full_is_not_forgotten() -> None:
    async def main() -> None:
        rig = Rig(concurrency=3)  # 7 tenant environments
        quota = rig.quota
        for _ in range(6):
            quota.take_room("other")
        busy, sandbox = await start(rig)
        sandbox.answer()  # it is FINISHING now, and trusted to poll again
        await busy
        waiting = rig.invoke(FUNCTION, "blue", 1)
        await settle()
        sandbox.die(KILLED)
        (await rig.sandbox(1)).poll()
        await settle()
        rig.driver.made[1].answer()
        assert (await waiting).error is None

    run(main())


def test_a_failed_verification_is_logged_as_a_security_event(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        rig = Rig()
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        rig.driver.gates = [gate]
        gate.set_exception(IsolationError("shares a namespace"))
        with pytest.raises(ServiceException):
            await rig.invoke(FUNCTION, "blue")
        assert rig.tenancies == {}

    run(main())
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]


def test_an_init_that_fails_is_tried_once_more_and_then_answers_one_waiter() -> None:
    async def main() -> None:
        rig = Rig()
        first, second = rig.invoke(FUNCTION, "blue", 1), rig.invoke(FUNCTION, "blue", 2)
        one, two = await rig.sandbox(0), await rig.sandbox(1)
        one.die(Exit(3, None))
        again = await rig.sandbox(2)
        assert not first.done()
        again.die(Exit(4, None))
        await settle()
        two.poll()
        await settle()
        assert kind(await first) == "Runtime.ExitError"
        assert b"00000001 Error: Runtime exited with error: exit status 4" in first.result().payload
        two.answer()
        assert (await second).error is None
        assert len(rig.driver.made) == 3

    run(main())


def test_the_second_try_serves_who_waits() -> None:
    async def main() -> None:
        rig = Rig()
        task = rig.invoke(FUNCTION, "blue", 1)
        (await rig.sandbox(0)).fail_init(b'{"errorType":"X"}')
        again = await rig.sandbox(1)
        again.poll()
        await settle()
        again.answer()
        assert (await task).error is None
        assert rig.rooms == 1

    run(main())


def test_an_init_that_hangs_has_ten_seconds_and_then_the_functions_timeout() -> None:
    async def main() -> None:
        rig = Rig()
        result = await rig.invoke(FUNCTION, "blue", tail=True)
        assert kind(result) == "Sandbox.Timedout"
        assert asyncio.get_running_loop().time() == pytest.approx(10 + FUNCTION.timeout)
        await settle()
        assert (rig.tenancies, rig.rooms) == ({}, 0)
        first, second = rig.streams.opened
        assert [line.partition("\t")[2] for line in first.lines[1:]] == ["Phase: init\tStatus: timeout"]
        assert "Phase: invoke\tStatus: timeout" in second.lines[1]
        assert [line.split(" ")[0] for line in second.lines] == ["INIT_START", "INIT_REPORT", "START", "END", "REPORT"]

    run(main())


def test_a_crash_while_idle_costs_nobody_an_invocation() -> None:
    async def main() -> None:
        rig = Rig()
        sandbox = await rig.ready(FUNCTION, "blue")
        sandbox.die(KILLED)
        await asyncio.sleep(0.01)
        assert (rig.tenancies, rig.rooms) == ({}, 0)
        assert await rig.ready(FUNCTION, "blue") is not sandbox

    run(main())


def test_a_crash_after_the_answer_starts_another_for_who_waits() -> None:
    async def main() -> None:
        rig = Rig()
        first, sandbox = await start(rig)
        sandbox.answer()
        assert (await first).error is None
        second = rig.invoke(FUNCTION, "blue", 2)
        await settle()
        sandbox.die(KILLED)
        (await rig.sandbox(1)).poll()
        await settle()
        rig.driver.made[1].answer()
        assert (await second).error is None

    run(main())


def test_one_that_ends_between_the_promise_and_its_keeping_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        rig = Rig()
        task = rig.invoke(FUNCTION, "blue")
        sandbox = await rig.sandbox(0)
        [environment] = rig.tenancies["d1", "blue"].environments
        sandbox.poll()
        environment._close(KILLED)  # the promise is made, the caller has not woken yet
        (await rig.sandbox(1)).poll()
        await settle()
        rig.driver.made[1].answer()
        assert (await task).error is None

    run(main())
    assert not caplog.records


def test_an_environment_that_timed_out_is_replaced_while_it_is_torn_down() -> None:
    async def main() -> None:
        rig = Rig()
        task, sandbox = await start(rig)
        sandbox.teardown = 60.0
        assert kind(await task) == "Sandbox.Timedout"
        again = rig.invoke(FUNCTION, "blue", 2)
        (await rig.sandbox(1)).poll()
        await settle()
        rig.driver.made[1].answer()
        assert (await again).error is None
        assert rig.rooms == 2  # until it is gone

    run(main())


def test_busy_environments_that_use_too_much_memory_are_ended() -> None:
    async def main() -> None:
        rig = Rig()
        watch = asyncio.create_task(rig.dispatcher.run())
        task, sandbox = await start(rig)
        sandbox.memory_used = (128 << 20) + 1
        assert kind(await task) == "Runtime.OutOfMemory"
        watch.cancel()

    run(main())


# Callers that go away


def test_a_caller_that_stops_waiting_leaves_the_environment_to_the_next() -> None:
    async def main() -> None:
        rig = Rig()
        first = rig.invoke(FUNCTION, "blue", 1)
        sandbox = await rig.sandbox(0)
        first.cancel()
        await settle()
        assert rig.quotas.running == 0
        second = rig.invoke(FUNCTION, "blue", 2)
        await settle()
        sandbox.poll()
        await settle()
        sandbox.answer()
        assert (await second).error is None
        assert len(rig.driver.made) == 1

    run(main())


def test_a_caller_that_goes_away_with_an_environment_in_its_hands_returns_it() -> None:
    async def main() -> None:
        rig = Rig()
        first = rig.invoke(FUNCTION, "blue", 1)
        sandbox = await rig.sandbox(0)
        sandbox.poll()
        first.cancel()  # in the same turn
        await settle()
        assert sandbox.served == []
        second = rig.invoke(FUNCTION, "blue", 2)
        await settle()
        sandbox.answer()
        assert (await second).error is None
        assert (len(rig.driver.made), rig.quotas.running) == (1, 0)

    run(main())


def test_a_caller_that_goes_away_with_a_dead_environment_in_its_hands_returns_nothing() -> None:
    async def main() -> None:
        rig = Rig()
        first = rig.invoke(FUNCTION, "blue", 1)
        sandbox = await rig.sandbox(0)
        [environment] = rig.tenancies["d1", "blue"].environments
        sandbox.poll()
        environment._close(KILLED)
        first.cancel()
        await settle()
        assert first.cancelled()
        assert (rig.tenancies, rig.quotas.running, rig.rooms) == ({}, 0, 0)

    run(main())


def test_what_runs_keeps_its_slot_when_its_caller_goes_away() -> None:
    async def main() -> None:
        rig = Rig(concurrency=1)
        first, sandbox = await start(rig)
        first.cancel()
        await settle()
        assert first.cancelled()
        with pytest.raises(TooManyRequestsException):  # the function still runs
            await rig.invoke(FUNCTION, "blue", 2)
        sandbox.answer()
        sandbox.poll()
        await settle()
        third = rig.invoke(FUNCTION, "blue", 3)
        await settle()
        sandbox.answer()
        assert (await third).error is None
        assert (len(rig.driver.made), rig.quotas.running) == (1, 0)

    run(main())


# Limits


def test_a_tenant_without_environments_is_turned_away_when_the_function_has_its_share() -> None:
    async def main() -> None:
        rig = Rig(concurrency=1)  # 2 tenant environments
        blue = await rig.ready(FUNCTION, "blue")
        await rig.ready(FUNCTION, "green")
        with pytest.raises(TooManyRequestsException) as refused:  # idle ones count
            await rig.invoke(FUNCTION, "red")
        assert refused.value.message == "Rate exceeded"
        assert ("d1", "red") not in rig.tenancies
        blue.die(KILLED)
        await settle()
        await rig.ready(FUNCTION, "red")

    run(main())


def test_the_share_is_the_functions_and_not_a_deployments() -> None:
    async def main() -> None:
        rig = Rig(concurrency=1)
        await rig.ready(FUNCTION, "blue")
        await rig.ready(new_function("d2", version="1"), "blue")
        with pytest.raises(TooManyRequestsException):
            await rig.invoke(FUNCTION, "green")
        await rig.ready(new_function("other", name="g"), "blue")

    run(main())


def test_a_tenant_with_a_busy_environment_is_turned_away_when_there_is_no_room() -> None:
    """It does not wait for the busy one: a function that invokes itself would wait for itself."""

    async def main() -> None:
        rig = Rig(concurrency=3)
        quota = rig.quota
        for _ in range(6):
            quota.take_room("other")
        first, sandbox = await start(rig)
        with pytest.raises(TooManyRequestsException, match="Rate exceeded"):
            await rig.invoke(FUNCTION, "blue", 2)
        sandbox.answer()
        await first
        assert (len(rig.driver.made), rig.quotas.running) == (1, 0)

    run(main())


def test_a_slot_comes_back_after_every_outcome() -> None:
    async def main() -> None:
        rig = Rig(concurrency=1)
        for end in (FakeSandbox.answer, FakeSandbox.answer_too_much, FakeSandbox.kill):
            task, sandbox = await start(rig)
            end(sandbox)
            await task
            assert rig.quotas.running == 0
            sandbox.kill()
            await settle()
        timeout, _ = await start(rig)
        await timeout
        assert rig.quotas.running == 0

    run(main())


# Ends


def test_retire_ends_idle_environments_at_once_and_busy_ones_after_their_answer() -> None:
    async def main() -> None:
        rig = Rig()
        idle = await rig.ready(FUNCTION, "green")
        task, busy = await start(rig)
        rig.dispatcher.retire("d1")
        assert (idle.alive, busy.alive) == (False, True)
        busy.answer()
        assert (await task).error is None
        busy.poll()
        assert not busy.alive
        await settle()
        assert (rig.tenancies, rig.rooms) == ({}, 0)

    run(main())


def test_who_waits_is_served_before_a_retired_environment_ends() -> None:
    async def main() -> None:
        rig = Rig()
        task = rig.invoke(FUNCTION, "blue")
        sandbox = await rig.sandbox(0)
        rig.dispatcher.retire("d1")
        sandbox.poll()
        await settle()
        sandbox.answer()
        assert (await task).error is None

    run(main())


def test_idle_environments_end_after_their_time_and_are_forgotten() -> None:
    async def main() -> None:
        rig = Rig(idle_seconds=60)
        reaper = asyncio.create_task(rig.dispatcher.run())
        sandbox = await rig.ready(FUNCTION, "blue")
        await asyncio.sleep(59)
        assert sandbox.alive
        await asyncio.sleep(12)
        assert not sandbox.alive
        assert rig.dispatcher._pools == {}
        assert rig.quotas.rooms == 0
        reaper.cancel()

    run(main())


def test_many_tenants_leave_nothing_behind() -> None:
    async def main() -> None:
        rig = Rig()
        reaper = asyncio.create_task(rig.dispatcher.run())
        for number in range(50):
            sandbox = await rig.ready(FUNCTION, f"tenant-{number}")
            sandbox.die(KILLED)
        await asyncio.sleep(12)
        assert (rig.dispatcher._pools, rig.dispatcher._busy, list(rig.dispatcher.environments())) == ({}, {}, [])
        assert not rig.quotas._accounts["111111111111"].tenants
        reaper.cancel()

    run(main())


def test_close_fails_who_waits_ends_everything_and_refuses_more() -> None:
    async def main() -> None:
        rig = Rig()
        await rig.ready(FUNCTION, "idle")
        busy, _ = await start(rig, "busy")
        waiting = rig.invoke(FUNCTION, "waiting")
        await rig.sandbox(2)
        rig.driver.gates = [asyncio.get_running_loop().create_future()]
        starting = rig.invoke(FUNCTION, "starting")
        await settle()
        await rig.dispatcher.close(grace=0.0)
        assert rig.driver.live == []
        assert kind(await busy) == "Runtime.ExitError"
        for task in (waiting, starting):
            with pytest.raises(ServiceUnavailableException):
                await task
        with pytest.raises(ServiceUnavailableException):
            await rig.invoke(FUNCTION, "late")
        assert (rig.quotas.running, rig.rooms, rig.driver.making) == (0, 0, 0)

    run(main())


def test_close_lets_running_invocations_finish_within_the_grace() -> None:
    async def main() -> None:
        rig = Rig()
        task, sandbox = await start(rig)
        closing = asyncio.create_task(rig.dispatcher.close(grace=2.0))
        await asyncio.sleep(1)
        sandbox.answer()
        assert (await task).error is None
        await closing
        assert not sandbox.alive

    run(main())
