"""The dispatcher keeps its promises in random worlds, and these worlds notice a dispatcher that does not."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.simulation.mistakes import MISTAKES, Mistake
from tests.simulation.search import replay, search
from tests.simulation.world import live

SEEDS = 240  # .ci/run tries thousands
_STEP = 20
_ENOUGH = 60  # worlds, for any mistake


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Failed starts are logged, hundreds of times."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("first", range(0, SEEDS, _STEP))
def test_promises_hold_in_every_world(first: int) -> None:
    outcomes = Counter[str]()
    for seed in range(first, first + _STEP):
        try:
            outcomes += live(seed)
        except AssertionError as error:
            pytest.fail(f"seed {seed}: {error!r}; to see it: python -m tests.simulation --seed {seed} --trace")
    # A world in which nothing happens keeps every promise.
    for outcome in ("answered", "Unhandled", "TooManyRequestsException", "ServiceException"):
        assert outcomes[outcome], outcomes


def test_a_seed_is_one_history() -> None:
    histories: list[list[str]] = [[], [], []]
    for seed, history in zip((7, 7, 8), histories, strict=True):
        live(seed, history.append)
    assert histories[0] == histories[1]
    assert histories[0] != histories[2]


@pytest.mark.parametrize(("mistake", "promise"), MISTAKES)
def test_a_mistake_is_noticed(mistake: Mistake, promise: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        mistake(patch)
        with pytest.raises(AssertionError, match=promise):
            [live(seed) for seed in range(_ENOUGH)]


def test_a_world_that_breaks_a_promise_is_named_and_can_be_looked_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    MISTAKES[0][0](monkeypatch)
    assert not replay(0, trace=True)
    *events, verdict = capsys.readouterr().out.splitlines()
    assert verdict.startswith("seed 0: BrokenPromiseError('outside: (\"T1,")
    assert any("arrives" in event for event in events)


def test_many_worlds_are_lived_through_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert search(range(4))
    assert "4 worlds" in capsys.readouterr().out
