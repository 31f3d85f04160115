"""Requests into dictionaries, dictionaries into responses, for every operation of the service model."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from insula.lambda_api.containers import ListShape, Shapes
from insula.lambda_api.routes import Route, parse_query
from insula.lambda_api.shapes import (
    Problems,
    SerializationException,
    Shape,
    lower_camel,
)

EMPTY_STATUS = 204


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response without the headers that every response has.

    Attributes:
        stream: messages of an event stream, in the place of a body.
    """

    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    stream: AsyncGenerator[bytes, None] | None = None


@dataclass(frozen=True, slots=True)
class _Member:
    """A request member outside of the JSON body."""

    name: str
    path: str
    wire: str
    header: bytes
    shape: Shape


class Decoder:
    """Reads and validates the requests of one operation."""

    def __init__(self, route: Route, model: Mapping[str, Any], shapes: Shapes) -> None:
        members: Mapping[str, Mapping[str, Any]] = model.get("members", {})
        located = [_member(name, member, shapes) for name, member in members.items() if "location" in member]
        where = {name: member.get("location") for name, member in members.items()}
        by_wire = {member.wire: member for member in located if where[member.name] == "uri"}
        self._uri = tuple(by_wire[parameter] for parameter in route.parameters)
        self._query = tuple(member for member in located if where[member.name] == "querystring")
        self._headers = tuple(member for member in located if where[member.name] == "header")
        self._payload: str | None = model.get("payload")
        body = {name: shapes(member["shape"]) for name, member in members.items() if not where[name]}
        self._blob = self._payload is not None and shapes.kind(members[self._payload]["shape"]) == "blob"
        self._body = {} if self._payload else body
        self._document = body[self._payload] if self._payload and not self._blob else None
        self._paths = {name: lower_camel(name) for name in members}
        self._required = tuple(model.get("required", ()))

    def decode(
        self, values: tuple[str, ...], query: bytes, headers: Mapping[bytes, bytes], body: bytes
    ) -> dict[str, Any]:
        """The request's members by name; absent ones are left out.

        Args:
            values: decoded values of the path's placeholders.
            headers: lower-case names; repeated headers joined by commas.

        Raises:
            SerializationException: something has another type than the model says.
            ValidationException: constraints are broken; all of them are named.
        """
        request: dict[str, Any] = {}
        problems = Problems()
        for member, text in zip(self._uri, values, strict=True):
            self._take(request, member, member.shape.read_text(text), problems)
        if query and self._query:
            self._read_query(request, query, problems)
        for member in self._headers:
            raw = headers.get(member.header)
            if raw is not None:
                self._take(request, member, member.shape.read_text(_text(raw)), problems)
        self._read_body(request, body, problems)
        for name in self._required:
            if name not in request:
                problems.missing(self._paths[name])
        problems.raise_any()
        return request

    def _take(self, request: dict[str, Any], member: _Member, value: Any, problems: Problems) -> None:
        member.shape.check(value, member.path, problems)
        request[member.name] = value

    def _read_query(self, request: dict[str, Any], query: bytes, problems: Problems) -> None:
        given: dict[str, list[str]] = {}
        for name, text in parse_query(query):
            given.setdefault(name, []).append(text)
        for member in self._query:
            texts = given.get(member.wire)
            if texts is None:
                continue
            if isinstance(member.shape, ListShape):
                value: Any = member.shape.read_texts(texts)
            elif len(texts) == 1:
                value = member.shape.read_text(texts[0])
            else:
                raise SerializationException(f"The query parameter {member.wire} is given more than once.")
            self._take(request, member, value, problems)

    def _read_body(self, request: dict[str, Any], body: bytes, problems: Problems) -> None:
        if self._blob and self._payload:
            request[self._payload] = body
        elif self._document is not None and self._payload:
            if body:
                document = self._document.read(load_json(body))
                self._document.check(document, self._paths[self._payload], problems)
                request[self._payload] = document
        elif self._body and body:
            self._read_members(request, load_json(body), problems)

    def _read_members(self, request: dict[str, Any], document: Any, problems: Problems) -> None:
        if document is None:
            return
        if not isinstance(document, dict):
            raise SerializationException("The request's body must be a JSON object.")
        for name, shape in self._body.items():
            item = document.get(name)
            if item is not None:
                value = request[name] = shape.read(item)
                shape.check(value, self._paths[name], problems)


class Encoder:
    """Writes the responses of one operation. A payload that is an event stream comes as its messages."""

    def __init__(self, status: int, model: Mapping[str, Any] | None) -> None:
        self._status = status
        self._empty = model is None
        self._status_member: str | None = None
        self._headers: dict[str, bytes] = {}
        self._payload: str | None = (model or {}).get("payload")
        for name, member in (model or {}).get("members", {}).items():
            if member.get("location") == "statusCode":
                self._status_member = name
            elif member.get("location") == "header":
                self._headers[name] = member["locationName"].lower().encode()

    def encode(self, result: Mapping[str, Any]) -> Response:
        """The response of an operation that ended well. Members that are None are left out."""
        status = self._status if self._status_member is None else result.get(self._status_member, self._status)
        headers = tuple(
            (wire, result[name].encode("latin-1"))
            for name, wire in self._headers.items()
            if result.get(name) is not None
        )
        if self._payload is not None:
            payload = result.get(self._payload) or b""
            if isinstance(payload, bytes):
                return Response(status, payload, headers)
            return Response(status, b"", headers, payload)
        if self._empty or status == EMPTY_STATUS:
            return Response(status, b"", headers)
        document = {
            name: value
            for name, value in result.items()
            if value is not None and name not in self._headers and name != self._status_member
        }
        return Response(status, json.dumps(document, ensure_ascii=False).encode(), headers)


def load_json(body: bytes) -> Any:
    """Parse a JSON document.

    Raises:
        SerializationException: it is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(body.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise SerializationException("The request's body is not valid JSON.") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _member(name: str, member: Mapping[str, Any], shapes: Shapes) -> _Member:
    wire = member.get("locationName", name)
    return _Member(name, lower_camel(name), wire, wire.lower().encode(), shapes(member["shape"]))


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise SerializationException("A header's value is not UTF-8.") from None
