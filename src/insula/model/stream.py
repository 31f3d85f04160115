"""Streamed answers: bytes on their way from a function to its caller.

Sources: https://docs.aws.amazon.com/lambda/latest/dg/configuration-response-streaming.html and
https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html#runtimes-custom-response-streaming
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

MAX_STREAM_BYTES = 200 * 1024 * 1024  # of one streamed answer
_HIGH_WATER = 64 * 1024  # more than this waiting: the function pauses


class ResponseStream:
    """Where a streamed answer goes: one writer, one reader, and little between them.

    A reader that goes away does not stop the function, as on AWS: what is still written is dropped.

    Attributes:
        content_type: what the function said that it sends; None until it begins.
        size: bytes that the function wrote so far.
        paused: whether the function waits for the reader.
    """

    def __init__(self) -> None:
        self.content_type: str | None = None
        self.size = 0
        self._waiting = bytearray()
        self._ended = False
        self._abandoned = False
        self.paused = False
        self._on_drained: Callable[[], None] = _nothing
        self._reader: asyncio.Future[None] | None = None

    # The function's side.

    def begin(self, content_type: str, on_drained: Callable[[], None]) -> None:
        """The function begins to answer.

        Args:
            on_drained: called when writing may go on after ``write`` said that it should pause.
        """
        self.content_type = content_type
        self._on_drained = on_drained
        self._wake()

    def write(self, data: bytes) -> bool:
        """Take a piece of the answer. False asks the writer to pause until ``on_drained``."""
        self.size += len(data)
        if self._abandoned or self._ended:
            return True
        self._waiting += data
        self._wake()
        self.paused = len(self._waiting) > _HIGH_WATER
        return not self.paused

    def end(self) -> None:
        """Nothing more comes. Idempotent."""
        self._ended = True
        self._wake()

    # The caller's side.

    async def begun(self) -> bool:
        """Wait until the function begins to stream; False if it ended without."""
        while self.content_type is None and not self._ended:
            await self._change()
        return self.content_type is not None

    async def read(self) -> bytes:
        """What has come since the last call, waiting for it if need be; empty at the end."""
        while not self._waiting and not self._ended:
            await self._change()
        data = bytes(self._waiting)
        self._waiting.clear()
        self._resume()
        return data

    def abandon(self) -> None:
        """Nobody reads any more."""
        self._abandoned = True
        self._waiting.clear()
        self._resume()

    def _resume(self) -> None:
        if self.paused:
            self.paused = False
            self._on_drained()

    async def _change(self) -> None:
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


def _nothing() -> None:
    """The writer has not begun."""
