"""What a pool holds for one tenant."""

from __future__ import annotations

import asyncio
from collections import deque

from insula.dispatch.environment import Environment, State


class Tenancy:
    """The environments of one tenant, or of all callers of a function without tenancy, and who waits for one.

    Attributes:
        idle: the most recently used last.
        provisioned: those that are idle and provisioned; they are used first.
        waiters: in the order in which they came.
        environments: all that are bound to the tenant.
        starting: those that are being made.
        retries: of those that are made next, so many are a second try.
    """

    __slots__ = ("environments", "idle", "provisioned", "retries", "starting", "waiters")

    def __init__(self) -> None:
        self.idle: list[Environment] = []
        self.provisioned: list[Environment] = []
        self.waiters: deque[asyncio.Future[Environment]] = deque()
        self.environments: set[Environment] = set()
        self.starting = 0
        self.retries = 0

    @property
    def coming(self) -> int:
        """Environments that will be idle soon."""
        return self.new + sum(e.state is State.FINISHING for e in self.environments)

    @property
    def new(self) -> int:
        """Environments that are being made or initialised; not provisioned ones, whose init may take 15 minutes."""
        return self.starting + sum(e.state is State.STARTING and not e.start.provisioned for e in self.environments)

    @property
    def waiting(self) -> int:
        """Callers that wait still."""
        return sum(not waiter.done() for waiter in self.waiters)

    @property
    def empty(self) -> bool:
        """Whether forgetting it would forget nothing."""
        return not (self.waiters or self.environments or self.starting)

    def store(self, environment: Environment) -> list[Environment]:
        """Where one lies while it is idle."""
        return self.provisioned if environment.start.provisioned else self.idle

    def give(self, environment: Environment) -> bool:
        """Give an idle one to whoever waits longest; False if nobody waits."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(environment)
                return True
        return False

    def fail_first(self, error: Exception) -> bool:
        """Tell whoever waits longest that it gets none; False if nobody waits."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_exception(error)
                return True
        return False
