"""Work in the background, while nobody pays for it."""

from __future__ import annotations

import threading
import time

_ticks: list[float] = []


def _tick() -> None:
    while True:
        _ticks.append(time.monotonic())
        time.sleep(0.005)


def begin() -> float:
    """Start a thread that works on; returns the time."""
    threading.Thread(target=_tick, daemon=True).start()
    return time.monotonic()


def worked(after: float) -> dict[str, float]:
    """How often it worked later than ``after``, before this invocation, and how long ago that time is."""
    now = time.monotonic()
    return {"ticks": sum(after < tick < now - 0.1 for tick in _ticks), "seconds": now - after}
