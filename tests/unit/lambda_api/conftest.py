"""Fixtures of the API's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from insula.lambda_api.service import Service, load_service
from tests.unit.lambda_api.api_harness import Harness


@pytest.fixture(scope="session")
def service() -> Service:
    return load_service()


@pytest.fixture
def harness(service: Service, tmp_path: Path) -> Iterator[Harness]:
    harness = Harness(service, tmp_path)
    yield harness
    harness.close()


@pytest.fixture
def client(harness: Harness) -> Any:
    return harness.client()


@pytest.fixture
def unsigned(service: Service, tmp_path: Path) -> Iterator[Harness]:
    """A server that checks no signatures."""
    harness = Harness(service, tmp_path / "unsigned", signed=False)
    yield harness
    harness.close()
