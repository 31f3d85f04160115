"""What a victim holds: its secret in every place that an attack looks at."""

from __future__ import annotations

import ctypes
import mmap
import os
import secrets
import socket
import threading
from pathlib import Path
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_libc.shmat.restype = ctypes.c_void_p
_libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_IPC_CREAT = 0o1000
_held: list[Any] = []


def hold(head: str) -> dict[str, Any]:
    """Put ``head`` and a random tail everywhere; the tail is what no other tenant may find.

    An attacker is told the head, so that it finds itself what it looks for and nothing of the secret is given to it.
    """
    tail = secrets.token_hex(8)
    secret = head + tail
    Path("/tmp/secret").write_text(secret)
    os.environ["VICTIM"] = secret
    shared = mmap.mmap(-1, 4096)
    shared.write(secret.encode())
    descriptor = os.memfd_create("secret")
    os.write(descriptor, secret.encode())
    _held.extend([secret, shared, descriptor])
    key = secrets.randbelow(1 << 30) + 1
    segment = _libc.shmget(key, 4096, 0o666 | _IPC_CREAT)
    ctypes.memmove(_libc.shmat(segment, None, 0), secret.encode(), len(secret))
    semaphore = _libc.semget(key, 1, 0o666 | _IPC_CREAT)
    return {
        "tail": tail,
        "key": key,
        "segment": segment,
        "semaphore": semaphore,
        "pid": os.getpid(),
        "uid": os.getuid(),
        "tcp": _listen(socket.socket(socket.AF_INET), ("127.0.0.1", 0), secret)[1],
        "tcp6": _listen(socket.socket(socket.AF_INET6), ("::1", 0), secret)[1],
        "abstract": _listen(socket.socket(socket.AF_UNIX), f"\0{head}", secret).decode("latin-1"),
        "unix": _listen(socket.socket(socket.AF_UNIX), "/tmp/socket", secret),
    }


def _listen(server: socket.socket, address: Any, secret: str) -> Any:
    server.bind(address)
    server.listen()
    threading.Thread(target=_serve, args=(server, secret), daemon=True).start()
    return server.getsockname()


def _serve(server: socket.socket, secret: str) -> None:
    while True:
        connection, _ = server.accept()
        with connection:
            connection.sendall(secret.encode())


def held() -> str:
    """The secret as it is now: was it changed?"""
    return str(_held[0]) if Path("/tmp/secret").read_text() == _held[0] else "changed"
