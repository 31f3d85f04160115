"""Insula's own settings of a function, which its owner gives as tags.

AWS's API has no members for them; tags it has, and every client of AWS Lambda can set them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from insula.model.errors import InvalidParameterValueException

PREFIX = "insula:"
EVICT_IDLE = "insula:evict-idle"
PROACTIVE = "insula:proactive"

_BOOLEANS = {"true": True, "false": False}
_MOST_PROACTIVE = 100
_COUNTS = {str(count): count for count in range(_MOST_PROACTIVE + 1)}
_KNOWN = f"The tags of Insula are {EVICT_IDLE} (true or false) and {PROACTIVE} (an integer, 0 to {_MOST_PROACTIVE})."


@dataclass(frozen=True, slots=True)
class FunctionSettings:
    """What Insula does for one function beyond AWS.

    Attributes:
        evict_idle: at the limit of tenant environments, end the idle one of another tenant that was used least
            recently instead of throttling.
        proactive: most unbound environments that are kept initialised; None leaves it to the server.
    """

    evict_idle: bool = False
    proactive: int | None = None


def function_settings(tags: Mapping[str, str]) -> FunctionSettings:
    """Read the settings among a function's tags; other tags are the owner's own.

    Raises:
        InvalidParameterValueException: a key that begins with ``insula:`` is not one of them, or a value is wrong.
    """
    own = {key: value for key, value in tags.items() if key.startswith(PREFIX)}
    unknown = sorted(own.keys() - {EVICT_IDLE, PROACTIVE})
    if unknown:
        raise InvalidParameterValueException(f"Insula has no setting {unknown[0]}. {_KNOWN}")
    evict_idle, proactive = own.get(EVICT_IDLE, "false"), own.get(PROACTIVE)
    if evict_idle not in _BOOLEANS:
        raise InvalidParameterValueException(f"The tag {EVICT_IDLE} has the value {evict_idle!r}. {_KNOWN}")
    if proactive is not None and proactive not in _COUNTS:
        raise InvalidParameterValueException(f"The tag {PROACTIVE} has the value {proactive!r}. {_KNOWN}")
    return FunctionSettings(_BOOLEANS[evict_idle], None if proactive is None else _COUNTS[proactive])
