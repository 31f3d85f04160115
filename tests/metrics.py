"""Metrics, read as Prometheus reads them."""

from __future__ import annotations

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.server import Server

DRIFTS = ("insula_environment_drift", "insula_slot_drift", "insula_room_drift")


def samples(text: str) -> dict[str, float]:
    """All samples: by name, or by name and the value of the label, with a comma between them."""
    found = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {",".join([sample.name, *sample.labels.values()]): sample.value for sample in found}


def scrape(server: Server) -> dict[str, float]:
    """The samples of a running server."""
    with urllib.request.urlopen(server.endpoint + "/metrics", timeout=30) as answer:
        return samples(answer.read().decode())
