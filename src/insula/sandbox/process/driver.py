"""Plain processes: no wall at all. Chosen only by `--isolation none`, and refused for tenant-isolated functions.

Memory, processor time and /tmp are not limited, and functions see the host's files and network.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from insula.sandbox.driver import Exit, Sandbox, SandboxError, SandboxSpec
from insula.sandbox.extensions import extension_variables
from insula.sandbox.runtimes import Runtime, missing

_CONNECT_SECONDS = 2.0
# Ends with the server, however the server ends: prctl(PR_SET_PDEATHSIG, SIGKILL). A runtime that has to wait for
# extensions is told to go on by a byte, or to end by none.
_LAUNCH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, 9)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
if os.getppid() != {parent} or not os.read(0, 1):
    os._exit(1)
os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
try:
    os.execv(sys.argv[1], sys.argv[1:])
except OSError as error:
    sys.exit("fork/exec %s: %s" % (sys.argv[1], os.strerror(error.errno).lower()))
"""
_PYTHON = """
import os, sys
sys.path[:0] = {paths!r}
from awslambdaric.__main__ import main
main(["bootstrap", os.environ["_HANDLER"]])
"""


class ProcessSandbox:
    """A process with nothing around it; see the Sandbox protocol.

    Attributes:
        entrypoint: why there is no runtime process.
        scratch: a folder in place of /tmp.
    """

    isolation = "none"

    def __init__(self, spec: SandboxSpec, listener: socket.socket, log: int, scratch: Path) -> None:
        self.spec = spec
        self.listener = listener
        self.log = log
        self.started = time.monotonic()
        self.on_extension_exit: Callable[[str], None] = lambda _: None
        self.entrypoint: str | None = None
        self.scratch = scratch
        self._runtime: asyncio.subprocess.Process | None = None
        self._extensions: list[asyncio.subprocess.Process] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._frozen = False
        self._ending = False

    def begin(self, runtime: asyncio.subprocess.Process, extensions: Mapping[str, asyncio.subprocess.Process]) -> None:
        """Take over the processes, and let go those that need not wait."""
        self._runtime = runtime
        self._extensions = list(extensions.values())
        for name, process in extensions.items():
            _let_go(process)
            self._tasks.append(asyncio.create_task(self._follow(name, process)))
        if not extensions:
            _let_go(runtime)

    async def wait(self) -> Exit:
        """See the protocol."""
        code = 1 if self._runtime is None else await self._runtime.wait()
        self.kill()
        await asyncio.gather(*self._tasks)
        await asyncio.to_thread(shutil.rmtree, self.scratch, True)
        return Exit(code, None, entrypoint=self.entrypoint) if code >= 0 else Exit(None, -code)

    def kill(self) -> None:
        """See the protocol."""
        self._ending = True
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        """See the protocol; a function can undo it."""
        if not self._frozen:
            self._frozen = True
            self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """See the protocol."""
        if self._frozen:
            self._frozen = False
            self._signal(signal.SIGCONT)

    def start_runtime(self) -> None:
        """See the protocol."""
        if self._runtime is not None:
            _let_go(self._runtime)

    def terminate(self) -> None:
        """See the protocol."""
        self.thaw()
        if self._runtime is not None:
            with contextlib.suppress(ProcessLookupError):
                self._runtime.terminate()

    async def connect(self, port: int) -> socket.socket:
        """See the protocol; the sandbox's loopback is the host's."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        return sock

    async def _follow(self, name: str, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        if not self._ending:
            self.on_extension_exit(name)

    def _signal(self, number: int) -> None:
        for process in (self._runtime, *self._extensions):
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)

    def begin_invocations(self) -> None:
        """See the protocol; nothing is limited here."""

    def check_memory(self) -> None:
        """See the protocol; nothing is limited here."""

    def peak_memory(self) -> int:
        """See the protocol; the peak of the runtime process alone."""
        if self._runtime is None:
            return 0
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self._runtime.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return 0


class ProcessDriver:
    """Starts plain processes; see the Driver protocol."""

    name = "none"
    isolates = False

    def __init__(self, runtimes: Mapping[str, Runtime]) -> None:
        self._runtimes = runtimes
        self._ends: dict[ProcessSandbox, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """See the protocol."""

    async def close(self) -> None:
        """See the protocol."""
        for sandbox in self._ends:
            sandbox.kill()
        await asyncio.gather(*self._ends.values())

    def check_runtime(self, runtime: str) -> None:
        """See the protocol."""
        if runtime not in self._runtimes:
            raise missing(runtime)

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """See the protocol."""
        self.check_runtime(spec.runtime)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        log, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(log, False)
        sandbox = ProcessSandbox(spec, listener, log, Path(tempfile.mkdtemp(prefix="insula-")))
        try:
            await self._start(sandbox, self._runtimes[spec.runtime], writer)
        except OSError as error:
            sandbox.kill()
            listener.close()
            os.close(log)
            raise SandboxError(f"{spec.runtime} could not be started: {error}") from error
        finally:
            os.close(writer)
        self._ends[sandbox] = asyncio.create_task(self._follow(sandbox))
        return sandbox

    async def _follow(self, sandbox: ProcessSandbox) -> None:
        await sandbox.wait()
        del self._ends[sandbox]

    async def _start(self, sandbox: ProcessSandbox, runtime: Runtime, log: int) -> None:
        spec = sandbox.spec
        command = _command(runtime, spec)
        if command is None:
            # The layers stand for /opt here, so that their own names are told.
            places = [str(folder / "bootstrap") for folder in (spec.code, *reversed(spec.layers))]
            sandbox.entrypoint = f"Couldn't find valid bootstrap(s): [{' '.join(places)}]"
            return
        variables = _variables(sandbox, runtime)
        started = {}
        for name in spec.extensions:
            path = next(layer / "extensions" / name for layer in reversed(spec.layers) if _has(layer, name))
            started[name] = await _launch([str(path)], extension_variables(variables), spec.code, log)
        sandbox.begin(await _launch(command, variables, spec.code, log), started)


def _has(layer: Path, extension: str) -> bool:
    return (layer / "extensions" / extension).is_file()


def _command(runtime: Runtime, spec: SandboxSpec) -> list[str] | None:
    """What to execute; None: the function brings no program. Wrapper scripts are for /opt, which is not here."""
    if runtime.folder is None:
        programs = [folder / "bootstrap" for folder in (spec.code, *reversed(spec.layers))]
        return next(([str(path)] for path in programs if path.is_file()), None)
    if runtime.is_python:
        layers = [str(layer / "python") for layer in reversed(spec.layers)]
        code = _PYTHON.format(paths=[str(spec.code), *layers, str(runtime.folder)])
        return [str(runtime.interpreter), "-c", code]
    return [str(runtime.interpreter), str(runtime.folder / "start.mjs")]


def _variables(sandbox: ProcessSandbox, runtime: Runtime) -> dict[str, str]:
    spec = sandbox.spec
    layers = [str(layer) for layer in reversed(spec.layers)]
    paths = {
        "PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), *(f"{layer}/bin" for layer in layers)]),
        "PYTHONPATH": str(runtime.folder or ""),
        "NODE_PATH": os.pathsep.join([*(f"{layer}/nodejs/node_modules" for layer in layers), str(spec.code)]),
        "LD_LIBRARY_PATH": os.pathsep.join(f"{layer}/lib" for layer in layers),
    }
    return {
        **spec.environment,
        **{name: value for name, value in paths.items() if name in spec.environment or name == "PATH"},
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{sandbox.listener.getsockname()[1]}",
        "LAMBDA_TASK_ROOT": str(spec.code),
        "TMPDIR": str(sandbox.scratch),
    }


async def _launch(
    command: list[str], variables: Mapping[str, str], folder: Path, log: int
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-S",
        "-c",
        _LAUNCH.format(parent=os.getpid()),
        *command,
        env=variables,
        cwd=folder,
        stdin=asyncio.subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _let_go(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"x")
    process.stdin.close()
