"""Writes down what the conformance kit says about each transport: tests/conformance/pinned/*.json, and from these docs/capabilities.md.

``--check`` writes nothing, and fails if what is there is not what would be written.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from fanwire.testing.checks import CHECKS  # noqa: E402 - the line above makes the helpers of tests/ importable
from tests.conformance.pinning import DIRECTORY, PINNED, outline, render  # noqa: E402 - as above

PAGE = ROOT / "docs" / "capabilities.md"

GROUPS = {
    "A": "Delivery and readiness",
    "B": "Order",
    "C": "Payloads and names",
    "D": "Lifetime, cancellation, leaks",
    "E": "Slow readers",
    "F": "Faults of the connection and of the server",
    "G": "History and resume",
    "H": "Idempotency keys",
    "I": "The contract itself",
    "X": "Positions, links and the seam between history and live",
}
"""By the first letter of a check's row."""

CLAIMS = {
    "delivery": "From the broker to this process",
    "ordering": "Order of the messages of a channel",
    "history": "How the past can be read",
    "multi_process": "Other processes take part",
    "confirmed_publish": "`publish` returns once the broker has accepted",
    "confirmed_subscribe": "Entering a subscription returns once the broker has confirmed",
    "idempotent_publish": "The broker drops a message whose key it has seen",
    "links": "What a message tells about its predecessor",
    "max_payload": "Bytes of an encoded message",
    "max_channel_bytes": "Bytes of a channel's name",
    "async_backends": "Event loops",
}

HEAD = """# What each transport can do

<!-- Written by scripts/generate_capabilities.py from tests/conformance/pinned/; a test compares. -->

A transport declares what it can do: its [capabilities](writing-a-transport.md). What it declares is proven by the conformance kit, `fanwire.testing`; what it does not declare raises
`Unsupported`. This page is made from the kit's reports.

## Declared

"""

ROWS = """
## Proven

One line per check of the kit. **yes**: it runs against the transport in every test run. *no*: it is about something that the transport does not declare. A blank: the
transport's test harness cannot bring the situation about.
"""


def main() -> int:
    """Write the reports and the page, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something is out of date")
    check: bool = parser.parse_args().check
    wanted = {DIRECTORY / f"{name}.json": render(outline(pinned.suite)) for name, pinned in PINNED.items()}
    wanted[PAGE] = page({name: json.loads(wanted[DIRECTORY / f"{name}.json"]) for name, pinned in PINNED.items() if pinned.heading})
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    stale += [path for path in DIRECTORY.glob("*.json") if path not in wanted]
    if check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is out of date: run scripts/generate_capabilities.py and look at what changes", file=sys.stderr)
        return int(bool(stale))
    for path in stale:
        if path in wanted:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8")
        else:
            path.unlink()
        print(f"{path.relative_to(ROOT)}: {'written' if path in wanted else 'removed'}")
    return 0


def page(reports: dict[str, dict[str, dict[str, object]]]) -> str:
    """Return the page about these transports."""
    headings = [PINNED[name].heading or name for name in reports]
    lines = [HEAD.rstrip("\n"), "", *table(["", *headings], claims(reports)), ROWS.rstrip("\n")]
    for letter, title in GROUPS.items():
        rows = [
            [check.row, check.purpose.replace("|", "\\|"), *(cell(report["rows"].get(str(check))) for report in reports.values())]
            for check in CHECKS
            if check.row.startswith(letter)
        ]
        if rows:
            lines += ["", f"### {title}", "", *table(["", "", *headings], rows)]
    return "\n".join(lines) + "\n"


def claims(reports: dict[str, dict[str, dict[str, object]]]) -> Iterator[list[str]]:
    """Yield a line for each field of the capabilities."""
    for field, title in CLAIMS.items():
        yield [title, *(value(report["claims"][field]) for report in reports.values())]


def value(claimed: object) -> str:
    """Return a claim in words."""
    if isinstance(claimed, list):
        names: list[object] = claimed  # pyright: ignore[reportUnknownVariableType]  # read from JSON
        return ", ".join(f"`{name}`" for name in names) or "no"
    if isinstance(claimed, bool) or claimed is None:
        return {True: "yes", False: "no", None: "any number"}[claimed]
    return f"{claimed:,}" if isinstance(claimed, int) else str(claimed).replace("_", " ")


def cell(state: object) -> str:
    """Return whether a check applies."""
    return "**yes**" if state == "applies" else "*no*" if str(state).startswith("not claimed") else ""


def table(head: list[str], rows: Iterator[list[str]] | list[list[str]]) -> Iterator[str]:
    """Yield a table, line by line."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    sys.exit(main())
