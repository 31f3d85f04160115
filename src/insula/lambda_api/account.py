"""The account's limits and usage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from insula.lambda_api.concurrency import unreserved
from insula.lambda_api.context import Context
from insula.lambda_api.registry import operation
from insula.lambda_api.storage import stored_bytes
from insula.model import limits


@operation("GetAccountSettings")
async def get_account_settings(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:  # noqa: ARG001
    """Limits, the number of functions and the size of their code."""
    services = context.services
    return {
        "AccountLimit": {
            "TotalCodeSize": limits.CODE_STORAGE_BYTES,
            "CodeSizeUnzipped": limits.UNZIPPED_BYTES,
            "CodeSizeZipped": limits.ZIPPED_BYTES,
            "ConcurrentExecutions": services.concurrency,
            "UnreservedConcurrentExecutions": max(0, unreserved(services, context.account)),
        },
        "AccountUsage": {
            "TotalCodeSize": stored_bytes(services),
            "FunctionCount": len(services.catalog.functions(context.account)),
        },
    }
