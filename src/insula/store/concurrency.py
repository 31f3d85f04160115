"""Reserved and provisioned concurrency of functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from sqlalchemy import Connection, Executable, delete, insert, select

from insula.model.errors import ResourceNotFoundException
from insula.model.provision import ProvisionedConcurrency
from insula.store.records import FunctionRecord, Records
from insula.store.schema import provisions, reservations
from insula.store.writer import Writer

Check = Callable[[], None]


class Concurrency:
    """Part of the catalog; its rules of reading and writing hold here.

    A limit that spans functions is checked by the caller's ``check``, which is called when no other write is under
    way, and raises to refuse.
    """

    def __init__(self, records: Records, writer: Writer) -> None:
        self._records = records
        self._writer = writer

    def reserved(self, account: str, function: str) -> int | None:
        """Reserved concurrency of a function, or None."""
        found = self._records.find(account, function)
        return found.reserved if found else None

    def provisioned(self, account: str, function: str) -> Mapping[str, ProvisionedConcurrency]:
        """Provisioned concurrency of a function's versions and aliases, by qualifier."""
        found = self._records.find(account, function)
        return dict(found.provisioned) if found else {}

    def reservations(self) -> Iterator[tuple[str, str, int]]:
        """Account, function and reserved concurrency of every function that has some."""
        for account, held in self._records.accounts.items():
            for name, function in held.items():
                if function.reserved is not None:
                    yield account, name, function.reserved

    def provisioned_functions(self) -> Iterator[tuple[str, str]]:
        """Account and name of every function with provisioned concurrency."""
        for account, held in self._records.accounts.items():
            for name, function in held.items():
                if function.provisioned:
                    yield account, name

    async def reserve(self, account: str, function: str, concurrency: int | None, check: Check) -> None:
        """Store a function's reserved concurrency; None takes it away.

        Raises:
            ResourceNotFoundException: there is no such function.
        """

        def plan() -> tuple[list[Executable], Callable[[], None]]:
            held = self._function(account, function)
            check()
            statements: list[Executable] = [
                delete(reservations).where(reservations.c.account == account, reservations.c.function == function)
            ]
            if concurrency is not None:
                row = {"account": account, "function": function, "concurrency": concurrency}
                statements.append(insert(reservations).values(row))

            def apply() -> None:
                held.reserved = concurrency

            return statements, apply

        await self._writer.write(plan)

    async def provision(self, account: str, function: str, config: ProvisionedConcurrency, check: Check) -> None:
        """Store provisioned concurrency in place of what its qualifier had.

        Raises:
            ResourceNotFoundException: there is no such function.
        """

        def plan() -> tuple[list[Executable], Callable[[], None]]:
            held = self._function(account, function)
            check()
            row = {
                "account": account,
                "function": function,
                "qualifier": config.qualifier,
                "requested": config.requested,
                "last_modified": config.last_modified,
            }
            statements = [unprovisioning(account, function, config.qualifier), insert(provisions).values(row)]
            return statements, lambda: held.provisioned.update({config.qualifier: config})

        await self._writer.write(plan)

    async def unprovision(self, account: str, function: str, qualifier: str) -> None:
        """Take provisioned concurrency away; none is no error."""

        def plan() -> tuple[list[Executable], Callable[[], None]]:
            held = self._records.find(account, function)
            if held is None or qualifier not in held.provisioned:
                return [], lambda: None

            def apply() -> None:
                del held.provisioned[qualifier]

            return [unprovisioning(account, function, qualifier)], apply

        await self._writer.write(plan)

    def load(self, connection: Connection) -> None:
        """Read everything, once, when the catalog is opened."""
        for row in connection.execute(select(reservations)):
            self._records.accounts[row.account][row.function].reserved = row.concurrency
        for row in connection.execute(select(provisions)):
            config = ProvisionedConcurrency(row.qualifier, row.requested, row.last_modified)
            self._records.accounts[row.account][row.function].provisioned[row.qualifier] = config

    def _function(self, account: str, name: str) -> FunctionRecord:
        held = self._records.find(account, name)
        if held is None:
            raise ResourceNotFoundException(f"Function not found: {name}")
        return held


def unprovisioning(account: str, function: str, qualifier: str) -> Executable:
    """The statement that takes the provisioned concurrency of a version or an alias away."""
    return delete(provisions).where(
        provisions.c.account == account, provisions.c.function == function, provisions.c.qualifier == qualifier
    )
