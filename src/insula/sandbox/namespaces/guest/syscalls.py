"""System calls that the standard library lacks, by ctypes. Names and meaning: see the man pages in section 2."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import socket
import struct
from typing import Optional, Sequence

_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}[platform.machine()]
_CLOSE_RANGE = 436  # the same number on all architectures

_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(ctypes.c_int(flags)), f"unshare({flags:#x})")


def setns(descriptor: int, kind: int) -> None:
    """setns(2)."""
    _check(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)), f"setns({kind:#x})")


def mount(source: str, target: str, kind: Optional[str], flags: int = 0, data: Optional[str] = None) -> None:
    """mount(2)."""
    _check(
        _libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            kind.encode() if kind else None,
            ctypes.c_ulong(flags),
            os.fsencode(data) if data else None,
        ),
        f"mount({kind or source} on {target}, {data})",
    )


def unmount(target: str) -> None:
    """umount2(2) with MNT_DETACH."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount2({target})")


def overlay(layers: Sequence[str], target: str) -> None:
    """Mount folders, the lowest first, merged and read-only on ``target``, by an overlay of its own.

    A plain bind mount would share inodes between environments, and with them inotify events and flock(2) locks:
    two tenants could signal each other through any file that both can read.
    """
    if len(layers) == 1:
        layers = ["/run/empty", *layers]  # an overlay without an upper folder needs two lower ones
    lower = ":".join(reversed(layers))
    mount("overlay", target, "overlay", MS_RDONLY | MS_NOSUID | MS_NODEV, "lowerdir=" + lower)


def pivot(root: str) -> None:
    """Make ``root`` the root folder and drop the old one: pivot_root(2), the variant without a put_old folder."""
    os.chdir(root)
    _check(_libc.syscall(ctypes.c_long(_PIVOT_ROOT), b".", b"."), f"pivot_root({root})")
    unmount(".")
    os.chdir("/")


def raise_loopback() -> None:
    """Bring up ``lo`` in the current network namespace: netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def close_from(lowest: int) -> None:
    """Close every descriptor from ``lowest`` up: close_range(2)."""
    _check(_libc.syscall(ctypes.c_long(_CLOSE_RANGE), lowest, 0xFFFFFFFF, 0), "close_range")


def _prctl(option: int, value: int = 0, pointer: int = 0) -> int:
    zero = ctypes.c_ulong(0)
    return int(_libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(pointer), zero, zero))


def _capset(mask: int) -> None:
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = struct.pack("6I", low, low, 0, high, high, 0)
    _check(_libc.capset(header, data), "capset")


def _permitted() -> int:
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("CapPrm:"):
                return int(line.split()[1], 16)
    raise OSError("no CapPrm in /proc/self/status")


def become_user(host_uid: int, inner_uid: int) -> None:
    """Become an unprivileged user of a user namespace of one's own, for good.

    ``host_uid`` is the user and group outside (unique per environment: keyrings, signals and resource limits are
    counted by it), ``inner_uid`` what the process sees. A user namespace on top means that even a kernel bug that
    hands out capabilities hands them out in a namespace that owns nothing.
    """
    os.setgroups([])
    _check(_prctl(_PR_SET_KEEPCAPS, 1), "PR_SET_KEEPCAPS")
    os.setresgid(host_uid, host_uid, host_uid)
    os.setresuid(host_uid, host_uid, host_uid)
    # setresuid cleared the effective set. unshare must be done with CAP_SYS_ADMIN, as some distributions refuse
    # user namespaces to the unprivileged.
    _capset(_permitted())
    set_dumpable(True)  # else /proc/self belongs to root, uid_map included
    unshare(CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("gid_map", ""), ("uid_map", "")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text or f"{inner_uid} {host_uid} 1")


def set_dumpable(dumpable: bool) -> None:
    """Whether processes of the same user may look into this one: PR_SET_DUMPABLE of prctl(2)."""
    _check(_prctl(_PR_SET_DUMPABLE, int(dumpable)), "PR_SET_DUMPABLE")


def drop_bounding_set() -> None:
    """Let no exec give a capability: needs CAP_SETPCAP."""
    for capability in range(_LAST_CAPABILITY + 1):
        if _prctl(_PR_CAPBSET_DROP, capability) < 0:
            break  # past the kernel's last capability, or there is no right to drop any more


def drop_capabilities() -> None:
    """Empty all capability sets, the bounding set included, and forbid gaining any by exec."""
    drop_bounding_set()
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _capset(0)
    _check(_prctl(_PR_SET_NO_NEW_PRIVS, 1), "PR_SET_NO_NEW_PRIVS")


def load_filter(program: bytes) -> None:
    """Install a seccomp filter, a BPF program of 8-byte instructions: seccomp(2)."""
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    buffer = ctypes.create_string_buffer(header, len(header))
    _check(_prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(buffer)), "PR_SET_SECCOMP")
