"""Abuse of the Runtime API: a function is alone with it, and still may not cheat (T2, L2)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Function
from tests.security.conftest import Tenant
from tests.server import Server


def test_the_runtime_api_of_another_environment_cannot_be_answered(
    green: Tenant, tenant: Callable[[str], Tenant]
) -> None:
    blue = tenant("blue")
    foreign = blue.run("runtime_api.own_request_id")
    unknown = ["00000000-0000-0000-0000-000000000000", foreign, "..", "%2e%2e", "a" * 900, ""]
    assert set(green.run("runtime_api.answer_other", request_ids=unknown)) <= {400, 404}
    assert green.run("runtime_api.answer_other", request_ids=["a" * 2000]) != [202]


def test_an_event_is_answered_once(green: Tenant) -> None:
    """The first answer counts; the runtime's own, later, is refused, and the next event is not confused by it."""
    first = green.call("runtime_api.answer_twice", delay=0.1)
    assert first["Payload"].read() == b'"first"'
    for _ in range(3):
        assert green.run("processes.answer") == 1


def test_events_that_are_stolen_by_another_poller_hurt_the_thief_only(
    function: Callable[..., Function], green: Tenant
) -> None:
    code = {f"attacks/{p.name}": p.read_bytes() for p in sorted((Path(__file__).parent / "attacks").glob("*.py"))}
    short = function(code, tenancy=True, Handler="attacks.app.handler", Timeout=1)
    thief, neighbour = Tenant(short, "thief"), Tenant(short, "neighbour")
    thief.run("runtime_api.poll_behind", count=40, seconds=3.0)
    for _ in range(3):
        thief.call("runtime_api.stolen")
        assert neighbour.run("runtime_api.stolen") == []
    assert thief.run("runtime_api.stolen") is not None


def test_an_answer_after_the_timeout_is_not_heard(function: Callable[..., Function]) -> None:
    code = {f"attacks/{p.name}": p.read_bytes() for p in sorted((Path(__file__).parent / "attacks").glob("*.py"))}
    short = function(code, tenancy=True, Handler="attacks.app.handler", Timeout=1)
    late = Tenant(short, "late")
    assert late.fail("runtime_api.wait_past_the_end", seconds=1.2)["errorType"] == "Sandbox.Timedout"
    assert late.run("processes.answer") == 1


def test_connections_beyond_the_limit_are_dropped(green: Tenant) -> None:
    assert 0 < green.run("runtime_api.many_connections", count=300) <= 32
    assert green.run("processes.answer") == 1


def test_nothing_that_is_sent_grows_the_server(green: Tenant, server: Server) -> None:
    green.run("processes.answer")
    before = _memory(server)
    endless = (
        "POST /2018-06-01/runtime/invocation/x/response HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000000\r\n\r\n"
    )
    assert green.run("runtime_api.send_raw", data=endless, megabytes=64) > 0
    assert green.run("runtime_api.send_raw", data="GET /x HTTP/1.1\r\nA: ", megabytes=64) < 16
    assert green.run("runtime_api.send_raw", data="GET /", megabytes=64) < 16
    assert green.run("runtime_api.send_raw", data="\0garbage", megabytes=64) < 16
    assert green.run("runtime_api.pipeline_unread", megabytes=64) < 32
    assert green.run("runtime_api.parallel_bodies", connections=16) <= 1
    assert _memory(server) - before < 64
    assert green.run("processes.answer") == 1


def _memory(server: Server) -> int:
    text = Path(f"/proc/{server.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) // 1024


@pytest.mark.parametrize(
    ("attack", "arguments"),
    [
        ("runtime_api.hammer_on", {"requests": 1}),
        ("runtime_api.hammer_on", {"requests": 1000}),
        ("runtime_api.connect_on", {}),
    ],
    ids=["requests", "pipelines", "connections"],
)
def test_hammering_it_leaves_others_served(
    attack: str, arguments: dict[str, int], green: Tenant, tenant: Callable[[str], Tenant]
) -> None:
    """The count is far from what a quiet server does, and out of reach of one whose loop is held up."""
    blue = tenant("blue")
    blue.run("processes.answer")
    green.run(attack, seconds=2.0, processes=8, **arguments)
    served, end = 0, time.monotonic() + 2.0
    while time.monotonic() < end:
        assert blue.run("processes.answer") == 1
        served += 1
    assert served > 20


def test_work_that_goes_on_after_the_answer_stays_with_its_tenant(
    green: Tenant, tenant: Callable[[str], Tenant]
) -> None:
    """A thread of green's may run on while the server serves blue; blue's environment has none of it."""
    green.run("side_channels.beat", seconds=30.0)
    blue = tenant("blue")
    assert blue.run("side_channels.beats") == 0
    assert blue.run("processes.seen") == blue.run("processes.family")
    assert green.run("side_channels.beats") > 0
