"""Limits in time: so many a second, and so many in a span."""

from __future__ import annotations

from collections import deque


class Bucket:
    """So many a second, and a second's worth at once: the generic cell rate algorithm (ITU-T I.371)."""

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due = 0.0

    def take(self, now: float, rate: float) -> bool:
        """Whether one more may pass at ``now``, monotonic seconds, at ``rate`` a second."""
        if rate <= 0:
            return False
        due = max(self._due, now) + 1 / rate
        if due - now > max(1.0, 1 / rate) + 1e-9:
            return False
        self._due = due
        return True

    def empty(self, now: float) -> bool:
        """Whether it is as if nothing had ever passed."""
        return self._due <= now


class Window:
    """At most so many in any span of time.

    Args:
        most: how many.
        seconds: the span.
    """

    __slots__ = ("_moments", "_most", "_seconds")

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._moments: deque[float] = deque()

    def take(self, now: float) -> bool:
        """Whether one more may pass at ``now``, monotonic seconds."""
        self._forget(now)
        if len(self._moments) >= self._most:
            return False
        self._moments.append(now)
        return True

    def wait(self, now: float) -> float:
        """Seconds until one may pass."""
        self._forget(now)
        return 0.0 if len(self._moments) < self._most else self._moments[0] + self._seconds - now

    def empty(self, now: float) -> bool:
        """Whether nothing passed within the span."""
        self._forget(now)
        return not self._moments

    def _forget(self, now: float) -> None:
        moments, before = self._moments, now - self._seconds
        while moments and moments[0] <= before:
            moments.popleft()
