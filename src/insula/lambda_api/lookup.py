"""Finding the function that a request means, and the checks that updates share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from insula.lambda_api.activation import is_settled
from insula.lambda_api.context import Context
from insula.model.arn import LATEST, FunctionArn
from insula.model.errors import (
    STALE_REVISION,
    InvalidParameterValueException,
    PreconditionFailedException,
    ResourceConflictException,
    ResourceNotFoundException,
)
from insula.model.function import FunctionVersion


def find(context: Context, arn: FunctionArn) -> FunctionVersion:
    """The version that an ARN names; ``$LATEST`` if it has no qualifier, an alias's main version.

    Raises:
        ResourceNotFoundException: there is none. The message has the qualifier if the caller gave one.
    """
    function = context.services.catalog.function(context.account, arn.name, arn.qualifier or LATEST)
    return _behind_alias(context, arn, _never) if function is None else function


def resolve(context: Context, arn: FunctionArn) -> FunctionVersion:
    """The version that one invocation of an ARN runs; an alias's by weight.

    Raises:
        ResourceNotFoundException: there is none.
    """
    function = context.services.catalog.function(context.account, arn.name, arn.qualifier or LATEST)
    return _behind_alias(context, arn, context.services.random) if function is None else function


def not_found(arn: FunctionArn) -> ResourceNotFoundException:
    """AWS's error for a function or version that does not exist."""
    return ResourceNotFoundException(f"Function not found: {arn}")


def alias_not_found(arn: FunctionArn) -> ResourceNotFoundException:
    """AWS's error for an alias that does not exist."""
    return ResourceNotFoundException(f"Cannot find alias arn: {arn}")


def unqualified(context: Context, request: Mapping[str, Any]) -> FunctionArn:
    """The function that a request names, for operations on whole functions.

    Raises:
        InvalidParameterValueException: it names a version or an alias.
    """
    arn = context.reference(request)
    if arn.qualifier is not None:
        raise InvalidParameterValueException(
            "This operation is permitted on Lambda functions only. Aliases and versions do not support this "
            "operation. Please specify either a function name or an unqualified function ARN."
        )
    return arn


def updatable(context: Context, arn: FunctionArn, request: Mapping[str, Any]) -> FunctionVersion:
    """``$LATEST``, ready to be changed or published.

    Raises:
        ResourceNotFoundException: there is none.
        PreconditionFailedException: the request's RevisionId is not the latest.
        ResourceConflictException: it is being created or updated.
    """
    latest = find(context, arn)
    if request.get("RevisionId", latest.revision) != latest.revision:
        raise PreconditionFailedException(STALE_REVISION)
    if latest.state == "Pending":
        raise ResourceConflictException(
            "The operation cannot be performed at this time. "
            f"The function is currently in the following state: {latest.state}"
        )
    if not is_settled(latest):
        raise update_in_progress(arn)
    return latest


def update_in_progress(arn: FunctionArn) -> ResourceConflictException:
    """AWS's error for an update that meets another one."""
    return ResourceConflictException(
        f"The operation cannot be performed at this time. An update is in progress for resource: {arn}"
    )


def _behind_alias(context: Context, arn: FunctionArn, random: Callable[[], float]) -> FunctionVersion:
    catalog = context.services.catalog
    alias = catalog.aliases.get(context.account, arn.name, arn.qualifier or LATEST)
    function = None if alias is None else catalog.function(context.account, arn.name, alias.choose(random))
    if function is None:
        raise not_found(arn)
    return function


def _never() -> float:
    """In place of a random number: no weight is above it."""
    return 1.0
