"""The bare floor: a Lambda endpoint that does nothing but hand payloads to the stock runtime client.

An HTTP front and the Lambda Runtime API in one uvloop event loop, with one ``python -m awslambdaric`` process
for each environment. No authentication, validation, isolation, limits, logs or persistence: what a server
costs beyond this floor is the price of its features. It answers CreateFunction, GetFunction, Invoke and
DeleteFunction, keeps the environments of tenants apart, and listens on loopback only.

Runtime API: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html

    python bench/floor.py [--port N]

The first line on standard output is ``http://127.0.0.1:PORT``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import uvloop

_FUNCTIONS = "/2015-03-31/functions"
_INVOCATIONS = "/invocations"
_MAX_ENVIRONMENTS_PER_POOL = 64
_MAX_ENVIRONMENTS = 2700
_MAX_REQUEST = 8 * 2**20

Reply = Callable[[int, bytes, bool], None]
Deliver = Callable[[str, bytes], None]


@dataclass(frozen=True, slots=True)
class Function:
    """A created function; ``configuration`` is what GetFunction echoes."""

    name: str
    folder: Path
    handler: str
    memory: int
    tenancy: bool
    configuration: dict[str, Any]


@dataclass(slots=True)
class Pool:
    """The environments of one function and tenant.

    An environment answers before it polls for the next event, so ``nearly_idle`` ones (answered, poll
    still to come) and ``starting`` ones are waited for: no process is started that nobody needs.
    """

    function: Function
    tenant: str | None
    idle: list[Deliver] = field(default_factory=list)
    queue: deque[tuple[str, bytes]] = field(default_factory=deque)
    starting: int = 0
    nearly_idle: int = 0
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)


class Floor:
    """Functions, their pools, and the invocations that wait for an answer.

    Attributes:
        runtime_port: where the Runtime API listens; to be set before the first invoke.
    """

    def __init__(self, folder: Path) -> None:
        self.runtime_port = 0
        self._folder = folder
        self._functions: dict[str, Function] = {}
        self._pools: dict[tuple[str, str | None], Pool] = {}
        self._environments: dict[str, Pool] = {}
        self._initialised: set[str] = set()
        self._pending: dict[str, Reply] = {}
        self._ids = itertools.count(1)

    def handle(self, method: str, path: str, tenant: str | None, body: bytes, reply: Reply) -> None:
        """Answer one request of the Lambda API, at once or when the handler has returned."""
        name, _, rest = path.removeprefix(_FUNCTIONS).strip("/").partition("/")
        if method == "POST" and not name:
            reply(201, self._create(json.loads(body)), False)
        elif name not in self._functions:
            reply(404, b'{"Type": "User", "Message": "no such function"}', False)
        elif method == "POST" and f"/{rest}" == _INVOCATIONS:
            self._invoke(self._functions[name], tenant, body, reply)
        elif method == "GET":
            configuration = self._functions[name].configuration
            reply(200, json.dumps({"Configuration": configuration}).encode(), False)
        elif method == "DELETE":
            self._delete(name)
            reply(204, b"", False)
        else:
            reply(404, b'{"Type": "User", "Message": "the floor has no such operation"}', False)

    def knows(self, environment: str) -> bool:
        """Whether an environment belongs to a function that has not been deleted."""
        return environment in self._environments

    def next_event(self, environment: str, deliver: Deliver) -> None:
        """Serve ``GET /runtime/invocation/next``: the next event, now or later."""
        pool = self._environments[environment]
        if environment in self._initialised:
            pool.nearly_idle -= 1
        else:
            self._initialised.add(environment)
            pool.starting -= 1
        if pool.queue:
            deliver(*pool.queue.popleft())
        else:
            pool.idle.append(deliver)

    def answer(self, environment: str, request_id: str, body: bytes, failed: bool) -> None:
        """Serve ``POST /runtime/invocation/ID/response`` and ``.../error``."""
        self._environments[environment].nearly_idle += 1
        self._pending.pop(request_id)(200, body, failed)

    def event_headers(self, environment: str, request_id: str) -> str:
        """Headers that go with an event to the runtime client."""
        pool = self._environments[environment]
        tenant = f"Lambda-Runtime-Aws-Tenant-Id: {pool.tenant}\r\n" if pool.tenant else ""
        arn = f"arn:aws:lambda:us-east-1:000000000000:function:{pool.function.name}"
        return (
            f"Lambda-Runtime-Aws-Request-Id: {request_id}\r\n"
            f"Lambda-Runtime-Deadline-Ms: {int(time.time() * 1000) + 30000}\r\n"
            f"Lambda-Runtime-Invoked-Function-Arn: {arn}\r\n"
            f"Content-Type: application/json\r\n{tenant}"
        )

    def close(self) -> None:
        """End every environment."""
        for name in list(self._functions):
            self._delete(name)

    def _create(self, request: dict[str, Any]) -> bytes:
        name = request["FunctionName"]
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        with zipfile.ZipFile(io.BytesIO(base64.b64decode(request["Code"]["ZipFile"]))) as package:
            package.extractall(folder)
        configuration = {
            "FunctionName": name,
            "State": "Active",
            "TenancyConfig": request.get("TenancyConfig"),
        }
        tenancy = "TenancyConfig" in request
        memory = request.get("MemorySize", 128)
        self._functions[name] = Function(name, folder, request["Handler"], memory, tenancy, configuration)
        return json.dumps(configuration).encode()

    def _invoke(self, function: Function, tenant: str | None, body: bytes, reply: Reply) -> None:
        if function.tenancy != (tenant is not None):
            reply(400, b'{"Type": "User", "Message": "tenant id missing or not expected"}', False)
            return
        key = (function.name, tenant)
        pool = self._pools.get(key) or self._pools.setdefault(key, Pool(function, tenant))
        request_id = f"00000000-0000-4000-8000-{next(self._ids):012x}"
        self._pending[request_id] = reply
        if pool.idle:
            pool.idle.pop()(request_id, body)
            return
        pool.queue.append((request_id, body))
        full = len(pool.processes) >= _MAX_ENVIRONMENTS_PER_POOL or len(self._environments) >= _MAX_ENVIRONMENTS
        if not full and len(pool.queue) > pool.starting + pool.nearly_idle:
            self._start(pool)

    def _start(self, pool: Pool) -> None:
        environment = f"e{next(self._ids)}"
        self._environments[environment] = pool
        pool.starting += 1
        function = pool.function
        variables = {
            # The environment is told apart by a path prefix, which awslambdaric keeps.
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.runtime_port}/{environment}",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory),
            "AWS_LAMBDA_FUNCTION_NAME": function.name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_REGION": "us-east-1",
            "LAMBDA_TASK_ROOT": str(function.folder),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(function.folder),
            "_HANDLER": function.handler,
        }
        command = [sys.executable, "-m", "awslambdaric", function.handler]
        process = subprocess.Popen(
            command,
            cwd=function.folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        pool.processes.append(process)

    def _delete(self, name: str) -> None:
        function = self._functions.pop(name)
        pools = [self._pools.pop(key) for key in list(self._pools) if key[0] == name]
        processes = [process for pool in pools for process in pool.processes]
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
        kept = {name: pool for name, pool in self._environments.items() if pool.function is not function}
        self._environments = kept
        self._initialised &= kept.keys()
        shutil.rmtree(function.folder)


class _Http(asyncio.Protocol):
    """Just enough of HTTP/1.1: kept-alive requests whose bodies have a Content-Length."""

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._buffer = b""
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports implement the interface without inheriting it.
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            start = end + 4
            stop = start + int(_header(head, b"content-length") or 0)
            if len(self._buffer) < stop:
                break
            body = self._buffer[start:stop]
            self._buffer = self._buffer[stop:]
            method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            self._handle(method, path, head, body)
        if len(self._buffer) > _MAX_REQUEST:
            self._transport.close()

    def _handle(self, method: str, path: str, head: bytes, body: bytes) -> None:
        raise NotImplementedError


class _Front(_Http):
    def _handle(self, method: str, path: str, head: bytes, body: bytes) -> None:
        tenant = _header(head, b"x-amz-tenant-id")
        self._floor.handle(method, path, tenant.decode() if tenant else None, body, self._reply)

    def _reply(self, status: int, body: bytes, failed: bool) -> None:
        if self._transport.is_closing():
            return
        error = "X-Amz-Function-Error: Unhandled\r\n" if failed else ""
        headers = f"Content-Type: application/json\r\n{error}Content-Length: {len(body)}"
        self._transport.write(f"HTTP/1.1 {status} -\r\n{headers}\r\n\r\n".encode() + body)


class _Runtime(_Http):
    def _handle(self, method: str, path: str, head: bytes, body: bytes) -> None:  # noqa: ARG002
        environment, rest = path[1:].split("/2018-06-01/runtime/", 1)
        if not self._floor.knows(environment):
            # Its last words may arrive after it was killed.
            self._transport.close()
        elif rest == "invocation/next":

            def deliver(request_id: str, event: bytes) -> None:
                headers = self._floor.event_headers(environment, request_id)
                answer = f"HTTP/1.1 200 OK\r\n{headers}Content-Length: {len(event)}\r\n\r\n"
                self._transport.write(answer.encode() + event)

            self._floor.next_event(environment, deliver)
        elif rest.startswith("invocation/"):
            _, request_id, kind = rest.split("/")
            self._floor.answer(environment, request_id, body, kind == "error")
            self._accept()
        else:
            self._accept()

    def _accept(self) -> None:
        self._transport.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")


def _header(head: bytes, name: bytes) -> bytes | None:
    at = head.lower().find(b"\r\n" + name + b":")
    if at < 0:
        return None
    return head[at + len(name) + 3 :].split(b"\r\n", 1)[0].strip()


async def _serve(port: int, folder: Path) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    floor = Floor(folder)
    runtime = await loop.create_server(lambda: _Runtime(floor), "127.0.0.1", 0, backlog=1024)
    floor.runtime_port = runtime.sockets[0].getsockname()[1]
    front = await loop.create_server(lambda: _Front(floor), "127.0.0.1", port, backlog=1024)
    print(f"http://127.0.0.1:{front.sockets[0].getsockname()[1]}", flush=True)
    try:
        await stop.wait()
    finally:
        floor.close()


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="A bare Lambda endpoint to compare with.")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)")
    port = parser.parse_args().port
    with tempfile.TemporaryDirectory(prefix="floor-") as folder, suppress(KeyboardInterrupt):
        uvloop.run(_serve(port, Path(folder)))


if __name__ == "__main__":
    main()
