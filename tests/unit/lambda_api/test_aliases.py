"""Aliases through real boto3 clients; messages and shapes are AWS's recorded ones."""

from __future__ import annotations

import re
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.unit.lambda_api.api_harness import ACCOUNT, REGION, Harness, settings, zipped

ARN = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:hello"
INVALID = "InvalidParameterValueException"


def refused(call: Any, **request: Any) -> tuple[str, int, str]:
    with pytest.raises(ClientError) as caught:
        call(**request)
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Message"]


def shown(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key != "ResponseMetadata"}


def create(client: Any, name: str = "live", version: str = "1", **options: Any) -> Any:
    return client.create_alias(FunctionName="hello", Name=name, FunctionVersion=version, **options)


def weights(**shares: float) -> dict[str, Any]:
    return {"AdditionalVersionWeights": {version.removeprefix("v"): share for version, share in shares.items()}}


@pytest.fixture(autouse=True)
def function(client: Any) -> None:
    """The function ``hello`` with versions 1 and 2."""
    client.create_function(**settings(Publish=True))
    client.get_waiter("function_active_v2").wait(FunctionName="hello", WaiterConfig={"Delay": 0})
    client.update_function_code(FunctionName="hello", ZipFile=zipped("x = 2"), Publish=True)
    client.get_waiter("function_updated_v2").wait(FunctionName="hello", WaiterConfig={"Delay": 0})


def test_a_plain_alias_is_shown_as_on_aws(client: Any) -> None:
    made = create(client)
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    alias = shown(made)
    assert re.fullmatch(r"[0-9a-f-]{36}", alias.pop("RevisionId"))
    assert alias == {"AliasArn": f"{ARN}:live", "Name": "live", "FunctionVersion": "1", "Description": ""}
    assert shown(client.get_alias(FunctionName=ARN, Name="live")) == shown(made)


def test_a_weighted_alias_is_shown_with_its_weights(client: Any) -> None:
    made = create(client, RoutingConfig=weights(v2=0.2), Description="custom-alias")
    assert made["RoutingConfig"] == {"AdditionalVersionWeights": {"2": 0.2}}
    assert client.list_aliases(FunctionName="hello")["Aliases"] == [shown(made)]


def test_an_empty_routing_config_is_none(client: Any) -> None:
    assert "RoutingConfig" not in create(client, RoutingConfig={"AdditionalVersionWeights": {}})
    assert "RoutingConfig" not in create(client, "b", RoutingConfig={})


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        ({"version": "10"}, ("ResourceNotFoundException", 404, f"Function not found: {ARN}:10")),
        (
            {"RoutingConfig": weights(v10=0.1)},
            ("ResourceNotFoundException", 404, f"Function not found: {ARN}:10"),
        ),
        (
            {"RoutingConfig": weights(v1=0.5)},
            (
                INVALID,
                400,
                "Invalid function version 1. Function version 1 is already included in routing configuration.",
            ),
        ),
        (
            {"RoutingConfig": weights(v1=0.5, v2=0.5)},
            (INVALID, 400, "Number of items in AdditionalVersionWeights cannot be greater than 1"),
        ),
        (
            {"version": "$LATEST", "RoutingConfig": weights(v2=0.5)},
            (INVALID, 400, "$LATEST is not supported for an alias pointing to more than 1 version"),
        ),
        (
            {"RoutingConfig": weights(v2=2.0)},
            (
                "ValidationException",
                400,
                (
                    "1 validation error detected: Value '{2=2.0}' at 'routingConfig.additionalVersionWeights' failed "
                    "to satisfy constraint: Map value must satisfy constraint: [Member must have value less than or "
                    "equal to 1.0, Member must have value greater than or equal to 0.0, Member must not be null]"
                ),
            ),
        ),
    ],
)
def test_what_aws_refuses_is_refused_in_its_words(
    client: Any, request_: dict[str, Any], wanted: tuple[str, int, str]
) -> None:
    assert refused(create, client=client, **request_) == wanted
    assert client.list_aliases(FunctionName="hello")["Aliases"] == []


@pytest.mark.parametrize("name", ["1", "a b", "x" * 129])
def test_an_alias_has_a_name_of_the_models_pattern(client: Any, name: str) -> None:
    assert refused(create, client=client, name=name)[0] == "ValidationException"


def test_a_name_is_taken_once(client: Any) -> None:
    create(client)
    assert refused(create, client=client) == (
        "ResourceConflictException",
        409,
        f"Alias already exists: {ARN}:live",
    )


