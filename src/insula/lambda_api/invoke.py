"""Invoke: the hot path."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from insula.lambda_api.context import Context
from insula.lambda_api.lookup import resolve
from insula.lambda_api.refusals import refuse_unsupported
from insula.lambda_api.registry import operation
from insula.model.errors import (
    InvalidRequestContentException,
    NotImplementedException,
)
from insula.model.invocation import Invocation, new_trace_id
from insula.model.tenant import check_tenant, check_wall

_CLIENT_CONTEXT_BYTES = 3583  # of base64, as AWS documents for ClientContext
_TRACE_ID = re.compile(r"[A-Za-z0-9=;:._-]{1,256}")


@operation("Invoke")
async def invoke(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """Run a function once and answer with its outcome; with DryRun only check that it could be run."""
    arn = context.reference(request)
    function = resolve(context, arn)
    if "DurableExecutionName" in request:
        refuse_unsupported(request)
    tenant = request.get("TenantId")
    check_tenant(function, tenant)
    check_wall(per_tenant=function.per_tenant, isolates=context.services.isolates)
    kind = request.get("InvocationType", "RequestResponse")
    if kind == "Event":
        raise NotImplementedException(
            "Insula does not run asynchronous invocations yet. Use InvocationType RequestResponse."
        )
    payload = _payload(request["Payload"])
    client_context = _client_context(request.get("ClientContext"))
    if kind == "DryRun":
        return {"StatusCode": 204}
    if function.state == "Pending":
        function = await context.services.activation.settled(function)
    tail = request.get("LogType") == "Tail"
    result = await context.services.invoker.invoke(
        Invocation(
            request_id=context.request_id,
            function=function,
            payload=payload,
            invoked_arn=str(arn),
            tenant=tenant,
            client_context=client_context,
            trace_id=context.trace_id if _TRACE_ID.fullmatch(context.trace_id) else new_trace_id(),
            tail=tail,
        )
    )
    return {
        "StatusCode": 200,
        "FunctionError": result.error,
        "LogResult": base64.b64encode(result.log_tail or b"").decode() if tail else None,
        "ExecutedVersion": result.executed_version,
        "Payload": result.payload,
    }


def _payload(body: bytes) -> bytes:
    if not body:
        return b"{}"
    try:
        _JSON.decode(body.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidRequestContentException(
            f"Could not parse request body into json: Could not parse payload into json: {_reason(error)}"
        ) from None
    return body


def _client_context(encoded: str | None) -> str | None:
    if encoded is None:
        return None
    try:
        text = base64.b64decode(encoded, validate=True).decode()
        if len(encoded) <= _CLIENT_CONTEXT_BYTES and isinstance(_JSON.decode(text), dict):
            return text
    except (binascii.Error, ValueError, RecursionError):
        pass
    raise InvalidRequestContentException(
        f"Client context must be a valid Base64-encoded JSON object of at most {_CLIENT_CONTEXT_BYTES} bytes."
    )


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"Invalid UTF-8 byte 0x{error.object[error.start]:02x} at offset {error.start}"
    if isinstance(error, RecursionError):
        return "Document is nested too deeply"
    return str(error)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)
