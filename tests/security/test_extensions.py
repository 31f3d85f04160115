"""T4: what an external extension can do. It is of the function's own tenant, and must reach no further than it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from tests.functional.sandboxes import NAMESPACES, Log, Rig, ended, until

_ATTACKS = Path(__file__).parent / "attacks"
_PYTHON = "/usr/bin/python3"
_WAIT = "#!/bin/sh\necho ready\nexec sleep 1000\n"
_DAEMON = "#!/bin/sh\n(trap '' TERM HUP; setsid sleep 1000) &\necho begun\n"
_BOMB = "#!/bin/sh\necho bomb\nf() { f | f & }\nwhile :; do f; done\n"


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """The namespaces driver."""
    return Rig(tmp_path, NAMESPACES, monkeypatch)


@pytest.mark.skipif(not Path(_PYTHON).exists(), reason="the attack is written in Python, and runs by the system's")
def test_an_extension_gets_nothing_of_the_process_that_waits(rig: Rig) -> None:
    attacks = {f"attacks/{path.name}": path.read_text() for path in _ATTACKS.glob("*.py")}
    program = f"#!{_PYTHON}\nimport sys\nsys.path.insert(0, '/opt')\nfrom attacks.extension import main\nmain()\n"

    async def run() -> None:
        async with rig.run():
            sandbox = await rig.make(
                {"bootstrap": _WAIT}, layers=({**attacks, "extensions/a": program},), extensions=("a",)
            )
            result = Path(f"/proc/{sandbox.pid}/root/tmp/extension")  # type: ignore[attr-defined]
            await until(lambda: result.exists() and result.read_text())
            got = json.loads(result.read_text())
            assert got == {
                "processes": 1,
                "mounted": [],
                "sockets": got["sockets"],
                "init": "EPERM",
                "init memory": "EACCES",
                "parent": 1,
            }
            assert set(got["sockets"]) <= {"ENXIO", "EACCES"}
            assert got["sockets"]
            sandbox.start_runtime()
            assert await Log(sandbox).line() == "ready"

    with contextlib.closing(rig):
        asyncio.run(run())


@pytest.mark.parametrize("script", [_DAEMON, _BOMB], ids=["daemon", "fork bomb"])
@pytest.mark.parametrize("frozen", [False, True])
def test_whatever_an_extension_starts_ends_with_the_environment(rig: Rig, script: str, frozen: bool) -> None:
    async def run() -> None:
        async with rig.run():
            sandbox = await rig.make({"bootstrap": _WAIT}, layers=({"extensions/a": script},), extensions=("a",))
            log = Log(sandbox)
            await log.line()
            namespace = Path(f"/proc/{sandbox.pid}/ns/pid").readlink()  # type: ignore[attr-defined]
            if frozen:
                sandbox.freeze()
            sandbox.kill()
            await ended(sandbox)
            await log.rest()
            assert not [path for path in Path("/proc").glob("[0-9]*/ns/pid") if _is(path, namespace)]

    with contextlib.closing(rig):
        asyncio.run(run())


def _is(path: Path, namespace: Path) -> bool:
    try:
        return path.readlink() == namespace
    except OSError:
        return False


def test_an_extension_that_kills_the_process_that_waits_ends_its_own_environment_only(rig: Rig) -> None:
    async def run() -> None:
        async with rig.run():
            other = await rig.make({"bootstrap": _WAIT})
            sandbox = await rig.make(
                {"bootstrap": _WAIT},
                layers=({"extensions/a": "#!/bin/sh\nkill -9 2\nexec sleep 1000\n"},),
                extensions=("a",),
            )
            assert await ended(sandbox) == (None, signal.SIGKILL)
            assert await Log(other).line() == "ready"
            os.kill(other.pid, 0)  # type: ignore[attr-defined]

    with contextlib.closing(rig):
        asyncio.run(run())


def test_a_frozen_environment_cannot_be_woken_from_inside(rig: Rig) -> None:
    """Whatever was set up before: an alarm, a child that sends signals, data on a socket."""
    script = "#!/bin/sh\n(while :; do kill -CONT 2; sleep 0.01; done) &\nwhile :; do echo tick; sleep 0.01; done\n"

    async def run() -> None:
        async with rig.run():
            sandbox = await rig.make({"bootstrap": script})
            log = Log(sandbox)
            await log.line()
            sandbox.freeze()
            await asyncio.sleep(0.1)
            log.drain()
            used = _processor_time(sandbox.pid)  # type: ignore[attr-defined]
            os.kill(sandbox.pid, signal.SIGCONT)  # type: ignore[attr-defined]
            await asyncio.sleep(0.3)
            assert log.drain() is None
            assert _processor_time(sandbox.pid) == used  # type: ignore[attr-defined]

    with contextlib.closing(rig):
        asyncio.run(run())


def _processor_time(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[11:15]
