"""What the kit prints at the end of a run: how much of it was about this transport, and with ``-v`` what was not, and why."""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from fanwire.testing.check import report
from fanwire.testing.checks import CHECKS
from fanwire.testing.suite import summary
from tests.conformance.harnesses import MemoryHarness
from tests.conformance.poor import PoorHarness

pytest_plugins = ["pytester"]

SUITE = """
from fanwire.testing.suite import TransportSuite
from tests.conformance.poor import PoorHarness

class TestIt(TransportSuite):
    harness = PoorHarness
"""


def test_what_was_proven_is_printed(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    pytester.makepyfile(SUITE)
    told = "TestIt: * checks apply, * are about what is not claimed, * beyond the harness, on asyncio*"
    pytester.runpytest_subprocess("-p", "no:cacheprovider", "-k", "D5 and not uvloop").stdout.fnmatch_lines(
        ["*= fanwire conformance =*", told, "*1 passed, * deselected*"]
    )
    more = ["  the harness cannot: resume, stall: D8 *", "  not claimed: history.earliest: C2c *"]
    pytester.runpytest_subprocess("-p", "no:cacheprovider", "-v", "--collect-only").stdout.fnmatch_lines_random([told, *more])


def test_it_is_printed_by_who_runs_workers_too(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    pytester.makepyfile(SUITE)
    plugin = [] if entry_points(group="pytest11", name="fanwire") else ["-p", "fanwire.testing.plugin"]
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", *plugin, "-n", "2", "-k", "D5 or D4")
    result.stdout.fnmatch_lines(["*= fanwire conformance =*", "TestIt: * checks apply, *", "*4 passed*"])
    assert str(result.stdout).count("TestIt: ") == 1


def test_the_numbers_add_up() -> None:
    outcomes = report(CHECKS, PoorHarness.capabilities(), PoorHarness)
    counted = [int(word) for word in summary(outcomes).split() if word.isdigit()]
    assert sum(counted) == len(CHECKS)
    assert counted[0] < int(summary(report(CHECKS, MemoryHarness.capabilities(), MemoryHarness)).split()[0])
