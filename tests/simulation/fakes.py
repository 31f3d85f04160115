"""A driver whose sandboxes live in memory, and the runtime inside them, played by the test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from insula.dispatch.dispatcher import Dispatcher, Policy
from insula.dispatch.quotas import FunctionQuota, Quotas
from insula.model.function import PER_TENANT, FunctionVersion
from insula.model.invocation import Invocation
from insula.model.settings import FunctionSettings
from insula.model.share import Shares
from insula.runtime_api.server import Listener, RuntimeFailure
from insula.sandbox.driver import Exit, SandboxSpec
from insula.telemetry.logs import LogStream

FUNCTION = FunctionVersion(
    account="111111111111",
    region="us-east-1",
    name="f",
    version="$LATEST",
    runtime="python3.11",
    role="arn:aws:iam::111111111111:role/r",
    handler="app.handler",
    code_sha256="d1",
    code_size=1,
    deployment="d1",
    revision="r1",
    last_modified="2026-11-23T16:05:00.000+0000",
    tenancy=PER_TENANT,
    state="Active",
)
KILLED = Exit(None, 9)


def new_function(deployment: str = "d1", **changes: Any) -> FunctionVersion:
    """A function version; its code bears the deployment's name, so that a sandbox shows what it was made for."""
    return replace(FUNCTION, deployment=deployment, code_sha256=deployment, **changes)


def new_invocation(function: FunctionVersion, tenant: str | None, number: int = 0, **changes: Any) -> Invocation:
    """An invocation whose request id ends in ``number``."""
    request_id = f"00000000-0000-4000-8000-{number:012d}"
    return Invocation(request_id, function, b"{}", str(function.arn), tenant=tenant, **changes)


LIVING: set[FakeSandbox] = set()  # whose pipes are open


