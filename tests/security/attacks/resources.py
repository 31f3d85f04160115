# An attack makes the calls that it is about.
# ruff: noqa: PTH123
"""Taking more than one's share."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from .attempt import attempt

_held: list[Any] = []
_MEGABYTE = 1 << 20


def exit(status: int = 1) -> None:  # noqa: A001
    """End the runtime."""
    os._exit(status)


def fork_bomb(count: int) -> dict[str, int]:
    """Children that wait, as many as there may be; they end with the answer."""
    children = []
    try:
        for _ in range(count):
            pid = os.fork()
            if pid == 0:
                signal.pause()
            children.append(pid)
    except OSError as error:
        return {"made": len(children), "errno": error.errno or 0}
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return {"made": len(children), "errno": 0}


def thread_bomb(count: int) -> int:
    """How many threads could be started; they end with the answer."""
    end = threading.Event()
    made = 0
    try:
        for _ in range(count):
            threading.Thread(target=end.wait, daemon=True).start()
            made += 1
    except RuntimeError:
        pass
    end.set()
    return made


def memory_bomb(megabytes: int) -> int:
    """Touch this much memory."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    return len(mmap.mmap(-1, megabytes * _MEGABYTE, flags=flags))


def child_memory_bomb(megabytes: int) -> int:
    """The same in a child, so that the runtime itself is not what is largest."""
    pid = os.fork()
    if pid == 0:
        memory_bomb(megabytes)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fill_tmp(megabytes: int) -> dict[str, Any]:
    """Write to /tmp until it is full."""
    block, written = b"x" * _MEGABYTE, 0
    with open("/tmp/filler", "wb", buffering=0) as file:
        try:
            for _ in range(megabytes):
                written += file.write(block)
        except OSError as error:
            Path("/tmp/filler").unlink()
            return {"errno": error.errno, "megabytes": written // _MEGABYTE}
    return {"errno": 0, "megabytes": written // _MEGABYTE}


def fill_inodes(count: int) -> int:
    """How many empty files /tmp takes."""
    for number in range(count):
        if isinstance(attempt(lambda n: os.close(os.open(f"/tmp/{n}", os.O_CREAT)), number), str):
            return number
    return count


def descriptor_bomb(count: int) -> int:
    """How many descriptors can be open."""
    opened: list[int] = []
    while len(opened) < count and isinstance(descriptor := attempt(lambda: os.dup(0)), int):
        opened.append(descriptor)
    for descriptor in opened:
        os.close(descriptor)
    return len(opened)


def spin(threads: int, seconds: float) -> None:
    """Burn CPU in children that go on after the answer."""
    for _ in range(threads):
        if os.fork() == 0:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                pass
            os._exit(0)


def socket_buffers(pairs: int) -> int:
    """Fill the buffers of TCP connections to oneself; how many MB they took."""
    server = socket.create_server(("127.0.0.1", 0), backlog=pairs)
    taken = 0
    for _ in range(pairs):
        client = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
        client.setblocking(False)
        _held.extend((client, peer))
        try:
            while True:
                taken += client.send(b"x" * 262144)
        except BlockingIOError:
            continue
        except OSError:
            break
    return taken // _MEGABYTE


def give_back_buffers() -> None:
    """Close them."""
    while _held:
        _held.pop().close()


def flood_log(seconds: float, line: str, block: int) -> int:
    """Write a line to standard output as fast as it goes; how many bytes went."""
    data = (line + "\n").encode()
    data *= max(1, block // len(data))
    end, written = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        written += os.write(1, data)
    return written


def flood_log_for_ever(line: str, block: int, seconds: float) -> None:
    """The same from a thread that goes on after the answer."""
    threading.Thread(target=flood_log, args=(seconds, line, block), daemon=True).start()


def nest(depth: int) -> Any:
    """An answer that is nested deeply."""
    answer: list[Any] = []
    for _ in range(depth):
        answer = [answer]
    return answer


def large(size: int) -> str:
    """An answer of this size."""
    return "x" * size


def hang() -> NoReturn:
    """Never answer."""
    while True:
        time.sleep(60)


def ignore_signals_and_hang() -> NoReturn:
    """Never answer, with every signal blocked and children in sessions of their own that do the same."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    for _ in range(5):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                hang()
            os._exit(0)
    hang()
