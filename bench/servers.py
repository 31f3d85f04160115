"""The servers that the benchmark starts by itself: the bare floor, and an Insula of its own."""

from __future__ import annotations

import importlib.util
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from target import Access

_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 60.0
_ROOM = (
    "--concurrency",
    "2000",
    "--idle-timeout",
    "3600",
)  # 5,000 tenant environments: a crowd, and who was there before


class StartError(Exception):
    """A server did not start; the message holds its last words."""


@contextmanager
def floor() -> Iterator[tuple[Access, int]]:
    """Run ``floor.py``; how to reach it, and its process id.

    Raises:
        StartError: it, or what the functions import, is not installed.
    """
    for package in ("awslambdaric", "boto3"):
        if not importlib.util.find_spec(package):
            raise StartError(f"{package} is missing: install the dependency group `bench`")
    command = [sys.executable, str(Path(__file__).with_name("floor.py"))]
    with _running(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        endpoint = process.stdout.readline().decode().strip()
        if not endpoint:
            raise StartError("the floor did not start; its own message is above")
        yield Access(endpoint, "floor", "floor", "us-east-1"), process.pid


@contextmanager
def insula(folder: Path) -> Iterator[tuple[Access, int]]:
    """Run ``insula serve`` on a free port with its data in a new folder; how to reach it, and its process id.

    Raises:
        StartError: it did not answer ``GET /healthz`` within a minute.
    """
    program = str(Path(sys.executable).with_name("insula"))
    data = folder / "data"
    log = folder / "serve.log"
    port = _free_port()
    with (
        log.open("wb") as output,
        _running(
            [program, "serve", "--port", str(port), "--data-dir", str(data), *_ROOM], output, subprocess.STDOUT
        ) as process,
    ):
        _wait_healthy(process, port, log)
        shown = subprocess.run([program, "env", "--data-dir", str(data)], capture_output=True, text=True, check=False)
        if shown.returncode:
            raise StartError(f"insula env failed: {shown.stderr.strip()}")
        yield _access(f"http://127.0.0.1:{port}", shown.stdout), process.pid


@contextmanager
def _running(
    command: list[str], stdout: int | IO[bytes], stderr: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    try:
        # Its own session: Ctrl-C is for the benchmark, which then ends its servers in order.
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, start_new_session=True)
    except OSError as error:
        raise StartError(f"cannot run {command[0]}: {error.strerror}; install the project first") from error
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


def _wait_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    words = log.read_text(errors="replace").strip().splitlines()[-5:]
    raise StartError("insula serve did not get ready:\n" + "\n".join(words))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _access(endpoint: str, exports: str) -> Access:
    """Read the ``export NAME=VALUE`` lines that ``insula env`` prints."""
    variables = dict(word.split("=", 1) for word in shlex.split(exports, comments=True) if "=" in word)
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
    try:
        return Access(endpoint, *(variables[name] for name in names))
    except KeyError as error:
        raise StartError(f"insula env does not print {error}") from error
