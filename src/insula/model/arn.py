"""Names of functions: a name, a partial ARN or a full ARN, with or without a qualifier."""

from __future__ import annotations

import re
from dataclasses import dataclass

from insula.model.errors import (
    AccessDeniedException,
    InvalidParameterValueException,
    ResourceNotFoundException,
)

LATEST = "$LATEST"

_REFERENCE = re.compile(
    r"(?:arn:(?P<partition>aws[a-zA-Z-]*)?:lambda:)?"
    r"(?:(?P<region>(?:eusc-)?[a-z]{2}(?:(?:-gov)|(?:-iso(?:[a-z]?)))?-[a-z]+-\d):)?"
    r"(?:(?P<account>\d{12}):)?(?:function:)?"
    r"(?P<name>[a-zA-Z0-9-_.]+)(?::(?P<qualifier>\$LATEST(?:\.PUBLISHED)?|[a-zA-Z0-9-_]+))?"
)


@dataclass(frozen=True, slots=True)
class FunctionArn:
    """The ARN of a function, or of one of its versions or aliases.

    Attributes:
        qualifier: ``$LATEST``, a version number or an alias; None for the unqualified ARN.
    """

    region: str
    account: str
    name: str
    qualifier: str | None = None

    def __str__(self) -> str:
        suffix = f":{self.qualifier}" if self.qualifier else ""
        return f"arn:aws:lambda:{self.region}:{self.account}:function:{self.name}{suffix}"

    def qualified(self, qualifier: str) -> FunctionArn:
        """This function's ARN with the qualifier."""
        return FunctionArn(self.region, self.account, self.name, qualifier)


def parse_reference(reference: str, *, region: str, account: str, qualifier: str | None = None) -> FunctionArn:
    """Read a ``FunctionName`` field that the service model has already validated.

    Args:
        reference: name (``f``, ``f:1``), partial ARN (``123456789012:function:f``) or full ARN.
        region: the region served here.
        account: the caller's account.
        qualifier: the request's ``Qualifier``, which must not contradict the reference.

    Raises:
        ResourceNotFoundException: the ARN names another region.
        AccessDeniedException: the ARN names another account.
        InvalidParameterValueException: two different qualifiers.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise InvalidParameterValueException(f"Invalid function name or ARN: {reference}")
    found_region, found_account = match["region"], match["account"]
    if found_region and found_region != region:
        raise ResourceNotFoundException(
            f"Functions from '{found_region}' are not reachable in this region ('{region}')"
        )
    if found_account and found_account != account:
        raise AccessDeniedException(
            f"The ARN names account {found_account}, and the caller belongs to account {account}. "
            "Use a function of the caller's own account."
        )
    inline = match["qualifier"]
    if inline and qualifier and inline != qualifier:
        raise InvalidParameterValueException(
            "The derived qualifier from the function name does not match the specified qualifier."
        )
    return FunctionArn(region, account, match["name"], qualifier or inline)
