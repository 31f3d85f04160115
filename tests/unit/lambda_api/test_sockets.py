"""The application behind the HTTP front, over real sockets, with boto3 unchanged."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import uvloop
from botocore.config import Config
from botocore.exceptions import ClientError

from insula.front.limits import Limits
from insula.front.server import Front
from insula.lambda_api.service import Service
from tests.unit.lambda_api.api_harness import CREDENTIAL, REGION, Harness, settings


@pytest.fixture
def endpoint(service: Service, tmp_path: Path) -> Iterator[str]:
    harness = Harness(service, tmp_path)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    serving = _Serving(harness, listener)
    thread = threading.Thread(target=serving.run)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    serving.stop()
    thread.join()
    listener.close()
    harness.close()


class _Serving:
    """The front in a thread of its own."""

    def __init__(self, harness: Harness, listener: socket.socket) -> None:
        self._harness = harness
        self._listener = listener
        self._ready = threading.Event()

    def run(self) -> None:
        uvloop.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._front = Front(self._harness.app, Limits(), grace=5.0)
        self._ready.set()
        await self._front.serve(self._listener)

    def stop(self) -> None:
        self._ready.wait()
        self._loop.call_soon_threadsafe(self._front.stop)


@pytest.fixture
def remote(endpoint: str) -> Iterator[Any]:
    client = boto3.client(
        "lambda",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=CREDENTIAL.access_key,
        aws_secret_access_key=CREDENTIAL.secret,
        config=Config(retries={"total_max_attempts": 1}),
    )
    yield client
    client.close()


def test_a_function_is_made_invoked_and_deleted(remote: Any) -> None:
    remote.create_function(**settings(TenancyConfig={"TenantIsolationMode": "PER_TENANT"}))
    remote.get_waiter("function_active_v2").wait(FunctionName="hello", WaiterConfig={"Delay": 1})
    response = remote.invoke(FunctionName="hello", TenantId="blue", Payload=b'{"a": 1}')
    assert response["Payload"].read() == b'{"a": 1}'
    assert response["ResponseMetadata"]["HTTPHeaders"]["date"]
    assert remote.delete_function(FunctionName="hello")["StatusCode"] == 204
    assert remote.list_functions()["Functions"] == []


@pytest.mark.parametrize("excess", [1, 3_000_000])
def test_a_payload_over_the_limit_gets_its_413(remote: Any, excess: int) -> None:
    with pytest.raises(ClientError) as caught:
        remote.invoke(FunctionName="hello", Payload=b"1" * (6_291_456 + excess))
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 413


def test_a_stranger_gets_a_403(endpoint: str) -> None:
    client = boto3.client(
        "lambda",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id="AKIDOTHER",
        aws_secret_access_key="x",
        config=Config(retries={"total_max_attempts": 1}),
    )
    with pytest.raises(ClientError) as caught:
        client.create_function(**settings())
    assert caught.value.response["Error"]["Code"] == "UnrecognizedClientException"
    client.close()
