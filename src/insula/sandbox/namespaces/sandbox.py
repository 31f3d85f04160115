"""A sandbox that the namespaces driver made, from its first process to its end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from insula.model.limits import MEMORY_PER_VCPU_MB
from insula.sandbox.driver import Exit, SandboxSpec
from insula.sandbox.namespaces.door import Door
from insula.sandbox.namespaces.hierarchies import FREEZE
from insula.sandbox.namespaces.spawner import Prepared

_MAX_MESSAGE = 4096
_EXTENSION_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Freezer:
    """Where the groups of environments are frozen.

    Attributes:
        folder: descriptor of this server's cgroup folder.
        version: 1 or 2, of its hierarchy.
    """

    folder: int
    version: int

    def open(self, group: str) -> int:
        """A descriptor of the file that freezes a group."""
        return os.open(f"{group}/{FREEZE[self.version][0]}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.folder)


class NamespaceSandbox:
    """A sandbox made by the spawner; see the Sandbox protocol.

    Attributes:
        pid: process id of the runtime as seen on the host.
    """

    isolation = "namespaces"

    def __init__(self, spec: SandboxSpec, prepared: Prepared, log: int, freezer: Freezer, door: Door) -> None:
        self.spec = spec
        self.pid = prepared.pid
        self.listener = prepared.listener
        self.log = log
        self.started = time.monotonic()
        self.on_extension_exit: Callable[[str], None] = _ignore
        self._prepared = prepared
        self._freezer = freezer
        self._freeze_file = -1
        self._frozen = False
        self._ending = False
        self._door = door
        self._loop = asyncio.get_running_loop()
        self._extensions: dict[str, int] = {}  # by name, a pidfd
        self._entrypoint: str | None = None
        prepared.exit.add_done_callback(self._on_exit)

    async def wait(self) -> Exit:
        """See the protocol."""
        how = await asyncio.shield(self._prepared.exit)
        return how if self._entrypoint is None else replace(how, entrypoint=self._entrypoint)

    def kill(self) -> None:
        """See the protocol; the spawner thaws what has to be thawed for it."""
        self._ending = True
        self._prepared.spawner.kill(self._prepared.name)

    def freeze(self) -> None:
        """See the protocol."""
        if self._frozen or self._ending:
            return
        with contextlib.suppress(OSError):  # its group is going, or gone
            if self._freeze_file < 0:
                self._freeze_file = self._freezer.open(self._prepared.name)
            os.pwrite(self._freeze_file, _FREEZE[self._freezer.version], 0)
            self._frozen = True

    def thaw(self) -> None:
        """See the protocol."""
        if self._frozen:
            self._frozen = False
            with contextlib.suppress(OSError):
                os.pwrite(self._freeze_file, _THAW[self._freezer.version], 0)

    def start_runtime(self) -> None:
        """See the protocol."""
        with contextlib.suppress(OSError):
            self._prepared.channel.send(b"runtime")

    def listen(self) -> None:
        """Hear from the process that is to become the runtime, until it has."""
        self._loop.add_reader(self._prepared.channel, self._on_channel)

    def follow_extension(self, name: str, pid: int) -> None:
        """Watch for the end of an extension's process.

        Raises:
            OSError: it ended before it began.
        """
        process = self._extensions[name] = os.pidfd_open(pid)
        self._loop.add_reader(process, self._on_extension, name)

    def terminate(self) -> None:
        """See the protocol."""
        self.thaw()
        with contextlib.suppress(OSError):
            process = os.pidfd_open(self.pid)
            try:
                # The number may be another process's by now; if it is not, the descriptor is the right one.
                if f"/{self._prepared.name}\n" in Path(f"/proc/{self.pid}/cgroup").read_text():
                    signal.pidfd_send_signal(process, signal.SIGTERM)
            finally:
                os.close(process)

    async def connect(self, port: int) -> socket.socket:
        """See the protocol."""
        return await self._door.connect(self.listener, port)

    def begin_invocations(self) -> None:
        """See the protocol."""
        self._prepared.spawner.share(self._prepared.name, self.spec.memory / MEMORY_PER_VCPU_MB)

    def peak_memory(self) -> int:
        """See the protocol."""
        try:
            return int(os.pread(self._prepared.peak, 32, 0))
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.EBADF):
                raise
        ended = self._prepared.exit  # the group is gone; what it came to was read before
        return ended.result().peak_memory if ended.done() else 0

    def check_memory(self) -> None:
        """See the protocol.

        The kernel's hard limit is memory and /tmp together, as it counts tmpfs to the same group: exact is only who
        looks at the parts. That costs more, and is only worth it once the peak is beyond the memory.
        """
        if self.peak_memory() > self.spec.memory << 20:
            self._prepared.spawner.audit(self._prepared.name, self.spec.memory << 20)

    def _on_channel(self) -> None:
        """The one thing that it may say is why there is no runtime; its silence ends when there is one."""
        try:
            data = self._prepared.channel.recv(_MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            self._entrypoint = str(json.loads(data)["entrypoint"])
        self._close_channel()

    def _close_channel(self) -> None:
        if self._prepared.channel.fileno() >= 0:
            self._loop.remove_reader(self._prepared.channel)
            self._prepared.channel.close()

    def _on_extension(self, name: str) -> None:
        self._close_extension(name)
        # If it ended because all of the sandbox does, word of that will be here soon.
        self._loop.call_later(_EXTENSION_SECONDS, self._tell_extension, name)

    def _tell_extension(self, name: str) -> None:
        if not self._ending and _is_alive(self.pid):
            self.on_extension_exit(name)

    def _close_extension(self, name: str) -> None:
        process = self._extensions.pop(name)
        self._loop.remove_reader(process)
        os.close(process)

    def _on_exit(self, _: asyncio.Future[Exit]) -> None:
        self._ending = True
        self._frozen = False
        if self._prepared.channel.fileno() >= 0:
            self._on_channel()  # what was said at the last moment
            self._close_channel()
        for name in list(self._extensions):
            self._close_extension(name)
        self._prepared.close()
        if self._freeze_file >= 0:
            os.close(self._freeze_file)
            self._freeze_file = -1


_FREEZE = {version: texts[1].encode() for version, texts in FREEZE.items()}
_THAW = {version: texts[2].encode() for version, texts in FREEZE.items()}


def _is_alive(pid: int) -> bool:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        return not poll.poll(0)
    finally:
        os.close(process)


def _ignore(_: str) -> None:
    """Nobody wants to know."""
