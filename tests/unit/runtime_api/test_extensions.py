"""The Extensions API: registration, events, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest

from insula.runtime_api.extensions import MAX_EXTENSIONS
from tests.unit.runtime_api.harness import FUNCTION, NEXT, Bench, Client, new_event, on_bench, response

API = "/2020-01-01/extension"


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}"]
    lines += [f"Lambda-Extension-{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def registration(name: str, events: Any = ("INVOKE",), **headers: str) -> bytes:
    return request("POST", f"{API}/register", json.dumps({"events": events}).encode(), Name=name, **headers)


def poll(identifier: str) -> bytes:
    return request("GET", f"{API}/event/next", Identifier=identifier)


async def refusal(client: Client, data: bytes) -> tuple[int, str]:
    await client.send(data)
    status, _, body = await client.answer()
    return status, str(json.loads(body)["errorType"])


class Extension:
    """A registered extension of the test's."""

    def __init__(self, client: Client, identifier: str) -> None:
        self.client = client
        self.id = identifier

    async def poll(self) -> None:
        await self.client.send(poll(self.id))

    async def event(self) -> dict[str, Any]:
        status, headers, body = await self.client.answer()
        assert status == 200
        assert uuid.UUID(headers["lambda-extension-event-identifier"])
        return dict(json.loads(body))

    async def fail(self, phase: str, body: bytes = b"{}", kind: str = "Extension.Broken") -> int:
        return await self.client.ask(
            request("POST", f"{API}/{phase}/error", body, Identifier=self.id, Function_Error_Type=kind)
        )


async def register(bench: Bench, name: str = "ext", events: Any = ("INVOKE",)) -> Extension:
    client = await bench.connect()
    await client.send(registration(name, events))
    status, headers, _ = await client.answer()
    assert status == 200
    return Extension(client, headers["lambda-extension-identifier"])


def test_registration_tells_of_the_function() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.connect()
        await client.send(registration("a.sh", ["INVOKE", "SHUTDOWN"]))
        status, headers, body = await client.answer()
        assert status == 200
        assert uuid.UUID(headers["lambda-extension-identifier"]).version == 4
        wanted = {"functionName": "f", "functionVersion": "$LATEST", "handler": "app.handler"}
        assert json.loads(body) == wanted
        assert bench.listener.heard == []
        await client.send(registration("b", Accept_Feature="other, accountId"))
        assert json.loads((await client.answer())[2]) == {**wanted, "accountId": FUNCTION.account}
        assert bench.listener.heard == ["registered"]

    on_bench(test, extensions=("a.sh", "b"))


def test_the_environment_is_ready_when_the_runtime_and_all_extensions_are() -> None:
    async def test(bench: Bench) -> None:
        first, second = await register(bench, "a"), await register(bench, "b", [])
        runtime = await bench.connect()
        await runtime.send(NEXT)
        await first.poll()
        await asyncio.sleep(0.02)
        assert bench.listener.heard == []
        await second.poll()
        await bench.until(lambda: bench.listener.heard == ["next"])
        bench.api.deliver(new_event(trace_id="Root=1", tenant="blue"), 17)
        assert await first.event() == {
            "eventType": "INVOKE",
            "deadlineMs": 17,
            "requestId": "id",
            "invokedFunctionArn": "arn",
            "tracing": {"type": "X-Amzn-Trace-Id", "value": "Root=1"},
        }
        await runtime.answer()
        assert await runtime.ask(response(b"x")) == 202
        await runtime.send(NEXT)
        await asyncio.sleep(0.02)
        assert bench.listener.heard == ["next", ("response", "id", b"x")]  # the first extension is at work
        await first.poll()
        await bench.until(lambda: bench.listener.heard[2:] == ["next"])

    on_bench(test)


def test_an_extension_that_hung_up_gets_its_event_later() -> None:
    async def test(bench: Bench) -> None:
        extension = await register(bench)
        await extension.poll()
        await bench.until(lambda: not bench.api.extensions.busy)
        extension.client.close()
        await bench.until(lambda: not bench.api._connections)
        await bench.waiting()
        bench.api.deliver(new_event(), 0)
        returned = Extension(await bench.connect(), extension.id)
        await returned.poll()
        assert (await returned.event())["eventType"] == "INVOKE"

    on_bench(test)


def test_shutdown_is_told_to_those_who_asked_for_it() -> None:
    async def test(bench: Bench) -> None:
        idle, busy = await register(bench, "idle", ["SHUTDOWN"]), await register(bench, "busy", ["INVOKE", "SHUTDOWN"])
        other = await register(bench, "other", ["INVOKE"])
        for extension in (idle, busy, other):
            await extension.poll()
        await bench.waiting()
        bench.api.deliver(new_event(), 0)
        assert (await busy.event())["eventType"] == "INVOKE"
        bench.api.shutdown("TIMEOUT", 99)
        wanted = {"eventType": "SHUTDOWN", "shutdownReason": "TIMEOUT", "deadlineMs": 99}
        assert await idle.event() == wanted
        await busy.poll()
        assert await busy.event() == wanted
        assert (await other.event())["eventType"] == "INVOKE"
        await other.poll()
        await bench.until(lambda: bench.api.extensions.all[2].ready)

    on_bench(test, extensions=("idle", "busy", "other"))


@pytest.mark.parametrize(
    ("expected", "registered", "grace"),
    [((), (), 0.0), ((), ("internal",), 0.5), (("a",), ("a",), 2.0), (("a",), ("a", "internal"), 2.0)],
)
def test_the_grace_of_the_shutdown_phase_is_as_on_aws(
    expected: tuple[str, ...], registered: tuple[str, ...], grace: float
) -> None:
    async def test(bench: Bench) -> None:
        for name in registered:
            await register(bench, name)
        assert bench.api.grace == grace

    on_bench(test, extensions=expected)


