"""The pytest plugin for applications that use fanwire: an open Realtime, and what was published through it.

``realtime``
    A :class:`fanwire.Realtime` that is open for the length of the test: on a broker in memory of the test's own, or, with ``--fanwire-url``, on that broker in a namespace
    of the test's own. For tests run by anyio's plugin, pytest-asyncio or pytest-trio.
``blocking_realtime``
    The same for tests that are not asynchronous: a :class:`fanwire.BlockingRealtime`.
``published``
    What the application publishes through either of them: :class:`fanwire.testing.recording.Published`.
``fanwire_url``
    The URL of that broker and namespace, for an application that opens a Realtime by itself.

pytest loads this module in every run: it imports nothing but pytest, until a fixture is asked for.
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import pytest

if TYPE_CHECKING:
    from ..blocking import BlockingRealtime
    from ..realtime import Realtime
    from .recording import Published

__all__ = (
    "blocking_realtime",
    "fanwire_url",
    "published",
    "pytest_addoption",
    "pytest_configure",
    "pytest_terminal_summary",
    "pytest_testnodedown",
    "realtime",
)

_ASYNCIO, _TRIO = "asyncio", "trio"
"""Names under which pytest-asyncio and pytest-trio are registered, and of their markers."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for another broker."""
    parser.getgroup("fanwire").addoption(
        "--fanwire-url",
        default="memory://",
        metavar="URL",
        help="broker of the fixture `realtime`, such as redis://localhost; each test has a random namespace there (default: in memory, one for each test)",
    )


@pytest.fixture
def fanwire_url(request: pytest.FixtureRequest) -> str:
    """The URL of this test's broker, with a namespace of its own."""
    url = str(request.config.getoption("--fanwire-url"))
    parts = urlsplit(url)
    if any(name == "namespace" for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
        raise pytest.UsageError("--fanwire-url must not have a namespace: each test gets a random one")
    name = f"test-{secrets.token_hex(6)}"
    if url == "memory://":
        url = f"memory://{name}"  # a name, so that all who open it share it
    return f"{url}{'&' if parts.query else '?'}namespace={name}"


@pytest.fixture
def published() -> Published:
    """What is published through the fixture ``realtime``."""
    from .recording import Published

    return Published()


@pytest.fixture
def realtime(request: pytest.FixtureRequest) -> Realtime:
    """An open Realtime, on a broker or in a namespace that no other test sees."""
    found: Realtime = request.getfixturevalue(_runner(request))
    return found


@pytest.fixture
def blocking_realtime(fanwire_url: str, published: Published) -> Generator[BlockingRealtime]:
    """A BlockingRealtime, on a broker or in a namespace that no other test sees."""
    from ..realtime import Realtime
    from ..registry import open_transport
    from .recording import recorded

    with Realtime(recorded(open_transport(fanwire_url), published)).blocking() as blocking:
        yield blocking


_PROVEN = pytest.StashKey[list[str]]()
"""What the conformance suites that workers of pytest-xdist have run have to say; without workers they say it themselves."""


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:  # Any: a worker of pytest-xdist, which may not be installed
    """Take what a worker tells of its suites; all workers have collected the same."""
    if told := getattr(node, "workeroutput", {}).get("fanwire conformance"):
        node.config.stash[_PROVEN] = told


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print it."""
    if told := terminalreporter.config.stash.get(_PROVEN, None):
        terminalreporter.section("fanwire conformance", sep="=")
        for line in told:
            terminalreporter.write_line(line)


def _runner(request: pytest.FixtureRequest) -> str:
    """Return the fixture for whatever runs this asynchronous test."""
    if "anyio_backend" in request.fixturenames:
        return "_fanwire_on_anyio"
    for plugin in (_ASYNCIO, _TRIO):
        if request.config.pluginmanager.has_plugin(plugin) and request.node.get_closest_marker(plugin) is not None:
            return f"_fanwire_on_{plugin}"
    function = getattr(request.node, "function", None)
    if function is not None and not inspect.iscoroutinefunction(function):
        pytest.fail("the fixture `realtime` is for asynchronous tests; in others use `blocking_realtime`", pytrace=False)
    pytest.fail("the fixture `realtime` needs a plugin that runs the test: mark it with pytest.mark.anyio", pytrace=False)


async def _open(fanwire_url: str, published: Published) -> AsyncGenerator[Realtime]:
    """Open the Realtime for one test, in whatever event loop runs it."""
    from ..realtime import Realtime
    from ..registry import open_transport
    from .recording import recorded

    async with Realtime(recorded(open_transport(fanwire_url), published)) as realtime:
        published.attach(realtime)
        yield realtime


@pytest.fixture
async def _fanwire_on_anyio(fanwire_url: str, published: Published) -> AsyncGenerator[Realtime]:
    async for realtime in _open(fanwire_url, published):
        yield realtime


def pytest_configure(config: pytest.Config) -> None:
    """Add the fixtures for pytest-asyncio and pytest-trio, where they are installed."""
    asyncio_plugin: Any = config.pluginmanager.get_plugin(_ASYNCIO)  # Any: a module that may not be installed
    if asyncio_plugin is not None:
        config.pluginmanager.register(_fixtures(_ASYNCIO, asyncio_plugin.fixture), "fanwire-asyncio")
    if config.pluginmanager.has_plugin(_TRIO):
        config.pluginmanager.register(_fixtures(_TRIO, pytest.fixture), "fanwire-trio")


def _fixtures(plugin: str, fixture: Any) -> object:  # Any: the decorator of a plugin that may not be installed
    """Return a plugin with the one fixture for tests that another plugin runs."""

    class Fixtures:
        @fixture(name=f"_fanwire_on_{plugin}")  # type: ignore[untyped-decorator]  # see above
        async def on_other(self, fanwire_url: str, published: Published) -> AsyncGenerator[Realtime]:
            async for realtime in _open(fanwire_url, published):
                yield realtime

    return Fixtures()
