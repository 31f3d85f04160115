"""What an extension asks for when it subscribes to telemetry.

Source: https://docs.aws.amazon.com/lambda/latest/dg/telemetry-api-reference.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

TYPES = ("platform", "function", "extension")
_VERSIONS = ("2022-07-01", "2022-12-13", "2025-01-29")
_HOSTS = ("sandbox.localdomain", "sandbox")
_RUNTIME_API_PORT = 9001
_URI = re.compile(r"[!-~]{1,1024}")
# Name, default, minimum, maximum.
_BUFFERING = (
    ("maxItems", 10_000, 1_000, 10_000),
    ("maxBytes", 262_144, 262_144, 1_048_576),
    ("timeoutMs", 1_000, 25, 30_000),
)


class SubscriptionError(Exception):
    """A subscription cannot be made; the message names all that is wrong with it."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A valid subscription.

    Attributes:
        types: some of TYPES, in the order given.
        port: of the destination, on the sandbox's loopback interface.
        target: path and query of the destination.
        max_items: events that a batch has at most.
        max_bytes: bytes of events after which a batch is sent.
        timeout: seconds that an event waits for others.
    """

    types: tuple[str, ...]
    port: int
    target: str
    max_items: int
    max_bytes: int
    timeout: float


def parse_subscription(body: bytes) -> Subscription:
    """Read and check the body of a subscription request.

    Raises:
        SubscriptionError: it is no JSON object, or something in it is not valid.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise SubscriptionError("the request's body is not valid JSON") from None
    if not isinstance(document, Mapping):
        raise SubscriptionError("the request's body must be a JSON object")
    problems: list[str] = []
    if document.get("schemaVersion") not in _VERSIONS:
        problems.append(f"schemaVersion should be one of {', '.join(_VERSIONS)}")
    port, target = _destination(document.get("destination"), problems)
    types = _types(document.get("types"), problems)
    max_items, max_bytes, timeout_ms = _buffering(document.get("buffering"), problems)
    if problems:
        raise SubscriptionError("; ".join(problems))
    return Subscription(types, port, target, max_items, max_bytes, timeout_ms / 1000)


def _destination(destination: Any, problems: list[str]) -> tuple[int, str]:
    if not isinstance(destination, Mapping):
        problems.append("destination is not provided")
        return 0, ""
    if destination.get("protocol") != "HTTP":
        problems.append("destination protocol should be HTTP; Insula does not deliver telemetry over others")
    uri = destination.get("URI")
    try:
        parts = urlsplit(uri) if isinstance(uri, str) and _URI.fullmatch(uri) else None
        port = parts.port if parts is not None else None
    except ValueError:
        parts = None
    if parts is None:
        problems.append("URI is not valid")
        return 0, ""
    if parts.scheme != "http" or parts.hostname not in _HOSTS or parts.username is not None:
        problems.append(f"URI should be http://{_HOSTS[0]}:PORT/PATH")
    if not port:
        problems.append("URI port is not provided")
    elif port == _RUNTIME_API_PORT:
        problems.append(f"port {_RUNTIME_API_PORT} is reserved")
    return port or 0, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _types(types: Any, problems: list[str]) -> tuple[str, ...]:
    if not isinstance(types, list) or not types:
        problems.append("types should not be empty")
        return ()
    if any(kind not in TYPES for kind in types):
        problems.append(f"types should be some of {', '.join(TYPES)}")
        return ()
    return tuple(dict.fromkeys(types))


def _buffering(buffering: Any, problems: list[str]) -> tuple[int, ...]:
    if buffering is None:
        buffering = {}
    if not isinstance(buffering, Mapping):
        problems.append("buffering should be an object")
        return (0, 0, 0)
    values = []
    for name, default, minimum, maximum in _BUFFERING:
        value = buffering.get(name, default)
        if type(value) is not int or not minimum <= value <= maximum:
            problems.append(f"{name} should be an integer from {minimum} to {maximum}")
        values.append(value)
    return tuple(values)
