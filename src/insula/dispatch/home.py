"""What the pools of a server share, and how they tell that there is no environment to be had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from insula.dispatch.environment import Environment, Owner
from insula.dispatch.idle import Shelf
from insula.dispatch.start import Start
from insula.model.function import FunctionVersion
from insula.model.invocation import Invocation, InvocationResult


class InitFailedError(Exception):
    """The environment that a caller waited for could not be initialised.

    Attributes:
        outcome: what the caller gets, for its invocation.
    """

    def __init__(self, outcome: Callable[[Invocation], InvocationResult]) -> None:
        super().__init__("initialisation failed")
        self.outcome = outcome


class StaleDeploymentError(Exception):
    """A newer deployment serves by now: no new environment is made of this one."""


class Home(Protocol):
    """What all pools share: the dispatcher.

    Attributes:
        idle: environments that may be ended when they are not needed.
        kept: those that are kept ready.
        clock: monotonic seconds.
        max_age: seconds after which an environment is ended once it is idle.
        ended: environments of which nothing is left.
        violations: of isolation, that were stopped.
    """

    idle: Shelf
    kept: Shelf
    clock: Callable[[], float]
    max_age: float
    ended: int
    violations: int

    async def create(self, function: FunctionVersion, owner: Owner, start: Start) -> Environment:
        """Make an environment and start its runtime."""
        ...

    def evicts(self, function: FunctionVersion) -> bool:
        """Whether a new tenant takes the place of the longest idle one when the function is full."""
        ...

    def spares(self, function: FunctionVersion) -> int:
        """How many unbound environments the function may have."""
        ...
