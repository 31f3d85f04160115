"""What every isolation driver must do for a sandbox: freeze, thaw, kill, ask to end, connect, extensions, programs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from insula.dispatch.variables import runtime_variables
from insula.sandbox.driver import SandboxError
from insula.sandbox.extensions import external_extensions
from insula.sandbox.namespaces.hierarchies import find_hierarchies, make_folder, remove_folder
from insula.sandbox.runtimes import default_folder, load_runtimes
from tests.functional.sandboxes import CGROUP_V1, NAMESPACES, NONE, Log, Rig, ended, until
from tests.server import RUNTIME
from tests.simulation.fakes import FUNCTION

TICK = "#!/bin/sh\nwhile :; do echo tick; sleep 0.01; done\n"
WAIT = "#!/bin/sh\necho ready\nexec sleep 1000\n"
POLITE = "#!/bin/sh\ntrap 'echo bye; exit 3' TERM\necho ready\nwhile :; do sleep 0.01; done\n"
HOG = "x=$(head -c 400m /dev/zero | tr '\\0' x)"
LISTEN = f"""#!{sys.executable}
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
connection, _ = server.accept()
connection.sendall(b"you said " + connection.recv(100))
connection.close()
server.accept()
"""

walled = pytest.mark.parametrize("kind", [NAMESPACES, CGROUP_V1])
everywhere = pytest.mark.parametrize("kind", [NAMESPACES, CGROUP_V1, NONE])
Use = Callable[[Rig], Awaitable[None]]


@pytest.fixture
def rig(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """A driver of each kind."""
    with contextlib.closing(Rig(tmp_path, kind, monkeypatch)) as made:
        yield made


@pytest.fixture
def play(rig: Rig) -> Callable[[Use], None]:
    """Runs a test's own coroutine with a driver that is started, and looks for what is left."""

    async def run(use: Use) -> None:
        async with rig.run():
            await use(rig)

    def begin(use: Use) -> None:
        asyncio.run(run(use))
        if rig.group is not None:
            root = Path("/sys/fs/cgroup")
            assert not [*root.glob(rig.group), *root.glob(f"*/{rig.group}")]

    return begin


async def is_silent(log: Log) -> bool:
    """Whether nothing more is printed, once what was on its way has come."""
    await asyncio.sleep(0.1)
    log.drain()
    await asyncio.sleep(0.3)
    return log.drain() is None


@everywhere
def test_a_frozen_sandbox_makes_no_progress_and_a_thawed_one_goes_on(play: Callable[[Use], None]) -> None:
    async def use(rig: Rig) -> None:
        sandbox = await rig.make({"bootstrap": TICK})
        log = Log(sandbox)
        for _ in range(3):
            assert await log.line() == "tick"
            sandbox.freeze()
            sandbox.freeze()
            assert await is_silent(log)
            sandbox.thaw()
            sandbox.thaw()
        assert await log.line() == "tick"

    play(use)


@everywhere
def test_a_frozen_sandbox_can_be_killed(play: Callable[[Use], None]) -> None:
    async def use(rig: Rig) -> None:
        sandbox = await rig.make({"bootstrap": TICK})
        await Log(sandbox).line()
        sandbox.freeze()
        sandbox.kill()
        assert await ended(sandbox) == (None, signal.SIGKILL)

    play(use)


@everywhere
def test_one_that_is_ending_or_gone_can_be_asked_for_anything(play: Callable[[Use], None]) -> None:
    async def use(rig: Rig) -> None:
        sandbox = await rig.make({"bootstrap": "#!/bin/sh\nexit 3\n"})
        for _ in range(2):
            for call in (sandbox.freeze, sandbox.thaw, sandbox.terminate, sandbox.kill):
                call()
            await ended(sandbox)

    play(use)


@everywhere
def test_closing_the_driver_ends_what_is_frozen(play: Callable[[Use], None]) -> None:
    logs = []

    async def use(rig: Rig) -> None:
        for _ in range(3):
            sandbox = await rig.make({"bootstrap": TICK})
            await Log(sandbox).line()
            sandbox.freeze()
            logs.append(sandbox.log)

    play(use)
    for log in logs:
        os.set_blocking(log, True)
        while os.read(log, 1 << 16):  # it ends when the last process that holds the other end has ended
            pass


