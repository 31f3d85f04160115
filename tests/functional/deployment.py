"""Functions on servers of a test's own, and raw requests to them."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.conftest import Function
from tests.server import ROLE, RUNTIME, Server, zip_of

COUNTER = """
import uuid
ENVIRONMENT = uuid.uuid4().hex
count = 0
def handler(event, context):
    global count
    count += 1
    return {"environment": ENVIRONMENT, "count": count, "tenant": context.tenant_id}
"""


def deploy(server: Server, source: Any, name: str = "hello", *, tenancy: bool = False, **options: Any) -> Function:
    """A function on the server, ready to be invoked."""
    client = server.client()
    if tenancy:
        options["TenancyConfig"] = {"TenantIsolationMode": "PER_TENANT"}
    given = {"Runtime": RUNTIME, "Role": ROLE, "Handler": "app.handler", **options}
    client.create_function(FunctionName=name, Code={"ZipFile": zip_of(source)}, **given)
    client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 0})
    return Function(client, name)


def update(function: Function, source: Any) -> None:
    """Replace a function's code, and wait until the update is through."""
    function.client.update_function_code(FunctionName=function.name, ZipFile=zip_of(source))
    function.client.get_waiter("function_updated_v2").wait(FunctionName=function.name, WaiterConfig={"Delay": 0})


def eventually(check: Callable[[], Any], seconds: float = 30) -> Any:
    """What ``check`` returns as soon as that is true; the test fails if it never is."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, "what was waited for did not come about"
        time.sleep(0.02)
    return found


def sign(server: Server, method: str, path: str, body: bytes = b"", headers: Iterable[tuple[str, str]] = ()) -> Any:
    """A request as an AWS client sends it, signed with the server's key, ready to be tampered with."""
    request = AWSRequest(method, server.endpoint + path, headers=dict(headers), data=body)
    keys = server.variables
    credentials = Credentials(keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"])
    SigV4Auth(credentials, "lambda", keys["AWS_REGION"]).add_auth(request)
    return request.prepare()


def send(
    server: Server, method: str, path: str, body: bytes = b"", headers: Mapping[str, Any] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to a request that is sent exactly so."""
    place = urlsplit(server.endpoint)
    assert place.hostname is not None
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()
