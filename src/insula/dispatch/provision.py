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
        self._environments: dict[Environment, None] = {}
        self._make = make
        self._clock = clock
        self._paused_until = 0.0

    def __contains__(self, environment: object) -> bool:
        """Whether it is one of them, and is not ending."""
        return environment in self._environments

    def status(self) -> Provisioned:
        """How far it is."""
        available = sum(environment.init_seconds is not None for environment in self._environments)
        return Provisioned(self.requested, len(self._environments) + self.making, available, self.failure)

    def add(self, environment: Environment) -> None:
        """One that was made, and initialises now."""
        self._environments[environment] = None

    def failed(self, reason: str) -> None:
        """One could not be made or initialised."""
        self.failure = reason
        self._paused_until = self._clock() + _PAUSE_SECONDS

    def forget(self, environment: Environment) -> None:
        """One that is ending, or ended."""
        self._environments.pop(environment, None)

    def balance(self) -> None:
        """Make what is missing, and end what is too much: what is not initialised yet, then what is idle."""
        if self._clock() >= self._paused_until:
            for _ in range(self.requested - len(self._environments) - self.making):
                self.making += 1
                self._make()
        surplus = max(0, len(self._environments) - self.requested)
        starting = [environment for environment in self._environments if environment.state is State.STARTING]
        idle = [environment for environment in self._environments if environment.state is State.IDLE]
        for environment in [*starting, *idle][:surplus]:
            self.forget(environment)
            environment.end()
