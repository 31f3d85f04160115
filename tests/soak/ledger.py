"""What was asked, what was answered, and what was wrong with it."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """One invocation.

    Attributes:
        token: comes back in the answer.
        least: the oldest generation that may answer; None if any may.
    """

    function: str
    tenant: str | None
    deed: str
    token: str
    least: int | None


@dataclass
class Ledger:
    """Everything that the threads of the soak report.

    Attributes:
        outcomes: by function and outcome.
        deeds: of the soak: changes and kills.
        generations: by function, the newest that is known to serve.
        problems: promises that were broken.
    """

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    deeds: Counter[str] = field(default_factory=Counter)
    generations: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _owners: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    _runs: set[tuple[str, int]] = field(default_factory=set)

    def note(self, deed: str) -> None:
        """The soak did something."""
        with self._lock:
            self.deeds[deed] += 1

    def problem(self, what: str) -> None:
        """A promise was broken."""
        with self._lock:
            self.problems.append(what)

    def outcome(self, request: Request, outcome: str) -> None:
        """A request is over."""
        with self._lock:
            self.outcomes[request.function, outcome] += 1

    def answered(self, request: Request, document: Any) -> None:
        """A function answered: it must be the right one, with the right answer, once."""
        with self._lock:
            self.outcomes[request.function, "answered"] += 1
            self.problems += [
                f"{what}: {request} was answered with {document}" for what in self._judge(request, document)
            ]

    def _judge(self, request: Request, document: Any) -> list[str]:
        wrong = []
        me, run = str(document["me"]), (str(document["me"]), int(document["count"]))
        if document["token"] != request.token:
            wrong.append("another's answer")
        if document["tenants"] != [request.tenant]:
            wrong.append("another tenant was here")
        if self._owners.setdefault(me, (request.function, request.tenant)) != (request.function, request.tenant):
            wrong.append("an environment was used twice")
        if run in self._runs:
            wrong.append("one run answered two callers")
        if request.least is not None and document["generation"] < request.least:
            wrong.append("old code")
        self._runs.add(run)
        return wrong
