"""T4: another tenant's memory, variables and fresh pages."""

from __future__ import annotations

import pytest

from tests.security.conftest import Held, Tenant


@pytest.mark.parametrize("attack", ["memory.own_memory", "memory.variables"])
def test_a_secret_is_found_by_its_owner_and_by_nobody_else(attack: str, green: Tenant, blue: Held) -> None:
    assert green.run(attack, head=blue.head) == []
    assert blue.tenant.run(attack, head=blue.head) == [blue.tail]


def test_fresh_memory_holds_nothing_of_an_environment_that_ended(green: Tenant, blue: Held) -> None:
    blue.tenant.fail("resources.exit")
    assert green.run("memory.unused_pages", head=blue.head) == []