class FakeSandbox:
    """A sandbox without an operating system; the test, or a script, plays the runtime in it.

    Attributes:
        number: of those that its driver made.
        teardown: seconds between the death of its processes and the end of ``wait``.
        served: every invocation that was handed over.
        current: the one that the runtime works on.
        memory_used: bytes that ``check_memory`` finds.
        frozen: whether its processes are stopped.
        init_pending: for tests that poll once.
        grace: seconds that its extensions have to end; 0 if it has none.
        shutdown_reason: what its extensions were told.
        extension_failed: whether one of its extensions gave up.
        until: when the current invocation may be ended, monotonic seconds.
        lag: seconds from ``kill`` to the death of its processes: what they sent meanwhile arrives still.
        on_event: called with each invocation.
        on_dismissed: called when it is to end, with ``KILL`` or what its extensions are told.
    """

    isolation = "fake"

    def __init__(self, spec: SandboxSpec, number: int = 0) -> None:
        self._loop = asyncio.get_running_loop()
        self.number = number
        self.spec = spec
        self.listener = cast("socket.socket", self)  # the fake Runtime API knows better
        self.log, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.started = self._loop.time()
        self.teardown = 0.0
        self.alive = True
        self.gone = False
        self.invocations_begun = 0
        self.runtime_started = False
        self.memory_used = 0
        self.served: list[Invocation] = []
        self.current: Invocation | None = None
        self.deadline_ms = 0
        self.serving: asyncio.Future[None] = self._loop.create_future()
        self.on_event: Callable[[Invocation], None] = lambda _: None
        self.on_extension_exit: Callable[[str], None] = lambda _: None
        self.frozen = False
        self.freezes = 0
        self.init_pending = True
        self.terminated = False
        self.ignores_term = False
        self.grace = 0.0
        self.shutdown_reason: str | None = None
        self.extension_failed = False
        self.until = 0.0
        self.lag = 0.0
        self.killed = False
        self.on_dismissed: Callable[[str], None] = lambda _: None
        self._runtime: Listener | None = None
        self._exit: asyncio.Future[Exit] = self._loop.create_future()
        self._pipe = os.fstat(self.log).st_ino
        LIVING.add(self)

    @property
    def deployment(self) -> str:
        """What its code belongs to."""
        return str(self.spec.code)

    # Sandbox

    async def wait(self) -> Exit:
        how = await self._exit
        self.gone = True
        LIVING.discard(self)  # who waits closes its log
        return how

    def kill(self) -> None:
        if self.alive and not self.killed:
            self.killed = True
            self.on_dismissed("KILL")
            if self.lag:
                self._loop.call_later(self.lag, self.die, KILLED)
            else:
                self.die(KILLED)

    def shut_down(self, reason: str) -> None:
        """Its extensions are told that it ends."""
        self.shutdown_reason = reason
        self.on_dismissed(reason)

    def freeze(self) -> None:
        if not self.killed:  # as the drivers do
            self.frozen = self.alive
            self.freezes += 1

    def thaw(self) -> None:
        self.frozen = False

    def start_runtime(self) -> None:
        self.runtime_started = True

    def terminate(self) -> None:
        self.terminated = True
        if not self.ignores_term:
            self.die(Exit(None, 15))

    async def connect(self, port: int) -> socket.socket:
        raise ConnectionRefusedError(port)

    def begin_invocations(self) -> None:
        self.invocations_begun += 1

    def peak_memory(self) -> int:
        return self.memory_used

    def check_memory(self) -> None:
        if self.memory_used > self.spec.memory << 20:
            self.die(Exit(None, 9, out_of_memory=True, peak_memory=self.memory_used))

    # Runtime API

    def attach(self, listener: Listener) -> None:
        """The Runtime API is served from now on."""
        self._runtime = listener
        self.serving.set_result(None)

    def deliver(self, invocation: Invocation, deadline_ms: int) -> None:
        """An event for the runtime; one that died meanwhile does not get it."""
        if self.alive:
            self.served.append(invocation)
            self.current, self.deadline_ms = invocation, deadline_ms
            self.on_event(invocation)

    # What goes on inside

    def poll(self) -> None:
        """Ask for the next event."""
        if self.alive:
            assert not self.frozen, "what is frozen does nothing"
            self._listener.on_next()

    def hang_up(self) -> None:
        """Wait for an event no more."""
        self._listener.on_hangup()

    def answer(self, payload: bytes = b'"done"') -> None:
        """Answer the current event."""
        if request_id := self._settle():
            self._listener.on_response(request_id, payload)

    def raise_error(self, document: bytes) -> None:
        """Report the current event's error."""
        if request_id := self._settle():
            self._listener.on_error(request_id, RuntimeFailure(document, "Unhandled"))

    def answer_too_much(self) -> None:
        """Answer with more than is allowed."""
        if request_id := self._settle():
            self._listener.on_oversize(request_id)

    def fail_init(self, document: bytes) -> None:
        """Report that init failed."""
        if self.alive:
            self._listener.on_init_error(RuntimeFailure(document, "Runtime.ImportModuleError"))

    def fail_extension(self, kind: str, document: bytes) -> None:
        """An extension reports that it gives up."""
        if self.alive:
            self._listener.on_extension_error(kind, document)

    def abandon(self) -> None:
        """The world around it is over: close its pipe."""
        if self.alive:
            os.close(self._writer)
            self.alive = False
        with contextlib.suppress(OSError):  # a test that played the end itself has closed it
            if os.fstat(self.log).st_ino == self._pipe:
                os.close(self.log)

    def write(self, data: bytes) -> None:
        """Print."""
        os.write(self._writer, data)

    def die(self, how: Exit) -> None:
        """End all processes; what is left of it takes ``teardown`` seconds to go away."""
        if self.alive:
            self.alive = False
            self.current = None
            os.close(self._writer)
            self._loop.call_later(self.teardown, self._exit.set_result, how)

    @property
    def _listener(self) -> Listener:
        assert self._runtime is not None, "the Runtime API is not served yet"
        return self._runtime

    def _settle(self) -> str | None:
        current, self.current = self.current, None
        return current.request_id if current is not None and self.alive else None