@pytest.mark.parametrize("phase", ["init", "exit"])
def test_an_extension_that_gives_up_is_heard_once_and_never_again(phase: str) -> None:
    async def test(bench: Bench) -> None:
        extension = await register(bench)
        assert await extension.fail(phase, kind="") == 403
        assert await extension.fail(phase, b'{"errorMessage":"x"}') == 202
        assert bench.listener.heard == [("extension", "Extension.Broken", b'{"errorMessage":"x"}')]
        assert await refusal(extension.client, poll(extension.id)) == (403, "Extension.InvalidExtensionState")
        assert await extension.fail(phase) == 403
        assert len(bench.listener.heard) == 1

    on_bench(test)


@pytest.mark.parametrize(
    ("name", "events", "wanted"),
    [
        ("", ["INVOKE"], (403, "Extension.InvalidExtensionName")),
        ("x" * 129, ["INVOKE"], (403, "Extension.InvalidExtensionName")),
        ("caf\xe9", ["INVOKE"], (403, "Extension.InvalidExtensionName")),
        ("internal", ["INVOKE", "SHUTDOWN"], (403, "Extension.InvalidEventType")),
        ("internal", ["OTHER"], (403, "Extension.InvalidEventType")),
        ("internal", "INVOKE", (400, "InvalidRequestFormat")),
        ("internal", [1], (400, "InvalidRequestFormat")),
    ],
)
def test_registrations_that_are_not_valid_are_refused(name: str, events: Any, wanted: tuple[int, str]) -> None:
    async def test(bench: Bench) -> None:
        client = await bench.connect()
        assert await refusal(client, registration(name, events)) == wanted
        assert bench.api.extensions.all == []

    on_bench(test)


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"[" * 60_000, b'{"events":{}}'])
def test_a_body_that_is_no_registration_is_refused(body: bytes) -> None:
    async def test(bench: Bench) -> None:
        client = await bench.connect()
        data = request("POST", f"{API}/register", body, Name="a")
        assert await refusal(client, data) == (400, "InvalidRequestFormat")
        assert await client.ask(request("POST", f"{API}/register", b"x" * 70_000, Name="a")) == 413

    on_bench(test)


def test_names_are_unique_and_their_number_is_limited() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.connect()
        for number in range(MAX_EXTENSIONS):
            assert await client.ask(registration(f"e{number}")) == 200
        assert await refusal(client, registration("e0")) == (403, "Extension.InvalidExtensionState")
        assert await refusal(client, registration("more")) == (403, "Extension.TooManyExtensions")

    on_bench(test)


def test_external_extensions_come_first_and_by_their_file_names() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.connect()
        assert await refusal(client, registration("typo")) == (403, "Extension.InvalidExtensionName")
        assert await client.ask(registration("real")) == 200
        assert await client.ask(registration("internal")) == 200

    on_bench(test, extensions=("real",))


def test_registration_ends_with_init() -> None:
    """Init ends when all are ready: a runtime that is faster than an extension does not end it."""

    async def test(bench: Bench) -> None:
        slow = await register(bench, "slow")
        await (await bench.connect()).send(NEXT)
        await bench.until(lambda: bool(bench.api._waiting))
        client = await bench.connect()
        assert await client.ask(registration("early")) == 200
        await slow.poll()
        await Extension(client, list(bench.api.extensions._by_id)[-1]).poll()
        await bench.until(lambda: bench.listener.heard == ["next"])
        late = await bench.connect()
        assert await refusal(late, registration("late")) == (403, "Extension.RegistrationClosed")

    on_bench(test)


@pytest.mark.parametrize(
    ("identifier", "kind"),
    [
        ("", "MissingExtensionIdentifier"),
        ("nonsense", "InvalidExtensionIdentifier"),
        ("00000000-0000-4000-8000-000000000000", "UnknownExtensionIdentifier"),
    ],
)
@pytest.mark.parametrize("target", ["GET event/next", "POST init/error", "POST exit/error", "PUT telemetry"])
def test_strangers_are_refused(identifier: str, kind: str, target: str) -> None:
    async def test(bench: Bench) -> None:
        await register(bench)
        client = await bench.connect()
        method, _, path = target.partition(" ")
        url = "/2022-07-01/telemetry" if path == "telemetry" else f"{API}/{path}"
        data = request(method, url, b"{}", Identifier=identifier, Function_Error_Type="E")
        assert await refusal(client, data) == (403, f"Extension.{kind}")
        assert bench.listener.heard == []

    on_bench(test)


def test_an_extension_waits_once() -> None:
    async def test(bench: Bench) -> None:
        extension = await register(bench)
        await extension.poll()
        await bench.until(lambda: not bench.api.extensions.busy)
        second = await bench.connect()
        assert await refusal(second, poll(extension.id)) == (403, "Extension.InvalidExtensionState")
        await extension.poll()  # behind its own request that waits
        assert await extension.client.is_dropped()

    on_bench(test)


def test_an_identifier_of_another_environment_is_unknown() -> None:
    async def test(bench: Bench) -> None:
        foreign: list[str] = []

        async def neighbour(other: Bench) -> None:
            foreign.append((await register(other)).id)

        other = Bench()
        await other.open()
        await neighbour(other)
        other.close()
        client = await bench.connect()
        assert await refusal(client, poll(foreign[0])) == (403, "Extension.UnknownExtensionIdentifier")

    on_bench(test)


def test_the_logs_api_is_refused() -> None:
    async def test(bench: Bench) -> None:
        extension = await register(bench)
        data = request("PUT", "/2020-08-15/logs", b"{}", Identifier=extension.id)
        assert await refusal(extension.client, data) == (403, "Logs.NotSupported")

    on_bench(test)
