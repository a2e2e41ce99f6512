"""Each check fails on a transport, or a core, that has the bugs it says it finds."""

from __future__ import annotations

import anyio
import pytest

from fanwire.testing.bugs import BUGS, plant
from fanwire.testing.check import Check, gate
from fanwire.testing.checks import CHECKS
from fanwire.testing.harness import Harness
from tests.conformance.harnesses import MemoryHarness
from tests.conformance.wire import AttentiveHarness


class Hasty(MemoryHarness):
    """Nothing in memory takes long: a check that has to fail need not wait."""

    patience = 0.3
    crowd = 300


class HastyOverTcp(AttentiveHarness):
    """For what memory has not got: connections that can be half open or break in the middle of a frame, and passwords."""

    patience = 0.3


def _harness(check: Check) -> type[Harness]:
    """Return the first that the check applies to."""
    return next(harness for harness in (Hasty, HastyOverTcp) if gate(check, harness.capabilities(), harness) is None)


CONTROLS = [(check, bug) for check in CHECKS for bug in sorted(check.finds)]


@pytest.mark.parametrize(("check", "bug"), CONTROLS, ids=[f"{check}: {bug}" for check, bug in CONTROLS])
def test_it_finds_the_bug(check: Check, bug: str) -> None:
    with plant(bug, _harness(check)) as broken:
        assert gate(check, broken.capabilities(), broken) is None

        async def run() -> None:
            async with broken("namespace") as harness:
                await check(harness)

        with pytest.raises((AssertionError, TimeoutError, ExceptionGroup)) as caught:
            anyio.run(run)
    assert not _defects(caught.value), "it failed for another reason than the bug"


def _defects(error: BaseException) -> list[BaseException]:
    """Errors that are neither a check's own nor a wait that took too long."""
    if isinstance(error, BaseExceptionGroup):
        return [found for inner in error.exceptions for found in _defects(inner)]
    return [] if isinstance(error, AssertionError | TimeoutError) else [error]


def test_every_bug_is_found_by_a_check() -> None:
    assert {bug for _, bug in CONTROLS} == set(BUGS)


FAULTS = {"absent", "cut", "half_open", "lose", "lose_answer", "recreate", "restart", "rewind", "stall", "trim", "truncate", "unauthorised"}
"""What harnesses do to connections and servers."""


def test_every_check_of_a_fault_has_a_control() -> None:
    faulty = [check for check in CHECKS if check.uses & FAULTS or check.row[0] in "EFGX"]
    assert len(faulty) > 50
    assert [str(check) for check in faulty if not check.finds] == []


def test_harness_abilities_are_found() -> None:
    class Bare(Harness):
        def transport(self, **options: object) -> MemoryHarness:  # type: ignore[override]  # never called
            raise NotImplementedError

    assert not Bare.can("cut")
    assert MemoryHarness.can("cut")
