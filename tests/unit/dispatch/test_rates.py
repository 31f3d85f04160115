"""So many in time, whatever the moments at which they come."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.dispatch.rates import Bucket, Window

# Pauses between attempts, in 64ths of a second: their sums are exact, so that the tests need no tolerance.
_PAUSES = st.lists(st.integers(0, 256).map(lambda pause: pause / 64), max_size=200)
_RATES = st.sampled_from([0.1, 0.5, 1.0, 1.5, 3.0, 10.0])


def moments(pauses: Sequence[float], begin: float = 100.0) -> list[float]:
    found = []
    for pause in pauses:
        begin += pause
        found.append(begin)
    return found


@given(pauses=_PAUSES, most=st.integers(0, 5), seconds=st.sampled_from([0.25, 1.0, 10.0]))
def test_no_span_of_a_window_has_more_than_it_may(pauses: list[float], most: int, seconds: float) -> None:
    window = Window(most, seconds)
    passed = [moment for moment in moments(pauses) if window.take(moment)]
    for begin in passed:
        assert sum(begin <= moment < begin + seconds for moment in passed) <= most


@given(pauses=_PAUSES, most=st.integers(1, 5), seconds=st.sampled_from([0.25, 1.0, 10.0]))
def test_a_window_refuses_only_when_it_is_full_and_says_for_how_long(
    pauses: list[float], most: int, seconds: float
) -> None:
    window = Window(most, seconds)
    passed: list[float] = []
    for moment in moments(pauses):
        full = sum(moment - seconds < earlier for earlier in passed) >= most
        assert (window.wait(moment) > 0) == full
        assert window.take(moment) != full
        if not full:
            passed.append(moment)


def test_a_window_is_open_again_after_what_it_said() -> None:
    window = Window(1, 10.0)
    assert window.take(100.0)
    assert window.wait(104.0) == 6.0
    assert not window.take(109.9)
    assert window.take(110.0)


def test_a_window_without_anything_in_it_is_empty() -> None:
    window = Window(2, 10.0)
    assert window.empty(100.0)
    window.take(100.0)
    assert not window.empty(109.0)
    assert window.empty(110.0)


@given(pauses=_PAUSES, rate=_RATES)
def test_no_span_of_a_bucket_has_more_than_its_rate_and_a_seconds_worth(pauses: list[float], rate: float) -> None:
    bucket = Bucket()
    passed = [moment for moment in moments(pauses) if bucket.take(moment, rate)]
    for first, begin in enumerate(passed):
        for count, end in enumerate(passed[first:], 1):
            assert count <= rate * (end - begin) + max(1.0, rate) + 1e-6


@given(pauses=_PAUSES, rate=_RATES)
def test_who_keeps_to_the_rate_is_never_refused(pauses: list[float], rate: float) -> None:
    bucket, now = Bucket(), 100.0
    for pause in pauses:
        now += 1 / rate + pause
        assert bucket.take(now, rate)


@pytest.mark.parametrize("rate", [1.0, 3.0, 10.0, 10_000.0])
def test_a_seconds_worth_passes_at_once(rate: float) -> None:
    bucket = Bucket()
    assert sum(bucket.take(100.0, rate) for _ in range(20_000)) == rate


def test_less_than_one_a_second_passes_one_by_one() -> None:
    bucket = Bucket()
    passed = [moment for moment in range(100, 130) if bucket.take(moment, 0.1)]
    assert passed == [100, 110, 120]


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_nothing_passes_at_no_rate(rate: float) -> None:
    assert not Bucket().take(100.0, rate)


def test_a_bucket_is_empty_once_it_is_as_if_nothing_had_passed() -> None:
    bucket = Bucket()
    assert bucket.empty(0.0)
    bucket.take(100.0, 2.0)
    assert not bucket.empty(100.4)
    assert bucket.empty(100.5)


def test_what_is_refused_costs_nothing() -> None:
    bucket = Bucket()
    bucket.take(100.0, 1.0)
    for _ in range(50):
        assert not bucket.take(100.5, 1.0)
    assert bucket.take(101.0, 1.0)
