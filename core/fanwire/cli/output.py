"""Writing to terminals, files and pipes: what all commands share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, TextIO, final

import anyio

from .errors import OutputClosed

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ("Outlet", "as_json", "columns", "emit", "make_console", "note", "on_terminal", "plural", "printable")

_CHUNK: Final = 4096
"""Bytes written at once: a pipe that is said to have room takes as many without blocking."""

_WITHOUT_WIDTH: Final = dict.fromkeys(map(ord, "\r\u00ad\u200b\u200c\u200d\u2060\ufeff"))


def on_terminal(stream: TextIO) -> bool:
    """Tell whether a stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "") not in {"dumb", "unknown"}


def make_console(stream: TextIO) -> Console:
    """Return what draws on a terminal. It leaves colours out where ``NO_COLOR`` is set."""
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False)


def emit(line: str) -> None:
    """Print a line on standard output, at once.

    Raises:
        OutputClosed: it cannot be written.
    """
    try:
        print(line, flush=True)
    except OSError as error:
        raise _closed(error) from error


def note(text: str) -> None:
    """Print what is worth knowing and no error, on standard error."""
    print(f"note: {text}", file=sys.stderr, flush=True)


def as_json(value: object) -> str:
    """Return a value as one line of JSON in ASCII, which no terminal and no encoding can change."""
    return json.dumps(value, separators=(",", ":"), default=str)


def plural(count: int, word: str) -> str:
    """Return ``1 message``, ``2 messages``."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def printable(text: str) -> str:
    """Return the text without whatever could steer a terminal: a message must not move the cursor or reverse a line."""
    shown = text.expandtabs(4).translate(_WITHOUT_WIDTH)
    return "".join(c if c == "\n" or c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in shown)


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows as lines whose cells stand below each other, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


@final
class Outlet:
    """Standard output for a command that goes on meanwhile: a slow reader, such as a pager, holds up the writing and not the event loop."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._encoding = sys.stdout.encoding or "utf-8"
        self._waits = True
        try:
            self._descriptor: int | None = sys.stdout.fileno()
        except (OSError, ValueError, AttributeError):
            self._descriptor = None

    async def write(self, text: str) -> None:
        """Write text. Cancelled, it may have written a part of it.

        Raises:
            OutputClosed: it cannot be written.
        """
        data = memoryview(text.encode(self._encoding, errors="backslashreplace"))
        try:
            if self._descriptor is None:
                sys.stdout.write(text)
                sys.stdout.flush()
                return
            while data:
                await self._room(self._descriptor)
                data = data[os.write(self._descriptor, data[:_CHUNK]) :]
        except OSError as error:
            raise _closed(error) from error

    async def _room(self, descriptor: int) -> None:
        if self._waits:
            try:
                await anyio.wait_writable(descriptor)
            except (OSError, NotImplementedError, ValueError):
                self._waits = False  # a file always has room, and the system refuses to wait for it


def _closed(error: OSError) -> OutputClosed:
    return OutputClosed(None if isinstance(error, BrokenPipeError) else error.strerror or str(error))
