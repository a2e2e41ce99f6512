"""What the pages list is what there is: settings, errors, loggers, counters, faults, exit codes, names of commands."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from typer.main import get_group

from fanwire import Capabilities, GapReason
from fanwire.cli.app import app
from fanwire.config import Settings
from fanwire.events import ConnectionState, RealtimeStats, SubscriptionStats
from fanwire.messages import Message
from fanwire_memory import Faults, MemoryOptions
from tests.docs.markdown import blocks, pages
from tests.sources import CHECKOUT, modules

pytestmark = pytest.mark.checkout

DOCS = CHECKOUT / "docs"
NAMES = re.compile(r"`([^`]+)`")


def table(page: str, header: str) -> dict[str, str]:
    """Return the names in the first column of a table, and what stands in the rest of the row. An empty first cell goes on with the name above."""
    text = (DOCS / page).read_text(encoding="utf-8")
    begin = text.index(f"\n{header}") + 1
    rows: dict[str, str] = {}
    names: list[str] = []
    for line in text[begin:].split("\n\n", 1)[0].splitlines()[2:]:
        first, _, rest = line.strip("| ").partition("|") if not line.startswith("| |") else ("", "", line[3:])
        names = NAMES.findall(first) or ([first.strip()] if first.strip() else names)
        for name in names:
            rows[name] = rows.get(name, "") + rest
    return rows


def same(listed: Iterable[str], there: Iterable[str]) -> None:
    assert sorted(listed) == sorted(there)


def test_settings() -> None:
    rows = table("configuration.md", "| setting ")
    same(rows, Settings.model_fields)
    sizes = {"8 MiB": 8 * 2**20, "256 MiB": 256 * 2**20}
    for name in ("timeout", "connect_timeout", "buffer", "buffer_bytes", "buffer_bytes_total", "linger"):
        shown = rows[name].partition("|")[0].strip()
        assert sizes.get(shown, shown) == Settings.model_fields[name].default or float(shown) == Settings.model_fields[name].default, name


def test_options_of_the_memory_transport() -> None:
    rows = table("configuration.md", "| option of `memory://`")
    same(rows, set(MemoryOptions.model_fields) - {"url", "namespace"})
    for name, row in rows.items():
        number, _, unit = row.partition("|")[0].strip().partition(" ")
        assert float(number) * {"": 1, "MiB": 2**20}[unit] == MemoryOptions.model_fields[name].default, name


def test_capabilities() -> None:
    rows = table("configuration.md", "| capability ")
    everything = Capabilities(
        delivery="exactly_once",
        ordering="channel",
        history=frozenset({"earliest", "last_n", "after_cursor", "since_time"}),
        multi_process=True,
        confirmed_publish=True,
        confirmed_subscribe=True,
        idempotent_publish=True,
        links="contiguous",
    ).names()
    same(rows | dict.fromkeys(NAMES.findall(rows["history"])), everything)


def test_reasons_of_gaps() -> None:
    same(table("gaps.md", "| reason "), [reason.value for reason in GapReason])


def test_fields_of_a_message() -> None:
    same(table("subscribing.md", "| field "), Message.__dataclass_fields__)


def test_connection_states() -> None:
    same(table("logging.md", "| state "), [state.value for state in ConnectionState])


def test_counters() -> None:
    same(table("logging.md", "| counter "), RealtimeStats._fields)
    text = (DOCS / "logging.md").read_text(encoding="utf-8")
    sentence = text[text.index("`messages.stats()`:") :].partition(".\n")[0].partition(". Worth")[0]
    same(NAMES.findall(sentence)[1:], SubscriptionStats._fields)


def test_faults() -> None:
    listed = {name.partition("(")[0] for name in table("testing.md", "| fault ")}
    there = {name for name, value in vars(Faults).items() if callable(value) and not name.startswith("_")} - {"take"}
    same(listed, there - {"resume"})
    assert "`resume()`" in (DOCS / "testing.md").read_text(encoding="utf-8")


def test_loggers_and_their_levels() -> None:
    """Compares the table with the calls in the sources."""
    rows = table("logging.md", "| logger ")
    levels = {"exception": "error", "error": "error", "warning": "warning", "debug": "debug", "info": "info"}
    there: dict[str, set[str]] = {}
    for path in modules():
        text = path.read_text(encoding="utf-8")
        if match := re.search(r"^_logger\b.* = logging\.getLogger\(\"([\w.]+)\"\)$", text, re.MULTILINE):
            there.setdefault(match[1], set()).update(levels[level] for level in re.findall(r"_logger\.(\w+)\(", text))
    assert "fanwire.connection" in there
    listed = {name: set(re.findall(r"\b(error|warning|debug|info)\b(?= *\|)", row)) for name, row in rows.items()}
    assert listed == there


def test_exit_codes_and_commands() -> None:
    group = get_group(app)
    listed = {name.split()[1] for name in table("command-line.md", "| command ")}
    same(listed, group.commands)
    codes = [code for name in table("command-line.md", "| exit code ") for code in re.findall(r"\d+", name)]
    epilog = re.findall(r"^\s*(\d+)\s", group.epilog or "", re.MULTILINE)
    same(codes, {*epilog, "143"})


def test_no_code_is_indented_instead_of_fenced() -> None:
    """Such code would not be run."""
    found: list[str] = []
    for page in pages(DOCS):
        fenced = {block.line + at for block in blocks(page) for at in range(len(block.code.splitlines()))}
        lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        found += [
            f"{page.name}:{number}"
            for number, line in lines
            if number not in fenced and re.match(r" {4}(import|from|async|await|with|def|class)\b", line)
        ]
    assert found == []


def test_lines_of_code_are_not_cut_off() -> None:
    """A column of the site has room for as many characters."""
    found = [
        f"{page.name}:{block.line + at}"
        for page in pages(DOCS)
        for block in blocks(page)
        if block.language in {"python", "sh", "toml", "typescript"}
        for at, line in enumerate(block.code.splitlines())
        if len(line) > 88
    ]
    assert found == []
