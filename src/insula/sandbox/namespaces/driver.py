"""The default isolation driver: Linux namespaces, cgroups and seccomp around a fork of a ready runtime."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import secrets
import socket
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from insula.model.limits import FILE_DESCRIPTORS, MAX_EXTENSIONS, PROCESSES
from insula.sandbox.driver import IsolationError, Sandbox, SandboxError, SandboxSpec
from insula.sandbox.extensions import extension_variables
from insula.sandbox.namespaces.door import Door
from insula.sandbox.namespaces.hierarchies import find_hierarchies, make_folder, remove_folder
from insula.sandbox.namespaces.sandbox import Freezer, NamespaceSandbox
from insula.sandbox.namespaces.seccomp import compile_filter
from insula.sandbox.namespaces.spawner import ChildEndedError, Prepared, Spawner, SpawnerConfig
from insula.sandbox.namespaces.verify import read_namespaces, verify, verify_member
from insula.sandbox.runtimes import Runtime, missing

logger = logging.getLogger(__name__)

# A range that systemd's documentation lists as unused: https://systemd.io/UIDS-GIDS/
_FIRST_UID = 1_879_048_192
_UIDS = 1 << 27
_INIT_UID = _FIRST_UID + _UIDS  # of all init processes; no function has it
_START_SECONDS = 20.0
_END_SECONDS = 0.5  # in which word comes that a process has ended
_STANDBY = 2  # prepared children a runtime keeps in store


class NamespacesDriver:
    """Makes sandboxes from Linux namespaces; see the Driver protocol.

    Args:
        runtimes: the runtimes of this host.
        state: folder of this server; its path names the cgroup folder.
        code: folder under which all unpacked code lies.
        layers: folder under which all unpacked layers lie.
        standby: prepared children that each runtime keeps in store.
    """

    name = "namespaces"
    isolates = True

    def __init__(
        self,
        runtimes: Mapping[str, Runtime],
        *,
        state: Path,
        code: Path,
        layers: Path,
        standby: int = _STANDBY,
    ) -> None:
        self._runtimes = runtimes
        self._state = state
        self._code = code
        self._layers = layers
        self._standby = standby
        self._group = "insula-" + hashlib.sha256(os.fsencode(state.resolve())).hexdigest()[:12]
        # Random, so that two servers on one host do not hand out the same users.
        self._next_uid = secrets.randbelow(_UIDS)
        self._folders: list[Path] = []
        self._descriptors: list[int] = []
        self._config: SpawnerConfig | None = None
        self._freezer: Freezer | None = None
        self._door: Door | None = None
        self._spawners: dict[str, Spawner] = {}
        self._starting: dict[str, asyncio.Task[Spawner]] = {}
        self._stock: defaultdict[str, deque[Prepared]] = defaultdict(deque)
        self._preparing: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._namespaces: dict[str, int] = {}  # of all verified sandboxes that live, and whose they are
        self._closing = False

    async def start(self) -> None:
        """See the protocol."""
        if os.geteuid() != 0:
            raise SandboxError(
                "The namespaces driver needs root: it sets up cgroups, mounts and a user per environment. "
                "Run insula serve with sudo. Without root, `--isolation none` runs functions without a wall, "
                "and no tenant-isolated ones."
            )
        try:
            seccomp = compile_filter()
        except (OSError, ImportError, RuntimeError) as error:
            raise SandboxError(f"libseccomp is missing (apt-get install libseccomp2): {error}") from error
        hierarchies = find_hierarchies()
        mountpoint = self._state / "root"
        for folder in (mountpoint, self._code, self._layers):
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        for hierarchy in hierarchies:
            self._folders.append(await asyncio.to_thread(make_folder, hierarchy, self._group))
        self._descriptors = [os.open(f, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for f in self._folders]
        described = [(fd, h.version, h.controllers) for fd, h in zip(self._descriptors, hierarchies, strict=True)]
        self._config = SpawnerConfig(self._code, self._layers, mountpoint, described, seccomp, _INIT_UID)
        self._freezer = Freezer(self._descriptors[0], hierarchies[0].version)
        self._door = Door()
        self._own = read_namespaces("self")

    async def close(self) -> None:
        """See the protocol."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        starting = await asyncio.gather(*self._starting.values(), return_exceptions=True)
        self._spawners.update({s.runtime.name: s for s in starting if isinstance(s, Spawner)})
        for stock in self._stock.values():
            while stock:
                stock.popleft().close()
        await asyncio.gather(*(spawner.close() for spawner in self._spawners.values()))
        if self._door is not None:
            self._door.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        for folder in self._folders:
            await asyncio.to_thread(remove_folder, folder)

    def check_runtime(self, runtime: str) -> None:
        """See the protocol."""
        if runtime not in self._runtimes:
            raise missing(runtime)

    async def warm(self, runtime: str) -> None:
        """Start the runtime's spawner ahead of its first function."""
        self._refill(await self._spawner(runtime))

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """See the protocol."""
        if self._closing:
            raise SandboxError("The server is stopping.")
        if len(spec.extensions) > MAX_EXTENSIONS:
            raise SandboxError(f"{len(spec.extensions)} external extensions are more than {MAX_EXTENSIONS}.")
        try:
            return await self._make(spec)
        except ChildEndedError:
            return await self._make(spec)  # one that lay in store may have died there; the next is another

    async def _make(self, spec: SandboxSpec) -> NamespaceSandbox:
        prepared = await self._take(spec.runtime)
        beginning = asyncio.create_task(self._begin(spec, prepared))
        try:
            return await _finished(beginning, prepared)
        except BaseException as error:
            beginning.cancel()
            await asyncio.gather(beginning, return_exceptions=True)
            if isinstance(error, IsolationError):
                # One that is being ended looks wrong. Nothing of the function runs yet: there is time to find out.
                await asyncio.wait({prepared.exit}, timeout=_END_SECONDS)
            died = isinstance(error, IsolationError) and prepared.exit.done()
            prepared.spawner.kill(prepared.name)
            prepared.close()
            if died:
                raise ChildEndedError("The environment ended while it was being checked.") from error
            raise

    async def _begin(self, spec: SandboxSpec, prepared: Prepared) -> NamespaceSandbox:
        uid = _FIRST_UID + self._next_uid
        self._next_uid = (self._next_uid + 1) % _UIDS
        entrypoints = prepared.spawner.runtime.entrypoints(spec.environment)
        message = {
            "handler": spec.environment["_HANDLER"],
            "code": spec.code.relative_to(self._code).as_posix(),
            "layers": [layer.relative_to(self._layers).as_posix() for layer in spec.layers],
            "environment": dict(spec.environment),
            "memory": spec.memory,
            "ephemeral_storage": spec.ephemeral_storage,
            "processes": PROCESSES + 1,  # init is not the function's
            "descriptors": FILE_DESCRIPTORS,
            "uid": uid,
            "entrypoints": entrypoints,
            "extensions": spec.extensions,
            "extension_variables": extension_variables(spec.environment),
        }
        log, writer = os.pipe2(os.O_CLOEXEC)
        try:
            os.set_blocking(log, False)
            socket.send_fds(prepared.channel, [json.dumps(message).encode()], [writer])
            confined = await prepared.spawner.receive(prepared.channel)
            self._verify(prepared, confined.pid, uid)
            assert self._freezer is not None
            assert self._door is not None
            sandbox = NamespaceSandbox(spec, prepared, log, self._freezer, self._door)
            prepared.channel.send(b"go")
            if spec.extensions:
                await self._start_extensions(sandbox, prepared, uid)
        except OSError as error:
            os.close(log)
            raise ChildEndedError(f"The environment ended while it was being made: {error}") from error
        except BaseException:
            os.close(log)
            raise
        finally:
            os.close(writer)
        if entrypoints or spec.extensions:
            sandbox.listen()
        else:
            prepared.channel.close()
        return sandbox

    async def _start_extensions(self, sandbox: NamespaceSandbox, prepared: Prepared, uid: int) -> None:
        """Take down every extension's process before the first of them runs its own code."""
        for _ in sandbox.spec.extensions:
            message = await prepared.spawner.receive(prepared.channel)
            sandbox.follow_extension(str(message.content["extension"]), message.pid)
            verify_member(message.pid, uid=uid, group=prepared.name, hierarchies=len(self._descriptors))
        prepared.channel.send(b"extensions")

    def _verify(self, prepared: Prepared, pid: int, uid: int) -> None:
        foreign = self._own | prepared.spawner.namespaces
        if pid != prepared.pid:
            raise IsolationError(f"process {pid} speaks for process {prepared.pid}")
        found = verify(
            pid,
            uid=uid,
            init_uid=_INIT_UID,
            group=prepared.name,
            hierarchies=len(self._descriptors),
            foreign=foreign,
        )
        for identity in found:
            other = self._namespaces.get(identity)
            if other is not None and _has_namespace(other, identity):
                raise IsolationError(f"process {pid} shares the namespace {identity} with process {other}")
            self._namespaces[identity] = pid
        prepared.exit.add_done_callback(lambda _: self._forget_namespaces(pid, found))

    def _forget_namespaces(self, pid: int, identities: frozenset[str]) -> None:
        for identity in identities:
            if self._namespaces.get(identity) == pid:
                del self._namespaces[identity]

    async def _take(self, runtime: str) -> Prepared:
        """A prepared child, from the store if there is one; the store is filled up again behind it."""
        spawner = await self._spawner(runtime)
        stock = self._stock[runtime]
        while stock:
            prepared = stock.popleft()
            self._refill(spawner)
            if prepared.exit.done():
                prepared.close()
            else:
                return prepared
        prepared = await spawner.prepare(_new_name())
        self._refill(spawner)
        return prepared

    def _refill(self, spawner: Spawner) -> None:
        runtime = spawner.runtime.name
        if len(self._stock[runtime]) + self._preparing[runtime] < self._standby:
            self._preparing[runtime] += 1
            task = asyncio.create_task(self._prepare_one(spawner))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _prepare_one(self, spawner: Spawner) -> None:
        runtime = spawner.runtime.name
        try:
            prepared = await spawner.prepare(_new_name())
        except (SandboxError, TimeoutError):
            return  # who needs one next is told of the error
        finally:
            self._preparing[runtime] -= 1
        if not spawner.alive:  # it was lost meanwhile, and its store with it
            prepared.close()
            return
        self._stock[runtime].append(prepared)
        self._refill(spawner)

    async def _spawner(self, runtime: str) -> Spawner:
        spawner = self._spawners.get(runtime)
        if spawner is not None and spawner.alive:
            return spawner
        task = self._starting.get(runtime)
        if task is None:
            task = self._starting[runtime] = asyncio.create_task(self._start_spawner(runtime))
            task.add_done_callback(lambda _: self._starting.pop(runtime, None))
        return await asyncio.shield(task)

    async def _start_spawner(self, runtime: str) -> Spawner:
        self.check_runtime(runtime)
        assert self._config is not None, "start() was not called"
        spawner = Spawner(self._runtimes[runtime], self._config, self._on_lost)
        await spawner.start()
        self._spawners[runtime] = spawner
        return spawner

    def _on_lost(self, spawner: Spawner) -> None:
        """The spawner died, and the kernel ended its children; their groups are left to us."""
        for prepared in self._stock.pop(spawner.runtime.name, ()):
            prepared.close()
        task = asyncio.create_task(self._sweep(spawner, spawner.children))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _sweep(self, spawner: Spawner, names: Sequence[str]) -> None:
        await spawner.close()
        for folder in self._folders:
            for group in [folder / name for name in names if (folder / name).exists()]:
                try:
                    await asyncio.to_thread(remove_folder, group)
                except OSError as error:
                    logger.warning("the cgroup %s of a lost environment stays: %s", group, error.strerror)


async def _finished(beginning: asyncio.Task[NamespaceSandbox], prepared: Prepared) -> NamespaceSandbox:
    """What the task makes, unless the environment ends before, or takes too long."""
    either: set[asyncio.Future[Any]] = {beginning, prepared.exit}
    await asyncio.wait(either, timeout=_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    if beginning.done():
        return beginning.result()
    what = "ended" if prepared.exit.done() else f"was not ready within {_START_SECONDS:.0f} s"
    raise ChildEndedError(f"The environment {what} while it was being made.")


def _has_namespace(pid: int, identity: str) -> bool:
    """Whether a process still lives in a namespace: the kernel gives the identities of dead ones to new ones."""
    try:
        return identity in read_namespaces(pid)
    except OSError:
        return False


def _new_name() -> str:
    return secrets.token_hex(16)
