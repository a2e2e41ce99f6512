"""Checks that need a URL: on memory each process has a broker of its own, which is enough for those about one process and its children."""

from __future__ import annotations

import anyio
import pytest

from fanwire.testing.check import gate
from fanwire.testing.checks import CHECKS, lifetime
from tests.conformance.harnesses import MemoryHarness

BY_ROW = {check.row: check for check in CHECKS}


class WithUrl(MemoryHarness):
    def url(self) -> str:
        return "memory://"


def run(row: str) -> None:
    async def main() -> None:
        async with WithUrl("by-url") as harness:
            await BY_ROW[row](harness)

    anyio.run(main)


def test_a_fork_is_noticed() -> None:
    run("D10b")


@pytest.mark.parametrize(
    ("guard", "without"),
    [("except WrongLoop:", "except LookupError:"), ('receipt.id.rpartition(".")[0]', '"same"')],
    ids=["a Realtime that works in the child", "one name in parent and child"],
)
def test_the_check_notices_what_it_is_about(monkeypatch: pytest.MonkeyPatch, guard: str, without: str) -> None:
    """With a script that sees what it would see without protection."""
    assert guard in lifetime._FORK
    monkeypatch.setattr(lifetime, "_FORK", lifetime._FORK.replace(guard, without))
    with pytest.raises(AssertionError):
        run("D10b")


def test_what_needs_other_processes_does_not_apply_to_it() -> None:
    assert gate(BY_ROW["A5"], WithUrl.capabilities(), WithUrl) == "not claimed: multi_process"
