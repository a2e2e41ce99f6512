"""Finding the code blocks of a Markdown page, with the lines they stand on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ("Block", "blocks", "pages")

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)$")
_ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of code."""

    page: Path
    line: int
    """Number of the first line of code, from 1."""

    language: str
    attributes: dict[str, str]
    """What stands behind the language, such as ``title="app.py"``."""

    code: str
    """Without the indentation of the fence."""

    @property
    def title(self) -> str:
        """The name shown above the block, ``""`` without one."""
        return self.attributes.get("title", "")


def blocks(page: Path, text: str | None = None) -> Iterator[Block]:
    """Yield the fenced blocks of a page, in order; also those inside of tabs, lists and admonitions.

    Args:
        page: The file.
        text: What it holds, if it is not to be read.

    Raises:
        ValueError: a fence is not closed.
    """
    lines = (page.read_text(encoding="utf-8") if text is None else text).splitlines()
    at = 0
    while at < len(lines):
        opening = _FENCE.match(lines[at])
        at += 1
        if opening is None:
            continue
        indent, fence = len(opening["indent"]), opening["fence"]
        begin = at
        while at < len(lines) and not re.fullmatch(rf" *{fence[0]}{{{len(fence)},}} *", lines[at]):
            at += 1
        if at == len(lines):
            raise ValueError(f"{page}:{begin}: this fence is not closed")
        code = "".join(f"{line[indent:] if line[:indent].isspace() or not indent else line}\n" for line in lines[begin:at])
        language, _, rest = opening["info"].strip().partition(" ")
        yield Block(page, begin + 1, language, dict(_ATTRIBUTE.findall(rest)), code)
        at += 1


def pages(docs: Path) -> list[Path]:
    """Return the pages of the documentation."""
    return sorted(docs.rglob("*.md"))
