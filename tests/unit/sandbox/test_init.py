"""The init program: reaps whatever dies, and ends with the runtime, whose status it tells."""

from __future__ import annotations

import os
import platform
import signal
import sys
from pathlib import Path

import pytest

from insula.sandbox.namespaces.init import init_program

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="there is a program for x86_64 only")

# Becomes init of a new pid namespace, as the spawner's child does: process 2 is the runtime, 3 an orphan.
_START = """
import ctypes, os, sys, time
program, how = sys.argv[1:]
ctypes.CDLL(None).unshare(0x20000000)
child = os.fork()
if child:
    os.close(3)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
ready, go = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os._exit(7)              # an orphan once its parent is gone, with another status
    time.sleep(0.05)
    if how.startswith("-"):
        os.kill(os.getpid(), -int(how))
    os._exit(int(how))
os.dup2(3, 3, inheritable=True)
os.execve(program, ["init"], {})
"""


@pytest.mark.parametrize("how", [0, 1, 137, -signal.SIGKILL, -signal.SIGABRT])
def test_it_tells_how_the_runtime_ended(tmp_path: Path, how: int) -> None:
    program = tmp_path / "init"
    content = init_program()
    assert content is not None
    program.write_bytes(content)
    program.chmod(0o755)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 3)
        os.execv(sys.executable, [sys.executable, "-c", _START, str(program), str(how)])
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    told = os.read(reader, 100)
    os.close(reader)
    assert len(told) == 4
    assert os.waitstatus_to_exitcode(int.from_bytes(told, sys.byteorder)) == how
