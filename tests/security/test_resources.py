"""T4: no tenant takes more than its share, and who tries is cut off while others go on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from insula.model.limits import FILE_DESCRIPTORS, PROCESSES
from tests.conftest import Function
from tests.security.conftest import Tenant, attack_package
from tests.server import ROLE, RUNTIME, Server

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def small(client: Any) -> Iterator[Function]:
    """The attacks in a small function: 128 MB, 10 s."""
    client.create_function(
        FunctionName="small",
        Code={"ZipFile": attack_package()},
        Runtime=RUNTIME,
        Role=ROLE,
        Handler="attacks.app.handler",
        Timeout=10,
        TenancyConfig={"TenantIsolationMode": "PER_TENANT"},
    )
    client.get_waiter("function_active_v2").wait(FunctionName="small")
    yield Function(client, "small")
    client.delete_function(FunctionName="small")


@pytest.fixture
def bomber(small: Function) -> Tenant:
    """Who attacks."""
    return Tenant(small, f"bomber-{next(_numbers)}")


@pytest.fixture
def neighbour(small: Function) -> Tenant:
    """Who must be served meanwhile."""
    return Tenant(small, f"neighbour-{next(_numbers)}")


def _memory(server: Server) -> int:
    """Resident memory of the server's own process, in MB."""
    text = Path(f"/proc/{server.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) // 1024


def test_a_fork_bomb_ends_at_the_limit(green: Tenant, neighbour: Tenant) -> None:
    got = green.run("resources.fork_bomb", count=3 * PROCESSES)
    assert 16 < got["made"] < PROCESSES
    assert neighbour.run("processes.answer") == 1


def test_a_thread_bomb_ends_at_the_limit(green: Tenant) -> None:
    assert 16 < green.run("resources.thread_bomb", count=3 * PROCESSES) < PROCESSES


def test_descriptors_end_at_the_limit(bomber: Tenant) -> None:
    assert 900 < bomber.run("resources.descriptor_bomb", count=1 << 20) < FILE_DESCRIPTORS


@pytest.mark.parametrize("attack", ["resources.memory_bomb", "resources.child_memory_bomb"])
def test_a_memory_bomb_ends_its_own_environment_only(attack: str, bomber: Tenant, neighbour: Tenant) -> None:
    assert neighbour.run("resources.memory_bomb", megabytes=16) == 16 << 20
    answer = bomber.call(attack, megabytes=4096)
    payload = json.load(answer["Payload"])
    assert payload == -9 or payload["errorType"] == "Runtime.OutOfMemory", payload
    assert neighbour.run("processes.answer") == 1
    assert bomber.run("processes.answer") == 1  # in a new environment, or without the child


def test_tmp_has_a_size_and_a_number_of_files(bomber: Tenant) -> None:
    got = bomber.run("resources.fill_tmp", megabytes=600)
    assert got["errno"] == 28
    assert 500 <= got["megabytes"] <= 512


@pytest.mark.slow
def test_files_in_tmp_are_counted(green: Tenant) -> None:
    """One for every 4 kB of its size: empty files cost the kernel memory as well."""
    assert 1000 < green.run("resources.fill_inodes", count=1_000_000) <= 512 * 256


def test_buffers_of_sockets_are_counted(bomber: Tenant, neighbour: Tenant) -> None:
    """Under cgroup v1 they have a counter of their own; without a limit they could fill the whole host's."""
    before = _tcp_pages()
    answer = bomber.call("resources.socket_buffers", pairs=400)
    taken = (_tcp_pages() - before) // 256
    assert taken < 128 + 512, f"{taken} MB of the host's memory"
    assert "FunctionError" in answer or json.load(answer["Payload"]) > 0
    assert neighbour.run("processes.answer") == 1
    bomber.call("resources.give_back_buffers")


def _tcp_pages() -> int:
    """Pages in TCP buffers of the whole host."""
    line = next(line for line in Path("/proc/net/sockstat").read_text().splitlines() if line.startswith("TCP:"))
    return int(line.split()[-1])


def test_who_spins_leaves_the_others_their_share(bomber: Tenant, neighbour: Tenant) -> None:
    neighbour.run("processes.answer")
    bomber.run("resources.spin", threads=16, seconds=3.0)
    for _ in range(20):
        assert neighbour.run("processes.answer") == 1


@pytest.mark.parametrize("line", ["", "x" * 200], ids=["empty", "long"])
def test_a_flood_of_log_lines_holds_nobody_up(line: str, server: Server, bomber: Tenant, neighbour: Tenant) -> None:
    neighbour.run("processes.answer")
    before = _memory(server)
    bomber.run("resources.flood_log_for_ever", line=line, block=65536, seconds=2.0)
    for _ in range(20):
        assert neighbour.run("processes.answer") == 1
    assert bomber.run("resources.large", size=10) == "x" * 10
    assert _memory(server) - before < 64


def test_a_line_without_end_is_cut(server: Server, bomber: Tenant) -> None:
    before = _memory(server)
    for _ in range(32):
        bomber.run("logs.partial", text="x" * (1 << 20))
    assert _memory(server) - before < 64


def test_answers_that_are_too_large_or_too_deep_harm_nobody(bomber: Tenant) -> None:
    assert bomber.fail("resources.large", size=7 << 20)["errorType"] == "Function.ResponseSizeTooLarge"
    assert bomber.call("resources.nest", depth=900)["StatusCode"] == 200
    assert bomber.fail("resources.nest", depth=100_000)
    assert bomber.run("processes.answer") == 1


def test_who_never_answers_is_ended_with_all_its_children(
    function: Callable[..., Function], client: Any, server: Server
) -> None:
    hanging = function({f"attacks/{p.name}": p.read_bytes() for p in _code()}, Handler="attacks.app.handler", Timeout=1)
    error = hanging.fail({"attack": "resources.ignore_signals_and_hang", "arguments": {}})
    assert error["errorType"] == "Sandbox.Timedout"
    assert hanging.invoke({"attack": "processes.answer", "arguments": {}}) == 1


def _code() -> list[Path]:
    return sorted((Path(__file__).parent / "attacks").glob("*.py"))


def test_many_attackers_at_once_leave_a_neighbour_served(small: Function, neighbour: Tenant) -> None:
    attacks: list[tuple[str, dict[str, Any]]] = [
        ("resources.spin", {"threads": 8, "seconds": 2.0}),
        ("resources.fork_bomb", {"count": 2000}),
        ("resources.flood_log", {"seconds": 2.0, "line": "", "block": 65536}),
        ("runtime_api.hammer", {"seconds": 2.0, "requests": 1000}),
        ("runtime_api.pipeline_unread", {"megabytes": 64}),
        ("resources.memory_bomb", {"megabytes": 2000}),
    ]
    neighbour.run("processes.answer")
    with ThreadPoolExecutor(len(attacks)) as threads:
        running = [threads.submit(Tenant(small, f"many-{n}").call, name, **a) for n, (name, a) in enumerate(attacks)]
        served = 0
        while not all(attack.done() for attack in running) and served < 2000:
            assert neighbour.run("processes.answer") == 1
            served += 1
    assert served > 0
    assert all(attack.result()["StatusCode"] == 200 for attack in running)


def test_an_initialisation_that_spins_leaves_others_served(
    function: Callable[..., Function], neighbour: Tenant
) -> None:
    """Init runs without a CPU limit, as on AWS; it has the weight of one environment all the same."""
    code = """
import os, time
end, runtime = time.monotonic() + 3, os.getpid()
for _ in range(8):
    if os.fork() == 0:
        break
while time.monotonic() < end:
    pass
if os.getpid() != runtime:
    os._exit(0)
def handler(event, context): return 1
"""
    spinning = function(code, tenancy=True)
    neighbour.run("processes.answer")
    with ThreadPoolExecutor(1) as threads:
        started = threads.submit(spinning.invoke, None, "green")
        while not started.done():
            assert neighbour.run("processes.answer") == 1
    assert started.result() == 1
