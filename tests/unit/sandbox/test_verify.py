"""The last look at a sandbox refuses each single wrong fact."""

from __future__ import annotations

import io
import os
from typing import Any

import pytest

from insula.sandbox.driver import IsolationError
from insula.sandbox.namespaces import verify as module
from insula.sandbox.namespaces.verify import verify, verify_member

_GROUP = "a" * 32
_NONE = "0000000000000000"
_STATUS = {
    "Uid": "7\t7\t7\t7",
    "Gid": "7\t7\t7\t7",
    "Groups": " ",
    "NSpid": "500\t30\t2",
    "PPid": "400",
    "CapInh": _NONE,
    "CapPrm": _NONE,
    "CapEff": _NONE,
    "CapBnd": _NONE,
    "CapAmb": _NONE,
    "NoNewPrivs": "1",
    "Seccomp": "2",
    "Threads": "1",
}
_CGROUP = (
    f"4:memory:/insula-x/{_GROUP}\n3:cpu,cpuacct:/insula-x/{_GROUP}\n2:pids:/insula-x/{_GROUP}\n1:name=systemd:/\n"
)
_KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_NAMESPACES = {kind: f"{kind}:[9]" for kind in _KINDS}
_FOREIGN = frozenset(f"{kind}:[1]" for kind in _KINDS)


class Process:
    """What /proc says of process 500."""

    def __init__(self) -> None:
        self.status = dict(_STATUS)
        self.init = dict(_STATUS, Uid="9\t9\t9\t9", Gid="9\t9\t9\t9", NSpid="400\t29\t1", PPid="300")
        self.cgroup = _CGROUP
        self.namespaces = dict(_NAMESPACES)

    def open(self, path: str, *arguments: Any) -> io.StringIO:
        if path == "/proc/500/cgroup":
            return io.StringIO(self.cgroup)
        for pid, status in ((500, self.status), (400, self.init)):
            if path == f"/proc/{pid}/status":
                return io.StringIO("".join(f"{key}:\t{value}\n" for key, value in status.items()))
        raise FileNotFoundError(path)

    def check(self, **changes: Any) -> Any:
        facts = {"uid": 7, "init_uid": 9, "group": _GROUP, "hierarchies": 3, "foreign": _FOREIGN, **changes}
        return verify(500, **facts)


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    """A process that is as it must be."""
    made = Process()
    monkeypatch.setattr(module, "open", made.open, raising=False)
    monkeypatch.setattr(module, "read_namespaces", lambda pid: frozenset(made.namespaces.values()))
    return made


def test_a_confined_process_passes(process: Process) -> None:
    assert process.check() == frozenset(_NAMESPACES.values())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Uid", "0\t7\t7\t7"),
        ("Uid", "7\t7\t0\t7"),
        ("Uid", "8\t8\t8\t8"),
        ("Gid", "7\t7\t7\t0"),
        ("Groups", "27 "),
        ("CapInh", "0000000000000001"),
        ("CapPrm", "0000000000200000"),
        ("CapEff", "000001ffffffffff"),
        ("CapBnd", "0000000000000400"),
        ("CapAmb", "0000000000000001"),
        ("NoNewPrivs", "0"),
        ("Seccomp", "0"),
        ("Seccomp", "1"),
        ("Threads", "2"),
        ("NSpid", "500"),
        ("NSpid", "500\t30\t1"),
        ("NSpid", "500\t30\t3"),
        ("PPid", "1"),
        ("NSpid", "500\t30\t12"),
        ("NSpid", ""),
    ],
)
def test_each_wrong_fact_is_refused(process: Process, key: str, value: str) -> None:
    process.status[key] = value
    with pytest.raises(IsolationError):
        process.check()


@pytest.mark.parametrize("key", sorted(_STATUS))
def test_each_missing_fact_is_refused(process: Process, key: str) -> None:
    del process.status[key]
    with pytest.raises(IsolationError, match="500"):
        process.check()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Uid", "0\t0\t0\t0"),
        ("Uid", "7\t7\t7\t7"),
        ("CapEff", "000001ffffffffff"),
        ("Seccomp", "0"),
        ("NSpid", "400\t29\t2"),
    ],
)
def test_an_init_with_power_is_refused(process: Process, key: str, value: str) -> None:
    process.init[key] = value
    with pytest.raises(IsolationError, match="400"):
        process.check()


@pytest.mark.parametrize("kind", _KINDS)
def test_a_namespace_of_the_host_or_the_spawner_is_refused(process: Process, kind: str) -> None:
    process.namespaces[kind] = f"{kind}:[1]"
    with pytest.raises(IsolationError, match=kind):
        process.check()


@pytest.mark.parametrize("kind", _KINDS)
def test_a_namespace_that_is_not_told_is_refused(process: Process, kind: str) -> None:
    del process.namespaces[kind]
    with pytest.raises(IsolationError, match="namespaces"):
        process.check()


@pytest.mark.parametrize(
    "cgroup",
    [
        "",
        _CGROUP.replace(f"pids:/insula-x/{_GROUP}", "pids:/insula-x"),
        _CGROUP.replace(_GROUP, "b" * 32),
        _CGROUP.replace(_GROUP, f"{_GROUP}/below"),
        _CGROUP.replace(f"/{_GROUP}", f"/x{_GROUP}"),
    ],
)
def test_another_cgroup_is_refused(process: Process, cgroup: str) -> None:
    process.cgroup = cgroup
    with pytest.raises(IsolationError, match="cgroup"):
        process.check()


def test_a_member_of_a_sandbox_passes_and_each_wrong_fact_is_refused(process: Process) -> None:
    facts: dict[str, Any] = {"uid": 7, "group": _GROUP, "hierarchies": 3}
    verify_member(500, **facts)
    for wrong in ({"uid": 8}, {"group": "b" * 32}, {"hierarchies": 4}):
        with pytest.raises(IsolationError):
            verify_member(500, **{**facts, **wrong})
    with pytest.raises(IsolationError, match="vanished"):
        verify_member(501, **facts)
    process.status["Seccomp"] = "0"
    with pytest.raises(IsolationError, match="Seccomp"):
        verify_member(500, **facts)


def test_a_process_that_is_gone_is_refused() -> None:
    with pytest.raises(IsolationError, match="vanished"):
        verify(2**22 + 1, uid=7, init_uid=9, group=_GROUP, hierarchies=1, foreign=frozenset())


def test_this_process_is_refused() -> None:
    """Read from the real /proc."""
    with pytest.raises(IsolationError):
        verify(os.getpid(), uid=7, init_uid=9, group=_GROUP, hierarchies=1, foreign=frozenset())
