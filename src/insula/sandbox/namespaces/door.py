"""The way into an environment's network, for connections that the server makes."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
from concurrent.futures import ThreadPoolExecutor

from insula.sandbox.namespaces.guest.syscalls import CLONE_NEWNET, setns

_SIOCGSKNS = 0x894C  # the network namespace of a socket, as a descriptor: linux/sockios.h
_SECONDS = 2.0


class Door:
    """Makes sockets in the network namespaces of sandboxes.

    A thread of its own does it: setns(2) moves the thread that calls it.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="door")
        self._own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    async def connect(self, listener: socket.socket, port: int) -> socket.socket:
        """A connection to 127.0.0.1:``port`` in the namespace that the listener belongs to.

        Raises:
            OSError: nobody listens there, nobody accepts within 2 s, or the listener is closed.
        """
        if listener.fileno() < 0:
            raise OSError(errno.EBADF, "the sandbox is ending")
        loop = asyncio.get_running_loop()
        # Asked for here and not in the thread: meanwhile the listener's number could become another sandbox's.
        namespace = fcntl.ioctl(listener, _SIOCGSKNS)
        sock = await loop.run_in_executor(self._thread, self._make, namespace)
        try:
            async with asyncio.timeout(_SECONDS):
                await loop.sock_connect(sock, ("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()
        os.close(self._own)

    def _make(self, namespace: int) -> socket.socket:
        try:
            setns(namespace, CLONE_NEWNET)
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        finally:
            setns(self._own, CLONE_NEWNET)  # else this thread would keep the namespace alive
            os.close(namespace)
        return sock
