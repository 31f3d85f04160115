"""Limits hold, and what is given back can be taken again."""

from __future__ import annotations

import pytest

from insula.dispatch.quotas import Quotas
from insula.model.errors import TooManyRequestsException


def test_the_account_runs_as_many_invocations_as_it_may_and_no_more() -> None:
    quotas = Quotas(2)
    quotas.take_invocation()
    quotas.take_invocation()
    with pytest.raises(TooManyRequestsException) as refused:
        quotas.take_invocation()
    assert (refused.value.message, refused.value.reason) == ("Rate Exceeded.", "ConcurrentInvocationLimitExceeded")
    quotas.give_invocation()
    quotas.take_invocation()
    assert quotas.running == 2


@pytest.mark.parametrize(("concurrency", "environments"), [(1000, 2500), (2000, 5000), (1, 2), (100, 250)])
def test_a_function_may_have_2500_tenant_environments_for_every_1000_concurrent_executions(
    concurrency: int, environments: int
) -> None:
    assert Quotas(concurrency).tenant_environments == environments


def test_tenant_environments_are_counted_for_each_function() -> None:
    quotas = Quotas(1)
    for function in ("a", "a", "b", "b"):
        quotas.take_environment(function)
    with pytest.raises(TooManyRequestsException) as refused:
        quotas.take_environment("a")
    assert refused.value.message == "Rate exceeded"
    quotas.give_environment("a")
    quotas.take_environment("a")
    assert (quotas.environments("a"), quotas.environments("b")) == (2, 2)


def test_a_function_without_environments_costs_no_memory() -> None:
    quotas = Quotas(1)
    quotas.take_environment("a")
    quotas.give_environment("a")
    assert not quotas._environments
