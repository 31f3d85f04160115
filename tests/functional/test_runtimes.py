"""Language runtimes: which there are, what a function finds in them, and whose module wins."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.conftest import Function
from tests.server import RUNTIME

FOLDER = Path(sys.prefix) / "share/insula/runtimes"
INSTALLED = sorted(path.parent.name for path in FOLDER.glob("*/runtime.json"))
PYTHONS = [name for name in INSTALLED if name.startswith("python")]
NODES = [name for name in INSTALLED if name.startswith("nodejs")]

SHOW = """
import boto3, sys
def handler(event, context):
    return {
        "version": "python%d.%d" % sys.version_info[:2],
        "executable": sys.executable,
        "boto3": boto3.__version__ > "1",
        "path": sys.path,
        "tenant": context.tenant_id,
    }
"""


def loaded_by_the_runtime(module: str) -> bool:
    """Whether AWS's runtime client itself has loaded a module before it turns to the function."""
    description = json.loads((FOLDER / RUNTIME / "runtime.json").read_text())
    code = f"import sys; sys.path.insert(0, {str(FOLDER / RUNTIME)!r})\n"
    code += f"import awslambdaric.__main__, awslambdaric.bootstrap\nprint({module!r} in sys.modules)"
    found = subprocess.run(
        [description["interpreter"], "-I", "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    return found.stdout.strip() == "True"


@pytest.mark.parametrize("runtime", PYTHONS)
def test_every_installed_runtime_runs_functions(function: Callable[..., Function], runtime: str) -> None:
    shown = function(SHOW, tenancy=True, Runtime=runtime).invoke(tenant="blue")
    assert (shown["version"], shown["tenant"], shown["boto3"]) == (runtime, "blue", True)
    assert shown["path"][0] == "/var/task"


def test_a_function_changes_its_runtime(function: Callable[..., Function]) -> None:
    others = [runtime for runtime in PYTHONS if runtime != RUNTIME]
    if not others:
        pytest.skip("this host has one runtime only")
    made = function(SHOW)
    assert made.invoke()["version"] == RUNTIME
    made.client.update_function_configuration(FunctionName=made.name, Runtime=others[0])
    assert made.invoke()["version"] == others[0]


@pytest.mark.parametrize("runtime", sorted({"python3.9", "python3.14", "python3.13"} - set(INSTALLED)))
def test_a_runtime_that_is_not_installed_is_refused_with_what_to_do(
    function: Callable[..., Function], runtime: str
) -> None:
    with pytest.raises(ClientError, match=f"insula runtimes install {runtime}") as caught:
        function(SHOW, Runtime=runtime)
    assert caught.value.response["Error"]["Code"] == "InvalidParameterValueException"
    made = function(SHOW)
    with pytest.raises(ClientError, match="insula runtimes install"):
        made.client.update_function_configuration(FunctionName=made.name, Runtime=runtime)
    assert made.invoke()["version"] == RUNTIME


@pytest.mark.parametrize("runtime", ["java21", "ruby3.4", "dotnet8"])
def test_other_languages_are_refused_clearly(function: Callable[..., Function], runtime: str) -> None:
    with pytest.raises(ClientError, match=f"Insula does not run {runtime} yet") as caught:
        function(SHOW, Runtime=runtime)
    assert caught.value.response["Error"]["Code"] == "InvalidParameterValueException"


@pytest.mark.parametrize("runtime", ["python2.7", "python3.99", "cobol", "", "../../x"])
def test_what_is_no_runtime_is_refused(function: Callable[..., Function], runtime: str) -> None:
    with pytest.raises(ClientError) as caught:
        function(SHOW, Runtime=runtime)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


@pytest.mark.parametrize("package", ["boto3", "botocore", "urllib3", "s3transfer", "jmespath", "six", "requests"])
def test_a_bundled_package_wins_over_the_runtimes(function: Callable[..., Function], package: str) -> None:
    source = f"import {package}\ndef handler(event, context):\n    return [{package}.MINE, {package}.__file__]\n"
    made = function({"app.py": source, f"{package}/__init__.py": "MINE = 'mine'\n"})
    assert made.invoke() == ["mine", f"/var/task/{package}/__init__.py"]


def test_a_bundled_dependency_is_used_by_the_runtimes_packages(function: Callable[..., Function]) -> None:
    source = """
import boto3, jmespath
def handler(event, context):
    import botocore.hooks, sys
    return [jmespath.MINE, sys.modules["jmespath"].__file__, boto3.__file__.startswith("/var/runtime/")]
"""
    dependency = "MINE = 'mine'\nfrom . import exceptions\ndef compile(*_): pass\ndef search(*_): pass\n"
    files = {"app.py": source, "jmespath/__init__.py": dependency, "jmespath/exceptions.py": ""}
    assert function(files).invoke() == ["mine", "/var/task/jmespath/__init__.py", True]


def test_what_is_not_bundled_comes_from_the_runtime(function: Callable[..., Function]) -> None:
    source = "import boto3, urllib3\ndef handler(event, context):\n    return [boto3.__file__, urllib3.__file__]\n"
    assert function(source).invoke() == ["/var/runtime/boto3/__init__.py", "/var/runtime/urllib3/__init__.py"]


@pytest.mark.parametrize(
    "module", ["calendar", "queue", "colorsys", "secrets", "decimal", "uuid", "html", "json", "logging", "random"]
)
def test_a_module_named_like_one_of_the_library_wins_unless_the_runtime_has_it(
    function: Callable[..., Function], module: str
) -> None:
    source = f"import {module}\ndef handler(event, context):\n    return hasattr({module}, 'MINE')\n"
    made = function({"app.py": source, f"{module}.py": "MINE = True\n"})
    assert made.invoke() is not loaded_by_the_runtime(module)


def test_a_handler_in_a_module_named_like_one_of_the_library(function: Callable[..., Function]) -> None:
    source = "def handler(event, context):\n    return 'mine'\n"
    assert function({"calendar.py": source}, Handler="calendar.handler").invoke() == "mine"


# A pool needs /dev/shm, which functions have neither on AWS nor here; processes and pipes work.
PROCESSES = """
def processed(method):
    import multiprocessing
    process = multiprocessing.get_context(method).Process(target=print)
    process.start()
    process.join()
    return process.exitcode == 0
"""
BATTERIES = {
    "subprocess": "import subprocess as s; return s.check_output(['/bin/sh', '-c', 'echo $((6*7))']) == b'42\\n'",
    "python child": "import subprocess as s, sys; return s.check_output([sys.executable, '-c', 'print(4)']) == b'4\\n'",
    "fork": "return processed('fork')",
    "spawn": "return processed('spawn')",
    "pipe": "import multiprocessing as m; a, b = m.Pipe(); a.send(42); return b.recv() == 42",
    "threads": "from concurrent.futures import ThreadPoolExecutor as T; return sum(T(8).map(int, '42')) == 6",
    "sqlite": "import sqlite3 as q; d = q.connect('/tmp/x'); d.execute('create table t(a)'); d.commit(); return True",
    "ssl": "import ssl; return bool(ssl.create_default_context()) and len(ssl.RAND_bytes(8)) == 8",
    "hashlib": "import hashlib; return hashlib.scrypt(b'p', salt=b's', n=16, r=8, p=1)[:1] != b''",
    "ctypes": "import ctypes; return ctypes.CDLL(None).getpid() == __import__('os').getpid()",
    "tempfile": "import tempfile; f = tempfile.NamedTemporaryFile('w'); return f.name.startswith('/tmp/')",
    "asyncio": "import asyncio; return asyncio.run(asyncio.sleep(0, True))",
    "mmap": "import mmap; m = mmap.mmap(-1, 4096); m[:2] = b'42'; return m[:2] == b'42'",
    "loopback": "import socket as s; a = s.create_server(('', 0)); return s.create_connection(a.getsockname()) != 0",
    "unix socket": "import socket; a, b = socket.socketpair(); a.send(b'42'); return b.recv(2) == b'42'",
    "time zone": "import zoneinfo; return str(zoneinfo.ZoneInfo('UTC')) == 'UTC'",
    "locale": "return 'ü€'.encode(__import__('sys').getfilesystemencoding()).decode() == 'ü€'",
    "host name": "import socket; return len(socket.gethostname()) > 0",
    "user": "import os, pwd; return os.getuid() > 0",
    "compile": "import re, ast; return bool(re.match('a', 'a') and ast.parse('1'))",
    "lzma": "import lzma, bz2, zlib; return lzma.decompress(lzma.compress(b'42')) == b'42'",
    "signal": "import signal as s; s.signal(s.SIGUSR1, lambda *_: None); return s.raise_signal(s.SIGUSR1) is None",
}


@pytest.mark.parametrize("battery", BATTERIES)
def test_the_library_works_in_a_sandbox(function: Callable[..., Function], battery: str) -> None:
    source = f"{PROCESSES}\ndef handler(event, context):\n    {BATTERIES[battery]}\n"
    assert function(source, Timeout=20, MemorySize=512).invoke() is True


def test_time_zone_data_of_the_host_is_there(function: Callable[..., Function]) -> None:
    source = "import zoneinfo\ndef handler(event, context):\n    return str(zoneinfo.ZoneInfo('Asia/Tokyo'))\n"
    if not Path("/usr/share/zoneinfo/Asia/Tokyo").exists():
        pytest.skip("this host has no time zone data")
    assert function(source).invoke() == "Asia/Tokyo"


def test_boto3_clients_can_be_made_at_init(function: Callable[..., Function]) -> None:
    source = """
import boto3
s3 = boto3.client("s3", aws_access_key_id="a", aws_secret_access_key="b")
def handler(event, context):
    return s3.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": "k"}).startswith("https://")
"""
    assert function(source, Timeout=20).invoke() is True


def test_no_two_environments_draw_the_same_randomness(function: Callable[..., Function]) -> None:
    source = """
import os, random, secrets, ssl, tempfile, uuid
def handler(event, context):
    return [random.random(), secrets.token_hex(8), ssl.RAND_bytes(8).hex(), uuid.uuid4().hex, os.urandom(8).hex(),
            random.Random().random(), next(tempfile._get_candidate_names())]
"""
    drawing = function(source, tenancy=True)
    drawn = [drawing.invoke(tenant=f"tenant-{number}") for number in range(6)]
    assert all(len(set(column)) == 6 for column in zip(*drawn, strict=True))
