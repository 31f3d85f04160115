"""Tags of functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from insula.lambda_api.context import Context
from insula.lambda_api.lookup import find
from insula.lambda_api.registry import operation
from insula.lambda_api.settings import check_tag_count
from insula.model.arn import FunctionArn, parse_reference
from insula.model.errors import InvalidParameterValueException, ResourceNotFoundException
from insula.model.settings import function_settings

_OTHER_RESOURCES = {
    "event-source-mapping": "Event source mapping",
    "code-signing-config": "Code signing config",
    "capacity-provider": "Capacity provider",
    "network-connector": "Network connector",
}


@operation("ListTags")
async def list_tags(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """A function's tags."""
    return {"Tags": dict(_tags(context, _function(context, request)))}


@operation("TagResource")
async def tag_resource(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """Add or replace tags."""
    arn = _function(context, request)
    if not request["Tags"]:
        raise InvalidParameterValueException("An error occurred and the request cannot be processed.")
    function_settings(request["Tags"])
    tags = {**_tags(context, arn), **request["Tags"]}
    check_tag_count(tags)
    await context.services.catalog.set_tags(context.account, arn.name, tags)
    return {}


@operation("UntagResource")
async def untag_resource(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """Remove tags; a key that is not there is no error."""
    arn = _function(context, request)
    gone = set(request["TagKeys"])
    tags = {key: value for key, value in _tags(context, arn).items() if key not in gone}
    await context.services.catalog.set_tags(context.account, arn.name, tags)
    return {}


def _tags(context: Context, arn: FunctionArn) -> Mapping[str, str]:
    return context.services.catalog.tags(context.account, arn.name)


def _function(context: Context, request: Mapping[str, Any]) -> FunctionArn:
    resource: str = request["Resource"]
    kind = resource.split(":")[5]
    if kind != "function":
        raise ResourceNotFoundException(f"{_OTHER_RESOURCES[kind]} not found: {resource}")
    arn = parse_reference(resource, region=context.services.region, account=context.account)
    if arn.qualifier is not None:
        raise InvalidParameterValueException(
            "Tags on function aliases and versions are not supported. Please specify a function ARN."
        )
    find(context, arn)
    return arn
