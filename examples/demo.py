"""The main job in one minute: one function, two tenants, and neither sees anything of the other.

Starts a server of its own on a free port, and stops it again. Run it by `make demo`.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import boto3

from insula.sandbox.runtimes import default_runtime

INSULA = Path(sys.executable).with_name("insula")

HANDLER = """
import os, pathlib

visits = []                      # a global: lives as long as the execution environment

def handler(event, context):
    visits.append(event["note"])
    with open("/tmp/notes", "a") as file:
        file.write(event["note"] + "\\n")
    return {
        "tenant": context.tenant_id,
        "memory": visits,
        "file": pathlib.Path("/tmp/notes").read_text().split("\\n")[:-1],
        "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
    }
"""


def main() -> int:
    """Run the demonstration; the exit status is 0 only if the tenants were isolated."""
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen([INSULA, "serve", "--port", "0", "--data-dir", folder])
        try:
            return demonstrate(connect(server, folder))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


def demonstrate(client: Any) -> int:
    """Create a tenant-isolated function, invoke it as blue and green, and compare what they saw."""
    client.create_function(
        FunctionName="notes",
        Runtime=default_runtime(),
        Role="arn:aws:iam::000000000000:role/demo",
        Handler="app.handler",
        Code={"ZipFile": zip_of(HANDLER)},
        TenancyConfig={"TenantIsolationMode": "PER_TENANT"},
    )
    client.get_waiter("function_active_v2").wait(FunctionName="notes")
    print("\nCreated the function 'notes' with TenantIsolationMode=PER_TENANT.\n")
    seen: dict[str, set[str]] = {}
    for tenant, note in (("blue", "b1"), ("green", "g1"), ("blue", "b2"), ("green", "g2")):
        started = time.perf_counter()
        answer = client.invoke(FunctionName="notes", TenantId=tenant, Payload=json.dumps({"note": note}))
        took = (time.perf_counter() - started) * 1000
        result = json.load(answer["Payload"])
        print(f"{tenant:>6} wrote {note}: {json.dumps(result)}   {took:.1f} ms")
        seen.setdefault(tenant, set()).update(result["memory"], result["file"])
    try:
        client.invoke(FunctionName="notes")
    except client.exceptions.InvalidParameterValueException as error:
        print(f"\nWithout a tenant id: {error}")
    if seen == {"blue": {"b1", "b2"}, "green": {"g1", "g2"}}:
        print("\nEach tenant saw its own memory, files and processes, and nothing of the other's.\n")
        return 0
    print(f"\nNOT ISOLATED: {seen}", file=sys.stderr)
    return 1


def connect(server: subprocess.Popen[bytes], folder: str) -> Any:
    """Wait until the server is ready, and make a client from what `insula env` prints."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            variables = environment(folder)
            urllib.request.urlopen(variables["AWS_ENDPOINT_URL_LAMBDA"] + "/healthz", timeout=5)
            os.environ.update(variables)
            return boto3.client("lambda")
        except (subprocess.CalledProcessError, urllib.error.URLError):
            time.sleep(0.1)
    sys.exit("The server did not come up; its own words are above. `insula doctor` says what this host lacks.")


def environment(folder: str) -> dict[str, str]:
    """What `eval "$(insula env)"` would set."""
    command = [INSULA, "env", "--data-dir", folder]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    pairs = (line.removeprefix("export ").split("=", 1) for line in text.splitlines() if line.startswith("export"))
    return dict(pairs)  # type: ignore[arg-type]


def zip_of(source: str) -> bytes:
    """A deployment package with one file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as package:
        package.writestr("app.py", source)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
