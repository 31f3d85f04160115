"""What the namespaces driver needs of a host, and how it refuses to run on less (S2)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest

from insula.sandbox.driver import RuntimeMissingError, SandboxError
from insula.sandbox.namespaces import hierarchies
from insula.sandbox.namespaces.driver import NamespacesDriver

Mount = tuple[Path, int, frozenset[str]]

_V1 = [
    (Path("/cg/freezer"), 1, frozenset({"rw", "freezer"})),
    (Path("/cg/cpu"), 1, frozenset({"rw", "cpu", "cpuacct"})),
    (Path("/cg/memory"), 1, frozenset({"rw", "memory"})),
    (Path("/cg/pids"), 1, frozenset({"rw", "pids"})),
]
_V2 = (Path("/cg"), 2, frozenset({"cpu", "freezer", "io", "memory", "pids"}))
_EMPTY_V2 = (Path("/cg/unified"), 2, frozenset({"freezer"}))


def _host(monkeypatch: pytest.MonkeyPatch, mounts: Iterable[Mount]) -> None:
    monkeypatch.setattr(hierarchies, "_cgroup_mounts", lambda: iter(mounts))


def _driver(tmp_path: Path) -> NamespacesDriver:
    return NamespacesDriver({}, state=tmp_path / "state", code=tmp_path / "code", layers=tmp_path / "layers")


def test_without_root_it_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(SandboxError, match=r"needs root.*sudo.*--isolation none"):
        asyncio.run(_driver(tmp_path).start())
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("controller", ["freezer", "cpu", "memory", "pids"])
def test_without_a_controller_it_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, controller: str
) -> None:
    mounts = [mount for mount in _V1 if controller not in mount[2]]
    _host(monkeypatch, mounts)
    with pytest.raises(SandboxError, match=rf"No cgroup hierarchy here offers {controller}\. Mount cgroup v2"):
        asyncio.run(_driver(tmp_path).start())


def test_a_cgroup_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "not-a-folder"
    file.write_text("")
    with pytest.raises(SandboxError, match=r"Cannot make the cgroup .*not-a-folder/insula-x: .*as root"):
        hierarchies.make_folder(hierarchies.Hierarchy(file, 1, ("cpu",)), "insula-x")


def test_a_kernel_that_cannot_freeze_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match=r"cannot freeze processes\. Linux 5\.2 or newer is needed"):
        hierarchies.make_folder(hierarchies.Hierarchy(tmp_path, 2, ("freezer",)), "insula-x")


def test_each_controller_is_taken_from_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> list[tuple[str, int, tuple[str, ...]]]:
        return [(str(h.mount), h.version, h.controllers) for h in hierarchies.find_hierarchies()]

    def v1(*controllers: str) -> list[tuple[str, int, tuple[str, ...]]]:
        return [(f"/cg/{controller}", 1, (controller,)) for controller in controllers]

    _host(monkeypatch, [*_V1])
    assert found() == v1("freezer", "memory", "cpu", "pids")
    _host(monkeypatch, [_V2])
    assert found() == [("/cg", 2, ("freezer", "memory", "cpu", "pids"))]
    mixed = (Path("/cg/unified"), 2, frozenset({"cpu", "freezer", "pids"}))
    _host(monkeypatch, [_V1[2], mixed])
    assert found() == [("/cg/unified", 2, ("freezer", "cpu", "pids")), *v1("memory")]


def test_the_freezer_of_cgroup_v2_is_taken_even_beside_controllers_of_v1(monkeypatch: pytest.MonkeyPatch) -> None:
    _host(monkeypatch, [*_V1, _EMPTY_V2])
    first, *others = hierarchies.find_hierarchies()
    assert first == hierarchies.Hierarchy(Path("/cg/unified"), 2, ("freezer",))
    assert {h.version for h in others} == {1}


def test_a_runtime_that_is_not_there_is_refused_with_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(
        RuntimeMissingError, match=r"no python3\.10.*apt-get install.*insula runtimes install python3\.10"
    ):
        _driver(tmp_path).check_runtime("python3.10")
    with pytest.raises(RuntimeMissingError, match=r"no nodejs20\.x.*insula runtimes install nodejs20\.x"):
        _driver(tmp_path).check_runtime("nodejs20.x")
