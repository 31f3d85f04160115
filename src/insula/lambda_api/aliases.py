"""Aliases of functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from insula.lambda_api.context import Context
from insula.lambda_api.lookup import alias_not_found, not_found, unqualified
from insula.lambda_api.paging import page
from insula.lambda_api.provision import check_retargeting, provision
from insula.lambda_api.registry import operation
from insula.model.alias import Alias
from insula.model.arn import LATEST
from insula.model.errors import (
    STALE_REVISION,
    InvalidParameterValueException,
    PreconditionFailedException,
)


@operation("CreateAlias")
async def create_alias(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """Give a version a name, or two versions that share its invocations."""
    arn = unqualified(context, request)
    version = request["FunctionVersion"]
    additional, weight = _routing(request.get("RoutingConfig", {}), version)
    alias = Alias(
        account=arn.account,
        region=arn.region,
        function=arn.name,
        name=request["Name"],
        version=version,
        revision=context.services.new_id(),
        description=request.get("Description", ""),
        additional=additional,
        weight=weight,
    )
    await context.services.catalog.aliases.create(alias)
    return _shown(alias)


@operation("GetAlias")
async def get_alias(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """One alias."""
    arn = unqualified(context, request)
    alias = context.services.catalog.aliases.get(context.account, arn.name, request["Name"])
    if alias is None:
        raise alias_not_found(arn.qualified(request["Name"]))
    return _shown(alias)


@operation("ListAliases")
async def list_aliases(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """All aliases of a function, or those of which the version is the main one."""
    arn = unqualified(context, request)
    catalog = context.services.catalog
    if catalog.function(context.account, arn.name) is None:
        raise not_found(arn)
    wanted = request.get("FunctionVersion")
    aliases = (each for each in catalog.aliases.list(context.account, arn.name) if wanted in (None, each.version))
    found, marker = page(aliases, lambda alias: (alias.name, 0), request)
    return {"NextMarker": marker, "Aliases": [_shown(alias) for alias in found]}


@operation("UpdateAlias")
async def update_alias(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """Change an alias; an empty RoutingConfig takes the second version away."""
    arn = unqualified(context, request)
    services = context.services
    revision = services.new_id()

    def change(alias: Alias) -> Alias:
        if request.get("RevisionId", alias.revision) != alias.revision:
            raise PreconditionFailedException(STALE_REVISION)
        changed = _changed(alias, request, revision)
        check_retargeting(services, changed)
        return changed

    updated = await services.catalog.aliases.update(arn.qualified(request["Name"]), change)
    if services.catalog.concurrency.provisioned(context.account, arn.name):
        provision(services, context.account, arn.name)
    return _shown(updated)


@operation("DeleteAlias")
async def delete_alias(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """Delete an alias with its provisioned concurrency; none is no error, as on AWS."""
    arn = unqualified(context, request)
    catalog = context.services.catalog
    provisioned = catalog.concurrency.provisioned(context.account, arn.name)
    await catalog.aliases.delete(context.account, arn.name, request["Name"])
    if provisioned:
        provision(context.services, context.account, arn.name)
    return {}


def _changed(alias: Alias, request: Mapping[str, Any], revision: str) -> Alias:
    version = request.get("FunctionVersion", alias.version)
    routing = request.get("RoutingConfig", _shown_routing(alias) or {})
    additional, weight = _routing(routing, version)
    return replace(
        alias,
        version=version,
        revision=revision,
        description=request.get("Description", alias.description),
        additional=additional,
        weight=weight,
    )


def _routing(config: Mapping[str, Any], version: str) -> tuple[str | None, float]:
    """The second version and its weight."""
    weights: Mapping[str, float] = config.get("AdditionalVersionWeights", {})
    if not weights:
        return None, 0.0
    if len(weights) > 1:
        raise InvalidParameterValueException("Number of items in AdditionalVersionWeights cannot be greater than 1")
    if version == LATEST:
        raise InvalidParameterValueException("$LATEST is not supported for an alias pointing to more than 1 version")
    if version in weights:
        raise InvalidParameterValueException(
            f"Invalid function version {version}. Function version {version} is already included in routing "
            "configuration."
        )
    return next(iter(weights.items()))


def _shown_routing(alias: Alias) -> dict[str, Any] | None:
    return None if alias.additional is None else {"AdditionalVersionWeights": {alias.additional: alias.weight}}


def _shown(alias: Alias) -> dict[str, Any]:
    shown = {
        "AliasArn": str(alias.arn),
        "Name": alias.name,
        "FunctionVersion": alias.version,
        "Description": alias.description,
        "RevisionId": alias.revision,
    }
    routing = _shown_routing(alias)
    return shown if routing is None else {**shown, "RoutingConfig": routing}
