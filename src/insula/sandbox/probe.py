"""What this host can do: each fact found out by trying, not by guessing from version numbers."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from insula.model.limits import PROCESSES
from insula.sandbox.driver import SandboxError
from insula.sandbox.interpreters import find_interpreters
from insula.sandbox.namespaces.hierarchies import find_hierarchies, make_folder, max_pids, remove_folder
from insula.sandbox.namespaces.seccomp import compile_filter
from insula.sandbox.runtimes import default_folder, load_runtimes

_NAMESPACES = ("mount", "pid", "net", "ipc", "uts", "cgroup", "user")
_MANY_PIDS = 4_194_304  # what systemd sets on 64-bit hosts
_TOOLS = {"unshare": "util-linux", "setpriv": "util-linux"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact.

    Attributes:
        ok: whether it is there; None for what is only good to know.
        detail: what was found.
        remedy: what to do if it is missing.
    """

    name: str
    ok: bool | None
    detail: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Examine this host, in the order in which a reader wants to know."""
    yield _root()
    for tool, package in _TOOLS.items():
        found = shutil.which(tool)
        yield Finding(tool, found is not None, found or "not found", f"apt-get install {package}")
    yield from _namespaces()
    yield _cgroups()
    yield _process_ids()
    yield _seccomp()
    yield _overlay()
    yield from _runtimes()
    yield from _other_walls()


def _root() -> Finding:
    uid = os.geteuid()
    return Finding(
        "root",
        uid == 0,
        f"uid {uid}",
        "Run as root. An unprivileged user gets `--isolation none`: no wall, and no tenant-isolated functions.",
    )


def _namespaces() -> Iterator[Finding]:
    for kind in _NAMESPACES:
        error = _try(["unshare", f"--{kind}", *(["--fork"] if kind == "pid" else []), "true"])
        remedy = "The kernel, or the container that this runs in, forbids it: use --privileged, or a virtual machine."
        if kind == "user":
            remedy = "sysctl -w user.max_user_namespaces=10000; in a container, allow it."
        yield Finding(f"{kind} namespace", error is None, error or "works", remedy)


def _cgroups() -> Finding:
    try:
        hierarchies = find_hierarchies()
        for hierarchy in hierarchies:
            remove_folder(make_folder(hierarchy, f"insula-doctor-{os.getpid()}"))
    except (SandboxError, OSError) as error:
        return Finding("cgroups", False, str(error), "See https://docs.kernel.org/admin-guide/cgroup-v2.html")
    places = ", ".join(f"v{h.version} {'+'.join(h.controllers)} at {h.mount}" for h in hierarchies)
    return Finding("cgroups", True, places)


def _process_ids() -> Finding:
    number = max_pids()
    few = number < _MANY_PIDS
    remedy = f"sysctl -w kernel.pid_max={_MANY_PIDS}; now {number // PROCESSES} fork bombs use up all there are"
    return Finding("process ids", None if few else True, str(number), remedy if few else "")


def _seccomp() -> Finding:
    remedy = "apt-get install libseccomp2"
    try:
        size = len(compile_filter()) // 8
    except (OSError, ImportError, RuntimeError) as error:
        return Finding("seccomp", False, str(error), remedy)
    with contextlib.suppress(OSError):
        if "errno" not in Path("/proc/sys/kernel/seccomp/actions_avail").read_text():
            return Finding("seccomp", False, "the kernel has no filters", "Use a kernel with CONFIG_SECCOMP_FILTER.")
    return Finding("seccomp", True, f"filter of {size} instructions")


def _overlay() -> Finding:
    script = (
        "mount -t tmpfs none /mnt && mkdir /mnt/a /mnt/b /mnt/c && "
        "mount -t overlay overlay -o ro,lowerdir=/mnt/a:/mnt/b /mnt/c"
    )
    error = _try(["unshare", "--mount", "sh", "-c", script])
    return Finding("overlay mounts", error is None, error or "works", "modprobe overlay; keep /mnt free to mount on.")


def _runtimes() -> Iterator[Finding]:
    installed = load_runtimes(default_folder())
    for name, runtime in installed.items():
        yield Finding(f"runtime {name}", True, str(runtime.interpreter or "the function's own program"))
    for interpreter in find_interpreters().values():
        if interpreter.runtime not in installed:
            detail = f"{interpreter.path} is here, its runtime client is not"
            yield Finding(
                f"runtime {interpreter.runtime}", None, detail, f"insula runtimes install {interpreter.runtime}"
            )
    if not any(runtime.is_python for runtime in installed.values()):
        yield Finding("runtimes", False, "no Python", "insula runtimes install")


def _other_walls() -> Iterator[Finding]:
    runsc = shutil.which("runsc")
    yield Finding("gVisor", None, f"{runsc or 'not found'}; Insula has no driver for it yet")
    yield Finding("KVM", None, f"{_kvm()}; Insula has no Firecracker driver yet")
    yield Finding("host", None, f"Linux {platform.release()} {platform.machine()}, Python {sys.version.split()[0]}")


def _kvm() -> str:
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    return "/dev/kvm can be opened"


def _try(command: list[str]) -> str | None:
    """None if the command succeeds, else its complaint."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if result.returncode == 0:
        return None
    return result.stderr.strip().splitlines()[-1] if result.stderr.strip() else f"exit status {result.returncode}"
