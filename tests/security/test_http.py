"""Request smuggling and its relatives: where a request ends must never be a matter of opinion.

Source: RFC 9112, sections 6 and 11; https://portswigger.net/web-security/request-smuggling
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.server import Server

_HIDDEN = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
_POST = b"POST /2015-03-31/functions HTTP/1.1\r\nHost: x\r\n"


def _exchange(server: Server, *pieces: bytes) -> bytes:
    """Everything that is answered until the server closes."""
    address = urlsplit(server.endpoint)
    with socket.create_connection((str(address.hostname), int(address.port or 0)), 30) as client:
        for piece in pieces:
            client.sendall(piece)
        with client.makefile("rb") as answers:
            return answers.read()


def _statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 0\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: 0,5\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: 0x5\r\n",
        b"Content-Length: 5 0\r\n",
        b"Content-Length: 5e0\r\n",
        b"Content-Length:\r\n",
        b"Content-Length: 18446744073709551621\r\n",
        b"Content-Length : 5\r\n",
        b" Content-Length: 5\r\n",
        b"Content-Length\x00: 5\r\n",
        b"Content-Length: 5\r\n Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n",
        b'Transfer-Encoding: "chunked"\r\n',
        b"X: y\nTransfer-Encoding: chunked\r\n",
        b"X: y\rTransfer-Encoding: chunked\r\n",
        b"X: y\x00Transfer-Encoding: chunked\r\n",
    ],
    ids=repr,
)
def test_a_body_whose_length_is_doubtful_is_refused(server: Server, framing: bytes) -> None:
    for content in (b"0\r\n\r\n", b"5\r\n0\r\n\r\n"):
        answers = _exchange(server, _POST + framing + b"\r\n" + content + _HIDDEN)
        assert _statuses(answers) in ([400], [501])
        assert b"\r\nconnection: close\r\n" in answers


@pytest.mark.parametrize(
    "chunks",
    [
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\n0\n\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\rhello\r\n0\r\n\r\n",
        b"10000000000000005\r\nhello\r\n0\r\n\r\n",
        b"\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
    ids=repr,
)
def test_chunks_that_are_none_are_refused(server: Server, chunks: bytes) -> None:
    answers = _exchange(server, _POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + _HIDDEN)
    assert len(_statuses(answers)) == 1
    assert _statuses(answers)[0] in {400, 403}  # 403: the signature was judged before the body came
    assert b"\r\nconnection: close\r\n" in answers


@pytest.mark.parametrize(
    "head",
    [
        b"POST /healthz HTTP/1.1\nHost: x\nContent-Length: 5\n\n",
        b"POST /healthz HTTP/1.1\rHost: x\r\n\r\n",
        b"POST /healthz HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\n",
        b"POST http://elsewhere/healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=repr,
)
def test_a_head_that_can_be_read_in_two_ways_is_refused(server: Server, head: bytes) -> None:
    answers = _exchange(server, head + _HIDDEN)
    assert len(_statuses(answers)) == 1
    assert _statuses(answers)[0] in {400, 505}


def test_a_body_is_never_taken_for_a_request(server: Server) -> None:
    last = _HIDDEN[:-2] + b"Connection: close\r\n\r\n"
    answers = _exchange(server, _POST + b"Content-Length: %d\r\n\r\n" % len(_HIDDEN) + _HIDDEN, last)
    assert _statuses(answers) == [403, 200]
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\nHost: y\r\nX-Amz-Tenant-Id: z\r\n\r\n"
    answers = _exchange(server, _POST + chunked % (len(_HIDDEN), _HIDDEN), last)
    assert _statuses(answers) == [403, 200]


def test_what_a_client_sends_never_becomes_a_header_of_the_answer(server: Server) -> None:
    for path in (b"/%0d%0aX-Evil:%201", b"/2015-03-31/functions/a%0d%0aX-Evil:%201", b"/healthz?%0d%0aX-Evil:%201"):
        answers = _exchange(server, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"x-evil" not in answers.partition(b"\r\n\r\n")[0].lower()


def test_a_crowd_of_idle_connections_does_not_stop_the_others(server: Server) -> None:
    address = urlsplit(server.endpoint)
    crowd = [socket.create_connection((str(address.hostname), int(address.port or 0)), 30) for _ in range(500)]
    try:
        for number, client in enumerate(crowd):
            client.sendall(_HIDDEN[: number % len(_HIDDEN)])
        assert _statuses(_exchange(server, _HIDDEN[:-2] + b"Connection: close\r\n\r\n")) == [200]
    finally:
        for client in crowd:
            client.close()


def test_a_hundred_thousand_headers_cost_one_refusal(server: Server) -> None:
    head = _HIDDEN[:-2] + b"a: b\r\n" * 100_000
    try:
        answers = _exchange(server, head)
    except ConnectionError:
        answers = b""  # it was dropped while it still sent
    assert _statuses(answers) in ([431], [])
    assert _statuses(_exchange(server, _HIDDEN[:-2] + b"Connection: close\r\n\r\n")) == [200]
    assert Path(f"/proc/{server.pid}").exists()
