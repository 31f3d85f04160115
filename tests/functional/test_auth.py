"""Who may call: signatures, and what becomes of requests without a right one."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import botocore.auth
import pytest
from botocore.exceptions import ClientError

from tests.conftest import Function
from tests.functional.deployment import COUNTER, deploy, send, sign
from tests.server import Server

LIST = "/2015-03-31/functions/"


def error(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, str]:
    return answer[0], answer[1]["x-amzn-errortype"]


def refused(client: Any) -> dict[str, Any]:
    with pytest.raises(ClientError) as caught:
        client.list_functions()
    response = caught.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 403
    return dict(response["Error"])


def test_a_request_that_is_not_signed_is_refused(server: Server) -> None:
    answer = send(server, "GET", LIST)
    assert error(answer) == (403, "MissingAuthenticationTokenException")
    assert json.loads(answer[2]) == {"message": "Missing Authentication Token"}


def test_a_request_signed_with_another_secret_is_refused(server: Server) -> None:
    found = refused(server.client(aws_secret_access_key="x" * 40))
    assert found["Code"] == "InvalidSignatureException"
    assert server.variables["AWS_SECRET_ACCESS_KEY"] not in found["Message"]


def test_an_unknown_access_key_is_refused(server: Server) -> None:
    found = refused(server.client(aws_access_key_id="AKIAIOSFODNN7EXAMPLE"))
    assert found == {
        "Code": "UnrecognizedClientException",
        "Message": "The security token included in the request is invalid.",
    }


def test_another_region_is_refused(server: Server) -> None:
    assert "eu-west-1" in refused(server.client(region_name="eu-west-1"))["Message"]


@pytest.mark.parametrize("minutes", [-6, 6])
def test_a_signature_of_another_time_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch, minutes: int) -> None:
    moment = datetime.now(UTC).replace(tzinfo=None) + timedelta(minutes=minutes)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda **_: moment)
    headers = sign(server, "GET", LIST).headers
    assert moment.strftime("%Y%m%dT%H%M%SZ") == headers["X-Amz-Date"]
    assert error(send(server, "GET", LIST, headers=headers)) == (403, "InvalidSignatureException")


def test_a_changed_body_is_refused_and_not_run(server: Server, function: Callable[..., Function]) -> None:
    counter = function(COUNTER)
    path = f"/2015-03-31/functions/{counter.name}/invocations"
    headers = sign(server, "POST", path, b'{"pay": 1}').headers
    assert error(send(server, "POST", path, b'{"pay": 9}', headers)) == (403, "InvalidSignatureException")
    assert counter.invoke()["count"] == 1


def test_a_changed_path_query_method_or_tenant_is_refused(server: Server, function: Callable[..., Function]) -> None:
    counter, other = function(COUNTER, tenancy=True), function(COUNTER, tenancy=True)
    path = f"/2015-03-31/functions/{counter.name}/invocations"
    headers = dict(sign(server, "POST", path, b"{}", [("X-Amz-Tenant-Id", "blue")]).headers)
    tampered = (
        ("POST", path.replace(counter.name, other.name), headers),
        ("POST", path + "?Qualifier=1", headers),
        ("PUT", path.removesuffix("invocations") + "code", headers),
        ("POST", path, {**headers, "X-Amz-Tenant-Id": "green"}),
        ("POST", path, {**headers, "X-Amz-Invocation-Type": "DryRun"}),
    )
    for method, place, changed in tampered:
        assert error(send(server, method, place, b"{}", changed)) == (403, "InvalidSignatureException")
    assert send(server, "POST", path, b"{}", headers)[0] == 200
    assert counter.invoke(tenant="blue")["count"] == 2


@pytest.mark.parametrize(
    "authorization",
    [
        "Basic dXNlcjpwYXNz",
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=x",
        "AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=host, Signature=",
        "AWS4-HMAC-SHA256 " + "x" * 10_000,
        "AWS4-HMAC-SHA256 Credential=\xff/20260101/us-east-1/lambda/aws4_request, SignedHeaders=host, Signature=0",
    ],
)
def test_broken_authorization_is_refused(server: Server, authorization: str) -> None:
    headers = {"Authorization": authorization.encode("latin-1"), "X-Amz-Date": "20260101T000000Z"}
    status, _, body = send(server, "GET", LIST, headers=headers)
    assert status in {400, 403}
    assert json.loads(body)["message"]


def test_health_needs_no_signature(server: Server) -> None:
    assert send(server, "GET", "/healthz")[0] == 200


@pytest.mark.parametrize("link", ["", "?expires=9999999999&signature=" + "0" * 64, "?expires=9&signature=%ff"])
def test_code_is_not_handed_out_without_a_link_of_get_function(
    server: Server, function: Callable[..., Function], link: str
) -> None:
    made = function(COUNTER)
    location = made.client.get_function(FunctionName=made.name)["Code"]["Location"]
    path = location.removeprefix(server.endpoint).partition("?")[0]
    assert send(server, "GET", path + link)[0] == 403


def test_without_auth_anyone_on_loopback_may_call(new_server: Callable[..., Server]) -> None:
    server = new_server("--no-auth", "--isolation", "none")
    deploy(server, COUNTER)
    assert send(server, "GET", LIST)[0] == 200
    assert send(server, "POST", "/2015-03-31/functions/hello/invocations", b"{}")[0] == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_without_auth_no_other_address_is_served(server: Server, host: str) -> None:
    found = server.cli("serve", "--no-auth", "--host", host, "--port", "0", check=False)
    assert found.returncode == 1
    assert found.stderr.startswith(f"insula: --no-auth is refused on {host}")
