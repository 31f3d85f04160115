"""A tenant's share: what one tenant may use of a server, beyond AWS's limits, so that it cannot starve the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

# Source: https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html (``TenantId``)
_TENANT = re.compile(r"[a-zA-Z0-9._:/=+\-@ ]{1,256}")


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """Limits of one tenant over all functions of its account; None is no limit.

    Attributes:
        concurrency: invocations that may run at once.
        environments: execution environments, active or idle.
        requests_per_second: invocations that may begin in a second.
    """

    concurrency: int | None = None
    environments: int | None = None
    requests_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Shares:
    """The limits of all tenants.

    Attributes:
        default: of tenants that have none of their own.
        tenants: those that have.
    """

    default: TenantLimits = TenantLimits()
    tenants: Mapping[str, TenantLimits] = field(default_factory=dict)

    def of(self, tenant: str) -> TenantLimits:
        """The limits of a tenant."""
        return self.tenants.get(tenant, self.default)


def read_shares(document: Mapping[str, object]) -> Shares:
    """Shares from a document of the form ``{"default": {...}, "tenants": {"blue": {...}}}``.

    A tenant's own limits replace single limits of the default; ``"none"`` lifts one.

    Raises:
        ValueError: names what is not a limit, and what is.
    """
    unknown = sorted(set(document) - {"default", "tenants"})
    if unknown:
        raise ValueError(f'unknown table {unknown[0]!r}: there are [default] and [tenants."ID"]')
    default = _read(document.get("default", {}), "default", TenantLimits())
    named = document.get("tenants", {})
    if not isinstance(named, Mapping):
        raise ValueError("'tenants' must hold tables: [tenants.\"ID\"]")  # noqa: TRY004 - it is a document's value
    for name in named:
        if not _TENANT.fullmatch(str(name)):
            raise ValueError(
                f"{name!r} is no tenant id: 1 to 256 letters, digits, spaces and . _ : / = + - @ are expected"
            )
    return Shares(default, {str(name): _read(given, f"tenants.{name}", default) for name, given in named.items()})


def _read(given: object, where: str, base: TenantLimits) -> TenantLimits:
    names = [each.name for each in fields(TenantLimits)]
    if not isinstance(given, Mapping):
        raise ValueError(f"[{where}] must be a table with {', '.join(names)}")  # noqa: TRY004 - as above
    limits = {name: getattr(base, name) for name in names}
    for name, value in given.items():
        if name not in limits:
            raise ValueError(f"[{where}] has no limit {name!r}: there are {', '.join(names)}")
        limits[name] = _number(value, f"{where}.{name}", whole=name != "requests_per_second")
    return TenantLimits(**limits)


def _number(value: object, where: str, *, whole: bool) -> float | None:
    if value == "none":
        return None
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value <= 1_000_000:
        raise ValueError(
            f'{where} is {value!r}: a{" whole" if whole else ""} number from 0 to 1000000 or "none" is expected'
        )
    return value
