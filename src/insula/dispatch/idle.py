"""Environments without work, the longest idle first; they are frozen a moment after they became so.

A function must make no progress between invocations, as on AWS. Freezing costs a write, thawing another: who is
called again within the moment is spared both.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator

from insula.dispatch.environment import Environment

FREEZE_SECONDS = 0.05


class Shelf:
    """Idle environments.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Each in the order in which they were put, and ``_frozen`` longer ago than ``_warm``.
        self._warm: OrderedDict[Environment, None] = OrderedDict()
        self._frozen: OrderedDict[Environment, None] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._warm) + len(self._frozen)

    def __contains__(self, environment: object) -> bool:
        return environment in self._warm or environment in self._frozen

    def __iter__(self) -> Iterator[Environment]:
        """The longest idle first. What is taken or put while this runs is seen or not."""
        yield from list(self._frozen)
        yield from list(self._warm)

    def put(self, environment: Environment) -> None:
        """Keep one that is idle; one that was so before, and was meanwhile not used, is frozen at once."""
        if self._clock() - environment.idle_since > FREEZE_SECONDS:
            self._frozen[environment] = None
            environment.freeze()
            return
        self._warm[environment] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FREEZE_SECONDS, self._freeze)

    def take(self, environment: Environment) -> None:
        """Give one away, or forget it. One that is not here is no error."""
        if environment in self._warm:
            del self._warm[environment]
        else:
            self._frozen.pop(environment, None)

    def close(self) -> None:
        """Freeze nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _freeze(self) -> None:
        self._timer = None
        before = self._clock() - FREEZE_SECONDS
        while self._warm:
            environment = next(iter(self._warm))
            if environment.idle_since > before + 0.001:  # the loop's clock is coarser than the limit
                delay = environment.idle_since - before
                self._timer = asyncio.get_running_loop().call_later(delay, self._freeze)
                return
            del self._warm[environment]
            self._frozen[environment] = None
            environment.freeze()
