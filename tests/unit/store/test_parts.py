"""Aliases, concurrency and layers in the catalog: checked, kept, and gone with what they belong to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from insula.model.alias import Alias
from insula.model.errors import (
    AliasLimitExceededException,
    InvalidParameterValueException,
    ResourceConflictException,
    ResourceNotFoundException,
)
from insula.model.layer import LayerVersion
from insula.model.provision import ProvisionedConcurrency
from insula.store.catalog import Catalog
from tests.unit.store.test_catalog import ACCOUNT, in_loop, make, number

LIVE = Alias(ACCOUNT, "us-east-1", "f", "live", "1", "r0")
CONFIG = ProvisionedConcurrency("1", 2, "2026-11-23T16:05:00+0000")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def catalog(folder: Path) -> Iterator[Catalog]:
    """A catalog with the function ``f`` and its versions 1 and 2."""
    catalog = Catalog.open(folder)

    async def fill() -> None:
        await catalog.create(make(), tags={}, publish=False)
        for _ in range(2):
            await catalog.publish(make(), number)

    asyncio.run(fill())
    yield catalog
    catalog.close()


def reopened(catalog: Catalog, folder: Path) -> Catalog:
    catalog.close()
    return Catalog.open(folder)


def allowed() -> None:
    """A check that refuses nothing."""


def layer(number: int, name: str = "tools") -> LayerVersion:
    return LayerVersion(ACCOUNT, "us-east-1", name, number, "2026", "c2hh", 1, 2, runtimes=("python3.11",))


@in_loop
async def test_aliases_are_listed_by_name_and_survive_a_restart(catalog: Catalog, folder: Path) -> None:
    weighted = replace(LIVE, name="Beta", additional="2", weight=0.25, description="d")
    for alias in (LIVE, weighted, replace(LIVE, name="a", version="$LATEST")):
        await catalog.aliases.create(alias)
    before = catalog.aliases.list(ACCOUNT, "f")
    assert [alias.name for alias in before] == ["Beta", "a", "live"]
    again = reopened(catalog, folder)
    assert again.aliases.list(ACCOUNT, "f") == before
    assert again.aliases.get(ACCOUNT, "f", "Beta") == weighted
    again.close()


@in_loop
async def test_an_alias_needs_a_free_name_and_versions_that_exist(catalog: Catalog) -> None:
    await catalog.aliases.create(LIVE)
    with pytest.raises(ResourceConflictException, match=r"Alias already exists: arn:.*:function:f:live"):
        await catalog.aliases.create(replace(LIVE, version="2"))
    for broken in (replace(LIVE, name="x", version="9"), replace(LIVE, name="x", additional="9")):
        with pytest.raises(ResourceNotFoundException, match=r"Function not found: arn:.*:function:f:9"):
            await catalog.aliases.create(broken)
    with pytest.raises(ResourceNotFoundException, match=r"Function not found: arn:.*:function:g:1"):
        await catalog.aliases.create(replace(LIVE, function="g"))
    assert catalog.aliases.list(ACCOUNT, "f") == [LIVE]


@in_loop
async def test_aliases_of_a_function_are_limited(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("insula.store.aliases.MAX_ALIASES", 1)
    await catalog.aliases.create(LIVE)
    with pytest.raises(AliasLimitExceededException):
        await catalog.aliases.create(replace(LIVE, name="other"))


@in_loop
async def test_each_change_of_an_alias_sees_the_one_before(catalog: Catalog, folder: Path) -> None:
    await catalog.aliases.create(LIVE)

    def point(alias: Alias) -> Alias:
        return replace(alias, version="2", revision="r1")

    def describe(alias: Alias) -> Alias:
        return replace(alias, description=f"at {alias.version}")

    await asyncio.gather(*(catalog.aliases.update(LIVE.arn, change) for change in (point, describe)))
    with pytest.raises(ResourceNotFoundException, match="Alias not found"):
        await catalog.aliases.update(LIVE.arn.qualified("x"), describe)
    with pytest.raises(ResourceNotFoundException, match=r"Function not found: arn:.*:f:9"):
        await catalog.aliases.update(LIVE.arn, lambda alias: replace(alias, version="9"))
    again = reopened(catalog, folder)
    changed = replace(LIVE, version="2", revision="r1", description="at 2")
    assert again.aliases.get(ACCOUNT, "f", "live") == changed
    again.close()


@in_loop
async def test_a_version_that_an_alias_points_to_stays(catalog: Catalog) -> None:
    await catalog.aliases.create(replace(LIVE, additional="2", weight=0.5))
    await catalog.aliases.create(replace(LIVE, name="beta", version="2"))
    with pytest.raises(ResourceConflictException, match=r"the following aliases reference it: \[beta, live\]"):
        await catalog.delete_version(ACCOUNT, "f", "2")
    assert catalog.function(ACCOUNT, "f", "2") is not None
    await catalog.aliases.delete(ACCOUNT, "f", "live")
    assert await catalog.delete_version(ACCOUNT, "f", "1") is not None


@in_loop
async def test_concurrency_survives_a_restart_and_is_taken_away(catalog: Catalog, folder: Path) -> None:
    await catalog.concurrency.reserve(ACCOUNT, "f", 7, allowed)
    await catalog.concurrency.reserve(ACCOUNT, "f", 0, allowed)
    await catalog.concurrency.provision(ACCOUNT, "f", CONFIG, allowed)
    await catalog.concurrency.provision(ACCOUNT, "f", replace(CONFIG, requested=3), allowed)
    again = reopened(catalog, folder)
    assert list(again.concurrency.reservations()) == [(ACCOUNT, "f", 0)]
    assert list(again.concurrency.provisioned_functions()) == [(ACCOUNT, "f")]
    assert again.concurrency.provisioned(ACCOUNT, "f") == {"1": replace(CONFIG, requested=3)}
    await again.concurrency.reserve(ACCOUNT, "f", None, allowed)
    await again.concurrency.unprovision(ACCOUNT, "f", "1")
    await again.concurrency.unprovision(ACCOUNT, "f", "1")
    empty = reopened(again, folder)
    assert empty.concurrency.reserved(ACCOUNT, "f") is None
    assert empty.concurrency.provisioned(ACCOUNT, "f") == {}
    empty.close()


@in_loop
async def test_a_check_sees_what_was_written_before_it(catalog: Catalog) -> None:
    await catalog.create(make("g"), tags={}, publish=False)

    def check() -> None:
        if list(catalog.concurrency.reservations()):
            raise InvalidParameterValueException("too much")

    outcomes = await asyncio.gather(
        *(catalog.concurrency.reserve(ACCOUNT, name, 900, check) for name in "fg"), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), InvalidParameterValueException]
    assert list(catalog.concurrency.reservations()) == [(ACCOUNT, "f", 900)]


@in_loop
async def test_concurrency_needs_a_function(catalog: Catalog) -> None:
    with pytest.raises(ResourceNotFoundException):
        await catalog.concurrency.reserve(ACCOUNT, "g", 1, allowed)
    with pytest.raises(ResourceNotFoundException):
        await catalog.concurrency.provision(ACCOUNT, "g", CONFIG, allowed)
    await catalog.concurrency.unprovision(ACCOUNT, "g", "1")


@in_loop
async def test_what_belongs_to_a_function_goes_with_it(catalog: Catalog, folder: Path) -> None:
    await catalog.aliases.create(LIVE)
    await catalog.concurrency.reserve(ACCOUNT, "f", 7, allowed)
    for qualifier in ("1", "2", "live"):
        await catalog.concurrency.provision(ACCOUNT, "f", replace(CONFIG, qualifier=qualifier), allowed)
    assert await catalog.aliases.delete(ACCOUNT, "f", "live") == LIVE
    assert await catalog.aliases.delete(ACCOUNT, "f", "live") is None
    await catalog.delete_version(ACCOUNT, "f", "2")
    again = reopened(catalog, folder)
    assert set(again.concurrency.provisioned(ACCOUNT, "f")) == {"1"}
    await again.aliases.create(LIVE)
    await again.delete(ACCOUNT, "f")
    await again.create(make(), tags={}, publish=True, published_revision="p")
    empty = reopened(again, folder)
    assert (empty.aliases.list(ACCOUNT, "f"), list(empty.concurrency.reservations())) == ([], [])
    assert empty.concurrency.provisioned(ACCOUNT, "f") == {}
    empty.close()


@in_loop
async def test_layer_versions_are_numbered_once_and_survive_a_restart(catalog: Catalog, folder: Path) -> None:
    for _ in range(3):
        await catalog.layers.publish(ACCOUNT, "tools", layer)
    for gone in (3, 3, 9):
        await catalog.layers.delete(ACCOUNT, "tools", gone)
    again = reopened(catalog, folder)
    assert again.layers.versions(ACCOUNT, "tools") == (layer(2), layer(1))
    assert (await again.layers.publish(ACCOUNT, "tools", layer)).version == 4
    assert again.layers.version(ACCOUNT, "tools", 4) == layer(4)
    assert again.layers.version(ACCOUNT, "tools", 3) is None
    assert again.layers.versions("1" * 12, "tools") == ()
    again.close()


@in_loop
async def test_layers_are_listed_by_name(catalog: Catalog) -> None:
    for name in ("b", "a"):
        await catalog.layers.publish(ACCOUNT, name, lambda number, name=name: layer(number, name))  # type: ignore[misc]
    assert catalog.layers.names(ACCOUNT) == ["a", "b"]
    assert [each.name for each in catalog.layers.all_versions()] == ["b", "a"]
    await asyncio.gather(*(catalog.layers.publish(ACCOUNT, "c", layer) for _ in range(5)))
    assert [each.version for each in catalog.layers.versions(ACCOUNT, "c")] == [5, 4, 3, 2, 1]
