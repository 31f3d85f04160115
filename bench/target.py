"""One endpoint under measurement: creates the functions, and signs the requests that are replayed."""

from __future__ import annotations

import io
import json
import uuid
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import botocore.session
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from wire import Connection, Request

# The answer tells whether the environment has served this tenant only, and, if asked, how often.
_ANSWER = """
tenants, calls = set(), 0


def handler(event, context):
    global calls
    calls += 1
    tenants.add(context.tenant_id)
    return f"{context.tenant_id} {len(tenants)} {calls if event['count'] else 0}"
"""
HANDLERS = {
    "trivial": _ANSWER,
    "boto3": "import boto3\n\nclient = boto3.client('s3', region_name='us-east-1')\n" + _ANSWER,
}
"""Handlers by name: one that does nothing, and one that imports boto3 and makes a client during init."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach an endpoint.

    Attributes:
        endpoint: ``http://HOST:PORT``.
        access_key, secret_key, region: what requests are signed with.
    """

    endpoint: str
    access_key: str
    secret_key: str
    region: str


@dataclass(frozen=True, slots=True)
class Settings:
    """What functions are created with: runtime, role ARN and memory in MB."""

    runtime: str
    role: str
    memory: int


class Target:
    """A Lambda endpoint.

    Attributes:
        label: its name in the tables.
        host, port: where it listens.
        pid: root of its process tree, or None if that is not known.
    """

    def __init__(self, label: str, access: Access, settings: Settings, pid: int | None) -> None:
        address = urlsplit(access.endpoint)
        self.label = label
        self.host = address.hostname or ""
        self.port = address.port or 80
        self.pid = pid
        self._settings = settings
        self._functions: set[str] = set()
        self._captured: AWSPreparedRequest
        self._client: Any = botocore.session.get_session().create_client(
            "lambda",
            endpoint_url=access.endpoint,
            region_name=access.region,
            aws_access_key_id=access.access_key,
            aws_secret_access_key=access.secret_key,
            config=Config(retries={"total_max_attempts": 1}, read_timeout=60),
        )

    def create(self, handler: str, *, ahead: bool) -> str:
        """Create a tenant-isolated function with one of HANDLERS and wait until it is active; its name.

        Args:
            ahead: whether environments may be initialised before their tenant comes. It is a tag of Insula's own, which
                other endpoints only keep.

        Raises:
            botocore.exceptions.BotoCoreError, ClientError: the endpoint refuses or does not answer.
        """
        name = f"bench-{handler}-{uuid.uuid4().hex[:8]}"
        self._client.create_function(
            FunctionName=name,
            Runtime=self._settings.runtime,
            Role=self._settings.role,
            Handler="app.handler",
            Timeout=30,
            MemorySize=self._settings.memory,
            TenancyConfig={"TenantIsolationMode": "PER_TENANT"},
            Code={"ZipFile": _package(HANDLERS[handler])},
            Tags={} if ahead else {"insula:proactive": "0"},
        )
        self._functions.add(name)
        waiter = self._client.get_waiter("function_active_v2")
        waiter.wait(FunctionName=name, WaiterConfig={"Delay": 0.1, "MaxAttempts": 300})
        return name

    def delete(self, function: str) -> None:
        """Delete a function; the endpoint is expected to end its environments."""
        self._functions.discard(function)
        self._client.delete_function(FunctionName=function)

    def close(self) -> None:
        """Delete what an interrupted measurement left, unless the endpoint is gone already."""
        for function in list(self._functions):
            with suppress(BotoCoreError, ClientError):
                self.delete(function)

    def connect(self) -> Connection:
        """Open a connection."""
        return Connection(self.host, self.port)

    def request(self, function: str, tenant: str, calls: int = 0) -> Request:
        """The bytes of one Invoke as botocore signs and sends it, valid for five minutes.

        With ``calls`` the answer is right only if this is that environment's calls-th invocation.
        """
        self._client.meta.events.register_first("before-send.lambda.Invoke", self._capture)
        try:
            payload = json.dumps({"count": calls > 0})
            self._client.invoke(FunctionName=function, TenantId=tenant, Payload=payload)
        finally:
            self._client.meta.events.unregister("before-send.lambda.Invoke", self._capture)
        return Request(_wire_format(self._captured), json.dumps(f"{tenant} 1 {calls}").encode())

    def _capture(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        """Keep the request; an answer from here makes botocore not send it."""
        self._captured = request
        return AWSResponse(request.url, 200, {}, io.BytesIO())  # type: ignore[arg-type]


def _package(source: str) -> bytes:
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("app.py", source)
    return package.getvalue()


def _wire_format(request: AWSPreparedRequest) -> bytes:
    address = urlsplit(request.url)
    body = request.body
    if not isinstance(body, bytes):
        raise TypeError(f"botocore made a body of {type(body)}, expected bytes")
    headers = {name: value.decode() if isinstance(value, bytes) else value for name, value in request.headers.items()}
    headers |= {"Host": address.netloc, "Content-Length": str(len(body))}
    query = f"?{address.query}" if address.query else ""
    lines = [f"{request.method} {address.path}{query} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
