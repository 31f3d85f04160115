"""The HTTP front over real sockets: what it promises applications, and what it does not take from clients."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from insula.front.connection import Connection
from insula.front.exchange import Exchange
from insula.front.limits import Limits
from insula.front.receiver import Receiver
from insula.front.server import Front

Use = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
QUICK = {"check_seconds": 0.01}


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def read_all(receive: Any) -> bytes | None:
    """A request's body, or None if the client went away first."""
    taken = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        taken += message["body"]
        if not message["more_body"]:
            return bytes(taken)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the path and the body."""
    content = await read_all(receive)
    if content is not None:
        await send(start())
        await send(body(scope["path"].encode() + content))


@contextlib.asynccontextmanager
async def serving(application: Any, grace: float = 5.0, **limits: Any) -> AsyncIterator[tuple[Front, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    front = Front(application, Limits(**limits), grace=grace)
    task = asyncio.create_task(front.serve(listener))
    try:
        yield front, listener.getsockname()[1]
    finally:
        front.stop()
        front.stop()
        await task
        listener.close()


def talk(use: Use, application: Any = echo, **limits: Any) -> None:
    """Use one connection to an application."""

    async def run() -> None:
        async with serving(application, **limits) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await use(reader, writer)
            finally:
                writer.close()

    uvloop.run(run())


def ask(*pieces: bytes, application: Any = echo, **limits: Any) -> bytes:
    """All that is answered to these pieces, until the connection ends."""
    answer = b""

    async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answer
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.01 if len(pieces) > 1 else 0)
        answer = await reader.read()

    talk(use, application, **limits)
    return answer


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """One answer with a content-length."""
    head = await reader.readuntil(b"\r\n\r\n")
    status, headers, _ = parse(head)
    return status, headers, await reader.readexactly(int(headers.get("content-length", 0)))


def parse(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and the rest of a well-formed answer."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    assert re.fullmatch(r"HTTP/1\.1 [1-5]\d\d [A-Za-z -]*", line), line
    headers = {name.lower(): value for name, value in (each.split(": ", 1) for each in lines)}
    assert len(headers) == len(lines)
    assert headers["date"].endswith(" GMT")
    return int(line[9:12]), headers, rest


def check_refusal(answer: bytes, status: int) -> None:
    """It is a whole, well-formed answer after which the connection ends."""
    found, headers, rest = parse(answer)
    assert (found, headers["connection"]) == (status, "close")
    assert int(headers["content-length"]) == len(rest)


# Answers


def test_head_and_body_are_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    write = Connection.write

    def spy(self: Connection, data: bytes) -> None:
        written.append(data)
        write(self, data)

    monkeypatch.setattr(Connection, "write", spy)

    async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):  # the connection is kept
            writer.write(GET)
            assert await read_answer(reader)

    talk(use)
    assert len(written) == 2
    assert all(data.startswith(b"HTTP/1.1 200 OK\r\n") and data.endswith(b"\r\n\r\n/") for data in written)


def test_the_application_sees_the_request_as_it_was_sent() -> None:
    seen: dict[str, Any] = {}

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        await echo(scope, receive, send)

    ask(
        b"PUT /a%20b/%2Fc?d=%20&e HTTP/1.1\r\nHOST: x\r\nX-A: 1\r\nx-a:2  \r\nConnection: close\r\n\r\n",
        application=application,
    )
    assert (seen["type"], seen["method"], seen["scheme"], seen["http_version"]) == ("http", "PUT", "http", "1.1")
    assert (seen["path"], seen["raw_path"], seen["query_string"]) == ("/a b//c", b"/a%20b/%2Fc", b"d=%20&e")
    assert [value.strip() for name, value in seen["headers"] if name == b"x-a"] == [b"1", b"2"]
    assert seen["client"][0] == "127.0.0.1"


def test_a_target_as_for_a_proxy_must_name_this_host() -> None:
    rest = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert ask(b"GET http://x/a?b" + rest).endswith(b"/a")
    assert ask(b"GET http://x" + rest).endswith(b"/")
    check_refusal(ask(b"GET http://y/a" + rest), 400)


def test_close_head_and_http_1_0() -> None:
    status, headers, rest = parse(ask(LAST))
    assert (status, headers["connection"], rest) == (200, "close", b"/")
    status, headers, rest = parse(ask(LAST.replace(b"GET", b"HEAD")))
    assert (status, headers["content-length"], rest) == (200, "1", b"")
    for head in (b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"):
        status, headers, rest = parse(ask(head))
        assert (status, headers["connection"], rest) == (200, "close", b"/")


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_has_no_length(status: int) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(start(status))
        await send(body(b""))

    found, headers, rest = parse(ask(LAST, application=application))
    assert (found, rest) == (status, b"")
    assert not {"content-length", "transfer-encoding"} & headers.keys()


async def _stream(scope: Any, receive: Any, send: Any) -> None:
    await send(start())
    for piece in (b"one", b"", b"three"):
        await send(body(piece, more=True))
    await send(body(b""))


def test_a_streamed_answer_is_chunked() -> None:
    _, headers, rest = parse(ask(LAST, application=_stream))
    assert headers["transfer-encoding"] == "chunked"
    assert rest == b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"


def test_a_streamed_answer_to_http_1_0_ends_with_the_connection() -> None:
    _, headers, rest = parse(ask(b"GET / HTTP/1.0\r\n\r\n", application=_stream))
    assert "transfer-encoding" not in headers
    assert rest == b"onethree"


def test_the_first_piece_does_not_wait_for_the_second() -> None:
    async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET)
        assert (await reader.readuntil(b"one\r\n")).endswith(b"3\r\none\r\n")
        go.set()
        assert (await reader.readuntil(b"0\r\n\r\n")) == b"3\r\ntwo\r\n0\r\n\r\n"

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"one", more=True))
        await go.wait()
        await send(body(b"two"))

    go = asyncio.Event()
    talk(use, application)


def test_an_answer_is_not_produced_faster_than_it_is_read() -> None:
    sent = 0

    async def application(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send(start())
        for _ in range(1000):
            await send(body(b"x" * 100_000, more=True))
            sent += 1
        await send(body(b""))

    async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(LAST)
        await reader.readexactly(10)
        before = -1
        while sent > before:
            before = sent
            await asyncio.sleep(0.1)
        assert sent < 900
        assert len(await reader.read()) > 100_000_000
        assert sent == 1000

    talk(use, application)


def test_who_does_not_read_an_answer_is_dropped() -> None:
    ended = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        while (await asyncio.wait_for(send(body(b"x" * 1_000_000, more=True)), 20)) is None:
            if (await poll(receive)) == "http.disconnect":
                ended.set()
                return

    async def poll(receive: Any) -> str:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                return str((await receive())["type"])
        return ""

    async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET.replace(b"GET", b"POST"))
        await asyncio.wait_for(ended.wait(), 20)

    talk(use, application, write_seconds=0.05, **QUICK)


@pytest.mark.parametrize("value", [b"a\r\nx-evil: 1", b"a\nx-evil: 1", b"a\rb", b"a\0b", b"a\r\n\r\n<html>"])
def test_no_header_of_the_application_forges_another(value: bytes) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(start(200, (b"x-a", value)))
        await send(body(b""))

    answer = ask(LAST, application=application)
    check_refusal(answer, 500)
    assert b"evil" not in answer
    assert b"<html>" not in answer


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [start()],
        [body(b"no start")],
        [start(), start()],
        [start(200, (b"content-length", b"3")), body(b"four")],
        [start(200, (b"content-length", b"3")), body(b"")],
        [start(200, (b"transfer-encoding", b"chunked")), body(b"")],
    ],
)
def test_an_application_that_errs_is_answered_for(messages: list[Mapping[str, Any]]) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    check_refusal(ask(GET, application=application), 500)


def test_an_answer_that_breaks_off_does_not_look_whole() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"half", more=True))
        await asyncio.sleep(0.01)
        raise RuntimeError("broken")

    async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET)
        with contextlib.suppress(ConnectionError):
            assert not (await reader.read()).endswith(b"0\r\n\r\n")

    talk(use, application)


# Bodies


def test_bodies_by_length_and_in_chunks() -> None:
    async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(POST + b"Content-Length: 4\r\n\r\nab")
        await asyncio.sleep(0.01)
        writer.write(b"cd")
        assert (await read_answer(reader))[2] == b"/abcd"
        writer.write(POST + b"Transfer-Encoding: Chunked\r\n\r\n2;x=y\r\nab\r\n3")
        await asyncio.sleep(0.01)
        writer.write(b"\r\ncde\r\n0\r\nHost: trailer\r\n\r\n")
        assert (await read_answer(reader))[2] == b"/abcde"

    talk(use)


def test_a_client_that_expects_100_is_told_to_go_on() -> None:
    async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(POST + b"Expect: 100-Continue\r\nContent-Length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ab")
        assert (await read_answer(reader))[2] == b"/ab"

    talk(use)


def test_a_body_that_nobody_wants_is_not_asked_for() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(start(403))
        await send(body(b"no"))

    check_refusal(ask(POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n", application=application), 403)


def test_a_body_waits_with_its_sender_until_it_is_read() -> None:
    size = 50_000_000
    taken = 0

    async def application(scope: Any, receive: Any, send: Any) -> None:
        nonlocal taken
        await go.wait()
        content = await read_all(receive)
        assert content is not None
        taken = len(content)
        await send(start(200, (b"content-length", b"0")))
        await send(body(b""))

    async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(POST + b"Content-Length: %d\r\n\r\n" % size)
        writer.write(b"x" * size)
        left = size + 1
        while writer.transport.get_write_buffer_size() < left:
            left = writer.transport.get_write_buffer_size()
            await asyncio.sleep(0.1)
        assert left > size // 2
        await asyncio.sleep(1.5)  # longer than the sender may pause; but it is the reader that does
        go.set()
        assert (await read_answer(reader))[0] == 200
        assert taken == size

    go = asyncio.Event()
    talk(use, application, body_seconds=1.0, **QUICK)


def test_large_bodies_follow_each_other_on_a_connection() -> None:
    async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for size in (200_000, 70_000, 300_000):
            writer.write(POST + b"Content-Length: %d\r\n\r\n" % size + b"x" * size)
            assert (await read_answer(reader))[0] == 200
        writer.write_eof()
        assert await reader.read() == b""

    talk(use)


def test_an_answer_before_the_bodys_end_gets_through() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(start(413))
        await send(body(b"too large"))

    async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(POST + b"Content-Length: 900000\r\n\r\n")
        writer.write(b"x" * 500_000)
        await asyncio.sleep(0.05)
        writer.write(b"x" * 300_000)
        check_refusal(await reader.read(), 413)

    talk(use, application)


async def flood(writer: asyncio.StreamWriter) -> None:
    for _ in range(1000):
        writer.write(b"x" * 100_000)
        await writer.drain()


def test_after_a_refusal_no_more_is_taken_than_allowed() -> None:
    async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"nonsense\r\n\r\n")
        with pytest.raises(ConnectionError):
            await flood(writer)

    talk(use)


# Requests that are refused


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
        (b"GET /#a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/0.9\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET /" + b"a" * 16_384 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:b\r\n" * 100 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\na: " + b"b" * 66_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\na: " + b"b" * 66_000, 431),
        (POST + b"Content-Length: 1\r\nExpect: magic\r\n\r\nx", 417),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (POST + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nab", 400),
    ],
    ids=lambda value: repr(value[-40:]) if isinstance(value, bytes) else None,
)
def test_a_request_that_is_none_is_refused(request_: bytes, status: int) -> None:
    check_refusal(ask(request_), status)
    check_refusal(ask(request_[:20], request_[20:]), status)


@pytest.mark.parametrize("beginning", [b"1;", b"0\r\na: "])
def test_what_a_body_carries_beside_itself_is_bounded(beginning: bytes) -> None:
    check_refusal(ask(POST + b"Transfer-Encoding: chunked\r\n\r\n" + beginning, b"x" * 70_000), 431)


def test_headers_up_to_the_limit_are_taken() -> None:
    assert ask(LAST[:-2] + b"a: b\r\n" * 98 + b"\r\n").startswith(b"HTTP/1.1 200 ")
    assert ask(LAST[:-2] + b"a: " + b"b" * 65_000 + b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_another_protocol_is_not_changed_to() -> None:
    upgrade = b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    both = ask(GET[:-2] + upgrade + b"GET /second HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert both.count(b"HTTP/1.1 200 OK") == 2
    assert both.endswith(b"/second")


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(st.binary(max_size=40), st.sampled_from([GET, POST, b"\r\n", b"Content-Length: 3\r\n", b"0\r\n\r\n"]))
    )
)
def test_whatever_comes_the_answers_are_well_formed(pieces: list[bytes]) -> None:
    answer = ask(
        b"".join(pieces), application=echo, head_seconds=0.05, body_seconds=0.05, keep_alive_seconds=0.05, **QUICK
    )
    while answer:
        _, headers, rest = parse(answer)
        answer = rest[int(headers["content-length"]) :]


# Several requests on a connection


def test_requests_in_one_piece_are_answered_in_their_order() -> None:
    slow = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/0":
            await slow.wait()
        slow.set() if scope["path"] == "/slow" else None
        await echo(scope, receive, send)

    async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(10):
            writer.write(b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx" % number)
        await asyncio.sleep(0.02)
        slow.set()
        assert [(await read_answer(reader))[2] for _ in range(10)] == [b"/%dx" % number for number in range(10)]

    talk(use, application)


def test_of_too_many_requests_at_once_the_first_are_answered() -> None:
    answer = ask(GET * 1000)
    assert answer.count(b"HTTP/1.1 200 OK") == 17
    check_refusal(answer[answer.index(b"HTTP/1.1 503") :], 503)


def test_what_follows_the_last_request_is_ignored() -> None:
    assert ask(LAST + b"nonsense").count(b"HTTP/1.1") == 1
    assert ask(LAST + GET).count(b"HTTP/1.1") == 1


def test_nonsense_after_a_request_does_not_spoil_its_answer() -> None:
    answer = ask(GET + b"nonsense\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK")
    check_refusal(answer[answer.index(b"HTTP/1.1 400") :], 400)


# Time


@pytest.mark.parametrize(
    ("beginning", "status"), [(b"", None), (b"\r\n", None), (b"GET / HT", 408), (GET[:-2] + b"X-Slow: ", 408)]
)
def test_a_request_that_does_not_come_is_not_waited_for(beginning: bytes, status: int | None) -> None:
    answer = ask(beginning, head_seconds=0.05, **QUICK)
    if status is None:
        assert answer == b""
    else:
        check_refusal(answer, status)


def test_a_head_in_drops_has_no_more_time() -> None:
    async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def drip() -> None:
            writer.write(GET[:-2] + b"X-Slow: ")
            while True:
                writer.write(b"x")
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        check_refusal(await reader.read(), 408)
        dripping.cancel()

    talk(use, head_seconds=0.1, **QUICK)


def test_a_second_request_that_comes_in_drops_is_not_waited_for() -> None:
    answer = ask(GET + GET[:-2], head_seconds=0.05, **QUICK)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    check_refusal(answer[answer.index(b"HTTP/1.1 408") :], 408)


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    seen: list[bytes | None] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(await read_all(receive))

    answer = ask(POST + b"Content-Length: 5\r\n\r\nab", application=application, body_seconds=0.05, **QUICK)
    check_refusal(answer, 408)
    assert seen == [None]


def test_an_idle_connection_is_closed() -> None:
    assert ask(GET, keep_alive_seconds=0.05, **QUICK).endswith(b"\r\n\r\n/")


def test_a_slow_application_is_waited_for() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.2)
        await echo(scope, receive, send)

    quick = {"head_seconds": 0.02, "body_seconds": 0.02, "write_seconds": 0.02, "linger_seconds": 0.02}
    assert ask(LAST, application=application, **quick, **QUICK).endswith(b"/")


# Connections


def test_who_goes_away_is_noticed_and_the_work_goes_on() -> None:
    done = asyncio.Event()
    seen: list[bytes | str | None] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(await read_all(receive))
        seen.append((await receive())["type"])
        await asyncio.sleep(0.01)
        await send(start())
        await send(body(b"nobody reads this"))
        done.set()

    async def run() -> None:
        async with serving(application) as (_, port):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(GET)
                await asyncio.sleep(0.05)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close by a reset
            await asyncio.wait_for(done.wait(), 10)

    uvloop.run(run())
    assert seen == [b"", "http.disconnect"]


def test_who_has_only_stopped_sending_is_answered() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.05)
        await echo(scope, receive, send)

    async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET)
        writer.write_eof()
        assert (await reader.read()).endswith(b"\r\n\r\n/")

    talk(use, application)


def test_who_stops_in_the_middle_of_a_body_is_gone() -> None:
    seen: list[bytes | None] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(await read_all(receive))

    async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(POST + b"Content-Length: 5\r\n\r\nab")
        writer.write_eof()
        assert await reader.read() == b""

    talk(use, application)
    assert seen == [None]


def test_one_connection_too_many_is_told_so() -> None:
    async def run() -> None:
        async with serving(echo, connections=2) as (_, port):
            first = await asyncio.open_connection("127.0.0.1", port)
            second = await asyncio.open_connection("127.0.0.1", port)
            third = await asyncio.open_connection("127.0.0.1", port)
            answer = await third[0].read()
            check_refusal(answer, 503)
            assert b"retry-after: 1\r\n" in answer
            first[1].close()
            await asyncio.sleep(0.05)
            fourth = await asyncio.open_connection("127.0.0.1", port)
            fourth[1].write(LAST)
            assert (await fourth[0].read()).startswith(b"HTTP/1.1 200")
            for _, writer in (second, third, fourth):
                writer.close()

    uvloop.run(run())


def test_nothing_of_a_connection_waits_for_the_garbage_collector() -> None:
    def alive() -> int:
        return sum(isinstance(found, (Connection, Receiver, Exchange)) for found in gc.get_objects())

    async def run() -> None:
        async with serving(echo) as (_, port):
            before = alive()
            for _ in range(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(LAST)
                await reader.read()
                writer.close()
            await asyncio.sleep(0.05)
            assert alive() == before

    gc.collect()
    gc.disable()
    try:
        uvloop.run(run())
    finally:
        gc.enable()


# The end


def test_stopping_finishes_what_runs_and_takes_no_more() -> None:
    go = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        content = await read_all(receive)
        await go.wait()
        await send(start())
        await send(body(content or b"nothing"))

    async def run() -> None:
        async with serving(application) as (front, port):
            idle = await asyncio.open_connection("127.0.0.1", port)
            busy = await asyncio.open_connection("127.0.0.1", port)
            busy[1].write(POST + b"Content-Length: 2\r\n\r\na")
            await asyncio.sleep(0.05)
            front.stop()
            assert await idle[0].read() == b""
            with pytest.raises(ConnectionError):
                await asyncio.open_connection("127.0.0.1", port)
            busy[1].write(b"b")
            go.set()
            status, headers, rest = parse(await busy[0].read())
            assert (status, headers["connection"], rest) == (200, "close", b"ab")
            for _, writer in (idle, busy):
                writer.close()

    uvloop.run(run())


@pytest.mark.parametrize("patience", [0.05, 60.0])
def test_stopping_ends_what_does_not_finish(patience: float) -> None:
    cancelled = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    async def run() -> None:
        async with serving(application, grace=patience) as (front, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(GET)
            await asyncio.sleep(0.05)
            front.stop()
            if patience > 1:
                await asyncio.sleep(0.05)
                assert not cancelled.is_set()
                front.stop()
            await asyncio.wait_for(cancelled.wait(), 10)
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()

    uvloop.run(run())
