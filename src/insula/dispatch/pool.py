"""The environments of one function version, and who waits for one.

Locating an environment means: an idle one of this tenant, the most recently used first. If there is none, the caller
waits, and takes whichever comes first: a new environment, or one that its tenant frees.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator

from insula.dispatch.environment import Environment, State
from insula.dispatch.quotas import Quotas
from insula.model.errors import LambdaError, ServiceException, ServiceUnavailableException
from insula.model.function import FunctionVersion
from insula.model.invocation import Invocation, InvocationResult
from insula.sandbox.driver import IsolationError, SandboxError

logger = logging.getLogger(__name__)

# How long a waiter trusts that an environment which has answered will poll again before another one is made for it.
_GRACE_SECONDS = 0.05


class InitFailedError(Exception):
    """The environment that a caller waited for could not be initialised.

    Attributes:
        outcome: what the caller gets, for its invocation.
    """

    def __init__(self, outcome: Callable[[Invocation], InvocationResult]) -> None:
        super().__init__("initialisation failed")
        self.outcome = outcome


class _Tenancy:
    """What a pool holds for one tenant (or for all callers of a function without tenancy)."""

    __slots__ = ("environments", "idle", "starting", "waiters")

    def __init__(self) -> None:
        self.idle: list[Environment] = []
        self.waiters: deque[asyncio.Future[Environment]] = deque()
        self.environments: set[Environment] = set()
        self.starting = 0

    @property
    def coming(self) -> int:
        """Environments that will be idle soon."""
        return self.new + sum(e.state is State.FINISHING for e in self.environments)

    @property
    def new(self) -> int:
        """Environments that are being made or initialised."""
        return self.starting + sum(e.state is State.STARTING for e in self.environments)

    @property
    def empty(self) -> bool:
        return not (self.waiters or self.environments or self.starting)


class Pool:
    """All environments of one deployment of a function version.

    Args:
        function: the version, as it was when the pool was made.
        quotas: limits that creating an environment counts against.
        create: makes an environment for a tenant and starts it; its owner is this pool.
    """

    def __init__(
        self,
        function: FunctionVersion,
        quotas: Quotas,
        create: Callable[[Pool, str | None], Awaitable[Environment]],
    ) -> None:
        self.function = function
        self.retired = False
        self._quotas = quotas
        self._create = create
        self._quota_key = f"{function.account}:{function.name}"
        self._tenants: dict[str | None, _Tenancy] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def empty(self) -> bool:
        """Whether nothing lives in it and nobody waits."""
        return not self._tenants

    def environments(self) -> Iterator[Environment]:
        """Every environment that has started."""
        for tenancy in self._tenants.values():
            yield from tenancy.environments

    def acquire(self, tenant: str | None) -> Environment | asyncio.Future[Environment]:
        """An idle environment of the tenant, or the promise of one.

        Raises:
            TooManyRequestsException: the function has as many tenant environments as it may.
        """
        tenancy = self._tenants.get(tenant)
        if tenancy is None:
            tenancy = self._tenants[tenant] = _Tenancy()
        if tenancy.idle:
            return tenancy.idle.pop()
        waiter = asyncio.get_running_loop().create_future()
        tenancy.waiters.append(waiter)
        try:
            self._supply(tenant, tenancy, trust=True)
        except LambdaError:
            # One that is busy now will come back; only a tenant without any is turned away.
            if not tenancy.coming and not tenancy.environments:
                self._give_up(tenant, tenancy, waiter)
                raise
        return waiter

    def abandon(self, tenant: str | None, waiter: asyncio.Future[Environment]) -> None:
        """The caller went away while it waited; what was already given to it goes to the next one."""
        tenancy = self._tenants.get(tenant)
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            environment = waiter.result()
            if environment.state is State.IDLE:  # it may have ended meanwhile
                self.on_idle(environment)
        elif tenancy is not None and waiter in tenancy.waiters:
            tenancy.waiters.remove(waiter)

    def retire(self) -> None:
        """Let no idle environment live on: a newer deployment serves from now on. Busy ones finish first."""
        self.retired = True
        for tenancy in self._tenants.values():
            while tenancy.idle:
                tenancy.idle.pop().kill()

    def end_idle(self, before: float) -> None:
        """End environments that have been idle since before this monotonic time."""
        for tenancy in self._tenants.values():
            keep = [e for e in tenancy.idle if e.idle_since >= before]
            for environment in tenancy.idle:
                if environment.idle_since < before:
                    environment.kill()
            tenancy.idle[:] = keep

    async def close(self) -> None:
        """End everything."""
        self.retired = True
        for tenancy in self._tenants.values():  # first, so that nothing is started for them
            while tenancy.waiters:
                self._fail_first(tenancy, ServiceUnavailableException("The server is stopping. Try again."))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        environments = list(self.environments())
        for environment in environments:
            environment.kill()
        await asyncio.gather(*(environment.wait() for environment in environments))

    # Owner of environments.

    def on_idle(self, environment: Environment) -> None:
        """Give it to whoever waits longest, else keep it."""
        tenancy = self._tenants[environment.tenant]
        while tenancy.waiters:
            waiter = tenancy.waiters.popleft()
            if not waiter.done():
                waiter.set_result(environment)
                return
        if self.retired:
            environment.kill()
        else:
            tenancy.idle.append(environment)

    def on_failed_start(self, environment: Environment, outcome: Callable[[Invocation], InvocationResult]) -> None:
        """Tell the first who waits: each failed start answers one invocation, so that none waits for ever."""
        self._fail_first(self._tenants[environment.tenant], InitFailedError(outcome))

    def on_ended(self, environment: Environment) -> None:
        """Forget it, and replace it if somebody still counts on it."""
        tenant, tenancy = environment.tenant, self._tenants[environment.tenant]
        tenancy.environments.discard(environment)
        if environment in tenancy.idle:
            tenancy.idle.remove(environment)
        if tenant is not None:
            self._quotas.give_environment(self._quota_key)
        self._supply_or_fail(tenant, tenancy)

    # Making environments.

    def _supply(self, tenant: str | None, tenancy: _Tenancy, *, trust: bool) -> None:
        """Start as many environments as are lacking for those who wait."""
        coming = tenancy.coming if trust else tenancy.new
        if trust and coming > tenancy.new:
            asyncio.get_running_loop().call_later(_GRACE_SECONDS, self._check_trust, tenant)
        for _ in range(len(tenancy.waiters) - coming):
            if tenant is not None:
                self._quotas.take_environment(self._quota_key)
            tenancy.starting += 1
            task = asyncio.create_task(self._start(tenant, tenancy))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _check_trust(self, tenant: str | None) -> None:
        tenancy = self._tenants.get(tenant)
        if tenancy is not None and tenancy.waiters:
            self._supply_or_fail(tenant, tenancy, trust=False)

    def _supply_or_fail(self, tenant: str | None, tenancy: _Tenancy, *, trust: bool = True) -> None:
        try:
            self._supply(tenant, tenancy, trust=trust)
        except LambdaError as error:
            if not tenancy.environments and not tenancy.starting:
                while tenancy.waiters:
                    self._fail_first(tenancy, error)
        self._drop_if_empty(tenant, tenancy)

    async def _start(self, tenant: str | None, tenancy: _Tenancy) -> None:
        environment: Environment | None = None
        try:
            environment = await self._create(self, tenant)
            environment.bind(tenant)
            tenancy.environments.add(environment)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, nobody may wait for it for ever
            self._log_failure(error)
            message = "The execution environment could not be made. The server's log says why."
            self._fail_first(tenancy, ServiceException(message))
        finally:
            tenancy.starting -= 1
            if environment is None:
                if tenant is not None:
                    self._quotas.give_environment(self._quota_key)
                self._supply_or_fail(tenant, tenancy)  # some may have relied on this one while the quota was full
        if environment is not None:
            await environment.open()

    def _log_failure(self, error: Exception) -> None:
        if isinstance(error, IsolationError):
            logger.critical("SECURITY: a sandbox failed its verification and was killed: %s", error)
        else:
            unexpected = None if isinstance(error, SandboxError | OSError) else error
            logger.error("an environment of %s could not be made: %s", self.function.arn, error, exc_info=unexpected)

    def _fail_first(self, tenancy: _Tenancy, error: Exception) -> None:
        while tenancy.waiters:
            waiter = tenancy.waiters.popleft()
            if not waiter.done():
                waiter.set_exception(error)
                return

    def _give_up(self, tenant: str | None, tenancy: _Tenancy, waiter: asyncio.Future[Environment]) -> None:
        tenancy.waiters.remove(waiter)
        self._drop_if_empty(tenant, tenancy)

    def _drop_if_empty(self, tenant: str | None, tenancy: _Tenancy) -> None:
        """A tenant without anything is forgotten: a million tenants must not cost memory for ever."""
        if tenancy.empty and self._tenants.get(tenant) is tenancy:
            del self._tenants[tenant]
