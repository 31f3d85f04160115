"""As many are made ahead as will probably be asked for, and no more."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from insula.dispatch.forecast import Forecast


def steady(rate: float, making: float, seconds: float = 120.0) -> tuple[Forecast, float]:
    """A forecast after a steady stream, and the moment."""
    forecast, now = Forecast(), 1000.0
    forecast.made(making)
    for _ in range(int(rate * seconds)):
        forecast.arrived(now)
        now += 1 / rate
    return forecast, now


def test_none_is_made_before_anybody_came() -> None:
    forecast = Forecast()
    assert forecast.wanted(1000.0, 10) == 0
    forecast.made(0.5)
    assert forecast.wanted(1000.0, 10) == 0


def test_one_is_enough_for_a_trickle() -> None:
    forecast, now = steady(rate=0.05, making=0.02)
    assert forecast.wanted(now, 10) == 1


def test_twice_what_comes_while_one_is_made_stands_ready() -> None:
    for rate, making in ((10.0, 0.2), (50.0, 0.02), (2.0, 3.0)):
        forecast, now = steady(rate, making)
        expected = 1 + 2 * rate * making
        assert math.floor(expected) <= forecast.wanted(now, 1000) <= math.ceil(expected * 1.1)


def test_after_ten_minutes_without_anybody_none_is_kept() -> None:
    forecast, now = steady(rate=10.0, making=0.2)
    assert forecast.wanted(now + 120, 10) == 1
    assert forecast.wanted(now + 599, 10) == 1
    assert forecast.wanted(now + 601, 10) == 0


def test_a_making_that_becomes_slower_is_learnt() -> None:
    forecast, now = steady(rate=10.0, making=0.1)
    before = forecast.wanted(now, 1000)
    for _ in range(20):
        forecast.made(1.0)
    assert forecast.wanted(now, 1000) > 3 * before


@given(
    pauses=st.lists(st.floats(0, 1000, allow_nan=False), max_size=50),
    making=st.lists(st.floats(0, 900, allow_nan=False), max_size=5),
    most=st.integers(0, 100),
)
def test_it_is_never_more_than_it_may_be_and_never_less_than_none(
    pauses: list[float], making: list[float], most: int
) -> None:
    forecast, now = Forecast(), 0.0
    for seconds in making:
        forecast.made(seconds)
    for pause in pauses:
        now += pause
        forecast.arrived(now)
        assert 0 <= forecast.wanted(now, most) <= most
        assert forecast.wanted(now, 1 << 20) >= 1
