"""Provisioned concurrency: environments that are kept initialised for a version or an alias."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from insula.lambda_api.concurrency import least_unreserved, reserve, total_provisioned, unreserved
from insula.lambda_api.context import Context, Services
from insula.lambda_api.lookup import alias_not_found, find, not_found, unqualified
from insula.lambda_api.paging import page
from insula.lambda_api.registry import operation
from insula.model.alias import Alias
from insula.model.arn import LATEST, FunctionArn
from insula.model.errors import (
    InvalidParameterValueException,
    ProvisionedConcurrencyConfigNotFoundException,
    ResourceConflictException,
)
from insula.model.provision import ProvisionedConcurrency

_UNPUBLISHED = "Provisioned Concurrency Configs cannot be applied to unpublished function versions."
_NEITHER = "The function resource provided must be an alias or a published version."


@operation("PutProvisionedConcurrencyConfig")
async def put_provisioned_concurrency_config(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """Keep so many environments initialised. They are IN_PROGRESS when this answers."""
    services = context.services
    arn, qualifier = _published(context, request, _UNPUBLISHED)
    moment = datetime.fromtimestamp(services.clock(), UTC).strftime("%Y-%m-%dT%H:%M:%S+0000")
    config = ProvisionedConcurrency(qualifier, request["ProvisionedConcurrentExecutions"], moment)

    def check() -> None:
        _check_target(context, arn.name, qualifier)
        _check_limits(context, arn.name, config)

    await services.catalog.concurrency.provision(context.account, arn.name, config, check)
    provision(services, context.account, arn.name)
    return _shown(services, arn, config)


@operation("GetProvisionedConcurrencyConfig")
async def get_provisioned_concurrency_config(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """How far the environments of a version or an alias are."""
    arn, qualifier = _published(context, request, _NEITHER)
    config = context.services.catalog.concurrency.provisioned(context.account, arn.name).get(qualifier)
    if config is None:
        raise ProvisionedConcurrencyConfigNotFoundException("No Provisioned Concurrency Config found for this function")
    return _shown(context.services, arn, config)


@operation("DeleteProvisionedConcurrencyConfig")
async def delete_provisioned_concurrency_config(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """Let the environments go; none is no error."""
    arn, qualifier = _published(context, request, _NEITHER)
    await context.services.catalog.concurrency.unprovision(context.account, arn.name, qualifier)
    provision(context.services, context.account, arn.name)
    return {}


@operation("ListProvisionedConcurrencyConfigs")
async def list_provisioned_concurrency_configs(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """All provisioned concurrency of a function."""
    arn = unqualified(context, request)
    _check_tenancy(context, arn)
    find(context, arn)
    configs = context.services.catalog.concurrency.provisioned(context.account, arn.name)
    found, marker = page((configs[key] for key in sorted(configs)), lambda config: (config.qualifier, 0), request)
    shown = [
        {"FunctionArn": str(arn.qualified(config.qualifier)), **_shown(context.services, arn, config)}
        for config in found
    ]
    return {"NextMarker": marker, "ProvisionedConcurrencyConfigs": shown}


def provision(services: Services, account: str, name: str) -> None:
    """Tell the dispatcher how many environments the catalog says that each version of a function is to have."""
    wanted: Counter[str] = Counter()
    for config in services.catalog.concurrency.provisioned(account, name).values():
        wanted.update(_shares(services, account, name, config))
    for function in services.catalog.versions(account, name):
        services.invoker.provision(function, wanted[function.version])


def restore(services: Services) -> None:
    """Tell the dispatcher everything that it knew before the server was restarted."""
    concurrency = services.catalog.concurrency
    for account, name, _ in concurrency.reservations():
        reserve(services, account, name)
    for account, name in concurrency.provisioned_functions():
        provision(services, account, name)


def check_retargeting(services: Services, alias: Alias) -> None:
    """Refuse to point an alias with provisioned concurrency to ``$LATEST``.

    Raises:
        InvalidParameterValueException: it would.
    """
    provisioned = services.catalog.concurrency.provisioned(alias.account, alias.function)
    if alias.version == LATEST and alias.name in provisioned:
        raise InvalidParameterValueException(_UNPUBLISHED)


def _published(context: Context, request: Mapping[str, Any], otherwise: str) -> tuple[FunctionArn, str]:
    """The version or alias that a request names, which must be there, and its qualifier."""
    arn = context.reference(request)
    _check_tenancy(context, arn)
    qualifier = arn.qualifier or LATEST
    if qualifier == LATEST:
        raise InvalidParameterValueException(otherwise)
    catalog = context.services.catalog
    if qualifier.isdecimal():
        if catalog.function(context.account, arn.name, qualifier) is None:
            raise not_found(arn)
    elif catalog.aliases.get(context.account, arn.name, qualifier) is None:
        raise alias_not_found(arn)
    return arn, qualifier


def _check_tenancy(context: Context, arn: FunctionArn) -> None:
    function = context.services.catalog.function(context.account, arn.name)
    if function is not None and function.per_tenant:
        raise InvalidParameterValueException(
            "Provisioned concurrency is not supported for functions with tenant isolation mode."
        )


def _check_target(context: Context, name: str, qualifier: str) -> None:
    catalog, account = context.services.catalog, context.account
    provisioned = catalog.concurrency.provisioned(account, name)
    alias = catalog.aliases.get(account, name, qualifier)
    if alias is None:
        for other in catalog.aliases.list(account, name):
            if other.name in provisioned and qualifier in other.versions:
                raise ResourceConflictException("Version is pointed by a Provisioned Concurrency alias")
    elif alias.version == LATEST:
        raise InvalidParameterValueException(_UNPUBLISHED)
    elif alias.additional is not None:
        raise InvalidParameterValueException("Alias with weights can not be used with Provisioned Concurrency")
    elif alias.version in provisioned:
        raise ResourceConflictException(
            "Alias can't be used for Provisioned Concurrency configuration on an already Provisioned version"
        )


def _check_limits(context: Context, name: str, config: ProvisionedConcurrency) -> None:
    services, account = context.services, context.account
    before = services.catalog.concurrency.provisioned(account, name).get(config.qualifier)
    had = 0 if before is None else before.requested
    if config.requested <= had:
        return
    reserved = services.catalog.concurrency.reserved(account, name)
    if reserved is not None:
        if total_provisioned(services, account, name) - had + config.requested > reserved:
            raise InvalidParameterValueException(
                "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for "
                "function"
            )
        return
    free, least = unreserved(services, account) + had, least_unreserved(services)
    if config.requested > free:
        raise InvalidParameterValueException(
            f"Specified ConcurrentExecutions for function is greater than account's unreserved concurrency [{free}].",
            typed=False,
        )
    if free - config.requested < least:
        raise InvalidParameterValueException(
            "Specified ConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its "
            f"minimum value of [{least}].",
            typed=False,
        )


def _shares(services: Services, account: str, name: str, config: ProvisionedConcurrency) -> Mapping[str, int]:
    """How many environments each version has of a configuration."""
    alias = services.catalog.aliases.get(account, name, config.qualifier)
    return {config.qualifier: config.requested} if alias is None else alias.split(config.requested)


def _shown(services: Services, arn: FunctionArn, config: ProvisionedConcurrency) -> dict[str, Any]:
    allocated = available = 0
    failure: str | None = None
    for version, share in _shares(services, arn.account, arn.name, config).items():
        function = services.catalog.function(arn.account, arn.name, version)
        if function is None or not share:
            continue
        state = services.invoker.provisioned(function.deployment)
        allocated += min(share, state.allocated)
        available += min(share, state.available)
        failure = failure or state.failure
    if available >= config.requested:
        failure = None  # an earlier attempt's
    status = "READY" if available >= config.requested else "IN_PROGRESS" if failure is None else "FAILED"
    shown = {
        "RequestedProvisionedConcurrentExecutions": config.requested,
        "AllocatedProvisionedConcurrentExecutions": allocated,
        "AvailableProvisionedConcurrentExecutions": available,
        "Status": status,
        "LastModified": config.last_modified,
    }
    return shown if failure is None else {**shown, "StatusReason": failure}
