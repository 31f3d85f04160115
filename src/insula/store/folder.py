"""The data folder, which one server owns at a time."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from insula.store.schema import CatalogError

_LOCK = "lock"


def claim_folder(folder: Path) -> int:
    """Make the data folder if it is missing, and lock it for this process.

    Returns:
        The descriptor that holds the lock (flock(2)); closing it, or dying, gives the folder free.

    Raises:
        CatalogError: not a folder, other users may write to it, or another server has it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(folder.stat().st_mode)
        if mode & 0o022:
            raise CatalogError(
                f"Data folder {folder} can be written by other users (mode {mode:04o}). "
                f"Run 'chmod 700 {folder}', or name another folder."
            )
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CatalogError(f"Data folder {folder} cannot be used: {error.strerror}.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.read(lock, 20).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise CatalogError(
            f"Data folder {folder} is in use by another Insula server (pid {owner}). "
            "Stop that server, or name another folder."
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)
    return lock
