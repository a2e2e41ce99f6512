"""A document to stream."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.support import TEXT


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that holds the document."""
    path = tmp_path / "document.md"
    path.write_bytes(TEXT.encode())
    return path
