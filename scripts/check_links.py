"""Check that every relative link and anchor in this project's Markdown files leads somewhere.

Usage: ``python scripts/check_links.py``
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

__all__ = ("anchors", "broken_links", "markdown_files")

FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^\[[^\]]+\]:\s*<?(\S+?)>?\s*$", re.MULTILINE)
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*\s*$", re.MULTILINE)
SKIPPED = {"build", "dist", "node_modules"}


def markdown_files(checkout: Path) -> Iterator[Path]:
    """Yield the Markdown files of a checkout, without those of hidden, built or installed directories."""
    for path in sorted(checkout.rglob("*.md")):
        parts = path.relative_to(checkout).parts
        if not any(part in SKIPPED or part.startswith(".") for part in parts):
            yield path


def anchors(text: str) -> set[str]:
    """Return the fragment identifiers that hosting platforms make of the headings of a Markdown text."""
    seen: Counter[str] = Counter()
    found: set[str] = set()
    for match in HEADING.finditer(FENCE.sub("", text)):
        slug = re.sub(r"[^\w\- ]", "", match[1].lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def broken_links(path: Path) -> list[str]:
    """Return the relative links of one Markdown file that lead to no file, or to no heading of it."""
    text = path.read_text(encoding="utf-8")
    broken: list[str] = []
    for match in LINK.finditer(CODE.sub("", FENCE.sub("", text))):
        link = unquote(match[1] or match[2])
        if re.match(r"[a-z][a-z0-9+.-]*:", link, re.IGNORECASE):
            continue  # somewhere else; whether it is up is not for a build to decide
        target, _, fragment = link.partition("#")
        there = path.parent / target if target else path
        if not there.exists():
            broken.append(f"{link}: no such file")
        elif fragment and there.suffix == ".md" and fragment not in anchors(there.read_text(encoding="utf-8")):
            broken.append(f"{link}: no such heading")
    return broken


def main() -> int:
    """Check the checkout this script belongs to; the exit status says whether all links lead somewhere."""
    checkout = Path(__file__).resolve().parent.parent
    files = list(markdown_files(checkout))
    lines = [f"{path.relative_to(checkout)}: {problem}" for path in files for problem in broken_links(path)]
    for line in lines:
        print(line, file=sys.stderr)
    if not lines:
        print(f"{len(files)} Markdown files, every relative link leads somewhere")
    return 1 if lines else 0


if __name__ == "__main__":
    raise SystemExit(main())
