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
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from insula.sandbox.driver import Exit, Sandbox, SandboxError, SandboxSpec
from insula.sandbox.runtimes import Runtime, missing

_CONNECT_SECONDS = 2.0
# Ends with the server, however the server ends: prctl(PR_SET_PDEATHSIG, SIGKILL).
_BOOTSTRAP = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != {parent}: os._exit(1)
sys.path[:0] = [{code!r}, {runtime!r}]
from awslambdaric.__main__ import main
main(["bootstrap", os.environ["_HANDLER"]])
"""


class ProcessSandbox:
    """A process with nothing around it; see the Sandbox protocol."""

    isolation = "none"

    def __init__(
        self, spec: SandboxSpec, process: asyncio.subprocess.Process, listener: socket.socket, log: int, scratch: Path
    ) -> None:
        self.spec = spec
        self.listener = listener
        self.log = log
        self.started = time.monotonic()
        self.on_extension_exit: Callable[[str], None] = lambda _: None
        self._process = process
        self._scratch = scratch
        self._frozen = False

    async def wait(self) -> Exit:
        """See the protocol."""
        code = await self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await asyncio.to_thread(shutil.rmtree, self._scratch, True)
        return Exit(code, None) if code >= 0 else Exit(None, -code)

    def kill(self) -> None:
        """See the protocol."""
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        """See the protocol; a function can undo it."""
        self._signal(signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        """See the protocol."""
        if self._frozen:
            self._frozen = False
            self._signal(signal.SIGCONT)

    def start_runtime(self) -> None:
        """See the protocol."""
        raise NotImplementedError

    def terminate(self) -> None:
        """See the protocol."""
        self.thaw()
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

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

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def begin_invocations(self) -> None:
        """See the protocol; nothing is limited here."""

    def check_memory(self) -> None:
        """See the protocol; nothing is limited here."""

    def peak_memory(self) -> int:
        """See the protocol; the peak of the runtime process alone."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return 0


class ProcessDriver:
    """Starts plain processes; see the Driver protocol."""

    name = "none"
    isolates = False

    def __init__(self, runtimes: Mapping[str, Runtime]) -> None:
        self._runtimes = runtimes
        self._sandboxes: set[ProcessSandbox] = set()

    async def start(self) -> None:
        """See the protocol."""

    async def close(self) -> None:
        """See the protocol."""
        for sandbox in self._sandboxes:
            sandbox.kill()

    def check_runtime(self, runtime: str) -> None:
        """See the protocol."""
        if runtime not in self._runtimes:
            raise missing(runtime)

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """See the protocol."""
        self.check_runtime(spec.runtime)
        runtime = self._runtimes[spec.runtime]
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        log, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(log, False)
        scratch = Path(tempfile.mkdtemp(prefix="insula-"))
        bootstrap = _BOOTSTRAP.format(parent=os.getpid(), code=str(spec.code), runtime=str(runtime.folder))
        variables = {
            **spec.environment,
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{listener.getsockname()[1]}",
            "LAMBDA_TASK_ROOT": str(spec.code),
            "LD_LIBRARY_PATH": "",
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": str(runtime.folder),
            "TMPDIR": str(scratch),
        }
        try:
            process = await asyncio.create_subprocess_exec(
                str(runtime.interpreter),
                "-c",
                bootstrap,
                env=variables,
                cwd=spec.code,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                start_new_session=True,
            )
        except OSError as error:
            listener.close()
            os.close(log)
            raise SandboxError(f"{runtime.interpreter} could not be started: {error}") from error
        finally:
            os.close(writer)
        sandbox = ProcessSandbox(spec, process, listener, log, scratch)
        self._sandboxes.add(sandbox)
        return sandbox
