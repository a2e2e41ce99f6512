"""The transport that docs/writing-a-transport.md builds passes all of the kit that applies to it; the page itself shows a few checks only."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fanwire.testing.harness import ABILITIES
from tests.docs.markdown import blocks
from tests.sources import CHECKOUT

pytestmark = pytest.mark.checkout

PAGE = CHECKOUT / "docs" / "writing-a-transport.md"


def test_the_page_lists_what_a_harness_can_do() -> None:
    _, _, table = PAGE.read_text(encoding="utf-8").partition("| a harness with | has checked |\n")
    first = [row.split("|")[1] for row in table.partition("\n\n")[0].splitlines()[1:]]
    assert sorted(name for cell in first for name in re.findall(r"`(\w+)`", cell)) == sorted({*ABILITIES, "native"})


@pytest.mark.slow
def test_the_toy_of_the_page_is_sound(tmp_path: Path) -> None:
    for block in blocks(PAGE):
        if block.title.endswith(".py"):
            (tmp_path / block.title).write_text(block.code, encoding="utf-8")  # the second harness in place of the first
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "test_toy.py", "-k", "asyncio"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(done.stdout.split(" passed")[0].split()[-1]) > 60
