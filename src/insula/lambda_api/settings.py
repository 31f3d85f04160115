"""A function's settings: the checks that AWS makes in the operation, and the values that they become."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from botocore.loaders import Loader

from insula.artifacts.code import Artifact
from insula.lambda_api.activation import pending, updating
from insula.lambda_api.configuration import default_log_group
from insula.lambda_api.context import Context
from insula.lambda_api.overlay import find_layers
from insula.lambda_api.refusals import refuse_unsupported
from insula.lambda_api.shapes import enum_text
from insula.model import limits
from insula.model.arn import LATEST, FunctionArn
from insula.model.errors import InvalidParameterValueException
from insula.model.function import FunctionVersion
from insula.model.tenant import check_wall
from insula.sandbox.driver import RuntimeMissingError

# Source: https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtimes.html#runtimes-deprecated
_DEPRECATED_RUNTIMES = frozenset(
    [
        "dotnetcore1.0",
        "dotnetcore2.0",
        "dotnetcore2.1",
        "dotnetcore3.1",
        "go1.x",
        "java8",
        "nodejs",
        "nodejs4.3",
        "nodejs4.3-edge",
        "nodejs6.10",
        "nodejs8.10",
        "nodejs10.x",
        "nodejs12.x",
        "nodejs14.x",
        "provided",
        "python2.7",
        "python3.6",
        "python3.7",
        "ruby2.5",
        "ruby2.7",
    ]
)
_RUNTIMES = tuple(
    name
    for name in Loader().load_service_model("lambda", "service-2")["shapes"]["Runtime"]["enum"]
    if name not in _DEPRECATED_RUNTIMES and name != "custom"
)

# Source: https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html#configuration-envvars-runtime
_RESERVED_VARIABLES = frozenset(
    [
        "_HANDLER",
        "_X_AMZN_TRACE_ID",
        "AWS_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_DEFAULT_REGION",
        "AWS_EXECUTION_ENV",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_VERSION",
        "AWS_LAMBDA_INITIALIZATION_TYPE",
        "AWS_LAMBDA_LOG_FORMAT",
        "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "AWS_LAMBDA_MAX_CONCURRENCY",
        "AWS_LAMBDA_RUNTIME_API",
        "AWS_REGION",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "LAMBDA_RUNTIME_DIR",
        "LAMBDA_TASK_ROOT",
    ]
)
_MEMBERS = {
    "Role": "role",
    "Handler": "handler",
    "Runtime": "runtime",
    "Description": "description",
    "Timeout": "timeout",
    "MemorySize": "memory",
}
_ENVIRONMENT_PROBLEM = (
    "Lambda was unable to configure your environment variables because the environment variables you have provided "
)


def check_settings(context: Context, request: Mapping[str, Any], name: str) -> None:
    """Check the members that CreateFunction, UpdateFunctionCode and UpdateFunctionConfiguration share.

    Raises:
        InvalidParameterValueException: in AWS's words where AWS has them.
    """
    refuse_unsupported(request)
    log_group = request.get("LoggingConfig", {}).get("LogGroup")
    if log_group not in {None, default_log_group(name)}:
        raise InvalidParameterValueException(
            "Insula does not support this value of LoggingConfig.LogGroup: each function logs to its own group. "
            f"Leave it out, or use {default_log_group(name)}."
        )
    architectures = request.get("Architectures", [context.services.architecture])
    if architectures != [context.services.architecture]:
        raise InvalidParameterValueException(
            f"Insula does not support this value of Architectures: this host runs "
            f"{context.services.architecture} only. Leave it out, or use [{context.services.architecture}]."
        )
    if "Runtime" in request:
        _check_runtime(context, request["Runtime"])
    _check_environment(request.get("Environment", {}).get("Variables", {}))


def check_tenancy(context: Context, request: Mapping[str, Any], tenancy: str | None) -> None:
    """Check what cannot go with tenant isolation mode.

    Args:
        tenancy: the mode that the function has, or is to have.
    """
    if tenancy is None:
        return
    check_wall(per_tenant=True, isolates=context.services.isolates)
    if context.services.region in limits.REGIONS_WITHOUT_TENANCY:
        raise InvalidParameterValueException(
            f"Tenant isolation mode is not available in region {context.services.region}. "
            "Leave out TenancyConfig, or use another region."
        )
    if request.get("SnapStart", {}).get("ApplyOn", "None") != "None":
        raise InvalidParameterValueException("SnapStart is not supported for functions with tenant isolation mode.")


def check_tag_count(tags: Mapping[str, str]) -> None:
    """Raises InvalidParameterValueException if there are more than 50."""
    if len(tags) > limits.MAX_TAGS:
        raise InvalidParameterValueException("Number of tags exceeds resource tag limit.")


def new_function(context: Context, request: Mapping[str, Any], arn: FunctionArn, artifact: Artifact) -> FunctionVersion:
    """``$LATEST`` of a function that is being created; the request is checked."""
    services = context.services
    function = FunctionVersion(
        account=arn.account,
        region=arn.region,
        name=arn.name,
        version=LATEST,
        runtime=request["Runtime"],
        role=request["Role"],
        handler=request["Handler"],
        code_sha256=artifact.sha256,
        code_size=artifact.size,
        deployment=services.new_id(),
        revision=services.new_id(),
        last_modified=timestamp(services.clock()),
        architecture=services.architecture,
        tenancy=request.get("TenancyConfig", {}).get("TenantIsolationMode"),
    )
    return pending(replace(function, **_given(context, request)))


def reconfigured(context: Context, function: FunctionVersion, request: Mapping[str, Any]) -> FunctionVersion:
    """A function after UpdateFunctionConfiguration; the request is checked."""
    return _updated(context, function, replace(function, **_given(context, request)))


def recoded(context: Context, function: FunctionVersion, artifact: Artifact) -> FunctionVersion:
    """A function after UpdateFunctionCode."""
    changed = replace(function, code_sha256=artifact.sha256, code_size=artifact.size)
    return _updated(context, function, changed)


def same_function(one: FunctionVersion, other: FunctionVersion) -> bool:
    """Whether code and configuration are equal as an environment sees them."""
    return _seen(one) == _seen(other)


def timestamp(seconds: float) -> str:
    """A time as AWS Lambda prints it."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "+0000"


