"""The Lambda Extensions API: who registered, who is ready, and the events that they get.

External extensions are processes of their own, named by their file in /opt/extensions and started before the runtime.
Internal ones run in the runtime's process, and may register for INVOKE only.

Source: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from insula.model.function import FunctionVersion
from insula.model.invocation import Invocation, new_request_id
from insula.runtime_api.subscription import SubscriptionError

if TYPE_CHECKING:
    from insula.runtime_api.connection import Connection
    from insula.runtime_api.telemetry import Telemetry

MAX_EXTENSIONS = 10
_NAME = re.compile(r"[ -~]{1,128}")
_EVENTS = ("INVOKE", "SHUTDOWN")


class Listener(Protocol):
    """Who hears of extensions: their execution environment.

    Attributes:
        function: what it runs.
    """

    function: FunctionVersion

    def on_registered(self) -> None:
        """All external extensions have registered."""
        ...

    def on_extension_error(self, kind: str, body: bytes) -> None:
        """An extension gave up. It reported an error of this type, and a document of its own."""
        ...


@dataclass(slots=True, eq=False)
class Extension:
    """A registered extension.

    Attributes:
        name: of its file, if it is an external one.
        events: what it registered for.
        ready: whether it has asked for its next event and not got it yet.
        failed: whether it gave up.
    """

    name: str
    external: bool
    events: tuple[str, ...]
    ready: bool = False
    failed: bool = False
    connection: Connection | None = None
    undelivered: bytes | None = None


class Extensions:
    """The extensions of one environment.

    Args:
        expected: file names of the external ones.
        on_ready: called when the last one that was busy is ready.

    Attributes:
        all: the registered ones, in order.
        busy: how many of them are not ready.
        closed: whether initialization is over, and with it registration.
        telemetry: where they may subscribe; None refuses it.
    """

    def __init__(
        self, listener: Listener, expected: Sequence[str], on_ready: Callable[[], None], telemetry: Telemetry | None
    ) -> None:
        self.all: list[Extension] = []
        self.busy = 0
        self.closed = False
        self.telemetry = telemetry
        self._listener = listener
        self._awaited = set(expected)
        self._on_ready = on_ready
        self._by_id: dict[str, Extension] = {}

    @property
    def grace(self) -> float:
        """Seconds that the shutdown phase may take, as AWS grants them."""
        if any(extension.external for extension in self.all):
            return 2.0
        return 0.5 if self.all else 0.0

    def invoke(self, invocation: Invocation, deadline_ms: int) -> None:
        """Hand an INVOKE event to those that registered for it."""
        event = {
            "eventType": "INVOKE",
            "deadlineMs": deadline_ms,
            "requestId": invocation.request_id,
            "invokedFunctionArn": invocation.invoked_arn,
            "tracing": {"type": "X-Amzn-Trace-Id", "value": invocation.trace_id},
        }
        self._hand_out("INVOKE", event)

    def shutdown(self, reason: str, deadline_ms: int) -> None:
        """Hand a SHUTDOWN event to those that registered for it."""
        self._hand_out("SHUTDOWN", {"eventType": "SHUTDOWN", "shutdownReason": reason, "deadlineMs": deadline_ms})

    def _hand_out(self, kind: str, event: dict[str, Any]) -> None:
        body = json.dumps(event).encode()
        for extension in self.all:
            if kind not in extension.events or extension.failed:
                continue
            if extension.ready:
                extension.ready = False
                self.busy += 1
            extension.undelivered = body
            self._deliver(extension)

    def _deliver(self, extension: Extension) -> None:
        """Send what waits; if the extension hung up meanwhile, it waits for its next request."""
        if extension.connection is None or extension.undelivered is None:
            return
        event_id = f"Lambda-Extension-Event-Identifier: {new_request_id()}"
        extension.connection.answer(200, extension.undelivered, event_id)
        extension.connection = extension.undelivered = None

    def forget(self, connection: Connection) -> None:
        """A connection is closed."""
        for extension in self.all:
            if extension.connection is connection:
                extension.connection = None

    # What connections report.

    def register(self, connection: Connection, name: str, features: str, body: bytes) -> None:
        """``POST extension/register``."""
        external = name in self._awaited
        if self._refuse_registration(connection, name):
            return
        try:
            events = _events(body)
        except ValueError as error:
            connection.refuse(400, "InvalidRequestFormat", f"The body must be a JSON object with events: {error}")
            return
        unknown = [event for event in events if event not in _EVENTS]
        if unknown or (not external and "SHUTDOWN" in events):
            allowed = "INVOKE and SHUTDOWN" if external else "INVOKE, as this is an internal extension"
            connection.refuse(403, "Extension.InvalidEventType", f"An extension may register for {allowed}.")
            return
        extension = Extension(name, external, events)
        self.all.append(extension)
        self.busy += 1
        # Unlike request ids these are secrets of a kind: they are drawn from the operating system.
        extension_id = str(uuid.uuid4())
        self._by_id[extension_id] = extension
        connection.answer(200, self._document(features), f"Lambda-Extension-Identifier: {extension_id}")
        if external:
            self._awaited.discard(name)
            if not self._awaited:
                self._listener.on_registered()

    def _refuse_registration(self, connection: Connection, name: str) -> bool:
        if not _NAME.fullmatch(name):
            kind, message = "InvalidExtensionName", "Lambda-Extension-Name must have 1 to 128 printable characters."
        elif self.closed:
            kind, message = "RegistrationClosed", "Extension registration closed already."
        elif any(extension.name == name for extension in self.all):
            kind, message = "InvalidExtensionState", f"Extension {name} is registered already."
        elif len(self.all) >= MAX_EXTENSIONS:
            kind, message = "TooManyExtensions", f"Extension limit ({MAX_EXTENSIONS}) reached."
        elif self._awaited and name not in self._awaited:
            expected = ", ".join(sorted(self._awaited))
            kind = "InvalidExtensionName"
            message = f"Lambda-Extension-Name must be the file name of an extension in /opt/extensions: {expected}."
        else:
            return False
        connection.refuse(403, f"Extension.{kind}", message)
        return True

    def _document(self, features: str) -> bytes:
        function = self._listener.function
        document = {
            "functionName": function.name,
            "functionVersion": function.version,
            "handler": function.handler,
        }
        if "accountId" in (feature.strip() for feature in features.split(",")):
            document["accountId"] = function.account
        return json.dumps(document).encode()

    def poll(self, connection: Connection, extension_id: str) -> None:
        """``GET extension/event/next``."""
        extension = self._find(connection, extension_id)
        if extension is None:
            return
        if extension.connection is connection:
            connection.abort()  # a second request behind one that waits
            return
        if extension.connection is not None:
            connection.refuse(403, "Extension.InvalidExtensionState", "The extension waits for an event already.")
            return
        extension.connection = connection
        if extension.undelivered is not None:
            self._deliver(extension)
        elif not extension.ready:
            extension.ready = True
            self.busy -= 1
            if self.busy == 0:
                self._on_ready()

    def fail(self, connection: Connection, extension_id: str, kind: str, body: bytes) -> None:
        """``POST extension/init/error`` or ``.../exit/error``. No further call of it succeeds."""
        extension = self._find(connection, extension_id)
        if extension is None:
            return
        if not kind:
            connection.refuse(403, "Extension.MissingHeader", "Lambda-Extension-Function-Error-Type is missing.")
            return
        extension.failed = True
        connection.answer(202, b'{"status":"OK"}\n')
        self._listener.on_extension_error(kind, body)

    def subscribe(self, connection: Connection, extension_id: str, body: bytes) -> None:
        """``PUT telemetry``."""
        extension = self._find(connection, extension_id)
        if extension is None:
            return
        if self.telemetry is None:
            connection.refuse(403, "Telemetry.NotSupported", "The Telemetry API is not supported.")
            return
        if self.closed:
            connection.refuse(403, "Telemetry.SubscriptionClosed", "Subscriptions end with the init phase.")
            return
        try:
            self.telemetry.subscribe(extension.name, body)
        except SubscriptionError as error:
            connection.refuse(400, "ValidationError", str(error))
        else:
            connection.answer(200, b'"OK"')

    def _find(self, connection: Connection, extension_id: str) -> Extension | None:
        """The extension of an identifier; without one the request is refused."""
        extension = self._by_id.get(extension_id.lower())
        if extension is not None and not extension.failed:
            return extension
        if extension is not None:
            kind, message = "InvalidExtensionState", f"Extension {extension.name} has reported an error."
        elif not extension_id:
            kind, message = "MissingExtensionIdentifier", "Missing Lambda-Extension-Identifier header"
        elif not _is_uuid(extension_id):
            kind, message = "InvalidExtensionIdentifier", "Invalid Lambda-Extension-Identifier"
        else:
            kind, message = "UnknownExtensionIdentifier", f"Unknown extension {extension_id}"
        connection.refuse(403, f"Extension.{kind}", message)
        return None


def _events(body: bytes) -> tuple[str, ...]:
    try:
        document = json.loads(body) if body.strip() else {}
    except (RecursionError, UnicodeDecodeError) as error:
        raise ValueError(type(error).__name__) from None
    events = document.get("events", []) if isinstance(document, dict) else None
    if not isinstance(events, list) or not all(isinstance(event, str) for event in events):
        raise ValueError("events must be a list of strings")
    return tuple(dict.fromkeys(events))


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
