"""Reserved concurrency, and what of the account's is left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from insula.lambda_api.context import Context, Services
from insula.lambda_api.lookup import find, not_found, unqualified
from insula.lambda_api.registry import operation
from insula.model import limits
from insula.model.arn import LATEST
from insula.model.errors import InvalidParameterValueException


@operation("PutFunctionConcurrency")
async def put_function_concurrency(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """Reserve concurrency for a function, which is also the most that it may use; 0 stops it."""
    arn = unqualified(context, request)
    if context.services.catalog.function(context.account, arn.name) is None:
        raise not_found(arn.qualified(LATEST))
    concurrency = request["ReservedConcurrentExecutions"]

    def check() -> None:
        _check_provisioned(context, arn.name, concurrency)
        _check_account(context, arn.name, concurrency)

    await context.services.catalog.concurrency.reserve(context.account, arn.name, concurrency, check)
    reserve(context.services, context.account, arn.name)
    return {"ReservedConcurrentExecutions": concurrency}


@operation("GetFunctionConcurrency")
async def get_function_concurrency(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """A function's reserved concurrency; empty if it has none."""
    arn = unqualified(context, request)
    find(context, arn)
    return {"ReservedConcurrentExecutions": context.services.catalog.concurrency.reserved(context.account, arn.name)}


@operation("DeleteFunctionConcurrency")
async def delete_function_concurrency(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """Take a function's reserved concurrency away; none is no error."""
    arn = unqualified(context, request)
    find(context, arn)
    await context.services.catalog.concurrency.reserve(context.account, arn.name, None, lambda: None)
    reserve(context.services, context.account, arn.name)
    return {}


def reserve(services: Services, account: str, name: str) -> None:
    """Tell the dispatcher what the catalog says of a function's reserved concurrency."""
    services.invoker.reserve(account, name, services.catalog.concurrency.reserved(account, name))


def unreserved(services: Services, account: str) -> int:
    """What of the account's concurrency neither reservations nor provisioned concurrency take.

    Negative if the server's limit was lowered below that since.
    """
    concurrency = services.catalog.concurrency
    taken = 0
    for function in services.catalog.functions(account):
        reserved = concurrency.reserved(account, function.name)
        taken += total_provisioned(services, account, function.name) if reserved is None else reserved
    return services.concurrency - taken


def least_unreserved(services: Services) -> int:
    """What must stay unreserved: all, where an account's limit is below AWS's minimum."""
    return min(limits.UNRESERVED_CONCURRENCY, services.concurrency)


def total_provisioned(services: Services, account: str, name: str) -> int:
    """Provisioned concurrency of all versions and aliases of a function."""
    return sum(config.requested for config in services.catalog.concurrency.provisioned(account, name).values())


def _check_provisioned(context: Context, name: str, concurrency: int) -> None:
    provisioned = total_provisioned(context.services, context.account, name)
    if concurrency < provisioned:
        raise InvalidParameterValueException(
            f" ReservedConcurrentExecutions  {concurrency} should not be lower than function's total provisioned "
            f"concurrency [{provisioned}].",
            typed=False,
        )


def _check_account(context: Context, name: str, concurrency: int) -> None:
    services, account = context.services, context.account
    reserved = services.catalog.concurrency.reserved(account, name)
    taken = total_provisioned(services, account, name) if reserved is None else reserved
    left = unreserved(services, account) + taken - concurrency
    # What takes nothing from the others is never refused, however low the server's limit was set since.
    if concurrency > taken and left < least_unreserved(services):
        raise InvalidParameterValueException(
            "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution "
            f"below its minimum value of [{least_unreserved(services)}].",
            typed=False,
        )
