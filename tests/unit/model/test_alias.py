"""Aliases divide invocations and environments by weight."""

from __future__ import annotations

from random import Random

import pytest

from insula.model.alias import Alias


def alias(additional: str | None = None, weight: float = 0.0) -> Alias:
    return Alias("0" * 12, "us-east-1", "f", "live", "1", "r", additional=additional, weight=weight)


def test_an_alias_of_one_version_asks_for_no_random_number() -> None:
    assert alias().choose(lambda: pytest.fail("asked")) == "1"


@pytest.mark.parametrize(
    ("weight", "number", "version"),
    [(0.0, 0.0, "1"), (0.25, 0.2499, "2"), (0.25, 0.25, "1"), (1.0, 0.9999999, "2")],
)
def test_the_weight_is_the_share_of_the_additional_version(weight: float, number: float, version: str) -> None:
    assert alias("2", weight).choose(lambda: number) == version


def test_shares_come_out_over_many_invocations() -> None:
    random = Random(7).random
    chosen = [alias("2", 0.3).choose(random) for _ in range(10_000)]
    assert 2_800 < chosen.count("2") < 3_200


@pytest.mark.parametrize(
    ("weight", "count", "wanted"),
    [(0.0, 5, {"1": 5, "2": 0}), (0.3, 10, {"1": 7, "2": 3}), (1.0, 3, {"1": 0, "2": 3}), (0.1, 1, {"1": 1, "2": 0})],
)
def test_environments_are_divided_without_a_rest(weight: float, count: int, wanted: dict[str, int]) -> None:
    assert alias("2", weight).split(count) == wanted
    assert alias().split(count) == {"1": count}
