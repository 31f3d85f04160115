"""Tenant ids.

Source: https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html (``TenantId``)
"""

from __future__ import annotations

from insula.model.errors import InvalidParameterValueException
from insula.model.function import FunctionVersion

_MISSING = (
    "The invoked function is enabled with tenancy configuration. Add a valid tenant ID in your request and try again."
)
_UNEXPECTED = (
    "The invoked function is not enabled with tenancy configuration. "
    "Remove the tenant ID from your request and try again."
)
_NO_WALL = (
    "This server runs without isolation (insula serve --isolation none), and so runs no function with tenant isolation "
    "mode. Run it behind a wall: `insula doctor` says what this host lacks."
)


def check_tenant(function: FunctionVersion, tenant: str | None) -> None:
    """Refuse an invocation whose tenant id does not fit the function's tenancy configuration.

    Pattern and length are the service model's; here only presence is judged.

    Raises:
        InvalidParameterValueException: the id is missing, or not wanted.
    """
    if function.per_tenant and not tenant:
        raise InvalidParameterValueException(_MISSING)
    if not function.per_tenant and tenant is not None:
        raise InvalidParameterValueException(_UNEXPECTED)


def check_wall(*, per_tenant: bool, isolates: bool) -> None:
    """Refuse a tenant-isolated function where environments do not stand behind a wall (S2).

    Raises:
        InvalidParameterValueException: it would run on less isolation than it asks for.
    """
    if per_tenant and not isolates:
        raise InvalidParameterValueException(_NO_WALL)
