"""T4: System V IPC, POSIX IPC, keyrings."""

from __future__ import annotations

from tests.security.conftest import Held, Tenant


def test_shared_memory_of_another_tenant_is_not_there(green: Tenant, blue: Held) -> None:
    where = {"key": blue.facts["key"], "segment": blue.facts["segment"]}
    assert green.run("ipc.shared_memory", **where) == {"key": "ENOENT", "id": "EINVAL"}
    assert blue.tenant.run("ipc.shared_memory", **where) == {"key": blue.secret, "id": blue.secret}


def test_semaphores_of_another_tenant_are_not_there(green: Tenant, blue: Held) -> None:
    where = {"key": blue.facts["key"], "identifier": blue.facts["semaphore"]}
    assert green.run("ipc.semaphore", **where) == {"key": "ENOENT", "id": "EINVAL"}
    assert blue.tenant.run("ipc.semaphore", **where) == {"key": blue.facts["semaphore"], "id": 0}


def test_ipc_objects_of_others_are_not_listed(green: Tenant, blue: Held) -> None:
    assert set(green.run("ipc.listed").values()) <= {0}
    assert blue.tenant.run("ipc.listed")["shm"] == 1


def test_message_queues_and_posix_shared_memory_do_not_exist(green: Tenant) -> None:
    assert set(green.run("ipc.message_queues").values()) <= {"ENOSYS", "EPERM"}
    assert green.run("ipc.posix_shared_memory", name="x") in ("ENOENT", "EROFS")


def test_no_keyring_can_be_reached(green: Tenant) -> None:
    got = green.run("ipc.keyrings")
    assert got.pop("keys") == got.pop("key-users") == ""
    assert set(got.values()) == {"EPERM"}
