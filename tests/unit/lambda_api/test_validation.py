"""Broken requests are answered in AWS's own words. The expected texts were recorded from AWS Lambda."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from insula.lambda_api.service import Service
from insula.lambda_api.shapes import SerializationException
from insula.model.errors import ValidationException
from tests.unit.lambda_api.api_harness import ACCOUNT, ROLE, Harness, settings

ROLE_PATTERN = r"arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+"
FAILED = "failed to satisfy constraint: "


def decode(service: Service, method: str, target: str, document: Any = None, **headers: str) -> dict[str, Any]:
    path, _, query = target.encode().partition(b"?")
    route, values = service.routes.match(method, path, query)
    body = b"" if document is None else json.dumps(document).encode()
    received = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return service.operations[route.operation].decoder.decode(values, query, received, body)


def create(**changes: Any) -> dict[str, Any]:
    return {"FunctionName": "f", "Role": ROLE, "Code": {}} | changes


@pytest.mark.parametrize(
    ("method", "target", "document", "text"),
    [
        (
            "POST",
            "/2015-03-31/functions",
            create(Role="r1"),
            f"Value 'r1' at 'role' {FAILED}Member must satisfy regular expression pattern: {ROLE_PATTERN}",
        ),
        (
            "POST",
            "/2015-03-31/functions",
            create(Architectures=["X86_64"]),
            (
                f"Value '[X86_64]' at 'architectures' {FAILED}Member must satisfy constraint: "
                "[Member must satisfy enum value set: [x86_64, arm64], Member must not be null]"
            ),
        ),
        (
            "POST",
            "/2015-03-31/functions",
            create(SnapStart={"ApplyOn": "invalidOption"}),
            (
                f"Value 'invalidOption' at 'snapStart.applyOn' {FAILED}"
                "Member must satisfy enum value set: [PublishedVersions, None]"
            ),
        ),
        (
            "GET",
            "/2015-03-31/functions?FunctionVersion=invalid",
            None,
            f"Value 'invalid' at 'functionVersion' {FAILED}Member must satisfy enum value set: [ALL]",
        ),
        (
            "POST",
            "/2015-03-31/functions/f/policy?Qualifier=invalid-qualifier-with-%3F-char",
            {"StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "p"},
            (
                f"Value 'invalid-qualifier-with-?-char' at 'qualifier' {FAILED}Member must satisfy regular "
                r"expression pattern: \$(LATEST(\.PUBLISHED)?)|[a-zA-Z0-9-_$]+"
            ),
        ),
        (
            "POST",
            "/2015-03-31/functions/f/aliases",
            {
                "Name": "a",
                "FunctionVersion": "1",
                "RoutingConfig": {"AdditionalVersionWeights": {"2": 2.0}},
            },
            (
                f"Value '{{2=2.0}}' at 'routingConfig.additionalVersionWeights' {FAILED}Map value must satisfy "
                "constraint: [Member must have value less than or equal to 1.0, Member must have value greater "
                "than or equal to 0.0, Member must not be null]"
            ),
        ),
        (
            "PUT",
            "/2024-08-31/functions/f/recursion-config",
            {"RecursiveLoop": "InvalidValue"},
            f"Value 'InvalidValue' at 'recursiveLoop' {FAILED}Member must satisfy enum value set: [Terminate, Allow]",
        ),
        (
            "PUT",
            "/2019-09-30/functions/f/provisioned-concurrency?Qualifier=1",
            {"ProvisionedConcurrentExecutions": 0},
            f"Value '0' at 'provisionedConcurrentExecutions' {FAILED}Member must have value greater than or equal to 1",
        ),
        (
            "POST",
            "/2021-10-31/functions/f/url?Qualifier=$LATEST",
            {"AuthType": "NONE"},
            (
                f"Value '$LATEST' at 'qualifier' {FAILED}Member must satisfy regular expression pattern: "
                r"((?!^\d+$)^[0-9a-zA-Z-_]+$)"
            ),
        ),
        (
            "POST",
            "/2015-03-31/functions",
            create(Environment={"Variables": {"a b": "c"}}),
            (
                f"Value at 'environment.variables' {FAILED}Map keys must satisfy constraint: "
                "[Member must satisfy regular expression pattern: [a-zA-Z]([a-zA-Z0-9_])+, Member must not be null]"
            ),
        ),
        (
            "POST",
            "/2015-03-31/functions",
            {"FunctionName": "f", "Code": {}},
            f"Value null at 'role' {FAILED}Member must not be null",
        ),
    ],
)
def test_one_broken_constraint_reads_as_on_aws(
    service: Service, method: str, target: str, document: Any, text: str
) -> None:
    with pytest.raises(ValidationException) as caught:
        decode(service, method, target, document)
    assert caught.value.message == f"1 validation error detected: {text}"


def test_all_broken_constraints_are_in_one_message(service: Service) -> None:
    with pytest.raises(ValidationException) as caught:
        decode(service, "POST", "/2015-03-31/functions", {"FunctionName": "a b", "Timeout": 0})
    message = caught.value.message
    assert message.startswith("4 validation errors detected: Value 'a b' at 'functionName'")
    assert "; Value '0' at 'timeout' failed to satisfy constraint: Member must have value greater" in message
    assert message.endswith("Value null at 'code' failed to satisfy constraint: Member must not be null")


@pytest.mark.parametrize(
    "tenant", ["blue", "a" * 256, "a.b_c:d/e=f+g-h@i j", "tenant-1"], ids=lambda tenant: tenant[:20]
)
def test_every_tenant_id_of_the_pattern_is_read(service: Service, tenant: str) -> None:
    request = decode(service, "POST", "/2015-03-31/functions/f/invocations", x_amz_tenant_id=tenant)
    assert request["TenantId"] == tenant


@pytest.mark.parametrize("tenant", ["", "a" * 257, "a,b", "blåbär", "a\tb", "a$b", "٣"], ids=ascii)
def test_a_tenant_id_outside_of_the_pattern_is_refused(service: Service, tenant: str) -> None:
    with pytest.raises(ValidationException, match="at 'tenantId' failed"):
        decode(service, "POST", "/2015-03-31/functions/f/invocations", x_amz_tenant_id=tenant)


def test_tags_may_hold_letters_of_all_scripts(service: Service) -> None:
    tags = {"größe": "naïve 値", "a_b.c:d/e=f+g-h@i": "٣"}
    assert decode(service, "POST", "/2015-03-31/functions", create(Tags=tags))["Tags"] == tags
    with pytest.raises(ValidationException, match="at 'tags' failed"):
        decode(service, "POST", "/2015-03-31/functions", create(Tags={"a!": "b"}))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"Timeout": "3"}, "STRING_VALUE can not be converted to an Integer"),
        ({"Timeout": True}, "TRUE_VALUE can not be converted to an Integer"),
        ({"Timeout": 1.5}, "NUMBER_VALUE can not be converted to an Integer"),
        ({"Timeout": 2**31}, "A number is out of the range of an Integer."),
        ({"Role": 7}, "NUMBER_VALUE can not be converted to a String"),
        ({"Role": {}}, "Start of structure or map found where not expected."),
        ({"Layers": {}}, "Start of structure or map found where not expected."),
        ({"Environment": []}, "Start of list found where not expected"),
        ({"Publish": "yes"}, "STRING_VALUE can not be converted to a Boolean"),
        ({"Code": {"ZipFile": "a"}}, "A binary member is not valid base64."),
        ({"Description": "\ud800"}, "A string holds half of a surrogate pair."),
        ({"Description": "a\0b"}, "A string holds the character U+0000. Remove it."),
    ],
)
def test_a_value_of_another_json_type_is_a_serialization_error(
    service: Service, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(SerializationException) as caught:
        decode(service, "POST", "/2015-03-31/functions", create(**changes))
    assert caught.value.message == text


def test_null_members_are_absent_and_unknown_members_are_ignored(service: Service) -> None:
    request = decode(service, "POST", "/2015-03-31/functions", create(Timeout=None, Nonsense=[1]))
    assert request == create()


def test_a_pattern_is_not_tried_on_a_value_that_is_too_long(service: Service) -> None:
    with pytest.raises(ValidationException, match=r"^1 validation error detected"):
        decode(service, "POST", "/2015-03-31/functions", create(Role="!" * 20_000))


@pytest.mark.parametrize("number", ["x", "1.5", "9" * 5000])
def test_a_query_number_that_is_none_is_a_serialization_error(service: Service, number: str) -> None:
    with pytest.raises(SerializationException):
        decode(service, "GET", f"/2015-03-31/functions?MaxItems={number}")


def test_boto3_shows_the_code_and_the_message(harness: Harness, client: Any) -> None:
    with pytest.raises(ClientError) as caught:
        client.create_function(**settings(Role="r1"))
    error = caught.value.response["Error"]
    assert error["Code"] == "ValidationException"
    assert error["Message"].startswith("1 validation error detected: Value 'r1' at 'role'")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert harness.catalog.functions(ACCOUNT) == ()
