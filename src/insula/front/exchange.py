"""One request and its answer, as an ASGI application sees them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Protocol

from insula.front.answer import CONTINUE, LAST_CHUNK, head, refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_DISCONNECT = "http.disconnect"
_CLOSE = (b"connection", b"close")
_CHUNKED = (b"transfer-encoding", b"chunked")
_BODILESS = frozenset((*range(100, 200), 204, 304))

logger = logging.getLogger("insula.front")


class Wire(Protocol):
    """The connection that an exchange takes place on."""

    writable: asyncio.Event | None
    """Set when the client has read what it was sent; None while it keeps up."""

    def date(self) -> Sequence[tuple[bytes, bytes]]:
        """The Date header."""
        ...

    def is_last(self) -> bool:
        """Whether nothing more is sent after the answer that is being made."""
        ...

    def write(self, data: bytes) -> None:
        """Send, unless the client is gone."""
        ...

    def resume(self) -> None:
        """The application has taken what was received of the body: read on."""
        ...

    def abort(self) -> None:
        """Drop the connection."""
        ...


class Exchange:
    """A request whose head has come, and what became of it.

    Args:
        scope: as ASGI defines it.
        keep_alive: whether another request may follow.
        expects_continue: whether the client waits for ``100 Continue`` before it sends the body.

    Attributes:
        received: the request's body is complete.
        buffered: bytes of the body that the application has not taken.
        keep_alive: as above; false as soon as the answer said so.
    """

    __slots__ = (
        "_arrival",
        "_body",
        "_chunked",
        "_complete",
        "_expects_continue",
        "_gone",
        "_headers",
        "_left",
        "_refused",
        "_started",
        "_status",
        "_taken",
        "_wire",
        "buffered",
        "keep_alive",
        "received",
        "scope",
    )

    def __init__(self, wire: Wire, scope: Scope, *, keep_alive: bool, expects_continue: bool) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.received = False
        self.buffered = 0
        self._wire = wire
        self._body: list[bytes] = []
        self._taken = False
        self._expects_continue = expects_continue
        self._arrival: asyncio.Future[None] | None = None
        self._gone = False
        self._refused = 500
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._started = False
        self._complete = False
        self._chunked = False
        self._left: int | None = None

    # What the connection tells.

    def feed(self, data: bytes) -> None:
        """A piece of the body has come."""
        if not self._complete:
            self._body.append(data)
            self.buffered += len(data)
            self._announce()

    def end(self) -> None:
        """The body is complete."""
        self.received = True
        self._announce()

    def leave(self) -> None:
        """The client is gone."""
        self._gone = True
        self._announce()

    def refuse(self, status: int) -> None:
        """The rest of the body will not come, which is the client's fault; an answer may still be sent."""
        self._refused = status
        self.keep_alive = False
        self.leave()

    def _announce(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    # The application's side.

    async def run(self, application: Application) -> None:
        """Let the application answer; what it leaves unanswered is answered here."""
        try:
            await application(self.scope, self.receive, self.send)
        except Exception:
            logger.exception("%s %r failed", self.scope["method"], self.scope["raw_path"])
            self._fail()
            return
        if not self._complete:
            if not self._gone:
                logger.error("%s %r was not answered", self.scope["method"], self.scope["raw_path"])
            self._fail()

    async def receive(self) -> Message:
        """The next piece of the body; ``http.disconnect`` if there will be none, or after the answer."""
        if self._expects_continue and not self._body and not self.received:
            self._expects_continue = False
            self._wire.write(CONTINUE)
        while not self._has_news():
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        if self._gone or self._complete:
            return {"type": _DISCONNECT}
        body, self._body = b"".join(self._body), []
        self.buffered = 0
        self._wire.resume()
        self._taken = self.received
        return {"type": "http.request", "body": body, "more_body": not self.received}

    def _has_news(self) -> bool:
        return self._gone or self._complete or (not self._taken and (self.received or bool(self._body)))

    async def send(self, message: Mapping[str, Any]) -> None:
        """Take a part of the answer. It returns when the client reads; to a client that is gone nothing is sent.

        Raises:
            RuntimeError: the part is not one that may follow.
            ValueError: a header holds a line break.
        """
        kind = message["type"]
        if kind == "http.response.start" and not self._status:
            self._status = message["status"]
            self._headers = list(message.get("headers", ()))
            return
        if kind != "http.response.body" or not self._status or self._complete:
            raise RuntimeError(f"{kind} may not follow what was sent before")
        body: bytes = message.get("body", b"")
        more: bool = message.get("more_body", False)
        data = self._begin(body, more=more) if not self._started else self._framed(body, more=more)
        self._complete = not more
        self._wire.write(data)
        if self._complete:
            self._announce()
        if self._wire.writable is not None:
            await self._wire.writable.wait()

    def _begin(self, body: bytes, *, more: bool) -> bytes:
        """The head, and the first piece of the body."""
        framing = self._frame(len(body), more=more)
        if not self.received or self._wire.is_last():
            self.keep_alive = False
        if not self.keep_alive and _CLOSE not in self._headers:
            framing.append(_CLOSE)
        first = head(self._status, self._wire.date(), self._headers, framing)
        data = first + self._framed(body, more=more)
        self._started = True
        return data

    def _frame(self, size: int, *, more: bool) -> list[tuple[bytes, bytes]]:
        """Decide how the body's end is told; the headers that say so."""
        for name, value in self._headers:
            if name == b"content-length":
                self._left = int(value)
            elif name == b"connection" and value == b"close":
                self.keep_alive = False
            elif name == b"transfer-encoding":
                raise RuntimeError("the transfer coding is the front's business, not the application's")
        if self._left is not None or self._status in _BODILESS:
            return []
        if not more:
            self._left = size
            return [(b"content-length", str(size).encode())]
        if self.scope["http_version"] == "1.1":
            self._chunked = True
            return [_CHUNKED]
        self.keep_alive = False  # the connection's end is the body's
        return []

    def _framed(self, body: bytes, *, more: bool) -> bytes:
        if self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more and not self._is_bodiless()):
                raise RuntimeError("the body is not as long as its content-length")
        if self._is_bodiless():
            return b""
        if not self._chunked:
            return body
        piece = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return piece if more else piece + LAST_CHUNK

    def _is_bodiless(self) -> bool:
        return self._status in _BODILESS or self.scope["method"] == "HEAD"

    def _fail(self) -> None:
        """There is no answer, or half of one."""
        self.keep_alive = False
        if self._started:
            self._wire.abort()
        else:
            self._complete = True
            self._wire.write(refusal(self._refused, self._wire.date(), bodiless=self.scope["method"] == "HEAD"))
