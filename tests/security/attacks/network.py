# An attack makes the calls that it is about.
# ruff: noqa: PTH115, PTH118, PTH208
"""Reaching sockets: another tenant's, the server's, anybody's."""

from __future__ import annotations

import http.client
import os
import socket
import stat
from pathlib import Path
from typing import Any

from .attempt import attempt

_ALLOWED = {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}


def read_tcp(address: str, port: int) -> str:
    """What a listener says, or why it cannot be reached."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return str(attempt(lambda: _read(family, (address, port))))


def read_unix(path: str) -> str:
    """The same of a Unix socket; an abstract one begins with NUL."""
    return str(attempt(lambda: _read(socket.AF_UNIX, path)))


def _read(family: int, address: Any) -> str:
    with socket.socket(family) as client:
        client.settimeout(2)
        client.connect(address)
        return client.recv(100).decode()


def open_ports(address: str) -> list[int]:
    """Every TCP port that accepts a connection."""
    return [port for port in range(1, 65536) if _accepts(address, port)]


def _accepts(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as client:
        client.settimeout(1)
        # A connection from a free port to itself succeeds: TCP's simultaneous open.
        return client.connect_ex((address, port)) == 0 and client.getsockname() != client.getpeername()


def interfaces() -> list[str]:
    """Names of all network interfaces."""
    return [name for _, name in socket.if_nameindex()]


def listening() -> list[str]:
    """Abstract Unix sockets that /proc lists, and local addresses of TCP sockets."""
    unix = [line.split()[7] for line in Path("/proc/net/unix").read_text().splitlines()[1:] if len(line.split()) > 7]
    tcp = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sorted({*unix, *tcp})


def families() -> dict[str, Any]:
    """Every address family, netlink protocol and raw socket that can be opened and should not be."""
    opened: dict[str, Any] = {}
    for family in range(64):
        if family not in _ALLOWED:
            opened[f"family {family}"] = attempt(lambda f: _open(f, socket.SOCK_DGRAM), family)
    for protocol in range(1, 32):
        opened[f"netlink {protocol}"] = attempt(lambda p: _open(socket.AF_NETLINK, socket.SOCK_RAW, p), protocol)
    for family in (socket.AF_INET, socket.AF_INET6):
        opened[f"raw {family}"] = attempt(lambda f: _open(f, socket.SOCK_RAW, 1), family)
        opened[f"sctp {family}"] = attempt(lambda f: _open(f, socket.SOCK_STREAM, 132), family)
        opened[f"dccp {family}"] = attempt(lambda f: _open(f, 6, 33), family)
    return {name: got for name, got in opened.items() if not isinstance(got, str)}


def usual_families() -> list[str]:
    """The same call for what a function may open."""
    return [str(attempt(lambda f: _open(f, socket.SOCK_DGRAM), family)) for family in sorted(_ALLOWED)]


def _open(family: int, kind: int, protocol: int = 0) -> bool:
    with socket.socket(family, kind, protocol):
        return True


def change_routes() -> Any:
    """Ask the kernel by netlink to add an interface (RTM_NEWLINK)."""
    import struct

    body = struct.pack("BxHiII", 0, 0, 0, 0, 0) + struct.pack("HH", 8, 3) + b"evil"
    message = struct.pack("IHHII", 16 + len(body), 16, 0x0605, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.settimeout(2)
        netlink.send(message)
        return struct.unpack_from("i", netlink.recv(4096), 16)[0]


def raise_buffers() -> list[int]:
    """What SO_SNDBUFFORCE and SO_MARK, which need a capability, answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return [attempt(lambda o: sock.setsockopt(socket.SOL_SOCKET, o, 1 << 24), option) for option in (32, 33, 36)]


def descriptors() -> dict[str, str]:
    """What every open descriptor is."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the listing's own
    return found


def own_sockets() -> list[str]:
    """Sockets of this network namespace, as descriptors name them."""
    inodes = [line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes += [line.split()[6] for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return [f"socket:[{inode}]" for inode in inodes]


def path_sockets() -> list[str]:
    """Socket files and FIFOs below the whole root, /proc and /sys aside."""
    found = []
    for folder, folders, names in os.walk("/"):
        if folder == "/":
            folders[:] = [name for name in folders if name not in ("proc", "sys")]
        for name in names:
            mode = os.lstat(os.path.join(folder, name)).st_mode
            if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode):
                found.append(os.path.join(folder, name))
    return found


def ask_control_plane(host: str, port: int, path: str) -> Any:
    """An HTTP request to the server."""

    def ask() -> int:
        connection = http.client.HTTPConnection(host, port, timeout=2)
        connection.request("GET", path)
        return connection.getresponse().status

    return attempt(ask)
