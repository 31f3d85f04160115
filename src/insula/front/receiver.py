"""What arrives on a connection: bytes become exchanges, or are refused."""

from __future__ import annotations

import logging
import re
from typing import Any, Protocol
from urllib.parse import unquote

import httptools

from insula.front.exchange import Exchange, Wire
from insula.front.limits import Limits

Address = tuple[str, int] | None

_ASGI = {"version": "3.0", "spec_version": "2.3"}
_WATCHED = frozenset((b"host", b"expect", b"transfer-encoding", b"upgrade"))
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]+)(.*)")

logger = logging.getLogger("insula.front")


class RefusedError(Exception):
    """The client's request is answered by the front itself, with this status, and is its last one."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Sink(Wire, Protocol):
    """Who takes the exchanges: the connection."""

    def on_head(self) -> None:
        """A request begins.

        Raises:
            RefusedError: no more are taken.
        """
        ...

    def on_exchange(self, exchange: Exchange) -> None:
        """A request's head has come and is in order."""
        ...

    def on_progress(self, exchange: Exchange) -> None:
        """Another piece of its body has come."""
        ...

    def on_received(self) -> None:
        """All of the request has come."""
        ...


class Receiver:
    """Parses a connection's requests. llhttp, which does the parsing, is strict by default, and left so.

    Args:
        sink: takes the exchanges.
        server, client: the connection's two ends.

    Attributes:
        incoming: the exchange whose request is not complete.
        in_head: whether a head has begun and is not complete.
    """

    def __init__(self, sink: Sink, limits: Limits, server: Address, client: Address) -> None:
        self.incoming: Exchange | None = None
        self.in_head = False
        self._sink = sink
        self._limits = limits
        self._server = server
        self._client = client
        self._parser = httptools.HttpRequestParser(self)
        self._overhead = 0  # bytes since the last that were of use
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._hosts = 0
        self._expectation = b""
        self._coding = b""
        self._upgrade = False

    def feed(self, data: bytes) -> None:
        """Take what was read.

        Raises:
            RefusedError: it is not a request that may be answered otherwise.
        """
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # Answer the request as if it had not asked for another protocol (RFC 9110, 7.8).
            self._parser = httptools.HttpRequestParser(self)
            if rest := data[upgrade.args[0] :]:
                self.feed(rest)
        except httptools.HttpParserError as error:
            raise RefusedError(_status_of(error)) from None
        if self._overhead > self._limits.head_bytes:
            raise RefusedError(431)

    def close(self) -> None:
        """Let go of the parser: it refers to this object and this object to it."""
        del self._parser

    # httptools callbacks

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._sink.on_head()
        self.in_head = True
        self._url = self._expectation = self._coding = b""
        self._headers = []
        self._hosts = 0
        self._upgrade = False

    def on_url(self, url: bytes) -> None:
        """A piece of the path and the query."""
        self._url += url
        if len(self._url) > self._limits.line_bytes:
            raise RefusedError(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or, behind a body, a trailer, which is ignored."""
        if not self.in_head:
            return
        name = name.lower()
        self._headers.append((name, value))
        if name in _WATCHED:
            self._watch(name, value)

    def _watch(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self._hosts += 1
        elif name == b"expect":
            self._expectation = value.strip().lower()
        elif name == b"upgrade":
            self._upgrade = True
        else:
            self._coding = value.strip().lower()

    def on_headers_complete(self) -> None:
        """A request's head has come: it is judged, and its exchange begins."""
        version: str = self._parser.get_http_version()
        modern = version == "1.1"
        if not modern or self._expectation or self._coding or self._upgrade or self._hosts != 1:
            self._check_rare(version)
        self._check_size()
        path, query = _target(self._url, self._headers)
        text = path.decode()
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "server": self._server,
            "client": self._client,
            "scheme": "http",
            "root_path": "",
            "method": self._parser.get_method().decode(),
            "path": unquote(text) if "%" in text else text,
            "raw_path": path,
            "query_string": query,
            "headers": self._headers,
        }
        keep_alive = modern and self._parser.should_keep_alive()
        expected = modern and bool(self._expectation)
        self.incoming = exchange = Exchange(self._sink, scope, keep_alive=keep_alive, expects_continue=expected)
        self.in_head = False
        self._overhead = 0
        self._sink.on_exchange(exchange)

    def _check_rare(self, version: str) -> None:
        if version not in {"1.1", "1.0"}:
            raise RefusedError(505)
        if self._hosts > 1 or (not self._hosts and version == "1.1"):  # RFC 9112, 3.2
            raise RefusedError(400)
        if self._coding and version == "1.0":  # RFC 9112, 6.1: its framing is to be taken as faulty
            raise RefusedError(400)
        if self._upgrade and self._has_body():  # of which the parser would not look for the end
            raise RefusedError(400)
        if self._coding not in {b"", b"chunked"}:  # RFC 9112, 6.1 and 6.3
            raise RefusedError(501 if self._coding.rpartition(b",")[2].strip() == b"chunked" else 400)
        if self._expectation not in {b"", b"100-continue"}:
            raise RefusedError(417)

    def _has_body(self) -> bool:
        lengths = [value.strip(b" \t0") for name, value in self._headers if name == b"content-length"]
        return bool(self._coding) or any(lengths)

    def _check_size(self) -> None:
        limits = self._limits
        if len(self._headers) > limits.headers:
            raise RefusedError(431)
        # Counted only if it matters: most of what came at once with the head is of the body.
        if self._overhead > limits.head_bytes and self._head_bytes() > limits.head_bytes:
            raise RefusedError(431)

    def _head_bytes(self) -> int:
        return sum(len(name) + len(value) + 4 for name, value in self._headers)

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        assert self.incoming is not None
        self._overhead = 0
        self.incoming.feed(body)
        self._sink.on_progress(self.incoming)

    def on_message_complete(self) -> None:
        """A request is complete."""
        assert self.incoming is not None
        self.incoming.end()
        self.incoming = None
        self._overhead = 0
        self._sink.on_received()


def _status_of(error: httptools.HttpParserError) -> int:
    """What a request that stopped the parser is answered with."""
    cause = error.__context__
    if isinstance(cause, RefusedError):
        return cause.status
    if cause is None:
        return 400
    logger.error("a request could not be taken up", exc_info=cause)
    return 500


def _target(url: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """Path and query of a request's target (RFC 9112, 3.2)."""
    if not url.startswith(b"/") and url != b"*":
        url = _origin_form(url, headers)
    if b"#" in url:
        raise RefusedError(400)
    path, _, query = url.partition(b"?")
    return path, query


def _origin_form(url: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The target of a request as to a proxy, which must name this host."""
    found = _ABSOLUTE.fullmatch(url)
    if found is None or (b"host", found[1]) not in headers:
        raise RefusedError(400)
    rest = found[2]
    return rest if rest.startswith(b"/") else b"/" + rest
