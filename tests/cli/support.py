"""What the tests of the command line share: a document, a view that keeps what it is told, the program."""

from __future__ import annotations

import hashlib
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from fanwire.cli.demo import Conversation, Reader
from fanwire.cli.document import split_tokens

__all__ = ("ESCAPE", "SHA256", "TEXT", "TOKENS", "Notes", "program")

TEXT = (
    """# fanwire

Typed realtime channels for Python, over the message broker you already run: déjà vu, 漢字, 🧵.

| transport | history |
|---|---|
| `memory://` | per channel |
"""
    * 20
)
TOKENS = len(split_tokens(TEXT))
SHA256 = hashlib.sha256(TEXT.encode()).hexdigest()
ESCAPE = "\x1b"


class Notes:
    """A view that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []

    def watch(self, conversation: Conversation, /) -> AbstractContextManager[object]:
        return nullcontext()

    def note(self, reader: Reader, text: str, /) -> None:
        self.notes.append((reader.name, text))


def program(*arguments: str | Path) -> list[str]:
    """Return the arguments that start the command line in a process of its own."""
    return [sys.executable, "-m", "fanwire.cli", *map(str, arguments)]
