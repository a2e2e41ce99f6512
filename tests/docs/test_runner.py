"""The runner of the documentation's code finds what is wrong, and says on which page and line."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fanwire import Realtime, TopicRef
from tests.docs import runner
from tests.docs.markdown import blocks
from tests.docs.runner import BlockFailed, Names, Setup, run_page

pytestmark = pytest.mark.checkout

ROOM = TopicRef("room", "text")


def run(text: str, directory: Path, opener: runner.Opener = runner.nothing) -> int:
    return run_page(Path("page.md"), directory, opener, text)


def fenced(language: str, *lines: str, before: str = "") -> str:
    return "\n".join([before, f"```{language}", *lines, "```", ""])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param(fenced("python", "x = 1", "x + 1  # -> 3"), "page.md:4: Promise: the page says 3, it is 2", id="value"),
        pytest.param(
            fenced("python", "import anyio", "", "await anyio.sleep(0)", "1  # -> 2"), "page.md:6: Promise: the page says 2, it is 1", id="awaiting"
        ),
        pytest.param(fenced("python", "if True:", "    len('ab')  # -> 3"), "page.md:4: Promise: the page says 3, it is 2", id="nested"),
        pytest.param(
            fenced("python", "int('7')  # raises ValueError"), "page.md:3: Promise: nothing was raised, the page says ValueError", id="no-error"
        ),
        pytest.param(
            fenced("python", "int('x')  # raises KeyError"), "page.md:3: Promise: ValueError was raised, the page says KeyError", id="other-error"
        ),
        pytest.param(
            fenced("python", "int('x')  # raises ValueError: no such"), "page.md:3: Promise: the page says 'no such', the error says", id="text"
        ),
        pytest.param(fenced("python", "x = 1", "undefined"), "page.md:4: NameError: name 'undefined' is not defined", id="name"),
        pytest.param(fenced("python", "x = 1", "def f(:"), "page.md:4: SyntaxError", id="syntax"),
        pytest.param(fenced("python", "def f():", "    return {}['key']", "", "f()"), "page.md:4: KeyError: 'key'", id="in-a-function"),
        pytest.param(fenced("python", "int('7')", "# raises ValueError"), "page.md:3: Promise: nothing was raised", id="below"),
        pytest.param(fenced("python", "class A:", "    x = 1", "# raises TypeError"), "page.md:3: Promise: nothing was raised", id="below-a-class"),
        pytest.param(fenced("python", "int('x')", "# raises ValueError: invalid", "#     syntax"), "the page says 'invalid syntax'", id="continued"),
        pytest.param(fenced("python", "x = 1", "", "    # -> 1"), "nothing to check for `-> 1`", id="other-column"),
        pytest.param(fenced("python", "2  # -> 2", "# -> 3"), "nothing to check for `-> 3`", id="twice"),
        pytest.param(fenced("python", "# -> 3"), "nothing to check for `-> 3`", id="no-statement"),
        pytest.param(fenced("python", "x = 1  # -> 1"), "`-> 1` stands beside a statement that has no value", id="no-value"),
        pytest.param(
            '=== "Tab"\n\n    ```python\n    x = 1\n    x  # -> 2\n    ```\n', "page.md:5: Promise: the page says 2, it is 1", id="in-a-tab"
        ),
        pytest.param(fenced("python", "print('a')") + fenced("output", "b"), "page.md:7: Promise: the page shows\nb\n\nprinted was\na", id="output"),
        pytest.param(fenced("python", "print('a')") + fenced("output", "a", "b"), "Promise: the page shows", id="less-output"),
        pytest.param(fenced("python", "print('a\\nb')") + fenced("output", "a"), "Promise: the page shows", id="more-output"),
        pytest.param(fenced("console", "$ fanwire --version", "fanwire 99"), "page.md:3: Promise: the page shows\nfanwire 99", id="command"),
        pytest.param(fenced("console", "$ fanwire nonsense"), "`fanwire nonsense` failed with status 2", id="status"),
        pytest.param(fenced("console", "$ fanwire nonsense ; echo $?", "...", "3"), "printed was", id="other-status"),
        pytest.param(fenced("console", "$ rm -rf build"), "nobody knows how to run 'rm'", id="program"),
        pytest.param(fenced("console", '$ pip install "fanwire[telepathy]"'), "extras of fanwire are", id="extra"),
        pytest.param(fenced("console", "$ make coffee"), "the Makefile has no such target", id="target"),
        pytest.param(fenced('toml title="fanwire.toml"', 'url = "memory://"', "timout = 5"), "page.md:3: ConfigError", id="setting"),
        pytest.param(fenced('toml title="fanwire.toml"', 'url = "memroy://"'), "page.md:3: UnknownTransport", id="url"),
        pytest.param(fenced("toml", "url = "), "page.md:3: TOMLDecodeError", id="toml"),
        pytest.param(fenced("sh", "export FANWIRE_URL=memory://", "export FANWIRE_TIMOUT=5"), "page.md:3: ConfigError", id="variable"),
        pytest.param(fenced("sh", "ls"), "`sh` blocks hold", id="shell"),
        pytest.param(fenced("json", "{'a': 1}"), "page.md:3: JSONDecodeError", id="json"),
        pytest.param(fenced("ruby", "puts 1"), "nobody knows how to run 'ruby'", id="language"),
        pytest.param(fenced("", "x = 1"), "nobody knows how to run ''", id="no-language"),
    ],
)
def test_a_broken_block_is_found(text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(BlockFailed) as caught:
        run(text, tmp_path)
    assert complaint in str(caught.value)


def test_what_is_right_passes(tmp_path: Path) -> None:
    page = (
        fenced('python title="shapes.py"', "SIDES = {'square': 4}")
        + fenced("python", "from shapes import SIDES", "SIDES['square']  # -> 4", "SIDES['circle']", "# raises KeyError:", "#     'circle'")
        + fenced("python", "import anyio", "", "await anyio.sleep(0)", "print('one')", "print('two', id(SIDES))", "print('three')")
        + fenced("output", "one", "two ...", "three")
        + fenced("python", "async def main():", "    print(len(SIDES))", "", "anyio.run(main)  # with a loop of its own")
        + fenced("output", "1")
        + fenced('python title="test_shapes.py"', "from shapes import SIDES", "", "def test_square():", "    assert SIDES['square'] == 4")
        + fenced("console", "$ pytest test_shapes.py", "...", "1 passed in ...", '$ python -c "print(6 * 7)"  # a comment', "42")
        + fenced("console", '$ pip install "fanwire[cli]" broadcaster', "$ make test")
        + fenced('toml title="pyproject.toml"', "[tool.fanwire]", 'url = "memory://"')
        + fenced("sh", "export FANWIRE_URL=memory://", "", 'export FANWIRE_REQUIRE="history,links"  # both')
        + fenced("json", '{"a": 1}')
        + fenced("typescript", "const a = 1;")
    )
    assert run(page, tmp_path) == 13


def test_the_tests_of_a_page_may_fail(tmp_path: Path) -> None:
    page = fenced('python title="test_no.py"', "def test_no():", "    assert False") + fenced("console", "$ pytest test_no.py")
    with pytest.raises(BlockFailed, match="`pytest test_no.py` failed with status 1"):
        run(page, tmp_path)


def test_a_page_leaves_nothing_behind(tmp_path: Path) -> None:
    import os
    import sys

    before = Path.cwd(), dict(os.environ), list(sys.path), "shapes" in sys.modules
    run(fenced('python title="shapes.py"', "import os", "os.environ['FANWIRE_URL'] = 'x'"), tmp_path)
    assert (Path.cwd(), dict(os.environ), list(sys.path), "shapes" in sys.modules) == before
    with pytest.raises(BlockFailed, match="ModuleNotFoundError: No module named 'shapes'"):
        run(fenced("python", "import shapes"), tmp_path / "..")


@asynccontextmanager
async def room(names: Names) -> AsyncGenerator[Setup]:
    async def feed(rt: Realtime) -> None:
        await rt.publish(ROOM, "fed")

    async with Realtime.from_url("memory://") as rt:
        names.update(rt=rt, room=ROOM)
        yield Setup(feed=feed)


FOREVER = ("async with rt.subscribe(room) as messages:", "    async for message in messages:")


def test_a_block_that_would_go_on_for_ever_is_given_messages_and_ended(tmp_path: Path) -> None:
    page = fenced("python", *FOREVER, "        print(message.data)") + fenced("output", "fed")
    assert run(page, tmp_path, room) == 2


def test_a_fault_in_a_block_that_would_go_on_for_ever_is_found(tmp_path: Path) -> None:
    with pytest.raises(BlockFailed, match=r"page\.md:5: AttributeError: 'str' object has no attribute 'token'"):
        run(fenced("python", *FOREVER, "        print(message.data.token)"), tmp_path, room)


def test_a_block_that_hangs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_SECONDS", 0.01)
    with pytest.raises(BlockFailed, match=r"page\.md:3: Promise: it did not end within 0\.01 s"):
        run(fenced("python", "import anyio", "await anyio.sleep_forever()"), tmp_path)


def test_a_fence_that_is_not_closed_is_found() -> None:
    with pytest.raises(ValueError, match=r"page\.md:2: this fence is not closed"):
        list(blocks(Path("page.md"), "text\n```python\nx = 1\n"))


def test_blocks_are_found_with_their_lines_and_titles() -> None:
    text = 'text\n\n```python title="a.py" hl_lines="1"\nx = 1\n```\n\n* item\n\n    ````text\n    ```\n    y\n    ````\n'
    first, second = blocks(Path("page.md"), text)
    assert (first.line, first.language, first.title, first.code) == (4, "python", "a.py", "x = 1\n")
    assert (second.line, second.language, second.title, second.code) == (10, "text", "", "```\ny\n")
