"""Provisioned concurrency: environments of a version that are always there, initialised.

Source: https://docs.aws.amazon.com/lambda/latest/dg/provisioned-concurrency.html
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from insula.dispatch.environment import Environment, State

_PAUSE_SECONDS = 10.0  # after one that could not be made


@dataclass(frozen=True, slots=True)
class Provisioned:
    """How far a version's provisioned concurrency is.

    Attributes:
        requested: environments that were asked for.
        allocated: those that exist.
        available: those that are initialised.
        failure: why the last one could not be made, or None.
    """

    requested: int = 0
    allocated: int = 0
    available: int = 0
    failure: str | None = None


class Provision:
    """The provisioned environments of a pool.

    Args:
        make: starts to make one.
        clock: monotonic seconds.
    """

    def __init__(self, make: Callable[[], None], clock: Callable[[], float]) -> None:
        self.requested = 0
        self.making = 0
        self.failure: str | None = None
        self._environments: set[Environment] = set()
        self._make = make
        self._clock = clock
        self._paused_until = 0.0

    def status(self) -> Provisioned:
        """How far it is."""
        available = sum(environment.init_seconds is not None for environment in self._environments)
        return Provisioned(self.requested, len(self._environments) + self.making, available, self.failure)

    def add(self, environment: Environment) -> None:
        """One that was made, and initialises now."""
        self._environments.add(environment)

    def failed(self, reason: str) -> None:
        """One could not be made or initialised."""
        self.failure = reason
        self._paused_until = self._clock() + _PAUSE_SECONDS

    def forget(self, environment: Environment) -> None:
        """One that ended."""
        self._environments.discard(environment)

    def stop_starting(self, most: int) -> None:
        """End some that are not initialised yet."""
        starting = [environment for environment in self._environments if environment.state is State.STARTING]
        for environment in starting[:most]:
            environment.end()

    @property
    def surplus(self) -> int:
        """How many there are too many."""
        return max(0, len(self._environments) - self.requested)

    def balance(self) -> None:
        """Make what is missing."""
        if self._clock() >= self._paused_until:
            for _ in range(self.requested - len(self._environments) - self.making):
                self.making += 1
                self._make()
