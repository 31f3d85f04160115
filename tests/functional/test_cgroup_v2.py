"""Hosts with cgroup v2 only, as all recent distributions are. Checked in a virtual machine: this host may have v1."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from tests.machines.machine import PACKAGES, installed, run


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the machine is emulated for x86_64 only")
@pytest.mark.timeout(900)
def test_environments_are_isolated_and_limited_under_cgroup_v2(tmp_path: Path) -> None:
    assert installed(), f"apt-get install {' '.join(PACKAGES)}"
    status, console = run(tmp_path, [sys.executable, "-m", "tests.machines.cgroup_v2"], seconds=800)
    assert status == 0, console
    assert "ALL PASSED" in console
