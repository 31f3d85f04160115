"""Invoke: the hot path."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import replace
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
    if "DurableExecutionName" in request:
        refuse_unsupported(request)
    invocation = prepare(context, request)
    kind = request.get("InvocationType", "RequestResponse")
    if kind == "Event":
        raise NotImplementedException(
            "Insula does not run asynchronous invocations yet. Use InvocationType RequestResponse."
        )
    if kind == "DryRun":
        return {"StatusCode": 204}
    if invocation.function.state == "Pending":
        invocation = await settled(context, invocation)
    result = await context.services.invoker.invoke(invocation)
    return {
        "StatusCode": 200,
        "FunctionError": result.error,
        "LogResult": base64.b64encode(result.log_tail or b"").decode() if invocation.tail else None,
        "ExecutedVersion": result.executed_version,
        "Payload": result.payload,
    }


def prepare(context: Context, request: Mapping[str, Any]) -> Invocation:
    """The invocation that a request asks for, checked. Its function may be pending yet.

    Raises:
        ResourceNotFoundException: there is no such function.
        InvalidParameterValueException: the tenant id does not fit the function.
        InvalidRequestContentException: payload or client context are not valid.
    """
    arn = context.reference(request)
    function = resolve(context, arn)
    tenant = request.get("TenantId")
    check_tenant(function, tenant)
    check_wall(per_tenant=function.per_tenant, isolates=context.services.isolates)
    return Invocation(
        request_id=context.request_id,
        function=function,
        payload=_payload(request["Payload"]),
        invoked_arn=str(arn),
        tenant=tenant,
        client_context=_client_context(request.get("ClientContext")),
        trace_id=context.trace_id if _TRACE_ID.fullmatch(context.trace_id) else new_trace_id(),
        tail=request.get("LogType") == "Tail",
    )


async def settled(context: Context, invocation: Invocation) -> Invocation:
    """The invocation once its function is no longer pending.

    Raises:
        LambdaError: the function failed to become active, or did not in time.
    """
    function = await context.services.activation.settled(invocation.function)
    return replace(invocation, function=function)


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
