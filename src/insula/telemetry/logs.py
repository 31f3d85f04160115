"""Logs: one stream per execution environment, each a file of JSON lines.

``<root>/<account>/<function>/<created in ms>-<32 hex digits>.jsonl``. The first line says which stream it is
and which tenant's; a tenant id is never a part of a path. JSON's escapes keep an event on its one line,
whatever a function prints.

The names follow https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs.html
"""

from __future__ import annotations

import asyncio
import heapq
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any

from insula.model.errors import InvalidParameterValueException
from insula.model.function import FunctionVersion

FLUSH_SECONDS = 0.05
POLL_SECONDS = 0.2
MAX_WAITING_BYTES = 1024 * 1024  # of function output, in one stream
MAX_EVENT_BYTES = 256 * 1024  # https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/cloudwatch_limits_cwl.html
MAX_STREAM_BYTES = 256 * 1024 * 1024  # on disk; then only platform lines are kept: a full disk would stop everybody
_LIMIT_REACHED = f"LOG LIMIT reached: this stream has {MAX_STREAM_BYTES >> 20} MB, further output is dropped"
_EVENT_OVERHEAD = 128  # what a waiting event costs in memory beside its text
_CHUNK_BYTES = 64 * 1024
_SAFE_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_NEW_LOG = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC

_logger = logging.getLogger(__name__)
_Waiting = tuple[float, str, bool]  # unix seconds, message, platform


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One line of a log.

    Attributes:
        timestamp: unix milliseconds.
        stream: name of the log stream.
        tenant: the tenant of the stream's environment, or None.
        platform: whether Insula wrote it (START, END, REPORT, ...), not the function.
    """

    timestamp: int
    stream: str
    tenant: str | None
    message: str
    platform: bool


class LogStream:
    """Takes the lines of one environment. Made by ``LogStore.open_stream``; holds no descriptor.

    An environment may be made before its tenant is known. Until ``bind``, its lines are kept in memory.

    Attributes:
        name: as on AWS, ``2026/11/23/[$LATEST]`` and 32 hexadecimal digits.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        header: Mapping[str, object],
        clock: Callable[[], float],
        mark: Callable[[LogStream], None],
    ) -> None:
        self.name = name
        self._path = path
        self._facts = header
        self._header: bytes | None = None
        self._clock = clock
        self._mark = mark
        self._waiting: list[_Waiting] = []
        self._waiting_bytes = 0
        self._dropped = 0
        self._closed = False

    def write(self, line: str, *, platform: bool = False) -> None:
        """Add an event, from the event loop's thread; it reaches the file within ``FLUSH_SECONDS``.

        If more than ``MAX_WAITING_BYTES`` wait, function output is dropped, counted, and the count is logged.

        Args:
            line: the whole message, without a newline at its end.
            platform: Insula's own line, which is never dropped.
        """
        if self._closed:
            return
        if not platform:
            if self._waiting_bytes > MAX_WAITING_BYTES:
                self._dropped += 1
                return
            self._waiting_bytes += len(line) + _EVENT_OVERHEAD
        if not self._waiting and self._header is not None:
            self._mark(self)
        self._waiting.append((self._clock(), line, platform))

    def bind(self, tenant: str | None) -> None:
        """Say whose environment it is, once; from here on its lines are written."""
        self._header = _json_line({"tenant": tenant, **self._facts})
        if self._waiting:
            self._mark(self)

    def close(self) -> None:
        """No more lines come: later ones are ignored. What was written is still flushed."""
        self._closed = True
        if self._header is None:
            self.bind(None)

    def take(self) -> _Batch:
        """What waits to be written; for the store."""
        events = self._waiting
        if self._dropped:
            events.append((self._clock(), f"LOGS DROPPED {self._dropped} lines", True))
        self._waiting = []
        self._waiting_bytes = self._dropped = 0
        assert self._header is not None, "only a stream that is bound was marked"
        return _Batch(self._path, self._header, events)


class LogStore:
    """All log streams, written by a background task.

    Args:
        root: the folder; it is made if missing.
        clock: unix seconds.
    """

    def __init__(self, root: Path, *, clock: Callable[[], float]) -> None:
        self._root = root
        self._clock = clock
        self._dirty: list[LogStream] = []
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()
        self._flushing: asyncio.Task[None] | None = None  # the loop itself keeps only weak references
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def open_stream(self, function: FunctionVersion) -> LogStream:
        """A new stream for an environment of a function version.

        Raises:
            InvalidParameterValueException: the account's or the function's name cannot be a folder's.
        """
        now = self._clock()
        unique = secrets.token_hex(16)
        created = _milliseconds(now)
        name = f"{datetime.fromtimestamp(now, UTC):%Y/%m/%d}/[{function.version}]{unique}"
        path = _log_folder(self._root, function.account, function.name) / f"{created:013d}-{unique}.jsonl"
        header = {"stream": name, "version": function.version, "created": created}
        return LogStream(name, path, header, self._clock, self._mark)

    async def run(self) -> None:
        """Write what is new every ``FLUSH_SECONDS``, until cancelled, and then all that is left."""
        try:
            while True:
                await self._wake.wait()
                await asyncio.sleep(FLUSH_SECONDS)
                await self.flush()
        finally:
            await self.flush()

    async def flush(self) -> None:
        """Write all events that wait, in a worker thread."""
        await self._turn.acquire()
        # From here the flush owns the turn and runs to its end: no batch of a stream may overtake another.
        self._flushing = task = asyncio.create_task(self._write_dirty())
        await asyncio.shield(task)

    async def _write_dirty(self) -> None:
        try:
            batches = [stream.take() for stream in self._dirty]
            self._dirty = []
            self._wake.clear()
            if batches:
                await asyncio.to_thread(_append_all, batches)
        finally:
            self._turn.release()

    def _mark(self, stream: LogStream) -> None:
        self._dirty.append(stream)
        self._wake.set()


