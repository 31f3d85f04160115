"""The figures as Markdown tables: the endpoint, the floor, and the ratio of the two."""

from __future__ import annotations

import os
import platform
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from load import Load, quantile
from measure import CASES, Case, Crowd, Loads, NewTenants
from memory import Growth

Row = Sequence[str]
_Item = TypeVar("_Item")
_MIB = 2**20
_MAX_FAILURE_LINES = 30

_WEIGHTS: Sequence[tuple[str, Callable[[Growth], float]]] = (
    ("PSS", lambda weight: weight.pss / _MIB),
    ("private", lambda weight: weight.private / _MIB),
    ("growth of the whole server", lambda weight: weight.server / _MIB),
)
_CROWD: Sequence[tuple[str, Callable[[Crowd], float | None], str]] = (
    ("time to make all, s", lambda crowd: crowd.seconds, "{:.1f}"),
    ("first invoke with 8 clients, p50, ms", lambda crowd: 1000 * crowd.p50, "{:.1f}"),
    ("memory of the machine for each, MiB", lambda crowd: crowd.machine / _MIB, "{:.2f}"),
    ("rate of the last hundred ÷ the first", lambda crowd: crowd.late_rate, "{:.2f}"),
    ("warm p50 of another tenant beside ÷ before", lambda crowd: crowd.slower, "{:.2f}"),
    ("all gone after DeleteFunction, s", lambda crowd: crowd.gone, "{:.2f}"),
)


@dataclass(frozen=True, slots=True)
class Results:
    """What was measured: a value for each target, the endpoint first and the floor second."""

    labels: tuple[str, str]
    loads: Sequence[Loads]
    new_tenants: Mapping[str, Sequence[NewTenants]]
    ahead: Sequence[NewTenants]
    crowds: Sequence[Crowd]

    def failures(self) -> Iterator[tuple[str, str, str, int]]:
        """What went wrong: measurement, target, what, how often."""
        yield from self._failures("load", [result.failures for result in self.loads])
        for handler, results in self.new_tenants.items():
            yield from self._failures(f"new tenants, {handler}", [result.failures for result in results])
        yield from self._failures("new tenants, ahead", [result.failures for result in self.ahead])
        yield from self._failures("held at once", [result.failures for result in self.crowds])

    def _failures(self, name: str, counters: Sequence[Counter[str]]) -> Iterator[tuple[str, str, str, int]]:
        for label, counter in zip(self.labels, counters, strict=True):
            yield from ((name, label, what, count) for what, count in counter.items())


def machine() -> dict[str, object]:
    """Facts without which figures mean little."""
    total = Path("/proc/meminfo").read_text().split()[1]
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(int(total) / 2**20, 1),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }


def markdown(results: Results, facts: Mapping[str, object]) -> str:
    """All tables, with the machine's facts above and the failures below."""
    endpoint, floor = results.labels
    head = ["", endpoint, floor, f"{endpoint} ÷ {floor}", "samples"]
    parts = [
        "Machine: " + ", ".join(f"{name} {value}" for name, value in facts.items()) + ".",
        "Client: bench/load.py (one thread, epoll), on the same machine.",
        "",
        *_table(head, _load_rows(results.loads)),
        "",
        "Medians over rounds; in brackets the lowest and highest. Ratios are medians of each round's ratio.",
        "",
        *_table(head, (*_tenant_rows(results.new_tenants), *_ahead_rows(results.ahead))),
        "",
        *_table(head, _crowd_rows(results.crowds)),
        "",
        *_failure_lines(results),
    ]
    return "\n".join(parts)


def _load_rows(loads: Sequence[Loads]) -> Iterator[Row]:
    for case in CASES:
        tenants = "1 tenant" if case.tenants == 1 else f"{case.tenants} tenants"
        name = f"{case.clients} client{'s' if case.clients > 1 else ''}, {tenants}"
        if case.clients == 1:
            yield _load_row(f"{name}: p50, ms", loads, case, lambda load: load.p50_ms, "{:.3f}")
            yield _load_row(f"{name}: p99, ms", loads, case, lambda load: load.p99_ms, "{:.2f}")
        yield _load_row(f"{name}: invokes/s", loads, case, lambda load: load.rate, "{:.0f}")


