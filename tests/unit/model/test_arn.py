"""Names of functions in all their forms."""

from __future__ import annotations

import pytest

from insula.model.arn import FunctionArn, parse_reference
from insula.model.errors import (
    AccessDeniedException,
    InvalidParameterValueException,
    LambdaError,
    ResourceNotFoundException,
)

ARN = "arn:aws:lambda:us-east-1:111111111111:function:f"


def parse(reference: str, qualifier: str | None = None) -> FunctionArn:
    return parse_reference(reference, region="us-east-1", account="111111111111", qualifier=qualifier)


@pytest.mark.parametrize("reference", ["f", "111111111111:function:f", "function:f", ARN])
def test_every_form_names_the_same_function(reference: str) -> None:
    assert str(parse(reference)) == ARN


@pytest.mark.parametrize("qualifier", ["1", "live", "$LATEST"])
def test_a_qualifier_may_stand_in_the_reference_or_beside_it(qualifier: str) -> None:
    for reference in ("f", ARN):
        assert str(parse(f"{reference}:{qualifier}")) == f"{ARN}:{qualifier}"
        assert parse(reference, qualifier) == parse(f"{reference}:{qualifier}", qualifier)


@pytest.mark.parametrize(
    ("reference", "qualifier", "error"),
    [
        ("f:1", "2", InvalidParameterValueException),
        (ARN.replace("us-east-1", "eu-west-1"), None, ResourceNotFoundException),
        (ARN.replace("1" * 12, "2" * 12), None, AccessDeniedException),
        ("f/../g", None, InvalidParameterValueException),
        ("f\n", None, InvalidParameterValueException),
        ("", None, InvalidParameterValueException),
    ],
)
def test_what_is_elsewhere_or_contradicts_itself_is_refused(
    reference: str, qualifier: str | None, error: type[LambdaError]
) -> None:
    with pytest.raises(error):
        parse(reference, qualifier)
