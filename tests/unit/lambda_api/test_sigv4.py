"""Signatures: what botocore signs is accepted, and everything that was changed afterwards is not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from insula.lambda_api.sigv4 import Credential, SignedRequest, Verifier
from insula.model.errors import (
    AccessError,
    IncompleteSignatureException,
    InvalidSignatureException,
    MissingAuthenticationTokenException,
    UnrecognizedClientException,
)

CREDENTIAL = Credential("AKID", "secret/+", "111111111111")
HOST = "http://insula.test:9900"


def clock() -> float:
    return datetime.now(UTC).timestamp()


def verifier(**changes: Any) -> Verifier:
    options: dict[str, Any] = {"find": {"AKID": CREDENTIAL}.get, "region": "us-east-1", "clock": clock} | changes
    return Verifier(**options)


def sign(
    target: str = "/2015-03-31/functions/f/invocations",
    body: bytes = b"{}",
    headers: Mapping[str, str] | None = None,
    *,
    region: str = "us-east-1",
    service: str = "lambda",
) -> SignedRequest:
    request = AWSRequest(method="POST", url=HOST + target, data=body, headers=dict(headers or {}))
    SigV4Auth(Credentials(CREDENTIAL.access_key, CREDENTIAL.secret), service, region).add_auth(request)
    parts = urlsplit(HOST + target)
    received = {name.lower().encode(): _wire(value) for name, value in request.headers.items()}
    received[b"host"] = parts.netloc.encode()
    return SignedRequest("POST", parts.path.encode(), parts.query.encode(), received)


def _wire(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def changed(request: SignedRequest, **headers: bytes | None) -> SignedRequest:
    received = dict(request.headers)
    for name, value in headers.items():
        wire = name.replace("_", "-").encode()
        received.pop(wire, None)
        if value is not None:
            received[wire] = value
    return replace(request, headers=received)


@pytest.mark.parametrize(
    "target",
    [
        "/2015-03-31/functions/f/invocations",
        "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aus-east-1%3A111111111111%3Afunction%3Af%3A%24LATEST",
        "/2015-03-31/functions/f/invocations?Qualifier=%24LATEST",
        "/2017-03-31/tags/arn%3Aaws?tagKeys=b&tagKeys=a%20c&tagKeys=%C3%A9&empty=",
        "/a%20b/%E5%80%A4/~tilde/-._",
        "/a//b/./c/../d/",
        "/",
    ],
)
def test_what_botocore_signs_is_accepted(target: str) -> None:
    request = sign(target, b'{"a": 1}', {"X-Amz-Tenant-Id": "  two   spaces ", "X-Amz-Client-Context": "é"})
    assert verifier().begin(request).verify(b'{"a": 1}') == CREDENTIAL.account


@given(
    name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    value=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    body=st.binary(max_size=50),
)
def test_any_name_and_query_that_botocore_signs_is_accepted(name: str, value: str, body: bytes) -> None:
    target = f"/x/{quote(name, safe='-._~')}?k={quote(value, safe='-._~')}&{quote(name, safe='-._~')}=1"
    assert verifier().begin(sign(target, body)).verify(body) == CREDENTIAL.account


@pytest.mark.parametrize(
    "change",
    [
        lambda request: replace(request, method="PUT"),
        lambda request: replace(request, path=b"/2015-03-31/functions/g/invocations"),
        lambda request: replace(request, query=b"Qualifier=1"),
        lambda request: changed(request, x_amz_tenant_id=b"red"),
        lambda request: changed(request, host=b"elsewhere"),
    ],
)
def test_a_changed_request_does_not_match(change: Any) -> None:
    request = change(sign(headers={"X-Amz-Tenant-Id": "blue"}))
    with pytest.raises(InvalidSignatureException, match=r"^The request signature we calculated does not"):
        verifier().begin(request).verify(b"{}")


def test_a_changed_body_does_not_match() -> None:
    with pytest.raises(InvalidSignatureException, match="does not match"):
        verifier().begin(sign()).verify(b"{ }")


def test_another_secret_does_not_match() -> None:
    other = replace(CREDENTIAL, secret="other")
    with pytest.raises(InvalidSignatureException, match="does not match"):
        verifier(find={"AKID": other}.get).begin(sign()).verify(b"{}")


def test_an_unsigned_amz_header_is_refused() -> None:
    request = changed(sign(), x_amz_tenant_id=b"red")
    with pytest.raises(InvalidSignatureException, match="not signed: x-amz-tenant-id"):
        verifier().begin(request)


def test_an_unsigned_payload_counts_only_if_the_signature_says_so() -> None:
    declared = sign(headers={"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"})
    with pytest.raises(InvalidSignatureException):
        verifier().begin(changed(sign(), x_amz_content_sha256=b"UNSIGNED-PAYLOAD"))
    assert verifier().begin(declared).verify(b"anything") == CREDENTIAL.account


def test_a_declared_hash_must_be_the_hash_of_the_body() -> None:
    request = sign(headers={"X-Amz-Content-SHA256": hashlib.sha256(b"{}").hexdigest()})
    assert verifier().begin(request).verify(b"{}") == CREDENTIAL.account
    with pytest.raises(InvalidSignatureException, match="does not match what was computed"):
        verifier().begin(request).verify(b"[]")


def test_a_replaced_secret_voids_the_old_one() -> None:
    keys = {"AKID": CREDENTIAL}
    checking = verifier(find=keys.get)
    checking.begin(sign()).verify(b"{}")
    keys["AKID"] = replace(CREDENTIAL, secret="new")
    with pytest.raises(InvalidSignatureException):
        checking.begin(sign()).verify(b"{}")


def test_a_chunked_signature_is_refused_with_a_reason() -> None:
    request = sign(headers={"X-Amz-Content-SHA256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"})
    with pytest.raises(InvalidSignatureException, match="chunked signatures are not supported"):
        verifier().begin(request).verify(b"{}")


@pytest.mark.parametrize(("shift", "text"), [(301, "^Signature expired: "), (-301, "^Signature not yet current: ")])
def test_a_clock_that_is_five_minutes_off_is_refused(shift: int, text: str) -> None:
    with pytest.raises(InvalidSignatureException, match=text):
        verifier(clock=lambda: clock() + shift).begin(sign())
    verifier(clock=lambda: clock() + shift * 0.98).begin(sign())


def test_region_and_service_of_the_scope_are_checked() -> None:
    with pytest.raises(InvalidSignatureException, match="valid region, not 'eu-west-1'"):
        verifier().begin(sign(region="eu-west-1"))
    with pytest.raises(InvalidSignatureException, match="correct service: 'lambda'"):
        verifier().begin(sign(service="s3"))


def test_an_unknown_key_and_a_session_token_are_not_recognised() -> None:
    with pytest.raises(UnrecognizedClientException, match="security token included in the request is invalid"):
        verifier(find=lambda key: None).begin(sign())
    with pytest.raises(UnrecognizedClientException):
        verifier().begin(sign(headers={"X-Amz-Security-Token": "t"}))


def test_an_unsigned_request_is_told_so() -> None:
    with pytest.raises(MissingAuthenticationTokenException, match=r"^Missing Authentication Token$"):
        verifier().begin(changed(sign(), authorization=None))
    presigned = replace(changed(sign(), authorization=None), query=b"X-Amz-Signature=00")
    with pytest.raises(IncompleteSignatureException, match="Presigned requests are not supported"):
        verifier().begin(presigned)


def test_the_parameters_may_stand_in_any_order() -> None:
    algorithm, _, rest = sign().headers[b"authorization"].partition(b" ")
    parameters = [parameter.strip() for parameter in rest.split(b",")]
    for number in range(len(parameters)):
        turned = b", ".join(parameters[number:] + parameters[:number])
        request = changed(sign(), authorization=algorithm + b" " + turned)
        assert verifier().begin(request).verify(b"{}") == CREDENTIAL.account


def test_a_signature_is_not_looked_for_inside_another_parameter() -> None:
    authorization = sign().headers[b"authorization"].replace(b"SignedHeaders=", b"SignedHeaders=Signature=")
    with pytest.raises(AccessError):
        verifier().begin(changed(sign(), authorization=authorization)).verify(b"{}")


def test_what_was_read_once_is_read_alike_again() -> None:
    checking, request = verifier(), sign()
    for _ in range(2):
        assert checking.begin(request).verify(b"{}") == CREDENTIAL.account
        forged = request.headers[b"authorization"][:-64] + b"0" * 64
        with pytest.raises(InvalidSignatureException, match="does not match"):
            checking.begin(changed(request, authorization=forged)).verify(b"{}")
        for parameter in (b"Credential=", b"SignedHeaders=", b"Signature="):
            without = request.headers[b"authorization"].replace(parameter, b"Other=")
            with pytest.raises(IncompleteSignatureException, match=parameter.decode()[:-1]):
                checking.begin(changed(request, authorization=without))


GOOD = b"AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/lambda/aws4_request, SignedHeaders=host, Signature=0"


@pytest.mark.parametrize(
    "authorization",
    [
        b"",
        b"Bearer x",
        b"AWS4-HMAC-SHA256",
        b"AWS4-HMAC-SHA256 Credential",
        b"AWS4-HMAC-SHA256 Credential=,SignedHeaders=,Signature=",
        GOOD.replace(b"Signature=", b"Sig="),
        GOOD.replace(b"/aws4_request", b""),
        GOOD.replace(b"aws4_request", b"aws5"),
        GOOD.replace(b"=host", b"=date"),
        GOOD.replace(b"host", b"h\xff"),
        b"\xff\xfe" * 1000,
    ],
)
def test_a_malformed_authorization_is_an_access_error(authorization: bytes) -> None:
    with pytest.raises(AccessError):
        verifier().begin(changed(sign(), authorization=authorization))


@given(authorization=st.binary(max_size=200), date=st.binary(max_size=20))
def test_no_header_breaks_the_verifier(authorization: bytes, date: bytes) -> None:
    with pytest.raises(AccessError):
        verifier().begin(changed(sign(), authorization=authorization, x_amz_date=date))


@pytest.mark.parametrize("date", [b"", b"20261301T000000Z", b"20260230T000000Z", b"\xd9\xa22260101T000000Z"])
def test_a_date_that_is_none_is_refused(date: bytes) -> None:
    scope = GOOD.replace(b"20260101", date[:8])
    with pytest.raises(AccessError):
        verifier().begin(changed(sign(), authorization=scope, x_amz_date=date))


def test_header_bytes_that_are_not_utf8_are_compared_not_decoded() -> None:
    request = changed(sign(headers={"X-Amz-Tenant-Id": "blue"}), x_amz_tenant_id=b"\xff")
    with pytest.raises(InvalidSignatureException, match="does not match"):
        verifier().begin(request).verify(b"{}")
