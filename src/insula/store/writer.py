"""Writes to the database, one at a time, that memory follows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Engine, Executable

_T = TypeVar("_T")


class Writer:
    """Commits writes in a worker thread, in the order in which they were asked for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turn = asyncio.Lock()
        self._writing: asyncio.Task[Any] | None = None  # the loop itself keeps only weak references

    async def write(self, plan: Callable[[], tuple[Sequence[Executable], Callable[[], _T]]]) -> _T:
        """Run one write: ``plan`` checks memory, and returns the statements and what applies them to it.

        A caller that is cancelled while its write waits for its turn has written nothing, one that is cancelled
        later all.
        """
        await self._turn.acquire()
        # From here the write owns the turn and runs to its end, whatever happens to its caller.
        self._writing = task = asyncio.create_task(self._commit(plan))
        return await asyncio.shield(task)

    async def _commit(self, plan: Callable[[], tuple[Sequence[Executable], Callable[[], _T]]]) -> _T:
        try:
            statements, apply = plan()
            if statements:
                await asyncio.to_thread(self._execute, statements)
            return apply()
        finally:
            self._turn.release()

    def _execute(self, statements: Sequence[Executable]) -> None:
        with self._engine.begin() as connection:
            for statement in statements:
                connection.execute(statement)
