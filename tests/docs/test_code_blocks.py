"""Every code block of the documentation and of the README does what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.markdown import pages
from tests.docs.runner import run_page
from tests.docs.setups import opener_of
from tests.sources import CHECKOUT

pytestmark = pytest.mark.checkout

DOCS = CHECKOUT / "docs"


@pytest.mark.parametrize("page", [CHECKOUT / "README.md", *pages(DOCS)], ids=lambda page: page.relative_to(CHECKOUT).as_posix())
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    name = page.relative_to(DOCS).as_posix() if page.is_relative_to(DOCS) else page.name
    run_page(page, tmp_path, opener_of(name))
