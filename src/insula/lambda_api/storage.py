"""Uploaded archives: code packages and layers share one limit, as on AWS."""

from __future__ import annotations

from insula.artifacts.code import Artifact, CodeStore
from insula.lambda_api.context import Services
from insula.model import limits
from insula.model.errors import CodeStorageExceededException


def stored_bytes(services: Services) -> int:
    """Bytes of all archives."""
    return services.code.total_size() + services.layers.total_size()


async def store(services: Services, where: CodeStore, zipped: bytes) -> Artifact:
    """Verify, unpack and keep an archive.

    Raises:
        CodeStorageExceededException: there is no room for it.
        InvalidParameterValueException: it is broken, hostile or too large.
    """
    if stored_bytes(services) + len(zipped) > limits.CODE_STORAGE_BYTES:
        raise CodeStorageExceededException("Code storage limit exceeded.")
    return await where.add(zipped)
