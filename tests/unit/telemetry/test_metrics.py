"""Counts become metrics that Prometheus can read, and drift shows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from insula.telemetry.metrics import Counts, Metrics
from tests.metrics import samples

STEADY = Counts(
    made=10,
    ended=3,
    alive={"starting": 1, "bound": 4, "unbound": 2},
    taken=100,
    given=98,
    running=2,
    rooms=5,
    tenants=5,
    starts={"warm": 90, "cold": 8},
    throttles={"CallerRateLimitExceeded": 7},
    violations=0,
)


def read(counts: Counts) -> dict[str, float]:
    """All samples, by name and labels."""
    return samples(Metrics(lambda: counts).render().decode())


def test_each_count_is_a_metric() -> None:
    assert read(STEADY) == {
        "insula_environments_made_total": 10,
        "insula_environments_ended_total": 3,
        "insula_environments,starting": 1,
        "insula_environments,bound": 4,
        "insula_environments,unbound": 2,
        "insula_environments,provisioned": 0,
        "insula_invocations_begun_total": 100,
        "insula_invocations_settled_total": 98,
        "insula_invocations_running": 2,
        "insula_starts_total,warm": 90,
        "insula_starts_total,cold": 8,
        "insula_throttles_total,CallerRateLimitExceeded": 7,
        "insula_security_violations_total": 0,
        "insula_environment_drift": 0,
        "insula_slot_drift": 0,
        "insula_room_drift": 0,
    }


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        (replace(STEADY, ended=2), "insula_environment_drift"),
        (replace(STEADY, alive={"bound": 6}), "insula_environment_drift"),
        (replace(STEADY, given=97), "insula_slot_drift"),
        (replace(STEADY, rooms=6), "insula_room_drift"),
    ],
)
def test_what_was_lost_drifts(changed: Counts, name: str) -> None:
    found = read(changed)
    assert found.pop(name) == 1
    assert [value for key, value in found.items() if key.endswith("drift")] == [0, 0]


def test_counts_are_asked_for_once_a_scrape() -> None:
    asked: list[Counts] = []

    def ask() -> Counts:
        asked.append(STEADY)
        return STEADY

    metrics = Metrics(ask)
    assert asked == []
    metrics.render()
    assert len(asked) == 1
