"""T4: another tenant's processes, signals and users."""

from __future__ import annotations

from pathlib import Path

from tests.security.conftest import Held, Tenant
from tests.server import Server, descendants

_REFUSED = ("EPERM", "ENOSYS")


def test_only_own_processes_are_seen_and_signalled(green: Tenant, blue: Held) -> None:
    family = green.run("processes.family")
    assert green.run("processes.seen") == green.run("processes.reachable", highest=70_000) == family
    child = green.run("processes.spawn_sleeper")
    assert green.run("processes.seen") == [*family, child]  # a process that is there is found
    assert green.run("processes.reachable", highest=100) == [*family, child]
    assert blue.tenant.run("victim.held") == blue.secret


def test_no_process_of_the_host_can_be_entered(green: Tenant, server: Server) -> None:
    child = green.run("processes.spawn_sleeper")
    own = green.run("processes.enter", pid=child)
    assert own["kill"] is own["environ"] is None or isinstance(own["environ"], int)
    for pid in (server.pid, *descendants(server.pid)):
        if pid in (*green.run("processes.family"), child):
            continue
        got = green.run("processes.enter", pid=pid)
        assert set(got.values()) <= {"ESRCH", "ENOENT", "EPERM", "ENOSYS"}, got


def test_debuggers_calls_are_refused_even_for_own_processes(green: Tenant) -> None:
    got = green.run("processes.enter", pid=green.run("processes.spawn_sleeper"))
    assert {got[name] for name in ("ptrace", "process_vm_readv", "pidfd_getfd")} <= set(_REFUSED)


def test_init_cannot_be_made_to_obey(green: Tenant) -> None:
    """It runs as the function's own user, and holds a socket to the spawner, which serves every tenant."""
    got = green.run("processes.open_init")
    assert all(answer in ("EACCES", "EPERM", "ENOSYS") for answer in got.values()), got
    assert green.run("processes.open_self") is True


def test_nobody_becomes_another_user(green: Tenant) -> None:
    own = green.run("processes.status")
    for uid in (0, 1, 1000, 65534, 1_879_048_192):
        got = green.run("processes.become", uid=uid)
        assert got.pop("uid") == [993, 993, 993]
        assert set(got.values()) <= {"EPERM", "EINVAL"}, got
    assert green.run("processes.status")["Uid"] == own["Uid"]


def test_no_privilege_is_left(green: Tenant) -> None:
    status = green.run("processes.status")
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"], status["Groups"]) == ("1", "2", "")


def test_every_environment_has_a_user_of_its_own_and_no_user_is_given_twice(
    green: Tenant, blue: Held, server: Server
) -> None:
    green.run("processes.seen")
    before = _users(server)
    assert len(before) == len(set(before))
    green.fail("resources.exit")
    green.run("processes.seen")
    after = _users(server)
    assert len(after) == len(set(after))
    assert set(after) - set(before)  # the replacement's, and those of environments that were made ahead meanwhile


def _users(server: Server) -> list[int]:
    """Users of the environments, as the host sees them."""
    uids = []
    for pid in descendants(server.pid):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        uid = int(status.partition("\nUid:\t")[2].split()[0])
        if uid and "\nNSpid:" in status and status.partition("\nNSpid:")[2].splitlines()[0].endswith("\t2"):
            uids.append(uid)
    return uids
