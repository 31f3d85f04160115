"""The API over services in memory, and real boto3 clients whose requests go straight into it."""

from __future__ import annotations

import asyncio
import io
import itertools
import time
import zipfile
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config

from insula.artifacts.code import CodeStore
from insula.dispatch.provision import Provisioned
from insula.lambda_api.activation import Activation
from insula.lambda_api.app import LambdaApi
from insula.lambda_api.context import Services
from insula.lambda_api.download import CodeLinks
from insula.lambda_api.service import Service
from insula.lambda_api.sigv4 import Credential, Verifier
from insula.model.function import FunctionVersion
from insula.model.invocation import Invocation, InvocationResult
from insula.sandbox.driver import RuntimeMissingError
from insula.store.catalog import Catalog

T = TypeVar("T")

ACCOUNT = "111111111111"
REGION = "us-east-1"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/r"
CREDENTIAL = Credential("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", ACCOUNT)


@dataclass
class RecordingInvoker:
    """Answers every invocation with its payload, and remembers what it was told."""

    invocations: list[Invocation] = field(default_factory=list)
    retired: list[str] = field(default_factory=list)
    reserved: dict[str, int | None] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    states: dict[str, Provisioned] = field(default_factory=dict)
    error: str | None = None
    failure: BaseException | None = None

    async def invoke(self, invocation: Invocation) -> InvocationResult:
        self.invocations.append(invocation)
        if self.failure is not None:
            raise self.failure
        tail = b"END RequestId" if invocation.tail else None
        return InvocationResult(invocation.payload, self.error, invocation.function.version, tail)

    def retire(self, deployment: str) -> None:
        self.retired.append(deployment)

    def reserve(self, account: str, name: str, concurrency: int | None) -> None:
        assert account == ACCOUNT
        self.reserved[name] = concurrency

    def provision(self, function: FunctionVersion, count: int) -> None:
        self.kept[f"{function.name}:{function.version}"] = count

    def provisioned(self, deployment: str) -> Provisioned:
        return self.states.get(deployment, Provisioned())


class Clock:
    """The real time, shifted by the test."""

    shift = 0.0

    def __call__(self) -> float:
        return time.time() + self.shift


@dataclass(frozen=True)
class Answer:
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes


