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
)
from sqlalchemy.exc import DBAPIError

SCHEMA_VERSION = 1
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
    """Open the catalog's database in a data folder, and make its tables if there are none.

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
    _metadata.create_all(connection)
    found = connection.scalar(select(meta.c.value).where(meta.c.key == "schema"))
    if found is None:
        connection.execute(insert(meta).values(key="schema", value=str(SCHEMA_VERSION)))
    elif found != str(SCHEMA_VERSION):
        raise CatalogError(
            f"{path} has schema version {found}, and this release of Insula knows version {SCHEMA_VERSION}. "
            "Use the release that wrote it, or another data folder."
        )
