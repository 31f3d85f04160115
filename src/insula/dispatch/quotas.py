"""Limits that hold at every interleaving (Q1): taken before, given back after, counted nowhere else.

    account     concurrency; requests a second
    function    reserved or provisioned concurrency; tenant environments; new environments in 10 s
    tenant      concurrency, environments and requests a second, over all functions of the account

Sources: https://docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html and gettingstarted-limits.html
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from weakref import WeakValueDictionary

from insula.dispatch.rates import Bucket, Window
from insula.model.errors import TooManyRequestsException
from insula.model.limits import (
    REQUESTS_PER_CONCURRENCY,
    SCALING_ENVIRONMENTS,
    SCALING_SECONDS,
    TENANT_ENVIRONMENTS_PER_THOUSAND,
)
from insula.model.share import Shares

_ACCOUNT = "ConcurrentInvocationLimitExceeded"
_RESERVED = "ReservedFunctionConcurrentInvocationLimitExceeded"
_ACCOUNT_RATE = "CallerRateLimitExceeded"
_FUNCTION_RATE = "FunctionInvocationRateLimitExceeded"
_RESERVED_RATE = "ReservedFunctionInvocationRateLimitExceeded"
_UNLIMITED = Shares()


class Quotas:
    """The limits of all accounts.

    Args:
        concurrency: invocations that may run at once in an account.
        clock: monotonic seconds.
        shares: limits of tenants.

    Attributes:
        taken: slots that were taken so far.
        given: slots that were given back.
    """

    def __init__(
        self, concurrency: int, *, clock: Callable[[], float] = time.monotonic, shares: Shares = _UNLIMITED
    ) -> None:
        self.concurrency = concurrency
        self.clock = clock
        self.shares = shares
        self.taken = 0
        self.given = 0
        self._accounts: dict[str, _Account] = {}

    @property
    def running(self) -> int:
        """Invocations that run, in all functions."""
        return sum(f.running for account in self._accounts.values() for f in account.functions.values())

    @property
    def rooms(self) -> int:
        """Tenant environments that are counted, in all accounts."""
        return sum(f.environments for account in self._accounts.values() for f in account.functions.values())

    def function(self, account: str, name: str) -> FunctionQuota:
        """The limits of a function, all its versions together. They live while somebody holds them."""
        found = self._account(account).functions.get(name)
        if found is None:
            found = self._accounts[account].functions[name] = FunctionQuota(self, self._accounts[account])
        return found

    def reserve(self, account: str, name: str, concurrency: int | None) -> None:
        """Reserve concurrency for a function, or with None let it use what is unreserved."""
        function = self.function(account, name)
        function.commit(concurrency, function.provisioned)
        self._keep(account, name, function)

    def provision(self, account: str, name: str, concurrency: int) -> None:
        """Set concurrency aside for a function's provisioned environments, all its versions together."""
        function = self.function(account, name)
        function.commit(function.reserved, concurrency)
        self._keep(account, name, function)

    def sweep(self) -> None:
        """Forget tenants and functions that use nothing: a million tenants must not cost memory for ever."""
        now = self.clock()
        for account in self._accounts.values():
            account.recent = {function for function in account.recent if not function.quiet}
            for name in [name for name, tenant in account.tenants.items() if tenant.unused(now)]:
                del account.tenants[name]

    def _keep(self, account: str, name: str, function: FunctionQuota) -> None:
        kept = self._account(account).kept
        if function.reserved is None and not function.provisioned:
            kept.pop(name, None)
        else:
            kept[name] = function

    def _account(self, name: str) -> _Account:
        found = self._accounts.get(name)
        if found is None:
            found = self._accounts[name] = _Account()
        return found


class _Account:
    """What an account uses.

    Attributes:
        running: invocations.
        shared: of them, those that use what is not set aside for their function.
        committed: concurrency that is set aside for functions.
        kept: functions for which something is set aside.
        recent: functions of which environments were made lately, that the next ones are counted with them.
    """

    __slots__ = ("committed", "functions", "kept", "rate", "recent", "running", "shared", "tenants")

    def __init__(self) -> None:
        self.running = 0
        self.shared = 0
        self.committed = 0
        self.rate = Bucket()
        self.functions: WeakValueDictionary[str, FunctionQuota] = WeakValueDictionary()
        self.kept: dict[str, FunctionQuota] = {}
        self.recent: set[FunctionQuota] = set()
        self.tenants: dict[str, _Tenant] = {}


class _Tenant:
    """What a tenant uses."""

    __slots__ = ("environments", "rate", "running")

    def __init__(self) -> None:
        self.running = 0
        self.environments = 0
        self.rate = Bucket()

    def unused(self, now: float) -> bool:
        return not self.running and not self.environments and self.rate.empty(now)


class Slot:
    """The right to run one invocation."""

    __slots__ = ("_function", "_tenant")

    def __init__(self, function: FunctionQuota, tenant: _Tenant | None) -> None:
        self._function: FunctionQuota | None = function
        self._tenant = tenant

    def give(self) -> None:
        """Give it back, once.

        Raises:
            RuntimeError: it was given back before.
        """
        if self._function is None:
            raise RuntimeError("a concurrency slot was given back twice")
        if self._tenant is not None:
            self._tenant.running -= 1
        self._function.give()
        self._function = None


