"""The aliases of functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sql
from sqlalchemy import ColumnElement, Connection, Executable

from insula.model.alias import Alias
from insula.model.arn import FunctionArn
from insula.model.errors import (
    AliasLimitExceededException,
    ResourceConflictException,
    ResourceNotFoundException,
)
from insula.model.limits import MAX_ALIASES
from insula.store.concurrency import unprovisioning
from insula.store.records import FunctionRecord, Records
from insula.store.schema import aliases
from insula.store.writer import Writer


class Aliases:
    """Part of the catalog; its rules of reading and writing hold here."""

    def __init__(self, records: Records, writer: Writer) -> None:
        self._records = records
        self._writer = writer

    def get(self, account: str, function: str, name: str) -> Alias | None:
        """An alias, or None."""
        found = self._records.find(account, function)
        return found.aliases.get(name) if found else None

    def list(self, account: str, function: str) -> Sequence[Alias]:
        """All aliases of a function, sorted by name."""
        found = self._records.find(account, function)
        return [found.aliases[name] for name in sorted(found.aliases)] if found else []

    async def create(self, alias: Alias) -> None:
        """Store a new alias.

        Raises:
            ResourceNotFoundException: the function, or a version that it points to, is gone.
            ResourceConflictException: there is an alias of that name.
            AliasLimitExceededException: the function has as many as it may.
        """

        def plan() -> tuple[list[Executable], Callable[[], None]]:
            held = self._target(alias)
            if alias.name in held.aliases:
                raise ResourceConflictException(f"Alias already exists: {alias.arn}")
            if len(held.aliases) >= MAX_ALIASES:
                raise AliasLimitExceededException(f"A function may have {MAX_ALIASES} aliases. Delete one first.")
            return [sql.insert(aliases).values(_row(alias))], lambda: held.aliases.update({alias.name: alias})

        await self._writer.write(plan)

    async def update(self, arn: FunctionArn, change: Callable[[Alias], Alias]) -> Alias:
        """Replace an alias by what ``change`` makes of it, which may raise; no other write comes in between.

        Raises:
            ResourceNotFoundException: the alias, or a version that it is to point to, is not there.
        """

        def plan() -> tuple[list[Executable], Callable[[], Alias]]:
            current = self.get(arn.account, arn.name, arn.qualifier or "")
            if current is None:
                raise ResourceNotFoundException(f"Alias not found: {arn}")
            changed = change(current)
            held = self._target(changed)

            def apply() -> Alias:
                held.aliases[changed.name] = changed
                return changed

            return [sql.update(aliases).where(*_is(current)).values(_row(changed))], apply

        return await self._writer.write(plan)

    async def delete(self, account: str, function: str, name: str) -> Alias | None:
        """Delete an alias with its provisioned concurrency.

        Returns:
            The alias, or None if there was none.
        """

        def plan() -> tuple[list[Executable], Callable[[], Alias | None]]:
            held = self._records.find(account, function)
            if held is None or name not in held.aliases:
                return [], lambda: None

            def apply() -> Alias:
                held.provisioned.pop(name, None)
                return held.aliases.pop(name)

            return [
                sql.delete(aliases).where(*_is(held.aliases[name])),
                unprovisioning(account, function, name),
            ], apply

        return await self._writer.write(plan)

    def load(self, connection: Connection) -> None:
        """Read everything, once, when the catalog is opened."""
        for row in connection.execute(sql.select(aliases)).mappings():
            alias = Alias(**row)
            self._records.accounts[alias.account][alias.function].aliases[alias.name] = alias

    def _target(self, alias: Alias) -> FunctionRecord:
        held = self._records.find(alias.account, alias.function)
        for version in alias.versions:
            if held is None or version not in held.versions:
                raise ResourceNotFoundException(f"Function not found: {alias.arn.qualified(version)}")
        assert held is not None
        return held


def _row(alias: Alias) -> dict[str, Any]:
    return {column.name: getattr(alias, column.name) for column in aliases.columns}


def _is(alias: Alias) -> tuple[ColumnElement[bool], ...]:
    return (
        aliases.c.account == alias.account,
        aliases.c.function == alias.function,
        aliases.c.name == alias.name,
    )
