"""Abuse of the Extensions and Telemetry APIs from inside: it reaches nobody else, and holds up nobody (T4)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Function
from tests.security.conftest import Tenant

_CODE = Path(__file__).parent / "attacks"


@pytest.fixture
def extended(function: Callable[..., Function]) -> Function:
    """A function that registers an extension of its own in each environment."""
    code = {f"attacks/{path.name}": path.read_bytes() for path in sorted(_CODE.glob("*.py"))}
    return function(code, tenancy=True, Handler="attacks.extensions_api.handler", MemorySize=1769, Timeout=5)


def test_an_extension_of_another_environment_cannot_be_acted_for(extended: Function) -> None:
    blue, green = Tenant(extended, "blue"), Tenant(extended, "green")
    foreign = blue.run("extensions_api.identifier")
    unknown = [foreign, foreign.upper(), "00000000-0000-4000-8000-000000000000", "..", "%2e", "x" * 300, ""]
    answers = green.run("extensions_api.use", identifiers=unknown)
    assert {status for status, _ in answers} == {403}
    assert {kind for _, kind in answers} == {
        "Extension.UnknownExtensionIdentifier",
        "Extension.InvalidExtensionIdentifier",
        "Extension.MissingExtensionIdentifier",
    }
    assert blue.run("extensions_api.identifier") == foreign
    assert green.run("extensions_api.identifier") != foreign


def test_telemetry_goes_nowhere_but_into_the_sandbox(extended: Function) -> None:
    found = Tenant(extended, "blue").run("extensions_api.destinations")
    assert len(found) == 5
    assert {tuple(answer) for answer in found.values()} == {(400, "ValidationError")}


def test_after_init_nobody_registers(extended: Function) -> None:
    answers = Tenant(extended, "blue").run("extensions_api.register_late", count=50)
    assert {tuple(answer) for answer in answers} == {(403, "Extension.RegistrationClosed")}


def test_who_gives_up_ends_its_own_environment_only(extended: Function) -> None:
    blue, green = Tenant(extended, "blue"), Tenant(extended, "green")
    before = green.run("extensions_api.identifier")
    error = blue.fail("extensions_api.report")
    assert error["errorType"] == "Mine"
    assert len(error["errorMessage"]) < 2000
    assert green.run("extensions_api.identifier") == before
    assert blue.run("extensions_api.identifier") != before
