"""Language runtimes of this host: an interpreter, and a folder with AWS's client for it.

Runtimes that bring their own program, ``provided.al2`` and ``provided.al2023``, need neither: they are always there.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from insula.sandbox.driver import RuntimeMissingError
from insula.sandbox.interpreters import NODE_CLIENTS

PROVIDED = ("provided.al2", "provided.al2023")
DESCRIPTION = "runtime.json"
BOOTSTRAP = "bootstrap"


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime that can be started here.

    Attributes:
        name: as in the API, ``python3.11``.
        interpreter: the interpreter's path, inside ``prefix``; None if the function brings its own program.
        prefix: the installation that it belongs to.
        folder: where its runtime client lies.
        modules: what a Python runtime client loads by itself. A function's own modules come before all others.
    """

    name: str
    interpreter: Path | None = None
    prefix: Path | None = None
    folder: Path | None = None
    modules: tuple[str, ...] = ()

    @property
    def is_python(self) -> bool:
        """Whether environments of it can be forked from an interpreter that is ready."""
        return self.name.startswith("python")

    def entrypoints(self, environment: Mapping[str, str]) -> tuple[str, ...]:
        """Programs in the sandbox, of which the first that is there becomes the runtime; none: it is forked.

        A wrapper script cannot be given to a function that brings its own program.
        Sources: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html,
        https://docs.aws.amazon.com/lambda/latest/dg/runtimes-modify.html#runtime-wrapper
        """
        if self.folder is None:
            return ("/var/task/bootstrap", "/opt/bootstrap")
        if self.is_python and not environment.get("AWS_LAMBDA_EXEC_WRAPPER"):
            return ()
        return (f"/var/runtime/{BOOTSTRAP}",)


def default_folder() -> Path:
    """Where runtimes are installed: beside this installation of Insula."""
    return Path(sys.prefix, "share", "insula", "runtimes")


def default_runtime() -> str:
    """The runtime that examples use: Python 3.11 if it is here, else the one that Insula itself runs on."""
    installed = load_runtimes(default_folder())
    return "python3.11" if "python3.11" in installed else f"python{sys.version_info.major}.{sys.version_info.minor}"


def load_runtimes(folder: Path) -> dict[str, Runtime]:
    """The runtimes of this host by name: those installed whose interpreter is still there, and those that need none."""
    found: dict[str, Runtime] = {}
    for description in sorted(folder.glob(f"*/{DESCRIPTION}")):
        data = json.loads(description.read_text())
        home = description.parent
        interpreter = Path(data["interpreter"])
        # An older release's installation has no bootstrap, and has to be made anew.
        if os.access(interpreter, os.X_OK) and os.access(home / BOOTSTRAP, os.X_OK):
            found[home.name] = Runtime(home.name, interpreter, Path(data["prefix"]), home, tuple(data["modules"]))
    return found | {name: Runtime(name) for name in PROVIDED}


def missing(runtime: str) -> RuntimeMissingError:
    """The refusal of a runtime that this host lacks."""
    if match := re.fullmatch(r"python(3\.\d+)", runtime):
        how = f"Debian: apt-get install {runtime}; or pyenv install {match[1]}"
    elif (match := re.fullmatch(r"nodejs(\d+)\.x", runtime)) and match[1] in NODE_CLIENTS:
        how = f"Node.js {match[1]} and npm, on PATH or by nvm: nvm install {match[1]}"
    else:
        return RuntimeMissingError(
            f"Insula does not run {runtime} yet. Use a runtime that `insula doctor` lists, "
            "or a program of its own with provided.al2023."
        )
    return RuntimeMissingError(
        f"This host has no {runtime}. Install it ({how}), then run `insula runtimes install {runtime}` and restart "
        "insula serve."
    )
