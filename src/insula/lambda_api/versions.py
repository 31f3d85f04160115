"""Published versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from insula.lambda_api.activation import is_settled, pending
from insula.lambda_api.configuration import full_configuration, listed_configuration, qualified_arn
from insula.lambda_api.context import Context
from insula.lambda_api.lookup import not_found, unqualified, updatable
from insula.lambda_api.paging import page
from insula.lambda_api.refusals import refuse_unsupported
from insula.lambda_api.registry import operation
from insula.lambda_api.settings import same_function
from insula.model.arn import LATEST
from insula.model.errors import InvalidParameterValueException
from insula.model.function import FunctionVersion


@operation("PublishVersion")
async def publish_version(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """Publish ``$LATEST``; an unchanged function answers with its newest version."""
    refuse_unsupported(request)
    latest = updatable(context, unqualified(context, request), request)
    wanted = request.get("CodeSha256", latest.code_sha256)
    if wanted != latest.code_sha256:
        raise InvalidParameterValueException(
            f"CodeSHA256 ({wanted}) is different from current CodeSHA256 in $LATEST ({latest.code_sha256}). "
            "Please try again with the CodeSHA256 in $LATEST."
        )
    if request.get("Description"):
        latest = replace(latest, description=request["Description"])
    return full_configuration(await publish(context, latest))


@operation("ListVersionsByFunction")
async def list_versions_by_function(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """``$LATEST`` and all published versions."""
    arn = unqualified(context, request)
    versions = context.services.catalog.versions(context.account, arn.name)
    if not versions:
        raise not_found(arn)
    found, marker = page(versions, version_key, request)
    shown = [listed_configuration(version, qualified_arn(version)) for version in found]
    return {"NextMarker": marker, "Versions": shown}


async def publish(context: Context, latest: FunctionVersion) -> FunctionVersion:
    """Publish a function as it is, unless its newest version has the same code and configuration."""
    services = context.services
    published = services.catalog.versions(context.account, latest.name)[1:]
    if published and same_function(published[-1], latest):
        return published[-1]

    def make(function: FunctionVersion, number: int) -> FunctionVersion:
        # A deployment of its own: no environment of $LATEST may serve the version (T2).
        version = replace(function, version=str(number), deployment=services.new_id(), revision=services.new_id())
        return version if is_settled(function) else pending(version)

    made = await services.catalog.publish(latest, make)
    if not is_settled(made):
        services.activation.begin(made)
    return made


def version_key(version: FunctionVersion) -> tuple[str, int]:
    """Sorts versions by function, ``$LATEST`` first."""
    return version.name, 0 if version.version == LATEST else int(version.version)
