"""An arena: one function whose code is all the attacks, run by tenants that exist for one test only."""

from __future__ import annotations

import io
import itertools
import secrets
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Function
from tests.server import ROLE, RUNTIME, Server

_CODE = Path(__file__).parent / "attacks"
_numbers = itertools.count(1)


# As a wrapper it makes the runtime start by exec, as those of other languages do.
_WRAPPER = '#!/bin/sh\nexec "$@"\n'


def attack_package() -> bytes:
    """The attacks as a deployment package."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as package:
        for path in sorted(_CODE.glob("*.py")):
            package.writestr(f"attacks/{path.name}", path.read_bytes())
        wrapper = zipfile.ZipInfo("wrapper")
        wrapper.create_system, wrapper.external_attr = 3, 0o100755 << 16
        package.writestr(wrapper, _WRAPPER)
    return buffer.getvalue()


class Tenant:
    """One tenant of a function, and with it one environment, as long as its calls follow each other.

    Attributes:
        id: tenant id.
        function: name of the function.
    """

    def __init__(self, function: Function, id: str) -> None:  # noqa: A002
        self._function = function
        self.function = function.name
        self.id = id

    def run(self, attack: str, **arguments: Any) -> Any:
        """What an attack, ``module.function``, got."""
        return self._function.invoke({"attack": attack, "arguments": arguments}, self.id)

    def fail(self, attack: str, **arguments: Any) -> Any:
        """The error document of an attack that its environment must not survive, or that must raise."""
        return self._function.fail({"attack": attack, "arguments": arguments}, self.id)

    def call(self, attack: str, **arguments: Any) -> Any:
        """The whole answer."""
        return self._function.call({"attack": attack, "arguments": arguments}, self.id)


@dataclass(frozen=True)
class Held:
    """A victim that holds a secret of which ``head`` is known to all, and ``tail`` to nobody else."""

    tenant: Tenant
    head: str
    facts: dict[str, Any]

    @property
    def tail(self) -> str:
        """What an attack must not find."""
        return str(self.facts["tail"])

    @property
    def secret(self) -> str:
        """What the victim says to everybody who reaches it."""
        return self.head + self.tail


FORKED, EXECUTED = "forked", "executed"


@pytest.fixture(scope="session", params=[FORKED, pytest.param(EXECUTED, marks=pytest.mark.slow)])
def start(request: pytest.FixtureRequest) -> str:
    """How environments of the arena start."""
    return str(request.param)


@pytest.fixture(scope="session")
def arena(server: Server, client: Any, start: str) -> Iterator[Function]:
    """The function; one processor's worth of memory, 15 s."""
    name = f"arena-{start}"
    variables = {"OWN": "variable", **({"AWS_LAMBDA_EXEC_WRAPPER": "/var/task/wrapper"} if start == EXECUTED else {})}
    client.create_function(
        FunctionName=name,
        Code={"ZipFile": attack_package()},
        Runtime=RUNTIME,
        Role=ROLE,
        Handler="attacks.app.handler",
        MemorySize=1769,
        Timeout=15,
        TenancyConfig={"TenantIsolationMode": "PER_TENANT"},
        Environment={"Variables": variables},
    )
    client.get_waiter("function_active_v2").wait(FunctionName=name)
    yield Function(client, name)
    client.delete_function(FunctionName=name)


@pytest.fixture
def tenant(arena: Function) -> Callable[[str], Tenant]:
    """Makes tenants that no other test has."""
    return lambda name: Tenant(arena, f"{name}-{next(_numbers)}")


@pytest.fixture
def green(tenant: Callable[[str], Tenant]) -> Tenant:
    """The attacker."""
    return tenant("green")


@pytest.fixture
def blue(tenant: Callable[[str], Tenant]) -> Held:
    """The victim, which holds its secret already."""
    victim, head = tenant("blue"), secrets.token_hex(8)
    return Held(victim, head, victim.run("victim.hold", head=head))
