"""The catalog keeps what it was told, through restarts, races, cancelled callers and kill -9."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from insula.model.errors import (
    InvalidParameterValueException,
    PreconditionFailedException,
    ResourceConflictException,
    ResourceNotFoundException,
)
from insula.model.function import FunctionVersion
from insula.model.layer import Layer
from insula.store.catalog import Catalog
from insula.store.keys import first_access_key
from insula.store.schema import CatalogError

ACCOUNT = "000000000000"
# The tables as release 0.1.0 made them.
VERSION_1 = """
CREATE TABLE meta ("key" VARCHAR NOT NULL, value VARCHAR NOT NULL, PRIMARY KEY ("key"));
INSERT INTO meta VALUES ('schema', '1');
CREATE TABLE functions (account VARCHAR NOT NULL, name VARCHAR NOT NULL, next_version INTEGER NOT NULL,
    tags JSON NOT NULL, PRIMARY KEY (account, name));
CREATE TABLE access_keys (access_key VARCHAR NOT NULL, secret VARCHAR NOT NULL, account VARCHAR NOT NULL,
    created FLOAT NOT NULL, PRIMARY KEY (access_key));
CREATE TABLE versions (account VARCHAR NOT NULL, name VARCHAR NOT NULL, version VARCHAR NOT NULL,
    document JSON NOT NULL, deployment VARCHAR NOT NULL, code_sha256 VARCHAR NOT NULL,
    PRIMARY KEY (account, name, version),
    FOREIGN KEY(account, name) REFERENCES functions (account, name) ON DELETE CASCADE);
