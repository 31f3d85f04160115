"""External extensions: which there are, and what they are told."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

# What is the runtime's alone.
# Source: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html#runtimes-extensions-environment
_RUNTIME_VARIABLES = frozenset(
    {
        "AWS_EXECUTION_ENV",
        "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "AWS_XRAY_CONTEXT_MISSING",
        "AWS_XRAY_DAEMON_ADDRESS",
        "LAMBDA_RUNTIME_DIR",
        "LAMBDA_TASK_ROOT",
        "_AWS_XRAY_DAEMON_ADDRESS",
        "_AWS_XRAY_DAEMON_PORT",
        "_HANDLER",
    }
)


def external_extensions(layers: tuple[Path, ...]) -> tuple[str, ...]:
    """Names of the executable files in ``extensions`` of unpacked layers, sorted. Of one name the highest layer counts.

    Source: https://docs.aws.amazon.com/lambda/latest/dg/lambda-extensions.html
    """
    files = {path.name: path for layer in layers for path in _files(layer / "extensions")}
    return tuple(sorted(name for name, path in files.items() if os.access(path, os.X_OK)))


def extension_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What an extension gets of the runtime's variables."""
    return {name: value for name, value in environment.items() if name not in _RUNTIME_VARIABLES}


def _files(folder: Path) -> Iterator[Path]:
    # A symbolic link is not followed: it was checked against its own layer, and is resolved in the merged ones.
    if folder.is_dir() and not folder.is_symlink():
        yield from (path for path in folder.iterdir() if path.is_file() and not path.is_symlink())
