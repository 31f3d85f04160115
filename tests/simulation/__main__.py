"""Live through many worlds on all processors, or through one and tell what happened in it.

python -m tests.simulation --seeds 3000 --first 0
python -m tests.simulation --seed 123 --trace
"""

from __future__ import annotations

import argparse
import logging
import sys

from tests.simulation.search import replay, search


def main() -> int:
    """Returns the exit status: 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Live through random worlds.")
    parser.add_argument("--seeds", type=int, default=3000, help="how many worlds (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="live through the world of this seed only")
    parser.add_argument("--trace", action="store_true", help="with --seed: tell each event")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)  # failed starts are logged, thousands of times
    if arguments.seed is not None:
        kept = replay(arguments.seed, trace=arguments.trace)
    else:
        kept = search(range(arguments.first, arguments.first + arguments.seeds))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
