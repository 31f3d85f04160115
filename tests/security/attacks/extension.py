"""An external extension that is not content with its part; what it got is written to /tmp/extension."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from .attempt import attempt


def main() -> None:
    """Try what an extension could do before the runtime starts."""
    Path("/tmp/extension").write_text(json.dumps(found()))
    signal.pause()


def found() -> dict[str, Any]:
    """What it sees of the process that waits to become the runtime, which holds a socket to the server."""
    waiting = [int(path.name) for path in Path("/proc").glob("[0-9]*") if path.name not in ("1", str(os.getpid()))]
    return {
        "processes": len(waiting),
        "mounted": [str(path) for path in Path("/run").glob("*/**/*") if path.is_file()],
        "sockets": [attempt(os.open, f"/proc/{pid}/fd/{n}", os.O_RDWR) for pid in waiting for n in _sockets(pid)],
        "init": attempt(os.kill, 1, signal.SIGKILL),
        "init memory": attempt(os.open, "/proc/1/mem", os.O_RDWR),
        "parent": os.getppid(),
    }


def _sockets(pid: int) -> list[str]:
    folder = Path(f"/proc/{pid}/fd")
    return [path.name for path in folder.glob("*") if str(attempt(os.readlink, str(path))).startswith("socket:")]
