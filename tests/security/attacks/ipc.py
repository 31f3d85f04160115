"""System V IPC, POSIX queues and keyrings."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from .attempt import attempt, errno_name, syscall

_libc = ctypes.CDLL(None, use_errno=True)
_libc.shmat.restype = ctypes.c_void_p
_libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_KEYRINGS = {"thread": -1, "process": -2, "session": -3, "user": -4, "user session": -5}


def shared_memory(key: int, segment: int) -> dict[str, str]:
    """What lies in a segment, by its key and by its id."""
    found = _libc.shmget(key, 0, 0)
    return {"key": errno_name(ctypes.get_errno()) if found < 0 else _attach(found), "id": _attach(segment)}


def _attach(segment: int) -> str:
    address = _libc.shmat(segment, None, 0o10000)
    if address in (None, 2**64 - 1):
        return errno_name(ctypes.get_errno())
    return str(ctypes.string_at(address, 100).split(b"\0")[0].decode())


def semaphore(key: int, identifier: int) -> dict[str, Any]:
    """Whether a semaphore set can be found by key or read by id (GETVAL is 12)."""
    return {"key": syscall(64, key, 0, 0), "id": syscall(66, identifier, 0, 12, 0)}


def listed() -> dict[str, int]:
    """How many objects /proc/sysvipc lists."""
    return {
        name: len(Path("/proc/sysvipc", name).read_text().splitlines()) - 1
        for name in ("shm", "sem", "msg")
        if Path("/proc/sysvipc", name).exists()
    }


def message_queues() -> dict[str, Any]:
    """msgget(2) and mq_open(3)."""
    return {"msgget": syscall(68, 1, 0o1666), "mq_open": syscall(240, b"q", 0o102, 0o600, None)}


def posix_shared_memory(name: str) -> Any:
    """shm_open(3), by its folder."""
    return attempt(lambda: Path("/dev/shm", name).write_text("x"))


def keyrings() -> dict[str, Any]:
    """Every keyring by KEYCTL_GET_KEYRING_ID, a search, a new key, and what /proc lists."""
    answers: dict[str, Any] = {name: syscall(250, 0, number, 1) for name, number in _KEYRINGS.items()}
    answers["persistent"] = syscall(250, 22, -1, -3)
    answers["add"] = syscall(248, b"user", b"insula-test", b"x", 1, -4)
    answers["request"] = syscall(249, b"user", b"insula-test", None, -4)
    for name in ("keys", "key-users"):
        answers[name] = attempt(lambda n: Path("/proc", n).read_text(), name)
    return answers
