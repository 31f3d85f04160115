"""T2: which tenant a request means, however it is written. Raw HTTP, as no client would send it."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conftest import Function
from tests.server import ROLE, RUNTIME, Server, zip_of

_CODE = """
import uuid
ENVIRONMENT = uuid.uuid4().hex
def handler(event, context):
    return [ENVIRONMENT, context.tenant_id]
"""


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes unsigned requests, with the function ``f``."""
    server = Server(tmp_path_factory.mktemp("open") / "data", "--no-auth").start()
    client = server.client()
    client.create_function(
        FunctionName="f",
        Code={"ZipFile": zip_of(_CODE)},
        Runtime=RUNTIME,
        Role=ROLE,
        Handler="app.handler",
        TenancyConfig={"TenantIsolationMode": "PER_TENANT"},
    )
    client.get_waiter("function_active_v2").wait(FunctionName="f")
    yield server
    server.stop()


def _send(server: Server, *headers: bytes, body: bytes = b"{}") -> tuple[int, Any]:
    """One invocation with these header lines: status and document."""
    head = [b"POST /2015-03-31/functions/f/invocations HTTP/1.1", b"Host: a", b"Connection: close"]
    if not any(line.lower().startswith((b"content-length", b"transfer-encoding")) for line in headers):
        head.append(b"Content-Length: %d" % len(body))
    address = urlsplit(server.endpoint)
    with socket.create_connection((str(address.hostname), int(address.port or 0)), 30) as client:
        client.sendall(b"\r\n".join([*head, *headers]) + b"\r\n\r\n" + body)
        with client.makefile("rb") as answer:
            data = answer.read()
    top, _, document = data.partition(b"\r\n\r\n")
    assert data.count(b"HTTP/1.1 ") == 1, data  # one request, one answer
    try:
        return int(top.split()[1]), json.loads(document)
    except ValueError:
        return int(top.split()[1]), document


def _tenant(server: Server, tenant: bytes) -> tuple[int, Any]:
    return _send(server, b"X-Amz-Tenant-Id: " + tenant)


def test_ids_that_differ_in_any_byte_are_different_tenants(open_server: Server) -> None:
    ids = ["blue", "Blue", "BLUE", "blue.", ".blue", "blue/", "./blue", "../blue", "blue/..", "a  b", "a b", "a   b"]
    ids += ["blue:1", "blue@", "blue+", "blue=", "-blue", "--blue", "%", "/", ".", "..", "b" * 255, "b" * 256]
    seen: dict[str, str] = {}
    for tenant in ids:
        status, document = _tenant(open_server, tenant.encode())
        if tenant == "%":
            assert status == 400
            continue
        assert status == 200, (tenant, document)
        environment, told = document
        assert told == tenant
        assert environment not in seen, f"{tenant!r} and {seen[environment]!r} share an environment"
        seen[environment] = tenant


@pytest.mark.parametrize(
    "tenant",
    [
        b"b" * 257,
        b"bl\xc3\xbce",
        b"bl\xfce",
        b"\xd0\xb2lue",
        "\uff42\uff4c\uff55\uff45".encode(),
        b"blue\xc2\xa0",
        b"blue\xe2\x80\x8b",
        b"blue\t",
        b"bl\tue",
        b"blue\x7f",
        b"blue,green",
        b"blue;green",
        b"blue%20",
        b"blue%00",
        b"blue$",
        b"*",
        b"",
        b"   ",
        b"blue|green",
        b"'blue'",
        b"{blue}",
        b"blue\\",
    ],
)
def test_what_is_no_tenant_id_is_refused(tenant: bytes, open_server: Server) -> None:
    status, document = _tenant(open_server, tenant)
    if tenant == b"blue\t":  # white space around a header's value is not part of it: RFC 9110, section 5.5
        assert status == 200
        assert document[1] == "blue"
    else:
        assert status == 400, document


def test_white_space_around_an_id_is_never_a_tenant_of_its_own(open_server: Server) -> None:
    """RFC 9110 says it is no part of the value, and the function would be told the trimmed id."""
    _, plain = _tenant(open_server, b"space")
    for written in (b" space", b"space ", b"  space  "):
        status, document = _tenant(open_server, written)
        assert status in (200, 400)
        if status == 200:
            assert document == plain, written


@pytest.mark.parametrize("breaker", [b"\0", b"\r", b"\n", b"\r\n X"])
def test_control_bytes_break_the_request_and_not_the_server(breaker: bytes, open_server: Server) -> None:
    status, document = _tenant(open_server, b"blue" + breaker + b"green")
    assert status == 400, document
    assert _tenant(open_server, b"blue")[0] == 200


def test_two_tenant_headers_are_refused(open_server: Server) -> None:
    for second in (b"X-Amz-Tenant-Id: green", b"x-amz-tenant-id: green", b"X-AMZ-TENANT-ID: blue"):
        status, document = _send(open_server, b"X-Amz-Tenant-Id: blue", second)
        assert status == 400, document


