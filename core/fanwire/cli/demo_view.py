"""What is shown of the job: a live picture on a terminal, plain lines elsewhere, one JSON object for programs."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, Protocol, final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .demo import Conversation, DemoResult, Row, View
from .output import emit, printable

__all__ = ("JsonScreen", "LiveScreen", "PlainScreen", "Screen", "cells", "verdict_line")

FRAMES_PER_SECOND: Final = 12
"""Often enough to look alive; at most 20, so that drawing leaves the machine to the messages."""

HEADER: Final = ("subscriber", "published", "delivered", "lost", "in gaps", "repeats", "durable repeats", "p50 ms", "p99 ms", "verified")
"""Of the table's columns. ``in gaps`` counts what gaps announced as lost, ``repeats`` those of the part that is not durable."""

_NEWS: Final = 3
"""Lines about the worker: that it was killed, that it was started again, how that ended."""


class Screen(View, Protocol):
    """A view that also shows the outcome."""

    def report(self, result: DemoResult, /) -> None:
        """Show the outcome."""
        ...


# ---------------------------------------------------------------- the outcome


def cells(row: Row) -> Sequence[str]:
    """Return a row of the table, as text in the order of its header."""
    return (
        row.subscriber,
        f"{row.published:,}",
        f"{row.delivered:,}",
        f"{row.lost:,}",
        "unknown" if row.announced is None else f"{row.announced:,}",
        "-" if row.repeats is None else f"{row.repeats:,}",
        "-" if row.durable_repeats is None else f"{row.durable_repeats:,}",
        "-" if row.p50_ms is None else f"{row.p50_ms:.3f}",
        "-" if row.p99_ms is None else f"{row.p99_ms:.3f}",
        "NO" if row.problems else "yes",
    )


def verdict_line(result: DemoResult) -> str:
    """Return the outcome in one sentence."""
    if result.verdict == "passed":
        return f"passed: all {len(result.rows)} subscribers received exactly what was published"
    wrong = [row.subscriber for row in result.rows if row.problems]
    return f"FAILED: {', '.join(wrong)} did not receive exactly what was published"


def _problems(result: DemoResult) -> Iterator[str]:
    for row in result.rows:
        for problem in row.problems:
            yield f"{row.subscriber}: {problem}"


# ---------------------------------------------------------------- for programs


@final
class JsonScreen:
    """Nothing while it goes on, and the outcome as one JSON object on standard output."""

    def watch(self, conversation: Conversation, /) -> AbstractContextManager[object]:
        """Show nothing."""
        return nullcontext()

    def note(self, who: str, text: str, /) -> None:
        """Show nothing."""

    def report(self, result: DemoResult, /) -> None:
        """Print the outcome."""
        emit(result.model_dump_json(indent=2))


# ---------------------------------------------------------------- without a terminal


