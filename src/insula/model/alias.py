"""Aliases: names for one published version of a function, or for two that share its invocations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from insula.model.arn import FunctionArn


@dataclass(frozen=True, slots=True)
class Alias:
    """An alias.

    Attributes:
        function: name of the function.
        version: the version that it points to; ``$LATEST`` or a number.
        revision: AWS's ``RevisionId``; changes on every write.
        additional: a second version, or None.
        weight: share of the invocations that ``additional`` gets, 0 to 1.
    """

    account: str
    region: str
    function: str
    name: str
    version: str
    revision: str
    description: str = ""
    additional: str | None = None
    weight: float = 0.0

    @property
    def arn(self) -> FunctionArn:
        """The alias's ARN."""
        return FunctionArn(self.region, self.account, self.function, self.name)

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions that it points to, the main one first."""
        return (self.version,) if self.additional is None else (self.version, self.additional)

    def choose(self, random: Callable[[], float]) -> str:
        """The version that one invocation gets.

        Args:
            random: a number from 0 up to, and without, 1.
        """
        if self.additional is not None and random() < self.weight:
            return self.additional
        return self.version

    def split(self, count: int) -> Mapping[str, int]:
        """Divide a number of environments among the versions by their weights."""
        if self.additional is None:
            return {self.version: count}
        share = round(count * self.weight)
        return {self.version: count - share, self.additional: share}
