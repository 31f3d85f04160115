"""Tenant isolation mode as its document describes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.conftest import Function

COUNTER = """
import os, uuid
ENVIRONMENT = uuid.uuid4().hex
count = 0
def handler(event, context):
    global count
    count += 1
    return {"environment": ENVIRONMENT, "count": count, "tenant": context.tenant_id}
"""


def test_a_tenant_reuses_its_environment_and_never_another_ones(function: Callable[..., Function]) -> None:
    counter = function(COUNTER, tenancy=True)
    answers: dict[str, list[Any]] = {"blue": [], "green": []}
    for tenant in ("blue", "green", "blue", "green"):
        answers[tenant].append(counter.invoke(tenant=tenant))
    for tenant, (first, second) in answers.items():
        assert first["tenant"] == second["tenant"] == tenant
        assert first["environment"] == second["environment"]
        assert (first["count"], second["count"]) == (1, 2)
    assert answers["blue"][0]["environment"] != answers["green"][0]["environment"]
