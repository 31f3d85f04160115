"""Looks for a world in which a promise is broken."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.world import live

_CHUNK = 10
_TOLD = 20  # failures; the others are counted


def search(seeds: range) -> bool:
    """Live through the worlds of many seeds; whether every promise was kept. What is found is printed."""
    begun, outcomes, failed = time.monotonic(), Counter[str](), 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context, logging.disable, (logging.CRITICAL,)) as workers:
        for seed, found in workers.map(_try, seeds, chunksize=_CHUNK):
            if isinstance(found, str):
                failed += 1
                if failed <= _TOLD:
                    print(f"seed {seed}: {found}\n  python -m tests.simulation --seed {seed} --trace", flush=True)
            else:
                outcomes += found
    print(f"{len(seeds)} worlds in {time.monotonic() - begun:.0f} s, {failed} failed: {_told(outcomes)}")
    return not failed


def replay(seed: int, *, trace: bool) -> bool:
    """Live through one world, and print what happens in it; whether every promise was kept."""
    try:
        outcomes = live(seed, print if trace else lambda _: None)
    except AssertionError as error:
        print(f"seed {seed}: {error!r}")
        return False
    print(f"seed {seed} keeps every promise: {_told(outcomes)}")
    return True


def _try(seed: int) -> tuple[int, Counter[str] | str]:
    try:
        return seed, live(seed)
    except Exception as error:  # noqa: BLE001 - a world that ends like this is found, too
        return seed, repr(error)


def _told(outcomes: Counter[str]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
