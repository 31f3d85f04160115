"""Layers and their versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, Executable, delete, insert, select, update

from insula.model.layer import LayerVersion
from insula.store.schema import layer_versions, layers
from insula.store.writer import Writer


@dataclass(slots=True)
class _Layer:
    """``versions`` holds the numbers in order, as insertion made them."""

    next_version: int = 1
    versions: dict[int, LayerVersion] = field(default_factory=dict)


class Layers:
    """Part of the catalog; its rules of reading and writing hold here."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._accounts: dict[str, dict[str, _Layer]] = {}

    def version(self, account: str, name: str, number: int) -> LayerVersion | None:
        """A version of a layer, or None."""
        found = self._find(account, name)
        return found.versions.get(number) if found else None

    def versions(self, account: str, name: str) -> Sequence[LayerVersion]:
        """All versions of a layer, newest first."""
        found = self._find(account, name)
        return tuple(reversed(found.versions.values())) if found else ()

    def names(self, account: str) -> Sequence[str]:
        """Names of the account's layers, sorted; a layer may have no version left."""
        return sorted(self._accounts.get(account, {}))

    def all_versions(self) -> Iterator[LayerVersion]:
        """Every version of every layer of every account."""
        for held in self._accounts.values():
            for layer in held.values():
                yield from layer.versions.values()

    async def publish(self, account: str, name: str, make: Callable[[int], LayerVersion]) -> LayerVersion:
        """Store what ``make`` returns for the next number, which is never given twice."""

        def plan() -> tuple[list[Executable], Callable[[], LayerVersion]]:
            held = self._find(account, name)
            layer = held or _Layer()
            made = make(layer.next_version)
            row = {
                "account": account,
                "name": name,
                "version": made.version,
                "document": made.to_document(),
                "sha256": made.sha256,
            }

            def apply() -> LayerVersion:
                layer.next_version = made.version + 1
                layer.versions[made.version] = made
                self._accounts.setdefault(account, {})[name] = layer
                return made

            return [
                _count(account, name, made.version + 1, new=held is None),
                insert(layer_versions).values(row),
            ], apply

        return await self._writer.write(plan)

    async def delete(self, account: str, name: str, number: int) -> None:
        """Delete a version; its number is not given again. None is no error."""

        def plan() -> tuple[list[Executable], Callable[[], None]]:
            held = self._find(account, name)
            if held is None or number not in held.versions:
                return [], lambda: None

            def apply() -> None:
                del held.versions[number]

            where = (
                layer_versions.c.account == account,
                layer_versions.c.name == name,
                layer_versions.c.version == number,
            )
            return [delete(layer_versions).where(*where)], apply

        await self._writer.write(plan)

    def load(self, connection: Connection) -> None:
        """Read everything, once, when the catalog is opened."""
        for row in connection.execute(select(layers)):
            self._accounts.setdefault(row.account, {})[row.name] = _Layer(row.next_version)
        for document in connection.scalars(select(layer_versions.c.document).order_by(layer_versions.c.version)):
            found = LayerVersion.from_document(document)
            self._accounts[found.account][found.name].versions[found.version] = found

    def _find(self, account: str, name: str) -> _Layer | None:
        return self._accounts.get(account, {}).get(name)


def _count(account: str, name: str, next_version: int, *, new: bool) -> Executable:
    if new:
        return insert(layers).values(account=account, name=name, next_version=next_version)
    where = (layers.c.account == account, layers.c.name == name)
    return update(layers).where(*where).values(next_version=next_version)
