# An attack makes the calls that it is about.
# ruff: noqa: PTH118, PTH208
"""Calls into the kernel that a function has no business with, and the ways around the filter.

Arguments are such that nothing happens even where a call is let through; x86-64 numbers.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .attempt import attempt, in_child, syscall

_KILLED = f"exit {-signal.SIGSYS}"
_NOWHERE = b"/nonexistent"
_CALLS: dict[str, tuple[Any, ...]] = {
    "acct": (163, _NOWHERE),
    "add_key": (248, None, None, None, 0, 0),
    "adjtimex": (159, None),
    "bpf": (321, 0, None, 0),
    "cachestat": (451, -1, None, None, 0),
    "chroot": (161, b"/tmp"),
    "clock_adjtime": (305, 0, None),
    "clock_settime": (227, 0, None),
    "clone3": (435, None, 0),
    "delete_module": (176, b"insula_nonexistent", 0),
    "fanotify_init": (300, 0, 0),
    "finit_module": (313, -1, b"", 0),
    "fsmount": (432, -1, 0, 0),
    "fsopen": (430, b"tmpfs", 0),
    "fspick": (433, -1, _NOWHERE, 0),
    "init_module": (175, None, 0, b""),
    "io_setup": (206, 1, None),
    "io_uring_enter": (426, -1, 0, 0, 0, None),
    "io_uring_register": (427, -1, 0, None, 0),
    "io_uring_setup": (425, 1, None),
    "ioperm": (173, 0x80, 1, 1),
    "iopl": (172, 3),
    "kcmp": (312, 1, 1, 0, 0, 0),
    "kexec_file_load": (320, -1, -1, 0, b"", 0),
    "kexec_load": (246, 0, 1, None, 0xFFFF),
    "keyctl": (250, 0, -3, 0),
    "landlock_create_ruleset": (444, None, 0, 1),
    "listmount": (458, None, None, 0, 0),
    "lookup_dcookie": (212, 0, None, 0),
    "mbind": (237, None, 0, 0, None, 0, 0),
    "memfd_secret": (447, 0),
    "migrate_pages": (256, 0, 0, None, None),
    "modify_ldt": (154, 0, None, 0),
    "mount": (165, b"none", _NOWHERE, b"tmpfs", 0, None),
    "mount_setattr": (442, -1, b"", 0, None, 0),
    "move_mount": (429, -1, b"", -1, b"", 0),
    "move_pages": (279, 0, 0, None, None, None, 0),
    "mq_open": (240, b"q", 0, 0, None),
    "msgget": (68, 0, 0o1000),
    "open_by_handle_at": (304, -1, None, 0),
    "open_tree": (428, -1, _NOWHERE, 0),
    "perf_event_open": (298, None, 0, -1, -1, 0),
    "pidfd_getfd": (438, -1, 0, 0),
    "pivot_root": (155, _NOWHERE, _NOWHERE),
    "process_madvise": (440, -1, None, 0, 0, 0),
    "process_mrelease": (448, -1, 0),
    "process_vm_readv": (310, 1, None, 0, None, 0, 0),
    "process_vm_writev": (311, 1, None, 0, None, 0, 0),
    "ptrace": (101, 0, 0, None, None),
    "quotactl": (179, 0, None, 0, None),
    "reboot": (169, 0, 0, 0, None),
    "request_key": (249, None, None, None, 0),
    "process_vm_readv x32": (0x40000000 + 539, 1, None, 0, None, 0, 0),
    "set_mempolicy": (238, 0, None, 0),
    "setdomainname": (171, b"evil", 4),
    "sethostname": (170, b"evil", 4),
    "setns": (308, -1, 0),
    "settimeofday": (164, None, None),
    "statmount": (457, None, None, 0, 0),
    "swapoff": (168, _NOWHERE),
    "swapon": (167, _NOWHERE, 0),
    "syslog": (103, 10, None, 0),
    "umount2": (166, _NOWHERE, 0),
    "userfaultfd": (323, 1),
    "userfaultfd for kernel faults": (323, 0),
    "vhangup": (153,),
}
_NEW_NAMESPACES = {
    "mount": 0x20000,
    "cgroup": 0x2000000,
    "uts": 0x4000000,
    "ipc": 0x8000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "time": 0x80,
}


def forbidden_calls() -> dict[str, Any]:
    """What every call answered that was not refused by the filter, which says EPERM or ENOSYS."""
    answers = {name: in_child_answer(*call) for name, call in _CALLS.items()}
    return {name: answer for name, answer in answers.items() if answer not in ("EPERM", "ENOSYS", _KILLED)}


def in_child_answer(number: int, *arguments: Any) -> Any:
    """What a call answers in a child, where it can do no harm to the attack itself."""
    reader, writer = os.pipe()

    def call() -> int:
        os.write(writer, str(syscall(number, *arguments)).encode())
        return 0

    status = in_child(call)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    return text or f"exit {status}"


def new_namespaces() -> dict[str, Any]:
    """unshare(2) and clone(2) with every namespace flag."""
    answers: dict[str, Any] = {}
    for name, flag in _NEW_NAMESPACES.items():
        answers[f"unshare {name}"] = in_child_answer(272, flag)
        if name != "time":  # clone(2) has no room for this flag
            answers[f"clone {name}"] = in_child_answer(56, flag | signal.SIGCHLD, 0, 0, 0, 0)
    return {name: answer for name, answer in answers.items() if answer not in ("EPERM", "ENOSYS")}


def plain_clone() -> Any:
    """The same call without any flag, which is fork(2) and must work."""
    return in_child_answer(56, int(signal.SIGCHLD), 0, 0, 0, 0)


def foreign_architecture() -> int:
    """Call getpid the 32-bit way (int 0x80), whose numbers mean other calls; the exit status of who did."""

    def call() -> int:
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20; int 0x80; ret
        address = ctypes.addressof(ctypes.c_char.from_buffer(code))
        return 0 if ctypes.CFUNCTYPE(ctypes.c_int)(address)() > 0 else 1

    return in_child(call)


def machine_code() -> int:
    """The same with an instruction that is harmless: machine code can be run at all."""

    def call() -> int:
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b"\xb8\x14\x00\x00\x00\xc3")  # mov eax, 20; ret
        address = ctypes.addressof(ctypes.c_char.from_buffer(code))
        return int(ctypes.CFUNCTYPE(ctypes.c_int)(address)())

    return in_child(call)


def writable_settings() -> list[str]:
    """Files of /proc/sys that take a value, which is the one that they have."""
    found = []
    for folder, _, names in os.walk("/proc/sys"):
        for name in names:
            path = os.path.join(folder, name)
            if isinstance(attempt(_write_back, path), int):
                found.append(path)
    return found


def _write_back(path: str) -> int:
    descriptor = os.open(path, os.O_RDWR)
    try:
        return os.write(descriptor, os.read(descriptor, 4096))
    finally:
        os.close(descriptor)


def dangerous_files() -> dict[str, Any]:
    """Files by which a host can be read or steered: first bytes, or why not."""
    names = (
        "/proc/sysrq-trigger /proc/kcore /proc/kmsg /proc/kallsyms /proc/keys /proc/timer_list /proc/sched_debug "
        "/proc/vmallocinfo /proc/config.gz /proc/modules /proc/kpageflags /proc/slabinfo /proc/iomem /dev/mem "
        "/dev/kmem /dev/kmsg /dev/port /dev/fuse /dev/kvm /dev/net/tun /dev/loop0 /dev/sda /dev/vda /dev/vsock "
        "/dev/tty /dev/ptmx /dev/console /dev/shm /dev/mqueue /dev/cpu_dma_latency /sys/fs/cgroup /sys/kernel "
        "/sys/firmware /proc/acpi /proc/scsi /proc/bus/pci/devices"
    ).split()
    answers = {name: attempt(_peek, name) for name in names}
    return {name: answer for name, answer in answers.items() if not _harmless(answer)}


def _peek(name: str) -> str:
    if Path(name).is_dir():
        return ",".join(os.listdir(name))
    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(descriptor, 64).hex()
    finally:
        os.close(descriptor)


def _harmless(answer: str) -> bool:
    return answer in ("", "ENOENT", "EACCES", "EPERM", "ENXIO", "ENODEV")


def devices() -> dict[str, Any]:
    """What /dev holds: name and device number."""
    nodes = {}
    for entry in os.scandir("/dev"):
        found = entry.stat(follow_symlinks=False)
        if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
            nodes[entry.name] = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    return nodes


def make_device() -> dict[str, Any]:
    """mknod(2) of the host's disk and memory, in the only folder that can be written."""
    return {
        "char": attempt(lambda: os.mknod("/tmp/mem", stat.S_IFCHR | 0o666, os.makedev(1, 1))),
        "block": attempt(lambda: os.mknod("/tmp/disk", stat.S_IFBLK | 0o666, os.makedev(254, 0))),
        "fifo": attempt(lambda: os.mkfifo("/tmp/fifo")),
    }


