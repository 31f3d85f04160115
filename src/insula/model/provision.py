"""Provisioned concurrency as its owner configured it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProvisionedConcurrency:
    """How many environments are kept initialised for a version or an alias.

    Attributes:
        qualifier: number of a version, or name of an alias.
        requested: environments.
        last_modified: as AWS prints it, ``2026-11-23T16:05:00+0000``.
    """

    qualifier: str
    requested: int
    last_modified: str
