"""Every code block of the documentation and of the README does what the page says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.markdown import pages
from tests.docs.runner import run_page
from tests.docs.setups import opener_of
from tests.servers.redis import RedisServer
from tests.sources import CHECKOUT

pytestmark = pytest.mark.checkout

DOCS = CHECKOUT / "docs"


REDIS = "localhost:6379"
"""Where the pages have a server; the tests run one for them, elsewhere."""


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize("page", [CHECKOUT / "README.md", *pages(DOCS)], ids=lambda page: page.relative_to(CHECKOUT).as_posix())
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    name = page.relative_to(DOCS).as_posix() if page.is_relative_to(DOCS) else page.name
    text = page.read_text(encoding="utf-8")
    if REDIS in text:
        server: RedisServer = request.getfixturevalue("redis")
        text = text.replace(REDIS, f"127.0.0.1:{server.port}").replace('host="localhost", port=6379', f"port={server.port}")
    run_page(page, tmp_path, opener_of(name), text)
