"""Running the code of a page as a reader would: from top to bottom, in one directory, with one set of names.

* ``python``: run where it stands. What awaits at its top level runs in one event loop that lasts for the page, everything else in the thread of the test. One with a
  title such as ``app.py`` is also a file of that name, and an importable module; one called ``test_*.py`` is a file only, for ``pytest`` to run.
* ``console``: commands behind ``$``, and what they print. ``fanwire``, ``python``, ``pytest`` and ``redis-cli`` are run; of ``pip`` and ``make`` it is checked that there is such
  an extra or target.
* ``toml``: one called ``fanwire.toml`` or ``pyproject.toml`` is read as the configuration; ``sh`` holds ``export NAME=value`` lines, which are read as one, too.
* ``output``: what the block before it has printed, ``...`` for anything.
* ``json`` has to be JSON; ``typescript`` and ``text`` are shown only.

A block that iterates without an end is given messages once nothing else happens, and then ended by closing its Realtime: see `Setup`.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, chdir, redirect_stderr, redirect_stdout
from importlib.metadata import metadata
from pathlib import Path
from types import CodeType, ModuleType
from typing import Self
from unittest.mock import patch

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from fanwire import Realtime
from fanwire.cli import main
from fanwire.config import load_settings
from tests.docs.code import CHECKS, Promise, compiled, is_coroutine, matches, runs_on
from tests.docs.markdown import Block, blocks
from tests.sources import CHECKOUT

__all__ = ("BlockFailed", "Names", "PageRun", "Setup", "nothing", "run_page")

Names = dict[str, object]

SHOWN = frozenset({"text", "typescript"})
_SECONDS = 15.0
_PROGRAMS = {
    "fanwire": ["-m", "fanwire.cli"],
    "python": [],
    "pytest": ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "anyio", "-p", "fanwire.testing.plugin"],
}
_ENVIRONMENT = {"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
_TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)


class BlockFailed(AssertionError):
    """A block of a page does not do what it should; the text begins with page and line."""


class Setup:
    """What a page starts with.

    Args:
        prepare: Puts into the page's names, before each block, what a fragment leaves out.
        feed: Publishes something for a block that iterates without an end.
    """

    def __init__(self, prepare: Callable[[Names], Awaitable[None]] | None = None, feed: Callable[[Realtime], Awaitable[None]] | None = None) -> None:
        self.prepare = prepare
        self.feed = feed


@asynccontextmanager
async def nothing(_names: Names, /) -> AsyncGenerator[Setup]:
    """The set-up of a page that needs none."""
    yield Setup()


Opener = Callable[[Names], AbstractAsyncContextManager[Setup]]


def run_page(page: Path, directory: Path, opener: Opener = nothing, text: str | None = None) -> int:
    """Run every block of a page.

    Args:
        page: The file.
        directory: An empty directory to run it in.
        opener: Makes what the page starts with, in the page's event loop.
        text: The page's text, if it is not to be read.

    Returns:
        How many blocks it has.

    Raises:
        BlockFailed: one does not do what it should.
    """
    found = list(blocks(page, text))
    with PageRun(directory, opener) as run:
        for block in found:
            run.run(block)
    return len(found)


class PageRun:
    """The state of a page between its blocks."""

    def __init__(self, directory: Path, opener: Opener) -> None:
        self.directory = directory
        self.module = ModuleType("page")
        self.names: Names = self.module.__dict__
        self.printed = ""
        self._opener = opener
        self._stack: ExitStack
        self._portal: BlockingPortal
        self._setup: Setup

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(_forget_modules, set(sys.modules))
            stack.enter_context(patch.dict(os.environ, _ENVIRONMENT))
            for name in [name for name in os.environ if name.startswith("FANWIRE_") or name == "PYTEST_ADDOPTS"]:
                del os.environ[name]
            stack.enter_context(patch.object(sys, "path", [str(self.directory), *sys.path]))
            stack.enter_context(chdir(self.directory))
            sys.modules["page"] = self.module
            self.names.update(CHECKS)
            self._portal = stack.enter_context(start_blocking_portal())
            self._setup = stack.enter_context(self._portal.wrap_async_context_manager(self._opener(self.names)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def run(self, block: Block) -> None:
        """Run one block.

        Raises:
            BlockFailed: it does not do what it should.
        """
        try:
            self._run(block)
        except BlockFailed:
            raise
        except Exception as error:
            raise BlockFailed(f"{_where(block, error)}: {type(error).__name__}: {error}") from error

    def _run(self, block: Block) -> None:
        match block.language:
            case "python":
                self._python(block)
            case "console":
                self._console(block)
            case "output":
                _compare(block.code, self.printed)
            case "toml":
                self._toml(block)
            case "sh":
                _shell(block)
            case "json":
                json.loads(block.code)
            case language if language not in SHOWN:
                raise Promise(f"nobody knows how to run {language!r}")
            case _:
                pass

    # ------------------------------------------------------------------ python

    def _python(self, block: Block) -> None:
        code = compiled(block)
        if block.title.endswith(".py"):
            (self.directory / block.title).write_text(block.code, encoding="utf-8")
            if block.title.startswith("test_"):
                return
            module = sys.modules[Path(block.title).stem] = ModuleType(Path(block.title).stem)
            module.__dict__.update(CHECKS)
            self._execute(block, code, module.__dict__)
            self.names.update({name: value for name, value in vars(module).items() if not name.startswith("__")})
            return
        self._portal.call(self._prepare)
        self._execute(block, code, self.names)

    async def _prepare(self) -> None:
        if self._setup.prepare is not None:
            await self._setup.prepare(self.names)

    def _execute(self, block: Block, code: CodeType, names: Names) -> None:
        out = io.StringIO()
        with redirect_stdout(out):
            if is_coroutine(code):
                self._portal.call(self._await, block, code, names)
            else:
                exec(code, names)
        self.printed = out.getvalue()

    async def _await(self, block: Block, code: CodeType, names: Names) -> None:
        with anyio.move_on_after(_SECONDS) as scope:
            if runs_on(block):
                await self._until_closed(code, names)
            else:
                await eval(code, names)
        if scope.cancelled_caught:
            raise Promise(f"it did not end within {_SECONDS:g} s")

    async def _until_closed(self, code: CodeType, names: Names) -> None:
        failure: list[Exception] = []
        over = anyio.Event()

        async def body() -> None:
            try:
                await eval(code, names)
            except Exception as error:  # noqa: BLE001 - raised below, where no task group wraps it
                failure.append(error)
            over.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(body)
            await anyio.wait_all_tasks_blocked()
            realtime = names.get("rt")
            assert isinstance(realtime, Realtime), "a block that iterates without an end needs `rt`, to be ended by closing it"
            if not over.is_set() and self._setup.feed is not None:
                await self._setup.feed(realtime)
                await anyio.wait_all_tasks_blocked()
            await realtime.aclose()
            await over.wait()
        if failure:
            raise failure[0]

    # ------------------------------------------------------------------ commands

    def _console(self, block: Block) -> None:
        command, expected = "", ""
        lines = block.code.splitlines()
        if not any(line.startswith("$") for line in lines):
            lines = [f"$ {line}" for line in lines if line]  # commands alone, to be copied
        for line in [*lines, "$"]:
            if not line.startswith("$"):
                expected += f"{line}\n"
                continue
            if command:
                self.printed = self._command(command)
                if expected.strip():
                    _compare(expected, self.printed)
            elif expected.strip():
                raise Promise(f"output without a command: {expected.splitlines()[0]!r}")
            command, expected = line[1:].partition("  #")[0].strip(), ""

    def _command(self, command: str) -> str:
        """Run a command; return what it printed."""
        line, _, status = command.partition("; echo ")
        *pipe, last = (shlex.split(part) for part in line.split(" | "))
        piped = f"{' '.join(pipe[0][1:])}\n" if pipe and pipe[0][0] == "echo" else None
        program, *arguments = last
        match program:
            case "fanwire" if piped is None:
                code, printed = _fanwire(arguments)
            case "fanwire" | "python" | "pytest" | "redis-cli":
                started = [program, *arguments] if program == "redis-cli" else [sys.executable, *_PROGRAMS[program], *arguments]
                done = subprocess.run(
                    started, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=_SECONDS, input=piped
                )
                code, printed = done.returncode, done.stdout
            case "pip":
                return _pip(arguments)
            case "make":
                return _make(arguments)
            case _:
                raise Promise(f"nobody knows how to run {program!r}")
        if status:
            printed += f"{code}\n"
        elif code:
            raise Promise(f"`{command}` failed with status {code}: {printed}")
        return printed

    # ------------------------------------------------------------------ configuration

    def _toml(self, block: Block) -> None:
        tomllib.loads(block.code)
        if block.title in {"fanwire.toml", "pyproject.toml"}:
            path = self.directory / block.title
            path.write_text(block.code, encoding="utf-8")
            if "fanwire" in tomllib.loads(block.code).get("tool", {}) or block.title == "fanwire.toml":
                load_settings(path=path).open_transport()


def _where(block: Block, error: BaseException) -> str:
    """Return page and line of the code that failed."""
    line = error.lineno or block.line if isinstance(error, SyntaxError) else block.line
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(block.page):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return f"{block.page.name}:{line}"


def _compare(expected: str, printed: str) -> None:
    """Compare what was printed with what the page shows, line by line."""
    wanted, got = ([line.rstrip() for line in text.strip("\n").splitlines()] for text in (expected, printed))
    if not _line_by_line(wanted, got):
        raise Promise(f"the page shows\n{expected}\nprinted was\n{printed}")


def _line_by_line(wanted: list[str], got: list[str]) -> bool:
    """Whether the lines match, where a line of ``...`` alone stands for any number of them."""
    if not wanted:
        return not got
    if wanted[0].strip() == "...":
        return any(_line_by_line(wanted[1:], got[skipped:]) for skipped in range(len(got) + 1))
    return bool(got) and matches(wanted[0], got[0]) and _line_by_line(wanted[1:], got[1:])


def _shell(block: Block) -> None:
    variables: dict[str, str] = {}
    for line in filter(None, block.code.splitlines()):
        word, _, assignment = line.partition(" ")
        if word != "export":
            raise Promise(f"`sh` blocks hold `export NAME=value` lines, not {line!r}")
        (assigned,) = shlex.split(assignment, comments=True)
        name, _, value = assigned.partition("=")
        variables[name] = value
    with patch.dict(os.environ, variables):
        load_settings(directory=Path(os.devnull).parent).open_transport()


def _fanwire(arguments: list[str]) -> tuple[int, str]:
    """Run the command line in this process, which saves starting one."""
    out = io.StringIO()
    code = 0
    with redirect_stdout(out), redirect_stderr(out), patch.object(sys, "argv", ["fanwire", *arguments]):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return code, out.getvalue()


def _pip(arguments: list[str]) -> str:
    """Check that what is installed exists: fanwire, with extras it has."""
    verb, *packages = arguments
    extras = set(metadata("fanwire").get_all("Provides-Extra") or ())
    for package in packages:
        name, _, wanted = package.rstrip("]").partition("[")
        if verb != "install" or (name == "fanwire" and not set(filter(None, wanted.split(","))) <= extras):
            raise Promise(f"`pip {verb} {package}`: extras of fanwire are {', '.join(sorted(extras))}")
    return ""


def _make(arguments: list[str]) -> str:
    """Check that the target exists."""
    targets = set(_TARGET.findall((CHECKOUT / "Makefile").read_text(encoding="utf-8")))
    if not arguments or arguments[0] not in targets:
        raise Promise(f"the Makefile has no such target: {arguments}")
    return ""


def _forget_modules(before: set[str]) -> None:
    """Drop the modules that a page has made; they are those that no importer has made."""
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__spec__", None) is None:
            del sys.modules[name]
