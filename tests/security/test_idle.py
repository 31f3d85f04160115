"""T4: what a function can do between its invocations."""

from __future__ import annotations

import time

from tests.security.conftest import Tenant


def test_a_thread_does_no_work_while_its_environment_is_idle(green: Tenant) -> None:
    begun = green.run("idle.begin")
    time.sleep(1.5)
    got = green.run("idle.worked", after=begun + 0.6)
    assert got["seconds"] > 0.8
    assert got["ticks"] == 0
