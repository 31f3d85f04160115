"""InvokeWithResponseStream: the answer of a function, piece by piece, as AWS's event stream.

Sources: https://docs.aws.amazon.com/lambda/latest/api/API_InvokeWithResponseStream.html and
https://docs.aws.amazon.com/lambda/latest/dg/configuration-response-streaming.html
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any

from insula.lambda_api.context import Context
from insula.lambda_api.eventstream import encode_event
from insula.lambda_api.invoke import prepare, settled
from insula.lambda_api.registry import operation
from insula.model.errors import LambdaError
from insula.model.invocation import Invocation, InvocationResult
from insula.model.stream import ResponseStream


@operation("InvokeWithResponseStream")
async def invoke_with_response_stream(context: Context, request: dict[str, Any]) -> Mapping[str, Any]:
    """Run a function once and pass on what it streams; a function that does not stream answers in one piece."""
    invocation = prepare(context, request)
    if request.get("InvocationType") == "DryRun":
        return {"StatusCode": 204}
    if invocation.function.state == "Pending":
        invocation = await settled(context, invocation)
    stream = ResponseStream()
    running = asyncio.create_task(context.services.invoker.invoke(replace(invocation, stream=stream)))
    # However it ends, by an answer, a timeout or a crash: then nothing more comes.
    running.add_done_callback(lambda _: stream.end())
    try:
        if not await stream.begun():
            await running  # an error of the invocation itself is the answer to this request
    except asyncio.CancelledError:
        running.cancel()
        raise
    return {
        "StatusCode": 200,
        "ExecutedVersion": invocation.function.version,
        "EventStream": _events(invocation, stream, running),
    }


async def _events(
    invocation: Invocation, stream: ResponseStream, running: asyncio.Task[InvocationResult]
) -> AsyncGenerator[bytes, None]:
    try:
        while piece := await stream.read():
            yield _chunk(piece)
        result = await _outcome(invocation, running)
        if stream.content_type is None and result.error is None and result.payload:
            yield _chunk(result.payload)
        yield _complete(invocation, result)
    finally:
        stream.abandon()


async def _outcome(invocation: Invocation, running: asyncio.Task[InvocationResult]) -> InvocationResult:
    """How it ended. The answer has begun: an error can only be told at its end."""
    try:
        return await running
    except LambdaError as error:
        return InvocationResult(str(error).encode(), error.code, invocation.function.version)


def _chunk(piece: bytes) -> bytes:
    return encode_event("PayloadChunk", piece, "application/octet-stream")


def _complete(invocation: Invocation, result: InvocationResult) -> bytes:
    document: dict[str, str] = {}
    if result.error is not None:
        document["ErrorCode"] = result.error
        document["ErrorDetails"] = result.payload.decode("utf-8", "replace")
    if invocation.tail:
        document["LogResult"] = base64.b64encode(result.log_tail or b"").decode()
    return encode_event("InvokeComplete", json.dumps(document).encode(), "application/json")
