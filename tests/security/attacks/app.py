"""The function that runs attacks: its code is this package, packed as it is."""

from __future__ import annotations

import importlib
from typing import Any


def handler(event: dict[str, Any], context: Any) -> Any:
    """Run ``event["attack"]``, as ``module.function``, and answer with what it got."""
    module, _, name = event["attack"].partition(".")
    return getattr(importlib.import_module(f"attacks.{module}"), name)(**event["arguments"])
