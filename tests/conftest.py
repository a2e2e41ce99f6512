"""Shared by all tests: the event loops they run on, the rule that nothing goes untested in silence, and how hypothesis draws."""

from __future__ import annotations

import gc
import importlib.util
import os
import signal

import pytest
from hypothesis import settings

from fanwire.testing.plugin import pytest_terminal_summary, pytest_testnodedown
from tests.untested import Untested, require, strict

__all__ = ("pytest_terminal_summary", "pytest_testnodedown")  # our own plugin is off, see pyproject.toml; this much of it prints what the kit has run

# With CI set, a red run can be repeated exactly; elsewhere each run draws anew. A deadline would measure the machine, not the code.
settings.register_profile("repeatable", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("exploring", deadline=None, print_blob=True)
settings.load_profile("repeatable" if strict() else "exploring")


def pytest_configure(config: pytest.Config) -> None:
    """Watch for skips; allow interrupts."""
    config.pluginmanager.register(Untested(), "fanwire-untested")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it runs in the background; programs under test would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Let the garbage collector forget thousands of tests, which it would otherwise look through again and again."""
    gc.collect()
    gc.freeze()


def pytest_report_header() -> str:
    """Say which fanwire is tested: the checkout's or an installed wheel's."""
    spec = importlib.util.find_spec("fanwire")
    return f"fanwire: {spec.origin if spec else 'NOT IMPORTABLE'}"


_ALL: dict[str, tuple[str, dict[str, bool]]] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "asyncio+uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
LOOPS = {name: _ALL[name] for name in os.environ.get("FANWIRE_TEST_LOOPS", ",".join(_ALL)).split(",")}
"""All of them, or those that are asked for: `make test-wheel` tests how it is packed, which is the same on all."""


@pytest.fixture(scope="module", params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Each event loop fanwire promises; used by every test marked ``anyio``."""
    loop: str = request.param
    package = loop.removeprefix("asyncio+")
    require(package, package == "asyncio" or importlib.util.find_spec(package) is not None, "the tests on its event loop")
    return LOOPS[loop]
