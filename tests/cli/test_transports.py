"""`fanwire transports`: what is installed, what is missing and how to get it, and what is broken, in one line each."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from fanwire.cli import transports as module
from fanwire.cli.transports import Entry, find, schemes, source_of
from fanwire.registry import GROUP
from fanwire_memory import MemoryTransport
from tests.cli.commands import fanwire, on_a_terminal, one_line, one_object
from tests.cli.terminal import Terminal, plain
from tests.planting import Planter, planting

BROKEN = """
from toyfan import ToyTransport
from fanwire.capabilities import Capabilities
from fanwire.errors import ConfigError


class Refusing(ToyTransport):
    @classmethod
    def from_options(cls, options):
        raise ConfigError("a host is required: demanding://host?token=...")


class Local(ToyTransport):
    @classmethod
    def from_options(cls, options):
        if "localhost" not in options.url.get_secret_value():
            raise ConfigError("a host is required")
        return cls(options)


class Silent(ToyTransport):
    capabilities = "many"


class Stumbling(ToyTransport):
    @property
    def capabilities(self):
        raise RuntimeError("no\\nlines\\x1b[2J, redis://app:hunter2@db")


nothing = 3
"""


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Planter]:
    """A place for distributions, with the toy transport in it."""
    with planting(tmp_path, monkeypatch) as planter:
        planter.toyfan()
        yield planter


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transports that fanwire knows, and that no version of it has."""
    monkeypatch.setattr(module, "KNOWN", {"mars": "planets", "mars+tls": "planets", "sun": "stars", "memory": "memory"})


def entry(scheme: str) -> Entry:
    (found,) = [entry for entry in find() if entry.scheme == scheme]
    return found


def listed(*arguments: object) -> list[dict[str, Any]]:  # Any: JSON
    result = fanwire("transports", *arguments, "--json")
    assert (result.exit_code, result.stderr, result.stdout.count("\n")) == (0, "", 1)
    found: list[dict[str, Any]] = json.loads(result.stdout)["transports"]
    return found


# ---------------------------------------------------------------- what is there


def test_a_table_of_what_is_installed_and_lines_of_what_is_missing() -> None:
    result = fanwire("transports")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["url", "from", "delivery", "order", "history", "processes", "loops"]
    (row,) = [line for line in lines if line.startswith("memory://")]
    for text in ("fanwire 0.", "exactly once", "one per channel", "after_cursor, earliest, last_n, since_time", "this one only", "asyncio, trio"):
        assert text in row
        assert row.index(text) in {lines[0].index(name) for name in lines[0].split()}
    assert 'sun:// is missing: pip install --upgrade "fanwire[stars]"' in lines
    assert 'mars://, mars+tls:// are missing: pip install --upgrade "fanwire[planets]"' in lines
    assert "\x1b" not in result.stdout


def test_everything_about_one(plant: Planter) -> None:
    for name in ("toy", "TOY", "toy://", "toy://host"):
        result = fanwire("transports", name)
        assert result.exit_code == 0
        assert result.stdout.startswith("toy://")
        assert "memory" not in result.stdout
        found = dict(line.strip().split("  ", 1) for line in result.stdout.splitlines())
        assert {key: found[key].strip() for key in ("from", "class", "delivery", "history", "largest message")} == {
            "from": "toyfan 1.0",
            "class": "toyfan:ToyTransport",
            "delivery": "at most once",
            "history": "none",
            "largest message": "no limit",
        }
    assert fanwire("transports", "toy", "memory", "sun").stdout.count("://") == 3


def test_json() -> None:
    entries = {found["scheme"]: found for found in listed()}
    assert list(entries) == schemes()
    memory = entries["memory"]
    declared = memory.pop("capabilities")
    assert (memory["status"], memory["distribution"], memory["reference"], memory["reason"]) == (
        "installed",
        "fanwire",
        "fanwire_memory:MemoryTransport",
        None,
    )
    actual = MemoryTransport().capabilities
    assert set(declared.pop("names")) == set(actual.names())
    assert declared.pop("history") == sorted(actual.history)
    assert declared.pop("async_backends") == ["asyncio", "trio"]
    assert declared == {name: getattr(actual, name) for name in declared}
    assert len(declared) == len(actual.__dataclass_fields__) - 2
    sun = entries["sun"]
    assert (sun["status"], sun["install"], sun["capabilities"]) == ("missing", 'pip install --upgrade "fanwire[stars]"', None)
    assert [found["scheme"] for found in listed("memory://")] == ["memory"]


def test_an_unknown_one() -> None:
    result = fanwire("transports", "memry")
    assert result.exit_code == 2
    assert one_line(result) == "there is no transport 'memry'; did you mean 'memory'?"
    assert one_object(fanwire("transports", "memry", "--json"))["code"] == "config"


def test_without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    assert fanwire("transports").exit_code == 0
    assert all(entry.status == "missing" for entry in find())


# ---------------------------------------------------------------- what is not as it should be


def test_a_missing_client_has_its_command(plant: Planter) -> None:
    plant.module("needyfan", "import a_client_nobody_has\n")
    plant.metadata("needyfan", {"needy": "needyfan:Needy [client]"})
    found = entry("needy")
    assert (found.status, found.install) == ("missing", 'pip install "needyfan[client]"')
    assert found.distribution == "needyfan"
    assert 'needy:// is missing: pip install "needyfan[client]"' in fanwire("transports").stdout.splitlines()


