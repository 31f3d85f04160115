"""Callers: invocations of all kinds, each answer judged."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import time
import uuid
from collections.abc import Sequence
from threading import Event
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from tests.functional.deployment import sign
from tests.server import Server
from tests.soak.functions import Kind
from tests.soak.ledger import Ledger, Request

# What may be the answer while environments are killed and functions change. All else is a broken promise.
_REFUSALS = {
    "TooManyRequestsException",
    "ResourceNotFoundException",  # between its deletion and its making anew
    "ServiceUnavailableException",  # an update has just begun
}
_NOT_MADE = "The execution environment could not be made. The server's log says why."
_ENDS = {"Runtime.ExitError", "Runtime.OutOfMemory", "Extension.Crash", "Runtime.TruncatedResponse"}
_FAILURES = {"Sandbox.Timedout", *_ENDS}
# Outcomes that only a kill explains.
UNTOLD = {f"{kind}, not told to" for kind in _ENDS}
_DEED_SHARE = 0.12  # of all invocations
_LEAVING_SHARE = 0.03
_PAUSE_SECONDS = 0.02


class Caller:
    """One thread of callers.

    Args:
        kinds: whom it calls.
        ledger: where it reports.
        draw: its chance.
    """

    def __init__(self, server: Server, kinds: Sequence[Kind], ledger: Ledger, draw: random.Random) -> None:
        self._server = server
        self._kinds = kinds
        self._ledger = ledger
        self._draw = draw
        self._client = server.client()

    def run(self, stop: Event) -> None:
        """Call until it is told to stop."""
        while not stop.is_set():
            (kind,) = self._draw.choices(self._kinds, [kind.weight for kind in self._kinds])
            try:
                self.call(kind)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
                self._ledger.problem(f"{kind.name}: no answer: {error!r}")
            stop.wait(self._draw.random() * _PAUSE_SECONDS)
        self._client.close()

    def call(self, kind: Kind) -> None:
        """Make one invocation."""
        draw = self._draw
        tenant = f"tenant-{int(draw.paretovariate(0.8)) % kind.tenants}" if kind.tenants else None
        deed = draw.choice(kind.deeds) if draw.random() < _DEED_SHARE else "answer"
        qualified = kind.alias and draw.random() < 0.3
        least = None if qualified else self._ledger.generations[kind.name]
        request = Request(kind.name, tenant, deed, uuid.uuid4().hex, least)
        if draw.random() < _LEAVING_SHARE:
            self._leave(request)
            return
        options: dict[str, Any] = {"TenantId": tenant} if tenant else {}
        if qualified:
            options["Qualifier"] = "live"
        payload = json.dumps({"deed": deed, "token": request.token})
        try:
            failed, body = self._invoke(kind, payload, options)
        except ClientError as error:
            self._refused(request, error)
            return
        if failed:
            self._failed(request, failed, body)
        else:
            self._ledger.answered(request, json.loads(body))

    def _invoke(self, kind: Kind, payload: str, options: dict[str, Any]) -> tuple[str | None, bytes]:
        """Whether the function failed, and its answer or its error."""
        if not kind.streams:
            answer = self._client.invoke(FunctionName=kind.name, Payload=payload, **options)
            return answer.get("FunctionError"), answer["Payload"].read()
        answer = self._client.invoke_with_response_stream(FunctionName=kind.name, Payload=payload, **options)
        *chunks, last = answer["EventStream"]
        complete = last["InvokeComplete"]
        body = b"".join(chunk["PayloadChunk"]["Payload"] for chunk in chunks)
        return complete.get("ErrorCode"), complete.get("ErrorDetails", "").encode() if "ErrorCode" in complete else body

    def _refused(self, request: Request, error: ClientError) -> None:
        code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        self._ledger.outcome(request, code)
        if code not in _REFUSALS and not (code == "ServiceException" and message == _NOT_MADE):
            self._ledger.problem(f"{request} was refused with {code}: {message}")

    def _failed(self, request: Request, code: str, body: bytes) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            code = json.loads(body)["errorType"]
        told = "" if request.deed in {"exit", "hang", "grow"} else ", not told to"
        self._ledger.outcome(request, code + told)
        if code not in _FAILURES:
            self._ledger.problem(f"{request} failed with {code}: {body[:300]!r}")

    def _leave(self, request: Request) -> None:
        """Go away before the answer can be there."""
        headers = [] if request.tenant is None else [("X-Amz-Tenant-Id", request.tenant)]
        path = f"/2015-03-31/functions/{request.function}/invocations"
        body = json.dumps({"deed": "sleep", "token": request.token}).encode()
        signed = sign(self._server, "POST", path, body, headers)
        place = urlsplit(self._server.endpoint)
        assert place.hostname is not None
        connection = http.client.HTTPConnection(place.hostname, place.port)
        connection.request("POST", path, body, dict(signed.headers))
        time.sleep(self._draw.random() * 0.3)
        connection.close()
        self._ledger.outcome(request, "caller left")
