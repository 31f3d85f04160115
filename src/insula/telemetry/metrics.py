"""Counts of environments and invocations, in Prometheus' text format. No tenant is named in them.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/ and .../best_practices/naming/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()
_KINDS = ("starting", "bound", "unbound", "provisioned")


@dataclass(frozen=True, slots=True)
class Counts:
    """What the dispatcher has counted since its start, and what it has now.

    Attributes:
        made: environments that were made.
        ended: those of which nothing is left.
        alive: those that live, counted one by one, by what they are: ``starting``, ``bound`` to a tenant or to all
            callers of a function without tenancy, ``unbound`` and ready, or ``provisioned``.
        taken: concurrency slots that were taken: invocations that began.
        given: slots that were given back.
        running: invocations that run or wait for an environment, as the functions count them.
        rooms: tenant environments, as the limits count them.
        tenants: tenant environments that live or are being made, counted one by one.
        starts: invocations that were handed to an environment, by what they found: ``warm``, ``cold``, ``proactive``
            or ``provisioned``.
        throttles: invocations that a limit refused, by AWS's reason.
        violations: of isolation, each stopped before it did harm.
    """

    made: int
    ended: int
    alive: Mapping[str, int]
    taken: int
    given: int
    running: int
    rooms: int
    tenants: int
    starts: Mapping[str, int]
    throttles: Mapping[str, int]
    violations: int


class Metrics:
    """Renders counts that are asked for at each scrape.

    Args:
        ask: the counts of the moment.
    """

    def __init__(self, ask: Callable[[], Counts]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Counted(ask))

    def render(self) -> bytes:
        """All metrics, of the type ``CONTENT_TYPE``."""
        return generate_latest(self._registry)


class _Counted(Collector):
    def __init__(self, ask: Callable[[], Counts]) -> None:
        self._ask = ask

    def describe(self) -> Iterable[Metric]:
        """Nothing: else the registry would ask for the counts once more, to learn the names."""
        return ()

    def collect(self) -> Iterable[Metric]:
        now = self._ask()
        yield _counter("insula_environments_made", "Execution environments made.", now.made)
        yield _counter("insula_environments_ended", "Execution environments of which nothing is left.", now.ended)
        alive = GaugeMetricFamily(
            "insula_environments", "Execution environments that live, by what they are.", labels=["kind"]
        )
        for kind in _KINDS:
            alive.add_metric([kind], now.alive.get(kind, 0))
        yield alive
        yield _counter("insula_invocations_begun", "Invocations that took a concurrency slot.", now.taken)
        yield _counter("insula_invocations_settled", "Invocations whose concurrency slot came back.", now.given)
        yield GaugeMetricFamily("insula_invocations_running", "Invocations that run or wait.", now.running)
        yield _labelled("insula_starts", "Invocations handed over, by what they found.", "start", now.starts)
        yield _labelled("insula_throttles", "Invocations that a limit refused.", "reason", now.throttles)
        yield _counter("insula_security_violations", "Violations of isolation that were stopped.", now.violations)
        drift = "Must be 0: "
        yield GaugeMetricFamily(
            "insula_environment_drift",
            drift + "environments made - ended - alive.",
            now.made - now.ended - sum(now.alive.values()),
        )
        yield GaugeMetricFamily(
            "insula_slot_drift", drift + "slots taken - given - running.", now.taken - now.given - now.running
        )
        yield GaugeMetricFamily(
            "insula_room_drift", drift + "tenant environments by the limits - by count.", now.rooms - now.tenants
        )


def _counter(name: str, text: str, value: int) -> Metric:
    return CounterMetricFamily(name, text, value)


def _labelled(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
