"""The last look at a sandbox before any user code runs: does the kernel agree that it is isolated?"""

from __future__ import annotations

import os
from collections.abc import Mapping

from insula.sandbox.driver import IsolationError

_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_NO_CAPABILITIES = "0000000000000000"


def read_namespaces(pid: int | str) -> frozenset[str]:
    """Identities of all namespaces of a process, e.g. ``net:[4026531992]``: namespaces(7)."""
    return frozenset(os.readlink(f"/proc/{pid}/ns/{kind}") for kind in _NAMESPACES)


def verify(
    pid: int, *, uid: int, init_uid: int, group: str, hierarchies: int, foreign: frozenset[str]
) -> frozenset[str]:
    """Check a sandbox's process, and the init that is its parent, through /proc; returns its namespaces.

    Args:
        pid: as seen by this process, from the kernel (SCM_CREDENTIALS).
        uid: the user and group that it must have.
        init_uid: the user and group of its init.
        group: name of its cgroup.
        hierarchies: in how many cgroup hierarchies it must be in that group.
        foreign: namespaces of this process and of the spawner; it may have none of them.

    Raises:
        IsolationError: something is not as it must be; the message says what.
    """
    try:
        status = _read_status(pid)
        init = int(status.get("PPid") or 0)
        init_status = _read_status(init)
        namespaces = read_namespaces(pid)
        with open(f"/proc/{pid}/cgroup") as file:
            groups = file.read()
    except (OSError, ValueError) as error:
        raise IsolationError(f"process {pid} vanished while its isolation was checked: {error}") from error
    _check_powerless(pid, status, uid)
    _check_powerless(init, init_status, init_uid)
    shared = namespaces & foreign
    if shared or len(namespaces) != len(_NAMESPACES):
        raise IsolationError(f"process {pid} shares the namespaces {sorted(shared)}")
    for process, facts, number in ((init, init_status, 1), (pid, status, 2)):
        if not facts.get("NSpid", "").endswith(f"\t{number}"):
            raise IsolationError(
                f"process {process} is not number {number} of its pid namespace: {facts.get('NSpid')!r}"
            )
    if groups.count(f"/{group}\n") != hierarchies:
        raise IsolationError(f"process {pid} is not in the cgroup {group} of all {hierarchies} hierarchies")
    return namespaces


def verify_member(pid: int, *, uid: int, group: str, hierarchies: int) -> None:
    """Check another process of a sandbox, which it started itself before any user code ran.

    Raises:
        IsolationError: it is not of this sandbox, or not confined.
    """
    try:
        status = _read_status(pid)
        with open(f"/proc/{pid}/cgroup") as file:
            groups = file.read()
    except OSError as error:
        raise IsolationError(f"process {pid} vanished while its isolation was checked: {error}") from error
    _check_powerless(pid, status, uid)
    if groups.count(f"/{group}\n") != hierarchies:
        raise IsolationError(f"process {pid} is not in the cgroup {group} of all {hierarchies} hierarchies")


def _check_powerless(pid: int, status: Mapping[str, str], uid: int) -> None:
    ids = f"{uid}\t{uid}\t{uid}\t{uid}"
    expected = {
        "Uid": ids,
        "Gid": ids,
        "Groups": "",
        "CapInh": _NO_CAPABILITIES,
        "CapPrm": _NO_CAPABILITIES,
        "CapEff": _NO_CAPABILITIES,
        "CapBnd": _NO_CAPABILITIES,
        "CapAmb": _NO_CAPABILITIES,
        "NoNewPrivs": "1",
        "Seccomp": "2",
        "Threads": "1",
    }
    for key, value in expected.items():
        if status.get(key) != value:
            raise IsolationError(f"process {pid}: {key} is {status.get(key)!r}, expected {value!r}")


def _read_status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status") as file:
        fields = (line.partition(":") for line in file)
        return {key: value.strip(" \n").removeprefix("\t").strip() for key, _, value in fields}
