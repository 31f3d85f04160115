"""Limits that hold at every interleaving (Q1): taken before, given back after, counted nowhere else."""

from __future__ import annotations

from collections import Counter

from insula.model.errors import TooManyRequestsException
from insula.model.limits import TENANT_ENVIRONMENTS_PER_THOUSAND


class Quotas:
    """The account's concurrency, and the tenant environments of each function.

    Args:
        concurrency: invocations that may run at once.
    """

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.running = 0
        self._environments: Counter[str] = Counter()

    @property
    def tenant_environments(self) -> int:
        """Most tenant environments, active or idle, that one function may have."""
        return self.concurrency * TENANT_ENVIRONMENTS_PER_THOUSAND // 1000

    def take_invocation(self) -> None:
        """Take a concurrency slot.

        Raises:
            TooManyRequestsException: all are taken.
        """
        if self.running >= self.concurrency:
            raise TooManyRequestsException("Rate Exceeded.", reason="ConcurrentInvocationLimitExceeded")
        self.running += 1

    def give_invocation(self) -> None:
        """Give a slot back."""
        self.running -= 1

    def take_environment(self, function: str) -> None:
        """Count one more tenant environment of the function.

        Raises:
            TooManyRequestsException: it has as many as it may.
        """
        if self._environments[function] >= self.tenant_environments:
            raise TooManyRequestsException("Rate exceeded", reason="ConcurrentInvocationLimitExceeded")
        self._environments[function] += 1

    def give_environment(self, function: str) -> None:
        """One tenant environment of the function ended."""
        self._environments[function] -= 1
        if not self._environments[function]:
            del self._environments[function]

    def environments(self, function: str) -> int:
        """Tenant environments that the function has."""
        return self._environments[function]
