"""Run inside a machine that has cgroup v2 only: does the driver isolate and limit there as well?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.functional.sandboxes import NAMESPACES, Log, Rig, ended
from tests.server import ROLE, RUNTIME, Server, zip_of

_PATIENCE = 300  # seconds: the processor is emulated
_TICK = "#!/bin/sh\ntrap 'exit 4' TERM\nwhile :; do echo tick; sleep 0.1; done\n"
_EXTENSION = "#!/bin/sh\necho extension\nexec sleep 10000\n"
_HOG = "#!/bin/sh\nx=xxxxxxxx; while :; do x=$x$x; done\n"
_SOURCE = """
import os, time
seen = []
def handler(event, context):
    seen.append(context.tenant_id)
    if "allocate" in event:
        keep = [bytearray(b"x" * (1 << 20)) for _ in range(event["allocate"])]
    if "write" in event:
        with open("/tmp/file", "wb") as file:
            for _ in range(event["write"]):
                file.write(b"x" * (1 << 20))
    if "fork" in event:
        children = 0
        try:
            while True:
                if os.fork() == 0:
                    time.sleep(1000)
                children += 1
        except OSError:
            return children
    return {"seen": seen, "uid": os.getuid(), "processes": [n for n in os.listdir("/proc") if n.isdigit()]}
"""


def main() -> None:
    """Each check prints a line; the first that fails ends the run."""
    server = Server(Path("/tmp/insula/data"))
    server.data_dir.parent.mkdir()
    server.start(_PATIENCE)
    client = server.client()
    client.create_function(
        FunctionName="f",
        Runtime=RUNTIME,
        Role=ROLE,
        Handler="app.handler",
        Timeout=120,
        MemorySize=1769,
        EphemeralStorage={"Size": 512},
        Code={"ZipFile": zip_of(_SOURCE)},
        TenancyConfig={"TenantIsolationMode": "PER_TENANT"},
    )
    client.get_waiter("function_active_v2").wait(FunctionName="f")
    for tenant in ("blue", "green", "blue"):
        answer = invoke(client, {}, tenant)
        check(
            f"{tenant} sees itself only", set(answer["seen"]) == {tenant} and answer["processes"] == ["1", "2"], answer
        )
    groups = [path for path in Path("/sys/fs/cgroup").glob("insula-*/*") if path.is_dir()]
    maxima = {(group / "cpu.max").read_text().strip() for group in groups}
    check("the CPU share is set", "100000 100000" in maxima, maxima)
    check("the number of processes is set", "1025" in {(g / "pids.max").read_text().strip() for g in groups})
    check("a fork bomb is held", 900 < invoke(client, {"fork": 1}, "green") < 1024)
    client.update_function_configuration(FunctionName="f", MemorySize=128)
    client.get_waiter("function_updated_v2").wait(FunctionName="f")
    check("/tmp is not the function's memory", "seen" in invoke(client, {"write": 200}, "blue"))
    check("/tmp is full when it is full", "No space left" in str(invoke(client, {"write": 600}, "blue")))
    error = invoke(client, {"allocate": 400}, "blue")
    check("memory is limited", error.get("errorType") == "Runtime.OutOfMemory", error)
    error = invoke(client, {"allocate": 3000}, "blue")
    check("memory is limited at once", error.get("errorType") == "Runtime.OutOfMemory", error)
    check("others notice nothing", "seen" in invoke(client, {}, "green"))
    asyncio.run(check_sandboxes(Path("/tmp/rig")))
    check("the server stops", server.stop() == 0)
    check("no group is left", not list(Path("/sys/fs/cgroup").glob("insula-*")))
    server.start(_PATIENCE)
    invoke(server.client(), {}, "blue")
    server.stop(9)
    time.sleep(2)
    check("kill -9 leaves no process", not _processes_of_insula())
    server.start(_PATIENCE)
    server.stop()
    check("and the next start sweeps the groups", not list(Path("/sys/fs/cgroup").glob("insula-*")))
    print("ALL PASSED", flush=True)


async def check_sandboxes(folder: Path) -> None:
    """Freezing, extensions and programs of functions, by the driver itself."""
    async with Rig(folder, NAMESPACES, pytest.MonkeyPatch()).run() as rig:
        sandbox = await rig.make({"bootstrap": _TICK}, layers=({"extensions/a": _EXTENSION},), extensions=("a",))
        log = Log(sandbox)
        check("an extension starts first", await log.line() == "extension")
        sandbox.start_runtime()
        check("a program is a runtime", await log.line() == "tick")
        sandbox.freeze()
        await asyncio.sleep(2)
        log.drain()
        await asyncio.sleep(2)
        check("what is frozen makes no progress", log.drain() is None)
        sandbox.thaw()
        check("what is thawed goes on", "tick" in await log.line())
        sandbox.terminate()
        check("a runtime is asked to end", await ended(sandbox) == (4, None))
        sandbox = await rig.make({"bootstrap": _TICK})
        await Log(sandbox).line()
        sandbox.freeze()
        sandbox.kill()
        check("what is frozen can be killed", await ended(sandbox) == (None, 9))
        how = await (await rig.make({"bootstrap": _HOG}, memory=128)).wait()
        check("a program's lack of memory is told", how.out_of_memory, how)
        sandbox = await rig.make({"bootstrap": _TICK}, layers=({"extensions/a": _HOG},), memory=128, extensions=("a",))
        check("an extension's lack of memory is told", (await sandbox.wait()).out_of_memory)
        how = await (await rig.make({"x": ""})).wait()
        check("a missing program is told", str(how.entrypoint).startswith("Couldn't find valid bootstrap(s)"), how)
    check("no group of the driver is left", not list(Path("/sys/fs/cgroup").glob(str(rig.group))))


def _processes_of_insula() -> list[bytes]:
    """Command lines of processes of a server, other than this one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.append((process / "cmdline").read_bytes() if process.name != str(os.getpid()) else b"")
    return [line for line in found if b"insula" in line or b"guest.spawner" in line]


def invoke(client: Any, event: object, tenant: str) -> Any:
    """The payload of an invocation."""
    return json.load(client.invoke(FunctionName="f", Payload=json.dumps(event), TenantId=tenant)["Payload"])


def check(what: str, right: bool, detail: object = "") -> None:
    """Print the outcome; end on a wrong one."""
    print("ok" if right else "FAILED", what, "" if right else detail, flush=True)
    if not right:
        log = Path("/tmp/insula/data.log")
        print(log.read_text() if log.exists() else "", flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
