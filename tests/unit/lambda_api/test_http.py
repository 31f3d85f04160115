"""HTTP itself: whatever arrives, the answer is a well-formed 4xx."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.unit.lambda_api.api_harness import ACCOUNT, REGION, Answer, Harness, settings

FUNCTIONS = "/2015-03-31/functions"
INVOKE = f"{FUNCTIONS}/hello/invocations"


def check_error(answer: Answer, status: int, code: str) -> dict[str, Any]:
    assert (answer.status, answer.headers["x-amzn-errortype"]) == (status, code)
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.headers["x-amzn-requestid"]) == 36
    assert int(answer.headers["content-length"]) == len(answer.body)
    body: dict[str, Any] = json.loads(answer.body)
    return body


def create(harness: Harness, **changes: Any) -> None:
    harness.client().create_function(**settings(**changes))


def test_health_needs_no_credentials(harness: Harness) -> None:
    answer = harness.request("GET", "/healthz")
    assert (answer.status, json.loads(answer.body)) == (200, {"status": "ok"})


def test_error_bodies_have_the_letter_case_of_aws(unsigned: Harness) -> None:
    arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:nope"
    body = check_error(unsigned.request("GET", f"{FUNCTIONS}/nope"), 404, "ResourceNotFoundException")
    assert body == {"Type": "User", "Message": f"Function not found: {arn}"}
    body = check_error(unsigned.request("GET", f"{FUNCTIONS}?Marker=%25"), 400, "InvalidParameterValueException")
    assert set(body) == {"Type", "message"}
    body = check_error(unsigned.request("GET", f"{FUNCTIONS}?FunctionVersion=x"), 400, "ValidationException")
    assert set(body) == {"message"}


def test_an_unknown_path_is_an_unknown_operation(harness: Harness) -> None:
    check_error(harness.request("GET", "/"), 404, "UnknownOperationException")
    check_error(harness.request("PATCH", FUNCTIONS), 404, "UnknownOperationException")
    check_error(harness.request("POST", "/healthz"), 404, "UnknownOperationException")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", f"{FUNCTIONS}/%"),
        ("GET", f"{FUNCTIONS}/%zz"),
        ("GET", f"{FUNCTIONS}/%ff"),
        ("GET", f"{FUNCTIONS}/%00"),
        ("GET", f"{FUNCTIONS}/%2e%2e%2f"),
        ("GET", f"{FUNCTIONS}/" + "a" * 60_000),
        ("GET", f"{FUNCTIONS}?Marker=%ff"),
        ("GET", f"{FUNCTIONS}?MaxItems=1&MaxItems=2"),
        ("GET", f"{FUNCTIONS}?MaxItems=0"),
        ("GET", f"{FUNCTIONS}?MaxItems=" + "9" * 5000),
        ("GET", f"{FUNCTIONS}?Marker=" + "A" * 5001),
        ("GET", f"{FUNCTIONS}?" + "&".join(["a=1"] * 1001)),
        ("DELETE", "/2017-03-31/tags/x"),
    ],
)
def test_a_malformed_path_or_query_is_a_400(unsigned: Harness, method: str, target: str) -> None:
    assert unsigned.request(method, target).status == 400


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-amz-tenant-id", b"\xff\xfe")],
        [(b"x-amz-tenant-id", "blåbär".encode("latin-1"))],
        [(b"x-amz-tenant-id", b"blue"), (b"x-amz-tenant-id", b"red")],
        [(b"x-amz-tenant-id", b"a" * 60_000)],
        [(b"x-amz-tenant-id", b"a\x00b")],
        [(b"x-amz-invocation-type", b"RequestResponse"), (b"x-amz-invocation-type", b"DryRun")],
        [(b"x-amz-log-type", b"All")],
        [(b"x-amz-client-context", b"\xc3\x28")],
        [(b"content-length", b"many")],
        [(b"content-length", b"9" * 30)],
    ],
)
def test_a_malformed_header_is_a_400(unsigned: Harness, headers: list[tuple[bytes, bytes]]) -> None:
    create(unsigned, TenancyConfig={"TenantIsolationMode": "PER_TENANT"})
    assert unsigned.request("POST", INVOKE, b"{}", headers).status == 400
    assert unsigned.invoker.invocations == []


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff",
        b"[]",
        b'"text"',
        b"1",
        b"NaN",
        b'{"Timeout": NaN}',
        b'{"Timeout": Infinity}',
        b'{"Timeout": 1e999}',
        b'{"Timeout": ' + b"9" * 5000 + b"}",
        b'{"Timeout": ' + b"9" * 4000 + b"}",
        b'{"Layers": ' + b"[" * 100_000,
        b'{"Code": ' * 100_000,
        b'{"Description": "\\ud800"}',
        b'{"Description": "\\u0000"}',
        b'{"Tags": {"\\ud800": "a"}}',
        b'{"Environment": {"Variables": {"A\\u0000B": "c"}}}',
        b"\x00",
        b"",
    ],
    ids=lambda body: repr(body[:30]),
)
def test_a_malformed_body_is_a_400(unsigned: Harness, body: bytes) -> None:
    answer = unsigned.request("POST", FUNCTIONS, body)
    assert answer.status == 400
    assert json.loads(answer.body)


def test_a_body_over_the_limit_is_refused_by_its_length_or_by_its_bytes(unsigned: Harness) -> None:
    create(unsigned)
    text = "Request must be smaller than 6291456 bytes for the InvokeFunction operation"
    early = unsigned.request("POST", INVOKE, [b"x", b"x"], [(b"content-length", b"6291457")])
    assert check_error(early, 413, "RequestEntityTooLargeException")["message"] == text
    late = unsigned.request("POST", INVOKE, [b"x" * 1_000_000] * 8)
    assert check_error(late, 413, "RequestEntityTooLargeException")["message"] == text
    control = unsigned.request("PUT", f"{FUNCTIONS}/hello/configuration", b" " * (1024 * 1024 + 1))
    check_error(control, 413, "RequestEntityTooLargeException")


def test_an_endless_upload_is_cut_off(unsigned: Harness) -> None:
    taken = 0

    async def receive() -> dict[str, Any]:
        nonlocal taken
        taken += 1_000_000
        return {"type": "http.request", "body": b"x" * 1_000_000, "more_body": True}

    answer = unsigned.run(unsigned.exchange("POST", INVOKE.encode(), receive))
    assert answer is not None
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert taken < 30_000_000


def test_a_strangers_upload_is_not_kept(harness: Harness) -> None:
    answer = harness.request("POST", FUNCTIONS, [b"x" * 1_000_000] * 40)
    assert (answer.status, answer.headers["connection"]) == (403, "close")


def test_a_client_that_leaves_gets_no_answer(unsigned: Harness) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    assert unsigned.run(unsigned.exchange("POST", INVOKE.encode(), receive)) is None


def test_a_cancelled_request_stays_cancelled(unsigned: Harness) -> None:
    create(unsigned)
    unsigned.invoker.failure = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        unsigned.request("POST", INVOKE)


def test_the_code_link_shows_no_host_that_is_none(unsigned: Harness) -> None:
    create(unsigned)
    for host in (b'evil"/><script>', b"a b", b"a/../b", b"", b"x" * 300):
        answer = unsigned.request("GET", f"{FUNCTIONS}/hello", headers=[(b"host", host)])
        assert json.loads(answer.body)["Code"]["Location"].startswith("http://localhost/_insula/code/")


@pytest.mark.parametrize("name", ["a" * 64, "..", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "", "0" * 64])
def test_no_file_can_be_fetched_without_a_signed_link(unsigned: Harness, name: str) -> None:
    answer = unsigned.request("GET", f"/_insula/code/{name}?expires=99999999999&signature={'0' * 64}")
    check_error(answer, 403, "AccessDeniedException")


def test_a_trailing_slash_is_tolerated(unsigned: Harness) -> None:
    assert unsigned.request("GET", f"{FUNCTIONS}/").status == 200


def test_an_empty_answer_has_neither_body_nor_type(unsigned: Harness) -> None:
    create(unsigned)
    answer = unsigned.request("DELETE", f"{FUNCTIONS}/hello")
    assert (answer.status, answer.body) == (204, b"")
    assert "content-type" not in answer.headers
    assert "content-length" not in answer.headers


def test_of_two_updates_at_once_one_wins(unsigned: Harness) -> None:
    create(unsigned)
    unsigned.client().get_waiter("function_active_v2").wait(FunctionName="hello", WaiterConfig={"Delay": 0})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b'{"Timeout": 9}'}

    async def both() -> list[Answer | None]:
        target = f"{FUNCTIONS}/hello/configuration".encode()
        return await asyncio.gather(*(unsigned.exchange("PUT", target, receive) for _ in range(2)))

    answers = [answer for answer in unsigned.run(both()) if answer]
    assert sorted(answer.status for answer in answers) == [200, 409]
    assert b"An update is in progress for resource" in max(answers, key=lambda answer: answer.status).body
    assert len(unsigned.invoker.retired) == 1
