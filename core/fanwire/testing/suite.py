"""The kit as a pytest class: subclass it, name a harness, and each check that applies is a test.

::

    class TestMyTransport(TransportSuite):
        harness = MyHarness

Needs pytest and anyio's plugin, which is there wherever anyio is.
"""

from __future__ import annotations

import importlib.util
import secrets
from typing import ClassVar

import pytest

from ..capabilities import Capabilities
from .check import Check, Outcome, report
from .checks import CHECKS
from .harness import Harness

__all__ = ("TransportSuite", "loops")


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
        return cls.harness(_namespace()).transport().capabilities

    @classmethod
    def report(cls) -> list[Outcome]:
        """Return for each check whether it applies, and why not."""
        return report(CHECKS, cls.capabilities(), cls.harness)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a test of each check that applies, on each event loop."""
        if "check" in metafunc.fixturenames:
            applying = [outcome.check for outcome in self.report() if outcome.state == "applies"]
            metafunc.parametrize("check", applying, ids=str)
            backends = loops(self.capabilities())
            metafunc.parametrize("anyio_backend", list(backends.values()), ids=list(backends))

    @pytest.mark.anyio
    async def test_conformance(self, check: Check) -> None:
        """One check."""
        async with self.harness(_namespace()) as harness:
            await check(harness)


def _namespace() -> str:
    return f"t{secrets.token_hex(6)}"
