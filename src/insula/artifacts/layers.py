"""Where the layers of a function lie."""

from __future__ import annotations

from pathlib import Path

from insula.artifacts.code import CodeStore
from insula.model.function import FunctionVersion


def unpacked_layers(store: CodeStore, function: FunctionVersion) -> tuple[Path, ...]:
    """Folders of a function's unpacked layers, lowest first, each below the store's own folder.

    Raises:
        ResourceNotFoundException: an archive is gone, though a function refers to it.
    """
    return tuple(store.unpacked_path(layer.sha256) for layer in function.layers)
