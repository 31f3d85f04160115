"""Tables of the catalog, and opening the SQLite file that holds them.

SQLite's settings: https://www.sqlite.org/pragma.html
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import (
    JSON,
    URL,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    insert,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError

SCHEMA_VERSION = 2
DATABASE = "catalog.sqlite3"

_metadata = MetaData()

meta = Table(
    "meta",
    _metadata,
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
)

functions = Table(
    "functions",
    _metadata,
    Column("account", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("next_version", Integer, nullable=False),
    Column("tags", JSON, nullable=False),
)

versions = Table(
    "versions",
    _metadata,
    Column("account", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("version", String, primary_key=True),
    Column("document", JSON, nullable=False),
    Column("deployment", String, nullable=False),
    Column("code_sha256", String, nullable=False),
    ForeignKeyConstraint(["account", "name"], ["functions.account", "functions.name"], ondelete="CASCADE"),
)

aliases = Table(
    "aliases",
    _metadata,
    Column("account", String, primary_key=True),
    Column("function", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("region", String, nullable=False),
    Column("version", String, nullable=False),
    Column("revision", String, nullable=False),
    Column("description", String, nullable=False),
    Column("additional", String),
    Column("weight", Float, nullable=False),
    ForeignKeyConstraint(["account", "function"], ["functions.account", "functions.name"], ondelete="CASCADE"),
)

reservations = Table(
    "reservations",
    _metadata,
    Column("account", String, primary_key=True),
    Column("function", String, primary_key=True),
    Column("concurrency", Integer, nullable=False),
    ForeignKeyConstraint(["account", "function"], ["functions.account", "functions.name"], ondelete="CASCADE"),
)

provisions = Table(
    "provisions",
    _metadata,
    Column("account", String, primary_key=True),
    Column("function", String, primary_key=True),
    Column("qualifier", String, primary_key=True),
    Column("requested", Integer, nullable=False),
    Column("last_modified", String, nullable=False),
    ForeignKeyConstraint(["account", "function"], ["functions.account", "functions.name"], ondelete="CASCADE"),
)

layers = Table(
    "layers",
    _metadata,
    Column("account", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("next_version", Integer, nullable=False),
)

layer_versions = Table(
    "layer_versions",
    _metadata,
    Column("account", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("document", JSON, nullable=False),
    Column("sha256", String, nullable=False),
    ForeignKeyConstraint(["account", "name"], ["layers.account", "layers.name"]),
)

access_keys = Table(
    "access_keys",
    _metadata,
    Column("access_key", String, primary_key=True),
    Column("secret", String, nullable=False),
    Column("account", String, nullable=False),
    Column("created", Float, nullable=False),  # unix seconds
)


class CatalogError(Exception):
    """The catalog cannot be opened; the message says why and what to do."""


def open_database(folder: Path) -> Engine:
    """Open the catalog's database in a data folder; make its tables, or those that an older release had not.

    Raises:
        CatalogError: not a database, damaged, or written by a newer release.
    """
    path = folder / DATABASE
    # SQLite gives its -wal and -shm files the mode of the database: secrets are the owner's alone.
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        path.chmod(0o600)
    except OSError as error:
        raise CatalogError(f"{path} cannot be opened: {error.strerror}.") from error
    engine = create_engine(URL.create("sqlite", database=str(path)))
    event.listen(engine, "connect", _configure)
    try:
        with engine.begin() as connection:
            _prepare(connection, path)
    except DBAPIError as error:
        engine.dispose()
        raise CatalogError(f"{path} cannot be used as the catalog's database: {error.orig}") from error
    except CatalogError:
        engine.dispose()
        raise
    return engine


def open_readonly(folder: Path) -> Engine:
    """A connection that only reads, for a process beside the server. The file must exist."""
    uri = f"file:{quote(str((folder / DATABASE).absolute()))}?mode=ro"
    return create_engine("sqlite://", creator=lambda: sqlite3.connect(uri, uri=True, timeout=5.0))


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        connection.execute(f"PRAGMA {pragma}").close()


def _prepare(connection: Connection, path: Path) -> None:
    meta.create(connection, checkfirst=True)
    found = connection.scalar(select(meta.c.value).where(meta.c.key == "schema"))
    if found not in (None, "1", str(SCHEMA_VERSION)):
        raise CatalogError(
            f"{path} has schema version {found}, and this release of Insula knows version {SCHEMA_VERSION}. "
            "Use the release that wrote it, or another data folder."
        )
    # All that version 2 adds to version 1 are tables.
    _metadata.create_all(connection)
    if found is None:
        connection.execute(insert(meta).values(key="schema", value=str(SCHEMA_VERSION)))
    else:
        connection.execute(update(meta).where(meta.c.key == "schema").values(value=str(SCHEMA_VERSION)))