def test_a_missing_client_without_an_extra_is_still_a_line(plant: Planter) -> None:
    plant.module("needyfan", "import a_client_nobody_has\n")
    plant.metadata("needyfan", {"needy": "needyfan:Needy"})
    (line,) = [line for line in fanwire("transports").stdout.splitlines() if line.startswith("needy://")]
    assert line.startswith("needy:// is missing: needy:// needs the package 'a_client_nobody_has'")


@pytest.mark.parametrize(
    ("reference", "status", "text"),
    [
        ("brokenfan:absent", "broken", "fails to load: AttributeError"),
        ("absentfan:Absent", "broken", "there is no such module"),
        ("raisingfan:Raising", "broken", "fails to load: ZeroDivisionError"),
        ("brokenfan:nothing", "broken", "which is no transport"),
        ("brokenfan:Silent", "broken", "declares no Capabilities but a str"),
        ("brokenfan:Stumbling", "broken", "unexpected RuntimeError: no lines\ufffd[2J, redis://app:***@db"),
        ("brokenfan:Refusing", "installed", "needs options: a host is required: demanding://host?token=***"),
    ],
)
def test_a_broken_one_is_one_line_with_its_reason(plant: Planter, reference: str, status: str, text: str) -> None:
    plant.module("brokenfan", BROKEN)
    plant.module("raisingfan", "1 / 0\n")
    plant.metadata("thirdfan", {"third": reference})
    assert entry("third").status == status
    result = fanwire("transports")
    assert (result.exit_code, result.stderr) == (0, "")
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("third:// ") and "unknown" not in line]
    assert text in line
    assert [line for line in result.stdout.splitlines() if line.startswith("memory://")]
    (found,) = listed("third")
    assert (found["status"], found["capabilities"]) == (status, None)
    assert "hunter2" not in json.dumps(found)


def test_one_that_needs_a_host_is_asked_with_one(plant: Planter) -> None:
    plant.module("brokenfan", BROKEN)
    plant.metadata("localfan", {"local": "brokenfan:Local"})
    found = entry("local")
    assert (found.status, found.reason) == ("installed", None)
    assert found.capabilities is not None


def test_a_scheme_registered_twice(plant: Planter) -> None:
    plant.metadata("other-toy", {"toy": "toyfan:ToyTransport"}, version="2.0")
    found = entry("toy")
    assert (found.status, found.distribution) == ("broken", None)
    assert found.reason is not None
    assert "by other-toy (toyfan:ToyTransport) and by toyfan" in found.reason
    assert source_of("toy") == ""
    assert source_of("memory").startswith("fanwire ")
    assert source_of("nobody") == ""


def test_a_distribution_without_metadata_has_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    entries = {GROUP: [EntryPoint("memory", "fanwire_memory:MemoryTransport", GROUP)]}
    monkeypatch.setattr(module, "entry_points", lambda group: entries[group])
    found = entry("memory")
    assert (found.status, found.distribution, found.version, found.reference) == ("installed", None, None, "fanwire_memory:MemoryTransport")


# ---------------------------------------------------------------- in a terminal


def test_in_a_terminal_it_is_drawn() -> None:
    with Terminal([sys.executable, "-m", "fanwire.cli", "transports"], columns=150) as terminal:
        code, text = terminal.wait()
    assert code == 0
    assert "\x1b[" in terminal.raw
    assert "memory://" in text
    assert "exactly once" in text
    assert "after_cursor, earliest, last_n, since_time" in text


@pytest.mark.parametrize("width", [150, 60])
def test_what_is_drawn(plant: Planter, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    plant.metadata("brokenfan", {"broken": "absentfan:Absent"})
    written = on_a_terminal(monkeypatch, width)
    assert fanwire("transports").exit_code == 0
    text = plain(written.getvalue())
    assert ("delivery: at most once" in text) == (width == 60)
    assert "at most once" in text
    assert "broken:// is broken: " in text
    assert "sun:// is missing: pip install" in text


def test_a_narrow_terminal_loses_nothing() -> None:
    with Terminal([sys.executable, "-m", "fanwire.cli", "transports"], columns=60) as terminal:
        code, text = terminal.wait()
    assert code == 0
    assert "\u2026" not in text
    assert max(map(len, text.splitlines())) <= 60 or "pip install" in text
    squeezed = " ".join(text.split())
    assert "memory:// from: fanwire 0." in squeezed
    assert "history: after_cursor, earliest, last_n, since_time; processes: this one only; loops: asyncio, trio" in squeezed


def test_a_terminal_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.cli.terminal import environment

    with Terminal([sys.executable, "-m", "fanwire.cli", "transports"], env=environment(NO_COLOR="1")) as terminal:
        assert terminal.wait()[0] == 0
    assert "\x1b[3" not in terminal.raw  # colours begin so
    with Terminal([sys.executable, "-m", "fanwire.cli", "transports"], env=environment(TERM="dumb")) as terminal:
        assert terminal.wait()[0] == 0
    assert "\x1b" not in terminal.raw
