"""Which operation a method and a path mean: the path is walked segment by segment through dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from insula.lambda_api.shapes import SerializationException
from insula.model.errors import UnknownOperationException


@dataclass(frozen=True, slots=True)
class Route:
    """An operation's place.

    Attributes:
        operation: its name in the service model.
        parameters: names of the path's placeholders, in order.
        query: parameters that the query string must hold (``find=LayerVersion``).
    """

    operation: str
    parameters: tuple[str, ...]
    query: frozenset[tuple[str, str]]


@dataclass(slots=True)
class _Node:
    literals: dict[bytes, _Node] = field(default_factory=dict)
    placeholder: _Node | None = None
    routes: dict[str, list[Route]] = field(default_factory=dict)


class Routes:
    """All routes of a service model, also as the list ``all``."""

    def __init__(self, operations: Mapping[str, Mapping[str, Any]]) -> None:
        self._root = _Node()
        self.all: list[Route] = []
        for name, operation in operations.items():
            self._add(name, operation["http"]["method"], operation["http"]["requestUri"])

    def _add(self, name: str, method: str, template: str) -> None:
        path, _, query = template.partition("?")
        node, parameters = self._root, []
        for segment in path.strip("/").split("/"):
            if segment.startswith("{"):
                parameters.append(segment.strip("{}"))
                node.placeholder = node.placeholder or _Node()
                node = node.placeholder
            else:
                node = node.literals.setdefault(segment.encode(), _Node())
        routes = node.routes.setdefault(method, [])
        route = Route(name, tuple(parameters), frozenset(parse_qsl(query)))
        self.all.append(route)
        routes.append(route)
        routes.sort(key=lambda route: -len(route.query))

    def match(self, method: str, path: bytes, query: bytes) -> tuple[Route, tuple[str, ...]]:
        """The route of a request, and the decoded values of its placeholders.

        Args:
            path: the raw path, still percent-encoded. One trailing slash is tolerated: old SDKs send it.

        Raises:
            UnknownOperationException: no operation has this method and path.
            SerializationException: a placeholder's value is not UTF-8.
        """
        segments = path.split(b"/")
        if segments[-1] == b"":
            segments.pop()
        node, values = self._root, []
        for segment in segments[1:]:
            following = node.literals.get(segment)
            if following is None:
                following = node.placeholder
                values.append(segment)
            if following is None:
                raise _unknown(method, path)
            node = following
        for route in node.routes.get(method, ()):
            if not route.query or route.query <= set(parse_query(query)):
                return route, tuple(_unquoted(value) for value in values)
        raise _unknown(method, path)


def parse_query(query: bytes) -> list[tuple[str, str]]:
    """The decoded parameters of a query string.

    Raises:
        SerializationException: the query string is not UTF-8, or has more than 1,000 parameters.
    """
    try:
        return parse_qsl(query.decode(), keep_blank_values=True, errors="strict", max_num_fields=1000)
    except ValueError:
        raise SerializationException(
            "The query string is not readable: it must be percent-encoded UTF-8 of at most 1,000 parameters."
        ) from None


def _unquoted(segment: bytes) -> str:
    try:
        return unquote(segment.decode(), errors="strict")
    except UnicodeDecodeError:
        raise SerializationException("The path is not readable: it must be percent-encoded UTF-8.") from None


def _unknown(method: str, path: bytes) -> UnknownOperationException:
    shown = path[:200].decode(errors="replace")
    return UnknownOperationException(f"No operation of AWS Lambda has the method {method} and the path {shown}")
