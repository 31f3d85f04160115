"""Functions through real boto3 clients: keys, values and life as recorded from AWS Lambda."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError

from insula.lambda_api.service import Service
from tests.unit.lambda_api.api_harness import ACCOUNT, REGION, ROLE, Harness, settings, zipped

ARN = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:hello"
ALWAYS = {
    "Architectures",
    "CodeSha256",
    "CodeSize",
    "Description",
    "EphemeralStorage",
    "FunctionArn",
    "FunctionName",
    "Handler",
    "LastModified",
    "LoggingConfig",
    "MemorySize",
    "PackageType",
    "RevisionId",
    "Role",
    "Runtime",
    "SnapStart",
    "Timeout",
    "TracingConfig",
    "Version",
}
PENDING = ALWAYS | {"RuntimeVersionConfig", "State", "StateReason", "StateReasonCode"}
SETTLED = ALWAYS | {"RuntimeVersionConfig", "State", "LastUpdateStatus"}
UPDATING = SETTLED | {"LastUpdateStatusReason", "LastUpdateStatusReasonCode"}
STALE = (
    "The Revision Id provided does not match the latest Revision Id. "
    "Call the GetFunction/GetAlias API to retrieve the latest Revision Id"
)


def body(response: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in response.items() if name != "ResponseMetadata"}


def status(response: dict[str, Any]) -> int:
    return int(response["ResponseMetadata"]["HTTPStatusCode"])


def refused(call: Any, **request: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        call(**request)
    error = caught.value.response["Error"]
    return str(error["Code"]), str(error["Message"])


def active(client: Any, **changes: Any) -> dict[str, Any]:
    client.create_function(**settings(**changes))
    name = changes.get("FunctionName", "hello")
    client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 0})
    return body(client.get_function_configuration(FunctionName=name))


def test_create_answers_pending_with_the_keys_of_aws(client: Any) -> None:
    response = client.create_function(**settings())
    assert status(response) == 201
    made = body(response)
    assert set(made) == PENDING
    assert (made["State"], made["StateReason"], made["StateReasonCode"]) == (
        "Pending",
        "The function is being created.",
        "Creating",
    )
    assert made["FunctionArn"] == ARN
    assert made["Version"] == "$LATEST"
    assert made["CodeSha256"] == base64.b64encode(hashlib.sha256(zipped()).digest()).decode()
    assert made["CodeSize"] == len(zipped())
    assert made["LoggingConfig"] == {"LogFormat": "Text", "LogGroup": "/aws/lambda/hello"}
    assert made["SnapStart"] == {"ApplyOn": "None", "OptimizationStatus": "Off"}
    assert made["RuntimeVersionConfig"]["RuntimeVersionArn"].startswith(f"arn:aws:lambda:{REGION}::runtime:")
    assert made["LastModified"].endswith("+0000")
    assert len(made["LastModified"]) == len("2026-11-23T16:05:00.123+0000")


def test_a_function_becomes_active_with_a_new_revision(client: Any) -> None:
    made = client.create_function(**settings())
    client.get_waiter("function_active_v2").wait(FunctionName="hello", WaiterConfig={"Delay": 0})
    client.get_waiter("function_exists").wait(FunctionName="hello", WaiterConfig={"Delay": 0})
    found = body(client.get_function_configuration(FunctionName="hello"))
    assert set(found) == SETTLED
    assert (found["State"], found["LastUpdateStatus"]) == ("Active", "Successful")
    assert found["RevisionId"] != made["RevisionId"]


def test_given_settings_are_echoed(client: Any) -> None:
    made = client.create_function(
        **settings(
            Description="d",
            Timeout=60,
            MemorySize=512,
            EphemeralStorage={"Size": 1024},
            Environment={"Variables": {"KEY": "välue"}},
            Architectures=["x86_64"],
            VpcConfig={"SubnetIds": [], "SecurityGroupIds": []},
            Layers=[],
            TracingConfig={"Mode": "PassThrough"},
            LoggingConfig={"LogFormat": "Text", "LogGroup": "/aws/lambda/hello"},
            TenancyConfig={"TenantIsolationMode": "PER_TENANT"},
        )
    )
    assert (made["Description"], made["Timeout"], made["MemorySize"]) == ("d", 60, 512)
    assert made["EphemeralStorage"] == {"Size": 1024}
    assert made["Environment"] == {"Variables": {"KEY": "välue"}}
    assert made["TenancyConfig"] == {"TenantIsolationMode": "PER_TENANT"}
    assert client.get_function_configuration(FunctionName="hello")["TenancyConfig"] == made["TenancyConfig"]


def test_an_empty_environment_is_echoed_and_an_absent_one_is_not(client: Any) -> None:
    assert client.create_function(**settings(Environment={"Variables": {}}))["Environment"] == {"Variables": {}}
    assert "Environment" not in client.create_function(**settings(FunctionName="other"))


def test_get_function_links_to_the_code_and_shows_tags(harness: Harness, client: Any) -> None:
    active(client, Tags={"team": "blue"})
    found = body(client.get_function(FunctionName=ARN))
    assert set(found) == {"Configuration", "Code", "Tags"}
    assert found["Tags"] == {"team": "blue"}
    assert found["Code"]["RepositoryType"] == "S3"
    link = urlsplit(found["Code"]["Location"])
    answer = harness.request("GET", f"{link.path}?{link.query}")
    assert (answer.status, answer.body) == (200, zipped())


def test_a_code_link_is_void_when_changed_or_old(harness: Harness, client: Any) -> None:
    active(client)
    link = urlsplit(client.get_function(FunctionName="hello")["Code"]["Location"])
    for target in (link.path, f"{link.path}?{link.query}0", f"{link.path[:-2]}00?{link.query}", link.path + "%ff"):
        assert harness.request("GET", target).status == 403
    harness.clock.shift = 601
    assert harness.request("GET", f"{link.path}?{link.query}").status == 403


def test_publishing_at_creation_answers_version_1(client: Any) -> None:
    made = body(client.create_function(**settings(Publish=True)))
    assert set(made) == PENDING
    assert (made["Version"], made["FunctionArn"]) == ("1", ARN)
    client.get_waiter("published_version_active").wait(FunctionName="hello", Qualifier="1", WaiterConfig={"Delay": 0})
    versions = client.list_versions_by_function(FunctionName="hello")["Versions"]
    assert [set(version) for version in versions] == [ALWAYS, ALWAYS]
    assert [version["FunctionArn"] for version in versions] == [f"{ARN}:$LATEST", f"{ARN}:1"]
    assert len({version["RevisionId"] for version in versions}) == 2


def test_no_two_versions_share_a_deployment(harness: Harness, client: Any) -> None:
    active(client, Publish=True)
    client.update_function_code(FunctionName="hello", ZipFile=zipped("x = 1"), Publish=True)
    deployments = [version.deployment for version in harness.catalog.versions(ACCOUNT, "hello")]
    assert len(set(deployments)) == 3


def test_publishing_an_unchanged_function_answers_its_newest_version(client: Any) -> None:
    active(client)
    first = client.publish_version(FunctionName="hello", Description="first")
    assert status(first) == 201
    assert set(body(first)) == SETTLED
    assert (first["Version"], first["FunctionArn"], first["Description"]) == ("1", f"{ARN}:1", "first")
    assert body(client.publish_version(FunctionName="hello")) == body(first)
    client.update_function_code(FunctionName="hello", ZipFile=zipped("x = 1"))
    client.get_waiter("function_updated_v2").wait(FunctionName="hello", WaiterConfig={"Delay": 0})
    assert client.publish_version(FunctionName="hello")["Version"] == "2"
    found = body(client.get_function(FunctionName="hello", Qualifier="1"))["Configuration"]
    assert found == body(first)


def test_publish_checks_hash_and_revision(client: Any) -> None:
    current = active(client)["CodeSha256"]
    assert refused(client.publish_version, FunctionName="hello", CodeSha256="somenonexistentsha256") == (
        "InvalidParameterValueException",
        (
            f"CodeSHA256 (somenonexistentsha256) is different from current CodeSHA256 in $LATEST ({current}). "
            "Please try again with the CodeSHA256 in $LATEST."
        ),
    )
    assert refused(client.publish_version, FunctionName="hello", RevisionId="old") == (
        "PreconditionFailedException",
        STALE,
    )


def test_an_update_of_the_configuration_is_in_progress_then_successful(harness: Harness, client: Any) -> None:
    before = active(client)
    old = harness.catalog.functions(ACCOUNT)[0].deployment
    changed = body(client.update_function_configuration(FunctionName="hello", MemorySize=256, Timeout=10))
    assert set(changed) == UPDATING
    assert (changed["State"], changed["LastUpdateStatus"]) == ("Active", "InProgress")
    assert changed["LastUpdateStatusReason"] == "The function is being created."
    assert changed["LastUpdateStatusReasonCode"] == "Creating"
    client.get_waiter("function_updated_v2").wait(FunctionName="hello", WaiterConfig={"Delay": 0})
    after = body(client.get_function_configuration(FunctionName="hello"))
    assert set(after) == SETTLED
    assert len({before["RevisionId"], changed["RevisionId"], after["RevisionId"]}) == 3
    assert harness.invoker.retired == [old]
    assert harness.catalog.functions(ACCOUNT)[0].deployment != old


def test_a_description_changes_no_environment(harness: Harness, client: Any) -> None:
    active(client)
    deployment = harness.catalog.functions(ACCOUNT)[0].deployment
    client.update_function_configuration(FunctionName="hello", Description="new")
    client.tag_resource(Resource=ARN, Tags={"a": "b"})
    assert harness.catalog.functions(ACCOUNT)[0].deployment == deployment
    assert harness.invoker.retired == []


def test_an_update_of_the_code_can_be_tried_dry(harness: Harness, client: Any) -> None:
    before = active(client)
    tried = client.update_function_code(FunctionName="hello", ZipFile=zipped("x = 1"), DryRun=True)
    assert tried["CodeSha256"] != before["CodeSha256"]
    assert body(client.get_function_configuration(FunctionName="hello")) == before
    assert harness.invoker.retired == []


def test_an_update_with_publish_answers_the_pending_version(client: Any) -> None:
    active(client)
    made = body(client.update_function_code(FunctionName="hello", ZipFile=zipped("x = 1"), Publish=True))
    assert set(made) == PENDING
    assert (made["Version"], made["FunctionArn"]) == ("1", f"{ARN}:1")
    client.get_waiter("published_version_active").wait(FunctionName="hello", Qualifier="1", WaiterConfig={"Delay": 0})


def test_an_update_checks_the_revision(client: Any) -> None:
    active(client)
    stale = ("PreconditionFailedException", STALE)
    assert refused(client.update_function_configuration, FunctionName="hello", RevisionId="old") == stale
    code = {"FunctionName": "hello", "RevisionId": "old", "ZipFile": zipped()}
    assert refused(client.update_function_code, **code) == stale


def test_an_update_is_refused_while_another_is_under_way(harness: Harness, client: Any) -> None:
    harness.hold_activation()
    client.create_function(**settings())
    code, message = refused(client.update_function_configuration, FunctionName="hello", Timeout=5)
    assert code == "ResourceConflictException"
    assert message.endswith("The function is currently in the following state: Pending")
    assert refused(client.publish_version, FunctionName="hello") == (code, message)
    harness.release_activation()
    client.get_waiter("function_active_v2").wait(FunctionName="hello", WaiterConfig={"Delay": 0})
    harness.hold_activation()
    client.update_function_configuration(FunctionName="hello", Timeout=5)
    assert refused(client.update_function_configuration, FunctionName="hello", Timeout=6) == (
        "ResourceConflictException",
        f"The operation cannot be performed at this time. An update is in progress for resource: {ARN}",
    )


def test_a_restart_finishes_what_was_pending(harness: Harness, client: Any) -> None:
    harness.hold_activation()
    client.create_function(**settings(Publish=True))
    harness.restart_activation()
    client.get_waiter("function_active_v2").wait(FunctionName="hello", WaiterConfig={"Delay": 0})
    client.get_waiter("published_version_active").wait(FunctionName="hello", Qualifier="1", WaiterConfig={"Delay": 0})


def test_names_are_taken_once(client: Any) -> None:
    active(client)
    assert refused(client.create_function, **settings()) == (
        "ResourceConflictException",
        "Function already exist: hello",
    )


def test_a_deleted_function_is_gone_with_its_versions(harness: Harness, client: Any) -> None:
    active(client, Publish=True)
    deployments = {version.deployment for version in harness.catalog.versions(ACCOUNT, "hello")}
    response = client.delete_function(FunctionName="hello")
    assert (response["StatusCode"], status(response)) == (204, 204)
    assert set(harness.invoker.retired) == deployments
    gone = ("ResourceNotFoundException", f"Function not found: {ARN}")
    assert refused(client.get_function, FunctionName="hello") == gone
    assert refused(client.delete_function, FunctionName="hello") == gone
    assert refused(client.list_versions_by_function, FunctionName="hello") == gone
    client.create_function(**settings())


def test_one_version_can_be_deleted(harness: Harness, client: Any) -> None:
    active(client, Publish=True)
    deployment = harness.catalog.versions(ACCOUNT, "hello")[1].deployment
    client.delete_function(FunctionName="hello", Qualifier="1")
    assert harness.invoker.retired == [deployment]
    assert [version.version for version in harness.catalog.versions(ACCOUNT, "hello")] == ["$LATEST"]
    assert refused(client.delete_function, FunctionName="hello:1")[0] == "ResourceNotFoundException"


@pytest.mark.parametrize(
    ("qualifier", "message"),
    [
        ("$LATEST", "$LATEST version cannot be deleted without deleting the function."),
        ("alias", "Deletion of aliases is not currently supported."),
    ],
)
def test_other_qualifiers_cannot_be_deleted(client: Any, qualifier: str, message: str) -> None:
    active(client)
    assert refused(client.delete_function, FunctionName="hello", Qualifier=qualifier) == (
        "InvalidParameterValueException",
        message,
    )


@pytest.mark.parametrize("operation", ["get_function", "get_function_configuration", "invoke"])
@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        ({"FunctionName": "nope"}, "ResourceNotFoundException", f"Function not found: {ARN[:-5]}nope"),
        (
            {"FunctionName": "nope", "Qualifier": "$LATEST"},
            "ResourceNotFoundException",
            f"Function not found: {ARN[:-5]}nope:$LATEST",
        ),
        ({"FunctionName": "hello:1221"}, "ResourceNotFoundException", f"Function not found: {ARN}:1221"),
        (
            {"FunctionName": "hello", "Qualifier": "aliasdoesnotexist"},
            "ResourceNotFoundException",
            f"Function not found: {ARN}:aliasdoesnotexist",
        ),
        (
            {"FunctionName": f"{ARN}:1", "Qualifier": "2"},
            "InvalidParameterValueException",
            "The derived qualifier from the function name does not match the specified qualifier.",
        ),
        (
            {"FunctionName": ARN.replace(REGION, "ap-southeast-1")},
            "ResourceNotFoundException",
            f"Functions from 'ap-southeast-1' are not reachable in this region ('{REGION}')",
        ),
    ],
)
def test_a_function_that_is_not_there(
    client: Any, operation: str, request_: dict[str, str], code: str, message: str
) -> None:
    active(client)
    assert refused(getattr(client, operation), **request_) == (code, message)


def test_another_account_is_denied(client: Any) -> None:
    other = ARN.replace(ACCOUNT, "222222222222")
    assert refused(client.get_function, FunctionName=other)[0] == "AccessDeniedException"
    assert refused(client.create_function, **settings(FunctionName=other))[0] == "AccessDeniedException"


def test_lists_are_paged_by_an_opaque_marker(client: Any) -> None:
    names = [f"f{number}" for number in range(5)]
    for name in names:
        active(client, FunctionName=name, Publish=True)
    found = client.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 2})
    pages = [[function["FunctionName"] for function in page["Functions"]] for page in found]
    assert pages == [["f0", "f1"], ["f2", "f3"], ["f4"]]
    everything = client.get_paginator("list_functions").paginate(
        FunctionVersion="ALL", PaginationConfig={"PageSize": 3}
    )
    arns = [function["FunctionArn"].split(":", 6)[6] for page in everything for function in page["Functions"]]
    assert arns == [f"{name}:{version}" for name in names for version in ("$LATEST", "1")]
    versions = client.list_versions_by_function(FunctionName="f0", MaxItems=1)
    assert [version["Version"] for version in versions["Versions"]] == ["$LATEST"]
    rest = client.list_versions_by_function(FunctionName="f0", Marker=versions["NextMarker"])
    assert [version["Version"] for version in rest["Versions"]] == ["1"]
    assert "NextMarker" not in rest


def test_a_page_never_has_more_than_fifty(client: Any) -> None:
    for number in range(51):
        client.create_function(**settings(FunctionName=f"f{number:02}"))
    found = client.list_functions(MaxItems=10000)
    assert len(found["Functions"]) == 50
    assert set(found["Functions"][0]) == ALWAYS
    assert found["Functions"][0]["FunctionArn"].endswith(":function:f00")
    assert refused(client.list_functions, Marker="%%%")[0] == "InvalidParameterValueException"


def test_tags_are_added_replaced_and_removed(client: Any) -> None:
    active(client, Tags={"a": "1"})
    assert status(client.tag_resource(Resource=ARN, Tags={"a": "2", "b": "3"})) == 204
    assert client.list_tags(Resource=ARN)["Tags"] == {"a": "2", "b": "3"}
    assert status(client.untag_resource(Resource=ARN, TagKeys=["a", "never"])) == 204
    assert client.list_tags(Resource=ARN)["Tags"] == {"b": "3"}


@pytest.mark.parametrize(
    ("resource", "tags", "code", "message"),
    [
        (ARN, {}, "InvalidParameterValueException", "An error occurred and the request cannot be processed."),
        (
            f"{ARN}:1",
            {"a": "b"},
            "InvalidParameterValueException",
            "Tags on function aliases and versions are not supported. Please specify a function ARN.",
        ),
        (
            ARN,
            {str(number): "" for number in range(51)},
            "InvalidParameterValueException",
            "Number of tags exceeds resource tag limit.",
        ),
        (
            f"{ARN[:-5]}doesnotexist",
            {"a": "b"},
            "ResourceNotFoundException",
            f"Function not found: {ARN[:-5]}doesnotexist",
        ),
        (
            f"arn:aws:lambda:{REGION}:{ACCOUNT}:capacity-provider:x",
            {"a": "b"},
            "ResourceNotFoundException",
            f"Capacity provider not found: arn:aws:lambda:{REGION}:{ACCOUNT}:capacity-provider:x",
        ),
    ],
)
def test_wrong_tags_are_refused(client: Any, resource: str, tags: dict[str, str], code: str, message: str) -> None:
    active(client)
    assert refused(client.tag_resource, Resource=resource, Tags=tags) == (code, message)
    assert client.list_tags(Resource=ARN)["Tags"] == {}


def test_account_settings_have_the_limits_of_aws(client: Any) -> None:
    active(client)
    found = body(client.get_account_settings())
    assert found["AccountLimit"] == {
        "TotalCodeSize": 80530636800,
        "CodeSizeUnzipped": 262144000,
        "CodeSizeZipped": 52428800,
        "ConcurrentExecutions": 1000,
        "UnreservedConcurrentExecutions": 1000,
    }
    assert found["AccountUsage"] == {"TotalCodeSize": len(zipped()), "FunctionCount": 1}


def test_the_name_may_be_an_arn_of_at_most_64_characters(client: Any) -> None:
    assert client.create_function(**settings(FunctionName=ARN))["FunctionName"] == "hello"
    assert refused(client.create_function, **settings(FunctionName="a" * 65)) == (
        "InvalidParameterValueException",
        (
            f"1 validation error detected: Value '{'a' * 65}' at 'functionName' failed to satisfy constraint: "
            "Member must have length less than or equal to 64"
        ),
    )


def test_the_role_is_only_a_name_here(client: Any) -> None:
    assert active(client)["Role"] == ROLE


def test_a_caller_without_signature_is_refused_unless_authentication_is_off(
    service: Service, tmp_path: Path, harness: Harness
) -> None:
    answer = harness.request("GET", "/2015-03-31/functions")
    assert (answer.status, answer.headers["x-amzn-errortype"]) == (403, "MissingAuthenticationTokenException")
    open_harness = Harness(service, tmp_path / "open", signed=False)
    assert open_harness.request("GET", "/2015-03-31/functions").body == b'{"Functions": []}'
    open_harness.close()
