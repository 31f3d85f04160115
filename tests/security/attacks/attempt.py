"""Trying things, and saying what came of them."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)


def attempt(call: Callable[..., Any], *arguments: Any) -> Any:
    """What the call returns, or the name of its errno."""
    try:
        return call(*arguments)
    except OSError as error:
        return errno_name(error.errno)


def errno_name(number: int | None) -> str:
    """``EPERM`` and so on."""
    return errno.errorcode.get(number or 0, str(number))


def syscall(number: int, *arguments: Any) -> Any:
    """A system call by its number: what it returned, or the name of its errno."""
    ctypes.set_errno(0)
    result = _libc.syscall(ctypes.c_long(number), *[_argument(value) for value in arguments])
    return errno_name(ctypes.get_errno()) if result == -1 else result


def _argument(value: Any) -> Any:
    return ctypes.c_long(value) if isinstance(value, int) else value


def in_child(call: Callable[[], int]) -> int:
    """Run a call in a forked child: its exit status, or the negative number of the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(call())
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
