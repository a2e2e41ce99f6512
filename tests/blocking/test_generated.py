"""The blocking façade is what the script makes of the asynchronous one; a change of that one is noticed, and what the script cannot turn is refused."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.sources import CHECKOUT
from tests.untested import require

pytestmark = pytest.mark.checkout


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    require("ruff", importlib.util.find_spec("ruff") is not None, "the blocking façade's source")
    spec = importlib.util.spec_from_file_location("generate_blocking", CHECKOUT / "scripts" / "generate_blocking.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["generate_blocking"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["generate_blocking"]


@pytest.fixture
def core(tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sources that a test may spoil, which the script reads and writes."""
    core = tmp_path / "core" / "fanwire"
    shutil.copytree(CHECKOUT / "core" / "fanwire", core, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(script, "CORE", core)
    return core


def spoil(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_what_is_committed_is_up_to_date(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--check"]) == 0, capsys.readouterr().out


def test_a_change_of_the_source_is_noticed(script: ModuleType, core: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And shown as a difference; written, it is gone, and what was written works on what it found."""
    spoil(core / "realtime.py", "async def ping(self) -> float:", "async def ping(self, *, times: int = 1) -> float:")
    spoil(core / "subscription.py", '"""Return a subscription that yields every', '"""Return one that yields every')
    assert script.main(["--check"]) == 1
    shown = capsys.readouterr()
    assert "-    def ping(self) -> float:\n+    def ping(self, *, times: int = 1) -> float:\n" in shown.out
    assert "+        return self._call(lambda realtime: realtime.ping(times=times))\n" in shown.out
    assert '+        """Return one that yields every' in shown.out
    assert "--- core/fanwire/blocking/realtime.py" in shown.out
    assert "2 of 3 files of the blocking façade are out of date: run `make generate`" in shown.err
    assert script.main([]) == 0
    assert capsys.readouterr().out.splitlines() == ["wrote core/fanwire/blocking/realtime.py", "wrote core/fanwire/blocking/subscription.py"]
    assert script.main(["--check"]) == 0
    assert "times=times" in (core / "blocking" / "realtime.py").read_text(encoding="utf-8")


def test_a_change_by_hand_is_noticed(script: ModuleType, core: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(core / "blocking" / "run.py", "timeout=timeout", "timeout=None")
    assert script.main(["--check"]) == 1
    assert (
        "-        return self._call(lambda run: unchecked(run.publish)(ref, data, key=key, headers=headers, timeout=None))\n"
        in capsys.readouterr().out
    )


def test_a_file_that_is_missing_is_noticed(script: ModuleType, core: Path) -> None:
    (core / "blocking" / "subscription.py").unlink()
    assert script.main(["--check"]) == 1
    assert script.main([]) == 0
    assert (core / "blocking" / "subscription.py").read_bytes() == (CHECKOUT / "core" / "fanwire" / "blocking" / "subscription.py").read_bytes()


METHODS = {
    "async": (
        "async def token(self, name: str, /, *, ttl: float = 1.0) -> str:",
        "def token(self, name: str, /, *, ttl: float = 1.0) -> str:",
        "return self._call(lambda realtime: realtime.token(name, ttl=ttl))",
    ),
    "iterable": (
        "async def all(self, names: Iterable[str], /) -> None:",
        "def all(self, names: Iterable[str], /) -> None:",
        "names = tuple(names)\n        return self._call(lambda realtime: realtime.all(names))",
    ),
    "plain": ("def size(self, unit: str) -> int:", "def size(self, unit: str) -> int:", "return self._realtime.size(unit=unit)"),
    "function": (
        "async def each(self, work: Callable[[int], Awaitable[None]], /) -> None:",
        "def each(self, work: Callable[[int], None], /) -> None:",
        "return self._call_back(lambda realtime, job: realtime.each(job.in_caller(work)))",
    ),
}


@pytest.mark.parametrize("shape", METHODS)
def test_a_method_that_comes_to_be_is_there(script: ModuleType, core: Path, shape: str) -> None:
    source, head, body = METHODS[shape]
    spoil(
        core / "realtime.py",
        "    async def ping(self)",
        f'    {source}\n        """What it does, with ``await rt.ping()``."""\n        raise NotImplementedError\n\n    async def ping(self)',
    )
    text = script.generate(script.MODULES[0])
    assert f'    {head}\n        """What it does, with ``rt.ping()``."""\n        {body}\n' in text


REFUSED = {
    "an iterator": ("def all(self) -> AsyncIterator[int]:", "do not know what to do with a method of this shape"),
    "an unknown kind": ("async def group(self) -> AsyncExitStack:", "do not know what AsyncExitStack is without an event loop"),
    "a coroutine": ("def later(self) -> Coroutine[None, None, int]:", "do not know what Coroutine is without an event loop"),
}


@pytest.mark.parametrize("shape", REFUSED)
def test_what_it_does_not_know_is_refused(script: ModuleType, core: Path, shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    source, complaint = REFUSED[shape]
    spoil(
        core / "realtime.py",
        "    async def ping(self)",
        f'    {source}\n        """Something."""\n        raise NotImplementedError\n\n    async def ping(self)',
    )
    assert script.main(["--check"]) == 1
    said = capsys.readouterr().err
    assert complaint in said
    assert "core/fanwire/blocking/realtime.py cannot be generated: Realtime." in said


def test_texts_that_are_replaced_have_to_be_there(script: ModuleType, core: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise a docstring might come to say something of event loops, and nobody would know."""
    spoil(core / "runs" / "run.py", "the function is no ``async`` one", "the function is not an ``async`` one")
    assert script.main([]) == 1
    assert "Steps.run: its docstring no longer has 'the function is no ``async`` one'" in capsys.readouterr().err


def test_a_method_without_a_docstring_is_refused(script: ModuleType, core: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(
        core / "realtime.py",
        "    async def ping(self)",
        "    async def pong(self) -> None:\n        raise NotImplementedError\n\n    async def ping(self)",
    )
    assert script.main([]) == 1
    assert "Realtime.pong has no docstring" in capsys.readouterr().err
