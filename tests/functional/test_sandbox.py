"""The namespaces driver by itself: what a sandbox holds, beyond what the API can ask for today."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from insula.sandbox.driver import Sandbox, SandboxError, SandboxSpec
from insula.sandbox.namespaces.driver import NamespacesDriver
from insula.sandbox.runtimes import default_folder, load_runtimes
from tests.server import RUNTIME

_HANDLER = """
import json, os, sys
sys.path.insert(0, "/var/task")
import shared, upper, lower
found = {
    "modules": [shared.WHO, upper.WHO, lower.WHO],
    "opt": sorted(os.listdir("/opt")),
    "writable": [path for path in "/ /opt /var/task /etc /usr/bin /dev /tmp".split() if os.access(path, os.W_OK)],
}
print(json.dumps(found), flush=True)
def handler(event, context):
    pass
"""


def _write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


async def _with_driver(tmp_path: Path, use: Callable[[NamespacesDriver], Awaitable[Any]]) -> Any:
    runtimes = load_runtimes(default_folder())
    driver = NamespacesDriver(runtimes, state=tmp_path / "state", code=tmp_path / "code", layers=tmp_path / "layers")
    await driver.start()
    try:
        return await use(driver)
    finally:
        await driver.close()


def _spec(code: Path, *layers: Path) -> SandboxSpec:
    variables = {"_HANDLER": "app.handler", "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001", "TZ": ":UTC"}
    return SandboxSpec(secrets.token_hex(16), RUNTIME, code, layers, variables, 256, 64)


async def _first_request(sandbox: Sandbox) -> bytes:
    loop = asyncio.get_running_loop()
    connection, _ = await loop.sock_accept(sandbox.listener)
    with connection:
        return await loop.sock_recv(connection, 4096)


def test_layers_are_merged_at_opt_and_the_later_one_wins(tmp_path: Path) -> None:
    code = _write(tmp_path / "code/f", {"app.py": _HANDLER})
    first = _write(tmp_path / "layers/1", {"python/shared.py": "WHO = 1", "python/lower.py": "WHO = 1", "a": ""})
    second = _write(tmp_path / "layers/2", {"python/shared.py": "WHO = 2", "python/upper.py": "WHO = 2", "b": ""})

    async def use(driver: NamespacesDriver) -> Any:
        sandbox = await driver.create(_spec(code, first, second))
        assert (await _first_request(sandbox)).startswith(b"GET /2018-06-01/runtime/invocation/next ")
        with open(sandbox.log, "rb", closefd=False) as log:
            return json.loads(log.readline())

    found = asyncio.run(_with_driver(tmp_path, use))
    assert found["modules"] == [2, 2, 1]
    assert found["opt"] == ["a", "b", "python"]
    assert found["writable"] == ["/tmp"]


def test_a_killed_sandbox_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    code = _write(tmp_path / "code/f", {"app.py": "def handler(event, context): pass"})

    async def use(driver: NamespacesDriver) -> Any:
        sandbox = await driver.create(_spec(code))
        await _first_request(sandbox)
        pid = sandbox.pid  # type: ignore[attr-defined]
        assert Path(f"/proc/{pid}").exists()
        sandbox.kill()
        sandbox.kill()
        ended = await sandbox.wait()
        assert (ended.status, ended.signal, ended.out_of_memory) == (None, 9, False)
        assert ended.peak_memory > 0
        assert sandbox.peak_memory() == ended.peak_memory
        assert not Path(f"/proc/{pid}").exists()
        return sandbox

    asyncio.run(_with_driver(tmp_path, use))
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{tmp_path.name}*"))


def test_a_sandbox_that_cannot_be_made_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    async def use(driver: NamespacesDriver) -> str:
        missing = tmp_path / "code/gone"
        with pytest.raises(SandboxError, match=r"could not be made: .*/gone") as caught:
            await driver.create(_spec(missing))
        return str(caught.value)

    assert "No such file" in asyncio.run(_with_driver(tmp_path, use))


def test_listening_sockets_are_of_different_network_namespaces(tmp_path: Path) -> None:
    code = _write(tmp_path / "code/f", {"app.py": "def handler(event, context): pass"})

    async def use(driver: NamespacesDriver) -> None:
        one, other = [await driver.create(_spec(code)) for _ in range(2)]
        # SO_NETNS_COOKIE, socket(7) of recent kernels: the identity of a socket's network namespace.
        cookies = {box.listener.getsockopt(socket.SOL_SOCKET, 71, 8) for box in (one, other)}
        assert len(cookies) == 2
        with socket.socket() as ours:
            assert ours.getsockopt(socket.SOL_SOCKET, 71, 8) not in cookies

    asyncio.run(_with_driver(tmp_path, use))


def test_a_child_that_died_in_store_is_replaced_unnoticed(tmp_path: Path) -> None:
    code = _write(tmp_path / "code/f", {"app.py": "def handler(event, context): pass"})

    async def use(driver: NamespacesDriver) -> bytes:
        await driver.warm(RUNTIME)
        while not driver._stock[RUNTIME]:  # noqa: ASYNC110 - the driver has no event for it
            await asyncio.sleep(0.01)
        os.kill(driver._stock[RUNTIME][0].pid, signal.SIGKILL)
        return await _first_request(await driver.create(_spec(code)))

    assert asyncio.run(_with_driver(tmp_path, use)).startswith(b"GET /2018-06-01/runtime/invocation/next ")