@final
class PlainScreen:
    """One line per notable event, and a table in aligned columns: for files, pipes and logs."""

    def watch(self, conversation: Conversation, /) -> AbstractContextManager[object]:
        """Print what is going to be streamed."""
        document = conversation.document
        size = f"{document.size:,} bytes, {len(conversation.pieces):,} tokens"
        emit(f"document: {_document_name(conversation)}, {size}, SHA-256 {document.sha256}")
        emit(f"channel: {conversation.chat.name}")
        return nullcontext()

    def note(self, who: str, text: str, /) -> None:
        """Print a line."""
        emit(f"{who + ':':<8}{text}")

    def report(self, result: DemoResult, /) -> None:
        """Print the table and the outcome."""
        lines = [HEADER, *map(cells, result.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        emit("")
        for line in lines:
            texts = [cell.ljust(width) if index == 0 else cell.rjust(width) for index, (cell, width) in enumerate(zip(line, widths, strict=True))]
            emit("  ".join(texts))
        emit("")
        for problem in _problems(result):
            emit(problem)
        emit(f"SHA-256 {result.sha256}")
        emit(verdict_line(result))


# ---------------------------------------------------------------- on a terminal


@final
class LiveScreen:
    """A picture that moves: the text as it grows, and each subscriber's progress.

    Frames are drawn by a thread of their own, from counters the subscribers keep anyway: a slow terminal holds up no message.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def watch(self, conversation: Conversation, /) -> Generator[None]:
        """Draw until the context is left; the last frame stays."""
        picture = _Picture(conversation, self._console)
        with Live(console=self._console, get_renderable=picture.frame, refresh_per_second=FRAMES_PER_SECOND):
            yield

    def note(self, who: str, text: str, /) -> None:
        """Do nothing: the next frame shows it."""

    def report(self, result: DemoResult, /) -> None:
        """Draw the table and the outcome."""
        self._console.print("", self._table(result.rows), "", sep="\n")
        for problem in _problems(result):
            self._console.print(Text(problem, style="red"))
        self._console.print(f"SHA-256 {result.sha256}", style="dim")
        passed = result.verdict == "passed"
        self._console.print(Text(verdict_line(result), style="bold green" if passed else "bold red"))

    def _table(self, rows: Sequence[Row]) -> RenderableType:
        table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, header_style="bold")
        for name in HEADER:
            # In two lines, so that the table fits a terminal of 80 columns.
            table.add_column(name.replace(" ", "\n"), justify="left" if name == HEADER[0] else "right", vertical="bottom", no_wrap=True)
        for row in rows:
            *figures, verified = map(Text, cells(row))
            figures[3].stylize("bold red" if row.lost else "")
            figures[6].stylize("bold red" if row.durable_repeats else "")
            verified.stylize("bold red" if row.problems else "green")
            table.add_row(*figures, verified)
        wanted = self._console.measure(table, options=self._console.options.update(max_width=1_000)).maximum
        if wanted <= self._console.width:
            return table
        # Too narrow for a table: a paragraph for each row loses no figure.
        lines = [", ".join(f"{name} {cell}" for name, cell in zip(HEADER, cells(row), strict=True)) for row in rows]
        return Group(*(Text(line) for line in lines))


@final
class _Picture:
    """Draws one frame. Reads what the event loop writes: each field it takes is replaced or appended to in one step."""

    def __init__(self, conversation: Conversation, console: Console) -> None:
        self._conversation = conversation
        self._console = console
        self._begin = time.monotonic()
        self._status, self._tokens, self._both = conversation.readers

    def frame(self) -> RenderableType:
        """Return the picture of this moment."""
        return Group(self._reply(), self._progress(), self._news())

    def _reply(self) -> RenderableType:
        statuses = self._status.statuses
        status = statuses[-1].message if statuses else "Waiting..."
        height = max(3, min(12, self._console.height - 10 - _NEWS))
        width = max(8, self._console.width - 4)
        # Whole blocks of tokens, so that lines do not break anew with each one.
        parts = self._tokens.parts
        first = max(0, len(parts) // 256 - 1) * 256
        lines = Text(printable("".join(parts[first:]))).wrap(self._console, width)[-height:]
        lines.extend(Text() for _ in range(height - len(lines)))
        return Panel(
            Group(*lines),
            title=Text(f"{_document_name(self._conversation)} on {self._conversation.chat.name}"),
            title_align="left",
            subtitle=Text(status, style="bold"),
            subtitle_align="left",
            border_style="green" if self._status.finished.is_set() else "cyan",
        )

    def _progress(self) -> RenderableType:
        grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
        grid.width = max(1, self._console.width - 3)  # room for the ^C that the terminal echoes: on a full line it would start another one
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        for _ in range(4):
            grid.add_column(justify="right", no_wrap=True)
        for reader in (self._status, self._tokens, self._both):
            gaps = len(reader.gaps)
            # Back to where the newest attempt is: what it repeats is on its way again, what is durable is there.
            progress = reader.progress
            grid.add_row(
                reader.name,
                ProgressBar(total=reader.expected, completed=progress, complete_style="cyan", finished_style="green"),
                f"{100 * progress // reader.expected} %",
                f"{progress:,}/{reader.expected:,}",
                f"{reader.repeats:,} repeats",
                Text(f"{gaps:,} gap{'' if gaps == 1 else 's'}", style="bold red" if gaps else "dim"),
            )
        elapsed = time.monotonic() - self._begin
        parts, since = len(self._tokens.parts), self._tokens.since
        rate = parts / max(1e-9, time.perf_counter() - since) if parts else 0.0
        grid.add_row("", "", "", "", f"{rate:,.0f} tokens/s", f"{elapsed:.1f} s")
        return grid

    def _news(self) -> RenderableType:
        # Always as many lines, so that the picture keeps its height.
        lines = [Text(text, style="yellow", no_wrap=True, overflow="ellipsis") for text in self._conversation.news[-_NEWS:]]
        return Group(*lines, *(Text() for _ in range(_NEWS - len(lines))))


def _document_name(conversation: Conversation) -> str:
    return " ".join(printable(conversation.document.name).split())