"""


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def catalog(folder: Path) -> Iterator[Catalog]:
    catalog = Catalog.open(folder)
    yield catalog
    catalog.close()


def make(name: str = "f", revision: str = "r0", **changes: object) -> FunctionVersion:
    function = FunctionVersion(
        account=ACCOUNT,
        region="us-east-1",
        name=name,
        version="$LATEST",
        runtime="python3.11",
        role="arn:aws:iam::000000000000:role/r",
        handler="app.handler",
        code_sha256="c2hh",
        code_size=1,
        deployment="d0",
        revision=revision,
        last_modified="2026-11-23T16:05:00.000+0000",
    )
    return dataclasses.replace(function, **changes)  # type: ignore[arg-type]


def number(latest: FunctionVersion, version: int) -> FunctionVersion:
    return dataclasses.replace(latest, version=str(version), revision=f"p{version}")


def state(catalog: Catalog) -> object:
    return [(each, dict(catalog.tags(each.account, each.name))) for each in catalog.all_functions()]


def assert_memory_is_database(catalog: Catalog, folder: Path) -> None:
    before = state(catalog)
    catalog.close()
    reopened = Catalog.open(folder)
    assert state(reopened) == before
    reopened.close()


async def create(catalog: Catalog, function: FunctionVersion, **tags: str) -> None:
    await catalog.create(function, tags=tags, publish=False)


@in_loop
async def test_a_created_function_is_found(catalog: Catalog) -> None:
    await create(catalog, make(), team="blue")
    assert catalog.function(ACCOUNT, "f") == make()
    assert catalog.function("111111111111", "f") is None
    assert catalog.functions(ACCOUNT) == (make(),)
    assert catalog.tags(ACCOUNT, "f") == {"team": "blue"}


@in_loop
async def test_a_name_is_taken_once(catalog: Catalog) -> None:
    await create(catalog, make())
    with pytest.raises(ResourceConflictException, match="Function already exist: f"):
        await create(catalog, make(revision="r1"))
    assert catalog.function(ACCOUNT, "f") == make()


@in_loop
async def test_create_with_publish_stores_version_1(catalog: Catalog) -> None:
    published = await catalog.create(make(), tags={}, publish=True, published_revision="r1")
    assert published == make(version="1", revision="r1", deployment="d0:1")
    assert catalog.versions(ACCOUNT, "f") == (make(), published)
    assert (await catalog.publish(make(), number)).version == "2"


@in_loop
async def test_of_concurrent_replacements_exactly_one_wins(catalog: Catalog) -> None:
    await create(catalog, make())
    writes = [catalog.replace(make(revision=f"new{i}"), expected_revision="r0") for i in range(20)]
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(result) for result in results].count(PreconditionFailedException) == 19
    won = results.index(None)
    found = catalog.function(ACCOUNT, "f")
    assert found is not None
    assert found.revision == f"new{won}"


@in_loop
async def test_replacing_what_is_gone_is_not_found(catalog: Catalog) -> None:
    with pytest.raises(ResourceNotFoundException, match=re.escape(f"Function not found: {make().arn}")):
        await catalog.replace(make(), expected_revision="r0")


@in_loop
async def test_version_numbers_are_never_reused(catalog: Catalog) -> None:
    await create(catalog, make())
    for _ in range(11):
        await catalog.publish(make(), number)
    gone = await catalog.delete_version(ACCOUNT, "f", "11")
    assert gone == number(make(), 11)
    assert await catalog.delete_version(ACCOUNT, "f", "11") is None
    await catalog.publish(make(), number)
    order = ["$LATEST", *map(str, range(1, 11)), "12"]
    assert [each.version for each in catalog.versions(ACCOUNT, "f")] == order


@in_loop
async def test_version_numbers_and_order_survive_a_restart(catalog: Catalog, folder: Path) -> None:
    await create(catalog, make())
    for _ in range(12):
        await catalog.publish(make(), number)
    await catalog.delete_version(ACCOUNT, "f", "12")
    catalog.close()
    again = Catalog.open(folder)
    assert [each.version for each in again.versions(ACCOUNT, "f")] == ["$LATEST", *map(str, range(1, 12))]
    assert (await again.publish(make(), number)).version == "13"
    again.close()


@in_loop
async def test_publishing_an_outdated_document_is_refused(catalog: Catalog) -> None:
    await create(catalog, make())
    await catalog.replace(make(revision="r1"), expected_revision="r0")
    with pytest.raises(PreconditionFailedException, match="does not match the latest Revision Id"):
        await catalog.publish(make(), number)
    assert len(catalog.versions(ACCOUNT, "f")) == 1


@in_loop
async def test_latest_goes_only_with_its_function(catalog: Catalog) -> None:
    await create(catalog, make())
    with pytest.raises(InvalidParameterValueException, match=r"^\$LATEST version cannot be deleted"):
        await catalog.delete_version(ACCOUNT, "f", "$LATEST")


@in_loop
async def test_delete_removes_versions_and_tags(catalog: Catalog, folder: Path) -> None:
    await catalog.create(make(), tags={"a": "b"}, publish=True, published_revision="r1")
    assert [each.version for each in await catalog.delete(ACCOUNT, "f")] == ["$LATEST", "1"]
    assert await catalog.delete(ACCOUNT, "f") == ()
    assert catalog.functions(ACCOUNT) == ()
    assert catalog.tags(ACCOUNT, "f") == {}
    catalog.close()
    with sqlite3.connect(folder / "catalog.sqlite3") as connection:
        assert connection.execute("SELECT count(*) FROM versions").fetchone() == (0,)
    connection.close()


@in_loop
async def test_set_tags_replaces_all(catalog: Catalog, folder: Path) -> None:
    await create(catalog, make(), a="1")
    await catalog.set_tags(ACCOUNT, "f", {"b": "2"})
    assert catalog.tags(ACCOUNT, "f") == {"b": "2"}
    with pytest.raises(ResourceNotFoundException):
        await catalog.set_tags(ACCOUNT, "other", {})
    assert_memory_is_database(catalog, folder)


@in_loop
async def test_every_field_survives_a_restart(catalog: Catalog, folder: Path) -> None:
    function = make(
        environment={"K": "\u00fc\ud800\n", "EMPTY": ""},
        tenancy="PER_TENANT",
        layers=(Layer("arn:1", "c2hh", 1, 2), Layer("arn:2", "c2hi", 3, 4)),
        state="Active",
        update_status="Successful",
    )
    await create(catalog, function, **{"\U0001f600": "\u2028"})
    assert_memory_is_database(catalog, folder)


@in_loop
async def test_listing_is_sorted_and_follows_writes(catalog: Catalog) -> None:
    for name in ("b", "a", "B"):
        await create(catalog, make(name))
    assert [each.name for each in catalog.functions(ACCOUNT)] == ["B", "a", "b"]
    await catalog.replace(make("a", "r1"), expected_revision="r0")
    assert catalog.functions(ACCOUNT)[1].revision == "r1"


def test_listing_thousands_does_no_work_when_nothing_changed(catalog: Catalog, folder: Path) -> None:
    catalog.close()
    held = [make(f"f{i:04}") for i in range(5000)]
    connection = sqlite3.connect(folder / "catalog.sqlite3")
    connection.executemany("INSERT INTO functions VALUES (?, ?, 1, '{}')", [(ACCOUNT, f.name) for f in held])
    connection.executemany(
        "INSERT INTO versions VALUES (?, ?, '$LATEST', ?, '', '')",
        [(ACCOUNT, each.name, json.dumps(each.to_document())) for each in held],
    )
    connection.commit()
    connection.close()
    again = Catalog.open(folder)
    assert again.functions(ACCOUNT) == tuple(held)
    assert again.functions(ACCOUNT) is again.functions(ACCOUNT)
    again.close()


@pytest.mark.parametrize("pause", [0, 1, 2, 5])
@in_loop
async def test_a_cancelled_write_leaves_memory_as_the_database(catalog: Catalog, folder: Path, pause: int) -> None:
    await create(catalog, make())
    writes = [asyncio.create_task(create(catalog, make(f"g{i}"))) for i in range(5)]
    for _ in range(pause):
        await asyncio.sleep(0)
    for write in writes:
        write.cancel()
    await asyncio.gather(*writes, return_exceptions=True)
    await create(catalog, make("last"))  # has its turn after whatever still runs
    assert_memory_is_database(catalog, folder)


@in_loop
async def test_a_write_that_fails_changes_nothing(catalog: Catalog, folder: Path) -> None:
    await create(catalog, make())

    def wrong_number(latest: FunctionVersion, version: int) -> FunctionVersion:
        return number(latest, version + 1)

    with pytest.raises(ValueError, match="version 1 was to be made"):
        await catalog.publish(make(), wrong_number)
    await catalog.publish(make(), number)
    assert_memory_is_database(catalog, folder)


def test_access_keys_look_like_awss_and_survive_a_restart(catalog: Catalog, folder: Path) -> None:
    key, secret = catalog.create_access_key(ACCOUNT)
    assert re.fullmatch(r"AKIA[A-Z2-7]{16}", key)
    assert re.fullmatch(r"[A-Za-z0-9+/]{40}", secret)
    assert catalog.credential(key) == (secret, ACCOUNT)
    assert catalog.credential("AKIAAAAAAAAAAAAAAAAA") is None
    catalog.close()
    again = Catalog.open(folder)
    assert again.credential(key) == (secret, ACCOUNT)
    assert again.access_keys(ACCOUNT) == ((key, secret),)
    assert again.access_keys("111111111111") == ()
    again.close()


def test_the_first_key_is_read_beside_a_running_server(catalog: Catalog, folder: Path) -> None:
    key, secret = catalog.create_access_key(ACCOUNT)
    catalog.create_access_key(ACCOUNT)
    found = first_access_key(folder)
    assert (found.access_key, found.secret, found.account) == (key, secret, ACCOUNT)
    catalog.close()
    assert first_access_key(folder) == found


def test_no_key_to_read_is_said_clearly(catalog: Catalog, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no access key"):
        first_access_key(folder)
    with pytest.raises(CatalogError, match="no catalog yet"):
        first_access_key(tmp_path / "nowhere")


def test_secrets_are_the_owners_alone(catalog: Catalog, folder: Path) -> None:
    catalog.create_access_key(ACCOUNT)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert set(modes) >= {"catalog.sqlite3", "catalog.sqlite3-wal", "lock"}
    assert set(modes.values()) == {0o600}


def test_a_second_server_on_the_folder_is_refused(catalog: Catalog, folder: Path) -> None:
    with pytest.raises(CatalogError, match=rf"in use by another Insula server \(pid {os.getpid()}\)"):
        Catalog.open(folder)
    catalog.close()
    Catalog.open(folder).close()


def test_a_folder_that_others_may_write_is_refused(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(CatalogError, match="chmod 700"):
        Catalog.open(folder)


def test_a_folder_that_is_a_file_is_refused(folder: Path) -> None:
    folder.write_text("")
    with pytest.raises(CatalogError, match="cannot be used"):
        Catalog.open(folder)


def test_a_catalog_of_release_0_1_is_opened_and_brought_up_to_date(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    connection = sqlite3.connect(folder / "catalog.sqlite3")
    connection.executescript(VERSION_1)
    document = make().to_document() | {"layers": []}
    connection.execute("INSERT INTO functions VALUES (?, 'f', 2, '{\"team\": \"blue\"}')", (ACCOUNT,))
    connection.execute("INSERT INTO versions VALUES (?, 'f', '$LATEST', ?, 'd', 'c')", (ACCOUNT, json.dumps(document)))
    connection.commit()
    connection.close()
    catalog = Catalog.open(folder)
    assert catalog.function(ACCOUNT, "f") == make()
    assert catalog.tags(ACCOUNT, "f") == {"team": "blue"}
    asyncio.run(catalog.concurrency.reserve(ACCOUNT, "f", 5, lambda: None))
    catalog.close()
    catalog = Catalog.open(folder)
    assert list(catalog.concurrency.reservations()) == [(ACCOUNT, "f", 5)]
    catalog.close()


def test_a_newer_schema_is_refused(catalog: Catalog, folder: Path) -> None:
    catalog.close()
    connection = sqlite3.connect(folder / "catalog.sqlite3")
    connection.execute("UPDATE meta SET value = '3' WHERE key = 'schema'")
    connection.commit()
    connection.close()
    with pytest.raises(CatalogError, match="schema version 3, and this release of Insula knows version 2"):
        Catalog.open(folder)


@in_loop
async def test_a_document_of_a_newer_release_is_refused(catalog: Catalog, folder: Path) -> None:
    await create(catalog, make())
    catalog.close()
    connection = sqlite3.connect(folder / "catalog.sqlite3")
    connection.execute("UPDATE versions SET document = json_set(document, '$.novelty', 1)")
    connection.commit()
    connection.close()
    with pytest.raises(CatalogError, match="novelty"):
        Catalog.open(folder)


def test_a_file_that_is_no_database_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    (folder / "catalog.sqlite3").write_bytes(b"not a database" * 1000)
    with pytest.raises(CatalogError, match="cannot be used as the catalog's database"):
        Catalog.open(folder)


_WRITER = """
import asyncio, dataclasses, sys
from pathlib import Path
from insula.store.catalog import Catalog
sys.path.insert(0, sys.argv[2])
from test_catalog import make, number

