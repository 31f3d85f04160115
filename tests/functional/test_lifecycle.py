"""A function from its creation to its end."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import urllib.request
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conftest import Function
from tests.functional.deployment import COUNTER, deploy, update
from tests.server import ROLE, RUNTIME, Server, zip_of

TENANTS = (None, "blue")


def answering(value: object) -> str:
    return f"def handler(event, context):\n    return {value!r}\n"


def test_a_new_function_is_shown_as_it_was_made(client: Any) -> None:
    package = zip_of(answering(1))
    made = client.create_function(
        FunctionName="shown",
        Runtime=RUNTIME,
        Role=ROLE,
        Handler="app.handler",
        Code={"ZipFile": package},
        Description="shows itself",
        Timeout=7,
        MemorySize=192,
        EphemeralStorage={"Size": 600},
        Environment={"Variables": {"COLOUR": "blue"}},
        Tags={"team": "a"},
    )
    try:
        assert (made["State"], made["StateReasonCode"], made["Version"]) == ("Pending", "Creating", "$LATEST")
        assert made["FunctionArn"] == "arn:aws:lambda:us-east-1:000000000000:function:shown"
        assert made["CodeSha256"] == base64.b64encode(hashlib.sha256(package).digest()).decode()
        assert made["CodeSize"] == len(package)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+0000", made["LastModified"])
        client.get_waiter("function_active_v2").wait(FunctionName="shown", WaiterConfig={"Delay": 0})
        shown = client.get_function(FunctionName="shown")
        configuration = shown["Configuration"]
        assert (configuration["State"], configuration["LastUpdateStatus"]) == ("Active", "Successful")
        assert shown["Tags"] == {"team": "a"}
        same = ("Runtime", "Role", "Handler", "Description", "Timeout", "MemorySize", "EphemeralStorage", "Environment")
        assert {key: configuration[key] for key in same} == {key: made[key] for key in same}
        assert configuration["EphemeralStorage"] == {"Size": 600}
        with urllib.request.urlopen(shown["Code"]["Location"], timeout=10) as answer:
            assert answer.read() == package
    finally:
        client.delete_function(FunctionName="shown")


@pytest.mark.parametrize("waiter", ["function_exists", "function_active", "function_active_v2"])
def test_waiters_for_a_new_function_come_back(function: Callable[..., Function], waiter: str) -> None:
    made = function(answering(1))
    made.client.get_waiter(waiter).wait(FunctionName=made.name, WaiterConfig={"MaxAttempts": 3})


@pytest.mark.parametrize("waiter", ["function_updated", "function_updated_v2"])
def test_waiters_for_an_update_come_back(function: Callable[..., Function], waiter: str) -> None:
    made = function(answering(1))
    made.client.update_function_configuration(FunctionName=made.name, Timeout=9)
    made.client.get_waiter(waiter).wait(FunctionName=made.name, WaiterConfig={"Delay": 0})
    shown = made.client.get_function_configuration(FunctionName=made.name)
    assert (shown["LastUpdateStatus"], shown["Timeout"]) == ("Successful", 9)


def test_the_waiter_for_a_published_version_comes_back(function: Callable[..., Function]) -> None:
    made = function(answering(1))
    made.client.publish_version(FunctionName=made.name)
    waiter = made.client.get_waiter("published_version_active")
    waiter.wait(FunctionName=made.name, Qualifier="1", WaiterConfig={"Delay": 0})


def test_a_function_can_be_invoked_right_after_its_creation(client: Any) -> None:
    client.create_function(
        FunctionName="quick",
        Runtime=RUNTIME,
        Role=ROLE,
        Handler="app.handler",
        Code={"ZipFile": zip_of(answering("quick"))},
    )
    try:
        assert client.invoke(FunctionName="quick")["Payload"].read() == b'"quick"'
    finally:
        client.delete_function(FunctionName="quick")


def test_a_name_that_is_taken_is_refused(function: Callable[..., Function]) -> None:
    made = function(answering(1))
    with pytest.raises(made.client.exceptions.ResourceConflictException, match="already exist"):
        made.client.create_function(
            FunctionName=made.name,
            Runtime=RUNTIME,
            Role=ROLE,
            Handler="app.handler",
            Code={"ZipFile": zip_of(answering(2))},
        )
    assert made.invoke() == 1


def test_lists_come_in_pages_and_lose_nothing(new_server: Callable[..., Server]) -> None:
    server = new_server("--isolation", "none")
    names = [f"f{number:02}" for number in range(7)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda name: deploy(server, answering(1), name), names))
    client = server.client()
    first = client.list_functions(MaxItems=3)
    assert len(first["Functions"]) == 3
    client.delete_function(FunctionName=names[2])  # the marker stands behind it
    second = client.list_functions(MaxItems=50, Marker=first["NextMarker"])
    assert [f["FunctionName"] for f in first["Functions"] + second["Functions"]] == names
    assert "NextMarker" not in second


def test_versions_come_in_pages(function: Callable[..., Function]) -> None:
    made = function(answering(0))
    for number in range(1, 4):
        update(made, answering(number))
        assert made.client.publish_version(FunctionName=made.name)["Version"] == str(number)
    pages = made.client.get_paginator("list_versions_by_function").paginate(
        FunctionName=made.name, PaginationConfig={"PageSize": 2}
    )
    found = [[v["Version"] for v in page["Versions"]] for page in pages]
    assert found == [["$LATEST", "1"], ["2", "3"]]


@pytest.mark.parametrize("tenant", TENANTS)
def test_an_update_is_never_served_by_older_environments(function: Callable[..., Function], tenant: str | None) -> None:
    made = function(answering(0), tenancy=tenant is not None)
    for number in range(1, 6):
        made.invoke(tenant=tenant)
        made.client.update_function_code(FunctionName=made.name, ZipFile=zip_of(answering(number)))
        assert made.invoke(tenant=tenant) == number
        made.client.get_waiter("function_updated_v2").wait(FunctionName=made.name, WaiterConfig={"Delay": 0})


def test_a_new_configuration_is_never_served_by_older_environments(function: Callable[..., Function]) -> None:
    made = function("import os\ndef handler(event, context):\n    return os.environ['COLOUR']\n")
    for colour in ("blue", "green"):
        variables = {"Variables": {"COLOUR": colour}}
        made.client.update_function_configuration(FunctionName=made.name, Environment=variables)
        assert made.invoke() == colour
        made.client.get_waiter("function_updated_v2").wait(FunctionName=made.name, WaiterConfig={"Delay": 0})


def test_a_new_handler_is_used(function: Callable[..., Function]) -> None:
    made = function(
        "def one(event, context):\n    return 1\ndef two(event, context):\n    return 2\n", Handler="app.one"
    )
    assert made.invoke() == 1
    made.client.update_function_configuration(FunctionName=made.name, Handler="app.two")
    assert made.invoke() == 2


def test_a_published_version_keeps_its_code_and_configuration(function: Callable[..., Function]) -> None:
    made = function(answering("old"), Description="first", Timeout=5)
    published = made.client.publish_version(FunctionName=made.name)
    update(made, answering("new"))
    made.client.update_function_configuration(FunctionName=made.name, Timeout=9)
    assert made.invoke(Qualifier="1") == "old"
    assert made.invoke() == made.invoke(Qualifier="$LATEST") == "new"
    shown = made.client.get_function_configuration(FunctionName=made.name, Qualifier="1")
    assert (shown["Timeout"], shown["CodeSha256"]) == (5, published["CodeSha256"])


def test_publishing_without_a_change_makes_no_new_version(function: Callable[..., Function]) -> None:
    made = function(answering(1))
    publish = made.client.publish_version
    assert [publish(FunctionName=made.name)["Version"] for _ in range(2)] == ["1", "1"]
    update(made, answering(2))
    assert publish(FunctionName=made.name)["Version"] == "2"


def test_the_number_of_a_deleted_version_is_not_used_again(function: Callable[..., Function]) -> None:
    made = function(answering(1))
    made.client.publish_version(FunctionName=made.name)
    made.client.delete_function(FunctionName=made.name, Qualifier="1")
    with pytest.raises(made.client.exceptions.ResourceNotFoundException):
        made.call(Qualifier="1")
    assert made.invoke() == 1
    assert made.client.publish_version(FunctionName=made.name)["Version"] == "2"


def test_create_and_update_may_publish_at_once(function: Callable[..., Function]) -> None:
    made = function(answering(1), Publish=True)
    assert made.invoke(Qualifier="1") == 1
    answer = made.client.update_function_code(FunctionName=made.name, ZipFile=zip_of(answering(2)), Publish=True)
    assert answer["Version"] == "2"
    assert (made.invoke(Qualifier="1"), made.invoke(Qualifier="2")) == (1, 2)


def test_a_stale_revision_is_refused_and_the_latest_is_taken(function: Callable[..., Function]) -> None:
    made = function(answering(1))
    stale = made.client.get_function_configuration(FunctionName=made.name)["RevisionId"]
    update(made, answering(2))
    changes: tuple[Callable[[str], Any], ...] = (
        lambda revision: made.client.update_function_code(
            FunctionName=made.name, ZipFile=zip_of(answering(3)), RevisionId=revision
        ),
        lambda revision: made.client.publish_version(FunctionName=made.name, RevisionId=revision),
        lambda revision: made.client.update_function_configuration(
            FunctionName=made.name, Timeout=5, RevisionId=revision
        ),
    )
    for change in changes:
        with pytest.raises(made.client.exceptions.PreconditionFailedException, match="Revision Id"):
            change(stale)
    assert made.invoke() == 2
    latest = made.client.get_function_configuration(FunctionName=made.name)["RevisionId"]
    made.client.update_function_configuration(FunctionName=made.name, Timeout=5, RevisionId=latest)


def test_a_dry_run_of_an_update_changes_nothing(function: Callable[..., Function]) -> None:
    made = function(answering(1))
    package = zip_of(answering(2))
    answer = made.client.update_function_code(FunctionName=made.name, ZipFile=package, DryRun=True)
    assert answer["CodeSha256"] == base64.b64encode(hashlib.sha256(package).digest()).decode()
    assert made.invoke() == 1


@pytest.mark.parametrize("tenant", TENANTS)
def test_an_invocation_under_way_finishes_over_an_update(function: Callable[..., Function], tenant: str | None) -> None:
    source = "import time\ndef handler(event, context):\n    time.sleep(event)\n    return 'old'\n"
    made = function(source, tenancy=tenant is not None, Timeout=20)
    made.invoke(0, tenant=tenant)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(made.invoke, 1.5, tenant)
        update(made, answering("new"))
        assert made.invoke(tenant=tenant) == "new"
        assert not running.done()
        assert running.result() == "old"


def test_an_invocation_under_way_finishes_over_a_deletion(function: Callable[..., Function]) -> None:
    made = function("import time\ndef handler(event, context):\n    time.sleep(event)\n    return 'done'\n", Timeout=20)
    made.invoke(0)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(made.invoke, 1)
        while made.invoke(0) != "done":  # both are under way now
            pass
        made.client.delete_function(FunctionName=made.name)
        assert running.result() == "done"
    with pytest.raises(made.client.exceptions.ResourceNotFoundException):
        made.call()


def test_a_deleted_function_is_gone_with_its_versions(function: Callable[..., Function]) -> None:
    made = function(answering(1), Publish=True)
    made.invoke()
    made.client.delete_function(FunctionName=made.name)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: made.client.get_function(FunctionName=made.name),
        lambda: made.client.get_function(FunctionName=made.name, Qualifier="1"),
        lambda: made.client.list_versions_by_function(FunctionName=made.name),
        lambda: made.client.delete_function(FunctionName=made.name),
        made.call,
    )
    for call in calls:
        with pytest.raises(made.client.exceptions.ResourceNotFoundException):
            call()


def test_a_function_made_again_under_its_old_name_knows_nothing_of_it(client: Any) -> None:
    for expected in range(2):
        client.create_function(
            FunctionName="again",
            Runtime=RUNTIME,
            Role=ROLE,
            Handler="app.handler",
            Code={"ZipFile": zip_of(COUNTER + f"\n# {expected // 2}\n")},
            TenancyConfig={"TenantIsolationMode": "PER_TENANT"},
        )
        answer = client.invoke(FunctionName="again", TenantId="blue")
        assert b'"count": 1' in answer["Payload"].read()
        client.delete_function(FunctionName="again")


def test_tags_are_added_listed_and_removed(function: Callable[..., Function]) -> None:
    made = function(answering(1), Tags={"a": "1"})
    arn = made.client.get_function_configuration(FunctionName=made.name)["FunctionArn"]
    made.client.tag_resource(Resource=arn, Tags={"b": "ü", "a": "2"})
    assert made.client.list_tags(Resource=arn)["Tags"] == {"a": "2", "b": "ü"}
    made.client.untag_resource(Resource=arn, TagKeys=["a"])
    assert made.client.list_tags(Resource=arn)["Tags"] == {"b": "ü"}


def test_the_account_shows_its_limits_and_use(function: Callable[..., Function]) -> None:
    made = function(answering(1))
    account = made.client.get_account_settings()
    assert account["AccountLimit"]["ConcurrentExecutions"] == 1000
    assert account["AccountUsage"]["FunctionCount"] >= 1
    assert account["AccountUsage"]["TotalCodeSize"] > 0


def test_two_functions_may_share_one_package(function: Callable[..., Function]) -> None:
    one, other = function(answering(1)), function(answering(1))
    one.client.delete_function(FunctionName=one.name)
    assert other.invoke() == 1


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("create_function_url_config", {"AuthType": "NONE"}),
        ("put_function_event_invoke_config", {"MaximumRetryAttempts": 0}),
        ("add_permission", {"StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "*"}),
    ],
)
def test_operations_that_are_not_built_say_so(
    function: Callable[..., Function], operation: str, arguments: dict[str, Any]
) -> None:
    made = function(answering(1))
    with pytest.raises(ClientError, match="does not implement") as caught:
        getattr(made.client, operation)(FunctionName=made.name, **arguments)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501


@pytest.mark.parametrize(
    "setting",
    [
        {"VpcConfig": {"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}},
        {"DeadLetterConfig": {"TargetArn": "arn:aws:sqs:us-east-1:000000000000:q"}},
        {"TracingConfig": {"Mode": "Active"}},
        {"LoggingConfig": {"LogFormat": "JSON"}},
        {"KMSKeyArn": "arn:aws:kms:us-east-1:000000000000:key/x"},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_settings_that_are_not_honoured_are_refused(function: Callable[..., Function], setting: dict[str, Any]) -> None:
    with pytest.raises(ClientError, match=next(iter(setting))) as caught:
        function(answering(1), **setting)
    assert caught.value.response["Error"]["Code"] == "InvalidParameterValueException"
    made = function(answering(1))
    with pytest.raises(ClientError, match=next(iter(setting))):
        made.client.update_function_configuration(FunctionName=made.name, **setting)


def test_the_package_of_get_function_holds_what_was_sent(function: Callable[..., Function]) -> None:
    made = function({"app.py": answering(1), "data/x.txt": "x"})
    location = made.client.get_function(FunctionName=made.name)["Code"]["Location"]
    with urllib.request.urlopen(location, timeout=10) as answer:
        names = zipfile.ZipFile(io.BytesIO(answer.read())).namelist()
    assert names == ["app.py", "data/x.txt"]
