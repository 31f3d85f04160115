"""T4: sockets of other tenants, of the host and of the server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.security.conftest import Held, Tenant
from tests.server import Server


def test_another_tenants_sockets_cannot_be_reached(green: Tenant, blue: Held) -> None:
    ways = [
        ("network.read_tcp", {"address": "127.0.0.1", "port": blue.facts["tcp"]}),
        ("network.read_tcp", {"address": "::1", "port": blue.facts["tcp6"]}),
        ("network.read_unix", {"path": blue.facts["abstract"]}),
        ("network.read_unix", {"path": blue.facts["unix"]}),
    ]
    for attack, arguments in ways:
        assert green.run(attack, **arguments) in ("ECONNREFUSED", "ENOENT", "EADDRNOTAVAIL"), arguments
        assert blue.tenant.run(attack, **arguments) == blue.secret


def test_the_only_open_port_is_its_own_runtime_api(green: Tenant, blue: Held) -> None:
    assert green.run("network.open_ports", address="127.0.0.1") == [9001]
    assert blue.facts["tcp"] in blue.tenant.run("network.open_ports", address="127.0.0.1")
    assert green.run("network.interfaces") == ["lo"]


def test_sockets_of_others_are_not_listed(green: Tenant, blue: Held) -> None:
    assert not [entry for entry in green.run("network.listening") if blue.head in entry]
    assert f"@{blue.head}" in blue.tenant.run("network.listening")


@pytest.fixture
def host_listeners() -> Iterator[list[tuple[str, int]]]:
    """Listeners on the host's loopback and on any address it has."""
    servers = [socket.create_server(("127.0.0.1", 0)), socket.create_server(("0.0.0.0", 0))]
    for server in servers:
        threading.Thread(target=_greet, args=(server,), daemon=True).start()
    yield [server.getsockname() for server in servers]
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def _greet(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            connection.sendall(b"host")


def test_listeners_of_the_host_cannot_be_reached(green: Tenant, host_listeners: list[tuple[str, int]]) -> None:
    for address, port in [*host_listeners, (_own_address(), host_listeners[1][1])]:
        host = "127.0.0.1" if address == "0.0.0.0" else address
        with socket.create_connection((host, port), 5) as client:
            assert client.recv(10) == b"host"  # it is there
        assert green.run("network.read_tcp", address=host, port=port) in ("ECONNREFUSED", "ENETUNREACH")


def _own_address() -> str:
    """An address of the host that is not loopback, or loopback again where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def test_the_control_plane_cannot_be_reached(green: Tenant, server: Server) -> None:
    port = urlsplit(server.endpoint).port
    for host in ("127.0.0.1", "::1", "localhost", _own_address()):
        got = green.run("network.ask_control_plane", host=host, port=port, path="/healthz")
        assert got in ("ECONNREFUSED", "ENETUNREACH", "EADDRNOTAVAIL"), host


def test_addresses_of_the_cloud_and_the_internet_are_unreachable(green: Tenant) -> None:
    for address in ("169.254.169.254", "192.0.2.1", "10.0.0.1", "2001:db8::1"):
        assert green.run("network.read_tcp", address=address, port=80) in ("ENETUNREACH", "EADDRNOTAVAIL")


def test_only_harmless_kinds_of_sockets_open(green: Tenant) -> None:
    assert green.run("network.families") == {}
    assert green.run("network.usual_families") == ["True"] * 4


def test_the_network_cannot_be_changed(green: Tenant) -> None:
    assert green.run("network.change_routes") == -1  # EPERM
    assert green.run("network.raise_buffers") == ["EPERM"] * 3


def test_descriptors_are_the_functions_own(green: Tenant) -> None:
    """Nothing of the spawner's: no control socket, no cgroup folder, no namespace."""
    found = green.run("network.descriptors")
    assert found.pop("0") == "/dev/null"
    log = {found.pop("1"), found.pop("2")}
    assert len(log) == 1
    assert log.pop().startswith("pipe:")
    own = green.run("network.own_sockets")
    assert not {target for target in found.values() if target not in own}, found  # own: to its Runtime API


def test_no_socket_file_leads_out(green: Tenant, blue: Held) -> None:
    assert green.run("network.path_sockets") == []
    assert blue.tenant.run("network.path_sockets") == [blue.facts["unix"]]
