"""Layers: archives that are merged at /opt of a function's environments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

_ARN = re.compile(
    r"arn:(?:aws[a-zA-Z-]*)?:lambda:(?P<region>[a-z0-9-]+):(?P<account>[0-9]{12}):layer:"
    r"(?P<name>[a-zA-Z0-9-_]+)(?::(?P<version>[0-9]{1,18}))?"
)


@dataclass(frozen=True, slots=True)
class LayerArn:
    """The ARN of a layer, or of one version of it.

    Attributes:
        version: None for the layer as a whole.
    """

    region: str
    account: str
    name: str
    version: int | None = None

    def __str__(self) -> str:
        suffix = "" if self.version is None else f":{self.version}"
        return f"arn:aws:lambda:{self.region}:{self.account}:layer:{self.name}{suffix}"

    def of(self, version: int) -> LayerArn:
        """The ARN of one version of this layer."""
        return LayerArn(self.region, self.account, self.name, version)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer version as a function holds it; it stays usable when the layer version is deleted.

    Attributes:
        arn: of the layer version.
        sha256: base64 of the archive's SHA-256.
        size: bytes of the archive.
        unpacked_size: bytes of all its files.
    """

    arn: str
    sha256: str
    size: int
    unpacked_size: int


@dataclass(frozen=True, slots=True)
class LayerVersion:
    """A published version of a layer.

    Attributes:
        created: as AWS prints it, ``2026-11-23T16:05:00.000+0000``.
        sha256: base64 of the archive's SHA-256.
        size: bytes of the archive.
        unpacked_size: bytes of all its files.
        runtimes: ``CompatibleRuntimes``; None if its owner gave none.
        architectures: ``CompatibleArchitectures``; None if its owner gave none.
    """

    account: str
    region: str
    name: str
    version: int
    created: str
    sha256: str
    size: int
    unpacked_size: int
    description: str = ""
    license: str | None = None
    runtimes: tuple[str, ...] | None = None
    architectures: tuple[str, ...] | None = None

    @property
    def arn(self) -> LayerArn:
        """The layer version's ARN."""
        return LayerArn(self.region, self.account, self.name, self.version)

    def used(self) -> Layer:
        """What a function keeps of it."""
        return Layer(str(self.arn), self.sha256, self.size, self.unpacked_size)

    def fits(self, runtime: str | None, architecture: str | None) -> bool:
        """Whether its owner says that it is for a runtime and an architecture; None asks for none."""
        return (runtime is None or runtime in (self.runtimes or ())) and (
            architecture is None or architecture in (self.architectures or ())
        )

    def to_document(self) -> dict[str, Any]:
        """A JSON-serialisable form for the store."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> LayerVersion:
        """The inverse of ``to_document``."""
        lists = {key: None if document[key] is None else tuple(document[key]) for key in ("runtimes", "architectures")}
        return cls(**{**document, **lists})


def parse_layer_arn(text: str) -> LayerArn | None:
    """Read the ARN of a layer or a layer version; None if it is none, as those of AWS's own layers."""
    match = _ARN.fullmatch(text)
    if match is None:
        return None
    version = match["version"]
    return LayerArn(match["region"], match["account"], match["name"], None if version is None else int(version))
