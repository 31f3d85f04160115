"""ResponseStream: one writer, one reader, and little between them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from insula.model.stream import ResponseStream


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_what_ends_without_a_beginning_never_began() -> None:
    async def test() -> None:
        stream = ResponseStream()
        waiting = asyncio.create_task(stream.begun())
        await asyncio.sleep(0)
        stream.end()
        assert await waiting is False
        assert await stream.read() == b""

    run(test())


def test_what_was_written_before_the_end_can_be_read_after_it() -> None:
    async def test() -> None:
        stream = ResponseStream()
        stream.begin("text/plain", lambda: None)
        stream.write(b"a")
        stream.end()
        stream.write(b"late")
        assert await stream.begun() is True
        assert [await stream.read(), await stream.read(), await stream.read()] == [b"a", b"", b""]

    run(test())


@given(st.lists(st.integers(min_value=0, max_value=100_000), max_size=20))
def test_nothing_is_lost_doubled_or_reordered(sizes: list[int]) -> None:
    """The writer obeys pauses, the reader reads when it likes: every byte arrives, and little ever waits."""

    async def test() -> None:
        stream = ResponseStream()
        drained = asyncio.Event()
        stream.begin("text/plain", drained.set)
        written = b"".join(bytes([number % 256]) * size for number, size in enumerate(sizes))

        async def write() -> None:
            offset = 0
            for size in sizes:
                drained.clear()
                if not stream.write(written[offset : offset + size]):
                    await drained.wait()
                offset += size
            stream.end()

        writer = asyncio.create_task(write())
        parts = []
        while part := await stream.read():
            assert len(part) <= 65_536 + 100_000
            parts.append(part)
        await writer
        assert b"".join(parts) == written

    run(test())
