"""What every isolation driver offers. An environment's sandbox is made, watched and killed through this.

Drivers: ``namespaces`` (the default) and ``none`` (no isolation, refused for tenant-isolated functions).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class SandboxError(Exception):
    """A sandbox could not be made, or is not what was asked for; the message says why.

    It never ran user code.
    """


class RuntimeMissingError(SandboxError):
    """This host lacks the runtime; the message says what to install."""


class IsolationError(SandboxError):
    """The sandbox's isolation was checked and found wanting. A security event."""


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What a sandbox is to hold.

    Attributes:
        id: 32 hexadecimal digits, safe in paths; never derived from a tenant id.
        runtime: ``python3.11`` and so on.
        code: unpacked code, mounted read-only at /var/task.
        layers: unpacked layers, lowest first, merged read-only at /opt.
        environment: all environment variables of the runtime process.
        memory: MB of memory that the environment may use, /tmp not counted.
        ephemeral_storage: MB of /tmp.
        extensions: file names, in /opt/extensions, of the external extensions. They are started first, and the runtime
            only after ``Sandbox.start_runtime``. Without any the runtime starts at once.
    """

    id: str
    runtime: str
    code: Path
    layers: tuple[Path, ...]
    environment: Mapping[str, str]
    memory: int
    ephemeral_storage: int
    extensions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Exit:
    """How a sandbox ended.

    Attributes:
        status: exit status of the runtime process, or None if a signal ended it.
        signal: number of that signal, or None.
        out_of_memory: whether the memory limit ended it.
        peak_memory: most bytes of memory that were used at once; 0 if unknown.
        entrypoint: why there was no runtime process at all, as AWS words it for ``Runtime.InvalidEntrypoint``; None if
            there was one.
    """

    status: int | None
    signal: int | None
    out_of_memory: bool = False
    peak_memory: int = 0
    entrypoint: str | None = None


class Sandbox(Protocol):
    """A running sandbox.

    Attributes:
        spec: what it was made for.
        listener: listening socket, 127.0.0.1:9001 as seen from inside; the Runtime API is served on it.
        log: readable descriptor of the runtime's standard output and error. Non-blocking.
        isolation: name of the wall that it runs behind, e.g. ``namespaces``.
        started: when the first process in it was let go, in seconds of the monotonic clock.
        on_extension_exit: called with the file name of an external extension whose process ended by itself. Set it
            before the next turn of the event loop; at first it does nothing.
    """

    spec: SandboxSpec
    listener: socket.socket
    log: int
    isolation: str
    started: float
    on_extension_exit: Callable[[str], None]

    async def wait(self) -> Exit:
        """Wait until nothing of the sandbox is left: processes, cgroups, mounts."""
        ...

    def kill(self) -> None:
        """End the sandbox now, a frozen one too. Idempotent; ``wait`` tells when it is gone."""
        ...

    def freeze(self) -> None:
        """Stop every process in it until ``thaw``. Idempotent; does nothing for one that is ending."""
        ...

    def thaw(self) -> None:
        """Let its processes go on. Costs nothing if they were not stopped."""
        ...

    def start_runtime(self) -> None:
        """The extensions are ready: start the runtime. Only with ``spec.extensions``, and once."""
        ...

    def terminate(self) -> None:
        """Ask the runtime process to end, by SIGTERM. A frozen sandbox is thawed; ``kill`` still ends everything."""
        ...

    async def connect(self, port: int) -> socket.socket:
        """A TCP connection to 127.0.0.1:``port`` inside, as a non-blocking socket.

        Raises:
            OSError: nobody listens there, nobody accepts within 2 s, or the sandbox is ending.
        """
        ...

    def begin_invocations(self) -> None:
        """Apply the CPU share: init runs at full speed, as on AWS, what follows in proportion to memory."""
        ...

    def peak_memory(self) -> int:
        """Most memory that was used at once so far, in bytes."""
        ...

    def check_memory(self) -> None:
        """End the sandbox if its processes use more than their memory, /tmp not counted. Called while it is busy."""
        ...


class Driver(Protocol):
    """Makes sandboxes.

    Attributes:
        name: as given to ``insula serve --isolation``.
        isolates: whether tenants may share the host behind it.
    """

    name: str
    isolates: bool

    async def start(self) -> None:
        """Prepare the host and remove what an earlier, killed server left behind.

        Raises:
            SandboxError: this host cannot do it; the message says what is missing.
        """
        ...

    async def close(self) -> None:
        """End every sandbox and remove all traces."""
        ...

    def check_runtime(self, runtime: str) -> None:
        """Raises RuntimeMissingError if this host lacks the runtime."""
        ...

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """Make a sandbox and start the runtime in it, its isolation verified before any user code runs.

        Raises:
            SandboxError: it could not be made. Nothing is left behind.
        """
        ...
