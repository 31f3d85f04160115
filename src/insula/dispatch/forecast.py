"""How many environments to make ahead of need: what will probably be asked for while one is being made."""

from __future__ import annotations

import math

_MEMORY_SECONDS = 20.0  # arrivals longer ago hardly count
_MARGIN = 2.0  # arrivals come in bunches
_HORIZON_SECONDS = 600.0  # after so long without any arrival none is expected


class Forecast:
    """Watches the arrivals that needed a new environment, and how long making one takes."""

    def __init__(self) -> None:
        self._rate = 0.0  # per second, decaying
        self._last: float | None = None
        self._making = 0.0

    def arrived(self, now: float) -> None:
        """An invocation needed a new environment; monotonic seconds."""
        self._rate = self._decayed(now) + 1 / _MEMORY_SECONDS
        self._last = now

    def made(self, seconds: float) -> None:
        """Making one, its init included, took so long."""
        self._making = seconds if not self._making else 0.8 * self._making + 0.2 * seconds

    def wanted(self, now: float, most: int) -> int:
        """How many should stand ready, at most ``most``."""
        if self._last is None or now - self._last > _HORIZON_SECONDS:
            return 0
        return min(most, 1 + math.ceil(_MARGIN * self._decayed(now) * self._making - 0.1))  # a trickle needs but one

    def _decayed(self, now: float) -> float:
        return 0.0 if self._last is None else self._rate * math.exp((self._last - now) / _MEMORY_SECONDS)