class Harness:
    """The application with all that is behind it; requests run on one event loop, one after the other."""

    def __init__(
        self, service: Service, folder: Path, *, region: str = REGION, signed: bool = True, concurrency: int = 1000
    ) -> None:
        numbers = itertools.count()

        def new_id() -> str:
            return f"00000000-0000-4000-8000-{next(numbers):012d}"

        self.region = region
        self.clock = Clock()
        self._gate = asyncio.Event()
        self._gate.set()
        self.catalog = Catalog.open(folder / "data")
        self.code = CodeStore(folder / "code")
        self.layers = CodeStore(folder / "layers")
        self.invoker = RecordingInvoker()
        self.random = 0.5
        self.activation = _GatedActivation(self.catalog, new_id, patience=0.2)
        self.activation.gate = self._gate
        self.services = Services(
            region=region,
            architecture="x86_64",
            catalog=self.catalog,
            code=self.code,
            layers=self.layers,
            invoker=self.invoker,
            activation=self.activation,
            links=CodeLinks((self.code, self.layers), b"secret", self.clock),
            concurrency=concurrency,
            isolates=True,
            check_runtime=_check_runtime,
            clock=self.clock,
            new_id=new_id,
            random=lambda: self.random,
        )
        verifier = Verifier({CREDENTIAL.access_key: CREDENTIAL}.get, region, self.clock) if signed else None
        self.app = LambdaApi(service, self.services, verifier=verifier, account=ACCOUNT)
        self._runner = asyncio.Runner()

    def close(self) -> None:
        self._runner.run(self.activation.close())
        self._runner.close()
        self.catalog.close()

    def hold_activation(self) -> None:
        """Let nothing become active until ``release_activation``."""
        self._gate.clear()

    def release_activation(self) -> None:
        self._gate.set()

    def restart_activation(self) -> None:
        """What the server's next start does."""
        self.run(self.activation.close())
        self._gate.set()
        self.run(self._resume())

    async def _resume(self) -> None:
        self.activation.resume()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the event loop of all requests."""
        return self._runner.run(work)

    def request(
        self,
        method: str,
        path: str | bytes,
        body: bytes | Sequence[bytes] = b"",
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> Answer:
        """Send one request straight into the application; a sequence of bytes is a body in pieces."""
        pieces = [body] if isinstance(body, bytes) else list(body)
        messages = [
            {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
            for number, piece in enumerate(pieces, start=1)
        ]

        async def receive() -> dict[str, Any]:
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        answer = self.run(self.exchange(method, path.encode() if isinstance(path, str) else path, receive, headers))
        assert answer is not None
        return answer

    async def exchange(
        self,
        method: str,
        raw: bytes,
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> Answer | None:
        """Run the application on one request; None if it sent no answer."""
        target, _, query = raw.partition(b"?")
        scope = {
            "type": "http",
            "method": method,
            "scheme": "http",
            "path": target.decode(errors="replace"),
            "raw_path": target,
            "query_string": query,
            "headers": list(headers),
        }
        sent: list[Mapping[str, Any]] = []

        async def send(message: Mapping[str, Any]) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        if not sent:
            return None
        received = {name.decode(): value.decode("latin-1") for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], received, b"".join(message["body"] for message in sent[1:]))

    def client(self, **changes: Any) -> Any:
        """A boto3 client whose HTTP session is this application."""
        options: dict[str, Any] = {
            "region_name": self.region,
            "aws_access_key_id": CREDENTIAL.access_key,
            "aws_secret_access_key": CREDENTIAL.secret,
            "endpoint_url": "http://insula.test:9900",
            "config": Config(retries={"total_max_attempts": 1}, parameter_validation=False),
        } | changes
        client: Any = boto3.client("lambda", **options)
        client._endpoint.http_session = _Session(self)
        return client


class _GatedActivation(Activation):
    """An activation that a test can hold."""

    gate: asyncio.Event

    async def _settle(self, key: tuple[str, str, str]) -> None:
        await self.gate.wait()
        await super()._settle(key)


class _Session:
    def __init__(self, harness: Harness) -> None:
        self._harness = harness

    def send(self, request: AWSPreparedRequest) -> AWSResponse:
        parts = urlsplit(request.url)
        body: Any = request.body or b""
        data = body.read() if hasattr(body, "read") else _bytes(body)
        headers = [(name.lower().encode(), _bytes(value)) for name, value in request.headers.items()]
        headers.append((b"host", parts.netloc.encode()))
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        answer = self._harness.request(request.method, target, data, headers)
        received = HTTPHeaders.from_dict(answer.headers)
        return AWSResponse(request.url, answer.status, received, _Raw(answer.body))

    def close(self) -> None:
        return


class _Raw(io.BytesIO):
    def stream(self, amount: int = 65536, decode_content: bool = False) -> Iterator[bytes]:
        while chunk := self.read(amount):
            yield chunk


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def _check_runtime(runtime: str) -> None:
    if runtime not in {"python3.11", "python3.12"}:
        raise RuntimeMissingError(f"This host has no {runtime}. Install it, or use python3.11.")


def zipped(source: str = "def handler(event, context): return event") -> bytes:
    """A deployment package with one module."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("index.py"), source)
    return buffer.getvalue()


def settings(**changes: Any) -> dict[str, Any]:
    """A good CreateFunction request, with changes."""
    request: dict[str, Any] = {
        "FunctionName": "hello",
        "Runtime": "python3.11",
        "Role": ROLE,
        "Handler": "index.handler",
        "Code": {"ZipFile": zipped()},
    }
    return request | changes
