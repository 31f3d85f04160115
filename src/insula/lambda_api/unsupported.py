"""Operations that AWS does not offer for functions with tenant isolation mode, and Insula for none yet.

Source: https://docs.aws.amazon.com/lambda/latest/dg/tenant-isolation.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from insula.lambda_api.context import Context
from insula.lambda_api.registry import Operation, operation
from insula.model.errors import InvalidParameterValueException, NotImplementedException

_FEATURES = {
    "A function URL": (
        "CreateFunctionUrlConfig",
        "GetFunctionUrlConfig",
        "UpdateFunctionUrlConfig",
        "DeleteFunctionUrlConfig",
        "ListFunctionUrlConfigs",
    ),
}


def not_built(name: str) -> NotImplementedException:
    """The error of an operation that Insula does not have."""
    return NotImplementedException(f"Insula does not implement {name} yet. Nothing was changed.")


def _refuse(name: str, feature: str) -> Operation:
    async def refuse(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
        arn = context.reference(request)
        function = context.services.catalog.function(context.account, arn.name)
        if function is not None and function.per_tenant:
            raise InvalidParameterValueException(
                f"{feature} is not supported for functions with tenant isolation mode."
            )
        raise not_built(name)

    return refuse


for _feature, _names in _FEATURES.items():
    for _name in _names:
        operation(_name)(_refuse(_name, _feature))
