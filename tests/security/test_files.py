"""T4: another tenant's /tmp, and the host's files."""

from __future__ import annotations

import secrets
from pathlib import Path

from tests.security.conftest import Held, Tenant
from tests.server import Server


def test_another_tenants_files_are_not_there(green: Tenant, blue: Held) -> None:
    for root in ("/tmp", "/dev", "/run", "/var/task", "/proc"):
        assert green.run("memory.files", head=blue.head, root=root) == []
    assert blue.tenant.run("memory.files", head=blue.head, root="/tmp") == [blue.tail]


def test_files_of_the_host_cannot_be_read(green: Tenant, server: Server, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    marker.write_text(secrets.token_hex(16))
    marker.chmod(0o644)
    # Root's own, the server's own, and one that everybody on the host may read.
    host = ["/etc/shadow", "/root", "/home", "/var/log", "/var/lib", "/boot", "/srv", str(server.data_dir), str(marker)]
    assert set(green.run("files.read", paths=host).values()) <= {"ENOENT"}
    assert green.run("files.read", paths=["/var/task/attacks"])["/var/task/attacks"]


def test_nothing_that_the_spawner_sees_is_left(green: Tenant) -> None:
    """The spawner's root has every function's code under /run/code."""
    paths = ["/run/code", "/run/layers", "/run/insula/guest", "/run/root"]
    assert set(green.run("files.read", paths=paths).values()) <= {"", "ENOENT"}


def test_the_hosts_root_cannot_be_climbed_to(green: Tenant, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    marker.write_text("host")
    found = green.run("files.climb", target=str(marker))
    assert "host" not in found.values(), found
    own = green.run("files.climb", target="/etc/hostname")
    assert own["/proc/self/root/.."] == "localhost\n"  # the way itself is open, and leads nowhere else


def test_only_tmp_can_be_written(green: Tenant) -> None:
    assert green.run("files.write", name="probe") == ["/tmp"]
    assert green.run("files.writable_files") == []


def test_another_functions_code_is_not_there(green: Tenant, function: object) -> None:
    name = f"secret_{secrets.token_hex(6)}"
    other = function({"app.py": "def handler(event, context): return 1", f"{name}.py": ""})  # type: ignore[operator]
    other.invoke()
    assert green.run("files.names_everywhere", part=name) == []
    assert "/var/task/attacks/files.py" in green.run("files.names_everywhere", part="files.py")
