"""The pytest plugin, as an application's tests see it: small test suites, run by pytest within pytest."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.conformance.shared_wire import serving
from tests.sources import project

pytest_plugins = ["pytester"]

APPLICATION = """
from __future__ import annotations

import pytest
from pydantic import BaseModel

from fanwire import Channel, Realtime, topic
from fanwire.testing.recording import Published


class Status(BaseModel):
    message: str


class Chat(Channel, name="chat:{id}"):
    id: str
    status = topic(Status)
    tokens = topic(str)


chat = Chat(id="1")


async def answer(rt: Realtime, text: str) -> None:
    await rt.publish(chat.status, Status(message="Thinking"))
    await rt.publish_many([chat.tokens(word) for word in text.split()])
"""


def run(pytester: pytest.Pytester, tests: str, *arguments: str) -> pytest.RunResult:
    """Run tests of the application, on asyncio and trio."""
    pytester.makepyfile(APPLICATION + tests)
    plugin = [] if entry_points(group="pytest11", name="fanwire") else ["-p", "fanwire.testing.plugin"]
    return pytester.runpytest("-p", "no:cacheprovider", *plugin, *arguments)


GOOD = """
@pytest.mark.anyio
async def test_the_answer(realtime: Realtime, published: Published) -> None:
    await answer(realtime, "a b")
    assert published(chat.tokens) == ["a", "b"]
    published.assert_sequence([chat.status(Status(message="Thinking")), chat.tokens("a"), chat.tokens("b")])
    assert await published.wait_for(chat.tokens, 2) == ["a", "b"]


@pytest.mark.anyio
async def test_each_has_a_broker_of_its_own(realtime: Realtime, published: Published) -> None:
    published.nothing()
    assert not await realtime.history(chat)


@pytest.fixture
async def entered(realtime: Realtime):
    async with realtime.subscribe(chat.tokens) as messages:
        yield messages


@pytest.mark.anyio
async def test_fixtures_build_on_it(realtime: Realtime, entered) -> None:
    await answer(realtime, "a")
    assert (await anext(entered)).data == "a"


@pytest.mark.anyio
async def test_an_application_opens_its_own(fanwire_url: str, realtime: Realtime, published: Published) -> None:
    async with Realtime.from_url(fanwire_url) as own, published.following(chat.tokens):
        await answer(own, "a b")
        assert await published.wait_for(chat.tokens, 2) == ["a", "b"]


def test_without_a_loop(blocking_realtime, published: Published) -> None:
    blocking_realtime.publish(chat.tokens, "a")
    assert published(chat.tokens) == ["a"]
"""


def test_the_fixtures(pytester: pytest.Pytester) -> None:
    run(pytester, GOOD).assert_outcomes(passed=9)


def test_the_same_tests_on_another_broker(pytester: pytest.Pytester) -> None:
    """A named broker stands for any: it outlives each test, and namespaces keep them apart."""
    run(pytester, GOOD, "--fanwire-url", "memory://shared-by-all?history=50").assert_outcomes(passed=9)
    result = run(
        pytester,
        """
@pytest.mark.anyio
async def test_it_is_used(realtime: Realtime, fanwire_url: str) -> None:
    assert fanwire_url.startswith("memory://shared-by-all?history=50&namespace=test-")
    for number in range(60):
        await realtime.publish(chat.tokens, str(number))
    assert len(await realtime.history(chat)) == 50
""",
        "--fanwire-url",
        "memory://shared-by-all?history=50",
    )
    result.assert_outcomes(passed=2)


def test_the_same_tests_over_tcp(tmp_path: Path) -> None:
    """A server in this process, and in another one the application's tests, which reach it by the URL of a transport that a third party has registered."""
    registered = tmp_path / "wirefan-1.0.dist-info"
    registered.mkdir()
    (registered / "METADATA").write_text("Metadata-Version: 2.1\nName: wirefan\nVersion: 1.0\n", encoding="utf-8")
    (registered / "entry_points.txt").write_text("[fanwire.transports]\nwire = tests.conformance.shared_wire:UrlWireTransport\n", encoding="utf-8")
    (tmp_path / "test_application.py").write_text(APPLICATION + GOOD, encoding="utf-8")
    plugin = [] if entry_points(group="pytest11", name="fanwire") else ["-p", "fanwire.testing.plugin"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])}
    with serving() as server:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin, "--fanwire-url", f"wire://127.0.0.1:{server.port}"]
        done = subprocess.run(
            [*command, "test_application.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50, check=False
        )
        assert "9 passed" in done.stdout, done.stdout + done.stderr
        assert server.clients >= 9, "each test has a Realtime of its own"


def test_failures_can_be_read(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.mark.anyio
async def test_sequence(realtime: Realtime, published: Published) -> None:
    await answer(realtime, "a c")
    published.assert_sequence([chat.status, chat.tokens("a"), chat.tokens("b")])


@pytest.mark.anyio
async def test_waiting(realtime: Realtime, published: Published) -> None:
    await answer(realtime, "a")
    await published.wait_for(chat.tokens, 2, timeout=0.01)


@pytest.mark.anyio
async def test_nothing(realtime: Realtime, published: Published) -> None:
    await answer(realtime, "a")
    published.nothing(chat.tokens)
""",
    )
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "E*AssertionError: another sequence was published (- expected, + published):",
            'E*chat:1  status  {"message":"Thinking"}',
            'E*chat:1  tokens  "a"',
            'E*  - chat:1  tokens  "b"',
            'E*  + chat:1  tokens  "c"',
            "E*AssertionError: waited 0.01 s in vain for 2 messages on topic 'tokens' of channel 'chat:1'; this was published:",
            'E*chat:1  status  {"message":"Thinking"}',
            'E*chat:1  tokens  "a"',
            "E*AssertionError: nothing was to be published, but this was published:",
            'E*chat:1  tokens  "a"',
        ]
    )


def test_wrong_uses_say_what_to_do(pytester: pytest.Pytester) -> None:
    result = run(pytester, "\ndef test_no_loop(realtime: Realtime) -> None: ...\n\n\nasync def test_unmarked(realtime: Realtime) -> None: ...\n")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*is for asynchronous tests; in others use `blocking_realtime`*", "*mark it with pytest.mark.anyio*"])
    wrong = run(pytester, GOOD, "--fanwire-url", "memory://x?namespace=mine")
    assert wrong.ret != 0
    wrong.stdout.fnmatch_lines(["*--fanwire-url must not have a namespace: each test gets a random one*"])
    unknown = run(pytester, GOOD, "--fanwire-url", "nowhere://x")
    unknown.stdout.fnmatch_lines(["*UnknownTransport*"])


def test_loading_it_imports_nothing_but_pytest() -> None:
    """It is loaded in every run of pytest wherever fanwire is installed, also where nobody uses it."""
    code = (
        "import sys, pytest; before = set(sys.modules); import fanwire.testing.plugin;"
        "print(*sorted(name for name in set(sys.modules) - before if name.partition('.')[0] not in {*sys.stdlib_module_names, '_pytest'}))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["fanwire", "fanwire.testing", "fanwire.testing.plugin"]


@pytest.mark.checkout
def test_pytest_finds_it_by_its_entry_point() -> None:
    assert project()["project"]["entry-points"]["pytest11"] == {"fanwire": "fanwire.testing.plugin"}
