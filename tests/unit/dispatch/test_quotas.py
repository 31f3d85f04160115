"""Limits hold, and what is given back can be taken again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from insula.dispatch.quotas import FunctionQuota, Quotas, Slot
from insula.model.errors import TooManyRequestsException
from insula.model.share import Shares, TenantLimits

_ACCOUNT = "111111111111"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def refusal(attempt: Callable[[], object]) -> TooManyRequestsException:
    with pytest.raises(TooManyRequestsException) as refused:
        attempt()
    return refused.value


def take(function: FunctionQuota, count: int, tenant: str | None = None) -> list[Slot]:
    return [function.take(tenant) for _ in range(count)]


def test_the_account_runs_as_many_invocations_as_it_may_and_no_more() -> None:
    quotas = Quotas(2)
    f, g = quotas.function(_ACCOUNT, "f"), quotas.function(_ACCOUNT, "g")
    slot, _ = f.take(None), g.take(None)
    refused = refusal(lambda: f.take(None))
    assert (refused.message, refused.reason) == ("Rate Exceeded.", "ConcurrentInvocationLimitExceeded")
    slot.give()
    g.take(None)
    assert quotas.running == 2


def test_accounts_do_not_share() -> None:
    quotas = Quotas(1)
    quotas.function("1", "f").take(None)
    quotas.function("2", "f").take(None)


def test_a_slot_is_given_back_once() -> None:
    slot = Quotas(1).function(_ACCOUNT, "f").take(None)
    slot.give()
    with pytest.raises(RuntimeError):
        slot.give()


def test_reserved_concurrency_is_a_guarantee_and_a_limit() -> None:
    quotas = Quotas(10)
    f, g = quotas.function(_ACCOUNT, "f"), quotas.function(_ACCOUNT, "g")
    quotas.reserve(_ACCOUNT, "f", 4)
    take(g, 6)
    assert refusal(lambda: g.take(None)).reason == "ConcurrentInvocationLimitExceeded"
    slots = take(f, 4)
    refused = refusal(lambda: f.take(None))
    assert refused.reason == "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert refused.message == "Rate Exceeded."
    slots[0].give()
    f.take(None)


def test_nothing_runs_of_a_function_whose_reserve_is_zero() -> None:
    quotas = Quotas(10)
    f = quotas.function(_ACCOUNT, "f")
    quotas.reserve(_ACCOUNT, "f", 0)
    assert refusal(lambda: f.take(None)).reason == "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert f.most_environments == 0
    quotas.reserve(_ACCOUNT, "f", None)
    f.take(None)


def test_a_reserve_that_comes_late_does_not_let_the_account_run_more() -> None:
    quotas = Quotas(10)
    f, g = quotas.function(_ACCOUNT, "f"), quotas.function(_ACCOUNT, "g")
    slots = take(g, 10)
    quotas.reserve(_ACCOUNT, "f", 4)
    refusal(lambda: f.take(None))
    slots.pop().give()
    f.take(None)
    assert quotas.running == 10
    for slot in slots[:3]:
        slot.give()
    refusal(lambda: g.take(None))  # 6 of its own run, and 4 are set aside
    take(f, 3)


def test_what_runs_when_a_reserve_comes_or_goes_is_counted_where_it_belongs() -> None:
    quotas = Quotas(10)
    f, g = quotas.function(_ACCOUNT, "f"), quotas.function(_ACCOUNT, "g")
    slots = take(f, 3)
    quotas.reserve(_ACCOUNT, "f", 3)
    take(g, 7)
    quotas.reserve(_ACCOUNT, "f", None)
    refusal(lambda: g.take(None))
    for slot in slots:
        slot.give()
    take(g, 3)
    refusal(lambda: g.take(None))


def test_provisioned_concurrency_is_set_aside_and_more_comes_from_what_is_shared() -> None:
    quotas = Quotas(10)
    f, g = quotas.function(_ACCOUNT, "f"), quotas.function(_ACCOUNT, "g")
    quotas.provision(_ACCOUNT, "f", 4)
    take(g, 5)
    slots = take(f, 5)
    refusal(lambda: g.take(None))
    refusal(lambda: f.take(None))
    for slot in slots:
        slot.give()
    g.take(None)
    refusal(lambda: g.take(None))


def test_requests_a_second_are_ten_times_the_concurrency() -> None:
    clock = Clock()
    quotas = Quotas(2, clock=clock)
    f = quotas.function(_ACCOUNT, "f")
    for _ in range(20):
        f.take(None).give()
    assert refusal(lambda: f.take(None)).reason == "CallerRateLimitExceeded"
    clock.now += 0.05
    f.take(None).give()
    refusal(lambda: f.take(None))
    clock.now += 10
    for _ in range(20):
        f.take(None).give()
    refusal(lambda: f.take(None))


def test_a_reserved_function_has_a_rate_of_its_own() -> None:
    clock = Clock()
    quotas = Quotas(100, clock=clock)
    f = quotas.function(_ACCOUNT, "f")
    quotas.reserve(_ACCOUNT, "f", 1)
    for _ in range(10):
        f.take(None).give()
    assert refusal(lambda: f.take(None)).reason == "ReservedFunctionInvocationRateLimitExceeded"
    quotas.function(_ACCOUNT, "g").take(None)


def test_a_function_makes_at_most_1000_environments_in_any_ten_seconds() -> None:
    clock = Clock()
    f = Quotas(1000, clock=clock).function(_ACCOUNT, "f")
    for _ in range(1000):
        f.take_start()
        clock.now += 0.001
    refused = refusal(f.take_start)
    assert (refused.reason, refused.retry_after) == ("FunctionInvocationRateLimitExceeded", 9)
    clock.now = 110.0
    f.take_start()
    refusal(f.take_start)
    assert not f.quiet
    clock.now += 20
    assert f.quiet


@pytest.mark.parametrize(("concurrency", "environments"), [(1000, 2500), (2000, 5000), (1, 2), (100, 250)])
def test_a_function_may_have_2500_tenant_environments_for_every_1000_concurrent_executions(
    concurrency: int, environments: int
) -> None:
    quotas = Quotas(concurrency)
    assert quotas.function(_ACCOUNT, "f").most_environments == environments
    quotas = Quotas(10_000)
    quotas.reserve(_ACCOUNT, "f", concurrency)
    assert quotas.function(_ACCOUNT, "f").most_environments == environments


def test_tenant_environments_are_counted_for_each_function() -> None:
    quotas = Quotas(1)
    f, g = quotas.function(_ACCOUNT, "f"), quotas.function(_ACCOUNT, "g")
    assert all(function.take_room("blue") for function in (f, f, g, g))
    assert not f.take_room("blue")
    f.give_room("blue")
    assert f.take_room("green")
    assert (f.environments, g.environments) == (2, 2)


def test_one_that_takes_the_place_of_another_is_not_counted_twice() -> None:
    f = Quotas(1).function(_ACCOUNT, "f")
    assert f.take_room("blue")
    assert f.take_room("blue")
    f.take_share_of_room("green")
    f.give_room("blue", passed_on=True)
    assert f.environments == 2
    f.give_room("green")
    f.give_room("blue")
    assert f.environments == 0


def test_one_tenant_cannot_take_everything() -> None:
    clock = Clock()
    shares = Shares(TenantLimits(2, 3, 5), {"big": TenantLimits(4)})
    quotas = Quotas(100, clock=clock, shares=shares)
    f, g = quotas.function(_ACCOUNT, "f"), quotas.function(_ACCOUNT, "g")
    slots = [f.take("blue"), g.take("blue")]
    refused = refusal(lambda: f.take("blue"))
    assert "Tenant 'blue' runs 2 invocations" in refused.message
    f.take("green")
    take(f, 4, "big")
    refusal(lambda: g.take("big"))
    for slot in slots:
        slot.give()
    for _ in range(3):
        f.take("blue").give()
    assert "more than 5 requests a second" in refusal(lambda: f.take("blue")).message
    assert all(function.take_room("blue") for function in (f, f, g))
    assert "has 3 execution environments" in refusal(lambda: f.take_room("blue")).message
    assert f.environments == 2


def test_a_refused_invocation_takes_nothing() -> None:
    clock = Clock()
    quotas = Quotas(1, clock=clock, shares=Shares(TenantLimits(concurrency=0)))
    f = quotas.function(_ACCOUNT, "f")
    for _ in range(50):
        refusal(lambda: f.take("blue"))
    f.take(None).give()
    assert (quotas.running, quotas.taken, quotas.given) == (0, 1, 1)


def test_tenants_and_functions_without_anything_cost_no_memory() -> None:
    clock = Clock()
    quotas = Quotas(10, clock=clock)
    f = quotas.function(_ACCOUNT, "f")
    f.take("blue").give()
    f.take_room("blue")
    f.give_room("blue")
    quotas.sweep()
    account = quotas._accounts[_ACCOUNT]
    assert not account.tenants
    del f
    assert not account.functions


def test_a_function_with_a_reserve_is_remembered() -> None:
    quotas = Quotas(1000)
    quotas.reserve(_ACCOUNT, "f", 5)
    assert quotas.function(_ACCOUNT, "f").reserved == 5
    quotas.reserve(_ACCOUNT, "f", None)
    assert quotas.function(_ACCOUNT, "f").reserved is None
    assert not quotas._accounts[_ACCOUNT].functions
