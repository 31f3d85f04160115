"""The log of one environment: what its processes print and what the platform says, in the order of both."""

from __future__ import annotations

import asyncio
import os

from insula.model.limits import LOG_TAIL_BYTES
from insula.runtime_api.telemetry import Telemetry
from insula.telemetry.logs import LogStream

_CHUNK = 1 << 16
_MAX_LINE = 1 << 18  # a line without end is cut: CloudWatch's limit for one event
_MAX_LINES = 1024  # of one chunk; what follows in it becomes one event: a flood of tiny lines must not hold the loop
_MAX_DRAIN = 2  # chunks: what was in the pipe (pipe(7): 64 KiB) when the answer came; not what is still being written
# After more than this many bytes at once the function waits for its reader, so that other environments need not.
_BURST = 4096
_PAUSE_SECONDS = 0.01


class Log:
    """Follows a sandbox's output into its log stream.

    Args:
        stream: where all lines go.
        telemetry: who hears of what is printed.

    Attributes:
        source: who prints, as telemetry names it: ``function``, or ``extension`` before the runtime is started.
        tail: who collects the latest lines: at init for a caller that may never get further, then per invocation for
            one that asked; None if nobody does.
    """

    def __init__(self, stream: LogStream, telemetry: Telemetry) -> None:
        self.stream = stream
        self.source = "function"
        self._telemetry = telemetry
        self.tail: bytearray | None = bytearray()
        self._pipe = -1
        self._partial = b""
        self._loop = asyncio.get_running_loop()

    def follow(self, pipe: int, source: str) -> None:
        """Begin to read a pipe, which is owned from here on, and to which ``source`` prints."""
        self._pipe = pipe
        self.source = source
        self._resume()

    def platform(self, line: str) -> None:
        """Write a line of the platform's own."""
        self.stream.write(line, platform=True)
        self._keep(line)

    def drain(self) -> None:
        """Take what was printed so far, a line without end too: the platform's next line stands behind it."""
        for _ in range(_MAX_DRAIN):
            if not self._read():
                break
        if self._partial:
            self._flush_partial()

    def latest(self) -> bytes:
        """The last 4 KB of what was collected."""
        return bytes(self.tail[-LOG_TAIL_BYTES:]) if self.tail is not None else b""

    def end(self) -> None:
        """The processes are gone: take what is left, and read no more. The stream stays open."""
        self.drain()
        self._loop.remove_reader(self._pipe)
        os.close(self._pipe)
        self._pipe = -1

    def _resume(self) -> None:
        if self._pipe >= 0:  # else what was left was read at the end
            self._loop.add_reader(self._pipe, self._on_readable)

    def _on_readable(self) -> None:
        size = self._read()
        if size is None:
            return
        if size == 0 or size > _BURST:
            self._loop.remove_reader(self._pipe)
        if size > _BURST:
            self._loop.call_later(_PAUSE_SECONDS, self._resume)

    def _read(self) -> int | None:
        """Take what is there; returns how many bytes, 0 at the end and None if there is nothing now."""
        if self._pipe < 0:
            return 0
        try:
            chunk = os.read(self._pipe, _CHUNK)
        except BlockingIOError:
            return None
        *lines, rest = (self._partial + chunk).split(b"\n", _MAX_LINES)
        if b"\n" in rest:
            flood, _, rest = rest.rpartition(b"\n")
            lines.append(flood)
        self._partial = rest
        for line in lines:
            self._write(line)
        if len(self._partial) > _MAX_LINE:
            self._flush_partial()
        return len(chunk)

    def _flush_partial(self) -> None:
        line, self._partial = self._partial, b""
        self._write(line)

    def _write(self, line: bytes) -> None:
        # awslambdaric joins the lines of a traceback by carriage returns, to keep them one event.
        text = line.decode("utf-8", "replace").replace("\r", "\n")
        self.stream.write(text)
        if self._telemetry.active:
            self._telemetry.emit(self.source, text)
        self._keep(text)

    def _keep(self, line: str) -> None:
        tail = self.tail
        if tail is None:
            return
        tail += line.encode() + b"\n"
        if len(tail) > 4 * LOG_TAIL_BYTES:
            del tail[:-LOG_TAIL_BYTES]
