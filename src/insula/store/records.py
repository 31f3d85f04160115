"""What the catalog holds in memory of functions."""

from __future__ import annotations

from dataclasses import dataclass, field

from insula.model.alias import Alias
from insula.model.function import FunctionVersion
from insula.model.provision import ProvisionedConcurrency


@dataclass(slots=True)
class FunctionRecord:
    """One function.

    Attributes:
        versions: ``$LATEST`` first and then the numbers in order, as insertion made them.
        reserved: reserved concurrency, or None.
        provisioned: by qualifier.
    """

    next_version: int
    tags: dict[str, str]
    versions: dict[str, FunctionVersion]
    aliases: dict[str, Alias] = field(default_factory=dict)
    reserved: int | None = None
    provisioned: dict[str, ProvisionedConcurrency] = field(default_factory=dict)


class Records:
    """All functions, by account and name."""

    def __init__(self) -> None:
        self.accounts: dict[str, dict[str, FunctionRecord]] = {}

    def find(self, account: str, name: str) -> FunctionRecord | None:
        """A function, or None."""
        return self.accounts.get(account, {}).get(name)