def _load_row(name: str, loads: Sequence[Loads], case: Case, figure: Callable[[Load], float], form: str) -> Row:
    # A round without one right answer has no latency.
    values = [[figure(load) for load in result.samples.get(case, []) if load.requests] for result in loads]
    cells = [_median_and_range(row, form) for row in values]
    ratio = "-"
    if values[0] and len(values[0]) == len(values[1]):
        ratio = _median_and_range([ours / floor for ours, floor in zip(*values, strict=True)], "{:.2f}")
    answers = " / ".join(str(sum(load.requests for load in result.samples.get(case, []))) for result in loads)
    return [name, *cells, ratio, f"{len(values[0])} rounds, {answers} answers"]


def _tenant_rows(measured: Mapping[str, Sequence[NewTenants]]) -> Iterator[Row]:
    for handler, results in measured.items():
        samples = " / ".join(str(len(result.first)) for result in results)
        extra = [[1000 * value for value in result.first_minus_warm()] for result in results]
        name = f"new tenant, {handler} handler"
        for text, share in (("p50", 0.5), ("p99", 0.99)):
            values = [quantile(row, share) if row else None for row in extra]
            yield [f"{name}: first invoke minus warm, {text}, ms", *_pair(values, "{:.1f}"), samples]
        weights = [result.memory for result in results]
        for text, figure in _WEIGHTS:
            values = _each(weights, figure)
            yield [f"idle environment, {handler} handler: {text}, MiB", *_pair(values, "{:.2f}"), samples]


def _ahead_rows(results: Sequence[NewTenants]) -> Iterator[Row]:
    """What a new tenant finds where environments are initialised ahead, in terms of a warm invocation."""
    samples = " / ".join(str(len(result.first)) for result in results)
    for text, share in (("p50", 0.5), ("p90", 0.9)):
        values = [
            quantile(result.first, share) / quantile(result.second, 0.5) if result.first else None for result in results
        ]
        yield [f"new tenant, initialised ahead: first invoke {text} ÷ warm p50", *_pair(values, "{:.2f}"), samples]


def _crowd_rows(crowds: Sequence[Crowd]) -> Iterator[Row]:
    samples = " / ".join(str(crowd.held) for crowd in crowds)
    made = [crowd if crowd.held else None for crowd in crowds]
    weights = [crowd.memory for crowd in crowds]
    rows: list[tuple[str, list[float | None], str]]
    rows = [("tenants", [float(crowd.held) for crowd in crowds], "{:.0f}")]
    rows += [(name, _each(made, figure), form) for name, figure, form in _CROWD]
    rows += [(f"{name} of each, MiB", _each(weights, figure), "{:.2f}") for name, figure in _WEIGHTS]
    for name, values, form in rows:
        yield [f"held at once: {name}", *_pair(values, form), samples]


def _failure_lines(results: Results) -> list[str]:
    failures = list(results.failures())
    if not failures:
        return ["Failures: none; every answer had status 200, no function error and the right body."]
    lines = [f"- {label}, {name}: {count} x {' '.join(what.split())}" for name, label, what, count in failures]
    if len(lines) > _MAX_FAILURE_LINES:
        more = len(lines) - _MAX_FAILURE_LINES
        lines[_MAX_FAILURE_LINES:] = [f"- and {more} more kinds; --json keeps them all"]
    return ["**FAILURES**; figures of these measurements hold for the right answers only:", "", *lines]


def _pair(values: Sequence[float | None], form: str) -> list[str]:
    """Both values and their ratio."""
    ours, floor = values
    ratio = f"{ours / floor:.2f}" if ours is not None and floor else "-"
    return [*("-" if value is None else form.format(value) for value in values), ratio]


def _median_and_range(values: Sequence[float], form: str) -> str:
    if not values:
        return "-"
    median, low, high = (form.format(value) for value in (statistics.median(values), min(values), max(values)))
    return f"{median} ({low} to {high})"


def _each(items: Sequence[_Item | None], figure: Callable[[_Item], float | None]) -> list[float | None]:
    return [None if item is None else figure(item) for item in items]


def _table(head: Row, rows: Iterable[Row]) -> Iterator[str]:
    for row in (head, ["---", *("---:" for _ in head[1:])], *rows):
        yield "| " + " | ".join(row) + " |"
