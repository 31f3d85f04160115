"""Fixtures that all kinds of tests share."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server import ROLE, RUNTIME, Server, zip_of

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server that many tests share; each test makes functions of its own."""
    running = Server(tmp_path_factory.mktemp("server") / "data").start()
    yield running
    assert running.stop() == 0, running.log.read_text()


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers for tests that stop or kill them."""
    made: list[Server] = []

    def make(*options: str, data_dir: Path | None = None) -> Server:
        made.append(Server(data_dir or tmp_path / "data", *options))
        return made[-1].start()

    yield make
    for running in made:
        if running.process is not None and running.process.poll() is None:
            running.stop()


@pytest.fixture(scope="session")
def client(server: Server) -> Any:
    """A boto3 client of the shared server."""
    return server.client()


class Function:
    """A function that a test made.

    Attributes:
        name: its name.
    """

    def __init__(self, client: Any, name: str) -> None:
        self.client = client
        self.name = name

    def invoke(self, event: Any = None, tenant: str | None = None, **options: Any) -> Any:
        """The answer of a successful invocation; a function error fails the test."""
        answer = self.call(event, tenant, **options)
        payload = json.load(answer["Payload"])
        assert "FunctionError" not in answer, payload
        return payload

    def fail(self, event: Any = None, tenant: str | None = None) -> Any:
        """The error document of an invocation that must fail."""
        answer = self.call(event, tenant)
        payload = json.load(answer["Payload"])
        assert answer.get("FunctionError") == "Unhandled", payload
        return payload

    def call(self, event: Any = None, tenant: str | None = None, **options: Any) -> Any:
        """The whole answer."""
        if tenant is not None:
            options["TenantId"] = tenant
        return self.client.invoke(FunctionName=self.name, Payload=json.dumps(event), **options)


@pytest.fixture
def function(client: Any) -> Iterator[Callable[..., Function]]:
    """Makes functions, and deletes them after the test: ``function(source, tenancy=True, Timeout=5)``."""
    made: list[Function] = []

    def make(source: Any, *, tenancy: bool = False, client: Any = client, **options: Any) -> Function:
        name = f"test-{next(_numbers)}"
        if tenancy:
            options["TenancyConfig"] = {"TenantIsolationMode": "PER_TENANT"}
        client.create_function(
            FunctionName=name,
            Code={"ZipFile": zip_of(source)},
            **{"Runtime": RUNTIME, "Role": ROLE, "Handler": "app.handler", **options},
        )
        client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 0})
        made.append(Function(client, name))
        return made[-1]

    yield make
    for function in made:
        with contextlib.suppress(function.client.exceptions.ResourceNotFoundException):
            function.client.delete_function(FunctionName=function.name)
