"""How a function version looks in responses.

Source: recorded answers of AWS Lambda; which keys are absent is part of them.
"""

from __future__ import annotations

from typing import Any

from insula.model.arn import LATEST, FunctionArn
from insula.model.function import FunctionVersion


def full_configuration(function: FunctionVersion, arn: FunctionArn | None = None) -> dict[str, Any]:
    """A FunctionConfiguration with its state, as all operations but the lists answer.

    Args:
        arn: the ARN to show instead of the version's own.
    """
    shown = _configuration(function, arn or function.arn)
    shown["RuntimeVersionConfig"] = {"RuntimeVersionArn": function.runtime_version_arn}
    shown["State"] = function.state
    shown["StateReason"] = function.state_reason
    shown["StateReasonCode"] = function.state_reason_code
    shown["LastUpdateStatus"] = function.update_status
    shown["LastUpdateStatusReason"] = function.update_reason
    shown["LastUpdateStatusReasonCode"] = function.update_reason_code
    return _present(shown)


def listed_configuration(function: FunctionVersion, arn: FunctionArn | None = None) -> dict[str, Any]:
    """A FunctionConfiguration in a list: without state and runtime version."""
    return _present(_configuration(function, arn or function.arn))


def qualified_arn(function: FunctionVersion) -> FunctionArn:
    """The ARN with the version's qualifier, ``$LATEST`` included."""
    return function.arn.qualified(LATEST) if function.version == LATEST else function.arn


def _configuration(function: FunctionVersion, arn: FunctionArn) -> dict[str, Any]:
    environment = None if function.environment is None else {"Variables": dict(function.environment)}
    return {
        "FunctionName": function.name,
        "FunctionArn": str(arn),
        "Runtime": function.runtime,
        "Role": function.role,
        "Handler": function.handler,
        "CodeSize": function.code_size,
        "Description": function.description,
        "Timeout": function.timeout,
        "MemorySize": function.memory,
        "LastModified": function.last_modified,
        "CodeSha256": function.code_sha256,
        "Version": function.version,
        "Environment": environment,
        "TracingConfig": {"Mode": function.tracing},
        "RevisionId": function.revision,
        "PackageType": "Zip",
        "Architectures": [function.architecture],
        "EphemeralStorage": {"Size": function.ephemeral_storage},
        "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"},
        "LoggingConfig": {
            "LogFormat": function.log_format,
            "LogGroup": function.log_group or default_log_group(function.name),
        },
        "Layers": [{"Arn": layer.arn, "CodeSize": layer.size} for layer in function.layers] or None,
        "TenancyConfig": None if function.tenancy is None else {"TenantIsolationMode": function.tenancy},
    }


def default_log_group(name: str) -> str:
    """The log group of a function that does not choose one."""
    return f"/aws/lambda/{name}"


def _present(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
