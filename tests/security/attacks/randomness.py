"""Everything random that a fresh environment draws."""

from __future__ import annotations

import gc
import os
import random
import secrets
import ssl
import tempfile
import uuid
from pathlib import Path


def draw() -> dict[str, str]:
    """One draw from every source."""
    return {
        "os.urandom": os.urandom(16).hex(),
        "random": random.random().hex(),
        "random.getrandbits": str(random.getrandbits(128)),
        "ssl.RAND_bytes": ssl.RAND_bytes(16).hex(),
        "uuid4": uuid.uuid4().hex,
        "uuid1": uuid.uuid1().hex,
        "uuid node": str(uuid.getnode()),
        "secrets": secrets.token_hex(16),
        "tempfile": next(tempfile._get_candidate_names()),  # type: ignore[attr-defined]
        "mktemp": Path(tempfile.mkdtemp()).name,
        "kernel": Path("/proc/sys/kernel/random/uuid").read_text(),
        "generators": str(hash(tuple(_states()))),
    }


def _states() -> list[int]:
    """Values of every generator that lives anywhere in this process."""
    return [g.getrandbits(64) for g in gc.get_objects() if type(g) is random.Random]


def generators() -> list[int]:
    """How many generators there are beside the module's own."""
    return [len(_states()), hash("insula") & 0xFFFF]
