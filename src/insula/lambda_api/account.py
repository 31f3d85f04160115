"""The account's limits and usage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from insula.lambda_api.context import Context
from insula.lambda_api.registry import operation
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
            "ConcurrentExecutions": limits.ACCOUNT_CONCURRENCY,
            "UnreservedConcurrentExecutions": limits.ACCOUNT_CONCURRENCY,
        },
        "AccountUsage": {
            "TotalCodeSize": services.code.total_size(),
            "FunctionCount": len(services.catalog.functions(context.account)),
        },
    }
