"""Servers are started when a test first needs them, and stopped at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.redis.harness import stop_all


@pytest.fixture(scope="session", autouse=True)
def _servers() -> Iterator[None]:
    yield
    stop_all()
