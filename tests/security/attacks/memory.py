# An attack makes the calls that it is about.
# ruff: noqa: PTH118, PTH123
"""Looking for a secret in memory, files and variables."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 1 << 20
_LARGEST = 1 << 28


def own_memory(head: str) -> list[str]:
    """Tails of the secret in everything that this process has mapped, freed memory and other threads' included."""
    found: set[str] = set()
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        for start, end in _mappings():
            for chunk in _read(memory.fileno(), start, end):
                found |= _tails(chunk, head)
    return sorted(found)


def _mappings() -> Iterator[tuple[int, int]]:
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, access = line.split()[:2]
        start, end = (int(part, 16) for part in span.split("-"))
        if access.startswith("r") and end - start < _LARGEST:
            yield start, end


def _read(descriptor: int, start: int, end: int) -> Iterator[bytes]:
    for offset in range(start, end, _CHUNK):
        try:
            yield os.pread(descriptor, min(_CHUNK + 64, end - offset), offset)
        except OSError:
            return


def _tails(data: bytes, head: str) -> set[str]:
    return {match.decode() for match in re.findall(head.encode() + rb"([0-9a-f]{16})", data)}


def files(head: str, root: str) -> list[str]:
    """Tails in all files below a folder."""
    found: set[str] = set()
    for folder, _, names in os.walk(root):
        for name in names:
            found |= _in_file(os.path.join(folder, name), head)
    return sorted(found)


def _in_file(path: str, head: str) -> set[str]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return set()
    try:
        return _tails(os.read(descriptor, _CHUNK), head)
    except OSError:
        return set()
    finally:
        os.close(descriptor)


def variables(head: str) -> list[str]:
    """Tails in os.environ and in the initial environment of every process that can be seen."""
    found = _tails("\n".join(os.environ.values()).encode(), head)
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("environ", "cmdline"):
            found |= _in_file(str(process / name), head)
    return sorted(found)


def unused_pages(head: str) -> list[str]:
    """Tails in memory that the kernel hands out fresh."""
    import mmap

    size = 64 << 20
    with mmap.mmap(-1, size) as fresh:
        return sorted(_tails(fresh[:], head))
