# An attack makes the calls that it is about.
# ruff: noqa: PTH110, PTH112, PTH116, PTH123, PTH208
"""Signals through files that every tenant can read."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import threading
import time
from pathlib import Path
from typing import Any

from .attempt import attempt

SHARED = (
    "/usr/lib/os-release",
    "/usr/bin/env",
    "/var/runtime/awslambdaric/__init__.py",
    "/var/task/attacks/app.py",
    "/var/task",
    "/etc/passwd",
    "/etc/ld.so.cache",
    "/etc/ssl/certs",
    "/usr/share/zoneinfo",
    "/dev/null",
    "/dev/zero",
    "/dev/urandom",
    "/dev",
    "/opt",
    "/proc/version",
    "/proc/sys/kernel/ostype",
    "/",
)
_libc = ctypes.CDLL(None, use_errno=True)
_held: list[int] = []


def shared() -> list[str]:
    """The files of the list that are here, and the interpreter's own library folder."""
    return [path for path in (*SHARED, os.__file__) if os.path.exists(path)]


def lock_all() -> list[str]:
    """Take an exclusive flock(2) on every one, and keep it."""
    return [path for path in shared() if _lock(path)]


def _lock(path: str) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return False
    _held.append(descriptor)
    return True


def find_locked() -> list[str]:
    """The files on which somebody else holds a lock, of either kind, or a lease."""
    return [path for path in shared() if _is_locked(path)]


def _is_locked(path: str) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def lock_ranges() -> list[str]:
    """Take a POSIX read lock on every one; it keeps writers out, so only its being listed would tell."""
    taken = []
    for path in shared():
        descriptor = os.open(path, os.O_RDONLY)
        _held.append(descriptor)
        if attempt(lambda d: fcntl.lockf(d, fcntl.LOCK_SH | fcntl.LOCK_NB), descriptor) is None:
            taken.append(path)
    return taken


def lock_description(marker: int) -> None:
    """Lock byte ``marker`` of a file of one's own by F_OFD_SETLK, which belongs to no process."""
    descriptor = os.open("/tmp/locked", os.O_RDWR | os.O_CREAT)
    _held.append(descriptor)
    fcntl.fcntl(descriptor, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, marker, 1, 0))


def listed_locks() -> str:
    """What /proc/locks shows."""
    return Path("/proc/locks").read_text()


def watch() -> int:
    """Watch every one by inotify(7), in a thread that goes on after the answer."""
    descriptor = _libc.inotify_init1(os.O_NONBLOCK)
    watched = [_libc.inotify_add_watch(descriptor, os.fsencode(path), 0xFFF) for path in shared()]
    _held.append(descriptor)
    return sum(watch >= 0 for watch in watched)


def events() -> int:
    """How many bytes of events came since ``watch``."""
    try:
        return len(os.read(_held[-1], 1 << 16))
    except BlockingIOError:
        return 0


def notice() -> list[str]:
    """Ask for directory notification (F_NOTIFY), and say where it was granted."""
    folders = [path for path in shared() if os.path.isdir(path)]
    granted = []
    for path in folders:
        descriptor = os.open(path, os.O_RDONLY)
        _held.append(descriptor)
        if attempt(lambda d: fcntl.fcntl(d, fcntl.F_NOTIFY, 0x3F), descriptor) == 0:
            granted.append(path)
    return granted


def touch() -> int:
    """Open, read and list every one, as the other side of a signal."""
    for path in shared():
        if os.path.isdir(path):
            os.listdir(path)
        else:
            with open(path, "rb") as file:
                file.read(1)
    return len(shared())


def times() -> dict[str, Any]:
    """Access, change and modification times of every one."""
    found = {}
    for path in shared():
        status = os.stat(path)
        found[path] = [status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns]
    return {path: value for path, value in found.items() if not path.startswith(("/dev", "/proc"))}


def lease() -> list[str]:
    """Take a lease (F_SETLEASE) on every one, which would hear of others' opens."""
    granted = []
    for path in shared():
        descriptor = os.open(path, os.O_RDONLY)
        _held.append(descriptor)
        if attempt(lambda d: fcntl.fcntl(d, fcntl.F_SETLEASE, fcntl.F_RDLCK), descriptor) == 0:
            granted.append(path)
    return granted


_beats: list[float] = []


def beat(seconds: float) -> None:
    """Count time in a thread that goes on after the answer."""

    def run() -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            _beats.append(time.monotonic())
            time.sleep(0.01)

    threading.Thread(target=run, daemon=True).start()


def beats() -> int:
    """How often it counted."""
    return len(_beats)
