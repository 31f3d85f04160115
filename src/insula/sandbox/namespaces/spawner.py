"""The host side of a spawner: starts it, sends it requests, and hears what becomes of its children."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from insula.sandbox.driver import Exit, SandboxError
from insula.sandbox.interpreters import own_python
from insula.sandbox.namespaces.verify import read_namespaces
from insula.sandbox.runtimes import Runtime

# Libraries that many functions import at once; loaded here once, their pages are shared by all environments.
PRELOAD = (
    "boto3.session",
    "botocore.args",
    "botocore.client",
    "botocore.credentials",
    "botocore.endpoint",
    "botocore.handlers",
    "botocore.httpsession",
    "botocore.paginate",
    "botocore.parsers",
    "botocore.regions",
    "botocore.retries.standard",
    "botocore.session",
    "botocore.signers",
    "botocore.waiter",
    "boto3.resources.factory",
    "boto3.s3.inject",
    "boto3.dynamodb.transform",
    "concurrent.futures.thread",
    "dataclasses",
    "decimal",
    "enum",
    "hashlib",
    "http.client",
    "s3transfer.manager",
    "typing",
    "urllib.request",
)
_START_SECONDS = 60.0
_PREPARE_SECONDS = 20.0
_CREDENTIALS = struct.Struct("iII")
_UNSHARE = ("unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child=KILL", "--")


class ChildEndedError(SandboxError):
    """A child ended before it could be given a function: killed, or with its spawner."""


@dataclass(frozen=True, slots=True)
class SpawnerConfig:
    """What all spawners of this server are started with.

    Attributes:
        code: folder of unpacked code, under which every function's code lies.
        layers: folder of unpacked layers.
        mountpoint: an empty folder on which the spawners' roots are mounted, each in its own namespace.
        hierarchies: (descriptor of this instance's folder, cgroup version, controllers) of each hierarchy.
        seccomp: the filter for environments.
        init_uid: the user of their init processes.
    """

    code: Path
    layers: Path
    mountpoint: Path
    hierarchies: Sequence[tuple[int, int, Sequence[str]]]
    seccomp: bytes
    init_uid: int


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """A message on its way to the spawner; ``owned`` is a descriptor to close once it left."""

    data: bytes
    descriptors: Sequence[int]
    owned: int | None


@dataclass(frozen=True, slots=True)
class Message:
    """What a child said.

    Attributes:
        pid: its process id as the kernel gives it; nobody can lie about it.
    """

    pid: int
    descriptors: Sequence[int]
    content: Mapping[str, Any]


class Prepared:
    """A child of the spawner that has everything but a function.

    Attributes:
        pid: its process id as seen from here.
        exit: resolves when nothing of it is left.
        listener: the Runtime API's socket.
        peak: descriptor of its peak memory use.
    """

    def __init__(
        self,
        name: str,
        spawner: Spawner,
        channel: socket.socket,
        message: Message,
        exit_: asyncio.Future[Exit],
    ) -> None:
        self.name = name
        self.spawner = spawner
        self.channel = channel
        self.pid = message.pid
        self.exit = exit_
        self.listener = socket.socket(fileno=message.descriptors[0])
        self.listener.setblocking(False)
        self.peak = message.descriptors[1]

    def close(self) -> None:
        """Give up this side's descriptors."""
        if self.channel.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.channel)  # somebody may still wait for a message
            self.channel.close()
        self.listener.close()
        if self.peak >= 0:
            os.close(self.peak)
            self.peak = -1


