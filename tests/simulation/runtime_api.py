"""A Runtime API that talks to fake sandboxes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from typing import cast

import pytest

from insula.dispatch import environment as environment_module
from insula.model.invocation import Invocation
from insula.runtime_api.extensions import Extensions
from insula.runtime_api.server import Listener
from insula.runtime_api.telemetry import Telemetry
from tests.simulation.fakes import LIVING, FakeSandbox


class FakeRuntimeApi:
    """In the place of ``RuntimeApi``: the listening socket is the fake sandbox itself."""

    def __init__(self, listener: Listener, *, extensions: Sequence[str], telemetry: Telemetry) -> None:
        self.extensions = Extensions(listener, extensions, lambda: None, telemetry)
        self._listener = listener
        self._sandbox: FakeSandbox | None = None

    async def serve(self, sock: socket.socket) -> None:
        self._sandbox = cast("FakeSandbox", sock)
        self._sandbox.attach(self._listener)

    def deliver(self, invocation: Invocation, deadline_ms: int) -> None:
        assert self._sandbox is not None
        self._sandbox.deliver(invocation, deadline_ms)

    @property
    def grace(self) -> float:
        return 0.0 if self._sandbox is None else self._sandbox.grace

    def shutdown(self, reason: str, deadline_ms: int) -> None:
        assert self._sandbox is not None
        self._sandbox.shut_down(reason)

    def close(self) -> None:
        """Nothing is open."""


@contextlib.contextmanager
def fake_runtime_api() -> Iterator[pytest.MonkeyPatch]:
    """Environments talk to fake sandboxes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment_module, "RuntimeApi", FakeRuntimeApi)
        try:
            yield patch
        finally:
            while LIVING:
                LIVING.pop().abandon()