class FakeDriver:
    """Makes fake sandboxes.

    Attributes:
        gates: what the next ``create`` waits for; its exception, if it has one, is the create's.
        made: all sandboxes, oldest first.
    """

    name = "fake"
    isolates = True

    def __init__(self, on_made: Callable[[FakeSandbox], None] = lambda _: None) -> None:
        self.gates: list[asyncio.Future[None]] = []
        self.making = 0
        self.made: list[FakeSandbox] = []
        self._on_made = on_made

    async def start(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    def check_runtime(self, runtime: str) -> None:
        """All are here."""

    async def create(self, spec: SandboxSpec) -> FakeSandbox:
        self.making += 1
        try:
            if self.gates:
                await self.gates.pop(0)
            sandbox = FakeSandbox(spec, len(self.made))
        finally:
            self.making -= 1
        self.made.append(sandbox)
        self._on_made(sandbox)
        return sandbox

    @property
    def live(self) -> list[FakeSandbox]:
        """Those of which something is left."""
        return [sandbox for sandbox in self.made if not sandbox.gone]


class FakeStream(LogStream):
    """Keeps what is written to it, as (line, platform)."""

    def __init__(self, name: str) -> None:
        super().__init__(name, Path(), {}, lambda: 0.0, lambda _: None)
        self.tenant: str | None = None
        self.events: list[tuple[str, bool]] = []
        self.closed = False

    def write(self, line: str, *, platform: bool = False) -> None:
        assert not self.closed, f"{line!r} was written to a closed stream"
        self.events.append((line, platform))

    def bind(self, tenant: str | None) -> None:
        self.tenant = tenant

    def close(self) -> None:
        self.closed = True

    @property
    def lines(self) -> list[str]:
        return [line for line, _ in self.events]


class FakeStreams:
    """Opens fake streams."""

    def __init__(self) -> None:
        self.opened: list[FakeStream] = []

    def open_stream(self, function: FunctionVersion) -> LogStream:
        self.opened.append(FakeStream(f"2026/11/23/[{function.version}]{len(self.opened):032x}"))
        return self.opened[-1]


def deployed_name(function: FunctionVersion) -> str:
    """The name under which a deployment serves: the function's, with the version if it is a published one."""
    return function.name if function.version == "$LATEST" else f"{function.name}:{function.version}"


class FakeCatalog:
    """Knows every function; what was deployed last under a name serves.

    Attributes:
        deployed: what serves in the place of older deployments, by name; None if it was deleted.
        own: Insula's own settings, by name.
    """

    def __init__(self) -> None:
        self.deployed: dict[str, FunctionVersion | None] = {}
        self.own: dict[str, FunctionSettings] = {}

    def current(self, function: FunctionVersion) -> FunctionVersion | None:
        return self.deployed.get(deployed_name(function), function)

    def settings(self, function: FunctionVersion) -> FunctionSettings:
        return self.own.get(function.name, FunctionSettings())

    def code(self, function: FunctionVersion) -> Path:
        return Path(function.code_sha256)

    def layers(self, function: FunctionVersion) -> tuple[Path, ...]:
        return ()


class Rig:
    """A dispatcher on fakes. Made inside a running virtual loop.

    Attributes:
        memory: bytes that the host has left.
        step: seconds by which the wall clock was set.
    """

    def __init__(
        self,
        concurrency: int = 10,
        *,
        idle_seconds: float = 600.0,
        max_age: float = 100_000.0,
        proactive: int = 0,
        driver: FakeDriver | None = None,
        shares: Shares = Shares(),  # noqa: B008 - immutable
    ) -> None:
        loop = asyncio.get_running_loop()
        self.driver = driver or FakeDriver()
        self.streams = FakeStreams()
        self.catalog = FakeCatalog()
        self.memory = 1 << 40
        self.step = 0.0
        self.quotas = Quotas(concurrency, clock=loop.time, shares=shares)
        self.dispatcher = Dispatcher(
            self.driver,
            self.catalog,
            self.streams,
            self.quotas,
            Policy(idle_seconds, max_age, proactive, reserve_memory=1 << 30),
            available_memory=lambda: self.memory,
            clock=loop.time,
            wall=self.wall,
        )

    def wall(self) -> float:
        """Unix seconds."""
        return 1_800_000_000.0 + self.step + asyncio.get_running_loop().time()

    def invoke(
        self, function: FunctionVersion, tenant: str | None, number: int = 0, **changes: Any
    ) -> asyncio.Task[Any]:
        """Start an invocation."""
        return asyncio.create_task(self.dispatcher.invoke(new_invocation(function, tenant, number, **changes)))

    async def sandbox(self, index: int) -> FakeSandbox:
        """The sandbox that was made as the ``index``-th, once its Runtime API is served."""
        while len(self.driver.made) <= index:  # noqa: ASYNC110 - time is virtual
            await asyncio.sleep(0.001)
        await self.driver.made[index].serving
        return self.driver.made[index]

    async def ready(self, function: FunctionVersion, tenant: str | None) -> FakeSandbox:
        """A sandbox that has served one invocation and is idle."""
        task = self.invoke(function, tenant)
        sandbox = await self.sandbox(len(self.driver.made) + self.driver.making)
        sandbox.poll()
        await settle()
        sandbox.answer()
        await task
        sandbox.poll()
        return sandbox

    @property
    def quota(self) -> FunctionQuota:
        """The limits of the function ``f``."""
        return self.quotas.function("111111111111", "f")

    @property
    def rooms(self) -> int:
        """Tenant environments that are counted for it."""
        return self.quota.environments

    @property
    def tenancies(self) -> Mapping[tuple[str, str | None], Any]:
        """What the dispatcher keeps, by deployment and tenant."""
        pools = self.dispatcher._pools
        return {(name, tenant): found for name, pool in pools.items() for tenant, found in pool._tenants.items()}


async def settle() -> None:
    """Let everything happen that needs no time."""
    for _ in range(20):
        await asyncio.sleep(0)
