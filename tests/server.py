"""A real `insula serve` for tests: started, asked for its settings by `insula env`, stopped, and looked at."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from insula.sandbox.runtimes import default_runtime

INSULA = Path(sys.executable).with_name("insula")
ROLE = "arn:aws:iam::000000000000:role/test"
RUNTIME = default_runtime()


class Server:
    """One server process on a free port.

    Args:
        prefix: a command that runs the server's, such as one that changes the user.

    Attributes:
        data_dir: its data folder.
        variables: what `insula env` prints for it.
    """

    def __init__(self, data_dir: Path, *options: str, prefix: Sequence[str] = ()) -> None:
        self.data_dir = data_dir
        self._options = options
        self._prefix = prefix
        self.process: subprocess.Popen[bytes] | None = None
        self.variables: dict[str, str] = {}

    def start(self, seconds: float = 60) -> Server:
        """Start it, and wait until it is ready."""
        self.log = self.data_dir.parent / f"{self.data_dir.name}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._prefix, INSULA, "serve", "--port", "0", "--data-dir", self.data_dir, *self._options],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.variables = self._read_variables()
                with urllib.request.urlopen(self.endpoint + "/healthz", timeout=5):
                    return self
            except (subprocess.CalledProcessError, urllib.error.URLError):
                time.sleep(0.05)
        raise AssertionError(f"the server did not start:\n{self.log.read_text()}")

    def _read_variables(self) -> dict[str, str]:
        words = shlex.split(self.cli("env").stdout)
        return dict(word.split("=", 1) for word in words if "=" in word)

    @property
    def endpoint(self) -> str:
        """URL of the API."""
        return self.variables["AWS_ENDPOINT_URL_LAMBDA"]

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self.process is not None
        return self.process.pid

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it by a signal; returns its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    def client(self, **options: Any) -> Any:
        """A boto3 client for it."""
        config = Config(retries={"total_max_attempts": 1}, read_timeout=120, max_pool_connections=64)
        settings = {
            "endpoint_url": self.endpoint,
            "region_name": self.variables["AWS_DEFAULT_REGION"],
            "aws_access_key_id": self.variables["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": self.variables["AWS_SECRET_ACCESS_KEY"],
            "config": config,
        }
        return boto3.client("lambda", **{**settings, **options})

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run an `insula` command against its data folder."""
        command = [str(INSULA), *arguments, "--data-dir", str(self.data_dir)]
        return subprocess.run(command, capture_output=True, text=True, check=check, timeout=60)

    def environment(self) -> dict[str, str]:
        """Environment variables for AWS clients started by a test."""
        return {**os.environ, **self.variables, "AWS_PAGER": "", "AWS_EC2_METADATA_DISABLED": "true"}


def zip_of(files: Mapping[str, str | bytes] | str) -> bytes:
    """A deployment package; a bare string is app.py."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as package:
        for name, content in ({"app.py": files} if isinstance(files, str) else files).items():
            package.writestr(name, content)
    return buffer.getvalue()


def descendants(pid: int) -> Sequence[int]:
    """Process ids of all children of a process, and theirs."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in task.read_text().split():
                found += [int(child), *descendants(int(child))]
    return found
