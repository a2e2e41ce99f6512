"""Nothing goes untested in silence.

A test that needs something the machine may not have (a server, a browser, a tool) says so by `require`::

    require("redis-server", shutil.which("redis-server") is not None, "apt install redis-server")

With ``CI`` set in the environment that fails the test. Otherwise the test is skipped, and the end of the run names in capitals what was not tested.
The same holds for a skip by any other means (``pytest.skip``, ``importorskip``, a ``skipif`` mark, a module skipped at import): it is named, and with
``CI`` set it turns the whole run red. `ALLOWED` is the only way around it, and it is empty.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("ALLOWED", "Untested", "require", "strict")

ALLOWED: Mapping[str, str] = {}
"""Node ids that may be skipped with ``CI`` set, each with the reason why nothing is lost."""


def strict() -> bool:
    """Tell whether ``CI`` is set, so that what cannot be tested fails the run."""
    return os.environ.get("CI", "").lower() not in {"", "0", "false", "no"}


def require(tool: str, available: bool, reason: str) -> None:
    """End the test unless something it needs is there: failed with ``CI`` set, skipped and named at the end of the run otherwise.

    Args:
        tool: What is needed, by its usual name.
        available: Whether it is there.
        reason: What is missing without it, or how to get it.
    """
    __tracebackhide__ = True
    if available:
        return
    if strict():
        pytest.fail(f"{tool} is needed and not there: {reason}. With CI set nothing may go untested.", pytrace=False)
    pytest.skip(f"{tool}: {reason}")


class Untested:
    """Pytest plugin: collects every skip, names them at the end, and with ``CI`` set makes the run fail."""

    def __init__(self) -> None:
        self.skipped: dict[str, str] = {}

    def _record(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        match report.longrepr:
            case (str(), int(), str(reason)):
                pass
            case other:
                reason = str(other)
        if report.nodeid not in ALLOWED:
            self.skipped[report.nodeid] = reason.removeprefix("Skipped: ")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record a skipped test; an expected failure (``xfail``) did run."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self._record(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record a module or class skipped as a whole."""
        if report.skipped:
            self._record(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """With ``CI`` set, turn a green run that skipped something red."""
        if self.skipped and strict() and session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name what was not tested, in capitals, each reason once."""
        if not self.skipped:
            return
        terminalreporter.section("not tested", red=strict(), yellow=not strict())
        for reason in sorted(set(self.skipped.values())):
            count = list(self.skipped.values()).count(reason)
            terminalreporter.line(f"NOT TESTED: {reason.upper()} ({count} SKIPPED)")
        if strict():
            terminalreporter.line("CI is set: nothing may go untested, so this run has failed.", red=True)
