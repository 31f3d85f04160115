"""Idle environments lie in the order in which they became idle, and are frozen a moment later."""

from __future__ import annotations

import asyncio
from typing import cast

from insula.dispatch.environment import Environment
from insula.dispatch.idle import FREEZE_SECONDS, Shelf
from tests.simulation.loop import run


class Resting:
    """In the place of an environment."""

    def __init__(self) -> None:
        self.idle_since = asyncio.get_running_loop().time()
        self.frozen_at: list[float] = []

    def freeze(self) -> None:
        self.frozen_at.append(asyncio.get_running_loop().time())


def put(shelf: Shelf) -> Environment:
    environment = cast("Environment", Resting())
    shelf.put(environment)
    return environment


def frozen_at(environment: Environment) -> list[float]:
    return cast("Resting", environment).frozen_at


def new_shelf() -> Shelf:
    return Shelf(asyncio.get_running_loop().time)


def test_each_is_frozen_once_and_a_moment_after_it_became_idle() -> None:
    async def main() -> None:
        shelf, found = new_shelf(), []
        for _ in range(20):
            found.append(put(shelf))
            await asyncio.sleep(FREEZE_SECONDS / 7)
        await asyncio.sleep(1)
        for environment in found:
            (moment,) = frozen_at(environment)
            assert FREEZE_SECONDS - 0.002 <= moment - environment.idle_since <= FREEZE_SECONDS + 0.002

    run(main())


def test_what_is_taken_is_not_frozen() -> None:
    async def main() -> None:
        shelf = new_shelf()
        first, second = put(shelf), put(shelf)
        shelf.take(first)
        await asyncio.sleep(1)
        assert not frozen_at(first)
        assert frozen_at(second)
        assert first not in shelf
        assert len(shelf) == 1

    run(main())


def test_the_longest_idle_is_first_frozen_or_not() -> None:
    async def main() -> None:
        shelf = new_shelf()
        oldest = put(shelf)
        await asyncio.sleep(FREEZE_SECONDS * 2)
        middle = put(shelf)
        await asyncio.sleep(FREEZE_SECONDS / 2)
        youngest = put(shelf)
        assert list(shelf) == [oldest, middle, youngest]
        assert (bool(frozen_at(oldest)), bool(frozen_at(middle))) == (True, False)
        shelf.take(oldest)
        assert list(shelf) == [middle, youngest]

    run(main())


def test_the_shelf_may_change_while_it_is_looked_through() -> None:
    async def main() -> None:
        shelf = new_shelf()
        found = [put(shelf) for _ in range(5)]
        await asyncio.sleep(1)
        found += [put(shelf) for _ in range(5)]
        for environment in shelf:
            shelf.take(environment)
            put(shelf)
        assert len(shelf) == 10
        assert not any(environment in shelf for environment in found)

    run(main())


def test_taking_what_is_not_there_is_no_error() -> None:
    async def main() -> None:
        shelf = new_shelf()
        environment = put(shelf)
        shelf.take(environment)
        shelf.take(environment)
        assert not len(shelf)

    run(main())


def test_what_was_put_after_all_were_taken_is_frozen_in_its_own_time() -> None:
    async def main() -> None:
        shelf = new_shelf()
        shelf.take(put(shelf))
        await asyncio.sleep(FREEZE_SECONDS * 0.9)
        late = put(shelf)
        await asyncio.sleep(FREEZE_SECONDS * 0.9)
        assert not frozen_at(late)
        await asyncio.sleep(FREEZE_SECONDS * 0.2)
        assert frozen_at(late)

    run(main())


def test_what_was_given_away_and_not_used_gets_no_other_moment() -> None:
    """Else a runtime that hangs up and polls again, or callers that leave, would keep it going."""

    async def main() -> None:
        shelf = new_shelf()
        environment = put(shelf)
        await asyncio.sleep(FREEZE_SECONDS * 0.9)
        shelf.take(environment)
        await asyncio.sleep(FREEZE_SECONDS * 0.2)
        shelf.put(environment)
        assert frozen_at(environment) == [asyncio.get_running_loop().time()]
        assert environment in shelf

    run(main())


def test_a_closed_shelf_freezes_nothing() -> None:
    async def main() -> None:
        shelf = new_shelf()
        environment = put(shelf)
        shelf.close()
        await asyncio.sleep(1)
        assert not frozen_at(environment)

    run(main())
