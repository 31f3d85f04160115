"""What a server has on its host, and what it leaves there: processes, cgroups, mounts, namespaces, descriptors."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

from tests.server import Server, descendants

_CGROUPS = Path("/sys/fs/cgroup")
_ID = re.compile(r"\b[0-9a-f]{32}\b")


def alive(pids: Iterable[int]) -> set[int]:
    """Those that live; a zombie does not, and only waits for this machine's init."""
    return {pid for pid in pids if _state(pid) not in "XZ"}


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def groups(server: Server) -> set[Path]:
    """Cgroup folders of everything that the server started."""
    found: set[Path] = set()
    for name in _memberships(server):
        found.update(path for path in (_CGROUPS / name, *(h / name for h in _hierarchies())) if path.exists())
    return found


def _hierarchies() -> list[Path]:
    return [path for path in _CGROUPS.iterdir() if path.is_dir()]


def roots(server: Server) -> set[str]:
    """Names of the cgroup folders in which the server makes all others; there must be an environment."""
    return {name.partition("/")[0] for name in _memberships(server)}


def groups_named(name: str) -> list[Path]:
    """Cgroup folders of a name, in every hierarchy."""
    return list(_CGROUPS.glob(f"**/{name}"))


def _memberships(server: Server) -> set[str]:
    found: set[str] = set()
    for pid in descendants(server.pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
            names = [line.rpartition(":")[2].strip("/") for line in lines]
            found |= {name for name in names if name.startswith("insula-") and "/" in name}
    return found


def network_namespace(pid: int | str) -> str | None:
    """The identity of a process's network namespace; None if it ended."""
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:
        return None


def network_namespaces() -> set[str]:
    """Of all processes on this host."""
    found = {network_namespace(path.name) for path in Path("/proc").glob("[0-9]*")}
    return {identity for identity in found if identity is not None}


def pinned() -> set[str]:
    """Namespaces of this host that live on without a process, by a mount: namespaces(7)."""
    points = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - nsfs " in line)
    return {fields[3] for fields in points}


def owner(path: Path) -> int | None:
    """The user whose file it is, or whose process; None if it is gone."""
    try:
        return path.stat().st_uid
    except OSError:
        return None


def descriptors(pid: int) -> list[str]:
    """What the open descriptors of a process lead to, without the numbers of sockets, pipes and environments."""
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(_ID.sub("*", str(path.readlink()).partition(":[")[0]))
    return sorted(found)


def mounts_under(folder: Path) -> list[str]:
    """Mount points of this host under a folder."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [point for point in (line.split()[4] for line in lines) if Path(point).is_relative_to(folder)]
