"""Layers on a real server: what a function finds at /opt."""

from __future__ import annotations

import io
import signal
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conftest import Function
from tests.functional.deployment import deploy
from tests.server import Server, zip_of

LOOK = """
import os
def handler(event, context):
    found = {}
    for folder, _, files in os.walk("/opt"):
        for file in files:
            path = os.path.join(folder, file)
            with open(path) as content:
                found[path] = content.read()
    return found
"""
WRITE = """
def handler(event, context):
    try:
        with open("/opt/a", "w"):
            return "written"
    except OSError as error:
        return type(error).__name__
"""


def publish(client: Any, name: str, files: dict[str, str]) -> str:
    """The ARN of a new layer version."""
    answer = client.publish_layer_version(LayerName=name, Content={"ZipFile": zip_of(files)})
    return str(answer["LayerVersionArn"])


def test_layers_are_merged_at_opt_and_the_later_one_wins(client: Any, function: Callable[..., Function]) -> None:
    lower = publish(client, "lower", {"a": "lower", "lib/one": "1"})
    upper = publish(client, "upper", {"a": "upper", "lib/two": "2"})
    wanted = {"/opt/lib/one": "1", "/opt/lib/two": "2"}
    assert function(LOOK, Layers=[lower, upper]).invoke() == {"/opt/a": "upper", **wanted}
    assert function(LOOK, Layers=[upper, lower]).invoke() == {"/opt/a": "lower", **wanted}
    assert function(LOOK).invoke() == {}


def test_more_extensions_than_can_be_started_are_refused_with_their_layers(
    client: Any, function: Callable[..., Function]
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as package:
        for number in range(11):
            entry = zipfile.ZipInfo(f"extensions/e{number}")
            entry.external_attr = 0o100755 << 16
            package.writestr(entry, "#!/bin/sh\n")
    answer = client.publish_layer_version(LayerName="many", Content={"ZipFile": buffer.getvalue()})
    with pytest.raises(ClientError, match=r"hold 11 external extensions.* At most 10") as refused:
        function(LOOK, Layers=[answer["LayerVersionArn"]])
    assert refused.value.response["Error"]["Code"] == "InvalidParameterValueException"


def test_modules_come_from_layers_and_the_package_wins(client: Any, function: Callable[..., Function]) -> None:
    arn = publish(client, "modules", {"python/shared.py": "WHO = 'layer'", "python/own.py": "WHO = 'layer'"})
    source = "import own, shared\ndef handler(event, context): return [shared.WHO, own.WHO]"
    made = function({"app.py": source, "own.py": "WHO = 'package'"}, Layers=[arn])
    assert made.invoke() == ["layer", "package"]


def test_tenants_share_a_layer_and_cannot_write_to_it(client: Any, function: Callable[..., Function]) -> None:
    arn = publish(client, "shared", {"a": "kept"})
    made = function(WRITE, tenancy=True, Layers=[arn])
    assert [made.invoke(tenant=tenant) for tenant in ("blue", "green")] == ["OSError", "OSError"]


def test_an_update_changes_what_is_at_opt_and_versions_keep_theirs(
    client: Any, function: Callable[..., Function]
) -> None:
    first, second = publish(client, "moving", {"a": "1"}), publish(client, "moving", {"a": "2"})
    made = function(LOOK, Layers=[first])
    assert made.invoke() == {"/opt/a": "1"}
    client.publish_version(FunctionName=made.name)
    for layers, wanted in (([second], {"/opt/a": "2"}), ([], {})):
        client.update_function_configuration(FunctionName=made.name, Layers=layers)
        client.get_waiter("function_updated_v2").wait(FunctionName=made.name, WaiterConfig={"Delay": 0})
        assert made.invoke() == wanted
    assert made.invoke(Qualifier="1") == {"/opt/a": "1"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_deleted_layer_version_serves_its_functions_after_a_restart(
    new_server: Callable[..., Server], number: int
) -> None:
    server = new_server()
    client = server.client()
    arn = publish(client, "deleted", {"a": "still there"})
    made = deploy(server, LOOK, Layers=[arn])
    client.delete_layer_version(LayerName="deleted", VersionNumber=1)
    server.stop(number)
    again = Function(new_server(data_dir=server.data_dir).client(), made.name)
    assert again.invoke() == {"/opt/a": "still there"}
    with pytest.raises(ClientError, match="does not exist"):
        again.client.get_layer_version(LayerName="deleted", VersionNumber=1)
    assert again.client.publish_layer_version(LayerName="deleted", Content={"ZipFile": zip_of("")})["Version"] == 2


def test_what_nothing_needs_any_more_is_gone_after_a_restart(new_server: Callable[..., Server]) -> None:
    server = new_server()
    client = server.client()
    publish(client, "gone", {"a": "gone"})
    kept = publish(client, "kept", {"a": "kept"})
    client.delete_layer_version(LayerName="gone", VersionNumber=1)
    server.stop()
    again = new_server(data_dir=server.data_dir)
    folders = [path for path in (server.data_dir / "layers").iterdir() if path.name != "incoming"]
    assert [(folder / "code/a").read_text() for folder in folders] == ["kept"]
    assert deploy(again, LOOK, Layers=[kept]).invoke() == {"/opt/a": "kept"}