def test_aliases_that_are_not_there(client: Any) -> None:
    missing = {"FunctionName": "hello", "Name": "x"}
    code = "ResourceNotFoundException"
    assert refused(client.get_alias, **missing) == (code, 404, f"Cannot find alias arn: {ARN}:x")
    assert refused(client.update_alias, **missing) == (code, 404, f"Alias not found: {ARN}:x")
    assert client.delete_alias(**missing)["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert refused(client.get_function, FunctionName="hello", Qualifier="x")[2] == f"Function not found: {ARN}:x"
    other = f"{ARN[:-5]}other"
    assert refused(client.list_aliases, FunctionName="other")[2] == f"Function not found: {other}"
    assert refused(client.create_alias, FunctionName="other", Name="x", FunctionVersion="1") == (
        code,
        404,
        f"Function not found: {other}:1",
    )


def test_operations_on_aliases_take_no_qualified_function(client: Any) -> None:
    code, _, message = refused(client.get_alias, FunctionName="hello:1", Name="live")
    assert (code, message.startswith("This operation is permitted on Lambda functions only.")) == (INVALID, True)


def test_a_list_is_sorted_paged_and_filtered_by_main_version(client: Any) -> None:
    for name, version in (("c", "1"), ("a", "2"), ("b", "1")):
        create(client, name, version, RoutingConfig=weights(v2=0.1) if version == "1" else {})
    first = client.list_aliases(FunctionName="hello", MaxItems=2)
    rest = client.list_aliases(FunctionName="hello", Marker=first["NextMarker"])
    assert [each["Name"] for each in first["Aliases"] + rest["Aliases"]] == ["a", "b", "c"]
    assert "NextMarker" not in rest
    filtered = client.list_aliases(FunctionName="hello", FunctionVersion="1")["Aliases"]
    assert [each["Name"] for each in filtered] == ["b", "c"]


def test_an_update_changes_what_it_names_and_nothing_else(client: Any) -> None:
    before = create(client, Description="d", RoutingConfig=weights(v2=0.2))
    described = client.update_alias(FunctionName="hello", Name="live", Description="e")
    assert (described["FunctionVersion"], described["Description"]) == ("1", "e")
    assert described["RoutingConfig"] == before["RoutingConfig"]
    assert described["RevisionId"] != before["RevisionId"]
    plain = client.update_alias(FunctionName="hello", Name="live", FunctionVersion="2", RoutingConfig={})
    assert "RoutingConfig" not in plain
    assert shown(client.get_alias(FunctionName="hello", Name="live")) == shown(plain)


def test_an_update_is_checked_like_a_new_alias(client: Any) -> None:
    create(client, RoutingConfig=weights(v2=0.2))
    call = client.update_alias
    assert "already included in routing" in refused(call, FunctionName="hello", Name="live", FunctionVersion="2")[2]
    assert refused(call, FunctionName="hello", Name="live", FunctionVersion="9")[2] == f"Function not found: {ARN}:9"
    assert client.get_alias(FunctionName="hello", Name="live")["FunctionVersion"] == "1"


def test_an_update_of_an_older_revision_is_refused(client: Any) -> None:
    revision = create(client)["RevisionId"]
    client.update_alias(FunctionName="hello", Name="live", RevisionId=revision)
    assert refused(client.update_alias, FunctionName="hello", Name="live", RevisionId=revision) == (
        "PreconditionFailedException",
        412,
        (
            "The Revision Id provided does not match the latest Revision Id. "
            "Call the GetFunction/GetAlias API to retrieve the latest Revision Id"
        ),
    )


def test_a_version_that_an_alias_points_to_is_not_deleted(client: Any) -> None:
    create(client, RoutingConfig=weights(v2=0.0))
    for version in ("1", "2"):
        assert refused(client.delete_function, FunctionName="hello", Qualifier=version) == (
            "ResourceConflictException",
            409,
            "Unable to delete version because the following aliases reference it: [live]",
        )
    assert refused(client.delete_function, FunctionName="hello", Qualifier="live")[2] == (
        "Deletion of aliases is not currently supported."
    )
    client.delete_alias(FunctionName="hello", Name="live")
    client.delete_function(FunctionName="hello", Qualifier="2")


def test_an_alias_is_a_qualifier_and_the_arn_carries_it(client: Any) -> None:
    create(client)
    for answer in (
        client.get_function(FunctionName="hello:live")["Configuration"],
        client.get_function_configuration(FunctionName="hello", Qualifier="live"),
    ):
        assert (answer["FunctionArn"], answer["Version"]) == (f"{ARN}:live", "1")


@pytest.mark.parametrize(("number", "version"), [(0.19, "2"), (0.2, "1"), (0.999, "1")])
def test_an_invocation_goes_to_a_version_by_weight(harness: Harness, client: Any, number: float, version: str) -> None:
    create(client, RoutingConfig=weights(v2=0.2))
    harness.random = number
    assert client.invoke(FunctionName="hello", Qualifier="live")["ExecutedVersion"] == version
    invocation = harness.invoker.invocations[0]
    assert (invocation.function.version, invocation.invoked_arn) == (version, f"{ARN}:live")


def test_reads_never_depend_on_weights(harness: Harness, client: Any) -> None:
    create(client, RoutingConfig=weights(v2=1.0))
    harness.random = 0.0
    assert client.get_function_configuration(FunctionName="hello", Qualifier="live")["Version"] == "1"


def test_an_alias_may_follow_the_latest_code(client: Any) -> None:
    create(client, version="$LATEST")
    assert client.invoke(FunctionName="hello:live")["ExecutedVersion"] == "$LATEST"
