"""Every test here runs with the fake Runtime API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulation.runtime_api import fake_runtime_api


@pytest.fixture(autouse=True)
def _fakes() -> Iterator[None]:
    with fake_runtime_api():
        yield
