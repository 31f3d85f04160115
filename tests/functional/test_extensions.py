"""Extensions end to end: external ones from layers, internal ones, and what telemetry tells them."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Function
from tests.server import Server

# Prints all that it hears as one line of JSON each, after a mark.
EXTENSION = """#!/usr/bin/env python3
import http.client, http.server, json, os, sys, threading

def say(kind, what):
    print("HEARD", json.dumps([kind, what]), flush=True)

def call(method, path, body=None, **headers):
    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, json.dumps(body) if body is not None else None, names)
    answer = connection.getresponse()
    return answer.status, dict(answer.headers), json.loads(answer.read())

class Listener(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        for event in json.loads(self.rfile.read(int(self.headers["Content-Length"]))):
            if "HEARD" not in str(event["record"]):
                say("telemetry", event)
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass

name = os.path.basename(__file__)
status, headers, document = call(
    "POST", "/2020-01-01/extension/register", {"events": ["INVOKE", "SHUTDOWN"]},
    Lambda_Extension_Name=name, Lambda_Extension_Accept_Feature="accountId")
say("registered", document)
me = headers["Lambda-Extension-Identifier"]
if os.environ.get("BREAK") == "exit":
    sys.exit(7)
if os.environ.get("BREAK") == "report":
    call("POST", "/2020-01-01/extension/init/error", {"errorMessage": "no key"}, Lambda_Extension_Identifier=me,
         Lambda_Extension_Function_Error_Type="Extension.NoKey")
    sys.exit(1)
server = http.server.ThreadingHTTPServer(("sandbox.localdomain", 8080), Listener)
threading.Thread(target=server.serve_forever, daemon=True).start()
say("subscribed", call("PUT", "/2022-07-01/telemetry", {
    "schemaVersion": "2022-12-13", "types": ["platform", "function"], "buffering": {"timeoutMs": 25},
    "destination": {"protocol": "HTTP", "URI": "http://sandbox.localdomain:8080"},
}, Lambda_Extension_Identifier=me)[0])
while True:
    event = call("GET", "/2020-01-01/extension/event/next", Lambda_Extension_Identifier=me)[2]
    say("event", event)
    if event["eventType"] == "SHUTDOWN":
        sys.exit(0)
"""

HANDLER = """
import os, time
print("from init")
def handler(event, context):
    print("from the function")
    if event == "raise":
        raise ValueError("no")
    if event == "exit":
        os._exit(3)
    if event == "hang":
        time.sleep(60)
    return context.aws_request_id
"""

INTERNAL = """
import http.client, json
def call(method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", 9001)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, json.dumps(body) if body is not None else None, names)
    answer = connection.getresponse()
    return answer.status, dict(answer.headers), json.loads(answer.read())

REFUSED = call("POST", "/2020-01-01/extension/register", {"events": ["SHUTDOWN"]}, Lambda_Extension_Name="mine")
ID = call("POST", "/2020-01-01/extension/register", {"events": ["INVOKE"]}, Lambda_Extension_Name="mine")[1][
    "Lambda-Extension-Identifier"]
EVENTS = []

def follow():
    while True:
        EVENTS.append(call("GET", "/2020-01-01/extension/event/next", Lambda_Extension_Identifier=ID)[2])

import threading
threading.Thread(target=follow, daemon=True).start()

def handler(event, context):
    while not EVENTS or EVENTS[-1]["requestId"] != context.aws_request_id:
        pass
    return [REFUSED[0], REFUSED[2]["errorType"], EVENTS[-1]["eventType"], len(EVENTS)]
"""


@pytest.fixture
def extended(client: Any, function: Callable[..., Function]) -> Callable[..., Function]:
    """Makes functions with an external extension called ``ears.py``."""

    def make(*, break_by: str = "", **options: Any) -> Function:
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as package:
            file = zipfile.ZipInfo("extensions/ears.py")
            file.external_attr = 0o755 << 16
            package.writestr(file, EXTENSION)
        layer = client.publish_layer_version(LayerName="ears", Content={"ZipFile": content.getvalue()})
        variables = {"Variables": {"BREAK": break_by}}
        return function(
            HANDLER, **{"Layers": [layer["LayerVersionArn"]], "Environment": variables, "MemorySize": 512, **options}
        )

    return make


class Heard:
    """What the extension of a function printed.

    Attributes:
        log: the function's, as ``until`` saw it last.
    """

    def __init__(self, server: Server, function: Function) -> None:
        self._server = server
        self._function = function

        self.log = ""

    def of(self, kind: str) -> list[Any]:
        found = [json.loads(line.partition("HEARD ")[2]) for line in self.log.splitlines() if "HEARD [" in line]
        return [what for heard, what in found if heard == kind]

    def telemetry(self, kind: str) -> list[Any]:
        return [event["record"] for event in self.of("telemetry") if event["type"] == kind]

    def until(self, condition: Callable[[], Any]) -> Any:
        """What a condition finds in the log, once it does; what is looked at later is of the same moment."""
        deadline = time.monotonic() + 20
        while True:
            self.log = self._server.cli("logs", self._function.name).stdout
            if found := condition():
                return found
            assert time.monotonic() < deadline, self.log


def test_an_extension_lives_through_all_phases(extended: Callable[..., Function], server: Server) -> None:
    made = extended(tenancy=True)
    heard = Heard(server, made)
    request_id = made.invoke(tenant="blue")
    (event,) = heard.until(lambda: heard.of("event"))
    (registered,) = heard.of("registered")
    assert (registered["functionName"], registered["handler"]) == (made.name, "app.handler")
    assert registered["accountId"] == "000000000000"
    assert heard.of("subscribed") == [200]
    assert "EXTENSION\tName: ears.py\tState: Ready\tEvents: [INVOKE, SHUTDOWN]" in heard.log
    assert (event["eventType"], event["requestId"]) == ("INVOKE", request_id)
    assert event["deadlineMs"] > time.time() * 1000 - 60_000
    assert event["tracing"]["type"] == "X-Amzn-Trace-Id"
    made.invoke(tenant="blue")
    heard.until(lambda: len(heard.of("event")) == 2)
    made.client.update_function_configuration(FunctionName=made.name, Description="new", Timeout=9)
    shutdown = heard.until(lambda: [event for event in heard.of("event") if event["eventType"] == "SHUTDOWN"])
    assert shutdown[0]["shutdownReason"] == "SPINDOWN"


def test_telemetry_tells_of_init_and_invocations_with_the_tenant(
    extended: Callable[..., Function], server: Server
) -> None:
    made = extended(tenancy=True)
    heard = Heard(server, made)
    request_id = made.invoke(tenant="blue")
    made.call("raise", tenant="blue")
    made.invoke(tenant="blue")
    heard.until(lambda: len(heard.telemetry("platform.report")) >= 2)
    (started,) = heard.telemetry("platform.initStart")
    assert started["initializationType"] == "on-demand"
    assert started["phase"] == "init"
    assert started["functionName"] == made.name
    subscription = {"name": "ears.py", "state": "Subscribed", "types": ["platform", "function"]}
    assert heard.telemetry("platform.telemetrySubscription") == [subscription]
    assert heard.telemetry("platform.extension") == [
        {"name": "ears.py", "state": "Ready", "events": ["INVOKE", "SHUTDOWN"]}
    ]
    assert heard.telemetry("platform.initRuntimeDone")[0]["status"] == "success"
    assert heard.telemetry("platform.initReport")[0]["metrics"]["durationMs"] > 0
    start = heard.telemetry("platform.start")[0]
    assert (start["requestId"], start["tenantId"], start["version"]) == (request_id, "blue", "$LATEST")
    done, failed = heard.telemetry("platform.runtimeDone")[:2]
    assert (done["status"], done["tenantId"], done["metrics"]["producedBytes"]) == ("success", "blue", 38)
    assert failed["status"] == "error"
    report = heard.telemetry("platform.report")[0]
    assert (report["requestId"], report["tenantId"], report["status"]) == (request_id, "blue", "success")
    assert report["metrics"]["memorySizeMB"] == 512
    assert {"durationMs", "billedDurationMs", "maxMemoryUsedMB", "initDurationMs"} < set(report["metrics"])
    assert "from the function" in heard.telemetry("function")


@pytest.mark.parametrize(("event", "reason"), [("hang", "TIMEOUT")])
def test_an_extension_hears_why_its_environment_ends(
    extended: Callable[..., Function], server: Server, event: str, reason: str
) -> None:
    made = extended(Timeout=1)
    heard = Heard(server, made)
    made.invoke()
    made.fail(event)
    shutdown = heard.until(lambda: [found for found in heard.of("event") if found["eventType"] == "SHUTDOWN"])
    assert shutdown[0]["shutdownReason"] == reason
    assert made.invoke()


@pytest.mark.parametrize(
    ("break_by", "kind", "message"),
    [("report", "Extension.NoKey", "no key"), ("exit", "Extension.Crash", "ears.py")],
)
def test_an_extension_that_fails_fails_the_function(
    extended: Callable[..., Function], break_by: str, kind: str, message: str
) -> None:
    error = extended(break_by=break_by).fail()
    assert error["errorType"] == kind
    assert message in error["errorMessage"]


def test_an_internal_extension_hears_of_invocations_only(function: Callable[..., Function]) -> None:
    made = function(INTERNAL, MemorySize=1769)
    assert made.invoke() == [403, "Extension.InvalidEventType", "INVOKE", 1]
    assert made.invoke() == [403, "Extension.InvalidEventType", "INVOKE", 2]


def test_an_extension_and_a_function_of_each_tenant_are_alone(
    extended: Callable[..., Function], server: Server
) -> None:
    """What an environment has to tell when it is frozen, it tells at its next invocation."""
    made = extended(tenancy=True)
    heard = Heard(server, made)
    ids: dict[str, list[str]] = {"blue": [], "green": []}

    def heard_of_both() -> bool:
        for tenant, own in ids.items():
            own.append(made.invoke(tenant=tenant))
        return len({record["tenantId"] for record in heard.telemetry("platform.start")}) == 2

    heard.until(heard_of_both)
    for tenant, own in ids.items():
        log = server.cli("logs", made.name, "--tenant", tenant).stdout
        assert own[0] in log
        assert not any(other in log for name, others in ids.items() if name != tenant for other in others)
