"""T4: files that every tenant can read must not carry signals between them."""

from __future__ import annotations

from collections.abc import Callable

from tests.security.conftest import Tenant


def test_locks_are_not_seen_by_others(green: Tenant, tenant: Callable[[str], Tenant]) -> None:
    blue = tenant("blue")
    assert len(blue.run("side_channels.lock_all")) > 5
    assert green.run("side_channels.find_locked") == []
    assert blue.run("side_channels.find_locked") != []


def test_locks_of_others_are_not_listed(green: Tenant, tenant: Callable[[str], Tenant]) -> None:
    """/proc/locks leaves out those of processes that cannot be seen, but not those that belong to none."""
    blue, marker = tenant("blue"), 123456789
    assert len(blue.run("side_channels.lock_ranges")) > 5
    blue.run("side_channels.lock_description", marker=marker)
    assert str(marker) not in green.run("side_channels.listed_locks")
    assert green.run("side_channels.listed_locks") == ""


def test_inotify_hears_nothing_of_others(green: Tenant, tenant: Callable[[str], Tenant]) -> None:
    blue = tenant("blue")
    assert green.run("side_channels.watch") > 5
    green.run("side_channels.events")
    before = green.run("side_channels.events")  # what the environment itself causes between two calls
    blue.run("side_channels.touch")
    assert green.run("side_channels.events") <= before
    green.run("side_channels.touch")
    assert green.run("side_channels.events") > 0


def test_leases_and_notices_tell_nothing(green: Tenant) -> None:
    assert green.run("side_channels.lease") == []


def test_reading_leaves_no_time_behind(green: Tenant, tenant: Callable[[str], Tenant]) -> None:
    before = green.run("side_channels.times")
    tenant("blue").run("side_channels.touch")
    assert green.run("side_channels.times") == before
