"""Which interpreters count, what is said of those that do not, and what each runtime starts with."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from insula.sandbox import installation
from insula.sandbox.driver import RuntimeMissingError
from insula.sandbox.interpreters import Interpreter, find_interpreters, own_python
from insula.sandbox.runtimes import PROVIDED, Runtime, load_runtimes, missing


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
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "own"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv("PATH", str(tmp_path / "path/bin"))
    monkeypatch.setenv("NVM_DIR", str(tmp_path / "nvm"))
    monkeypatch.setenv("N_PREFIX", str(tmp_path / "n"))
    return tmp_path


def add_node(folder: Path, version: str, *, name: str = "node") -> Path:
    """A fake Node.js under ``folder/bin`` that says that it is this version."""
    path = folder / "bin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}; echo {path}\n")
    path.chmod(0o755)
    return path


def test_interpreters_come_from_the_path_and_from_pyenv_in_order_of_version(host: Path) -> None:
    add_python(host / "path", "3.100")
    add_python(host / "pyenv/versions/3.12.1", "3.12")
    assert list(find_interpreters()) == ["python3.11", "python3.12", "python3.100"]


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
    assert list(find_interpreters()) == ["python3.11"]


def test_what_cannot_be_run_is_ignored(host: Path) -> None:
    add_python(host / "path", "3.12", mode=0o644)
    (host / "path/bin/python3.13").symlink_to("nowhere")
    add_python(host / "path", "3.12-config")
    assert list(find_interpreters()) == ["python3.11"]


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.9"])
def test_what_the_runtime_client_does_not_support_is_ignored(host: Path, version: str) -> None:
    add_python(host / "path", "3.99", f"echo {version}; echo {host / 'path'}")
    assert list(find_interpreters()) == ["python3.11"]


def test_the_path_comes_before_pyenv(host: Path) -> None:
    wanted = add_python(host / "path", "3.12")
    add_python(host / "pyenv/versions/3.12.1", "3.12")
    assert find_interpreters()["python3.12"].path == wanted


def test_node_comes_from_the_path_from_nvm_and_from_n(host: Path) -> None:
    wanted = add_node(host / "path", "20.1.0")
    add_node(host / "nvm/versions/node/v20.9.0", "20.9.0")
    other = add_node(host / "nvm/versions/node/v22.3.0", "22.3.0")
    add_node(host / "n/n/versions/node/24.0.0", "24.0.0")
    found = find_interpreters()
    assert list(found) == ["nodejs20.x", "nodejs22.x", "nodejs24.x", "python3.11"]
    assert (found["nodejs20.x"].path, found["nodejs22.x"].prefix) == (wanted, other.parents[1])


@pytest.mark.parametrize("version", ["0.10.36", "18.20.4", "21.0.0", "99.0.0", "v20", ""])
def test_a_node_without_a_runtime_client_is_ignored(host: Path, version: str) -> None:
    add_node(host / "path", version)
    assert list(find_interpreters()) == ["python3.11"]


def test_the_python_that_insula_runs_on_is_found_outside_of_its_virtual_environment() -> None:
    own = own_python()
    assert own.path.is_file()
    assert own.path.is_relative_to(own.prefix)
    assert str(own.prefix) == str(Path(sys.base_prefix).resolve())


def test_an_interpreter_of_the_system_keeps_its_place_and_others_are_at_var_lang() -> None:
    assert installation.inner_path(Interpreter("nodejs20.x", Path("/usr/bin/node"), Path("/usr"))) == "/usr/bin/node"
    installed = Interpreter("nodejs22.x", Path("/home/a/v22/bin/node"), Path("/home/a/v22"))
    assert installation.inner_path(installed) == "/var/lang/bin/node"


def test_without_npm_node_is_not_installed_and_the_package_is_named(host: Path, tmp_path: Path) -> None:
    node = Interpreter("nodejs20.x", host / "n/bin/node", host / "n")
    with pytest.raises(RuntimeMissingError, match=r"npm is missing \(apt-get install npm\)"):
        installation.install(node, tmp_path / "runtimes")
    assert not list((tmp_path / "runtimes").iterdir())


def test_what_a_runtime_starts_with() -> None:
    python = Runtime("python3.11", Path("/p"), Path("/usr"), Path("/r"))
    assert python.entrypoints({}) == ()
    assert python.entrypoints({"AWS_LAMBDA_EXEC_WRAPPER": ""}) == ()
    assert python.entrypoints({"AWS_LAMBDA_EXEC_WRAPPER": "/opt/w"}) == ("/var/runtime/bootstrap",)
    assert Runtime("nodejs20.x", Path("/n"), Path("/usr"), Path("/r")).entrypoints({}) == ("/var/runtime/bootstrap",)
    own = Runtime("provided.al2")
    assert own.entrypoints({"AWS_LAMBDA_EXEC_WRAPPER": "/opt/w"}) == ("/var/task/bootstrap", "/opt/bootstrap")


def test_a_runtime_that_can_be_installed_is_refused_with_the_way_to_it() -> None:
    assert str(missing("python3.12")) == (
        "This host has no python3.12. Install it (Debian: apt-get install python3.12; or pyenv install 3.12), "
        "then run `insula runtimes install python3.12` and restart insula serve."
    )

    assert str(missing("nodejs22.x")) == (
        "This host has no nodejs22.x. Install it (Node.js 22 and npm, on PATH or by nvm: nvm install 22), "
        "then run `insula runtimes install nodejs22.x` and restart insula serve."
    )


@pytest.mark.parametrize("runtime", ["nodejs18.x", "python2.7", "java21", "provided", "python3.12; rm -rf /"])
def test_any_other_runtime_is_refused_without_false_hope(runtime: str) -> None:
    assert str(missing(runtime)) == (
        f"Insula does not run {runtime} yet. Use a runtime that `insula doctor` lists, "
        "or a program of its own with provided.al2023."
    )


def describe(folder: Path, name: str, *, bootstrap: bool = True, **description: Any) -> None:
    (folder / name).mkdir()
    (folder / name / "runtime.json").write_text(json.dumps({"prefix": "/usr", "modules": ["sys"], **description}))
    if bootstrap:
        (folder / name / "bootstrap").touch(0o755)


def test_a_runtime_whose_interpreter_was_removed_is_not_offered(tmp_path: Path) -> None:
    describe(tmp_path, "python3.11", interpreter=sys.executable)
    describe(tmp_path, "python3.12", interpreter="/gone/python3.12")
    assert list(load_runtimes(tmp_path)) == ["python3.11", *PROVIDED]


def test_a_runtime_that_an_older_release_installed_is_not_offered(tmp_path: Path) -> None:
    describe(tmp_path, "python3.11", interpreter=sys.executable, bootstrap=False)
    assert list(load_runtimes(tmp_path)) == [*PROVIDED]
