# An attack makes the calls that it is about.
# ruff: noqa: PTH208
"""Seeing, signalling and entering other processes."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path
from typing import Any

from .attempt import attempt, syscall

_PIDFD_OPEN, _PIDFD_GETFD, _PIDFD_SEND_SIGNAL = 434, 438, 424
_PTRACE, _PROCESS_VM_READV = 101, 310
_PTRACE_ATTACH = 16


def seen() -> list[int]:
    """Every process that /proc lists."""
    return sorted(int(path.name) for path in Path("/proc").glob("[0-9]*"))


def family() -> list[int]:
    """What ``seen`` may find: this process and init."""
    return sorted({1, os.getpid()})


def answer() -> int:
    """Nothing but an answer: how a neighbour shows that it is served."""
    return 1


def reachable(highest: int) -> list[int]:
    """Every process id that takes signal 0, by kill(2) and by pidfd."""
    found = set()
    for pid in range(1, highest):
        if attempt(os.kill, pid, 0) != "ESRCH":
            found.add(pid)
        descriptor = syscall(_PIDFD_OPEN, pid, 0)
        if isinstance(descriptor, int):
            found.add(pid)
            os.close(descriptor)
    return sorted(found)


def thread_ids() -> list[int]:
    """This process's threads."""
    return sorted(int(name) for name in os.listdir("/proc/self/task"))


def enter(pid: int) -> dict[str, Any]:
    """Try every way into a process."""
    buffer = ctypes.create_string_buffer(16)
    information = ctypes.create_string_buffer(128)
    vector = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 16)
    return {
        "kill": attempt(lambda: os.kill(pid, 0)),
        "tgkill": syscall(234, pid, pid, 0),
        "sigqueue": syscall(129, pid, int(signal.SIGURG), information),
        "ptrace": syscall(_PTRACE, _PTRACE_ATTACH, pid, None, None),
        "process_vm_readv": syscall(_PROCESS_VM_READV, pid, vector, 1, vector, 1, 0),
        "pidfd_open": syscall(_PIDFD_OPEN, pid, 0),
        "pidfd_getfd": syscall(_PIDFD_GETFD, 0, 0, 0),
        "mem": attempt(lambda: os.open(f"/proc/{pid}/mem", os.O_RDWR)),
        "root": attempt(lambda: os.listdir(f"/proc/{pid}/root/")),
        "cwd": attempt(lambda: os.listdir(f"/proc/{pid}/cwd/")),
        "fd": attempt(lambda: os.listdir(f"/proc/{pid}/fd")),
        "environ": attempt(lambda: os.open(f"/proc/{pid}/environ", os.O_RDONLY)),
        "namespace": attempt(lambda: os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)),
        "priority": attempt(lambda: os.getpriority(os.PRIO_PROCESS, pid)),
        "affinity": attempt(lambda: sorted(os.sched_getaffinity(pid))),
        "limits": syscall(302, pid, 7, None, None),
    }


def open_init() -> dict[str, Any]:
    """Try what would make init obey: it holds a socket to the spawner."""
    return {
        "mem": attempt(os.open, "/proc/1/mem", os.O_RDWR),
        "fd": attempt(os.listdir, "/proc/1/fd"),
        "socket": attempt(os.open, "/proc/1/fd/3", os.O_RDWR),
        "getfd": syscall(_PIDFD_GETFD, syscall(_PIDFD_OPEN, 1, 0), 3, 0),
        "ptrace": syscall(_PTRACE, _PTRACE_ATTACH, 1, None, None),
        "process_vm_writev": syscall(311, 1, None, 0, None, 0, 0),
    }


def open_self() -> Any:
    """The same of this process, which may."""
    return isinstance(attempt(os.open, f"/proc/{os.getpid()}/mem", os.O_RDWR), int)


def become(uid: int) -> dict[str, Any]:
    """Try to be another user, by every call there is."""
    return {
        "setuid": attempt(lambda: os.setuid(uid)),
        "setgid": attempt(lambda: os.setgid(uid)),
        "setreuid": attempt(lambda: os.setreuid(uid, uid)),
        "setresuid": attempt(lambda: os.setresuid(uid, uid, uid)),
        "setresgid": attempt(lambda: os.setresgid(uid, uid, uid)),
        "setgroups": attempt(lambda: os.setgroups([uid])),
        "chown": attempt(_give_away),
        "uid_map": attempt(lambda: Path("/proc/self/uid_map").write_text(f"0 {uid} 1")),
        "uid": os.getresuid(),
    }


def _give_away() -> None:
    path = Path("/tmp/mine")
    path.touch()
    os.chown(path, 0, 0)


def spawn_sleeper() -> int:
    """A child, for attacks that must succeed on one's own."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
    return pid


def status() -> dict[str, str]:
    """This process as the kernel describes it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
