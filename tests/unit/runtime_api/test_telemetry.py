"""The Telemetry API: subscriptions, batches, and subscribers that do not behave."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from insula.runtime_api import delivery as delivery_module
from insula.runtime_api import telemetry as telemetry_module
from insula.runtime_api.subscription import Subscription, SubscriptionError, parse_subscription
from insula.runtime_api.telemetry import Telemetry
from tests.unit.runtime_api.harness import NEXT, new_bench
from tests.unit.runtime_api.test_extensions import Extension, register, request

TAKEN = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
WANTED: dict[str, Any] = {
    "schemaVersion": "2022-12-13",
    "types": ["platform", "function"],
    "buffering": {"timeoutMs": 25},
    "destination": {"protocol": "HTTP", "URI": "http://sandbox.localdomain:8080/logs?a=b"},
}


def wanted(**changes: Any) -> bytes:
    return json.dumps({**WANTED, **changes}).encode()


class Subscriber:
    """An HTTP server in the place of an extension's.

    Attributes:
        events: what it took, in order.
        answer: what it says to each request; None says nothing.
    """

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.answer: bytes | None = TAKEN
        self.refused = 0
        self.port = 0

    async def connect(self, port: int) -> socket.socket:
        assert port == 8080
        if self.refused:
            self.refused -= 1
            raise ConnectionRefusedError
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        return sock

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(head.splitlines()[0])
            length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0])
            body = await reader.readexactly(length)
            if self.answer is None:
                await reader.read()
                return
            if self.answer == TAKEN:
                self.events += json.loads(body)
            writer.write(self.answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def of_kind(self, kind: str) -> list[Any]:
        return [event["record"] for event in self.events if event["type"] == kind]


@asynccontextmanager
async def arranged(*, expected: bool = False) -> AsyncIterator[tuple[Telemetry, Subscriber]]:
    subscriber = Subscriber()
    server = await asyncio.start_server(subscriber.serve, "127.0.0.1", 0)
    subscriber.port = server.sockets[0].getsockname()[1]
    telemetry = Telemetry(subscriber.connect, lambda: 1_800_000_000.5, expected=expected)
    try:
        yield telemetry, subscriber
    finally:
        telemetry.close()
        server.close()
        await asyncio.sleep(0.02)


def arrange(test: Callable[[Telemetry, Subscriber], Coroutine[Any, Any, None]], *, expected: bool = False) -> None:
    async def run() -> None:
        async with arranged(expected=expected) as (telemetry, subscriber):
            await test(telemetry, subscriber)

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.002)


def test_a_subscriber_gets_what_it_asked_for_in_order() -> None:
    async def test(telemetry: Telemetry, subscriber: Subscriber) -> None:
        telemetry.subscribe("ext", wanted())
        for number in range(100):
            telemetry.emit("function", f"line {number}")
            telemetry.emit("extension", "not asked for")
        telemetry.emit("platform.start", {"requestId": "id", "tenantId": "blue"})
        await until(lambda: len(subscriber.events) == 102)
        subscription = {"name": "ext", "state": "Subscribed", "types": ["platform", "function"]}
        assert subscriber.events[0] == {
            "time": "2027-01-15T08:00:00.500Z",
            "type": "platform.telemetrySubscription",
            "record": subscription,
        }
        assert subscriber.of_kind("function") == [f"line {number}" for number in range(100)]
        assert subscriber.of_kind("platform.start") == [{"requestId": "id", "tenantId": "blue"}]
        assert set(subscriber.requests) == {"POST /logs?a=b HTTP/1.1"}

    arrange(test)


def test_events_cost_nothing_until_somebody_subscribes() -> None:
    async def test(telemetry: Telemetry, subscriber: Subscriber) -> None:
        assert not telemetry.active
        telemetry.emit("platform.initStart", {"phase": "init"})
        telemetry.subscribe("ext", wanted())
        assert telemetry.active
        await until(lambda: bool(subscriber.of_kind("platform.initStart")))
        telemetry.end_init()
        assert telemetry.active
        telemetry.close()
        assert not telemetry.active

    arrange(test)


def test_without_subscribers_telemetry_ends_with_init() -> None:
    async def test(telemetry: Telemetry, subscriber: Subscriber) -> None:
        assert telemetry.active
        telemetry.end_init()
        assert not telemetry.active
        assert telemetry._past is None

    arrange(test, expected=True)


def test_events_before_a_subscription_are_bounded() -> None:
    async def test(telemetry: Telemetry, subscriber: Subscriber) -> None:
        for _ in range(10_000):
            telemetry.emit("function", "x" * 100)
        assert telemetry._past_bytes <= telemetry_module._MAX_PAST_BYTES

    arrange(test, expected=True)


def test_subscribing_again_changes_nothing() -> None:
    async def test(telemetry: Telemetry, subscriber: Subscriber) -> None:
        telemetry.subscribe("ext", wanted())
        telemetry.subscribe("ext", wanted(types=["extension"]))
        telemetry.emit("function", "once")
        await until(lambda: len(subscriber.events) == 3)
        states = [record["state"] for record in subscriber.of_kind("platform.telemetrySubscription")]
        assert states == ["Subscribed", "Already subscribed"]
        assert subscriber.of_kind("function") == ["once"]

    arrange(test)


def test_a_subscriber_that_is_not_there_yet_is_tried_again() -> None:
    async def test(telemetry: Telemetry, subscriber: Subscriber) -> None:
        subscriber.refused = 2
        telemetry.subscribe("ext", wanted())
        await until(lambda: len(subscriber.events) == 1)

    arrange(test)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"garbage",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + b"x" * 200_000,
    ],
)
def test_what_is_not_taken_is_dropped_and_told(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "_BACKOFF_SECONDS", (0.001, 0.001))

    async def test(telemetry: Telemetry, subscriber: Subscriber) -> None:
        subscriber.answer = answer
        telemetry.subscribe("ext", wanted())
        await until(lambda: telemetry._subscribers["ext"][1]._dropped_records == 1)
        subscriber.answer = TAKEN
        telemetry.emit("function", "late")
        await until(lambda: "late" in subscriber.of_kind("function"))
        assert [record["droppedRecords"] for record in subscriber.of_kind("platform.logsDropped")] == [1]

    arrange(test)


def test_a_subscriber_that_never_answers_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "_BACKOFF_SECONDS", (0.001,))
    monkeypatch.setattr(delivery_module, "_POST_SECONDS", 0.05)

    async def test(telemetry: Telemetry, subscriber: Subscriber) -> None:
        subscriber.answer = None
        telemetry.subscribe("ext", wanted())
        await until(lambda: len(subscriber.requests) == 1)
        line = "x" * 1000
        for _ in range(100_000):
            telemetry.emit("function", line)
        (_, delivery) = telemetry._subscribers["ext"]
        assert delivery.held <= 3 * WANTED_BYTES
        subscriber.answer = TAKEN
        await until(lambda: bool(subscriber.of_kind("platform.logsDropped")))
        (dropped,) = subscriber.of_kind("platform.logsDropped")
        assert dropped["droppedRecords"] > 90_000
        assert dropped["droppedBytes"] > 90_000_000
        telemetry.emit("function", "after")
        await until(lambda: "after" in subscriber.of_kind("function"))
        taken = len(subscriber.of_kind("function")) - 1
        assert taken + sum(d["droppedRecords"] for d in subscriber.of_kind("platform.logsDropped")) >= 100_000

    arrange(test)


WANTED_BYTES = 262_144


def test_all_subscribers_of_an_environment_share_one_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry_module, "_MAX_HELD_BYTES", 10_000)

    async def test(telemetry: Telemetry, subscriber: Subscriber) -> None:
        for number in range(10):
            telemetry.subscribe(f"e{number}", wanted(buffering={"timeoutMs": 30_000, "maxBytes": 1_048_576}))
        for _ in range(1000):
            telemetry.emit("function", "x" * 100)
        assert sum(delivery.held for _, delivery in telemetry._subscribers.values()) <= 10_000 + 10 * 300

    arrange(test)


def test_while_the_sandbox_is_frozen_no_time_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "_POST_SECONDS", 0.05)

    async def test(telemetry: Telemetry, subscriber: Subscriber) -> None:
        subscriber.answer = None
        telemetry.subscribe("ext", wanted())
        await until(lambda: len(subscriber.requests) == 1)
        telemetry.pause()
        await asyncio.sleep(0.2)
        assert len(subscriber.requests) == 1  # it was not given up, and not tried again
        subscriber.answer = TAKEN
        telemetry.resume()
        await until(lambda: len(subscriber.events) == 1)
        telemetry.pause()
        telemetry.emit("function", "frozen")
        await asyncio.sleep(0.1)
        assert len(subscriber.requests) == 2
        telemetry.resume()
        await until(lambda: subscriber.of_kind("function") == ["frozen"])

    arrange(test)


def test_a_flush_waits_for_no_further_events() -> None:
    async def test(telemetry: Telemetry, subscriber: Subscriber) -> None:
        telemetry.subscribe("ext", wanted(buffering={"timeoutMs": 30_000}))
        telemetry.emit("function", "last")
        telemetry.flush()
        await until(lambda: subscriber.of_kind("function") == ["last"])

    arrange(test)


def test_a_subscription_has_awss_defaults() -> None:
    body = {"schemaVersion": "2025-01-29", "types": ["extension", "extension"]}
    destination = {"protocol": "HTTP", "URI": "http://sandbox:1"}
    found = parse_subscription(json.dumps({**body, "destination": destination}).encode())
    assert found == Subscription(("extension",), 1, "/", 10_000, 262_144, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schemaVersion": "2021-01-01"}, "schemaVersion should be one of"),
        ({"types": []}, "types should not be empty"),
        ({"types": ["metrics"]}, "types should be some of"),
        ({"types": "platform"}, "types should not be empty"),
        ({"types": [{}]}, "types should be some of"),
        ({"destination": None}, "destination is not provided"),
        ({"destination": {"protocol": "TCP", "port": 80}}, "destination protocol should be HTTP"),
        ({"destination": {"protocol": "HTTP", "URI": "http://sandbox.localdomain"}}, "URI port is not provided"),
        ({"destination": {"protocol": "HTTP", "URI": "http://sandbox.localdomain:9001"}}, "port 9001 is reserved"),
        ({"destination": {"protocol": "HTTP", "URI": "http://sandbox.localdomain:0"}}, "URI port is not provided"),
        ({"destination": {"protocol": "HTTP", "URI": "http://sandbox.localdomain:65536"}}, "URI is not valid"),
        ({"destination": {"protocol": "HTTP", "URI": "http://sandbox.localdomain:x"}}, "URI is not valid"),
        ({"destination": {"protocol": "HTTP", "URI": "http://sandbox.localdomain:80/\r\nEvil: a"}}, "URI is not valid"),
        ({"destination": {"protocol": "HTTP", "URI": "http://[:80"}}, "URI is not valid"),
        ({"destination": {"protocol": "HTTP", "URI": 7}}, "URI is not valid"),
        ({"destination": {"protocol": "HTTP", "URI": "http://169.254.169.254:80"}}, "URI should be"),
        ({"destination": {"protocol": "HTTP", "URI": "https://sandbox.localdomain:80"}}, "URI should be"),
        ({"destination": {"protocol": "HTTP", "URI": "http://a@sandbox.localdomain:80"}}, "URI should be"),
        ({"buffering": {"maxItems": 999}}, "maxItems should be an integer from 1000 to 10000"),
        ({"buffering": {"maxBytes": 1_048_577}}, "maxBytes should be an integer from 262144 to 1048576"),
        ({"buffering": {"timeoutMs": 24}}, "timeoutMs should be an integer from 25 to 30000"),
        ({"buffering": {"timeoutMs": True}}, "timeoutMs should be"),
        ({"buffering": {"timeoutMs": "25"}}, "timeoutMs should be"),
        ({"buffering": []}, "buffering should be an object"),
    ],
)
def test_what_is_wrong_with_a_subscription_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SubscriptionError, match=message):
        parse_subscription(wanted(**changes))


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 50_000])
def test_a_body_that_is_no_subscription_is_refused(body: bytes) -> None:
    with pytest.raises(SubscriptionError, match="request's body"):
        parse_subscription(body)


def test_all_problems_are_named_at_once() -> None:
    destination = {"protocol": "HTTP", "URI": "http://sandbox.localdomain"}
    with pytest.raises(SubscriptionError, match=r"^URI port is not provided; types should not be empty$"):
        parse_subscription(wanted(types=[], destination=destination))


def test_subscribing_is_for_registered_extensions_during_init() -> None:
    async def test(telemetry: Telemetry, subscriber: Subscriber) -> None:
        async with new_bench(telemetry=telemetry) as bench:
            extension = await register(bench)
            for path in ("/2022-07-01/telemetry", "/2022-07-01/telemetry/"):
                await extension.client.send(request("PUT", path, wanted(), Identifier=extension.id))
                status, _, body = await extension.client.answer()
                assert (status, json.loads(body)) == (200, "OK")
            await extension.client.send(
                request("PUT", "/2022-07-01/telemetry", wanted(types=[]), Identifier=extension.id)
            )
            status, _, body = await extension.client.answer()
            wrong = {"errorType": "ValidationError", "errorMessage": "types should not be empty"}
            assert (status, json.loads(body)) == (400, wrong)
            await (await bench.connect()).send(NEXT)
            await Extension(await bench.connect(), extension.id).poll()
            await bench.until(lambda: bench.api.extensions.closed)
            assert (
                await extension.client.ask(request("PUT", "/2022-07-01/telemetry", wanted(), Identifier=extension.id))
                == 403
            )

    arrange(test)