async def write(catalog):
    i = 0
    while True:
        await catalog.create(make(f"f{i}"), tags={"i": str(i)}, publish=True, published_revision="p1")
        await catalog.replace(make(f"f{i}", "r1", description=str(i)), expected_revision="r0")
        await catalog.publish(make(f"f{i}", "r1"), number)
        print(i, flush=True)
        i += 1

asyncio.run(write(Catalog.open(Path(sys.argv[1]))))
"""


@pytest.mark.parametrize("rounds", [1, 7, 20])
def test_kill_9_loses_nothing_that_was_answered(folder: Path, rounds: int) -> None:
    command = [sys.executable, "-c", _WRITER, str(folder), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        answered = [int(writer.stdout.readline()) for _ in range(rounds)]
        writer.send_signal(signal.SIGKILL)
        answered += [int(line) for line in writer.stdout]
    catalog = Catalog.open(folder)
    for i in answered:
        assert [each.version for each in catalog.versions(ACCOUNT, f"f{i}")] == ["$LATEST", "1", "2"]
        latest = catalog.function(ACCOUNT, f"f{i}")
        assert latest is not None
        assert latest.description == str(i)
        assert catalog.tags(ACCOUNT, f"f{i}") == {"i": str(i)}
    # The write that the kill interrupted is there whole or not at all.
    for each in catalog.functions(ACCOUNT):
        assert len(catalog.versions(ACCOUNT, each.name)) >= 2
    catalog.close()
