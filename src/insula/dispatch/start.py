"""Why and how an environment is started."""

from __future__ import annotations

from dataclasses import dataclass

from insula.model.limits import INIT_TIMEOUT_SECONDS


@dataclass(frozen=True, slots=True)
class Start:
    """Why and how an environment is started.

    Attributes:
        limit: seconds that init may take.
        phase: ``init``, or ``invoke`` if an init failed before and this is the retry for an invocation that waits.
        provisioned: whether it is one of a version's provisioned environments.
        proactive: whether it is made ahead of need, for a tenant that is not known yet.
        asked: when it was asked for, monotonic seconds.
    """

    limit: float = INIT_TIMEOUT_SECONDS
    phase: str = "init"
    provisioned: bool = False
    proactive: bool = False
    asked: float = 0.0