def read_events(root: Path, account: str, function: str, *, tenant: str | None = None) -> Iterator[LogEvent]:
    """A function's events of all streams, merged by time. Needs no server.

    Args:
        tenant: only this tenant's, compared byte for byte; None for all.

    Raises:
        InvalidParameterValueException: the account or the function is not a name.
    """
    return _Reader(_log_folder(root, account, function), tenant).new_events()


def follow_events(
    root: Path,
    account: str,
    function: str,
    *,
    tenant: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[LogEvent]:
    """Like ``read_events``, and then the events that come, for ever."""
    reader = _Reader(_log_folder(root, account, function), tenant)
    while True:
        yield from reader.new_events()
        sleep(POLL_SECONDS)


@dataclass(slots=True)
class _Batch:
    path: Path
    header: bytes
    events: list[_Waiting]


class _Reader:
    """Reads the streams of one function, from where it stopped the last time."""

    def __init__(self, folder: Path, tenant: str | None) -> None:
        self._folder = folder
        self._tenant = tenant
        self._files: dict[str, _File] = {}

    def new_events(self) -> Iterator[LogEvent]:
        try:
            names = sorted(entry.name for entry in os.scandir(self._folder) if entry.name.endswith(".jsonl"))
        except FileNotFoundError:
            return iter(())
        for name in names:
            if name not in self._files:
                self._files[name] = _File(self._folder / name, self._tenant)
        return heapq.merge(*(file.new_events() for file in self._files.values()), key=lambda e: e.timestamp)


class _File:
    """One stream's file. No descriptor is held between chunks, so that thousands can be merged."""

    def __init__(self, path: Path, tenant: str | None) -> None:
        self._path = path
        self._wanted = tenant
        self._offset = 0
        self._header: dict[str, Any] | None = None
        self._foreign = False

    def new_events(self) -> Iterator[LogEvent]:
        while not self._foreign and (lines := self._read_lines()):
            for line in lines:
                event = self._parse(line)
                if event:
                    yield event

    def _read_lines(self) -> list[bytes]:
        if self._path.stat().st_size == self._offset:
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            lines = file.readlines(_CHUNK_BYTES)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()  # still being written
        self._offset += sum(map(len, lines))
        return lines

    def _parse(self, line: bytes) -> LogEvent | None:
        if self._foreign:
            return None
        try:
            found: dict[str, Any] = json.loads(line)
        except ValueError:
            return None  # the server was killed while it wrote
        if self._header is None:
            self._header = found
            self._foreign = self._wanted is not None and found["tenant"] != self._wanted
            return None
        header = self._header
        return LogEvent(found["timestamp"], header["stream"], header["tenant"], found["message"], found["platform"])


def _append_all(batches: Iterable[_Batch]) -> None:
    for batch in batches:
        try:
            _append(batch)
        except OSError as error:
            _logger.warning("%d log events lost in %s: %s", len(batch.events), batch.path, error.strerror)


def _append(batch: _Batch) -> None:
    batch.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = os.open(batch.path, _NEW_LOG, 0o600)
    try:
        size = os.fstat(log).st_size
        events = batch.events if size < MAX_STREAM_BYTES else [event for event in batch.events if event[2]]
        content = b"".join(_event_lines(events))
        if size < MAX_STREAM_BYTES <= size + len(content):
            content += b"".join(_event_lines([(batch.events[-1][0], _LIMIT_REACHED, True)]))
        _write_whole(log, content if size else batch.header + content, size)
    finally:
        os.close(log)


def _write_whole(log: int, content: bytes, size: int) -> None:
    """Append all, or leave the file at its size: a line cut short would spoil the next one too."""
    rest = memoryview(content)
    try:
        while rest:
            rest = rest[os.write(log, rest) :]
    except OSError:
        os.ftruncate(log, size)
        raise


def _event_lines(events: Iterable[_Waiting]) -> Iterator[bytes]:
    # Put together by hand, as json.dumps takes six times as long, while it keeps the event loop waiting.
    for moment, message, platform in events:
        flag = "true" if platform else "false"
        for piece in _split(message):
            text = encode_basestring_ascii(piece)
            yield f'{{"timestamp":{_milliseconds(moment)},"message":{text},"platform":{flag}}}\n'.encode("ascii")


def _split(message: str) -> Iterator[str]:
    """Pieces of at most ``MAX_EVENT_BYTES`` of UTF-8, cut between characters."""
    if len(message) * 4 <= MAX_EVENT_BYTES:
        yield message
        return
    rest = memoryview(message.encode("utf-8", "surrogatepass"))
    while rest:
        end = min(len(rest), MAX_EVENT_BYTES)
        while end < len(rest) and rest[end] & 0xC0 == 0x80:
            end -= 1
        yield str(rest[:end], "utf-8", "surrogatepass")
        rest = rest[end:]


def _json_line(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _log_folder(root: Path, account: str, function: str) -> Path:
    for name in (account, function):
        if not _SAFE_NAME.fullmatch(name):
            raise InvalidParameterValueException(f"{name!r} is not a name of letters, digits, '-' and '_'.")
    return root / account / function
