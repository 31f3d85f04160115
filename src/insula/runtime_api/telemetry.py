"""The Lambda Telemetry API: what happens in an environment, told to the extensions that subscribed.

Sources: https://docs.aws.amazon.com/lambda/latest/dg/telemetry-api.html and
https://docs.aws.amazon.com/lambda/latest/dg/telemetry-schema-reference.html
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from insula.runtime_api.delivery import Connect, Delivery
from insula.runtime_api.subscription import parse_subscription

_MAX_PAST_BYTES = 256 << 10  # of events from before the first subscription
_MAX_HELD_BYTES = 4 << 20  # of events that are not delivered, for all subscribers of an environment


class Telemetry:
    """Telemetry of one environment.

    Args:
        connect: opens a connection to a port inside the sandbox. OSError if nobody listens there.
        wall: unix seconds.
        expected: whether extensions are to come: then events are kept for them from the start.

    Attributes:
        active: whether an event can find a reader. Who composes events asks this first.
    """

    def __init__(self, connect: Connect, wall: Callable[[], float], *, expected: bool) -> None:
        self.active = expected
        self._connect = connect
        self._wall = wall
        self._subscribers: dict[str, tuple[tuple[str, ...], Delivery]] = {}
        self._past: list[tuple[str, bytes]] | None = []
        self._past_bytes = 0

    def subscribe(self, name: str, body: bytes) -> None:
        """Subscribe the extension ``name``. A second time changes nothing, as on AWS.

        Raises:
            SubscriptionError: the request's body is not valid.
        """
        wanted = parse_subscription(body)
        state = "Already subscribed"
        if name not in self._subscribers:
            state = "Subscribed"
            self.active = True
            delivery = Delivery(wanted, self._connect, self._stamp)
            self._subscribers[name] = (wanted.types, delivery)
            for category, event in self._past or ():
                if category in wanted.types:
                    delivery.offer(event)
        types = list(self._subscribers[name][0])
        self.emit("platform.telemetrySubscription", {"name": name, "state": state, "types": types})

    def emit(self, kind: str, record: Any) -> None:
        """Tell all who subscribed to this kind of event.

        Args:
            kind: ``platform.`` and its name, ``function`` or ``extension``.
            record: as AWS documents it for this kind.
        """
        event = json.dumps({"time": self._stamp(), "type": kind, "record": record}).encode()
        category = kind.partition(".")[0]
        held = sum(delivery.held for _, delivery in self._subscribers.values())
        for types, delivery in self._subscribers.values():
            if category in types:
                held += len(event)
                delivery.offer(event, room=held <= _MAX_HELD_BYTES)
        if self._past is not None and self._past_bytes + len(event) <= _MAX_PAST_BYTES:
            self._past_bytes += len(event)
            self._past.append((category, event))

    def end_init(self) -> None:
        """Nobody can subscribe any more."""
        self._past = None
        self.active = bool(self._subscribers)

    def flush(self) -> None:
        """Deliver what waits now."""
        for _, delivery in self._subscribers.values():
            delivery.flush()

    def pause(self) -> None:
        """The sandbox is frozen."""
        for _, delivery in self._subscribers.values():
            delivery.pause()

    def resume(self) -> None:
        """The sandbox runs again."""
        for _, delivery in self._subscribers.values():
            delivery.resume()

    def close(self) -> None:
        """The environment ends."""
        self.active = False
        for _, delivery in self._subscribers.values():
            delivery.close()

    def _stamp(self) -> str:
        return datetime.fromtimestamp(self._wall(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