class Spawner:
    """One running spawner process, for one runtime.

    Attributes:
        namespaces: those of the spawner, which no environment may have.
    """

    def __init__(self, runtime: Runtime, config: SpawnerConfig, on_lost: Callable[[Spawner], None]) -> None:
        self.runtime = runtime
        self._config = config
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._outbox: collections.deque[_Outgoing] = collections.deque()
        self._exits: dict[str, asyncio.Future[Exit]] = {}
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._pidfd = -1
        self.alive = False
        self.namespaces: frozenset[str] = frozenset()

    async def start(self) -> None:
        """Start the process and wait until it has loaded the runtime.

        Raises:
            SandboxError: it did not come up; its own words are on standard error.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        config = self._config
        stage = {**self._interpreters(), "control": theirs.fileno()}
        stage |= {name: str(getattr(config, name)) for name in ("code", "layers", "mountpoint")}
        # If this server is killed, the kernel kills unshare, it the stage, and the stage's end all environments.
        command = ["setpriv", "--pdeathsig", "KILL", "--", *_UNSHARE, sys.executable, "-I", "-m"]
        command += ["insula.sandbox.namespaces.stage", json.dumps(stage)]
        with theirs:
            # From this thread: the kernel sends the parent-death signal when the thread that forked ends.
            self._process = subprocess.Popen(  # noqa: ASYNC220
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
            )
        self._control = ours
        ours.setblocking(False)
        try:
            layout = await asyncio.wait_for(asyncio.to_thread(self._read_layout), _START_SECONDS)
            hierarchies = [{"version": v, "controllers": list(c)} for _, v, c in config.hierarchies]
            message = {
                **layout,
                "hierarchies": hierarchies,
                "seccomp": config.seccomp.hex(),
                "init_uid": config.init_uid,
                "preload": PRELOAD if self.runtime.is_python else None,
                "runtime_modules": self.runtime.modules,
            }
            self._loop.add_reader(ours, self._on_control)
            self._send(message, [descriptor for descriptor, _, _ in config.hierarchies])
            await asyncio.wait_for(asyncio.shield(self._ready), _START_SECONDS)
            self._watch(self._find_pid())
        except (TimeoutError, SandboxError, OSError, IndexError) as error:
            await self.close()
            raise SandboxError(
                f"The spawner of {self.runtime.name} did not start; the lines above say why. ({error})"
            ) from error
        self.alive = True

    def _interpreters(self) -> dict[str, str | None]:
        """What the root holds of the runtime, and the Python that runs the spawner."""
        runtime, own = self.runtime, own_python()
        python, prefix = (runtime.interpreter, runtime.prefix) if runtime.is_python else (own.path, own.prefix)
        return {
            "name": runtime.name,
            "runtime": None if runtime.folder is None else str(runtime.folder),
            "language": None if runtime.prefix is None else str(runtime.prefix),
            "python": str(python),
            "prefix": str(prefix),
        }

    def _read_layout(self) -> dict[str, list[str]]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SandboxError("the stage ended")
        layout: dict[str, list[str]] = json.loads(line)
        return layout

    def _find_pid(self) -> int:
        """The spawner itself, a grandchild of the process started here."""
        pid = self._process.pid
        for _ in range(2):  # unshare, stage, spawner
            pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        return pid

    def _watch(self, pid: int) -> None:
        """Hear of the spawner's end at once.

        The control socket stays open in unshare(1), which waits until the last process in the namespaces is gone: that
        may be one that is frozen under cgroup v1, and dies only once it is thawed.
        """
        self._pidfd = os.pidfd_open(pid)
        self.namespaces = read_namespaces(pid)
        self._loop.add_reader(self._pidfd, self._on_end)

    def _on_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._on_control()  # its last words
        self._end()

    async def close(self) -> None:
        """End the spawner and with it every environment of its runtime; wait until all are gone."""
        self.alive = False
        self._loop.remove_reader(self._control)
        self._loop.remove_writer(self._control)
        self._control.close()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(self._process.wait)
        if self._process.stdout:
            self._process.stdout.close()
        self._lose()

    @property
    def children(self) -> tuple[str, ...]:
        """Names of all children that have not ended."""
        return tuple(self._exits)

    async def prepare(self, name: str) -> Prepared:
        """Fork a child and let it do all that needs no function.

        Raises:
            SandboxError: the child failed, and is gone.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        ours.setblocking(False)
        exit_ = self._exits[name] = self._loop.create_future()
        inner = theirs.detach()
        self._send({"op": "prepare", "id": name}, [inner], owned=inner)
        try:
            message = await asyncio.wait_for(self.receive(ours), _PREPARE_SECONDS)
        except (TimeoutError, SandboxError, asyncio.CancelledError):
            ours.close()
            self.kill(name)
            raise
        return Prepared(name, self, ours, message, exit_)

    async def receive(self, channel: socket.socket) -> Message:
        """Next message of a child.

        Raises:
            ChildEndedError: the child ended.
            SandboxError: the child says that it failed.
        """
        while True:
            try:
                data, ancillary, _, _ = channel.recvmsg(65536, 1024, socket.MSG_CMSG_CLOEXEC)
                break
            except BlockingIOError:
                await _readable(self._loop, channel)
        if not data:
            raise ChildEndedError("The environment ended while it was being made.")
        pid, descriptors = 0, list[int]()
        for level, kind, payload in ancillary:
            if level != socket.SOL_SOCKET:
                continue
            if kind == socket.SCM_RIGHTS:
                descriptors += struct.unpack(f"{len(payload) // 4}i", payload)
            elif kind == socket.SCM_CREDENTIALS:
                pid = _CREDENTIALS.unpack(payload)[0]
        content = json.loads(data)
        if "error" in content:
            raise SandboxError(f"The environment could not be made: {content['error']}")
        return Message(pid, descriptors, content)

    def kill(self, name: str) -> None:
        """End a child."""
        self._send({"op": "kill", "id": name})

    def audit(self, name: str, memory: int) -> None:
        """End a child whose processes use more than ``memory`` bytes, /tmp not counted."""
        self._send({"op": "audit", "id": name, "memory": memory})

    def share(self, name: str, cpus: float) -> None:
        """Limit a child's processor time."""
        self._send({"op": "share", "id": name, "cpus": cpus})

    def _send(self, message: Mapping[str, object], descriptors: Sequence[int] = (), owned: int | None = None) -> None:
        self._outbox.append(_Outgoing(json.dumps(message).encode(), descriptors, owned))
        if len(self._outbox) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._outbox:
            message = self._outbox[0]
            try:
                socket.send_fds(self._control, [message.data], list(message.descriptors))
            except BlockingIOError:  # the spawner is busy forking
                self._loop.add_writer(self._control, self._flush)
                return
            except OSError:
                pass  # the spawner is gone, as _on_control hears
            if message.owned is not None:
                os.close(message.owned)
            self._outbox.popleft()
        if self._control.fileno() >= 0:
            self._loop.remove_writer(self._control)

    def _on_control(self) -> None:
        while True:
            try:
                data = self._control.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._end()
                return
            self._handle(json.loads(data))

    def _end(self) -> None:
        self._loop.remove_reader(self._control)
        if self.alive:
            self.alive = False
            self._on_lost(self)
            self._lose()
        elif not self._ready.done():
            self._ready.set_exception(SandboxError("the spawner ended"))

    def _handle(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self._ready.set_result(None)
            return
        future = self._exits.pop(str(message["exited"]), None)
        if future is not None and not future.done():
            del message["exited"]
            future.set_result(Exit(**message))

    def _lose(self) -> None:
        """All children are gone with the spawner."""
        exits, self._exits = self._exits, {}
        for future in exits.values():
            if not future.done():
                future.set_result(Exit(None, signal.SIGKILL))


async def _readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    future = loop.create_future()
    loop.add_reader(sock, lambda: None if future.done() else future.set_result(None))
    try:
        await future
    finally:
        if sock.fileno() >= 0:
            loop.remove_reader(sock)
