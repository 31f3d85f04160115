"""What happened in a world, in order, as those outside the dispatcher saw it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass


class BrokenPromiseError(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Limits that are out of reach of a small world unless they are small, too.

    Attributes:
        environments: that a function may make in ``seconds``.
        requests: a second, for each of concurrency.
    """

    environments: int
    seconds: float
    requests: int


class History:
    """Notes what happens.

    Args:
        tell: takes each line.

    Attributes:
        arrived: when each request arrived, as a number that grows with each event.
        retired: when each deployment was replaced, as such a number and in seconds.
        delivered: requests that were handed to a runtime.
        breaches: promises that were broken where nobody could be told.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.arrived: dict[str, int] = {}
        self.retired: dict[str, tuple[int, float]] = {}
        self.delivered: set[str] = set()
        self.breaches: list[str] = []
        self._events = 0
        self._tell = tell
        self._loop = asyncio.get_running_loop()

    def note(self, event: str) -> None:
        """One more event."""
        self._events += 1
        self._tell(f"{self._loop.time():9.4f}  {event}")

    def arrive(self, request_id: str) -> None:
        """A request is handed to the dispatcher."""
        self.arrived[request_id] = self._events

    def retire(self, deployment: str) -> None:
        """A deployment was replaced."""
        self.note(f"{deployment} is retired")
        self.retired.setdefault(deployment, (self._events, self._loop.time()))

    def retirement(self, deployment: str) -> tuple[float, float]:
        """When a deployment was replaced, as a number of events and in seconds."""
        return self.retired.get(deployment, (math.inf, math.inf))

    def expect(self, holds: object, promise: str, *found: object) -> None:
        """Note a promise that does not hold; the next check raises it."""
        if not holds:
            self.breaches.append(f"{promise}: {found}")


def expect(holds: object, promise: str, *found: object) -> None:
    """Check a promise.

    Raises:
        BrokenPromiseError: it does not hold.
    """
    if not holds:
        raise BrokenPromiseError(f"{promise}: {found}")
