"""An event loop whose time stands still while anything can happen, and then jumps to the next timer."""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class DeadlockError(AssertionError):
    """Nothing is ready and no timer is set: whoever still waits would wait for ever."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs the same schedule the same way each time, as fast as the processor can.

    Attributes:
        on_turn: called after each turn of the loop, until it fails.
        failures: what was raised where nobody could be told.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self.on_turn: Callable[[], None] | None = None
        self.failures: list[dict[str, Any]] = []
        super().__init__(_JumpingSelector(self))
        self.set_exception_handler(lambda _, context: self.failures.append(context))
        numbers = itertools.count()
        self.set_task_factory(lambda _, coroutine, **more: _Task(coroutine, next(numbers), loop=self, **more))

    def time(self) -> float:
        return self._now

    def jump(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]  # the one place where every turn passes
        check, self.on_turn = self.on_turn, None  # one that fails is not called again
        if check is not None and not self._stopping:  # type: ignore[attr-defined]  # whoever runs it has its result
            check()
        self.on_turn = check


class _Task(asyncio.Task[Any]):
    """Sets of tasks are in the same order each time."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], number: int, **more: Any) -> None:
        self._number = number
        super().__init__(coroutine, **more)

    def __hash__(self) -> int:
        return self._number


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and timeout is None:
            raise DeadlockError("nothing is ready, and no timer is set")
        if not events and timeout:
            self._loop.jump(timeout)
        return events


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run on a fresh virtual loop; what was lost in callbacks and tasks fails too."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        result = runner.run(main)
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        assert not loop.failures, loop.failures
        return result
