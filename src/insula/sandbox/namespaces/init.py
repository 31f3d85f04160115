"""The init program of environments: a static executable of 243 bytes.

An environment's first process does nothing but reap. As a fork of the spawner it would keep 1.8 MB of pages of its own
for that; as this program it has a few kilobytes. It exists for x86_64; elsewhere init stays a fork (`_run_init` of
the guest), which does the same.
"""

from __future__ import annotations

import platform
import struct

_BASE = 0x400000
_HEADERS = 64 + 2 * 56  # an ELF header and two program headers: elf(5)
_PT_LOAD, _PT_GNU_STACK = 1, 0x6474E551
_EXECUTE, _WRITE, _READ = 1, 2, 4
_EM_X86_64 = 62

# wait4(2) until the runtime, which is always process 2, has ended; then write(2) its status, four bytes, to
# descriptor 3, and exit_group(2).
_X86_64 = bytes.fromhex(
    "4883ec10"  # sub  $16, %rsp
    "bfffffffff4889e631d24531d2b83d0000000f05"  # again: wait4(-1, %rsp, 0, NULL)
    "83f8fc74e7"  # cmp  $-EINTR, %eax; je again
    "85c07819"  # test %eax, %eax; js done
    "83f80275de"  # cmp  $2, %eax; jne again
    "bf030000004889e6ba04000000b8010000000f05"  # write(3, %rsp, 4)
    "31ffb8e70000000f05"  # done: exit_group(0)
)


def init_program() -> bytes | None:
    """The executable for this machine, or None if there is none."""
    if platform.machine() != "x86_64":
        return None
    size = _HEADERS + len(_X86_64)
    identity = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, _EM_X86_64, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", _PT_LOAD, _READ | _EXECUTE, 0, _BASE, _BASE, size, size, 0x1000)
    stack = struct.pack("<IIQQQQQQ", _PT_GNU_STACK, _READ | _WRITE, 0, 0, 0, 0, 0, 16)
    return identity + header + load + stack + _X86_64
