"""The Runtime API over a real loopback socket, with a listener that only remembers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insula.model.limits import RESPONSE_PAYLOAD_BYTES
from tests.unit.runtime_api.harness import NEXT, PATH, Bench, new_event, on_bench, post, response


def test_an_event_is_handed_over_and_answered_once() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.waiting()
        bench.api.deliver(new_event(payload=b'{"a":1}', tenant="blue", trace_id="t"), 17)
        status, headers, body = await client.answer()
        assert (status, body) == (200, b'{"a":1}')
        assert headers["lambda-runtime-aws-request-id"] == "id"
        assert headers["lambda-runtime-aws-tenant-id"] == "blue"
        assert headers["lambda-runtime-deadline-ms"] == "17"
        assert await client.ask(response(b"one")) == 202
        assert await client.ask(response(b"two")) == 400
        assert bench.listener.heard == ["next", ("response", "id", b"one")]

    on_bench(test)


def test_only_the_current_event_can_be_answered() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.connect()
        assert await client.ask(response(b"early")) == 400
        client = await bench.running()
        assert await client.ask(response(b"x", "another")) == 400
        assert await client.ask(post("invocation/another/error", b"x")) == 400
        assert await client.ask(post("invocation/id/other", b"x")) == 404
        assert bench.listener.heard == ["next"]

    on_bench(test)


def test_of_two_answers_at_once_one_counts() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.running()
        second = await bench.connect()
        answers = await asyncio.gather(first.ask(response(b"1")), second.ask(response(b"2")), return_exceptions=True)
        assert answers.count(202) == 1
        assert len(bench.listener.heard) == 2

    on_bench(test)


def test_the_next_event_is_refused_before_the_answer() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.running()
        assert await client.ask(NEXT) == 403
        assert await client.ask(response(b"x")) == 202

    on_bench(test)


def test_an_error_carries_its_kind() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.running()
        header = "Lambda-Runtime-Function-Error-Type: " + "k" * 300
        assert await client.ask(post("invocation/id/error", b"{}", header)) == 202
        assert bench.listener.heard[1] == ("error", "id", b"{}", "k" * 256)

    on_bench(test)


def test_initialisation_fails_before_the_first_event_only() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.connect()
        assert await client.ask(post("init/error", b"{}", "Lambda-Runtime-Function-Error-Type: E")) == 202
        assert await client.ask(post("init/error", b"{}")) == 403
        assert bench.listener.heard == [("init", b"{}", "E")]

    on_bench(test)


@pytest.mark.parametrize("excess", [0, 1])
def test_the_largest_answer_is_taken_and_a_byte_more_is_refused(excess: int) -> None:
    async def test(bench: Bench) -> None:
        client = await bench.running()
        body = b"x" * (RESPONSE_PAYLOAD_BYTES + excess)
        assert await client.ask(response(body)) == (413 if excess else 202)
        assert bench.listener.heard[1:] == [("oversize", "id") if excess else ("response", "id", body)]
        assert await client.ask(response(b"again")) == 400

    on_bench(test)


def test_chunked_answers_are_put_together() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.running()
        head = f"POST {PATH}/invocation/id/response HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert await client.ask(head.encode() + b"2\r\nab\r\n1;x=y\r\nc\r\n0\r\nTrailer: t\r\n\r\n") == 202
        assert bench.listener.heard[1] == ("response", "id", b"abc")

    on_bench(test)


def test_an_event_waits_for_a_runtime_that_hung_up() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.waiting()
        client.close()
        await bench.until(lambda: not bench.api._waiting)
        bench.api.deliver(new_event(payload=b"kept"), 0)
        client = await bench.connect()
        await client.send(NEXT)
        assert (await client.answer())[2] == b"kept"
        assert await client.ask(NEXT) == 403  # it is handed over once
        assert await client.ask(response(b"x")) == 202

    on_bench(test)


def test_with_several_pollers_every_event_goes_to_one() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.waiting()
        second = await bench.connect()
        await second.send(NEXT)
        await bench.until(lambda: len(bench.api._waiting) == 2)
        bench.api.deliver(new_event(request_id="1"), 0)
        assert (await first.answer())[1]["lambda-runtime-aws-request-id"] == "1"
        assert await first.ask(response(b"", "1")) == 202
        assert bench.listener.heard == ["next", ("response", "1", b""), "next"]
        bench.api.deliver(new_event(request_id="2"), 0)
        assert (await second.answer())[1]["lambda-runtime-aws-request-id"] == "2"

    on_bench(test)


def test_a_line_break_never_makes_a_header() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.waiting()
        bench.api.deliver(new_event(client_context='{"a":\r\n1,\n"b":2}'), 0)
        _, headers, _ = await client.answer()
        assert json.loads(headers["lambda-runtime-client-context"]) == {"a": 1, "b": 2}
        assert await client.ask(response(b"")) == 202
        await client.send(NEXT)
        await bench.until(lambda: bench.listener.heard.count("next") == 2)
        with pytest.raises(ValueError, match="line break"):
            bench.api.deliver(new_event(request_id="2", tenant="a\r\nEvil: b"), 0)
        bench.api.deliver(new_event(request_id="3"), 0)  # nothing was spoilt
        assert (await client.answer())[1]["lambda-runtime-aws-request-id"] == "3"

    on_bench(test)


def test_a_second_request_behind_a_waiting_one_is_dropped() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.waiting()
        await client.send(NEXT)
        assert await client.is_dropped()
        await bench.until(lambda: not bench.api._waiting)

    on_bench(test)


def test_what_follows_a_dropped_request_in_the_same_packet_is_not_heard() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.running()
        await client.send(b"GET /" + b"x" * 2000 + b" HTTP/1.1\r\n\r\n" + response(b"late"))
        assert await client.is_dropped()
        assert bench.listener.heard == ["next"]

    on_bench(test)


def test_connections_are_counted() -> None:
    async def test(bench: Bench) -> None:
        taken = [await bench.connect() for _ in range(32)]
        await bench.until(lambda: len(bench.api._connections) == 32)
        assert await (await bench.connect()).is_dropped()
        taken[0].close()
        await bench.until(lambda: len(bench.api._connections) == 31)
        client = await bench.connect()
        assert await client.ask(post("nothing", b"")) == 404

    on_bench(test)


def test_one_body_at_a_time_is_kept() -> None:
    """Thirty-two connections that each send six megabytes for the same event must not hold two hundred."""

    async def test(bench: Bench) -> None:
        client = await bench.running()
        head = post("invocation/id/response", b"x" * RESPONSE_PAYLOAD_BYTES)[: 1 << 20]
        others = [await bench.connect() for _ in range(5)]
        for other in others:
            await other.send(head)
        for other in others[:-1]:
            assert await other.is_dropped()
        assert await client.ask(response(b"done")) == 202

    on_bench(test)


def test_who_does_not_fetch_answers_is_dropped() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.connect()
        request = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n" * 1000
        with pytest.raises((ConnectionError, TimeoutError)):  # noqa: PT012 - the loop is the attack
            async with asyncio.timeout(10):
                for _ in range(5000):
                    await client.send(request)
        assert client.writer.is_closing()

    on_bench(test)


def test_requests_behind_each_other_are_dropped() -> None:
    """Thousands of them in one packet would hold the loop that serves every tenant."""

    async def test(bench: Bench) -> None:
        client = await bench.running()
        await client.send(response(b"first") + NEXT + NEXT)
        assert await client.is_dropped()
        assert bench.listener.heard == ["next", ("response", "id", b"first")]

    on_bench(test)


def test_headers_are_bounded() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.connect()
        with pytest.raises(ConnectionError):  # noqa: PT012 - the loop is the attack
            await client.send(b"GET /x HTTP/1.1\r\nA: ")
            for _ in range(200):
                await client.send(b"x" * 65536)
                await asyncio.sleep(0)
            raise AssertionError("13 MB of header were taken")

    on_bench(test)


def test_a_body_without_end_for_nobody_is_not_kept() -> None:
    async def test(bench: Bench) -> None:
        client = await bench.connect()
        head = f"POST {PATH}/invocation/foreign/response HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(head.encode())
        for _ in range(50):
            await client.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        (connection,) = bench.api._connections
        assert connection._body is None
        assert await client.ask(b"0\r\n\r\n") == 400

    on_bench(test)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\0\1\2\3\r\n\r\n",
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n\r\n",
        b"GET /x HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\r\n",
        response(b"ab").replace(b"Content-Length: 2", b"Content-Length: 2\r\nContent-Length: 1"),
        response(b"ab").replace(b"Content-Length: 2", b"Content-Length: 2\r\nTransfer-Encoding: chunked"),
        response(b"ab").replace(b"Content-Length: 2", b"Content-Length: -2"),
        response(b"ab").replace(b"Content-Length: 2", b"Content-Length: 99999999999999999999999"),
        response(b"ab").replace(b"Content-Length: 2", b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n"),
        response(b"ab").replace(b"Host: a", b"Host : a\n b"),
    ],
)
def test_garbage_and_conflicting_lengths_are_dropped_and_the_event_lives_on(request_bytes: bytes) -> None:
    async def test(bench: Bench) -> None:
        client = await bench.running()
        other = await bench.connect()
        await other.send(request_bytes)
        assert await other.is_dropped()
        assert bench.listener.heard == ["next"]
        assert await client.ask(response(b"fine")) == 202

    on_bench(test)


_fragments = st.sampled_from(
    [
        NEXT,
        response(b"x"),
        response(b"x", "id\xff"),
        post("init/error", b""),
        b"\r\n",
        b"\0",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"ffff\r\n",
        b"0\r\n\r\n",
        b"GET ",
        b"POST ",
        b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n",
        f"{PATH}/invocation/id/response".encode(),
        b"Content-Length: 3\r\n",
    ]
)


@settings(max_examples=150, deadline=None)
@given(pieces=st.lists(_fragments | st.binary(max_size=200), min_size=1, max_size=12))
def test_no_bytes_harm_the_server_or_the_current_event(pieces: list[bytes]) -> None:
    """Whatever comes, it is answered or dropped, and whoever works on the event can still answer it, once."""
    errors: list[dict[str, Any]] = []

    async def test(bench: Bench) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        client = await bench.running()
        attacker = await bench.connect()
        try:
            for piece in pieces:
                await attacker.send(piece)
                await asyncio.sleep(0)
        except ConnectionError:
            pass
        attacker.close()
        await bench.until(lambda: len(bench.api._connections) == 1)
        answered = [heard for heard in bench.listener.heard if heard[0] in ("response", "error")]
        assert len(answered) <= 1  # the attacker knows the id, as the function does
        assert await client.ask(response(b"mine")) == (400 if answered else 202)

    on_bench(test)
    assert errors == []
