"""A function version: everything that its owner configured, and what Insula knows of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from insula.model.arn import LATEST, FunctionArn
from insula.model.layer import Layer

PER_TENANT = "PER_TENANT"


@dataclass(frozen=True, slots=True)
class FunctionVersion:
    """``$LATEST`` or a published version of a function.

    Attributes:
        version: ``$LATEST`` or a number.
        deployment: changes whenever code or configuration that an environment sees changes; environments are
            pooled by it, so that none is ever reused for another version or an older configuration.
        revision: AWS's ``RevisionId``; changes on every write, state changes included.
        timeout: seconds.
        memory: MB (MiB, as AWS counts).
        ephemeral_storage: size of /tmp in MB.
        code_sha256: base64 of the zip's SHA-256, as in ``CodeSha256``.
        code_size: bytes of the zip.
        last_modified: as AWS prints it, ``2026-11-23T16:05:00.000+0000``.
        tenancy: ``PER_TENANT`` or None. Set at creation, never changed.
        layers: merged at /opt, lowest first.
        state: ``Pending``, ``Active`` or ``Failed``.
        update_status: ``LastUpdateStatus``; None before the function was first active.
    """

    account: str
    region: str
    name: str
    version: str
    runtime: str
    role: str
    handler: str
    code_sha256: str
    code_size: int
    deployment: str
    revision: str
    last_modified: str
    description: str = ""
    timeout: int = 3
    memory: int = 128
    ephemeral_storage: int = 512
    architecture: str = "x86_64"
    environment: Mapping[str, str] | None = None
    tenancy: str | None = None
    tracing: str = "PassThrough"
    log_format: str = "Text"
    log_group: str = ""
    layers: tuple[Layer, ...] = ()
    state: str = "Pending"
    state_reason: str | None = None
    state_reason_code: str | None = None
    update_status: str | None = None
    update_reason: str | None = None
    update_reason_code: str | None = None

    @property
    def arn(self) -> FunctionArn:
        """The unqualified ARN for ``$LATEST``, else the version's."""
        arn = FunctionArn(self.region, self.account, self.name)
        return arn if self.version == LATEST else arn.qualified(self.version)

    @property
    def per_tenant(self) -> bool:
        """Whether the function uses tenant isolation mode."""
        return self.tenancy == PER_TENANT

    @property
    def runtime_version_arn(self) -> str:
        """ARN of the runtime's build. AWS names it by a hash; here one build stands for each runtime of the host."""
        build = hashlib.sha256(self.runtime.encode()).hexdigest()
        return f"arn:aws:lambda:{self.region}::runtime:{build}"

    def to_document(self) -> dict[str, Any]:
        """A JSON-serialisable form for the store."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> FunctionVersion:
        """The inverse of ``to_document``; keys that this release does not know are an error."""
        known = {f.name for f in fields(cls)}
        unknown = set(document) - known
        if unknown:
            raise ValueError(f"function document has unknown keys {sorted(unknown)}: written by a newer release?")
        return cls(**{**document, "layers": tuple(Layer(**layer) for layer in document.get("layers", ()))})
