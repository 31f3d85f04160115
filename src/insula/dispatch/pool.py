"""The environments of one deployment of a function version, and who waits for one.

Locating an environment means: an idle one of this tenant, the most recently used first. If there is none, the caller
waits, and takes whichever comes first: a new environment, or one that its tenant frees. A new one is an unbound one
that lies ready, or is made. Who cannot have one because a limit is reached is turned away at once, and waits for
nobody: a function that invokes itself must not hold up itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator

from insula.dispatch.environment import Environment, State
from insula.dispatch.home import Home, InitFailedError, StaleDeploymentError
from insula.dispatch.idle import Shelf
from insula.dispatch.provision import Provision, Provisioned
from insula.dispatch.quotas import FunctionQuota, no_room
from insula.dispatch.spares import Spares
from insula.dispatch.start import Start
from insula.dispatch.tenancy import Tenancy
from insula.model.errors import LambdaError, ServiceException, ServiceUnavailableException
from insula.model.function import FunctionVersion
from insula.model.invocation import Invocation, InvocationResult
from insula.model.limits import PROVISIONED_INIT_SECONDS
from insula.sandbox.driver import IsolationError, SandboxError

logger = logging.getLogger(__name__)

# How long a waiter trusts that an environment which has answered will poll again before another one is made for it.
# Longer than the period of the processor quota: a function that has used up its share polls in the next one.
TRUST_SECONDS = 0.15
_READING_SECONDS = 0.002
_REFILL_SECONDS = 0.002  # after a spare was taken: its invocation goes first


class Pool:
    """All environments of one deployment of a function version.

    Args:
        function: the version, as it was when the pool was made.
        quota: limits of the function, which all its versions share.
        home: what all pools share.
    """

    def __init__(self, function: FunctionVersion, quota: FunctionQuota, home: Home) -> None:
        self.function = function
        self.quota = quota
        self.retired = False
        self._home = home
        self._tenants: dict[str | None, Tenancy] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._spares = Spares(self._make_spare, home.kept, self._most_spares, home.clock)
        self._provision = Provision(self._make_provisioned, home.clock)
        self._refill: asyncio.TimerHandle | None = None

    @property
    def empty(self) -> bool:
        """Whether forgetting it would forget nothing."""
        kept = self._provision.requested or self._provision.making
        coming = self._tasks or self._refill
        return not (kept or coming or self._tenants) and self._spares.empty

    def environments(self) -> Iterator[Environment]:
        """Every environment that has started."""
        for tenancy in self._tenants.values():
            yield from tenancy.environments
        yield from self._spares

    @property
    def tenant_environments(self) -> int:
        """Tenant environments that live or are being made; one that makes room for another is counted as that."""
        held = (tenancy for tenant, tenancy in self._tenants.items() if tenant is not None)
        return sum(tenancy.starting + sum(e.successor is None for e in tenancy.environments) for tenancy in held)

    def acquire(self, tenant: str | None) -> Environment | asyncio.Future[Environment]:
        """An idle environment of the tenant, or the promise of one.

        Raises:
            TooManyRequestsException: there is none, and a limit forbids a new one.
            StaleDeploymentError: a newer deployment serves by now.
        """
        if self.retired:
            raise StaleDeploymentError
        tenancy = self._tenants.get(tenant)
        if tenancy is None:
            tenancy = self._tenants[tenant] = Tenancy()
        if tenancy.provisioned:
            environment = tenancy.provisioned.pop()
            self._home.kept.take(environment)
            return environment
        if tenancy.idle:
            environment = tenancy.idle.pop()
            self._home.idle.take(environment)
            return environment
        waiter = asyncio.get_running_loop().create_future()
        tenancy.waiters.append(waiter)
        try:
            self._supply(tenant, tenancy, trust=True)
        except LambdaError:
            if not waiter.done():
                tenancy.waiters.remove(waiter)
                self._drop_if_empty(tenant, tenancy)
                raise
        return waiter.result() if waiter.done() else waiter

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
        self.provision(0)
        self._spares.balance()
        for tenancy in self._tenants.values():
            for environment in [*tenancy.idle, *tenancy.provisioned]:
                self.dismiss(environment)

    def provision(self, count: int) -> None:
        """Keep so many initialised environments."""
        self._provision.requested = 0 if self.retired else count
        self.balance()

    def provisioned(self) -> Provisioned:
        """How far ``provision`` is."""
        return self._provision.status()

    def balance(self) -> None:
        """Make what is to lie ready, and end what lies ready in vain."""
        self._spares.balance()
        self._provision.balance()

    async def close(self) -> None:
        """End everything."""
        self.retired = True
        self._provision.requested = 0
        if self._refill is not None:
            self._refill.cancel()
        for tenancy in self._tenants.values():  # first, so that nothing is started for them
            while tenancy.waiters:
                tenancy.fail_first(ServiceUnavailableException("The server is stopping. Try again."))
        await asyncio.sleep(0)  # a task that is cancelled before it began gives back nothing
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        environments = list(self.environments())
        for environment in environments:
            environment.end()
        await asyncio.gather(*(environment.wait() for environment in environments))

    # Owner of environments.

    def on_started(self, environment: Environment) -> None:
        """Its init is over: so long does it take to have one."""
        self._spares.made(self._home.clock() - environment.start.asked)
        if environment.start.provisioned:
            self._provision.failure = None

    def on_idle(self, environment: Environment) -> None:
        """Give it to whoever waits longest, else keep it."""
        if not environment.bound:
            if environment in self._spares:  # else it is to end
                self._home.kept.put(environment)
            return
        tenancy = self._tenants[environment.tenant]
        if tenancy.give(environment):
            return
        old = self._home.clock() - environment.born > self._home.max_age
        if self.retired or old:
            environment.end()
            return
        tenancy.store(environment).append(environment)
        self._shelf(environment).put(environment)

    def dismiss(self, environment: Environment) -> None:
        """End one that is idle."""
        environment.end()  # on_unready takes it off its shelf

    def on_failed_start(self, environment: Environment, outcome: Callable[[Invocation], InvocationResult]) -> bool:
        """Try once more for an invocation that waits, as AWS does; then tell the first who waits.

        Each second failure answers one invocation, so that none waits for ever.
        """
        if not environment.bound:
            if environment in self._spares:  # else it was to end
                self._spares.failed()
            return False
        if environment.start.provisioned:
            if environment in self._provision:
                self._provision.failed("FUNCTION_ERROR_INIT_FAILURE")
            return False
        tenancy = self._tenants[environment.tenant]
        if environment.start.phase == "init":
            tenancy.retries += 1
            return False
        return tenancy.fail_first(InitFailedError(outcome))

    def on_unready(self, environment: Environment) -> None:
        """Give it to nobody any more."""
        if environment.bound:
            self._forget_idle(environment)
            self._provision.forget(environment)
        else:
            self._spares.leave(environment)

    def on_ended(self, environment: Environment) -> None:
        """Forget it, and replace it if somebody still counts on it."""
        self._home.ended += 1
        self._spares.forget(environment)
        if not environment.bound:
            return
        tenant, tenancy = environment.tenant, self._tenants[environment.tenant]
        tenancy.environments.discard(environment)
        self._forget_idle(environment)
        self._provision.forget(environment)
        successor, environment.successor = environment.successor, None
        if tenant is not None:
            self.quota.give_room(tenant, passed_on=successor is not None)
        if successor is not None:
            successor()
        self._supply_or_fail(tenant, tenancy)
        tenancy.retries = 0

    def _shelf(self, environment: Environment) -> Shelf:
        return self._home.kept if environment.start.provisioned else self._home.idle

    def _forget_idle(self, environment: Environment) -> None:
        store = self._tenants[environment.tenant].store(environment)
        if environment in store:
            store.remove(environment)
        self._shelf(environment).take(environment)

    # Supplying those who wait.

    def _supply(self, tenant: str | None, tenancy: Tenancy, *, trust: bool) -> None:
        """Let as many environments come as are lacking for those who wait."""
        coming = tenancy.coming if trust else tenancy.new
        if trust and coming > tenancy.new:
            asyncio.get_running_loop().call_later(TRUST_SECONDS, self._doubt, tenant)
        for _ in range(len(tenancy.waiters) - coming):
            self._add(tenant, tenancy)

    def _doubt(self, tenant: str | None) -> None:
        # uvloop runs timers before it reads: after a pause, of this process, the poll may have come long ago.
        asyncio.get_running_loop().call_later(_READING_SECONDS, self._check_trust, tenant)

    def _check_trust(self, tenant: str | None) -> None:
        tenancy = self._tenants.get(tenant)
        if tenancy is not None and tenancy.waiters:
            self._supply_or_fail(tenant, tenancy, trust=False)

    def _supply_or_fail(self, tenant: str | None, tenancy: Tenancy, *, trust: bool = True) -> None:
        try:
            self._supply(tenant, tenancy, trust=trust)
        except (LambdaError, StaleDeploymentError) as error:
            # Whoever is too many waits for nobody: it is told so, or served by the newer deployment.
            for _ in range(tenancy.waiting - tenancy.coming):
                tenancy.fail_first(error)
        self._drop_if_empty(tenant, tenancy)

    def _add(self, tenant: str | None, tenancy: Tenancy) -> None:
        """Let one more environment come.

        Raises:
            TooManyRequestsException: a limit forbids it.
            StaleDeploymentError: a newer deployment serves by now.
        """
        if tenant is None:
            self._bring(tenant, tenancy)
        elif self.quota.take_room(tenant):
            try:
                self._bring(tenant, tenancy)
            except (LambdaError, StaleDeploymentError):
                self.quota.give_room(tenant)
                raise
        else:
            self._replace(tenant, tenancy)
        self._spares.arrived()

    def _replace(self, tenant: str, tenancy: Tenancy) -> None:
        """Let an idle environment of another tenant make room, if that is the operator's wish."""
        victim = self._find_victim()
        if victim is None:
            raise no_room()
        self.quota.take_share_of_room(tenant)
        tenancy.starting += 1
        victim.successor = lambda: self._succeed(tenant, tenancy)
        victim.owner.dismiss(victim)

    def _find_victim(self) -> Environment | None:
        """The longest idle environment of the function, of whatever version, if it is to make room."""
        if not self._home.evicts(self.function):
            return None
        own = (self.function.account, self.function.name)
        return next((e for e in self._home.idle if (e.function.account, e.function.name) == own), None)

    def _succeed(self, tenant: str, tenancy: Tenancy) -> None:
        """An idle environment made room for this tenant."""
        tenancy.starting -= 1
        try:
            self._bring(tenant, tenancy)
        except (LambdaError, StaleDeploymentError) as error:
            self.quota.give_room(tenant)
            tenancy.fail_first(error)
            self._drop_if_empty(tenant, tenancy)

    def _bring(self, tenant: str | None, tenancy: Tenancy) -> None:
        """Bind a spare, or make an environment: there is room for it."""
        if self.retired:
            raise StaleDeploymentError
        # A second try that took one which still starts would be a first try again, and so on for ever.
        spare = None if tenant is None else self._spares.take(ready=tenancy.retries > 0)
        if spare is not None:
            self._settle_in(tenant, tenancy, spare)
            self._refill_soon()
            return
        self.quota.take_start()
        start = Start(asked=self._home.clock())
        if tenancy.retries:
            tenancy.retries -= 1
            start = Start(float(self.function.timeout), "invoke", asked=start.asked)
        tenancy.starting += 1
        self._spawn(self._start(tenant, tenancy, start))

    def _settle_in(self, tenant: str | None, tenancy: Tenancy, spare: Environment) -> None:
        spare.bind(tenant)
        tenancy.environments.add(spare)
        if spare.state is State.IDLE:
            self.on_idle(spare)

    def _drop_if_empty(self, tenant: str | None, tenancy: Tenancy) -> None:
        """A tenant without anything is forgotten: a million tenants must not cost memory for ever."""
        if tenancy.empty and self._tenants.get(tenant) is tenancy:
            del self._tenants[tenant]

    # Making environments.

    async def _start(self, tenant: str | None, tenancy: Tenancy, start: Start) -> None:
        """Make one for a tenant, whose room was taken."""
        environment: Environment | None = None
        try:
            environment = await self._home.create(self.function, self, start)
            environment.bind(tenant)
            tenancy.environments.add(environment)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, nobody may wait for it for ever
            self._log_failure(error)
            message = "The execution environment could not be made. The server's log says why."
            tenancy.fail_first(ServiceException(message))
        finally:
            tenancy.starting -= 1
            if environment is None:
                if tenant is not None:
                    self.quota.give_room(tenant)
                self._supply_or_fail(tenant, tenancy)  # some may have relied on this one while the quota was full
        if environment is not None:
            await environment.open()
            self._refill_soon()

    def _make_spare(self) -> None:
        self._spawn(self._start_spare())

    async def _start_spare(self) -> None:
        environment: Environment | None = None
        try:
            self.quota.take_start()
            environment = await self._home.create(self.function, self, Start(proactive=True, asked=self._home.clock()))
        except LambdaError:
            self._spares.failed()  # enough are made for those who wait
        except Exception as error:  # noqa: BLE001 - as above; the next caller is told
            self._log_failure(error)
            self._spares.failed()
        finally:
            self._spares.making -= 1
        if environment is not None:
            self._spares.add(environment)
            await environment.open()
            self._spares.balance()  # a newer deployment may serve by now

    def _make_provisioned(self) -> None:
        self._spawn(self._start_provisioned())

    async def _start_provisioned(self) -> None:
        environment: Environment | None = None
        try:
            start = Start(PROVISIONED_INIT_SECONDS, provisioned=True, asked=self._home.clock())
            environment = await self._home.create(self.function, self, start)
            environment.bind(None)
            self._tenants.setdefault(None, Tenancy()).environments.add(environment)
            self._provision.add(environment)
        except Exception as error:  # noqa: BLE001 - as above
            self._log_failure(error)
            self._provision.failed(str(error) if isinstance(error, SandboxError) else "The server's log says why.")
        finally:
            self._provision.making -= 1
        if environment is not None:
            await environment.open()
            self.balance()

    def _most_spares(self) -> int:
        return self._home.spares(self.function) if self.function.per_tenant and not self.retired else 0

    def _refill_soon(self) -> None:
        if self._refill is None and self.function.per_tenant:
            self._refill = asyncio.get_running_loop().call_later(_REFILL_SECONDS, self._refill_now)

    def _refill_now(self) -> None:
        self._refill = None
        self._spares.balance()

    def _spawn(self, making: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(making)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _log_failure(self, error: Exception) -> None:
        if isinstance(error, IsolationError):
            self._home.violations += 1
            logger.critical("SECURITY: a sandbox failed its verification and was killed: %s", error)
        else:
            unexpected = None if isinstance(error, SandboxError | OSError) else error
            logger.error("an environment of %s could not be made: %s", self.function.arn, error, exc_info=unexpected)
