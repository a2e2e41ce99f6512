"""Which checks apply to which transport is written down: nothing that was proven goes unproven, and nothing new is claimed, without somebody having looked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fanwire.testing.checks import CHECKS
from fanwire.testing.harness import ABILITIES, Harness
from fanwire.testing.suite import TransportSuite
from tests.conformance.harnesses import MemoryHarness
from tests.conformance.pinning import DIRECTORY, PINNED, outline, render, stored
from tests.sources import CHECKOUT

REFRESH = "run `python scripts/generate_capabilities.py` and look at what changes: no row may go from 'applies' to something else without a reason"


@pytest.mark.parametrize("name", PINNED)
def test_the_report_is_the_one_that_is_kept(name: str) -> None:
    found, kept = outline(PINNED[name].suite), json.loads(stored(name) or '{"claims": {}, "rows": {}}')
    for part in ("claims", "rows"):
        changed = {key for key in {*found[part], *kept[part]} if found[part].get(key) != kept[part].get(key)}
        assert not changed, f"{name}: {part} {sorted(changed)} differ from tests/conformance/pinned/{name}.json: {REFRESH}"
    assert render(found) == stored(name), REFRESH


def test_nothing_else_is_kept() -> None:
    assert {path.stem for path in DIRECTORY.glob("*.json")} == set(PINNED)


def test_every_check_is_in_every_report_and_says_why_not() -> None:
    for pinned in PINNED.values():
        rows = outline(pinned.suite)["rows"]
        assert list(rows) == [str(check) for check in CHECKS]
        for state in rows.values():
            assert state == "applies" or str(state).startswith(("not claimed: ", "the harness cannot: "))


def test_memory_claims_at_least_what_it_is_meant_to() -> None:
    claims = outline(PINNED["memory"].suite)["claims"]
    least = {"delivery": "exactly_once", "ordering": "channel", "idempotent_publish": True, "confirmed_publish": True, "confirmed_subscribe": True}
    assert {name: claims[name] for name in least} == least
    assert claims["history"] == ["after_cursor", "earliest", "last_n", "since_time"]
    assert claims["links"] == "contiguous"
    assert claims["async_backends"] == ["asyncio", "trio"]


def test_on_memory_nothing_goes_untested_but_what_needs_another_process() -> None:
    """Whatever memory claims, its harness can try."""
    untested = {row: state for row, state in outline(PINNED["memory"].suite)["rows"].items() if state != "applies"}
    assert {str(state) for state in untested.values()} <= {
        "not claimed: multi_process",
        "the harness cannot: url",
        "the harness cannot: unauthorised",
        "the harness cannot: half_open",
        "the harness cannot: truncate",
    }, untested


def test_a_change_would_be_noticed() -> None:
    """A harness that can do less, and a transport that claims more, have another report."""

    class Weaker(MemoryHarness):
        cut = Harness.cut

    class Weak(TransportSuite):
        harness = Weaker

    found, kept = outline(Weak)["rows"], outline(PINNED["memory"].suite)["rows"]
    lost = {row for row in kept if found[row] != kept[row]}
    assert lost
    assert all("cut" in str(found[row]) for row in lost)
    assert "cut" in ABILITIES
    assert outline(PINNED["memory-without-history"].suite)["claims"] != outline(PINNED["memory"].suite)["claims"]


@pytest.mark.checkout
def test_the_documentation_is_up_to_date() -> None:
    """The page that is made from the reports; and that it would be noticed if it were not."""
    script = CHECKOUT / "scripts" / "generate_capabilities.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), REFRESH


@pytest.mark.checkout
def test_the_documentation_names_every_check_once() -> None:
    page = (CHECKOUT / "docs" / "capabilities.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")]
    for check in CHECKS:
        assert rows.count(check.row) == 1, f"{check.row} is {rows.count(check.row)} times in docs/capabilities.md: {REFRESH}"
    assert "poor" not in page


@pytest.mark.checkout
def test_what_is_out_of_date_is_told(tmp_path: Path) -> None:
    """By the script, in a copy of what it reads and writes."""
    for part in ("scripts", "tests"):
        (tmp_path / part).symlink_to(CHECKOUT / part)
    (tmp_path / "docs").mkdir()
    script = (CHECKOUT / "scripts" / "generate_capabilities.py").read_text(encoding="utf-8")
    copy = tmp_path / "generate.py"
    copy.write_text(script.replace("Path(__file__).resolve().parent.parent", f"Path({str(tmp_path)!r})"), encoding="utf-8")
    done = subprocess.run([sys.executable, str(copy), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "docs/capabilities.md is out of date: run scripts/generate_capabilities.py" in done.stderr
