"""Imports point downward, and no module is too long: read from the sources."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import insula

ROOT = Path(insula.__file__).parent
# From the top; layers of one line do not know each other.
LAYERS = (
    {"cli"},
    {"server"},
    {"front", "lambda_api"},
    {"dispatch"},
    {"runtime_api", "sandbox"},
    {"telemetry", "artifacts", "store"},
    {"model"},
)
MAX_LINES = 450
GUEST = "insula.sandbox.namespaces.guest"


def modules() -> dict[str, Path]:
    """All modules of the product, by dotted name."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(source: str, module: str) -> Iterator[str]:
    """Dotted names that a module imports, wherever the statement stands; those for type checkers too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")[: -node.level]
                base = ".".join([*package, *filter(None, [base])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def level(module: str) -> tuple[int, str] | None:
    """Which line of LAYERS a module stands on, and in which layer; None for the package itself and what is foreign."""
    parts = module.split(".")
    if parts[0] != "insula" or len(parts) == 1 or parts[1] == "__version__":
        return None
    for number, names in enumerate(LAYERS):
        if parts[1] in names:
            return number, parts[1]
    raise AssertionError(f"{module} is in no layer: add it to LAYERS")


def is_allowed(importer: str, imported: str) -> bool:
    """Whether the import points downward, or stays within a layer."""
    above, below = level(importer), level(imported)
    return below is None or (above is not None and (above[1] == below[1] or above[0] < below[0]))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_downward(module: str) -> None:
    found = imports(MODULES[module].read_text(), module)
    assert [name for name in found if not is_allowed(module, name)] == []


@pytest.mark.parametrize(
    ("importer", "source", "allowed"),
    [
        ("insula.model.arn", "from insula.store.catalog import Catalog", False),
        ("insula.store.catalog", "from insula.artifacts.code import CodeStore", False),
        ("insula.dispatch.pool", "import insula.lambda_api.app", False),
        ("insula.sandbox.driver", "from insula.runtime_api import server", False),
        ("insula.lambda_api.app", "from insula import front", False),
        ("insula.server", "def f():\n    from insula.cli.main import main", False),
        ("insula.model.arn", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import insula.server", False),
        ("insula.dispatch.pool", "from ..lambda_api import app", False),
        ("insula.dispatch.pool", "from . import quotas", True),
        ("insula.lambda_api.app", "from insula.sandbox.driver import Driver", True),
        ("insula.cli.main", "from insula import __version__", True),
        ("insula.model.arn", "import asyncio, botocore.model", True),
    ],
)
def test_the_layering_test_can_fail(importer: str, source: str, *, allowed: bool) -> None:
    assert all(is_allowed(importer, name) for name in imports(source, importer)) is allowed


def test_a_new_folder_must_be_put_into_a_layer() -> None:
    with pytest.raises(AssertionError, match="in no layer"):
        level("insula.helpers.misc")


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith(GUEST)))
def test_the_guest_runs_in_any_python_from_3_9_on_its_own(module: str) -> None:
    source = MODULES[module].read_text()
    ast.parse(source, feature_version=(3, 9))
    assert [name for name in imports(source, module) if not is_guests(name)] == []


def is_guests(name: str) -> bool:
    """Whether the guest may import this: itself, the standard library, and the runtime client that it runs."""
    return name.startswith(f"{GUEST}.") or name.partition(".")[0] in {*sys.stdlib_module_names, "awslambdaric"}


@pytest.mark.parametrize("name", ["insula.model.limits.PROCESSES", "botocore.session", "insula.sandbox.driver.Exit"])
def test_the_guest_test_can_fail(name: str) -> None:
    assert not is_guests(name)


def test_newer_syntax_in_the_guest_would_be_found() -> None:
    with pytest.raises(SyntaxError):
        ast.parse("match 1:\n    case 1: pass", feature_version=(3, 9))


def test_no_module_is_too_long() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}
