"""An environment's cgroups, reached through descriptors of the instance's own folders.

Each hierarchy is one folder: under cgroup v1 one per controller, under v2 one for all, and both may be mixed on one
host. Sources: Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

import contextlib
import os
from typing import Dict, Sequence

# cgroup v1 counts socket buffers apart from memory, and not at all without a limit of their own.
_SOCKET_BYTES = 32 << 20
_PERIOD_US = 100_000  # short periods cut short tasks into more pieces: measured, see DESIGN


class Hierarchy:
    """One mounted hierarchy in which this instance of Insula has a folder.

    ``controllers`` is what is taken from it, among freezer, memory, cpu and pids; ``version`` is 1 or 2.
    """

    def __init__(self, folder: int, version: int, controllers: Sequence[str]) -> None:
        self.folder = folder
        self.version = version
        self.controllers = frozenset(controllers)

    def write(self, group: str, name: str, value: object) -> None:
        descriptor = os.open(f"{group}/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.folder)
        try:
            os.write(descriptor, str(value).encode())
        finally:
            os.close(descriptor)

    def read(self, group: str, name: str) -> str:
        descriptor = self.open(group, name)
        try:
            return os.read(descriptor, 65536).decode()
        finally:
            os.close(descriptor)

    def open(self, group: str, name: str) -> int:
        return os.open(f"{group}/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.folder)


class Cgroups:
    """The hierarchies of this instance; a group is one environment's, named by its id."""

    def __init__(self, hierarchies: Sequence[Hierarchy]) -> None:
        self._hierarchies = hierarchies
        self._by_controller: Dict[str, Hierarchy] = {c: h for h in hierarchies for c in h.controllers}

    def enter(self, group: str) -> None:
        """Make the group and move the calling process into it.

        Moving waits for an RCU grace period after an idle spell, 5 ms per hierarchy: do it ahead of need.
        """
        for hierarchy in self._hierarchies:
            os.mkdir(group, 0o755, dir_fd=hierarchy.folder)
            hierarchy.write(group, "cgroup.procs", 0)

    def limit(self, group: str, *, memory: int, scratch: int, processes: int) -> None:
        """Set the limits, in bytes: ``memory`` for the function, ``scratch`` for its tmpfs on /tmp.

        The kernel charges tmpfs pages to the same counter, so that the hard limit is the sum.
        """
        self._by_controller["pids"].write(group, "pids.max", processes)
        hierarchy = self._by_controller["memory"]
        if hierarchy.version == 2:
            hierarchy.write(group, "memory.max", memory + scratch)
            hierarchy.write(group, "memory.oom.group", 1)
            with contextlib.suppress(FileNotFoundError):  # a kernel without swap accounting
                hierarchy.write(group, "memory.swap.max", 0)
        else:
            hierarchy.write(group, "memory.limit_in_bytes", memory + scratch)
            with contextlib.suppress(FileNotFoundError):
                hierarchy.write(group, "memory.memsw.limit_in_bytes", memory + scratch)
            with contextlib.suppress(FileNotFoundError):
                hierarchy.write(group, "memory.kmem.tcp.limit_in_bytes", _SOCKET_BYTES)

    def open_peak(self, group: str) -> int:
        """A descriptor whose content is the peak memory use in bytes."""
        hierarchy = self._by_controller["memory"]
        return hierarchy.open(group, "memory.peak" if hierarchy.version == 2 else "memory.max_usage_in_bytes")

    def peak(self, group: str) -> int:
        """Peak memory use in bytes."""
        try:
            descriptor = self.open_peak(group)
        except FileNotFoundError:
            return 0
        try:
            return int(os.read(descriptor, 32))
        finally:
            os.close(descriptor)

    def process_memory(self, group: str) -> int:
        """Bytes that the group's processes use, without tmpfs and the page cache."""
        hierarchy = self._by_controller["memory"]
        key = "anon " if hierarchy.version == 2 else "total_rss "
        try:
            text = hierarchy.read(group, "memory.stat")
        except FileNotFoundError:
            return 0
        return next((int(line[len(key) :]) for line in text.splitlines() if line.startswith(key)), 0)

    def share(self, group: str, cpus: float) -> None:
        """Limit the group to ``cpus`` processors' worth of time."""
        quota = max(1000, round(cpus * _PERIOD_US))
        hierarchy = self._by_controller["cpu"]
        if hierarchy.version == 2:
            hierarchy.write(group, "cpu.max", f"{quota} {_PERIOD_US}")
        else:
            hierarchy.write(group, "cpu.cfs_quota_us", quota)  # the period's default is 100 ms

    def thaw(self, group: str) -> None:
        """Let frozen processes go on to their death: only cgroup v2 lets them die as they are."""
        hierarchy = self._by_controller["freezer"]
        if hierarchy.version == 1:
            with contextlib.suppress(FileNotFoundError):
                hierarchy.write(group, "freezer.state", "THAWED")

    def unlimit(self, group: str) -> None:
        """Lift the limit on the group's processor time."""
        hierarchy = self._by_controller["cpu"]
        with contextlib.suppress(FileNotFoundError):  # it has not made its group yet
            if hierarchy.version == 2:
                hierarchy.write(group, "cpu.max", f"max {_PERIOD_US}")
            else:
                hierarchy.write(group, "cpu.cfs_quota_us", -1)

    def out_of_memory(self, group: str) -> bool:
        """Whether the kernel killed a process of the group for lack of memory."""
        hierarchy = self._by_controller["memory"]
        name = "memory.events" if hierarchy.version == 2 else "memory.oom_control"
        try:
            text = hierarchy.read(group, name)
        except FileNotFoundError:
            return False
        return any(line.startswith("oom_kill ") and line != "oom_kill 0" for line in text.splitlines())

    def remove(self, group: str) -> None:
        """Remove the group; its processes are gone."""
        for hierarchy in self._hierarchies:
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(group, dir_fd=hierarchy.folder)
