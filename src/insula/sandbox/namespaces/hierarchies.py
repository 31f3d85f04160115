"""The host's cgroup hierarchies, and this instance's folder in each.

cgroup v1, v2 and mixtures are served: each controller is taken from the hierarchy that has it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from insula.sandbox.driver import SandboxError

# The freezer comes first: what is frozen under cgroup v1 does not die before it is thawed, so that a sweep has to begin
# there.
CONTROLLERS = ("freezer", "memory", "cpu", "pids")
FREEZE = {1: ("freezer.state", "FROZEN", "THAWED"), 2: ("cgroup.freeze", "1", "0")}  # file, to freeze, to thaw
_SWEEP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A hierarchy that is used.

    Attributes:
        mount: where it is mounted.
        version: 1 or 2.
        controllers: what is taken from it; ``freezer``, which is a part of cgroup v2 itself, counts as one.
    """

    mount: Path
    version: int
    controllers: tuple[str, ...]


def find_hierarchies() -> list[Hierarchy]:
    """The hierarchies that together have all needed controllers.

    Raises:
        SandboxError: a controller is missing; the message says what to do.
    """
    found: dict[tuple[Path, int], list[str]] = {}
    # Where both versions offer one, v2 is the better freezer: what it froze can be killed.
    mounts = sorted(_cgroup_mounts(), key=lambda mount: -mount[1])
    lacking = []
    for controller in CONTROLLERS:
        place = next(((mount, v) for mount, v, has in mounts if controller in has), None)
        if place is None:
            lacking.append(controller)
        else:
            found.setdefault(place, []).append(controller)
    if lacking:
        raise SandboxError(
            f"No cgroup hierarchy here offers {', '.join(lacking)}. Mount cgroup v2 (mount -t cgroup2 none "
            "/sys/fs/cgroup), or in a container allow it (--privileged, or a writable /sys/fs/cgroup)."
        )
    return [Hierarchy(mount, version, tuple(names)) for (mount, version), names in found.items()]


def _cgroup_mounts() -> Iterator[tuple[Path, int, frozenset[str]]]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        mount = Path(left.split()[4])
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup":
            yield mount, 1, frozenset(options.replace(" ", ",").split(","))
        elif kind == "cgroup2":
            with contextlib.suppress(OSError):
                yield mount, 2, frozenset(["freezer", *(mount / "cgroup.controllers").read_text().split()])


def make_folder(hierarchy: Hierarchy, name: str) -> Path:
    """This instance's folder, empty, with the controllers enabled for its children.

    Raises:
        SandboxError: the hierarchy is not writable.
    """
    folder = hierarchy.mount / name
    try:
        if folder.exists():
            remove_folder(folder)
        if hierarchy.version == 2:
            _enable(hierarchy.mount, hierarchy.controllers)
        folder.mkdir()
        if "freezer" in hierarchy.controllers and not (folder / FREEZE[hierarchy.version][0]).exists():
            raise SandboxError("This kernel's cgroup v2 cannot freeze processes. Linux 5.2 or newer is needed.")
        if hierarchy.version == 2:
            _enable(folder, hierarchy.controllers)
        if "pids" in hierarchy.controllers:
            # All environments together leave the host enough process ids to go on.
            (folder / "pids.max").write_text(str(max_pids() * 3 // 4))
    except OSError as error:
        raise SandboxError(
            f"Cannot make the cgroup {folder}: {error.strerror}. Run insula serve as root, and in a container "
            "with a writable /sys/fs/cgroup."
        ) from error
    return folder


def max_pids() -> int:
    """How many process ids this kernel has: proc_sys_kernel(5)."""
    return int(Path("/proc/sys/kernel/pid_max").read_text())


def _enable(folder: Path, controllers: tuple[str, ...]) -> None:
    text = " ".join(f"+{controller}" for controller in controllers if controller != "freezer")
    if not text:
        return
    try:
        (folder / "cgroup.subtree_control").write_text(text)
    except OSError:
        # Processes in a group that is not the root forbid it (the "no internal processes" rule, as in a
        # container): give them a group of their own.
        leaf = folder / "insula-host"
        leaf.mkdir(exist_ok=True)
        for pid in (folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (leaf / "cgroup.procs").write_text(pid)
        (folder / "cgroup.subtree_control").write_text(text)


def remove_folder(folder: Path) -> None:
    """Kill whatever a server that was itself killed left in the folder, and remove it.

    Raises:
        OSError: something is still there after 10 s.
    """
    deadline = time.monotonic() + _SWEEP_SECONDS
    while folder.exists():
        try:
            for path, _, _ in os.walk(folder, topdown=False):
                _end_processes(Path(path))
                Path(path).rmdir()
        except FileNotFoundError:
            continue  # a group went by itself
        except OSError:  # a process takes its time to die; or a dying spawner's child has just made its group
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def _end_processes(group: Path) -> None:
    with contextlib.suppress(OSError):  # it has no freezer, or cgroup v2's, which holds back no SIGKILL
        (group / FREEZE[1][0]).write_text(FREEZE[1][2])
    for pid in (group / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
