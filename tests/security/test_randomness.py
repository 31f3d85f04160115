"""T4: no two environments draw the same, though all are forks of one process."""

from __future__ import annotations

from collections.abc import Callable

from tests.security.conftest import Tenant


def test_no_two_environments_draw_the_same(tenant: Callable[[str], Tenant]) -> None:
    draws = [tenant("draw").run("randomness.draw") for _ in range(6)]
    for source in draws[0]:
        assert len({draw[source] for draw in draws}) == len(draws), source


def test_one_environment_never_repeats_itself(green: Tenant) -> None:
    first, second = green.run("randomness.draw"), green.run("randomness.draw")
    first.pop("uuid node"), second.pop("uuid node")  # a node is the same by definition
    assert not {source for source in first if first[source] == second[source]}
