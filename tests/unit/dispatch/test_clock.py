"""Steps of the wall clock: it says when an invocation's deadline is, and nothing else depends on it."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.simulation.fakes import Rig, new_function, settle
from tests.simulation.loop import run

FUNCTION = new_function(timeout=10)
DAY = 86_400.0


@pytest.mark.parametrize("step", [DAY, -DAY, 3.0, -3.0])
def test_a_step_of_the_wall_clock_neither_ends_an_invocation_nor_keeps_it_alive(step: float) -> None:
    async def main() -> None:
        rig = Rig()
        loop = asyncio.get_running_loop()
        shift = 0.0
        rig.dispatcher._wall = lambda: 1_800_000_000.0 + loop.time() + shift
        sandbox = await rig.ready(FUNCTION, "blue")
        slow = rig.invoke(FUNCTION, "blue", 1)
        await settle()
        shift = step
        await asyncio.sleep(9.9)
        assert not slow.done()
        sandbox.answer()
        assert (await slow).error is None
        sandbox.poll()
        endless = rig.invoke(FUNCTION, "blue", 2)
        await settle()
        assert sandbox.deadline_ms == pytest.approx((1_800_000_000 + loop.time() + step + 10) * 1000, abs=50)
        shift = 0.0
        await asyncio.sleep(10.1)
        assert endless.done()
        assert json.loads(endless.result().payload)["errorType"] == "Sandbox.Timedout"

    run(main())


def test_a_step_of_the_wall_clock_ends_no_idle_environment() -> None:
    async def main() -> None:
        rig = Rig(idle_seconds=100, max_age=1000)
        loop = asyncio.get_running_loop()
        shift = 0.0
        rig.dispatcher._wall = lambda: 1_800_000_000.0 + loop.time() + shift
        background = asyncio.create_task(rig.dispatcher.run())
        sandbox = await rig.ready(FUNCTION, "blue")
        shift = DAY
        await asyncio.sleep(90)
        assert sandbox.alive
        shift = -DAY
        await asyncio.sleep(15)
        assert not sandbox.alive
        background.cancel()

    run(main())
