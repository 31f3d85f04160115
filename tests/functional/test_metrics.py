"""GET /metrics of a real server."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError
from prometheus_client.parser import text_string_to_metric_families

from tests.functional.deployment import COUNTER, deploy, eventually, send
from tests.metrics import DRIFTS, scrape
from tests.server import Server


def test_prometheus_can_read_it_without_a_key(server: Server) -> None:
    status, headers, body = send(server, "GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=")
    families = list(text_string_to_metric_families(body.decode()))
    assert len(families) > 10
    assert all(family.documentation for family in families)


def test_it_counts_what_happens_and_nothing_drifts(new_server: Callable[..., Server]) -> None:
    server = new_server("--proactive", "1", "--idle-timeout", "2")
    counter = deploy(server, COUNTER, tenancy=True)
    counter.invoke(tenant="blue")
    counter.invoke(tenant="blue")
    eventually(lambda: scrape(server)["insula_environments,unbound"] == 1)
    counter.invoke(tenant="green")
    counter.client.put_function_concurrency(FunctionName=counter.name, ReservedConcurrentExecutions=0)
    with pytest.raises(ClientError):
        counter.invoke(tenant="blue")
    found = eventually(lambda: (now := scrape(server))["insula_invocations_running"] == 0 and now)
    starts = [found[f"insula_starts_total,{kind}"] for kind in ("cold", "warm", "proactive", "provisioned")]
    assert starts == [1, 1, 1, 0]
    assert found["insula_throttles_total,ReservedFunctionConcurrentInvocationLimitExceeded"] == 1
    assert found["insula_invocations_begun_total"] == found["insula_invocations_settled_total"] == 3
    assert [found[name] for name in DRIFTS] == [0, 0, 0]
    assert "blue" not in send(server, "GET", "/metrics")[2].decode()
    eventually(lambda: scrape(server)["insula_environments,bound"] == 0)
    found = scrape(server)
    assert found["insula_environments_ended_total"] >= 2
    assert [found[name] for name in DRIFTS] == [0, 0, 0]


def test_other_hosts_do_not_get_it(new_server: Callable[..., Server]) -> None:
    own = _own_address()
    server = new_server("--host", "0.0.0.0")
    assert send(server, "GET", "/metrics")[0] == 200
    port = urlsplit(server.endpoint).port
    server.variables["AWS_ENDPOINT_URL_LAMBDA"] = f"http://{own}:{port}"  # seen so, this host is another one
    assert send(server, "GET", "/healthz")[0] == 200
    status, headers, body = send(server, "GET", "/metrics")
    assert (status, headers["x-amzn-errortype"]) == (403, "AccessDeniedException")
    assert "loopback" in json.loads(body)["Message"]


def _own_address() -> str:
    """An address of this host that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this host has no network")
        return str(probe.getsockname()[0])


def test_only_get_is_served(server: Server) -> None:
    assert send(server, "POST", "/metrics")[0] in {403, 404}
