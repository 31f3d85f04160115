"""Memory of processes, as /proc tells it (proc_pid_smaps(5): Pss, Private_Clean and Private_Dirty)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Usage:
    """Memory of one process, in bytes.

    Attributes:
        pss: its proportional set: private pages, and its part of the shared ones.
        private: pages that no other process maps; they come back when it ends.
    """

    pss: int
    private: int


@dataclass(frozen=True, slots=True)
class Growth:
    """What environments added between two snapshots, in bytes for each environment.

    Attributes:
        processes: new processes, of all environments together.
        pss: of the new processes.
        private: of the new processes.
        server: PSS of the whole process tree, the server's own growth included.
    """

    processes: int
    pss: float
    private: float
    server: float


Snapshot = dict[int, Usage]


def snapshot(root: int) -> Snapshot:
    """Memory of a process and all its descendants that may be read.

    Raises:
        PermissionError: not even the root can be read: it has ended, or is another user's.
    """
    usages = {pid: _usage(pid) for pid in tree(root)}
    if usages.get(root) is None:
        raise PermissionError(f"cannot read process {root}: is it running, and is it this user's?")
    return {pid: usage for pid, usage in usages.items() if usage}


def growth(before: Snapshot, after: Snapshot, environments: int) -> Growth:
    """What a number of new environments added."""
    new = [usage for pid, usage in after.items() if pid not in before]
    total = sum(usage.pss for usage in after.values()) - sum(usage.pss for usage in before.values())
    return Growth(
        len(new),
        sum(usage.pss for usage in new) / environments,
        sum(usage.private for usage in new) / environments,
        total / environments,
    )


def tree(root: int) -> set[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    todo = [root]
    while todo:
        pid = todo.pop()
        found.add(pid)
        todo += children.get(pid, [])
    return found


def available() -> int:
    """Bytes that the kernel could hand out without swapping (MemAvailable, proc_meminfo(5))."""
    return _fields(_PROC / "meminfo")["MemAvailable"]


def _parents() -> Iterator[tuple[int, int]]:
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            # The command's name, in parentheses, may itself hold spaces and parentheses.
            yield int(entry.name), int(stat.rpartition(")")[2].split()[1])


def _usage(pid: int) -> Usage | None:
    try:
        fields = _fields(_PROC / str(pid) / "smaps_rollup")
    except OSError:
        return None
    # A process that is just ending has no fields any more.
    if "Pss" not in fields:
        return None
    return Usage(fields["Pss"], fields["Private_Clean"] + fields["Private_Dirty"])


def _fields(path: Path) -> dict[str, int]:
    pairs = (line.partition(":") for line in path.read_text().splitlines() if line.endswith(" kB"))
    return {name: int(value.split()[0]) * 1024 for name, _, value in pairs}
