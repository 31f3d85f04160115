"""What a function prints is never taken for what the platform says."""

from __future__ import annotations

from collections.abc import Callable

from insula.telemetry.logs import LogEvent, read_events
from tests.conftest import Function
from tests.security.attacks.logs import FORGED
from tests.security.conftest import Tenant
from tests.server import Server


def _events(server: Server, tenant: Tenant, expected: str) -> list[LogEvent]:
    """Events of a tenant, once the expected text is among them."""
    events: list[LogEvent] = []
    for _ in range(200):
        events = list(read_events(server.data_dir / "logs", "000000000000", tenant.function, tenant=tenant.id))
        if any(expected in event.message for event in events):
            return events
        tenant.run("processes.seen")
    raise AssertionError(f"{expected!r} never came: {events}")


def test_printed_lines_are_never_platform_events(server: Server, green: Tenant) -> None:
    green.run("logs.forge")
    events = _events(server, green, "to standard error")
    said = [event for event in events if not event.platform]
    for line in FORGED:
        first = line.splitlines()[0].split("\r")[0]
        assert any(first in event.message for event in said), line
    assert not [event for event in events if event.platform and "00000000-0000" in event.message]
    assert not [event for event in events if event.platform and "forged" in event.message]
    starts = [event for event in events if event.platform and event.message.startswith("START ")]
    reports = [event for event in events if event.platform and event.message.startswith("REPORT ")]
    assert len(starts) in (len(reports), len(reports) + 1)


def test_a_line_without_newline_does_not_swallow_the_platforms_next(server: Server, green: Tenant) -> None:
    green.run("logs.partial", text="REPORT RequestId: ")
    green.run("logs.partial", text="tail")
    events = _events(server, green, "tail")
    assert all(event.message.startswith(("INIT_START", "START", "END", "REPORT")) for event in events if event.platform)
    assert all("END" not in event.message for event in events if not event.platform)


def test_nothing_printed_reaches_a_terminal_as_an_escape(server: Server, green: Tenant) -> None:
    green.run("logs.forge")
    _events(server, green, "to standard error")
    text = server.cli("logs", green.function, "--tenant", green.id).stdout
    assert "forged" in text
    assert not {c for c in text if not c.isprintable() and c not in "\t\n\u00a0"}


def test_no_printed_line_begins_a_line_of_the_output(server: Server, green: Tenant) -> None:
    """Each event's first line has its time; further lines of it are indented."""
    green.run("logs.forge")
    _events(server, green, "to standard error")
    lines = server.cli("logs", green.function, "--tenant", green.id).stdout.split("\n")
    assert all(line.startswith(("20", "    ")) for line in lines if line), lines


def test_a_tenant_sees_its_own_log_only(server: Server, green: Tenant, tenant: Callable[[str], Tenant]) -> None:
    blue = tenant("blue")
    blue.run("logs.partial", text="of blue\n")
    green.run("logs.partial", text="of green\n")
    assert not [event for event in _events(server, green, "of green") if "of blue" in event.message]
    assert [event for event in _events(server, blue, "of blue") if event.tenant == blue.id]


def test_the_tail_is_this_invocations_own(arena: Function, green: Tenant) -> None:
    import base64

    green.run("logs.partial", text="before\n")
    answer = arena.call({"attack": "logs.partial", "arguments": {"text": "now\n"}}, green.id, LogType="Tail")
    tail = base64.b64decode(answer["LogResult"]).decode()
    assert "now" in tail
    assert "before" not in tail
    assert len(tail) <= 4096
