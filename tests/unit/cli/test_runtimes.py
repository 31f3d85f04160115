"""Which interpreters count, and what is said of those that do not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from insula.sandbox.runtimes import find_interpreters, load_runtimes, missing


def add_python(folder: Path, version: str, script: str | None = None, *, mode: int = 0o755) -> Path:
    """A fake interpreter under ``folder/bin`` that says that it is this version."""
    path = folder / "bin" / f"python{version}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script or f'echo {version}; echo {folder}'}\n")
    path.chmod(mode)
    return path


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with one interpreter, 3.11, that Insula runs on."""
    own = add_python(tmp_path / "own", "3.11")
    monkeypatch.setattr(sys, "executable", str(own))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv("PATH", str(tmp_path / "path/bin"))
    return tmp_path


def test_interpreters_come_from_the_path_and_from_pyenv_in_order_of_version(host: Path) -> None:
    add_python(host / "path", "3.100")
    add_python(host / "pyenv/versions/3.12.1", "3.12")
    assert list(find_interpreters()) == ["3.11", "3.12", "3.100"]


@pytest.mark.parametrize(
    "script",
    [
        "exit 127",
        "kill -9 $$",
        "echo pyenv: command not found >&2; exit 1",
        "echo 3.12",
        ":",
        "echo",
        "echo x.y; echo /",
    ],
)
def test_a_broken_candidate_is_ignored(host: Path, script: str) -> None:
    add_python(host / "path", "3.12", script)
    assert list(find_interpreters()) == ["3.11"]


def test_what_cannot_be_run_is_ignored(host: Path) -> None:
    add_python(host / "path", "3.12", mode=0o644)
    (host / "path/bin/python3.13").symlink_to("nowhere")
    add_python(host / "path", "3.12-config")
    assert list(find_interpreters()) == ["3.11"]


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.9"])
def test_what_the_runtime_client_does_not_support_is_ignored(host: Path, version: str) -> None:
    add_python(host / "path", "3.99", f"echo {version}; echo {host / 'path'}")
    assert list(find_interpreters()) == ["3.11"]


def test_the_path_comes_before_pyenv(host: Path) -> None:
    wanted = add_python(host / "path", "3.12")
    add_python(host / "pyenv/versions/3.12.1", "3.12")
    assert find_interpreters()["3.12"].path == wanted


def test_a_runtime_that_can_be_installed_is_refused_with_the_way_to_it() -> None:
    assert str(missing("python3.12")) == (
        "This host has no python3.12. Install it (Debian: apt-get install python3.12; or pyenv install 3.12), "
        "then run `insula runtimes install python3.12` and restart insula serve."
    )


@pytest.mark.parametrize("runtime", ["nodejs22.x", "python2.7", "java21", "provided.al2023", "python3.12; rm -rf /"])
def test_any_other_runtime_is_refused_without_false_hope(runtime: str) -> None:
    assert str(missing(runtime)) == (
        f"Insula does not run {runtime} yet. Use a python3.x runtime that `insula doctor` lists."
    )


def describe(folder: Path, name: str, **description: Any) -> None:
    (folder / name).mkdir()
    (folder / name / "runtime.json").write_text(json.dumps({"prefix": "/usr", **description}))


def test_a_runtime_whose_interpreter_was_removed_is_not_offered(tmp_path: Path) -> None:
    describe(tmp_path, "python3.11", interpreter=sys.executable, modules=["sys"])
    describe(tmp_path, "python3.12", interpreter="/gone/python3.12", modules=["sys"])
    assert list(load_runtimes(tmp_path)) == ["python3.11"]


def test_a_runtime_that_an_older_release_installed_is_not_offered(tmp_path: Path) -> None:
    describe(tmp_path, "python3.11", interpreter=sys.executable)
    assert not load_runtimes(tmp_path)