@everywhere
@pytest.mark.parametrize("frozen", [False, True])
def test_the_runtime_can_be_asked_to_end_by_itself(play: Callable[[Use], None], frozen: bool) -> None:
    async def use(rig: Rig) -> None:
        sandbox = await rig.make({"bootstrap": POLITE})
        log = Log(sandbox)
        assert await log.line() == "ready"
        if frozen:
            sandbox.freeze()
        sandbox.terminate()
        assert await ended(sandbox) == (3, None)
        assert await log.rest() == "bye\n"

    play(use)


@pytest.mark.parametrize("kind", [NAMESPACES, NONE])
def test_a_connection_reaches_into_the_sandbox_only(play: Callable[[Use], None]) -> None:
    async def use(rig: Rig) -> None:
        loop = asyncio.get_running_loop()
        sandbox = await rig.make({"app.py": LISTEN.partition("\n")[2]}, runtime=RUNTIME, PYTHONPATH="/var/runtime")
        port = int(await Log(sandbox).line())
        own = Path("/proc/self/ns/net").readlink()
        with await sandbox.connect(port) as connection:
            await loop.sock_sendall(connection, b"hello")
            assert await loop.sock_recv(connection, 100) == b"you said hello"
        with pytest.raises(ConnectionRefusedError):
            await sandbox.connect(1)
        assert {(task / "ns/net").readlink() for task in Path("/proc/self/task").iterdir()} == {own}
        sandbox.kill()
        await ended(sandbox)
        with pytest.raises(OSError):
            await sandbox.connect(port)

    play(use)


# Programs of functions.


@everywhere
def test_a_program_of_the_function_is_its_runtime(play: Callable[[Use], None]) -> None:
    async def use(rig: Rig) -> None:
        files = {"bootstrap": "#!/bin/sh\necho $0 $_HANDLER $PWD\ncat data\nexit 4\n", "data": "content\n"}
        sandbox = await rig.make(files, PATH="/usr/bin:/bin")
        assert await ended(sandbox) == (4, None)
        code = str(sandbox.spec.code) if rig.kind == NONE else "/var/task"
        assert await Log(sandbox).rest() == f"{code}/bootstrap app.handler {code}\ncontent\n"

    play(use)


@everywhere
def test_a_program_in_a_layer_is_the_second_choice(play: Callable[[Use], None]) -> None:
    async def use(rig: Rig) -> None:
        layers = ({"bootstrap": "#!/bin/sh\necho lower\n"}, {"bootstrap": "#!/bin/sh\necho upper\n"}, {"x": ""})
        for files, expected in (({"x": ""}, "upper\n"), ({"bootstrap": "#!/bin/sh\necho own\n"}, "own\n")):
            sandbox = await rig.make(files, layers=layers)
            assert await ended(sandbox) == (0, None)
            assert await Log(sandbox).rest() == expected

    play(use)


@walled
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"x": ""}, "Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]"),
        ({"bootstrap/x": ""}, "Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]"),
        ({"bootstrap": "not executable"}, "fork/exec /var/task/bootstrap: permission denied"),
        ({"bootstrap": "#!/no/such/shell\n"}, "fork/exec /var/task/bootstrap: no such file or directory"),
        ({"bootstrap": "\x7fELF is no format"}, "fork/exec /var/task/bootstrap: exec format error"),
    ],
)
def test_a_program_that_cannot_be_started_is_told_in_the_words_of_aws(
    play: Callable[[Use], None], files: dict[str, str], message: str
) -> None:
    async def use(rig: Rig) -> None:
        sandbox = await rig.make(files)
        how = await sandbox.wait()
        assert (how.status, how.entrypoint) == (1, message)

    play(use)


@pytest.mark.parametrize("kind", [NONE])
def test_a_program_that_is_not_there_is_told_without_a_wall_too(play: Callable[[Use], None]) -> None:
    async def use(rig: Rig) -> None:
        how = await (await rig.make({"x": ""})).wait()
        assert how.entrypoint is not None
        assert how.entrypoint.startswith("Couldn't find valid bootstrap(s): [")

    play(use)


@walled
def test_a_wrapper_script_starts_the_python_runtime(play: Callable[[Use], None]) -> None:
    wrapper = '#!/bin/sh\necho wrapped $#\nexport SEEN=yes\nexec "$@"\n'
    code = "import os, sys\nprint(os.environ['SEEN'], os.getpid(), sys.path[:3], flush=True)\nraise SystemExit(5)\n"

    async def use(rig: Rig) -> None:
        sandbox = await rig.make(
            {"app.py": code}, layers=({"wrap": wrapper},), runtime=RUNTIME, AWS_LAMBDA_EXEC_WRAPPER="/opt/wrap"
        )
        log = Log(sandbox)
        assert await log.line() == "wrapped 2"
        version = RUNTIME.removeprefix("python")
        paths = ["/var/task", f"/opt/python/lib/python{version}/site-packages", "/opt/python"]
        assert await log.line() == f"yes 2 {paths}"

    play(use)