class FunctionQuota:
    """The limits of one function. Made by ``Quotas``.

    Attributes:
        running: invocations.
        environments: tenant environments, active or idle.
        reserved: reserved concurrency, or None.
        provisioned: concurrency set aside for provisioned environments.
    """

    __slots__ = (
        "__weakref__",
        "_account",
        "_quotas",
        "_rate",
        "_scaling",
        "environments",
        "provisioned",
        "reserved",
        "running",
    )

    def __init__(self, quotas: Quotas, account: _Account) -> None:
        self.running = 0
        self.environments = 0
        self.reserved: int | None = None
        self.provisioned = 0
        self._quotas = quotas
        self._account = account
        self._rate = Bucket()
        self._scaling = Window(SCALING_ENVIRONMENTS, SCALING_SECONDS)

    @property
    def most_environments(self) -> int:
        """Most tenant environments, active or idle, that the function may have."""
        configured = self._quotas.concurrency if self.reserved is None else self.reserved
        return configured * TENANT_ENVIRONMENTS_PER_THOUSAND // 1000

    @property
    def quiet(self) -> bool:
        """Whether forgetting it would forget nothing."""
        return not self.running and not self.environments and self._scaling.empty(self._quotas.clock())

    def take(self, tenant: str | None) -> Slot:
        """Take a concurrency slot for an invocation.

        Raises:
            TooManyRequestsException: a limit of the account, the function or the tenant is reached.
        """
        quotas, account = self._quotas, self._account
        if self.reserved is not None and self.running >= self.reserved:
            raise _throttled(_RESERVED)
        if account.running >= quotas.concurrency:
            raise _throttled(_ACCOUNT)
        shares = self._shares()
        if shares and account.shared >= quotas.concurrency - account.committed:
            raise _throttled(_ACCOUNT)
        now = quotas.clock()
        share = None if tenant is None else self._take_share(tenant, now)
        # What all share is taken last: who is over a rate of its own takes nothing from the others.
        if self.reserved is not None and not self._rate.take(now, self.reserved * REQUESTS_PER_CONCURRENCY):
            raise _throttled(_RESERVED_RATE)
        if not account.rate.take(now, quotas.concurrency * REQUESTS_PER_CONCURRENCY):
            raise _throttled(_ACCOUNT_RATE)
        account.running += 1
        account.shared += shares
        self.running += 1
        if share is not None:
            share.running += 1
        quotas.taken += 1
        return Slot(self, share)

    def give(self) -> None:
        """A slot comes back."""
        self.running -= 1
        self._account.running -= 1
        self._account.shared -= self._shares()
        self._quotas.given += 1

    def take_room(self, tenant: str) -> bool:
        """Count one more tenant environment; False if the function has as many as it may.

        Raises:
            TooManyRequestsException: the tenant has as many as it may.
        """
        full = self.environments >= self.most_environments
        if not full:
            self.take_share_of_room(tenant)
            self.environments += 1
        return not full

    def take_share_of_room(self, tenant: str) -> None:
        """Count one more environment of the tenant, which takes the place of another in the function's share.

        Raises:
            TooManyRequestsException: the tenant has as many as it may.
        """
        share, most = self._tenant(tenant), self._quotas.shares.of(tenant).environments
        if most is not None and share.environments >= most:
            raise _limited(tenant, f"has {share.environments} execution environments")
        share.environments += 1

    def give_room(self, tenant: str, *, passed_on: bool = False) -> None:
        """An environment of the tenant ended; ``passed_on`` if another takes its place in the function's share."""
        self._account.tenants[tenant].environments -= 1
        if not passed_on:
            self.environments -= 1

    def take_start(self) -> None:
        """Count the making of one environment.

        Raises:
            TooManyRequestsException: as many as a function may make in 10 s were made.
        """
        now = self._quotas.clock()
        if not self._scaling.take(now):
            raise _throttled(_FUNCTION_RATE, math.ceil(self._scaling.wait(now)))
        self._account.recent.add(self)

    def commit(self, reserved: int | None, provisioned: int) -> None:
        """Set what is set aside for the function."""
        account = self._account
        account.shared -= self._overflow()
        account.committed -= self._committed()
        self.reserved, self.provisioned = reserved, provisioned
        account.shared += self._overflow()
        account.committed += self._committed()

    def _shares(self) -> bool:
        """Whether the next slot, or the last one taken, is one of those that functions share."""
        return self.reserved is None and self.running >= self.provisioned

    def _overflow(self) -> int:
        return 0 if self.reserved is not None else max(0, self.running - self.provisioned)

    def _committed(self) -> int:
        return self.provisioned if self.reserved is None else self.reserved

    def _take_share(self, tenant: str, now: float) -> _Tenant:
        share, limits = self._tenant(tenant), self._quotas.shares.of(tenant)
        if limits.concurrency is not None and share.running >= limits.concurrency:
            raise _limited(tenant, f"runs {share.running} invocations")
        rate = limits.requests_per_second
        if rate is not None and not share.rate.take(now, rate):
            raise _limited(tenant, f"sends more than {rate:g} requests a second")
        return share

    def _tenant(self, name: str) -> _Tenant:
        tenants = self._account.tenants
        found = tenants.get(name)
        if found is None:
            found = tenants[name] = _Tenant()
        return found


def no_room() -> TooManyRequestsException:
    """AWS's error for a function that has as many tenant environments as it may."""
    return TooManyRequestsException("Rate exceeded", reason=_ACCOUNT)


def _throttled(reason: str, retry_after: int = 1) -> TooManyRequestsException:
    return TooManyRequestsException("Rate Exceeded.", reason=reason, retry_after=retry_after)


def _limited(tenant: str, what: str) -> TooManyRequestsException:
    return TooManyRequestsException(
        f"Rate Exceeded. Tenant {tenant!r} {what}, as many as this server lets it.", reason=_ACCOUNT
    )
