"""Sandboxes by themselves, without a server: made by each driver, their runtime played by scripts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from insula.sandbox.driver import Driver, Sandbox, SandboxSpec
from insula.sandbox.namespaces import hierarchies
from insula.sandbox.namespaces.driver import NamespacesDriver
from insula.sandbox.process.driver import ProcessDriver
from insula.sandbox.runtimes import default_folder, load_runtimes

NAMESPACES, CGROUP_V1, NONE = "namespaces", "cgroup v1", "none"
_PATIENCE = 60


class Rig:
    """One driver, and sandboxes of it.

    Args:
        kind: NAMESPACES, the same with the freezer of cgroup v1 (CGROUP_V1), or NONE.

    Attributes:
        group: name of its folder in the cgroup hierarchies, if it has any.
    """

    def __init__(self, folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.kind = kind
        if kind == CGROUP_V1:
            mounts = [mount for mount in hierarchies._cgroup_mounts() if mount[1] == 1]
            if not any("freezer" in controllers for _, _, controllers in mounts):
                pytest.skip("this host has no freezer of cgroup v1")
            monkeypatch.setattr(hierarchies, "_cgroup_mounts", lambda: iter(mounts))
        runtimes = load_runtimes(default_folder())
        self.driver: Driver = ProcessDriver(runtimes)
        self.group: str | None = None
        if kind != NONE:
            self.driver = NamespacesDriver(
                runtimes, state=folder / "state", code=folder / "code", layers=folder / "layers"
            )
            self.group = self.driver._group
        self._made: list[Sandbox] = []

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[Rig]:
        """The driver is started, and closed in the end."""
        await self.driver.start()
        try:
            yield self
        finally:
            await self.driver.close()

    def write(self, place: str, files: Mapping[str, str]) -> Path:
        """A folder of code or of a layer; scripts, and what begins like an ELF file, can be executed."""
        folder = self.folder / place
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
            (folder / name).chmod(0o755 if text.startswith(("#!", "\x7fELF")) else 0o644)
        return folder

    async def make(
        self,
        files: Mapping[str, str],
        *,
        layers: tuple[Mapping[str, str], ...] = (),
        runtime: str = "provided.al2023",
        memory: int = 256,
        extensions: tuple[str, ...] = (),
        **variables: str,
    ) -> Sandbox:
        """A sandbox whose code are these files."""
        number = secrets.token_hex(4)
        code = self.write(f"code/{number}", files)
        unpacked = tuple(self.write(f"layers/{number}-{i}", layer) for i, layer in enumerate(layers))
        environment = {
            "_HANDLER": "app.handler",
            "AWS_EXECUTION_ENV": "x",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory),
            "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001",
            "LAMBDA_TASK_ROOT": "/var/task",
            "PATH": "/usr/bin:/bin",
            "TZ": ":UTC",
            **variables,
        }
        spec = SandboxSpec(secrets.token_hex(16), runtime, code, unpacked, environment, memory, 64, extensions)
        self._made.append(await self.driver.create(spec))
        return self._made[-1]

    def close(self) -> None:
        """Give up what a sandbox leaves to its owner."""
        for sandbox in self._made:
            sandbox.listener.close()
            os.close(sandbox.log)


class Log:
    """What a sandbox prints."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._descriptor = sandbox.log
        self._rest = b""

    async def line(self) -> str:
        """The next line."""
        async with asyncio.timeout(_PATIENCE):
            while b"\n" not in self._rest:
                self._rest += self.drain() or b""
                await asyncio.sleep(0.005)
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    async def rest(self) -> str:
        """Everything, up to its end."""
        async with asyncio.timeout(_PATIENCE):
            while (chunk := self.drain()) != b"":
                self._rest += chunk or b""
                await asyncio.sleep(0.005)
        return self._rest.decode()

    def drain(self) -> bytes | None:
        """What is there now; nothing at the end, None before it."""
        try:
            return os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return None


async def ended(sandbox: Sandbox) -> tuple[int | None, int | None]:
    """Status and signal of its end, once it has come."""
    async with asyncio.timeout(_PATIENCE):
        how = await sandbox.wait()
    return how.status, how.signal


async def until(check: object) -> None:
    """Wait for a condition, a callable."""
    assert callable(check)
    async with asyncio.timeout(_PATIENCE):
        while not check():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.005)


async def _freeze_one(folder: Path, kind: str) -> None:
    rig = Rig(folder, kind, pytest.MonkeyPatch())
    async with rig.run():
        sandbox = await rig.make({"bootstrap": "#!/bin/sh\nwhile :; do echo tick; sleep 0.01; done\n"})
        await Log(sandbox).line()
        sandbox.freeze()
        print(sandbox.pid, flush=True)  # type: ignore[attr-defined]
        await asyncio.sleep(3600)


if __name__ == "__main__":  # a server's part: it is to be killed while it has a frozen sandbox
    asyncio.run(_freeze_one(Path(sys.argv[1]), sys.argv[2]))