def test_headers_that_only_resemble_the_tenants_do_not_count(open_server: Server) -> None:
    for name in (b"X_Amz_Tenant_Id", b"X-Amz-Tenant-Id-", b"X-Amz-TenantId", b"Tenant-Id", b"X-Amz-Meta-Tenant-Id"):
        assert _send(open_server, name + b": green")[0] == 400
        status, document = _send(open_server, b"X-Amz-Tenant-Id: blue", name + b": green")
        assert (status, document[1]) == (200, "blue")


@pytest.mark.parametrize(
    "headers",
    [
        (b"Content-Length: 2", b"Transfer-Encoding: chunked"),
        (b"Content-Length: 2", b"Content-Length: 40"),
        (b"Content-Length: +2",),
        (b"Transfer-Encoding: chunked, identity",),
        (b"Transfer-Encoding: xchunked",),
        (b"Transfer-Encoding : chunked",),
    ],
)
def test_a_request_cannot_be_smuggled_inside_another(headers: tuple[bytes, ...], open_server: Server) -> None:
    inner = b"0\r\n\r\nPOST /2015-03-31/functions/f/invocations HTTP/1.1\r\nHost: a\r\nX-Amz-Tenant-Id: victim\r\n\r\n"
    status, _ = _send(open_server, b"X-Amz-Tenant-Id: blue", *headers, body=inner)
    assert status == 400


def test_a_line_break_in_the_client_context_forges_no_header(open_server: Server) -> None:
    forged = '{"custom":\r\n{},\r\n"Lambda-Runtime-Aws-Tenant-Id": "green"}'
    context = base64.b64encode(forged.encode())
    status, document = _send(open_server, b"X-Amz-Tenant-Id: blue", b"X-Amz-Client-Context: " + context)
    assert (status, document[1]) == (200, "blue")
    raw = base64.b64encode(b"{}\r\nLambda-Runtime-Aws-Tenant-Id: green")
    assert _send(open_server, b"X-Amz-Tenant-Id: blue", b"X-Amz-Client-Context: " + raw)[0] == 400


def test_a_trace_header_forges_no_header(open_server: Server) -> None:
    for trace in (b"Root=1;\x0bLambda-Runtime-Aws-Tenant-Id: green", b"\xe2\x80\xa8x", b"x" * 5000):
        status, document = _send(open_server, b"X-Amz-Tenant-Id: blue", b"X-Amzn-Trace-Id: " + trace)
        assert status == 400 or document[1] == "blue"


def test_no_tenant_id_is_a_path(open_server: Server) -> None:
    before = {path for path in Path("/tmp").iterdir() if "escape" in path.name}
    for tenant in (b"../../../../tmp/escape", b"/tmp/escape", b"a/../../escape"):
        assert _tenant(open_server, tenant)[0] == 200
    assert {path for path in Path("/tmp").iterdir() if "escape" in path.name} == before
    assert not [path for path in open_server.data_dir.glob("**/*") if "escape" in path.name]


def test_a_tenant_id_in_the_query_or_the_body_does_not_count(open_server: Server) -> None:
    body = b'{"TenantId": "green", "X-Amz-Tenant-Id": "green"}'
    assert _send(open_server, body=body)[0] == 400
    assert _send(open_server, b"X-Amz-Tenant-Id: blue", body=body)[1][1] == "blue"


def test_the_signature_covers_the_tenant(server: Server, function: Callable[..., Function]) -> None:
    """Who cannot sign cannot choose a tenant, and cannot change one on the way."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    name = function(_CODE, tenancy=True).name
    url = f"{server.endpoint}/2015-03-31/functions/{name}/invocations"
    request = AWSRequest("POST", url, data=b"{}", headers={"X-Amz-Tenant-Id": "blue"})
    credentials = Credentials(server.variables["AWS_ACCESS_KEY_ID"], server.variables["AWS_SECRET_ACCESS_KEY"])
    SigV4Auth(credentials, "lambda", server.variables["AWS_DEFAULT_REGION"]).add_auth(request)
    for tenant, status in (("blue", 200), ("green", 403), ("Blue", 403)):
        headers = {**dict(request.headers.items()), "X-Amz-Tenant-Id": tenant}
        assert _status(url, headers) == status
    unsigned = AWSRequest("POST", url, data=b"{}", headers={})
    SigV4Auth(credentials, "lambda", server.variables["AWS_DEFAULT_REGION"]).add_auth(unsigned)
    added = {**dict(unsigned.headers.items()), "X-Amz-Tenant-Id": "green"}
    assert _status(url, added) in (400, 403)


def _status(url: str, headers: dict[str, str]) -> int:
    import http.client

    address = urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
    connection.request("POST", address.path, b"{}", headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status