@walled
@pytest.mark.parametrize(
    ("wrapper", "text", "status"),
    [("/opt/gone", "/opt/gone: does not exist", 127), ("/opt/text", "/opt/text: is not an executable", 126)],
)
def test_a_wrapper_script_that_cannot_be_run_is_named(
    play: Callable[[Use], None], wrapper: str, text: str, status: int
) -> None:
    async def use(rig: Rig) -> None:
        sandbox = await rig.make(
            {"app.py": ""}, layers=({"text": ""},), runtime=RUNTIME, AWS_LAMBDA_EXEC_WRAPPER=wrapper
        )
        assert await ended(sandbox) == (status, None)
        assert await Log(sandbox).rest() == f"{text}\n"

    play(use)


@walled
@pytest.mark.parametrize("child", [False, True])
def test_a_program_that_uses_too_much_memory_is_told_from_one_that_exits(
    play: Callable[[Use], None], child: bool
) -> None:
    hog = f"({HOG})" if child else HOG

    async def use(rig: Rig) -> None:
        how = await (await rig.make({"bootstrap": f"#!/bin/sh\n{hog}\nexit 7\n"}, memory=128)).wait()
        assert how.out_of_memory
        how = await (await rig.make({"bootstrap": "#!/bin/sh\nkill -9 $$\n"}, memory=128)).wait()
        assert (how.signal, how.out_of_memory) == (signal.SIGKILL, False)

    play(use)


# External extensions.


@everywhere
def test_extensions_start_first_and_the_runtime_once_it_is_let(play: Callable[[Use], None]) -> None:
    async def use(rig: Rig) -> None:
        sandbox = await rig.make(
            {"bootstrap": "#!/bin/sh\necho runtime\nexec sleep 1000\n"},
            layers=({"extensions/a": "#!/bin/sh\necho a\nexec sleep 1000\n"}, {"extensions/b": WAIT}),
            extensions=("a", "b"),
        )
        log = Log(sandbox)
        assert sorted([await log.line(), await log.line()]) == ["a", "ready"]
        assert await is_silent(log)
        sandbox.start_runtime()
        assert await log.line() == "runtime"
        sandbox.freeze()
        sandbox.kill()
        await ended(sandbox)
        assert await log.rest() == ""  # all that could write to it are gone

    play(use)


@everywhere
def test_the_runtime_finds_no_children_that_it_did_not_make(play: Callable[[Use], None]) -> None:
    async def use(rig: Rig) -> None:
        sandbox = await rig.make(
            {"bootstrap": "#!/bin/sh\ncat /proc/$$/task/$$/children\necho .\nexec sleep 1000\n"},
            layers=({"extensions/a": "#!/bin/sh\nexec sleep 1000\n"},),
            extensions=("a",),
        )
        sandbox.start_runtime()
        assert len((await Log(sandbox).line()).split()) == 2  # cat itself, and the dot

    play(use)


@everywhere
def test_an_extension_gets_the_functions_variables_but_not_the_runtimes(play: Callable[[Use], None]) -> None:
    async def use(rig: Rig) -> None:
        sandbox = await rig.make(
            {"bootstrap": WAIT},
            layers=({"extensions/a": "#!/bin/sh\nenv\necho end\nexec sleep 1000\n"},),
            extensions=("a",),
            OWN="mine",
        )
        log, seen = Log(sandbox), set()
        while (line := await log.line()) != "end":
            seen.add(line.partition("=")[0])
        assert {"OWN", "AWS_LAMBDA_RUNTIME_API", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "PATH"} <= seen
        assert not seen & {"_HANDLER", "AWS_EXECUTION_ENV", "LAMBDA_TASK_ROOT"}

    play(use)


@everywhere
@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 0\n", "#!/bin/sh\nkill -9 $$\n", "#!/no/such/shell\n"])
def test_the_end_of_an_extension_is_told_once_with_its_name(play: Callable[[Use], None], script: str) -> None:
    async def use(rig: Rig) -> None:
        told: list[str] = []
        layers = ({"extensions/stays": WAIT, "extensions/goes": script},)
        sandbox = await rig.make({"bootstrap": WAIT}, layers=layers, extensions=("goes", "stays"))
        sandbox.on_extension_exit = told.append
        await until(lambda: told)
        sandbox.start_runtime()
        sandbox.kill()
        await ended(sandbox)
        assert told == ["goes"]

    play(use)


