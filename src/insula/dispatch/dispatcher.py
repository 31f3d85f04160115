"""The dispatcher: takes quota, locates or creates an environment, hands over, gives quota back."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from insula.dispatch.environment import Environment, State, TenancyViolationError
from insula.dispatch.pool import InitFailedError, Pool
from insula.dispatch.quotas import Quotas
from insula.dispatch.variables import runtime_variables
from insula.model.errors import ServiceException, ServiceUnavailableException
from insula.model.function import FunctionVersion
from insula.model.invocation import Invocation, InvocationResult
from insula.model.tenant import check_wall
from insula.sandbox.driver import Driver, SandboxSpec
from insula.telemetry.logs import LogStream

logger = logging.getLogger(__name__)

_REAP_SECONDS = 5.0
# How long a function may use more memory than it has before that is noticed. The kernel's own limit, which is memory
# and /tmp together, holds at any moment.
_MEMORY_SECONDS = 0.05


class Streams(Protocol):
    """Where logs go."""

    def open_stream(self, function: FunctionVersion, tenant: str | None) -> LogStream:
        """A new log stream for a new environment."""
        ...


class Dispatcher:
    """Runs invocations in environments.

    Args:
        driver: makes sandboxes.
        code: finds the unpacked code of a ``CodeSha256``.
        logs: where environments log to.
        quotas: limits.
        idle_seconds: how long an environment is kept without work.
        clock: monotonic seconds.
        wall: unix seconds.
    """

    def __init__(
        self,
        driver: Driver,
        code: Callable[[str], Path],
        logs: Streams,
        quotas: Quotas,
        *,
        idle_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._driver = driver
        self._code = code
        self._logs = logs
        self._quotas = quotas
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._wall = wall
        self._pools: dict[str, Pool] = {}
        self._busy: set[Environment] = set()
        self._stopping = False

    async def invoke(self, invocation: Invocation) -> InvocationResult:
        """Run an invocation to its end; the tenant id was checked against the function's tenancy.

        Raises:
            InvalidParameterValueException: the function asks for isolation that this server does not have.
            TooManyRequestsException: a limit is reached.
            ServiceException: no environment could be made.
        """
        check_wall(per_tenant=invocation.function.per_tenant, isolates=self._driver.isolates)
        self._quotas.take_invocation()
        try:
            environment = await self._locate(invocation)
            result = self._run(environment, invocation)
        except BaseException as error:
            self._quotas.give_invocation()
            if isinstance(error, InitFailedError):
                return error.outcome(invocation)
            raise
        # A caller that goes away cancels only its result: the function runs on, and keeps its slot for so long.
        return await result

    async def _locate(self, invocation: Invocation) -> Environment:
        while True:
            pool = self._pool(invocation.function)
            found = pool.acquire(invocation.tenant)
            if isinstance(found, Environment):
                return found
            try:
                environment = await found
            except asyncio.CancelledError:
                pool.abandon(invocation.tenant, found)
                raise
            if environment.state is State.IDLE:
                return environment
            # It ended between the promise and its keeping.

    def _run(self, environment: Environment, invocation: Invocation) -> asyncio.Future[InvocationResult]:
        try:
            result = environment.run(invocation)
        except TenancyViolationError as error:
            logger.critical("SECURITY: %s", error)
            raise ServiceException("The invocation was stopped by a security check. See the server's log.") from error
        self._busy.add(environment)
        return result

    def _settle(self, environment: Environment) -> None:
        """The environment's invocation is over."""
        self._busy.discard(environment)
        self._quotas.give_invocation()  # L2: whatever happened

    def _pool(self, function: FunctionVersion) -> Pool:
        if self._stopping:
            raise ServiceUnavailableException("The server is stopping. Try again.")
        pool = self._pools.get(function.deployment)
        if pool is None:
            pool = self._pools[function.deployment] = Pool(function, self._quotas, self._create)
        return pool

    async def _create(self, pool: Pool, tenant: str | None) -> Environment:
        function = pool.function
        stream = self._logs.open_stream(function, tenant)
        spec = SandboxSpec(
            id=secrets.token_hex(16),
            runtime=function.runtime,
            code=self._code(function.code_sha256),
            layers=(),
            environment=runtime_variables(function, stream.name),
            memory=function.memory,
            ephemeral_storage=function.ephemeral_storage,
        )
        sandbox = await self._driver.create(spec)
        return Environment(function, sandbox, stream, pool, on_settled=self._settle, clock=self._clock, wall=self._wall)

    def retire(self, deployment: str) -> None:
        """A newer deployment serves from now on: drain the environments of this one."""
        pool = self._pools.get(deployment)
        if pool is not None:
            pool.retire()

    def code_in_use(self) -> set[str]:
        """``CodeSha256`` of everything that an environment lives from."""
        return {pool.function.code_sha256 for pool in self._pools.values()}

    def environments(self) -> int:
        """How many environments live."""
        return sum(1 for pool in self._pools.values() for _ in pool.environments())

    async def run(self) -> None:
        """End what uses too much memory, or is idle too long, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_memory())
            group.create_task(self._reap())

    async def _watch_memory(self) -> None:
        while True:
            await asyncio.sleep(_MEMORY_SECONDS)
            for environment in list(self._busy):
                environment.check_memory()

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(_REAP_SECONDS)
            before = self._clock() - self._idle_seconds
            for deployment, pool in list(self._pools.items()):
                pool.end_idle(before)
                if pool.empty:
                    del self._pools[deployment]

    async def close(self, grace: float) -> None:
        """Refuse new invocations, let running ones finish for ``grace`` seconds, then end every environment."""
        self._stopping = True
        deadline = self._clock() + grace
        while self._quotas.running and self._clock() < deadline:  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(0.02)
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))