def mounts() -> list[dict[str, str]]:
    """Every mount: where, what, and how."""
    return list(_mounts())


def _mounts() -> Iterator[dict[str, str]]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.partition(" ")
        yield {"path": left.split()[4], "flags": left.split()[5], "kind": kind, "options": options}


def make_setuid() -> dict[str, str]:
    """A setuid copy of a program of one's own: who it runs as."""
    path = Path("/tmp/setuid")
    path.write_bytes(Path("/usr/bin/id").read_bytes())
    path.chmod(0o6755)
    return {"mode": oct(path.stat().st_mode & 0o7777), "output": os.popen(str(path)).read()}


def dump_core() -> list[str]:
    """Crash a child, and look for what it left."""

    def crash() -> int:
        os.chdir("/tmp")
        os.kill(os.getpid(), signal.SIGSEGV)
        return 0

    in_child(crash)
    return [name for name in os.listdir("/tmp") if "core" in name]


def cgroups() -> dict[str, Any]:
    """What can be seen of cgroups."""
    return {
        "paths": [line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines()],
        "mounts": [mount["path"] for mount in _mounts() if mount["kind"].startswith("cgroup")],
        "sys": attempt(lambda: os.listdir("/sys")),
    }


def oom_score() -> dict[str, Any]:
    """How readily the kernel ends this process for lack of memory, and whether that can be changed."""
    score = Path("/proc/self/oom_score_adj")
    return {
        "before": score.read_text().strip(),
        "lower": attempt(score.write_text, "-1000"),
        "zero": attempt(score.write_text, "0"),
        "after": score.read_text().strip(),
    }
