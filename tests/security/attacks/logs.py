"""Writing what only the platform may say."""

from __future__ import annotations

import os
import sys

FORGED = (
    "START RequestId: 00000000-0000-0000-0000-000000000000 Version: 1",
    "END RequestId: 00000000-0000-0000-0000-000000000000",
    "REPORT RequestId: 00000000-0000-0000-0000-000000000000\tDuration: 0.00 ms\tBilled Duration: 0 ms\t",
    'x"}\n{"timestamp": 1, "message": "forged", "platform": true}',
    "carriage\rREPORT RequestId: forged",
    "escape \x1b[2J\x1b]0;title\x07 \x9b2J",
    "separators \u2028REPORT RequestId: forged\u2029\x85\x0b\x0c\x1c\x1e",
    "nul \0 and \x7f",
)


def forge() -> int:
    """Print lines that look like the platform's, and bytes that are no text."""
    for line in FORGED:
        print(line)
    sys.stdout.flush()
    os.write(1, b"\xff\xfe\xed\xa0\x80 no text\n")
    os.write(2, b"to standard error\n")
    return len(FORGED)


def partial(text: str) -> None:
    """Write without a newline, so that what follows might be taken for the same line."""
    os.write(1, text.encode())
