"""The last steps of an environment whose processes start by exec: its extensions, and runtimes that are programs.

It runs after every privilege is gone: whatever is started here has the confinement of the process that starts it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from typing import Dict, NoReturn, Sequence

from .syscalls import close_from

EXTENSIONS = "/opt/extensions"
_CHANNEL = 3


def start_extensions(channel: socket.socket, names: Sequence[str], environment: Dict[str, str]) -> None:
    """Start the extensions as children of init, and wait until the runtime may start.

    Each tells the main process of itself first, so that the kernel vouches for its pid; none runs before the main
    process has seen them all. A runtime must not find children that it did not make, hence the second fork.
    """
    gate, opener = os.pipe()
    for name in names:
        child = os.fork()
        if child == 0:
            if os.fork():
                os._exit(0)
            os.close(opener)
            _become_extension(name, environment, channel, gate)
        os.waitpid(child, 0)
    os.close(gate)
    _expect(channel, b"extensions")
    os.write(opener, b"x" * len(names))
    os.close(opener)
    _expect(channel, b"runtime")


def execute(channel: socket.socket, entrypoints: Sequence[str], environment: Dict[str, str]) -> NoReturn:
    """Become the first program that is there; tell the main process if none can be started.

    The messages are AWS's for ``Runtime.InvalidEntrypoint``.
    """
    path = next((path for path in entrypoints if os.path.isfile(path)), None)
    if path is None:
        _fail(channel, f"Couldn't find valid bootstrap(s): [{' '.join(entrypoints)}]")
    os.dup2(channel.fileno(), _CHANNEL, inheritable=False)
    close_from(_CHANNEL + 1)
    try:
        _exec(path, environment)
    except OSError as error:
        with socket.socket(fileno=_CHANNEL) as kept:
            _fail(kept, f"fork/exec {path}: {os.strerror(error.errno or 0).lower()}")


def _become_extension(name: str, environment: Dict[str, str], channel: socket.socket, gate: int) -> NoReturn:
    path = f"{EXTENSIONS}/{name}"
    try:
        channel.send(json.dumps({"extension": name}).encode())
        if os.read(gate, 1):
            close_from(3)
            os.chdir("/")
            _exec(path, environment)
    except OSError as error:
        os.write(2, f"fork/exec {path}: {os.strerror(error.errno or 0).lower()}\n".encode())
    os._exit(127)


def _exec(path: str, environment: Dict[str, str]) -> NoReturn:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these, and what is ignored stays so through exec
        signal.signal(number, signal.SIG_DFL)
    os.execve(path, [path], environment)


def _expect(channel: socket.socket, word: bytes) -> None:
    if channel.recv(16) != word:
        os._exit(1)  # the server has given this environment up


def _fail(channel: socket.socket, message: str) -> NoReturn:
    channel.send(json.dumps({"entrypoint": message}).encode())
    os._exit(1)
