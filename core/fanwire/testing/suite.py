"""The kit as a pytest class: subclass it, name a harness, and each check that applies is a test.

::

    class TestMyTransport(TransportSuite):
        harness = MyHarness

Needs pytest and anyio's plugin, which is there wherever anyio is. The end of a run says of each suite how many checks applied, and with ``-v`` which did not, and why.
"""

from __future__ import annotations

import importlib.util
import secrets
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, final

import pytest

from ..capabilities import Capabilities
from .check import Check, Outcome, report
from .checks import CHECKS
from .harness import Harness

__all__ = ("TransportSuite", "loops", "summary")


def loops(capabilities: Capabilities) -> dict[str, tuple[str, dict[str, object]]]:
    """Return the event loops to test on: those the transport claims, with uvloop where it is installed."""
    found: dict[str, tuple[str, dict[str, object]]] = {}
    if "asyncio" in capabilities.async_backends:
        found["asyncio"] = ("asyncio", {"use_uvloop": False})
        if importlib.util.find_spec("uvloop") is not None:
            found["uvloop"] = ("asyncio", {"use_uvloop": True})
    if "trio" in capabilities.async_backends and importlib.util.find_spec("trio") is not None:
        found["trio"] = ("trio", {})
    return found


class TransportSuite:
    """All checks of the kit that apply to a transport, on every event loop it claims."""

    harness: ClassVar[type[Harness]]
    """The transport's harness."""

    @classmethod
    def capabilities(cls) -> Capabilities:
        """Return what the transport claims."""
        return cls.harness.capabilities()

    @classmethod
    def report(cls) -> list[Outcome]:
        """Return for each check whether it applies, and why not."""
        return report(CHECKS, cls.capabilities(), cls.harness)

    @classmethod
    def loops(cls) -> dict[str, tuple[str, dict[str, object]]]:
        """Return the event loops to test on, as anyio names them; override it for fewer, where the same transport is proven in several modes."""
        return loops(cls.capabilities())

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a test of each check that applies, on each event loop."""
        if "check" in metafunc.fixturenames:
            _Summary.of(metafunc.config).suites[type(self)] = None
            applying = [outcome.check for outcome in self.report() if outcome.state == "applies"]
            metafunc.parametrize("check", applying, ids=str)
            backends = self.loops()
            metafunc.parametrize("anyio_backend", list(backends.values()), ids=list(backends))

    @pytest.mark.anyio
    async def test_conformance(self, check: Check) -> None:
        """One check."""
        async with self.harness(_namespace()) as harness:
            await check(harness)


@final
class _Summary:
    """Says at the end of a run what was proven of whom."""

    def __init__(self) -> None:
        self.suites: dict[type[TransportSuite], None] = {}

    @classmethod
    def of(cls, config: pytest.Config) -> _Summary:
        """Return the one of this run."""
        if (there := config.pluginmanager.get_plugin("fanwire-conformance")) is None:
            config.pluginmanager.register(there := cls(), "fanwire-conformance")
        assert isinstance(there, cls)
        return there

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """In a worker of pytest-xdist, send it to the process that prints; there it is read by :mod:`fanwire.testing.plugin`."""
        sent: dict[str, object] | None = getattr(session.config, "workeroutput", None)
        if sent is not None:
            sent["fanwire conformance"] = self.lines(session.config)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write it down."""
        terminalreporter.section("fanwire conformance", sep="=")
        for line in self.lines(terminalreporter.config):
            terminalreporter.write_line(line)

    def lines(self, config: pytest.Config) -> list[str]:
        """Return what there is to say."""
        found: list[str] = []
        for suite in self.suites:
            found.append(f"{suite.__name__}: {summary(suite.report())}, on {', '.join(suite.loops())}")
            if config.get_verbosity() > 0:
                found += [f"  {reason}: {' '.join(rows)}" for reason, rows in _gated_off(suite.report()).items()]
        return found


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return in a few words how many checks apply."""
    count = Counter(outcome.state for outcome in outcomes)
    return f"{count['applies']} checks apply, {count['not claimed']} are about what is not claimed, {count['harness cannot']} beyond the harness"


def _gated_off(outcomes: Sequence[Outcome]) -> dict[str, list[str]]:
    """Return the rows that do not apply, by the reason."""
    found: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.reason:
            found.setdefault(outcome.reason, []).append(outcome.check.row)
    return found


def _namespace() -> str:
    return f"t{secrets.token_hex(6)}"