@everywhere
@pytest.mark.parametrize("end", ["kill", "start_runtime"])
def test_extensions_that_end_with_their_sandbox_are_not_told(play: Callable[[Use], None], end: str) -> None:
    async def use(rig: Rig) -> None:
        told: list[str] = []
        sandbox = await rig.make(
            {"bootstrap": "#!/bin/sh\nexit 2\n"}, layers=({"extensions/a": WAIT},), extensions=("a",)
        )
        sandbox.on_extension_exit = told.append
        await Log(sandbox).line()
        getattr(sandbox, end)()
        await ended(sandbox)
        await asyncio.sleep(0.2)
        assert told == []

    play(use)


@walled
def test_an_extension_without_memory_is_told_as_that(play: Callable[[Use], None]) -> None:
    async def use(rig: Rig) -> None:
        sandbox = await rig.make(
            {"bootstrap": WAIT}, layers=({"extensions/a": f"#!/bin/sh\n{HOG}\n"},), extensions=("a",), memory=128
        )
        sandbox.on_extension_exit = lambda _: sandbox.kill()
        async with asyncio.timeout(30):
            assert (await sandbox.wait()).out_of_memory

    play(use)


@pytest.mark.parametrize("kind", [NAMESPACES])
def test_more_extensions_than_aws_allows_are_refused(play: Callable[[Use], None]) -> None:
    async def use(rig: Rig) -> None:
        with pytest.raises(SandboxError, match="11 external extensions are more than 10"):
            await rig.make({"bootstrap": WAIT}, extensions=tuple("abcdefghijk"))

    play(use)


@pytest.mark.parametrize("kind", [NAMESPACES])
def test_an_extension_runs_as_the_function_does(play: Callable[[Use], None]) -> None:
    names = "Uid Gid Groups CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp Seccomp_filters".split()
    pattern = "|".join(names)
    script = (
        f"#!/bin/sh\ngrep -wE '{pattern}' /proc/self/status\nls -l /proc/self/fd | wc -l\necho end\nexec sleep 9999\n"
    )

    async def use(rig: Rig) -> None:
        sandbox = await rig.make({"bootstrap": script}, layers=({"extensions/a": script},), extensions=("a",))
        log = Log(sandbox)
        shown: list[list[str]] = []
        for let_go in (False, True):
            if let_go:
                sandbox.start_runtime()
            shown.append([])
            while (line := await log.line()) != "end":
                shown[-1].append(line)
        assert shown[0] == shown[1]
        assert len(shown[0]) == len(names) + 1
        assert shown[0][-1] == "5"  # a total, three standard descriptors, and that of ls

    play(use)


# What is left over.


@walled
def test_a_spawner_that_dies_takes_frozen_environments_with_it(play: Callable[[Use], None]) -> None:
    async def use(rig: Rig) -> None:
        sandboxes = [await rig.make({"bootstrap": TICK}) for _ in range(2)]
        logs = [Log(sandbox) for sandbox in sandboxes]
        for sandbox, log in zip(sandboxes, logs, strict=True):
            await log.line()
            sandbox.freeze()
        pid = sandboxes[0].pid  # type: ignore[attr-defined]
        (init,) = parents(pid)
        (spawner,) = parents(init)
        os.kill(spawner, signal.SIGKILL)
        for sandbox, log in zip(sandboxes, logs, strict=True):
            await ended(sandbox)
            await log.rest()
        assert await Log(await rig.make({"bootstrap": TICK})).line() == "tick"

    play(use)


