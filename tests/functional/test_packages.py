"""Deployment packages: good ones arrive whole, broken and hostile ones are refused and change nothing."""

from __future__ import annotations

import io
import os
import random
import stat
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conftest import Function
from tests.server import ROLE, RUNTIME, zip_of

GOOD = "def handler(event, context):\n    return 'good'\n"


def entry(name: str, content: str | bytes = b"", mode: int = stat.S_IFREG | 0o644, times: int = 1) -> bytes:
    """A good app.py, and behind it one entry that may be anything but good."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr("app.py", GOOD)
        for _ in range(times):
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr, info.compress_type = 3, mode << 16, zipfile.ZIP_DEFLATED
            package.writestr(info, content)
    return buffer.getvalue()


def flipped(package: bytes) -> bytes:
    """The package with one bit of its first file's content changed."""
    at = 30 + len("app.py") + 5
    return package[:at] + bytes([package[at] ^ 1]) + package[at + 1 :]


BAD = {
    "nothing": b"",
    "no zip": b"this is no zip",
    "noise": random.Random(1).randbytes(5000),
    "cut short": zip_of(GOOD)[:-30],
    "beginning lost": zip_of(GOOD)[20:],
    "bit flipped": flipped(zip_of(GOOD)),
    "no entries": zip_of({}),
    "parent folder": entry("../evil.py"),
    "deep parent folder": entry("a/b/../../../../evil.py"),
    "absolute": entry("/tmp/evil.py"),
    "dot": entry("."),
    "name too long": entry("x" * 300),
    "path too long": entry("x/" * 3000 + "x"),
    "link out": entry("link", "../../../etc/passwd", stat.S_IFLNK | 0o777),
    "absolute link": entry("link", "/etc/passwd", stat.S_IFLNK | 0o777),
    "character device": entry("device", mode=stat.S_IFCHR | 0o666),
    "block device": entry("device", mode=stat.S_IFBLK | 0o666),
    "pipe": entry("pipe", mode=stat.S_IFIFO | 0o666),
    "bomb": entry("zeros", bytes(251 << 20)),
    "file under a file": entry("app.py/x"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_package_makes_no_function(client: Any, kind: str) -> None:
    with pytest.raises(ClientError) as caught:
        client.create_function(
            FunctionName="bad", Runtime=RUNTIME, Role=ROLE, Handler="app.handler", Code={"ZipFile": BAD[kind]}
        )
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert caught.value.response["Error"]["Code"] == "InvalidParameterValueException"
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_function(FunctionName="bad")


@pytest.mark.parametrize("kind", ["no zip", "bit flipped", "parent folder", "link out", "bomb"])
def test_an_update_with_a_bad_package_changes_nothing(function: Callable[..., Function], kind: str) -> None:
    good = function(GOOD)
    good.invoke()
    before = good.client.get_function_configuration(FunctionName=good.name)
    with pytest.raises(ClientError):
        good.client.update_function_code(FunctionName=good.name, ZipFile=BAD[kind])
    assert good.client.get_function_configuration(FunctionName=good.name) | {"ResponseMetadata": 0} == before | {
        "ResponseMetadata": 0
    }
    assert good.invoke() == "good"


def test_a_package_over_fifty_megabytes_is_refused(client: Any) -> None:
    package = zip_of({"app.py": GOOD, "noise": os.urandom(51 << 20)})
    with pytest.raises(ClientError) as caught:
        client.create_function(
            FunctionName="large", Runtime=RUNTIME, Role=ROLE, Handler="app.handler", Code={"ZipFile": package}
        )
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] in {400, 413}


def test_files_keep_their_content_place_and_mode(function: Callable[..., Function]) -> None:
    source = """
import os, subprocess
def handler(event, context):
    return {
        "ran": subprocess.run(["/var/task/bin/hi"], capture_output=True, text=True, check=True).stdout,
        "linked": open("/var/task/linked").read(),
        "unicode": open("/var/task/ü/€.txt").read(),
        "binary": open("/var/task/data/bytes", "rb").read() == bytes(range(256)),
        "empty": os.listdir("/var/task/empty"),
        "cwd": os.getcwd(),
    }
"""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as package:
        package.writestr("app.py", source)
        for name, content, mode in (
            ("bin/hi", b"#!/bin/sh\necho hi\n", stat.S_IFREG | 0o755),
            ("linked", b"data/text", stat.S_IFLNK | 0o777),
        ):
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, mode << 16
            package.writestr(info, content)
        package.writestr("data/text", "text")
        package.writestr("data/bytes", bytes(range(256)))
        package.writestr("ü/€.txt", "unicode")
        package.writestr("empty/", "")
    made = function(GOOD)
    made.client.update_function_code(FunctionName=made.name, ZipFile=buffer.getvalue())
    assert made.invoke() == {
        "ran": "hi\n",
        "linked": "text",
        "unicode": "unicode",
        "binary": True,
        "empty": [],
        "cwd": "/var/task",
    }


def test_the_code_cannot_be_changed_by_the_function(function: Callable[..., Function]) -> None:
    source = """
import os
def handler(event, context):
    found = []
    for act in (
        lambda: open("/var/task/app.py", "w"),
        lambda: open("/var/task/new.py", "w"),
        lambda: os.unlink("/var/task/app.py"),
        lambda: os.chmod("/var/task/app.py", 0o777),
        lambda: os.mkdir("/var/task/new"),
    ):
        try:
            act()
            found.append(0)
        except OSError as error:
            found.append(error.errno)
    return found
"""
    assert set(function(source).invoke()) <= {1, 13, 30}


def test_a_package_of_many_files_works(function: Callable[..., Function]) -> None:
    files = {f"package/module_{number}.py": f"value = {number}\n" for number in range(3000)}
    source = "import package.module_2999\ndef handler(event, context):\n    return package.module_2999.value\n"
    assert function({"app.py": source, **files}).invoke() == 2999


@pytest.mark.parametrize("handler", ["src/app.handler", "src.app.handler"])
def test_a_handler_may_lie_in_a_folder(function: Callable[..., Function], handler: str) -> None:
    assert function({"src/app.py": GOOD}, Handler=handler).invoke() == "good"
