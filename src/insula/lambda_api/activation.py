"""From Pending to Active, and from InProgress to Successful."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from insula.model.errors import PreconditionFailedException, ResourceConflictException, ResourceNotFoundException
from insula.model.function import FunctionVersion
from insula.store.catalog import Catalog

CREATING_REASON = "The function is being created."
CREATING_CODE = "Creating"

logger = logging.getLogger(__name__)


class Activation:
    """Settles function versions in the background, as AWS does after it answered a create or an update.

    Code is verified and unpacked before that answer, so there is nothing left that could fail but the store.

    Args:
        patience: seconds that an invocation waits for a pending function.
    """

    def __init__(self, catalog: Catalog, new_id: Callable[[], str], patience: float = 30.0) -> None:
        self._catalog = catalog
        self._new_id = new_id
        self._patience = patience
        self._tasks: dict[tuple[str, str, str], asyncio.Task[None]] = {}

    def begin(self, function: FunctionVersion) -> asyncio.Task[None]:
        """Start to settle a version, unless that is under way."""
        key = (function.account, function.name, function.version)
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(self._settle(key))
            task.add_done_callback(lambda done: self._ended(key, done))
        return task

    async def settled(self, function: FunctionVersion) -> FunctionVersion:
        """Wait until a version can be invoked, and return it as it is then.

        Raises:
            ResourceConflictException: it is still pending after the longest wait, or was deleted.
        """
        await asyncio.wait({self.begin(function)}, timeout=self._patience)
        current = self._catalog.function(function.account, function.name, function.version)
        if current is None or current.state == "Pending":
            raise ResourceConflictException(
                "The operation cannot be performed at this time. "
                f"The function is currently in the following state: {current.state if current else 'Deleted'}"
            )
        return current

    def resume(self) -> None:
        """Settle everything that an earlier run of the server left pending or in progress."""
        for function in self._catalog.all_functions():
            if not is_settled(function):
                self.begin(function)

    async def close(self) -> None:
        """Stop; ``resume`` of the next run goes on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _settle(self, key: tuple[str, str, str]) -> None:
        while (current := self._catalog.function(*key)) is not None and not is_settled(current):
            try:
                await self._catalog.replace(_active(current, self._new_id()), expected_revision=current.revision)
            except (PreconditionFailedException, ResourceNotFoundException):
                continue  # changed or deleted in between: look again

    def _ended(self, key: tuple[str, str, str], task: asyncio.Task[None]) -> None:
        del self._tasks[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("could not activate %s", key, exc_info=error)


def is_settled(function: FunctionVersion) -> bool:
    """Whether nothing is under way for a version."""
    return function.state != "Pending" and function.update_status != "InProgress"


def pending(function: FunctionVersion) -> FunctionVersion:
    """The version as it is right after its creation."""
    return replace(
        function,
        state="Pending",
        state_reason=CREATING_REASON,
        state_reason_code=CREATING_CODE,
        update_status=None,
        update_reason=None,
        update_reason_code=None,
    )


def updating(function: FunctionVersion) -> FunctionVersion:
    """The version as it is right after an update."""
    return replace(
        function,
        update_status="InProgress",
        update_reason=CREATING_REASON,
        update_reason_code=CREATING_CODE,
    )


def _active(function: FunctionVersion, revision: str) -> FunctionVersion:
    return replace(
        function,
        revision=revision,
        state="Active",
        state_reason=None,
        state_reason_code=None,
        update_status="Successful",
        update_reason=None,
        update_reason_code=None,
    )
