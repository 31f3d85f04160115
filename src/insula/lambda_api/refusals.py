"""Settings that Insula does not honour. They are refused, never stored and ignored (invariant S1).

A line leaves this table when Insula learns to honour its setting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from insula.model.errors import InvalidParameterValueException


@dataclass(frozen=True, slots=True)
class Refusal:
    """A setting of which Insula honours some values, or none.

    Attributes:
        member: path in the request.
        honoured: whether Insula does what a value asks for.
        instead: what Insula has, and what to do.
    """

    member: str
    honoured: Callable[[Any], bool]
    instead: str


def _never(_: Any) -> bool:
    return False


def _empty(value: Any) -> bool:
    return not value


def _only(wanted: str) -> Callable[[Any], bool]:
    return lambda value: value == wanted


_INLINE = "code comes as an inline zip. Send the package in ZipFile"
_INLINE_LAYER = "layers come as an inline zip. Send the content in ZipFile"
_ZIP = "functions are packaged as zip files. Use PackageType Zip"
_DIRECT = "functions reach no VPC. Leave the lists empty"
_TEXT_LOGS = "logs are plain text. Use LogFormat Text without levels"
_OWN_HOST = "functions run on this host. Leave it out"

_REFUSALS = (
    Refusal("Code.S3Bucket", _never, _INLINE),
    Refusal("Code.S3Key", _never, _INLINE),
    Refusal("Code.S3ObjectVersion", _never, _INLINE),
    Refusal("Code.S3ObjectStorageMode", _never, _INLINE),
    Refusal("Code.ImageUri", _never, _INLINE),
    Refusal("Code.SourceKMSKeyArn", _empty, _INLINE),
    Refusal("Content.S3Bucket", _never, _INLINE_LAYER),
    Refusal("Content.S3Key", _never, _INLINE_LAYER),
    Refusal("Content.S3ObjectVersion", _never, _INLINE_LAYER),
    Refusal("Content.S3ObjectStorageMode", _never, _INLINE_LAYER),
    Refusal("S3Bucket", _never, _INLINE),
    Refusal("S3Key", _never, _INLINE),
    Refusal("S3ObjectVersion", _never, _INLINE),
    Refusal("S3ObjectStorageMode", _never, _INLINE),
    Refusal("ImageUri", _never, _INLINE),
    Refusal("SourceKMSKeyArn", _empty, _INLINE),
    Refusal("PackageType", _only("Zip"), _ZIP),
    Refusal("ImageConfig", _empty, _ZIP),
    Refusal("VpcConfig.SubnetIds", _empty, _DIRECT),
    Refusal("VpcConfig.SecurityGroupIds", _empty, _DIRECT),
    Refusal("VpcConfig.Ipv6AllowedForDualStack", _empty, _DIRECT),
    Refusal("DeadLetterConfig.TargetArn", _empty, "there are no asynchronous invocations yet. Leave it out"),
    Refusal("KMSKeyArn", _empty, "keys of KMS are not used. Leave it out"),
    Refusal("TracingConfig.Mode", _only("PassThrough"), "trace headers are passed through. Use PassThrough"),
    Refusal("FileSystemConfigs", _empty, "no file systems are mounted. Use /tmp"),
    Refusal("CodeSigningConfigArn", _empty, "code signatures are not checked. Leave it out"),
    Refusal("SnapStart.ApplyOn", _only("None"), "there are no snapshots. Use None"),
    Refusal("LoggingConfig.LogFormat", _only("Text"), _TEXT_LOGS),
    Refusal("LoggingConfig.ApplicationLogLevel", _never, _TEXT_LOGS),
    Refusal("LoggingConfig.SystemLogLevel", _never, _TEXT_LOGS),
    Refusal("PublishTo", _never, "versions are numbered. Use Publish or PublishVersion without it"),
    Refusal("CapacityProviderConfig", _never, _OWN_HOST),
    Refusal("RuntimeConfig", _never, "the host's own runtimes are used. Choose one by Runtime"),
    Refusal("AcceleratorConfig", _never, _OWN_HOST),
    Refusal("DurableConfig", _never, "there are no durable executions. Leave it out"),
    Refusal("DurableExecutionName", _never, "there are no durable executions. Leave it out"),
    Refusal("MasterRegion", _only("ALL"), "there are no Lambda@Edge replicas. Leave it out"),
)


def refuse_unsupported(request: Mapping[str, Any]) -> None:
    """Refuse a request that sets what Insula does not honour.

    Raises:
        InvalidParameterValueException: names the first such member, and says what to do.
    """
    for refusal in _REFUSALS:
        value: Any = request
        for name in refusal.member.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None and not refusal.honoured(value):
            raise InvalidParameterValueException(
                f"Insula does not support this value of {refusal.member}: {refusal.instead}."
            )
