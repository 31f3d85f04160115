"""Log streams: in order, of the right tenant, unforgeable and bounded."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import os
import re
import resource
import stat
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from insula.model.errors import InvalidParameterValueException
from insula.model.function import FunctionVersion
from insula.telemetry import logs
from insula.telemetry.logs import (
    MAX_EVENT_BYTES,
    MAX_WAITING_BYTES,
    LogEvent,
    LogStore,
    LogStream,
    _append,
    follow_events,
    read_events,
)

ACCOUNT = "000000000000"
START = 1795449600.0  # 2026-11-23 16:00 UTC


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> LogStore:
    return LogStore(tmp_path / "logs", clock=clock)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "logs"


def make(name: str = "f", version: str = "$LATEST") -> FunctionVersion:
    return FunctionVersion(
        account=ACCOUNT,
        region="us-east-1",
        name=name,
        version=version,
        runtime="python3.11",
        role="r",
        handler="app.handler",
        code_sha256="",
        code_size=0,
        deployment="d",
        revision="r",
        last_modified="",
    )


def bound(store: LogStore, function: FunctionVersion, tenant: str | None) -> LogStream:
    """A stream of an environment whose tenant is known from the beginning."""
    stream = store.open_stream(function)
    stream.bind(tenant)
    return stream


def messages(root: Path, tenant: str | None = None) -> list[str]:
    return [event.message for event in read_events(root, ACCOUNT, "f", tenant=tenant)]


@in_loop
async def test_what_is_written_is_read(store: LogStore, root: Path, clock: Clock) -> None:
    stream = bound(store, make(), "blue")
    stream.write("START", platform=True)
    clock.now += 0.5
    stream.write("hello")
    await store.flush()
    assert re.fullmatch(r"2026/11/23/\[\$LATEST\][0-9a-f]{32}", stream.name)
    start = int(START * 1000)
    assert list(read_events(root, ACCOUNT, "f")) == [
        LogEvent(start, stream.name, "blue", "START", True),
        LogEvent(start + 500, stream.name, "blue", "hello", False),
    ]


@in_loop
async def test_streams_are_merged_by_time(store: LogStore, root: Path, clock: Clock) -> None:
    streams = [bound(store, make(), str(i)) for i in range(3)]
    for i in range(30):
        clock.now += 1
        streams[i * 7 % 3].write(str(i))
        if i % 5 == 0:
            await store.flush()
    await store.flush()
    assert messages(root) == [str(i) for i in range(30)]


@in_loop
async def test_a_tenant_sees_its_own_streams_byte_for_byte(store: LogStore, root: Path) -> None:
    tenants = ["blue", "Blue", "blue ", "blu", "../blue", None]
    for tenant in tenants:
        bound(store, make(), tenant).write(f"of {tenant}")
    await store.flush()
    for tenant in tenants[:-1]:
        assert messages(root, tenant) == [f"of {tenant}"]
    assert len(messages(root)) == len(tenants)
    assert messages(root, "*") == []


@in_loop
async def test_no_tenant_id_is_in_a_path(store: LogStore, root: Path) -> None:
    for tenant in ("blue", "../../../x", "a/b"):
        bound(store, make(), tenant).write("x")
    await store.flush()
    files = log_files(root)
    assert len(files) == 3
    for path in files:
        assert re.fullmatch(rf"{ACCOUNT}/f/\d{{13}}-[0-9a-f]{{32}}\.jsonl", str(path.relative_to(root)))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert json.loads(path.read_bytes().splitlines()[0])["stream"].startswith("2026/11/23/[$LATEST]")


async def written(root: Path, wanted: list[str]) -> None:
    while messages(root) != wanted:  # noqa: ASYNC110 - files have no event to wait for
        await asyncio.sleep(0.01)


def log_files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


HOSTILE = [
    'a\n{"timestamp":0,"message":"REPORT","platform":true}',
    '","platform":true,"x":"',
    "\r\n\x00\x1b[2J\u2028\u2029\x85\x0b",
    "\udcff\ud800",
    "",
]


@pytest.mark.parametrize("line", HOSTILE)
@in_loop
async def test_no_line_forges_an_event(store: LogStore, root: Path, line: str) -> None:
    stream = bound(store, make(), "blue")
    stream.write(line)
    await store.flush()
    assert [(event.message, event.platform) for event in read_events(root, ACCOUNT, "f")] == [(line, False)]


@pytest.mark.parametrize("character", ["x", "\u00fc", "\U0001f600", "\u20ac"])
@in_loop
async def test_a_long_line_is_split_between_characters(store: LogStore, root: Path, character: str) -> None:
    line = "-" + character * (MAX_EVENT_BYTES * 2 // len(character.encode()) + 1)
    bound(store, make(), None).write(line)
    await store.flush()
    pieces = messages(root)
    assert "".join(pieces) == line
    assert len(pieces) == 3
    assert all(len(piece.encode()) <= MAX_EVENT_BYTES for piece in pieces)


@in_loop
async def test_a_flood_is_dropped_and_counted(store: LogStore, root: Path) -> None:
    stream, other = bound(store, make(), "loud"), bound(store, make(), "quiet")
    stream.write("START", platform=True)
    for _ in range(3000):
        stream.write("x" * 1024)
    stream.write("REPORT", platform=True)
    other.write("hello")
    await store.flush()
    found = list(read_events(root, ACCOUNT, "f", tenant="loud"))
    kept = [event for event in found if not event.platform]
    assert sum(len(event.message) for event in kept) <= MAX_WAITING_BYTES
    assert len(kept) > 800
    platform = [event.message for event in found if event.platform]
    assert platform == ["START", "REPORT", f"LOGS DROPPED {3000 - len(kept)} lines"]
    assert messages(root, "quiet") == ["hello"]
    stream.write("again")
    await store.flush()
    assert messages(root, "loud")[-1] == "again"


@in_loop
async def test_a_stream_that_is_full_takes_platform_lines_only(
    store: LogStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_STREAM_BYTES", 1000)
    stream = bound(store, make(), "blue")
    for line in ("x" * 2000, "lost"):
        stream.write(line)
        stream.write("REPORT", platform=True)
        await store.flush()
    messages = [event.message[:9] for event in read_events(root, ACCOUNT, "f")]
    assert messages == ["xxxxxxxxx", "REPORT", "LOG LIMIT", "REPORT"]


@in_loop
async def test_many_empty_lines_are_bounded_too(store: LogStore, root: Path) -> None:
    stream = bound(store, make(), None)
    for _ in range(100_000):
        stream.write("")
    await store.flush()
    assert len(messages(root)) < 10_000


@in_loop
async def test_a_closed_stream_keeps_what_it_has_and_takes_no_more(store: LogStore, root: Path) -> None:
    stream = bound(store, make(), None)
    stream.write("before")
    stream.close()
    stream.write("after")
    await store.flush()
    assert messages(root) == ["before"]


@in_loop
async def test_the_flusher_writes_by_itself_and_all_when_cancelled(store: LogStore, root: Path) -> None:
    flusher = asyncio.create_task(store.run())
    stream = bound(store, make(), None)
    stream.write("first")
    await asyncio.wait_for(written(root, ["first"]), 30)
    stream.write("second")
    flusher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flusher
    assert messages(root) == ["first", "second"]


@in_loop
async def test_flushes_at_once_keep_the_order(store: LogStore, root: Path) -> None:
    stream = bound(store, make(), None)
    flushes = []
    for i in range(50):
        stream.write(str(i))
        flushes.append(asyncio.create_task(store.flush()))
        await asyncio.sleep(0)
        if i % 3 == 0:
            flushes[-1].cancel()
    await asyncio.gather(*flushes, return_exceptions=True)
    await store.flush()
    assert messages(root) == [str(i) for i in range(50)]


@in_loop
async def test_following_yields_what_comes(store: LogStore, root: Path) -> None:
    stream = bound(store, make(), "blue")
    stream.write("first")
    await store.flush()
    polls = itertools.count()

    def sleep(_: float) -> None:
        if next(polls) == 2:
            stream.write("second")
            bound(store, make(), "blue").write("third")
            bound(store, make(), "green").write("not mine")
            for batch in [each.take() for each in store._dirty]:
                _append(batch)

    events = follow_events(root, ACCOUNT, "f", tenant="blue", sleep=sleep)
    assert next(events).message == "first"
    assert {next(events).message, next(events).message} == {"second", "third"}
    assert next(polls) == 3


@in_loop
async def test_following_begins_before_the_first_stream(store: LogStore, root: Path) -> None:
    class StopError(Exception):
        pass

    def sleep(_: float) -> None:
        raise StopError

    with pytest.raises(StopError):
        next(follow_events(root, ACCOUNT, "f", sleep=sleep))
    assert list(read_events(root, ACCOUNT, "f")) == []


@in_loop
async def test_a_line_that_a_kill_cut_off_is_left_out(store: LogStore, root: Path) -> None:
    stream = bound(store, make(), None)
    for i in range(3):
        stream.write(str(i))
    await store.flush()
    (path,) = log_files(root)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        found = messages(root)
        assert found == ["0", "1", "2"][: len(found)]
        assert len(found) < 3


@in_loop
async def test_a_disk_that_refuses_loses_one_batch_and_no_more(
    store: LogStore, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stream = bound(store, make(), "blue")
    write, calls = os.write, itertools.count()

    def full(descriptor: int, content: bytes) -> int:
        if next(calls) == 0:
            return write(descriptor, content[:20])
        raise OSError(28, "No space left on device")

    stream.write("lost")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        await store.flush()
    assert "1 log events lost" in caplog.text
    stream.write("kept")
    await store.flush()
    assert [(event.tenant, event.message) for event in read_events(root, ACCOUNT, "f")] == [("blue", "kept")]


@in_loop
async def test_thousands_of_streams_are_read_without_as_many_descriptors(store: LogStore, root: Path) -> None:
    for i in range(300):
        bound(store, make(), str(i)).write(str(i))
    await store.flush()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        assert sorted(messages(root), key=int) == [str(i) for i in range(300)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\0", "\u00fc"])
def test_a_name_that_is_no_name_is_refused(store: LogStore, root: Path, name: str) -> None:
    with pytest.raises(InvalidParameterValueException):
        bound(store, make(name), None)
    with pytest.raises(InvalidParameterValueException):
        read_events(root, ACCOUNT, name)
    with pytest.raises(InvalidParameterValueException):
        read_events(root, name, "f")


@in_loop
async def test_lines_wait_until_it_is_known_whose_they_are(store: LogStore, root: Path) -> None:
    stream = store.open_stream(make())
    stream.write("INIT_START", platform=True)
    await store.flush()
    assert messages(root) == []
    stream.bind("blue")
    stream.write("START", platform=True)
    await store.flush()
    assert messages(root, "blue") == ["INIT_START", "START"]


@in_loop
async def test_what_was_never_bound_is_nobodys_and_is_kept(store: LogStore, root: Path) -> None:
    stream = store.open_stream(make())
    stream.write("at init")
    stream.close()
    await store.flush()
    assert [(event.tenant, event.message) for event in read_events(root, ACCOUNT, "f")] == [(None, "at init")]
