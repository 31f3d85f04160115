"""Unbound environments: initialised ahead of need (proactive initialization), given to one tenant on its arrival.

None of them has run an invocation (T3), and none comes back: who is given one binds it for good (T1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from insula.dispatch.environment import Environment, State
from insula.dispatch.forecast import Forecast
from insula.dispatch.idle import Shelf

_PAUSE_SECONDS = 30.0  # after one that could not be initialised: whoever calls next is told why


class Spares:
    """The unbound environments of a pool.

    Args:
        make: starts to make one.
        shelf: where those that are ready are frozen.
        most: how many there may be now.
        clock: monotonic seconds.
    """

    def __init__(
        self, make: Callable[[], None], shelf: Shelf, most: Callable[[], int], clock: Callable[[], float]
    ) -> None:
        self.making = 0
        self._environments: dict[Environment, None] = {}
        self._leaving: set[Environment] = set()
        self._make = make
        self._shelf = shelf
        self._most = most
        self._clock = clock
        self._forecast = Forecast()
        self._paused_until = 0.0

    def __len__(self) -> int:
        """How many can be given away."""
        return len(self._environments)

    def __iter__(self) -> Iterator[Environment]:
        """All that are not bound, those that are ending too."""
        return iter([*self._environments, *self._leaving])

    def __contains__(self, environment: object) -> bool:
        """Whether it can be given away."""
        return environment in self._environments

    @property
    def empty(self) -> bool:
        """Whether forgetting it would forget nothing."""
        paused = self._clock() < self._paused_until
        return not (self._environments or self._leaving or self.making or paused)

    def arrived(self) -> None:
        """An invocation needs a new environment."""
        self._forecast.arrived(self._clock())

    def made(self, seconds: float) -> None:
        """An environment of the pool, spare or not, was ready so long after it was asked for."""
        self._paused_until = 0.0
        self._forecast.made(seconds)

    def failed(self) -> None:
        """A spare could not be made."""
        self._paused_until = self._clock() + _PAUSE_SECONDS

    def add(self, environment: Environment) -> None:
        """One that was made, and initialises now."""
        self._environments[environment] = None

    def take(self, *, ready: bool) -> Environment | None:
        """One to be bound: ready if there is such a one, else, unless it must be ``ready``, one that will be soon."""
        found = next((e for e in self._environments if e.state is State.IDLE), None)
        if found is None and not ready:
            found = next((e for e in self._environments if e.state is State.STARTING), None)
        if found is not None:
            self.forget(found)
        return found

    def leave(self, environment: Environment) -> None:
        """One that is ending: it is given away no more."""
        self.forget(environment)
        self._leaving.add(environment)

    def forget(self, environment: Environment) -> None:
        """One that was taken, or ended."""
        self._environments.pop(environment, None)
        self._leaving.discard(environment)
        self._shelf.take(environment)

    def balance(self) -> None:
        """Make as many as are probably needed, and end what is too much."""
        now = self._clock()
        wanted = self._forecast.wanted(now, self._most())
        if now >= self._paused_until:
            for _ in range(wanted - len(self._environments) - self.making):
                self.making += 1
                self._make()
        for environment in list(self._environments)[: max(0, len(self._environments) - wanted)]:
            self.leave(environment)
            environment.end()
