"""What the process still has of the spawner that it was forked from."""

from __future__ import annotations

import gc
import os
import re
import sys
import types
from pathlib import Path
from typing import Any

from .attempt import attempt

_ID = re.compile(r"[0-9a-f]{32}")


def modules() -> list[str]:
    """Loaded modules that are neither the runtime's nor the libraries'."""
    return sorted(name for name in sys.modules if re.search(r"guest|insula|spawner", name))


def frames() -> list[str]:
    """Names of the functions that this one runs under."""
    found, frame = [], sys._getframe()
    while frame is not None:
        found.append(f"{frame.f_globals.get('__name__')}.{frame.f_code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    return found


def objects() -> list[str]:
    """Types of live objects whose classes are the spawner's."""
    gc.unfreeze()
    return sorted(
        {
            f"{type(thing).__module__}.{type(thing).__qualname__}"
            for thing in gc.get_objects()
            if not isinstance(thing, (type, types.FunctionType)) and re.search("guest|spawner", type(thing).__module__)
        }
    )


def ids() -> list[str]:
    """Ids of other environments: 32 hexadecimal digits in any dictionary or list that can be reached."""
    gc.unfreeze()
    found: set[str] = set()
    everything = gc.get_objects()
    # A dictionary of plain values is not listed itself, only found through who refers to it.
    for thing in [*everything, *gc.get_referents(*everything)]:
        values: Any = [*thing.keys(), *thing.values()] if type(thing) is dict else thing
        if type(thing) in (dict, list, tuple, set):
            found |= {value for value in values if type(value) is str and _ID.fullmatch(value)}
    return sorted(found)


def environment_of(pid: int) -> Any:
    """The initial environment of a process."""
    return attempt(_environment_of, pid)


def _environment_of(pid: int) -> dict[str, str]:
    pairs = (entry.partition("=") for entry in Path(f"/proc/{pid}/environ").read_text().split("\0") if entry)
    return {name: value for name, _, value in pairs}


def command_line(pid: int) -> str:
    """Its arguments."""
    return Path(f"/proc/{pid}/cmdline").read_text()


def own_variables() -> dict[str, str]:
    """What the function is given."""
    return dict(os.environ)
