"""The dispatcher: takes quota, locates or creates an environment, hands over, gives quota back."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from insula.dispatch.environment import Environment, Owner, State, TenancyViolationError
from insula.dispatch.home import InitFailedError, StaleDeploymentError
from insula.dispatch.idle import Shelf
from insula.dispatch.pool import Pool
from insula.dispatch.provision import Provisioned
from insula.dispatch.quotas import FunctionQuota, Quotas, Slot
from insula.dispatch.start import Start
from insula.dispatch.variables import ON_DEMAND, PROVISIONED_CONCURRENCY, runtime_variables
from insula.model.errors import (
    ResourceNotFoundException,
    ServiceException,
    ServiceUnavailableException,
    TooManyRequestsException,
)
from insula.model.function import FunctionVersion
from insula.model.invocation import Invocation, InvocationResult
from insula.model.settings import FunctionSettings
from insula.model.tenant import check_tenant, check_wall
from insula.sandbox.driver import Driver, SandboxSpec
from insula.sandbox.extensions import external_extensions
from insula.telemetry.logs import LogStream
from insula.telemetry.metrics import Counts

logger = logging.getLogger(__name__)

_TIDY_SECONDS = 1.0
# How long a function may use more memory than it has before that is noticed. The kernel's own limit, which is memory
# and /tmp together, holds at any moment.
_MEMORY_SECONDS = 0.05
_RELIEF = 20  # of idle environments, one in so many is ended at once when the host is short of memory


class Streams(Protocol):
    """Where logs go."""

    def open_stream(self, function: FunctionVersion) -> LogStream:
        """A new log stream for a new environment."""
        ...


class Catalog(Protocol):
    """What is known of functions."""

    def current(self, function: FunctionVersion) -> FunctionVersion | None:
        """What serves now in the place of a function version; None if nothing does."""
        ...

    def settings(self, function: FunctionVersion) -> FunctionSettings:
        """Insula's own settings of a function."""
        ...

    def code(self, function: FunctionVersion) -> Path:
        """Folder of its unpacked code."""
        ...

    def layers(self, function: FunctionVersion) -> tuple[Path, ...]:
        """Folders of its unpacked layers, lowest first."""
        ...


@dataclass(frozen=True, slots=True)
class Policy:
    """How long environments are kept.

    Attributes:
        idle_seconds: without work.
        max_age: seconds after which one is ended, once it is idle.
        proactive: most unbound environments of a function that does not say itself.
        reserve_memory: bytes of the host's memory that are to stay available: below, idle environments are ended.
    """

    idle_seconds: float = 600.0
    max_age: float = 14_400.0
    proactive: int = 10
    reserve_memory: int = 0


