"""Language runtimes of this host: a Python interpreter, and a folder with its runtime client.

``insula runtimes install`` finds the interpreters and fills one folder per runtime from PyPI: awslambdaric, AWS's own
runtime client, and boto3, which AWS's managed runtimes bring along.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from insula.sandbox.driver import RuntimeMissingError

# What a function gets without bundling it, as on AWS.
PACKAGES = ("awslambdaric", "boto3")
# The oldest that PACKAGES still support together.
OLDEST = (3, 10)
_DESCRIPTION = "runtime.json"
_LOAD = """
import sys
sys.path.insert(0, sys.argv[1])
import awslambdaric.__main__, awslambdaric.bootstrap
modules = list(sys.modules)
import boto3.session, json
print(json.dumps(modules))
"""
_PROBE = "import sys; print('%d.%d' % sys.version_info[:2], sys.base_prefix, sep='\\n')"


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime that can be started here.

    Attributes:
        name: as in the API, ``python3.11``.
        interpreter: the interpreter's path, inside ``prefix``.
        prefix: the Python installation that it belongs to.
        folder: where its runtime client lies.
        modules: what the runtime client loads by itself. A function's own modules come before all others.
    """

    name: str
    interpreter: Path
    prefix: Path
    folder: Path
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python found on this host."""

    version: str
    path: Path
    prefix: Path

    @property
    def runtime(self) -> str:
        """Name of the runtime that it can serve."""
        return f"python{self.version}"


def default_folder() -> Path:
    """Where runtimes are installed: beside this installation of Insula."""
    return Path(sys.prefix, "share", "insula", "runtimes")


def default_runtime() -> str:
    """The runtime that examples use: Python 3.11 if it is here, else the one that Insula itself runs on."""
    installed = load_runtimes(default_folder())
    return "python3.11" if "python3.11" in installed else f"python{sys.version_info.major}.{sys.version_info.minor}"


def load_runtimes(folder: Path) -> dict[str, Runtime]:
    """The installed runtimes whose interpreter is still there, by name."""
    found: dict[str, Runtime] = {}
    for description in sorted(folder.glob(f"*/{_DESCRIPTION}")):
        data = json.loads(description.read_text())
        interpreter = Path(data["interpreter"])
        if os.access(interpreter, os.X_OK) and "modules" in data:  # an older installation has to be made anew
            name = description.parent.name
            prefix, modules = Path(data["prefix"]), tuple(data["modules"])
            found[name] = Runtime(name, interpreter, prefix, description.parent, modules)
    return found


def missing(runtime: str) -> RuntimeMissingError:
    """The refusal of a runtime that this host lacks."""
    if not re.fullmatch(r"python3\.\d+", runtime):
        return RuntimeMissingError(
            f"Insula does not run {runtime} yet. Use a python3.x runtime that `insula doctor` lists."
        )
    return RuntimeMissingError(
        f"This host has no {runtime}. Install it (Debian: apt-get install {runtime}; or pyenv install "
        f"{runtime.removeprefix('python')}), then run `insula runtimes install {runtime}` and restart insula serve."
    )


def find_interpreters() -> dict[str, Interpreter]:
    """Every Python that can serve a runtime, one per version: PATH first, then pyenv's versions."""
    found: dict[str, Interpreter] = {}
    for candidate in _candidates():
        interpreter = _probe(candidate)
        if interpreter and interpreter.version not in found:
            found[interpreter.version] = interpreter
    return dict(sorted(found.items(), key=lambda item: int(item[0].partition(".")[2])))


def _candidates() -> Iterator[Path]:
    yield Path(sys.executable)
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        for path in sorted(Path(folder or ".").glob("python3.*")):
            if re.fullmatch(r"python3\.\d+", path.name) and os.access(path, os.X_OK):
                yield path
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(root.glob("versions/3.*/bin/python3.*[0-9]"))


def _probe(candidate: Path) -> Interpreter | None:
    try:
        answer = subprocess.run(
            [str(candidate), "-I", "-S", "-c", _PROBE], capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None  # a pyenv shim of a version that is not active, or no Python at all
    match = re.fullmatch(r"(3\.\d+)\n(/.*)\n", answer)
    if match is None:
        return None
    version, prefix = match[1], Path(match[2]).resolve()
    path = prefix / "bin" / f"python{version}"
    if tuple(int(part) for part in version.split(".")) < OLDEST or not path.is_file():
        return None
    return Interpreter(version, path.resolve(), prefix)


def install(interpreter: Interpreter, folder: Path) -> Runtime:
    """Fill the runtime's folder with its packages, by pip.

    Raises:
        RuntimeMissingError: pip could not get them; the message is pip's last line.
    """
    target = folder / interpreter.runtime
    partial = folder / f".{interpreter.runtime}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--target", str(partial), "--only-binary=:all:", "--python-version", interpreter.version]
    result = subprocess.run([*command, *PACKAGES], capture_output=True, text=True, check=False)
    if result.returncode:
        shutil.rmtree(partial)
        reason = result.stderr.strip().splitlines()[-1:] or ["pip said nothing"]
        raise RuntimeMissingError(f"{interpreter.runtime} could not be installed: {reason[0]}")
    modules = _load(interpreter, partial)
    _compile(interpreter, partial)
    description = {"interpreter": str(interpreter.path), "prefix": str(interpreter.prefix), "modules": modules}
    (partial / _DESCRIPTION).write_text(json.dumps(description) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return Runtime(interpreter.runtime, interpreter.path, interpreter.prefix, target, tuple(modules))


def _load(interpreter: Interpreter, folder: Path) -> list[str]:
    """Load the packages, and return the modules that the runtime client loads by itself.

    Raises:
        RuntimeMissingError: they do not work with the interpreter, whatever their metadata says.
    """
    command = [str(interpreter.path), "-I", "-c", _LOAD, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if result.returncode:
        shutil.rmtree(folder)
        reason = result.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise RuntimeMissingError(f"{interpreter.runtime} cannot load its runtime client: {reason[0]}")
    modules: list[str] = json.loads(result.stdout)
    return modules


def _compile(interpreter: Interpreter, folder: Path) -> None:
    """Write bytecode: the folder is read-only where it is used. One file that cannot be compiled is no error."""
    command = [str(interpreter.path), "-I", "-m", "compileall", "-qq", str(folder)]
    subprocess.run(command, capture_output=True, check=False)
