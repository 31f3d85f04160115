"""T4, L3: what an environment still has of the spawner, and what is left of an environment that ended."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from tests.leftovers import groups_named, network_namespace, network_namespaces, owner
from tests.security.conftest import Held, Tenant
from tests.server import Server, descendants

_SPAWNER_VARIABLES = ("PATH", "LANG", "LD_LIBRARY_PATH", "AWS_LAMBDA_RUNTIME_API")


def test_no_module_of_the_spawner_is_loaded(green: Tenant) -> None:
    assert green.run("leftovers.modules") == []


def test_no_object_of_the_spawner_is_alive(green: Tenant) -> None:
    assert green.run("leftovers.objects") == []


def test_no_id_of_another_environment_is_in_memory(green: Tenant, tenant: Callable[[str], Tenant]) -> None:
    for _ in range(3):
        tenant("blue").run("processes.seen")
    own = green.run("leftovers.own_variables")["AWS_LAMBDA_LOG_STREAM_NAME"]
    assert [found for found in green.run("leftovers.ids") if found not in own] == []


def test_the_first_process_tells_nothing_of_the_host(green: Tenant, server: Server) -> None:
    """environ and cmdline are those with which the spawner was started, or of a runtime that was executed."""
    own = green.run("leftovers.own_variables")
    for pid in green.run("processes.family"):
        variables = green.run("leftovers.environment_of", pid=pid)
        assert variables == "EACCES" or set(variables) <= {*_SPAWNER_VARIABLES} or variables.items() <= own.items()
        assert str(server.data_dir) not in green.run("leftovers.command_line", pid=pid)


def test_a_function_is_given_its_own_variables_only(green: Tenant, server: Server) -> None:
    variables = green.run("leftovers.own_variables")
    assert variables["OWN"] == "variable"
    assert not {name for name in variables if name in server.variables.keys() - {"AWS_DEFAULT_REGION", "AWS_REGION"}}
    assert server.variables["AWS_SECRET_ACCESS_KEY"] not in variables.values()


def test_nothing_stays_of_an_environment_that_ended(blue: Held, server: Server) -> None:
    """L3: found from the host by what it holds, its traces are looked for after its end."""
    pid = _find(server, blue)
    status = Path(f"/proc/{pid}/status").read_text()
    uid = status.partition("\nUid:\t")[2].split()[0]
    groups = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    (group,) = {line.rpartition("/")[2] for line in groups if "/insula-" in line}
    assert pid is not None
    namespace = network_namespace(pid)
    assert groups_named(group)
    assert namespace in network_namespaces()
    blue.tenant.fail("resources.exit")
    assert blue.tenant.run("memory.files", head=blue.head, root="/tmp") == []  # in its successor
    assert not Path(f"/proc/{pid}").exists()
    assert not groups_named(group)
    assert namespace not in network_namespaces()
    assert not [path for path in Path("/proc").glob("[0-9]*") if owner(path) == int(uid)]
    assert _find(server, blue) is None


def _find(server: Server, held: Held) -> int | None:
    """The process of the environment in whose /tmp the secret lies."""
    for pid in descendants(server.pid):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/root/tmp/secret").read_text() == held.secret:
                return pid
    return None
