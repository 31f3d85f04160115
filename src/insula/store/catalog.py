"""The catalog: which functions, layers and access keys there are.

Reads are served from memory. A write is checked against memory, committed in one transaction in a worker
thread, and only then applied to memory, one at a time; so memory never says what the database does not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, Executable, delete, insert, select, update
from sqlalchemy.exc import DBAPIError

from insula.model.arn import LATEST
from insula.model.errors import (
    STALE_REVISION,
    InvalidParameterValueException,
    PreconditionFailedException,
    ResourceConflictException,
    ResourceNotFoundException,
)
from insula.model.function import FunctionVersion
from insula.store.aliases import Aliases
from insula.store.concurrency import Concurrency, unprovisioning
from insula.store.folder import claim_folder
from insula.store.keys import AccessKey, load_access_keys, new_access_key, save_access_key
from insula.store.layers import Layers
from insula.store.records import FunctionRecord, Records
from insula.store.schema import CatalogError, functions, open_database, versions
from insula.store.writer import Writer

_T = TypeVar("_T")


class Catalog:
    """Functions, their versions and tags, and access keys. Make one with ``open``.

    Reads may be called at any time from the event loop's thread. Writes are awaited; a caller that is
    cancelled while its write waits for its turn has written nothing, one that is cancelled later all.

    Attributes:
        aliases: of functions.
        concurrency: reserved and provisioned concurrency of functions.
        layers: layers and their versions.
    """

    def __init__(self, engine: Engine, lock_file: int) -> None:
        self._engine = engine
        self._lock_file = lock_file
        self._records = Records()
        self._writer = Writer(engine)
        self._listings: dict[str, Sequence[FunctionVersion]] = {}
        self._keys: dict[str, AccessKey] = {}
        self.aliases = Aliases(self._records, self._writer)
        self.concurrency = Concurrency(self._records, self._writer)
        self.layers = Layers(self._writer)

    @classmethod
    def open(cls, path: Path) -> Catalog:
        """Open the catalog of a data folder, which is made if it is missing, and own it until ``close``.

        Raises:
            CatalogError: another server owns the folder, or the database is damaged or of a newer release.
        """
        lock_file = claim_folder(path)
        try:
            catalog = cls(open_database(path), lock_file)
        except BaseException:
            os.close(lock_file)
            raise
        try:
            with catalog._engine.connect() as connection:
                catalog._load(connection)
        except (DBAPIError, ValueError, TypeError) as error:
            catalog.close()
            raise CatalogError(f"The catalog in {path} cannot be read: {error}") from error
        return catalog

    def close(self) -> None:
        """Give the data folder free. Idempotent."""
        self._engine.dispose()
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    def function(self, account: str, name: str, version: str = LATEST) -> FunctionVersion | None:
        """A version of a function, or None."""
        found = self._records.find(account, name)
        return found.versions.get(version) if found else None

    def functions(self, account: str) -> Sequence[FunctionVersion]:
        """``$LATEST`` of each function of the account, sorted by name."""
        listing = self._listings.get(account)
        if listing is None:
            held = self._records.accounts.get(account, {})
            listing = self._listings[account] = tuple(held[name].versions[LATEST] for name in sorted(held))
        return listing

    def versions(self, account: str, name: str) -> Sequence[FunctionVersion]:
        """``$LATEST`` and then the published versions in order; empty if there is no such function."""
        found = self._records.find(account, name)
        return tuple(found.versions.values()) if found else ()

    def all_functions(self) -> Iterable[FunctionVersion]:
        """Every version of every function of every account."""
        return [
            version
            for held in self._records.accounts.values()
            for function in held.values()
            for version in function.versions.values()
        ]

    def tags(self, account: str, name: str) -> Mapping[str, str]:
        """A function's tags; empty if there is no such function."""
        found = self._records.find(account, name)
        return dict(found.tags) if found else {}

    async def create(
        self,
        latest: FunctionVersion,
        *,
        tags: Mapping[str, str],
        publish: bool,
        published_revision: str | None = None,
    ) -> FunctionVersion | None:
        """Store a new function, and with ``publish`` its version 1 in the same transaction.

        Returns:
            The published version, or None.

        Raises:
            ResourceConflictException: there is a function of that name.
        """
        published = _first_version(latest, published_revision) if publish else None
        stored = [latest] if published is None else [latest, published]
        function = FunctionRecord(len(stored), dict(tags), {each.version: each for each in stored})

        def plan() -> tuple[list[Executable], Callable[[], FunctionVersion | None]]:
            if self._records.find(latest.account, latest.name):
                raise ResourceConflictException(f"Function already exist: {latest.name}")
            row = {"next_version": function.next_version, "tags": function.tags}
            statements: list[Executable] = [
                insert(functions).values(account=latest.account, name=latest.name, **row),
                insert(versions).values([_row(each) for each in stored]),
            ]

            def apply() -> FunctionVersion | None:
                self._records.accounts.setdefault(latest.account, {})[latest.name] = function
                self._listings.pop(latest.account, None)
                return published

            return statements, apply

        return await self._writer.write(plan)

    async def replace(self, function: FunctionVersion, *, expected_revision: str) -> None:
        """Replace one version's document if its revision is still the expected one.

        Raises:
            PreconditionFailedException: it was written since.
            ResourceNotFoundException: it is gone.
        """

        def plan() -> tuple[list[Executable], Callable[[], None]]:
            held = self._current(function, expected_revision)

            def apply() -> None:
                held.versions[function.version] = function
                self._listings.pop(function.account, None)

            return [update(versions).where(*_is(function)).values(_row(function))], apply

        await self._writer.write(plan)

    async def publish(
        self, latest: FunctionVersion, make: Callable[[FunctionVersion, int], FunctionVersion]
    ) -> FunctionVersion:
        """Store what ``make(latest, number)`` returns under the next number, which is never given twice.

        Raises:
            PreconditionFailedException: ``latest`` was written since.
            ResourceNotFoundException: it is gone.
        """

        def plan() -> tuple[list[Executable], Callable[[], FunctionVersion]]:
            held = self._current(latest, latest.revision)
            number = held.next_version
            published = make(latest, number)
            if published.version != str(number):
                raise ValueError(f"version {number} was to be made, and {published.version} was")
            statements: list[Executable] = [
                update(functions)
                .where(functions.c.account == latest.account, functions.c.name == latest.name)
                .values(next_version=number + 1),
                insert(versions).values(_row(published)),
            ]

            def apply() -> FunctionVersion:
                held.next_version = number + 1
                held.versions[published.version] = published
                return published

            return statements, apply

        return await self._writer.write(plan)

    async def delete(self, account: str, name: str) -> Sequence[FunctionVersion]:
        """Delete a function with all that is its own.

        Returns:
            The versions that it had; empty if there was no such function.
        """

        def plan() -> tuple[list[Executable], Callable[[], Sequence[FunctionVersion]]]:
            gone = self.versions(account, name)

            def apply() -> Sequence[FunctionVersion]:
                self._records.accounts.get(account, {}).pop(name, None)
                self._listings.pop(account, None)
                return gone

            # All that is the function's goes with it (ON DELETE CASCADE).
            return [delete(functions).where(functions.c.account == account, functions.c.name == name)], apply

        return await self._writer.write(plan)

    async def delete_version(self, account: str, name: str, version: str) -> FunctionVersion | None:
        """Delete a published version with its provisioned concurrency; its number is not given again.

        Returns:
            The version, or None if there was none.

        Raises:
            InvalidParameterValueException: ``$LATEST``, which goes only with its function.
            ResourceConflictException: an alias points to it.
        """
        if version == LATEST:
            raise InvalidParameterValueException("$LATEST version cannot be deleted without deleting the function.")

        def plan() -> tuple[list[Executable], Callable[[], FunctionVersion | None]]:
            gone = self.function(account, name, version)
            if gone is None:
                return [], lambda: None
            held = self._records.accounts[account][name]
            pointing = sorted(alias.name for alias in held.aliases.values() if version in alias.versions)
            if pointing:
                raise ResourceConflictException(
                    f"Unable to delete version because the following aliases reference it: [{', '.join(pointing)}]"
                )

            def apply() -> FunctionVersion:
                held.provisioned.pop(version, None)
                return held.versions.pop(version)

            return [delete(versions).where(*_is(gone)), unprovisioning(account, name, version)], apply

        return await self._writer.write(plan)

    async def set_tags(self, account: str, name: str, tags: Mapping[str, str]) -> None:
        """Replace all tags of a function.

        Raises:
            ResourceNotFoundException: there is no such function.
        """
        stored = dict(tags)

        def plan() -> tuple[list[Executable], Callable[[], None]]:
            held = self._records.find(account, name)
            if held is None:
                raise ResourceNotFoundException(f"Function not found: {name}")

            def apply() -> None:
                held.tags = stored

            where = (functions.c.account == account, functions.c.name == name)
            return [update(functions).where(*where).values(tags=stored)], apply

        await self._writer.write(plan)

    def credential(self, access_key: str) -> tuple[str, str] | None:
        """Secret and account of an access key, or None."""
        found = self._keys.get(access_key)
        return (found.secret, found.account) if found else None

    def create_access_key(self, account: str) -> tuple[str, str]:
        """Make and store an access key, synchronously: for the server's start.

        Returns:
            Access key id and secret.
        """
        key = new_access_key(account, time.time())
        with self._engine.begin() as connection:
            save_access_key(connection, key)
        self._keys[key.access_key] = key
        return key.access_key, key.secret

    def access_keys(self, account: str) -> Sequence[tuple[str, str]]:
        """The account's access key ids and secrets, oldest first."""
        return tuple((key.access_key, key.secret) for key in self._keys.values() if key.account == account)

    def _current(self, function: FunctionVersion, revision: str) -> FunctionRecord:
        held = self._records.find(function.account, function.name)
        current = held.versions.get(function.version) if held else None
        if held is None or current is None:
            raise ResourceNotFoundException(f"Function not found: {function.arn}")
        if current.revision != revision:
            raise PreconditionFailedException(STALE_REVISION)
        return held

    def _load(self, connection: Connection) -> None:
        self._keys = {key.access_key: key for key in load_access_keys(connection)}
        for row in connection.execute(select(functions)):
            self._records.accounts.setdefault(row.account, {})[row.name] = FunctionRecord(
                row.next_version, row.tags, {}
            )
        documents = connection.scalars(select(versions.c.document))
        for function in sorted((FunctionVersion.from_document(each) for each in documents), key=_number):
            self._records.accounts[function.account][function.name].versions[function.version] = function
        self.aliases.load(connection)
        self.concurrency.load(connection)
        self.layers.load(connection)


def _number(function: FunctionVersion) -> int:
    return 0 if function.version == LATEST else int(function.version)


def _first_version(latest: FunctionVersion, revision: str | None) -> FunctionVersion:
    if revision is None:
        raise ValueError("publish needs published_revision")
    return replace(latest, version="1", revision=revision, deployment=f"{latest.deployment}:1")


def _row(function: FunctionVersion) -> dict[str, Any]:
    return {
        "account": function.account,
        "name": function.name,
        "version": function.version,
        "document": function.to_document(),
        "deployment": function.deployment,
        "code_sha256": function.code_sha256,
    }


def _is(function: FunctionVersion) -> tuple[ColumnElement[bool], ...]:
    return (
        versions.c.account == function.account,
        versions.c.name == function.name,
        versions.c.version == function.version,
    )
