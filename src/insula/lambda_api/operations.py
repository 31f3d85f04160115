"""Imports every module of operations, and hands out the full registry."""

from __future__ import annotations

from insula.lambda_api import (
    account,
    aliases,
    concurrency,
    functions,
    invoke,
    layers,
    provision,
    streaming,
    tags,
    unsupported,
    versions,
)
from insula.lambda_api.registry import registered

MODULES = (
    account,
    aliases,
    concurrency,
    functions,
    invoke,
    layers,
    provision,
    streaming,
    tags,
    unsupported,
    versions,
)
OPERATIONS = registered()