def parents(pid: int) -> list[int]:
    """The parent of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return [int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:")]


@walled
def test_a_sweep_removes_what_was_left_frozen(rig: Rig, kind: str) -> None:
    name = f"insula-test-{os.getpid()}"
    process = subprocess.Popen(["sleep", "1000"])
    folders = []
    try:
        for hierarchy in find_hierarchies():
            folder = make_folder(hierarchy, name)
            folders.append(folder)
            (folder / "one").mkdir()
            (folder / "one/cgroup.procs").write_text(str(process.pid))
        file, word = ("freezer.state", "FROZEN") if kind == CGROUP_V1 else ("cgroup.freeze", "1")
        (folders[0] / "one" / file).write_text(word)
        for folder in folders:
            remove_folder(folder)
        assert process.wait(10) == -signal.SIGKILL
    finally:
        process.kill()
        for folder in folders:
            if folder.exists():
                with contextlib.suppress(OSError):
                    remove_folder(folder)
    assert not any(folder.exists() for folder in folders)


@walled
def test_a_server_that_is_killed_leaves_nothing_frozen_behind_the_next_start(
    rig: Rig, play: Callable[[Use], None], kind: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.functional.sandboxes", str(tmp_path), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        server.kill()

    async def use(rig: Rig) -> None:
        await until(lambda: not Path(f"/proc/{pid}").exists())
        assert rig.group is not None
        assert not [path for path in Path("/sys/fs/cgroup").glob(f"**/{rig.group}/*/cgroup.procs") if path.read_text()]

    play(use)


@pytest.mark.parametrize("kind", [NAMESPACES])
def test_a_server_that_is_killed_ends_what_cgroup_v2_froze_at_once(rig: Rig, kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.functional.sandboxes", str(tmp_path), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        server.kill()
    asyncio.run(until(lambda: not Path(f"/proc/{pid}").exists()))


# What lies in /opt, and names.

OPT = """#!/bin/sh
tool
echo $(cat /opt/which) $(ls /opt/extensions /opt/lib | tr '\\n' ' ')
grep -c 'sandbox sandbox.localdomain' /etc/hosts
touch /opt/x 2>/dev/null || echo read-only
"""


@walled
def test_layers_offer_programs_and_the_later_one_wins(play: Callable[[Use], None]) -> None:
    async def use(rig: Rig) -> None:
        lower = {"bin/tool": "#!/bin/sh\necho lower\n", "which": "lower", "extensions/a": "", "lib/l.so": ""}
        upper = {"bin/tool": "#!/bin/sh\necho upper\n", "which": "upper", "extensions/b": ""}
        sandbox = await rig.make(
            {"bootstrap": OPT}, layers=(lower, upper), PATH=runtime_variables(FUNCTION, "s")["PATH"]
        )
        await ended(sandbox)
        shown = (await Log(sandbox).rest()).split("\n")
        assert shown == ["upper", "upper /opt/extensions: a b /opt/lib: l.so", "1", "read-only", ""]

    play(use)


@walled
def test_python_finds_modules_of_layers(play: Callable[[Use], None]) -> None:
    async def use(rig: Rig) -> None:
        packages = f"python/lib/{RUNTIME}/site-packages"
        layer = {f"{packages}/one.py": "WHO = 1", "python/one.py": "WHO = 2", "python/two.py": "WHO = 2"}
        code = "import one, two\nprint(one.WHO, two.WHO, flush=True)\n"
        sandbox = await rig.make({"app.py": code}, layers=(layer,), runtime=RUNTIME)
        assert await Log(sandbox).line() == "1 2"

    play(use)


@walled
@pytest.mark.parametrize("runtime", [name for name in load_runtimes(default_folder()) if name.startswith("nodejs")])
def test_node_finds_modules_of_layers(play: Callable[[Use], None], runtime: str) -> None:
    async def use(rig: Rig) -> None:
        version = runtime.removeprefix("nodejs").removesuffix(".x")
        own, common = f"nodejs/node{version}/node_modules", "nodejs/node_modules"
        layer = {
            f"{own}/one.js": "exports.x = 1",
            f"{common}/one.js": "exports.x = 2",
            f"{common}/two.js": "exports.x = 2",
        }
        variables = runtime_variables(replace(FUNCTION, runtime=runtime), "s")
        code = "process.stdout.write(`${require('one').x} ${require('two').x}\\n`)\nexports.handler = async () => 1\n"
        sandbox = await rig.make({"app.js": code}, layers=(layer,), runtime=runtime, NODE_PATH=variables["NODE_PATH"])
        assert (await Log(sandbox).line()).endswith("1 2")

    play(use)


def test_external_extensions_are_the_executable_files_of_all_layers(tmp_path: Path) -> None:
    layers = []
    for number, files in enumerate([{"b": 0o755, "gone": 0o755, "text": 0o644}, {"a": 0o755, "gone": 0o644}, {}]):
        layers.append(tmp_path / str(number))
        (layers[-1] / "extensions" / "folder").mkdir(parents=True)
        for name, mode in files.items():
            (layers[-1] / "extensions" / name).touch(mode)
        (layers[-1] / "extensions" / "link").symlink_to("/bin/sh")
    assert external_extensions((*layers, tmp_path / "nothing")) == ("a", "b")
