"""The operations that are built, by their name in the service model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from insula.lambda_api.context import Context

Operation = Callable[[Context, dict[str, Any]], Awaitable[Mapping[str, Any]]]

_operations: dict[str, Operation] = {}


def operation(name: str) -> Callable[[Operation], Operation]:
    """Register a function as the implementation of an operation.

    It gets the validated request's members and returns the response's, both spelled as in the service model.
    """

    def register(function: Operation) -> Operation:
        if name in _operations:
            raise ValueError(f"operation {name} is registered twice")
        _operations[name] = function
        return function

    return register


def registered() -> Mapping[str, Operation]:
    """All operations of the modules that were imported so far."""
    return _operations