def _updated(context: Context, before: FunctionVersion, after: FunctionVersion) -> FunctionVersion:
    services = context.services
    # Environments are pooled by deployment: whatever they see needs a new one.
    deployment = before.deployment if same_function(before, after) else services.new_id()
    return updating(
        replace(
            after,
            deployment=deployment,
            revision=services.new_id(),
            last_modified=timestamp(services.clock()),
        )
    )


def _seen(function: FunctionVersion) -> FunctionVersion:
    return replace(pending(function), version="", deployment="", revision="", last_modified="", description="")


def _given(context: Context, request: Mapping[str, Any]) -> dict[str, Any]:
    given = {field: request[member] for member, field in _MEMBERS.items() if member in request}
    if "EphemeralStorage" in request:
        given["ephemeral_storage"] = request["EphemeralStorage"]["Size"]
    if "Environment" in request:
        given["environment"] = request["Environment"].get("Variables", {})
    if "Layers" in request:
        given["layers"] = find_layers(context, request["Layers"])
    return given


def _check_runtime(context: Context, runtime: str) -> None:
    if runtime in _DEPRECATED_RUNTIMES:
        raise InvalidParameterValueException(
            f"The runtime parameter of {runtime} is no longer supported for creating or updating AWS Lambda "
            "functions. We recommend you use a supported runtime while creating or updating functions."
        )
    if runtime not in _RUNTIMES:
        raise InvalidParameterValueException(
            f"Value {runtime} at 'runtime' failed to satisfy constraint: "
            f"Member must satisfy enum value set: {enum_text(_RUNTIMES)} or be a valid ARN"
        )
    try:
        context.services.check_runtime(runtime)
    except RuntimeMissingError as error:
        raise InvalidParameterValueException(str(error)) from error


def _check_environment(variables: Mapping[str, str]) -> None:
    reserved = sorted(_RESERVED_VARIABLES & variables.keys())
    if reserved:
        raise InvalidParameterValueException(
            f"{_ENVIRONMENT_PROBLEM}contains reserved keys that are currently not supported for modification. "
            f"Reserved keys used in this request: {', '.join(reserved)}"
        )
    measured = json.dumps(variables, ensure_ascii=False, separators=(",", ":"))
    if len(measured.encode()) > limits.ENVIRONMENT_BYTES:
        raise InvalidParameterValueException(
            f"{_ENVIRONMENT_PROBLEM}exceeded the 4KB limit. String measured: {measured}"
        )
