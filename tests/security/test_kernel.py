"""T4: what a function may ask of the kernel."""

from __future__ import annotations

import os
import platform
import signal
from pathlib import Path

import pytest

from tests.security.conftest import Tenant

_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="system call numbers of x86-64")


@_x86
def test_calls_that_a_function_does_not_need_are_refused(green: Tenant) -> None:
    assert green.run("kernel.forbidden_calls") == {}


@_x86
def test_no_namespace_can_be_made(green: Tenant) -> None:
    assert green.run("kernel.new_namespaces") == {}
    assert green.run("kernel.plain_clone").isdigit() or green.run("kernel.plain_clone") != ""


@_x86
def test_calls_of_the_32_bit_architecture_kill(green: Tenant) -> None:
    """Their numbers mean other calls: a filter that looked at the number alone would be blind."""
    assert green.run("kernel.machine_code") == 20  # code of one's own runs
    assert green.run("kernel.foreign_architecture") in (-signal.SIGSYS, -signal.SIGSEGV)


def test_no_setting_of_the_kernel_can_be_written(green: Tenant) -> None:
    assert green.run("kernel.writable_settings") == []


def test_files_that_tell_of_or_steer_the_host_are_empty_or_absent(green: Tenant) -> None:
    assert green.run("kernel.dangerous_files") == {}


def test_dev_holds_harmless_devices_only(green: Tenant) -> None:
    assert green.run("kernel.devices") == {
        "null": "1:3",
        "zero": "1:5",
        "full": "1:7",
        "random": "1:8",
        "urandom": "1:9",
    }


def test_no_device_can_be_made(green: Tenant) -> None:
    got = green.run("kernel.make_device")
    assert {got["char"], got["block"], got["fifo"]} <= {"EPERM", "ENOSYS"}


def test_every_mount_is_read_only_but_tmp_and_none_honours_setuid(green: Tenant) -> None:
    for mount in green.run("kernel.mounts"):
        flags, options = mount["flags"].split(","), mount["options"].split(",")
        assert "nosuid" in flags, mount
        if mount["path"] not in ("/tmp", "/proc") and not mount["path"].startswith("/proc/"):
            assert "ro" in flags or "ro" in options, mount
        if mount["kind"] != "tmpfs" or "nr_inodes=32" not in options:  # /dev, of which empty folders cover others
            assert "nodev" in flags, mount


def test_mounts_tell_nothing_of_the_hosts_folders(green: Tenant, tmp_path: Path) -> None:
    text = str(green.run("kernel.mounts"))
    for name in ("/root", "/home", os.fspath(tmp_path.parent)):
        assert f"{name}/" not in text.replace("/run/root", ""), name


def test_a_setuid_program_gives_nothing(green: Tenant) -> None:
    got = green.run("kernel.make_setuid")
    assert "uid=993" in got["output"]
    assert "euid" not in got["output"]


def test_a_crash_leaves_no_core(green: Tenant) -> None:
    assert green.run("kernel.dump_core") == []


def test_cgroups_cannot_be_reached(green: Tenant) -> None:
    got = green.run("kernel.cgroups")
    assert set(got["paths"]) == {"/"}
    assert got["mounts"] == []
    assert got["sys"] == "ENOENT"