class Dispatcher:
    """Runs invocations in environments.

    Args:
        driver: makes sandboxes.
        catalog: what is known of functions.
        logs: where environments log to.
        quotas: limits.
        policy: how long environments are kept.
        available_memory: bytes that the host has left.
        clock: monotonic seconds.
        wall: unix seconds.
    """

    def __init__(
        self,
        driver: Driver,
        catalog: Catalog,
        logs: Streams,
        quotas: Quotas,
        policy: Policy,
        *,
        available_memory: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.clock = clock
        self.idle = Shelf(clock)
        self.kept = Shelf(clock)
        self.max_age = policy.max_age
        self.made = 0
        self.ended = 0
        self.violations = 0
        self._warm = 0
        self._first = Counter(cold=0, proactive=0, provisioned=0)
        self._throttles: Counter[str] = Counter()
        self._driver = driver
        self._catalog = catalog
        self._logs = logs
        self._quotas = quotas
        self._policy = policy
        self._available_memory = available_memory
        self._short_of_memory = False
        self._wall = wall
        self._pools: dict[str, Pool] = {}
        self._busy: dict[Environment, Slot] = {}
        self._stopping = False

    async def invoke(self, invocation: Invocation) -> InvocationResult:
        """Run an invocation to its end; the tenant id was checked against the function's tenancy.

        Raises:
            InvalidParameterValueException: the function asks for isolation that this server does not have.
            TooManyRequestsException: a limit is reached.
            ResourceNotFoundException: the function was deleted meanwhile.
            ServiceException: no environment could be made.
        """
        check_wall(per_tenant=invocation.function.per_tenant, isolates=self._driver.isolates)
        slot: Slot | None = None
        try:
            slot = self._quota(invocation.function).take(invocation.tenant)
            environment, invocation = await self._locate(invocation)
            result = self._run(environment, invocation, slot)
        except BaseException as error:
            if slot is not None:
                slot.give()
            if isinstance(error, InitFailedError):
                return error.outcome(invocation)
            if isinstance(error, TooManyRequestsException):
                self._throttles[error.reason] += 1
            raise
        # A caller that goes away cancels only its result: the function runs on, and keeps its slot for so long.
        return await result

    async def _locate(self, invocation: Invocation) -> tuple[Environment, Invocation]:
        """An idle environment, and the invocation as it is to run in it: perhaps of a newer deployment."""
        while True:
            try:
                pool = self._pool(invocation.function)
                found = pool.acquire(invocation.tenant)
                if isinstance(found, Environment):
                    return found, invocation
                environment = await self._promised(pool, invocation.tenant, found)
            except StaleDeploymentError:
                invocation = self._renewed(invocation)
                continue
            if environment.state is State.IDLE:
                return environment, invocation
            # It ended between the promise and its keeping.

    async def _promised(self, pool: Pool, tenant: str | None, found: asyncio.Future[Environment]) -> Environment:
        try:
            return await found
        except asyncio.CancelledError:
            pool.abandon(tenant, found)
            raise

    def _renewed(self, invocation: Invocation) -> Invocation:
        """The invocation for the deployment that serves now: its function was updated while it waited."""
        function = self._catalog.current(invocation.function)
        if function is None:
            raise ResourceNotFoundException(f"Function not found: {invocation.invoked_arn}")
        if function.deployment == invocation.function.deployment:
            raise ServiceUnavailableException("The function is being changed. Try again.")
        check_tenant(function, invocation.tenant)  # it may have been deleted and made anew
        return replace(invocation, function=function)

    def _run(self, environment: Environment, invocation: Invocation, slot: Slot) -> asyncio.Future[InvocationResult]:
        try:
            result = environment.run(invocation)
        except TenancyViolationError as error:
            self.violations += 1
            logger.critical("SECURITY: %s", error)
            raise ServiceException("The invocation was stopped by a security check. See the server's log.") from error
        except Exception as error:
            environment.kill()  # it is on no shelf, and would be lost
            logger.exception("an invocation of %s could not be handed over", invocation.function.arn)
            raise ServiceException("The invocation could not be begun. The server's log says why.") from error
        self._busy[environment] = slot
        if environment.served:
            self._warm += 1
        else:
            self._first[_found(environment.start)] += 1
        return result

    def _settle(self, environment: Environment) -> None:
        """The environment's invocation is over."""
        self._busy.pop(environment).give()  # L2: whatever happened

    def _quota(self, function: FunctionVersion) -> FunctionQuota:
        pool = self._pools.get(function.deployment)
        return self._quotas.function(function.account, function.name) if pool is None else pool.quota

    def _pool(self, function: FunctionVersion) -> Pool:
        if self._stopping:
            raise ServiceUnavailableException("The server is stopping. Try again.")
        pool = self._pools.get(function.deployment)
        if pool is None:
            current = self._catalog.current(function)
            if current is None or current.deployment != function.deployment:
                raise StaleDeploymentError
            pool = self._pools[function.deployment] = Pool(function, self._quota(function), self)
        return pool

    # Home of pools.

    async def create(self, function: FunctionVersion, owner: Owner, start: Start) -> Environment:
        """Make an environment and start its runtime."""
        stream = self._logs.open_stream(function)
        layers = self._catalog.layers(function)
        spec = SandboxSpec(
            id=secrets.token_hex(16),
            runtime=function.runtime,
            code=self._catalog.code(function),
            layers=layers,
            environment=runtime_variables(
                function, stream.name, PROVISIONED_CONCURRENCY if start.provisioned else ON_DEMAND
            ),
            memory=function.memory,
            ephemeral_storage=function.ephemeral_storage,
            extensions=external_extensions(layers),
        )
        sandbox = await self._driver.create(spec)
        self.made += 1
        return Environment(
            function,
            sandbox,
            stream,
            owner,
            start=start,
            on_settled=self._settle,
            clock=self.clock,
            wall=self._wall,
        )

    def evicts(self, function: FunctionVersion) -> bool:
        """Whether a new tenant takes the place of the longest idle one when the function is full."""
        return self._catalog.settings(function).evict_idle

    def spares(self, function: FunctionVersion) -> int:
        """How many unbound environments the function may have."""
        if self._short_of_memory or self._stopping:
            return 0
        own = self._catalog.settings(function).proactive
        return self._policy.proactive if own is None else own

    # What the API says.

    def retire(self, deployment: str) -> None:
        """A newer deployment serves from now on: drain the environments of this one."""
        pool = self._pools.get(deployment)
        if pool is not None:
            pool.retire()
            self._set_aside(pool.function)

    def reserve(self, account: str, name: str, concurrency: int | None) -> None:
        """Reserve concurrency for a function, or with None let it use what is unreserved."""
        self._quotas.reserve(account, name, concurrency)

    def provision(self, function: FunctionVersion, count: int) -> None:
        """Keep so many initialised environments of a version, which has no tenants."""
        if count or function.deployment in self._pools:
            try:
                self._pool(function).provision(count)
            except StaleDeploymentError:
                raise ServiceUnavailableException("The function is being changed. Try again.") from None
            self._set_aside(function)

    def provisioned(self, deployment: str) -> Provisioned:
        """How far the provisioned concurrency of a version is."""
        pool = self._pools.get(deployment)
        return Provisioned() if pool is None else pool.provisioned()

    def _set_aside(self, function: FunctionVersion) -> None:
        """Tell the quotas what all versions of a function have provisioned."""
        quota = self._quota(function)
        total = sum(pool.provisioned().requested for pool in self._pools.values() if pool.quota is quota)
        self._quotas.provision(function.account, function.name, total)

    def code_in_use(self) -> set[str]:
        """SHA-256, base64, of all code and layers that an environment lives from."""
        functions = [pool.function for pool in self._pools.values()]
        layers = {layer.sha256 for function in functions for layer in function.layers}
        return layers | {function.code_sha256 for function in functions}

    def environments(self) -> Iterator[Environment]:
        """Every environment that lives."""
        for pool in self._pools.values():
            yield from pool.environments()

    def counts(self) -> Counts:
        """What was counted so far, and what there is now."""
        return Counts(
            made=self.made,
            ended=self.ended,
            alive=Counter(_kind(environment) for environment in self.environments()),
            taken=self._quotas.taken,
            given=self._quotas.given,
            running=self._quotas.running,
            rooms=self._quotas.rooms,
            tenants=sum(pool.tenant_environments for pool in self._pools.values()),
            starts={"warm": self._warm, **self._first},
            throttles=self._throttles,
            violations=self.violations,
        )

    # As time goes by.

    async def run(self) -> None:
        """End what uses too much memory, or is idle too long, and keep ready what is needed soon, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_memory())
            group.create_task(self._tidy_up())

    async def _watch_memory(self) -> None:
        while True:
            await asyncio.sleep(_MEMORY_SECONDS)
            for environment in list(self._busy):
                try:
                    environment.check_memory()
                except Exception:
                    logger.exception("the memory of an environment could not be looked at")
                    environment.kill()  # it must not run without its limit

    async def _tidy_up(self) -> None:
        while True:
            await asyncio.sleep(_TIDY_SECONDS)
            try:
                self._tidy()
            except Exception:
                logger.exception("environments could not be looked after")  # the next round may

    def _tidy(self) -> None:
        self._end_old()
        self._relieve()
        for deployment, pool in list(self._pools.items()):
            pool.balance()
            if pool.empty:
                del self._pools[deployment]
        self._quotas.sweep()

    def _end_old(self) -> None:
        now = self.clock()
        for environment in self.idle:
            if now - environment.idle_since > self._policy.idle_seconds:
                environment.owner.dismiss(environment)
        for environment in (*self.idle, *self.kept):
            if now - environment.born > self.max_age:
                environment.owner.dismiss(environment)

    def _relieve(self) -> None:
        """Give memory back to the host: what lies ready first, then what was idle longest."""
        self._short_of_memory = self._available_memory() < self._policy.reserve_memory
        if self._short_of_memory:
            for environment in list(self.idle)[: 1 + len(self.idle) // _RELIEF]:
                environment.owner.dismiss(environment)

    async def close(self, grace: float) -> None:
        """Refuse new invocations, let running ones finish for ``grace`` seconds, then end every environment."""
        self._stopping = True
        deadline = self.clock() + grace
        while self._quotas.running and self.clock() < deadline:  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(0.02)
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))
        self.idle.close()
        self.kept.close()


def _found(start: Start) -> str:
    """What the first invocation of an environment finds."""
    return "provisioned" if start.provisioned else "proactive" if start.proactive else "cold"


def _kind(environment: Environment) -> str:
    if environment.state is State.STARTING:
        return "starting"
    if not environment.bound:
        return "unbound"
    return "provisioned" if environment.start.provisioned else "bound"
