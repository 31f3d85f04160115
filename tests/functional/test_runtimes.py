"""Language runtimes: which there are, what a function finds in them, and whose module wins."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


# Programs of functions, and Node.js: started by exec.

# Every Debian has perl-base.
PERL = r"""#!/usr/bin/perl
use strict;
use IO::Socket::INET;
sub call {
    my ($method, $path, $body) = @_;
    my $socket = IO::Socket::INET->new($ENV{AWS_LAMBDA_RUNTIME_API}) or die;
    print $socket "$method /2018-06-01/runtime/invocation/$path HTTP/1.1\r\nHost: api\r\n";
    print $socket "Content-Length: " . length($body) . "\r\n\r\n$body";
    my ($head, $answer) = ("", "");
    while ($head !~ /\r\n\r\n/) { $head .= <$socket> }
    my ($length) = $head =~ /content-length: *(\d+)/i;
    read($socket, $answer, $length);
    return ($head, $answer);
}
my $count = 0;
print "begun\n";
$| = 1;
while (1) {
    my ($head, $event) = call("GET", "next", "");
    my ($id) = $head =~ /request-id: *(\S+)/i;
    my ($tenant) = $head =~ /tenant-id: *(\S+)/i;
    $count++;
    exit 9 if $event eq '"exit"';
    call("POST", "$id/error", '{"errorType": "Odd", "errorMessage": "mine"}'), next if $event eq '"fail"';
    my $rest = qq("uid": $<, "count": $count, "names": ") . join(" ", sort keys %ENV) . '"';
    call("POST", "$id/response", qq({"event": $event, "tenant": "$tenant", $rest}));
}
"""


def executables(files: dict[str, str]) -> bytes:
    """A package whose files can all be executed, as zip(1) packs them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as package:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = 3, 0o100755 << 16
            package.writestr(entry, content)
    return buffer.getvalue()


def deploy_program(function: Callable[..., Function], files: dict[str, str], **options: Any) -> Function:
    """A function that brings its own program."""
    made = function({"placeholder": ""}, **{"Runtime": "provided.al2023", **options})
    made.client.update_function_code(FunctionName=made.name, ZipFile=executables(files))
    made.client.get_waiter("function_updated_v2").wait(FunctionName=made.name, WaiterConfig={"Delay": 0})
    return made


@pytest.mark.parametrize("runtime", ["provided.al2", "provided.al2023"])
def test_a_function_brings_its_own_program(function: Callable[..., Function], runtime: str) -> None:
    made = deploy_program(function, {"bootstrap": PERL}, Runtime=runtime, tenancy=True)
    first, second = made.invoke({"a": 1}, tenant="blue"), made.invoke([2], tenant="blue")
    assert (first["event"], first["tenant"], first["uid"], first["count"]) == ({"a": 1}, "blue", 993, 1)
    assert (second["event"], second["count"]) == ([2], 2)
    assert made.invoke(3, tenant="green")["count"] == 1
    names = set(first["names"].split())
    assert {"_HANDLER", "LAMBDA_TASK_ROOT", "AWS_LAMBDA_RUNTIME_API", "PATH", "LANG", "TZ"} <= names
    assert not names & {"AWS_EXECUTION_ENV", "PYTHONPATH", "NODE_PATH"}


def test_a_program_fails_as_any_runtime_does(function: Callable[..., Function]) -> None:
    made = deploy_program(function, {"bootstrap": PERL})
    assert made.fail("fail") == {"errorType": "Odd", "errorMessage": "mine"}
    assert made.invoke(1)["count"] == 2
    assert made.fail("exit")["errorMessage"].endswith("Runtime exited with error: exit status 9")
    assert made.invoke(1)["count"] == 1


def test_a_program_without_its_executable_bit_is_not_started(function: Callable[..., Function]) -> None:
    failed = function({"bootstrap": PERL}, Runtime="provided.al2023").fail()
    assert failed["errorType"] == "Runtime.InvalidEntrypoint"
    assert failed["errorMessage"].endswith("Error: fork/exec /var/task/bootstrap: permission denied")


def test_a_package_without_a_program_says_where_it_was_looked_for(function: Callable[..., Function]) -> None:
    failed = function("", Runtime="provided.al2023").fail()
    assert failed["errorType"] == "Runtime.InvalidEntrypoint"
    places = "[/var/task/bootstrap /opt/bootstrap]"
    assert failed["errorMessage"].endswith(f"Error: Couldn't find valid bootstrap(s): {places}")


def test_a_wrapper_of_the_function_starts_python(function: Callable[..., Function]) -> None:
    source = "import os\ndef handler(event, context):\n    return [os.environ['SEEN'], os.getpid(), event]\n"
    wrapper = '#!/bin/sh\nexport SEEN=yes\nexec "$@"\n'
    variables = {"AWS_LAMBDA_EXEC_WRAPPER": "/var/task/wrapper"}
    made = deploy_program(
        function, {"app.py": source, "wrapper": wrapper}, Runtime=RUNTIME, Environment={"Variables": variables}
    )
    assert made.invoke(1) == ["yes", 2, 1]


NODE = """
const start = Date.now();
let count = 0;
console.log("begun");
exports.handler = async (event, context) => {
  count += 1;
  console.log("event", JSON.stringify(event));
  if (event === "throw") throw new TypeError("odd");
  if (event === "exit") process.exit(7);
  if (event === "hog") { const all = []; for (;;) all.push(Buffer.alloc(1 << 20, 1)); }
  if (event === "hang") return new Promise(() => setInterval(() => {}, 1000));
  const left = context.getRemainingTimeInMillis();
  return { event, count, tenant: context.tenantId, version: process.version, pid: process.pid, uid: process.getuid(),
    arn: context.invokedFunctionArn, id: context.awsRequestId, left: 0 < left && left <= 9000,
    path: process.env.NODE_PATH, environment: process.env.AWS_EXECUTION_ENV };
};
"""


@pytest.fixture(params=NODES or [""])
def node(request: pytest.FixtureRequest) -> str:
    """Each Node.js runtime of this host."""
    assert request.param, "scripts/install installs Node.js"
    return str(request.param)


def test_node_runs_functions(function: Callable[..., Function], node: str) -> None:
    made = function({"app.js": NODE}, Runtime=node, tenancy=True, Timeout=9)
    shown = made.invoke({"a": "ü€\U0001f600"}, tenant="blue")
    number = node.removeprefix("nodejs").removesuffix(".x")
    assert (shown["event"], shown["count"], shown["tenant"]) == ({"a": "ü€\U0001f600"}, 1, "blue")
    assert (shown["pid"], shown["uid"], shown["left"]) == (2, 993, True)
    assert shown["version"].startswith(f"v{number}.")
    assert shown["arn"].endswith(f":function:{made.name}")
    assert shown["environment"] == f"AWS_Lambda_{node}"
    assert shown["path"].startswith(f"/opt/nodejs/node{number}/node_modules:/opt/nodejs/node_modules:")
    assert [made.invoke(n, tenant="blue")["count"] for n in range(2, 5)] == [2, 3, 4]
    assert made.invoke(1, tenant="green")["count"] == 1


def test_node_fails_as_on_aws(function: Callable[..., Function], node: str) -> None:
    made = function({"app.js": NODE}, Runtime=node, Timeout=2)
    failed = made.fail("throw")
    assert (failed["errorType"], failed["errorMessage"]) == ("TypeError", "odd")
    assert failed["trace"][0] == "TypeError: odd"
    assert made.invoke(1)["count"] == 2  # it lived on
    assert made.fail("exit")["errorMessage"].endswith("Runtime exited with error: exit status 7")
    assert made.fail("hang")["errorMessage"].endswith("Task timed out after 2.00 seconds")
    assert made.invoke(1)["count"] == 1


def test_node_without_memory_is_told_as_that(function: Callable[..., Function], node: str) -> None:
    made = function({"app.js": NODE}, Runtime=node, Timeout=30, MemorySize=128)
    assert made.fail("hog")["errorType"] == "Runtime.OutOfMemory"


@pytest.mark.parametrize(
    ("files", "handler", "error"),
    [
        ({"other.js": ""}, "app.handler", "Runtime.ImportModuleError"),
        ({"app.js": "exports.x = 1"}, "app.handler", "Runtime.HandlerNotFound"),
        ({"app.js": "exports.handler ="}, "app.handler", "Runtime.UserCodeSyntaxError"),
        ({"app.js": "throw new RangeError('x')"}, "app.handler", "RangeError"),
        ({"app.js": ""}, "app", "Runtime.MalformedHandlerName"),
    ],
)
def test_a_node_function_that_cannot_be_loaded_says_why(
    function: Callable[..., Function], node: str, files: dict[str, str], handler: str, error: str
) -> None:
    assert function(files, Runtime=node, Handler=handler).fail()["errorType"] == error


def test_node_loads_modules_of_both_kinds_and_large_events_pass(function: Callable[..., Function], node: str) -> None:
    source = "import { twice } from './lib/twice.mjs';\nexport const handler = async (event) => twice(event);\n"
    files = {"app.mjs": source, "lib/twice.mjs": "export const twice = (text) => text + text;\n"}
    made = function(files, Runtime=node, MemorySize=512, Timeout=9)
    text = "ü" * 600_000
    assert made.invoke(text) == text + text


def test_node_answers_with_no_more_than_the_limit(function: Callable[..., Function], node: str) -> None:
    source = "exports.handler = async (n) => 'x'.repeat(n);\n"
    made = function({"app.js": source}, Runtime=node, MemorySize=512, Timeout=9)
    assert made.fail(7 << 20)["errorType"] == "Function.ResponseSizeTooLarge"
    assert made.invoke(3) == "xxx"


def test_node_works_beyond_the_language(function: Callable[..., Function], node: str) -> None:
    source = """
const { execFileSync } = require("node:child_process");
const { Worker } = require("node:worker_threads");
const fs = require("node:fs");
const net = require("node:net");
exports.handler = async () => {
  fs.writeFileSync("/tmp/x", "42");
  const worked = await new Promise((resolve, reject) => {
    const worker = new Worker("require('node:worker_threads').parentPort.postMessage(6 * 7)", { eval: true });
    worker.on("message", resolve).on("error", reject);
  });
  const heard = await new Promise((resolve) => {
    const server = net.createServer((socket) => socket.end("42")).listen(0, "127.0.0.1", () => {
      net.connect(server.address().port, "127.0.0.1").on("data", (data) => resolve(data.toString()));
    });
  });
  const child = execFileSync("/bin/sh", ["-c", "echo $((6*7))"]).toString().trim();
  return { child, file: fs.readFileSync("/tmp/x", "utf8"), worked, heard,
    random: require("node:crypto").randomBytes(8).length, zone: new Date().getTimezoneOffset(),
    fetch: typeof fetch, hash: require("node:crypto").createHash("sha256").update("x").digest("hex").length };
};
"""
    made = function({"app.js": source}, Runtime=node, MemorySize=512, Timeout=20)
    assert made.invoke() == {
        "child": "42",
        "file": "42",
        "worked": 42,
        "heard": "42",
        "random": 8,
        "zone": 0,
        "fetch": "function",
        "hash": 64,
    }


def test_tmp_is_kept_between_invocations_and_gone_with_the_environment(function: Callable[..., Function]) -> None:
    source = """
import os
def handler(event, context):
    if event == "exit":
        os._exit(1)
    with open("/tmp/kept", "a+") as file:
        file.write(str(event))
        file.seek(0)
        return file.read()
"""
    made = function(source)
    assert [made.invoke(1), made.invoke(2)] == ["1", "12"]
    made.fail("exit")
    assert made.invoke(3) == "3"
