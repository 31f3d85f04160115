"""The ASGI application: one request from bytes to an operation, and back."""

from __future__ import annotations

import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import aclosing
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from insula.lambda_api.body import ClientDisconnected, Receive, drain, read_body
from insula.lambda_api.codec import Response
from insula.lambda_api.context import Context, Services
from insula.lambda_api.download import PREFIX
from insula.lambda_api.eventstream import CONTENT_TYPE
from insula.lambda_api.operations import OPERATIONS
from insula.lambda_api.registry import Operation
from insula.lambda_api.service import Service
from insula.lambda_api.sigv4 import SignedRequest, Verifier
from insula.lambda_api.unsupported import not_built
from insula.model.errors import AccessDeniedException, LambdaError, ServiceException
from insula.model.invocation import new_request_id

Scope = MutableMapping[str, Any]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

_DOWNLOADS = PREFIX.encode()
_JSON = b"application/json"
_CLOSE = (b"connection", b"close")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Page:
    """What is served beside AWS's API, to GET and without a signature.

    Attributes:
        make: makes the body.
        local: only for clients on loopback.
    """

    make: Callable[[], bytes]
    content_type: bytes = _JSON
    local: bool = False

    def answer(self, client: tuple[str, int] | None) -> Response:
        """The page, for a client's address.

        Raises:
            AccessDeniedException: it is not for clients elsewhere.
        """
        if self.local and (client is None or not ipaddress.ip_address(client[0]).is_loopback):
            raise AccessDeniedException(
                "This page is served to clients on the server's own host only: ask for it on its loopback address."
            )
        return Response(200, self.make())


_NO_PAGES: Mapping[bytes, Page] = MappingProxyType({})


class LambdaApi:
    """AWS Lambda's HTTP API.

    Args:
        service: the compiled service model.
        verifier: checks signatures; None lets every caller act for ``account``.
        account: the account of callers that are not checked.
        pages: what is served beside it, by path.
    """

    def __init__(
        self,
        service: Service,
        services: Services,
        *,
        verifier: Verifier | None,
        account: str,
        pages: Mapping[bytes, Page] = _NO_PAGES,
        operations: Mapping[str, Operation] = OPERATIONS,
    ) -> None:
        self._service = service
        self._services = services
        self._verifier = verifier
        self._account = account
        self._operations = operations
        self._pages = {b"/healthz": Page(lambda: b'{"status":"ok"}'), **pages}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request. Lifespan and WebSocket connections are left alone."""
        if scope["type"] != "http":
            return
        request_id = new_request_id()
        reader = _Reader(receive)
        content_type = _JSON
        try:
            if scope["raw_path"].startswith(_DOWNLOADS) and scope["method"] == "GET":
                await self._services.links.serve(scope["path"], scope["query_string"], send)
                return
            page = self._pages.get(scope["raw_path"])
            if page is not None and scope["method"] == "GET":
                response = page.answer(scope.get("client"))
                content_type = page.content_type
            else:
                response = await self._answer(scope, reader, request_id)
        except ClientDisconnected:
            return
        except LambdaError as error:
            response = await _refusal(error, reader)
        except Exception:
            logger.exception("request %s: %s %r failed", request_id, scope["method"], scope["raw_path"])
            response = await _refusal(ServiceException("An error occurred in the service."), reader)
        await _send(send, response, request_id, content_type)

    async def _answer(self, scope: Scope, reader: _Reader, request_id: str) -> Response:
        method, path, query = scope["method"], scope["raw_path"], scope["query_string"]
        headers = _headers(scope["headers"])
        route, values = self._service.routes.match(method, path, query)
        operation = self._service.operations[route.operation]
        # A stranger's body is never read: what can be judged without it is judged first.
        claim = self._verifier and self._verifier.begin(SignedRequest(method, path, query, headers))
        body = await read_body(reader, headers.get(b"content-length"), operation)
        account = claim.verify(body) if claim else self._account
        run = self._operations.get(operation.name)
        if run is None:
            raise not_built(operation.name)
        request = operation.decoder.decode(values, query, headers, body)
        context = Context(
            services=self._services,
            account=account,
            request_id=request_id,
            base_url=f"{scope['scheme']}://{headers.get(b'host', b'').decode('latin-1')}",
            trace_id=headers.get(b"x-amzn-trace-id", b"").decode("latin-1"),
        )
        return operation.encoder.encode(await run(context, request))


class _Reader:
    """Remembers whether a request's body was read to its end."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.complete = False

    async def __call__(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        self.complete = not message.get("more_body", False)
        return message


def _headers(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    # White space around a value is no part of it (RFC 9110, 5.5), and the parser strips it on one side only: else
    # "blue " would be a tenant of its own that the function is told is "blue".
    headers = {name: value.strip(b" \t") for name, value in pairs}
    if len(headers) != len(pairs):
        # Repeated: joined, as in the canonical request that is signed. No repeated member passes its pattern.
        headers = {}
        for name, value in pairs:
            stripped = value.strip(b" \t")
            headers[name] = headers[name] + b"," + stripped if name in headers else stripped
    return headers


async def _refusal(error: LambdaError, reader: _Reader) -> Response:
    headers = [(b"x-amzn-errortype", error.code.encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers().items()]
    if not reader.complete:
        await drain(reader)
    if not reader.complete:
        headers.append(_CLOSE)
    return Response(error.status, json.dumps(error.body()).encode(), tuple(headers))


async def _send(send: Send, response: Response, request_id: str, content_type: bytes) -> None:
    headers = [(b"x-amzn-requestid", request_id.encode()), *response.headers]
    if response.stream is not None:
        headers.append((b"content-type", CONTENT_TYPE))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        async with aclosing(response.stream) as messages:
            async for message in messages:  # a slow client makes `send` wait, and one that went away does not
                await send({"type": "http.response.body", "body": message, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    if response.status != 204:
        headers += [(b"content-type", content_type), (b"content-length", str(len(response.body)).encode())]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
