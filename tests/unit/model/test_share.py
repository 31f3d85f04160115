"""Limits of tenants are read as they are written, or refused with words that help."""

from __future__ import annotations

from typing import Any

import pytest

from insula.model.share import Shares, TenantLimits, read_shares


def test_nothing_limits_nobody() -> None:
    assert read_shares({}) == Shares()
    assert Shares().of("blue") == TenantLimits(None, None, None)


def test_the_default_is_everybodys_but_for_those_who_have_their_own() -> None:
    shares = read_shares(
        {
            "default": {"concurrency": 2, "environments": 5, "requests_per_second": 0.5},
            "tenants": {"blue": {"concurrency": 10}, "red": {"environments": "none", "requests_per_second": 7}},
        }
    )
    assert shares.of("green") == TenantLimits(2, 5, 0.5)
    assert shares.of("blue") == TenantLimits(10, 5, 0.5)
    assert shares.of("red") == TenantLimits(2, None, 7)
    assert shares.of("Blue") == shares.default


def test_zero_is_a_limit() -> None:
    assert read_shares({"default": {"concurrency": 0}}).of("blue").concurrency == 0


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"defaults": {}}, ["'defaults'", "[default]", '[tenants."ID"]']),
        ({"default": 3}, ["[default]", "concurrency, environments, requests_per_second"]),
        ({"default": {"memory": 3}}, ["[default]", "'memory'", "concurrency, environments, requests_per_second"]),
        ({"tenants": 3}, ['[tenants."ID"]']),
        ({"tenants": {"blue": 3}}, ["[tenants.blue]", "concurrency"]),
        ({"tenants": {"blue": {"rate": 3}}}, ["[tenants.blue]", "'rate'"]),
        ({"default": {"concurrency": 1.5}}, ["default.concurrency", "1.5", "whole number"]),
        ({"default": {"environments": -1}}, ["default.environments", "-1", "0 to 1000000"]),
        ({"default": {"concurrency": True}}, ["default.concurrency", "True"]),
        ({"default": {"concurrency": "3"}}, ["'3'", '"none"']),
        ({"default": {"concurrency": 1_000_001}}, ["1000001"]),
        ({"default": {"requests_per_second": float("nan")}}, ["nan"]),
        ({"default": {"requests_per_second": float("inf")}}, ["inf"]),
        ({"tenants": {"blue": {"requests_per_second": []}}}, ["tenants.blue.requests_per_second", "[]"]),
    ],
)
def test_what_is_no_limit_is_refused_by_name(document: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as refused:
        read_shares(document)
    assert all(word in str(refused.value) for word in words), refused.value


@pytest.mark.parametrize("name", ["", "a,b", "ü", "x" * 257])
def test_limits_of_what_is_no_tenant_id_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no tenant id"):
        read_shares({"tenants": {name: {"concurrency": 1}}})
