"""Create, read, update, list and delete functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from insula.artifacts.code import Artifact
from insula.lambda_api.concurrency import reserve
from insula.lambda_api.configuration import full_configuration, listed_configuration, qualified_arn
from insula.lambda_api.context import Context
from insula.lambda_api.lookup import find, not_found, unqualified, updatable, update_in_progress
from insula.lambda_api.overlay import check_layers
from insula.lambda_api.paging import page
from insula.lambda_api.refusals import refuse_unsupported
from insula.lambda_api.registry import operation
from insula.lambda_api.settings import (
    check_settings,
    check_tag_count,
    check_tenancy,
    new_function,
    recoded,
    reconfigured,
)
from insula.lambda_api.storage import store
from insula.lambda_api.versions import publish, version_key
from insula.model.arn import LATEST
from insula.model.errors import (
    InvalidParameterValueException,
    PreconditionFailedException,
)
from insula.model.function import FunctionVersion
from insula.model.settings import function_settings

_NAME_LENGTH = 64


@operation("CreateFunction")
async def create_function(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """Create a function from an inline zip. It is Pending when this answers."""
    services = context.services
    arn = unqualified(context, request)
    _check_name_length(arn.name)
    check_tenancy(context, request, request.get("TenancyConfig", {}).get("TenantIsolationMode"))
    check_settings(context, request, arn.name)
    _check_mandatory(request)
    tags = request.get("Tags", {})
    check_tag_count(tags)
    function_settings(tags)
    artifact = await _store(context, request["Code"])
    function = new_function(context, request, arn, artifact)
    check_layers(context, function)
    published = await services.catalog.create(
        function,
        tags=tags,
        publish=request.get("Publish", False),
        published_revision=services.new_id(),
    )
    services.activation.begin(function)
    if published is not None:
        services.activation.begin(published)
    # AWS answers with the unqualified ARN here, even for version 1.
    return full_configuration(published or function, arn)


@operation("GetFunction")
async def get_function(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """A function's configuration, tags, reserved concurrency and a link to its code."""
    services = context.services
    arn = context.reference(request)
    function = find(context, arn)
    location = services.links.url(context.base_url, function.code_sha256)
    reserved = services.catalog.concurrency.reserved(context.account, arn.name)
    return {
        "Configuration": full_configuration(function, arn),
        "Code": {"RepositoryType": "S3", "Location": location},
        "Tags": dict(services.catalog.tags(context.account, arn.name)) or None,
        "Concurrency": None if reserved is None else {"ReservedConcurrentExecutions": reserved},
    }


@operation("GetFunctionConfiguration")
async def get_function_configuration(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """A function's configuration."""
    arn = context.reference(request)
    return full_configuration(find(context, arn), arn)


@operation("ListFunctions")
async def list_functions(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """``$LATEST`` of all functions, or with FunctionVersion=ALL every version."""
    refuse_unsupported(request)
    functions: Iterable[FunctionVersion] = context.services.catalog.functions(context.account)
    everything = "FunctionVersion" in request
    if everything:
        functions = _all_versions(context, functions)
    found, marker = page(functions, version_key, request)
    shown = [listed_configuration(function, qualified_arn(function) if everything else None) for function in found]
    return {"NextMarker": marker, "Functions": shown}


@operation("UpdateFunctionCode")
async def update_function_code(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """Replace a function's code; with DryRun only check that it could be."""
    arn = unqualified(context, request)
    latest = updatable(context, arn, request)
    check_settings(context, request, arn.name)
    artifact = await _store(context, request)
    changed = recoded(context, latest, artifact)
    check_layers(context, changed)
    if request.get("DryRun"):
        return full_configuration(changed)
    await _replace(context, latest, changed)
    shown = await publish(context, changed) if request.get("Publish") else changed
    context.services.activation.begin(changed)
    return full_configuration(shown)


@operation("UpdateFunctionConfiguration")
async def update_function_configuration(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """Change a function's configuration."""
    arn = unqualified(context, request)
    latest = updatable(context, arn, request)
    check_tenancy(context, request, latest.tenancy)
    check_settings(context, request, arn.name)
    changed = reconfigured(context, latest, request)
    check_layers(context, changed)
    await _replace(context, latest, changed)
    context.services.activation.begin(changed)
    return full_configuration(changed)


@operation("DeleteFunction")
async def delete_function(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """Delete a function with all its versions, or one published version."""
    services = context.services
    arn = context.reference(request)
    reserved = services.catalog.concurrency.reserved(context.account, arn.name)
    provisioned = services.catalog.concurrency.provisioned(context.account, arn.name)
    if arn.qualifier is None:
        deleted = await services.catalog.delete(context.account, arn.name)
    else:
        _check_deletable(arn.qualifier)
        version = await services.catalog.delete_version(context.account, arn.name, arn.qualifier)
        deleted = [] if version is None else [version]
    if not deleted:
        raise not_found(arn)
    if reserved is not None:
        reserve(services, context.account, arn.name)
    for version in deleted:
        if provisioned:
            services.invoker.provision(version, 0)
        services.invoker.retire(version.deployment)
    return {"StatusCode": 204}


async def _replace(context: Context, before: FunctionVersion, after: FunctionVersion) -> None:
    try:
        await context.services.catalog.replace(after, expected_revision=before.revision)
    except PreconditionFailedException:
        # The caller's RevisionId was right: another update was quicker while this one was prepared.
        raise update_in_progress(before.arn) from None
    if after.deployment != before.deployment:
        context.services.invoker.retire(before.deployment)


async def _store(context: Context, code: Mapping[str, Any]) -> Artifact:
    zipped: bytes | None = code.get("ZipFile")
    if zipped is None:
        raise InvalidParameterValueException("Please provide a source for function code.")
    return await store(context.services, context.services.code, zipped)


def _all_versions(context: Context, functions: Iterable[FunctionVersion]) -> Iterable[FunctionVersion]:
    for function in functions:
        yield from context.services.catalog.versions(context.account, function.name)


def _check_name_length(name: str) -> None:
    if len(name) > _NAME_LENGTH:
        raise InvalidParameterValueException(
            f"1 validation error detected: Value '{name}' at 'functionName' failed to satisfy constraint: "
            f"Member must have length less than or equal to {_NAME_LENGTH}"
        )


def _check_mandatory(request: Mapping[str, Any]) -> None:
    if "Runtime" not in request or "Handler" not in request:
        raise InvalidParameterValueException(
            "Runtime and Handler are mandatory parameters for functions created with deployment packages."
        )


def _check_deletable(qualifier: str) -> None:
    if qualifier == LATEST:
        raise InvalidParameterValueException("$LATEST version cannot be deleted without deleting the function.")
    if not qualifier.isdecimal():
        raise InvalidParameterValueException("Deletion of aliases is not currently supported.")
