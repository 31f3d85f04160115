"""Layers through real boto3 clients; messages and shapes are AWS's recorded ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from insula.artifacts.layers import unpacked_layers
from insula.model import limits
from tests.unit.lambda_api.api_harness import ACCOUNT, REGION, Harness, settings, zipped
from tests.unit.lambda_api.test_aliases import refused, shown

ARN = f"arn:aws:lambda:{REGION}:{ACCOUNT}:layer:tools"
INVALID = "InvalidParameterValueException"
GONE = ("ResourceNotFoundException", 404, "The resource you requested does not exist.")


def publish(client: Any, name: str = "tools", source: str = "x = 1", **options: Any) -> Any:
    return client.publish_layer_version(LayerName=name, Content={"ZipFile": zipped(source)}, **options)


def layers_of(client: Any, name: str = "hello") -> Any:
    return client.get_function_configuration(FunctionName=name).get("Layers")


def active(client: Any, **changes: Any) -> None:
    client.create_function(**settings(**changes))
    client.get_waiter("function_active_v2").wait(FunctionName="hello", WaiterConfig={"Delay": 0})


def configure(client: Any, **request: Any) -> Any:
    answer = client.update_function_configuration(FunctionName="hello", **request)
    client.get_waiter("function_updated_v2").wait(FunctionName="hello", WaiterConfig={"Delay": 0})
    return answer


def test_a_layer_version_is_shown_as_on_aws(harness: Harness, client: Any) -> None:
    made = publish(
        client,
        Description="d",
        LicenseInfo="MIT",
        CompatibleRuntimes=["python3.11", "nodejs14.x"],
        CompatibleArchitectures=["x86_64"],
    )
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    layer = shown(made)
    content = layer.pop("Content")
    assert set(content) == {"Location", "CodeSha256", "CodeSize"}
    assert content["CodeSize"] == len(zipped("x = 1"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+0000", layer.pop("CreatedDate"))
    assert layer == {
        "LayerArn": ARN,
        "LayerVersionArn": f"{ARN}:1",
        "Version": 1,
        "Description": "d",
        "LicenseInfo": "MIT",
        "CompatibleRuntimes": ["python3.11", "nodejs14.x"],
        "CompatibleArchitectures": ["x86_64"],
    }
    got = shown(client.get_layer_version(LayerName="tools", VersionNumber=1))
    assert got == shown(client.get_layer_version_by_arn(Arn=f"{ARN}:1"))
    assert {**got, "Content": None} == {**shown(made), "Content": None}
    link = got["Content"]["Location"].removeprefix("http://insula.test:9900")
    assert harness.request("GET", link).body == zipped("x = 1")


def test_what_its_owner_left_out_is_left_out(client: Any) -> None:
    optional = {"CompatibleRuntimes", "CompatibleArchitectures", "LicenseInfo"}
    assert not optional & publish(client).keys()
    empty = publish(client, CompatibleRuntimes=[], CompatibleArchitectures=[])
    assert (empty["CompatibleRuntimes"], empty["CompatibleArchitectures"]) == ([], [])


def test_numbers_grow_and_are_never_given_again(client: Any) -> None:
    assert [publish(client)["Version"] for _ in range(2)] == [1, 2]
    for number in (1, 2, 2, 99):
        answer = client.delete_layer_version(LayerName="tools", VersionNumber=number)
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert client.list_layer_versions(LayerName="tools")["LayerVersions"] == []
    assert client.list_layers()["Layers"] == []
    assert publish(client, ARN)["Version"] == 3


def test_versions_are_listed_from_the_newest_in_pages(client: Any) -> None:
    for _ in range(3):
        publish(client)
    first = client.list_layer_versions(LayerName="tools", MaxItems=2)
    rest = client.list_layer_versions(LayerName=ARN, Marker=first["NextMarker"])
    assert [each["Version"] for each in first["LayerVersions"] + rest["LayerVersions"]] == [3, 2, 1]
    assert "NextMarker" not in rest
    assert set(rest["LayerVersions"][0]) == {"LayerVersionArn", "Version", "Description", "CreatedDate"}
    assert client.list_layer_versions(LayerName="none")["LayerVersions"] == []


def test_layers_are_listed_with_the_newest_fitting_version(client: Any) -> None:
    publish(client, "b", CompatibleRuntimes=["python3.11"])
    publish(client, "b", CompatibleRuntimes=["python3.12"], CompatibleArchitectures=["arm64"])
    publish(client, "a")
    first = client.list_layers(MaxItems=1)
    rest = client.list_layers(Marker=first["NextMarker"])
    found = first["Layers"] + rest["Layers"]
    assert [(each["LayerName"], each["LatestMatchingVersion"]["Version"]) for each in found] == [("a", 1), ("b", 2)]
    assert found[0]["LayerArn"] == f"{ARN[:-5]}a"
    fitting = client.list_layers(CompatibleRuntime="python3.11")["Layers"]
    assert [(each["LayerName"], each["LatestMatchingVersion"]["Version"]) for each in fitting] == [("b", 1)]
    assert client.list_layers(CompatibleRuntime="python3.11", CompatibleArchitecture="arm64")["Layers"] == []
    filtered = client.list_layer_versions(LayerName="b", CompatibleArchitecture="arm64")["LayerVersions"]
    assert [each["Version"] for each in filtered] == [2]


def test_runtimes_and_architectures_are_checked_together(client: Any) -> None:
    code, status, message = refused(
        publish, client=client, CompatibleRuntimes=["invalid", "python3.11"], CompatibleArchitectures=["invalidarch"]
    )
    assert (code, status) == ("ValidationException", 400)
    assert message.startswith("2 validation errors detected: ")
    assert (
        "Value '[invalid, python3.11]' at 'compatibleRuntimes' failed to satisfy constraint: Member must satisfy enum "
        "value set: ["
    ) in message
    assert (
        "Value '[invalidarch]' at 'compatibleArchitectures' failed to satisfy constraint: Member must satisfy "
        "constraint: [Member must satisfy enum value set: [x86_64, arm64], Member must not be null]"
    ) in message
    assert refused(client.list_layers, CompatibleRuntime="none")[2].startswith(
        "1 validation error detected: Value 'none' at 'compatibleRuntime' failed to satisfy constraint: "
        "Member must satisfy enum value set: ["
    )


def test_layer_versions_that_are_not_there(client: Any) -> None:
    assert refused(client.get_layer_version, LayerName="tools", VersionNumber=1) == GONE
    assert refused(client.get_layer_version_by_arn, Arn=f"{ARN}:1") == GONE
    assert refused(client.get_layer_version_by_arn, Arn=f"{ARN}:{'9' * 30}") == GONE
    assert refused(client.get_layer_version_by_arn, Arn=f"{ARN.replace(REGION, 'eu-west-1')}:1") == GONE
    below = (INVALID, 400, "Layer Version Cannot be less than 1")
    assert refused(client.get_layer_version, LayerName="tools", VersionNumber=-1) == below
    assert refused(client.delete_layer_version, LayerName="tools", VersionNumber=0) == below
    foreign = ARN.replace(ACCOUNT, "2" * 12)
    assert refused(client.get_layer_version, LayerName=foreign, VersionNumber=1)[0] == "AccessDeniedException"
    assert refused(publish, client=client, name=foreign)[0] == "AccessDeniedException"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "Please provide a source"),
        ({"ZipFile": b"no zip"}, "Could not unzip uploaded file."),
        ({"S3Bucket": "bucket", "S3Key": "k"}, "Insula does not support this value of Content.S3Bucket: layers come"),
    ],
)
def test_the_content_is_an_inline_zip(client: Any, content: dict[str, Any], reason: str) -> None:
    code, _, message = refused(client.publish_layer_version, LayerName="tools", Content=content)
    assert (code, message.startswith(reason)) == (INVALID, True)
    assert client.list_layers()["Layers"] == []


def test_a_function_has_layers_in_its_order(harness: Harness, client: Any) -> None:
    for name in ("one", "two"):
        publish(client, name, f"x = '{name}'")
    arns = [f"{ARN[:-5]}{name}:1" for name in ("two", "one")]
    active(client, Layers=arns, Publish=True)
    size = len(zipped("x = 'one'"))
    wanted = [{"Arn": arn, "CodeSize": size} for arn in arns]
    assert layers_of(client) == wanted
    assert client.list_functions()["Functions"][0]["Layers"] == wanted
    function = harness.catalog.function(ACCOUNT, "hello", "1")
    assert function is not None
    folders = unpacked_layers(harness.layers, function)
    assert [Path(folder, "index.py").read_text() for folder in folders] == ["x = 'two'", "x = 'one'"]


def test_layers_are_changed_and_taken_away_and_versions_keep_theirs(harness: Harness, client: Any) -> None:
    publish(client)
    active(client, Layers=[f"{ARN}:1"], Publish=True)
    before = harness.catalog.function(ACCOUNT, "hello")
    configure(client, Description="same")
    configure(client, Layers=[])
    after = harness.catalog.function(ACCOUNT, "hello")
    assert before is not None
    assert after is not None
    assert after.deployment != before.deployment
    assert layers_of(client) is None
    assert layers_of(client, "hello:1") == [{"Arn": f"{ARN}:1", "CodeSize": len(zipped("x = 1"))}]


def test_a_deleted_layer_version_stays_with_its_functions(harness: Harness, client: Any) -> None:
    publish(client)
    active(client, Layers=[f"{ARN}:1"])
    client.delete_layer_version(LayerName="tools", VersionNumber=1)
    assert layers_of(client) == [{"Arn": f"{ARN}:1", "CodeSize": len(zipped("x = 1"))}]
    client.update_function_code(FunctionName="hello", ZipFile=zipped("y = 1"))
    function = harness.catalog.function(ACCOUNT, "hello")
    assert function is not None
    assert unpacked_layers(harness.layers, function)[0].is_dir()
    message = f"Layer version {ARN}:1 does not exist."
    create = settings(FunctionName="other", Layers=[f"{ARN}:1"])
    assert refused(client.create_function, **create) == (INVALID, 400, message)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([f"{ARN}:9"], f"Layer version {ARN}:9 does not exist."),
        (
            [f"{ARN}:1", f"{ARN}:2"],
            (
                "Two different versions of the same layer are not allowed to be referenced in the same function. "
                f"{ARN}:1 and {ARN}:2 are versions of the same layer."
            ),
        ),
        (
            [f"{ARN}:1", f"{ARN}:1"],
            (
                "Two different versions of the same layer are not allowed to be referenced in the same function. "
                f"{ARN}:1 and {ARN}:1 are versions of the same layer."
            ),
        ),
        (
            [f"{ARN.replace(REGION, 'eu-west-1')}:1"],
            f"Layers are not in the same region as the function. Layers are expected to be in region {REGION}.",
        ),
        ([f"{ARN}{number}:1" for number in range(6)], "Cannot reference more than 5 layers."),
        (["arn:aws:lambda:::awslayer:x"], "Layer version arn:aws:lambda:::awslayer:x does not exist."),
    ],
)
def test_layers_that_aws_refuses_are_refused_in_its_words(client: Any, layers: list[str], message: str) -> None:
    for _ in range(2):
        publish(client)
    active(client)
    call = client.update_function_configuration
    assert refused(call, FunctionName="hello", Layers=layers) == (INVALID, 400, message)
    assert refused(client.create_function, **settings(FunctionName="x", Layers=layers)) == (INVALID, 400, message)
    assert layers_of(client) is None


def test_layers_of_other_accounts_are_refused(client: Any) -> None:
    layers = [f"{ARN.replace(ACCOUNT, '2' * 12)}:1"]
    code, status, _ = refused(client.create_function, **settings(Layers=layers))
    assert (code, status) == ("AccessDeniedException", 403)


def test_code_and_layers_together_have_a_limit(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "x" * 1000
    publish(client, source=source)
    active(client)
    code = len("def handler(event, context): return event")
    monkeypatch.setattr(limits, "UNZIPPED_BYTES", 1000 + code - 1)
    message = (
        f"Function code combined with layers exceeds the maximum allowed size of {1000 + code - 1} bytes. "
        f"The actual size is {1000 + code} bytes."
    )
    call = client.update_function_configuration
    assert refused(call, FunctionName="hello", Layers=[f"{ARN}:1"]) == (INVALID, 400, message)
    monkeypatch.setattr(limits, "UNZIPPED_BYTES", 1000 + code)
    configure(client, Layers=[f"{ARN}:1"])
    larger = zipped("def handler(event, context): return [event]")
    assert refused(client.update_function_code, FunctionName="hello", ZipFile=larger)[0] == INVALID


def test_layers_count_as_stored_code(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(client)
    size = len(zipped("x = 1"))
    assert client.get_account_settings()["AccountUsage"]["TotalCodeSize"] == size
    monkeypatch.setattr(limits, "CODE_STORAGE_BYTES", 2 * size)
    assert refused(publish, client=client, source="x = 12")[0] == "CodeStorageExceededException"
