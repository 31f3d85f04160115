"""Abusing the Runtime API, which every function can reach at 127.0.0.1:9001."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from typing import Any

from .attempt import attempt

_API = ("127.0.0.1", 9001)
_INVOCATION = "/2018-06-01/runtime/invocation"


def request(method: str, path: str, body: str = "") -> Any:
    """One request: status, or why not."""

    def ask() -> int:
        connection = http.client.HTTPConnection(*_API, timeout=3)
        connection.request(method, path, body)
        return connection.getresponse().status

    return attempt(ask)


def answer_other(request_ids: list[str]) -> list[Any]:
    """Answer events that are somebody else's."""
    return [request("POST", f"{_INVOCATION}/{name}/response", '"forged"') for name in request_ids]


def own_request_id() -> str:
    """The current event's id, as every function knows it."""
    import inspect

    frame = inspect.currentframe()
    while frame is not None:
        context = frame.f_locals.get("context")
        if context is not None and hasattr(context, "aws_request_id"):
            return str(context.aws_request_id)
        frame = frame.f_back
    raise LookupError("no context")


def answer_twice(delay: float) -> str:
    """Answer now behind the runtime's back; its own answer comes later."""
    status = request("POST", f"{_INVOCATION}/{own_request_id()}/response", json.dumps("first"))
    time.sleep(delay)
    return f"second after {status}"


_stolen: list[Any] = []


def poll_behind(count: int, seconds: float) -> None:
    """Poll for events from threads of one's own, after the answer, and keep what comes without answering it."""

    def poll() -> None:
        connection = http.client.HTTPConnection(*_API, timeout=seconds)
        try:
            connection.request("GET", f"{_INVOCATION}/next")
            response = connection.getresponse()
            _stolen.append([response.status, dict(response.headers), response.read().decode()])
        except OSError:
            pass

    for _ in range(count):
        threading.Thread(target=poll, daemon=True).start()
    time.sleep(0.05)


def stolen() -> list[Any]:
    """What the pollers got."""
    return _stolen


def many_connections(count: int) -> int:
    """How many connections are there that the server keeps."""
    held = []
    for _ in range(count):
        client = socket.socket()
        client.settimeout(2)
        if client.connect_ex(_API) == 0:
            held.append(client)
    time.sleep(0.2)
    alive = 0
    for client in held:
        client.setblocking(False)
        try:
            alive += client.recv(1) != b""
        except BlockingIOError:
            alive += 1
        except OSError:
            pass
        client.close()
    return alive


def send_raw(data: str, megabytes: int) -> int:
    """Send raw bytes, then filler, and never read; how many MB the server took."""
    taken = 0
    with socket.create_connection(_API) as client:
        client.settimeout(1)
        try:
            client.sendall(data.encode("latin-1"))
            for _ in range(megabytes):
                client.sendall(b"x" * (1 << 20))
                taken += 1
        except OSError:
            pass
    return taken


def pipeline_unread(megabytes: int) -> int:
    """Requests behind each other whose answers are never read; how many MB the server took."""
    block = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n" * 40_000
    taken = 0
    with socket.create_connection(_API) as client:
        client.settimeout(1)
        try:
            while taken < megabytes << 20:
                taken += client.send(block)
        except OSError:
            pass
    return taken >> 20


def parallel_bodies(connections: int) -> int:
    """Answers to the current event, all but their last byte, over many connections at once."""
    size = 6 * 1024 * 1024
    head = f"POST {_INVOCATION}/{own_request_id()}/response HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"
    held = []
    for _ in range(connections):
        client = socket.create_connection(_API)
        held.append(client)
        client.settimeout(2)
        try:
            client.sendall(head.encode() + b" " * (size - 1))
        except OSError:
            continue
    time.sleep(0.2)
    alive = sum(not _is_dropped(client) for client in held)
    for client in held:
        client.close()
    return alive


def _is_dropped(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def hammer(seconds: float, requests: int) -> int:
    """Requests as fast as they go, so many behind each other; how many connections it took."""
    end, made = time.monotonic() + seconds, 0
    block = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n" * requests
    while time.monotonic() < end:
        made += 1
        try:
            with socket.create_connection(_API, 2) as client:
                while time.monotonic() < end:
                    client.sendall(block)
                    if not client.recv(1 << 16):
                        break
        except OSError:
            continue
    return made


def hammer_on(seconds: float, processes: int, requests: int) -> None:
    """The same from children that go on after the answer."""
    for _ in range(processes):
        if os.fork() == 0:
            try:
                hammer(seconds, requests)
            finally:
                os._exit(0)


def connect_on(seconds: float, processes: int) -> None:
    """Connections as fast as they go, from children."""
    end = time.monotonic() + seconds
    for _ in range(processes):
        if os.fork() == 0:
            while time.monotonic() < end:
                attempt(lambda: socket.create_connection(_API, 2).close())
            os._exit(0)


def wait_past_the_end(seconds: float) -> None:
    """Leave a child behind that answers the current event after its time."""
    own = own_request_id()
    if os.fork() == 0:
        time.sleep(seconds)
        request("POST", f"{_INVOCATION}/{own}/response", '"late"')
        os._exit(0)
    time.sleep(60)
