"""The functions of the soak. Each answers who it is, how often it ran, and every tenant that it ever saw."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import Any

from tests.functional.test_runtimes import NODES
from tests.server import ROLE, RUNTIME, zip_of

TIMEOUT = 6
_PYTHON = """
import os, subprocess, threading, time, uuid
GENERATION = %d
ME = uuid.uuid4().hex
tenants, count = [], 0

def spin():
    while True:
        time.sleep(0.005)

def handler(event, context):
    global count
    count += 1
    if context.tenant_id not in tenants:
        tenants.append(context.tenant_id)
    deed = event["deed"]
    if deed == "exit":
        os._exit(3)
    if deed == "grow":
        hoard = [bytearray(16 << 20) for _ in range(40)]
    if deed == "hang":
        time.sleep(600)
    if deed == "sleep":
        time.sleep(0.4)
    if deed == "log":
        print("x" * 200 * 1024)
        print("y\\n" * 2000)
    if deed == "thread":
        threading.Thread(target=spin, daemon=True).start()
    if deed == "child":
        subprocess.Popen(["sleep", "600"], start_new_session=True)
    if deed == "write":
        open("/tmp/file-%%d" %% count, "wb").write(b"z" * (1 << 20))
    return {"me": ME, "count": count, "tenants": tenants, "generation": GENERATION, "token": event["token"]}
"""
_NODE = """
const { randomUUID } = require("crypto");
const ME = randomUUID(), tenants = [];
let count = 0;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
async function work(event, context) {
  count++;
  const tenant = context.tenantId ?? null;
  if (!tenants.includes(tenant)) tenants.push(tenant);
  if (event.deed === "exit") process.exit(3);
  if (event.deed === "hang") await pause(600000);
  if (event.deed === "sleep") await pause(400);
  if (event.deed === "log") console.log("x".repeat(200 * 1024));
  return JSON.stringify({ me: ME, count, tenants, generation: %d, token: event.token });
}
"""
_PLAIN = "exports.handler = async (event, context) => JSON.parse(await work(event, context));\n"
_STREAMED = """
exports.handler = awslambda.streamifyResponse(async (event, stream, context) => {
  const text = await work(event, context);
  for (let i = 0; i < text.length; i += 20) { stream.write(text.slice(i, i + 20)); await pause(2); }
  stream.end();
});
"""
_EXTENSION = """#!/usr/bin/env python3
import http.client, json, os
def call(method, path, body=None, **headers):
    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.headers, json.loads(answer.read())
me = call("POST", "/2020-01-01/extension/register", json.dumps({"events": ["INVOKE", "SHUTDOWN"]}),
          Lambda_Extension_Name="soak.py")[0]["Lambda-Extension-Identifier"]
while call("GET", "/2020-01-01/extension/event/next", Lambda_Extension_Identifier=me)[1]["eventType"] != "SHUTDOWN":
    pass
"""
_DEEDS = ("exit", "grow", "hang", "sleep", "log", "thread", "child", "write")
_NODE_DEEDS = ("exit", "hang", "sleep", "log")


@dataclass(frozen=True, slots=True)
class Kind:
    """A function of the soak.

    Attributes:
        tenants: how many there are; none without tenancy.
        weight: its share of the load.
        deeds: what it may be told to do beside answering.
        extended: whether it has a layer with an external extension.
        streams: whether it answers as a stream.
        alias: whether an alias ``live`` follows its versions, and is called.
    """

    name: str
    tenants: int = 0
    weight: int = 1
    runtime: str = RUNTIME
    deeds: tuple[str, ...] = _DEEDS
    extended: bool = False
    streams: bool = False
    alias: bool = False

    def package(self, generation: int) -> bytes:
        """Its deployment package; the generation is told in each answer."""
        if self.runtime.startswith("python"):
            return zip_of(_PYTHON % generation)
        return zip_of({"app.js": _NODE % generation + (_STREAMED if self.streams else _PLAIN)})

    def options(self, layer: str) -> dict[str, Any]:
        """What CreateFunction is told beside the package."""
        found: dict[str, Any] = {
            "FunctionName": self.name,
            "Runtime": self.runtime,
            "Role": ROLE,
            "Handler": "app.handler",
            "Timeout": TIMEOUT,
            "MemorySize": 256,
        }
        if self.tenants:
            found["TenancyConfig"] = {"TenantIsolationMode": "PER_TENANT"}
        if self.extended:
            found["Layers"] = [layer]
        return found


def kinds() -> list[Kind]:
    """The functions, as far as this host has their runtimes."""
    found = [
        Kind("tenants", tenants=40, weight=10),
        Kind("shared", weight=4, alias=True),
        Kind("extended", tenants=4, weight=2, extended=True),
    ]
    if NODES:
        found.append(Kind("node", tenants=4, weight=2, runtime=NODES[-1], deeds=_NODE_DEEDS))
        found.append(Kind("streaming", tenants=4, weight=2, runtime=NODES[-1], deeds=_NODE_DEEDS, streams=True))
    return found


def layer() -> bytes:
    """An archive with an external extension."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as package:
        file = zipfile.ZipInfo("extensions/soak.py")
        file.external_attr = 0o755 << 16
        package.writestr(file, _EXTENSION)
    return content.getvalue()
