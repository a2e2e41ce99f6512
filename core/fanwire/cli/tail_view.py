"""What ``fanwire tail`` shows: a table that grows on a terminal, plain lines elsewhere, one JSON object a line for programs."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from threading import Lock
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias, final

import anyio
import anyio.to_thread

from ..events import ConnectionEvent, ConnectionState, InvalidMessage
from ..messages import Gap, RawMessage
from .errors import OutputClosed, report_of
from .output import Outlet, as_json, emit, make_console, plural, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from .targets import Target

__all__ = ("Item", "JsonScreen", "LiveScreen", "PlainScreen", "Screen", "data_text", "json_line", "plain_line")

Item: TypeAlias = RawMessage | Gap | InvalidMessage | ConnectionEvent
"""What can happen."""

FRAMES_PER_SECOND: Final = 12
MOST_ROWS: Final = 100
"""Messages that one frame prints at most: nobody reads more, and a terminal takes its time. Gaps and the like are always printed."""


class Screen(Protocol):
    """Where it is shown."""

    def put(self, item: Item, /) -> None:
        """Show one item, soon."""
        ...

    async def run(self) -> None:
        """Show what was put, until cancelled.

        Raises:
            OutputClosed: standard output cannot be written.
        """
        ...

    async def drained(self) -> None:
        """Wait until so much is shown that more may be put."""
        ...

    def close(self, summary: str | None, /) -> None:
        """Say what it came to; ``None`` where an error says it."""
        ...


# ---------------------------------------------------------------- one item in words


def data_text(message: RawMessage) -> str:
    """Return a payload as one line of JSON that no terminal is steered by."""
    text = message.json.decode(errors="replace")
    if "\n" in text or "\r" in text:  # a foreign publisher's
        text = json.dumps(message.data, ensure_ascii=False, separators=(",", ":"))
    return printable(text)


def _sentence(item: Gap | InvalidMessage | ConnectionEvent) -> str:
    """Return in words what is no message, on one line."""
    if isinstance(item, Gap):
        return printable(f"gap: {item}")
    if isinstance(item, InvalidMessage):
        topic = "" if item.topic is None else f", topic {item.topic!r}"
        text = f"invalid: {plural(len(item.frame), 'byte')} on channel {item.channel!r}{topic}: {item.reason}"
        return " ".join(printable(text).split())
    attempt = f", attempt {item.attempt:,}" if item.attempt > 1 else ""
    return f"connection: {item.state.value}{attempt}{'' if item.error is None else f': {report_of(item.error).message}'}"


def plain_line(item: Item) -> str:
    """Return an item as a line of text. What is no message begins with ``!!``, or ``--`` for what is news and no trouble."""
    if isinstance(item, RawMessage):
        kind = "" if item.kind == "data" else f" ({item.kind})"
        return f"{_stamp(item.created_at)}  {printable(item.channel)}  {printable(item.topic + kind)}  {data_text(item)}"
    return f"{'--' if _is_news(item) else '!!'} {_stamp(_when(item))}  {_sentence(item)}"


def _is_news(item: Item) -> bool:
    """Tell a change for the better from trouble."""
    return isinstance(item, ConnectionEvent) and item.error is None


def _when(item: Item) -> datetime:
    """Return when it happened; of what does not say so, the present."""
    if isinstance(item, RawMessage):
        return item.created_at
    return datetime.fromtimestamp(item.at, UTC) if isinstance(item, ConnectionEvent) else datetime.now(UTC)


def _stamp(when: datetime) -> str:
    return f"{when.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def json_line(item: Item) -> str:
    """Return an item as one JSON object, whose ``type`` is ``message``, ``gap``, ``invalid`` or ``connection``."""
    if isinstance(item, RawMessage):
        return as_json({
            "type": "message",
            "id": item.id,
            "channel": item.channel,
            "topic": item.topic,
            "kind": item.kind,
            "created_at": _stamp(item.created_at),
            "cursor": None if item.cursor is None else str(item.cursor),
            "run_id": item.run_id,
            "key": item.key,
            "headers": None if item.headers is None else dict(item.headers),
            "data": item.data,
        })  # fmt: skip
    if isinstance(item, Gap):
        return as_json({"type": "gap", "channel": item.channel, "reason": item.reason.value, "lost": item.lost})
    if isinstance(item, InvalidMessage):
        return as_json({"type": "invalid", "channel": item.channel, "topic": item.topic, "reason": item.reason, "bytes": len(item.frame)})
    error = None if item.error is None else {"code": item.error.code, "message": report_of(item.error).message}
    return as_json({"type": "connection", "state": item.state.value, "at": item.at, "attempt": item.attempt, "error": error})


# ---------------------------------------------------------------- without a terminal


class _Lines:
    """Writes lines in the order they were put. Whoever puts them waits for the reader of standard output, and the event loop does not."""

    def __init__(self) -> None:
        self._pending: list[str] = []
        self._writing = False
        self._over = False
        self._wake: anyio.Event | None = None
        self._idle: anyio.Event | None = None

    def _add(self, line: str) -> None:
        self._pending.append(f"{line}\n")
        if self._wake is not None:
            self._wake.set()

    async def run(self) -> None:
        """See :class:`Screen`."""
        outlet = Outlet()
        try:
            while True:
                if not self._pending:
                    self._wake = anyio.Event()
                    await self._wake.wait()
                text, self._writing = "".join(self._pending), True
                self._pending.clear()
                await outlet.write(text)
                self._writing = False
                if not self._pending:
                    self._rest()
        finally:
            self._over = True
            self._rest()

    def _rest(self) -> None:
        if self._idle is not None:
            self._idle.set()
            self._idle = None

    async def drained(self) -> None:
        """See :class:`Screen`."""
        while (self._pending or self._writing) and not self._over:
            self._idle = self._idle or anyio.Event()
            await self._idle.wait()


@final
class PlainScreen(_Lines):
    """One line per item on standard output, and the sum on standard error."""

    def put(self, item: Item, /) -> None:
        """See :class:`Screen`."""
        self._add(plain_line(item))

    def close(self, summary: str | None, /) -> None:
        """See :class:`Screen`."""
        if summary is not None:
            print(summary, file=sys.stderr, flush=True)


@final
class JsonScreen(_Lines):
    """One JSON object per item on standard output, and nothing else."""

    def put(self, item: Item, /) -> None:
        """See :class:`Screen`."""
        self._add(json_line(item))

    def close(self, summary: str | None, /) -> None:
        """Say nothing: the objects have said it."""


# ---------------------------------------------------------------- on a terminal


class _Row(NamedTuple):
    """One item, and when it happened."""

    when: datetime
    item: Item


class _Skipped(NamedTuple):
    """Messages that are not shown, for they were too many."""

    when: datetime
    messages: int


@final
class LiveScreen:
    """A table that grows upwards into the terminal's own memory, above a line with the state and the counts.

    Frames are drawn by a thread of their own: a terminal that stands still holds up no message.

    Args:
        targets: The channels; of several, each row names its own.
        console: Where to draw; by default standard output.
    """

    def __init__(self, targets: Sequence[Target], console: Console | None = None) -> None:
        self._console = console or make_console(sys.stdout)
        names = [printable(target.name) for target in targets]
        self._channel_width = min(32, max(map(len, names))) if len(names) > 1 else 0
        self._title = names[0] if len(names) == 1 else f"{len(names)} channels"
        self._topic_width = 5
        self._lock = Lock()
        self._rows: list[_Row | _Skipped] = []
        self._messages = self._gaps = self._invalid = 0
        self._state = "connected"
        self._rate: deque[tuple[float, int]] = deque([(time.monotonic(), 0)], maxlen=FRAMES_PER_SECOND * 2)

    def put(self, item: Item, /) -> None:
        """See :class:`Screen`."""
        if isinstance(item, RawMessage):
            self._messages += 1
        elif isinstance(item, Gap):
            self._gaps += 1
        elif isinstance(item, InvalidMessage):
            self._invalid += 1
        else:
            self._state = item.state.value
        with self._lock:
            self._rows.append(_Row(_when(item), item))
            if len(self._rows) > 8 * MOST_ROWS:
                self._rows = _thinned(self._rows)

    async def run(self) -> None:
        """See :class:`Screen`."""
        from rich.live import Live

        with Live(self._footer(), console=self._console, auto_refresh=False, transient=True) as live:
            self._console.print(self._line("TIME", "CHANNEL", "TOPIC", "DATA", "bold"), no_wrap=True, crop=True)
            live.refresh()
            try:
                while True:
                    await anyio.sleep(1 / FRAMES_PER_SECOND)
                    await anyio.to_thread.run_sync(self._frame, live, self._footer())
            except OSError as error:
                raise OutputClosed(error.strerror or str(error)) from error
            finally:
                with suppress(OSError):
                    self._draw()

    async def drained(self) -> None:
        """Return at once: what is too much is left out, and counted."""

    def close(self, summary: str | None, /) -> None:
        """See :class:`Screen`."""
        if summary is not None:
            emit(summary)

    # ------------------------------------------------------------------ drawing

    def _frame(self, live: Live, footer: Text) -> None:
        self._draw()
        live.update(footer, refresh=True)

    def _draw(self) -> None:
        """Print what has come since the last frame."""
        from rich.text import Text

        with self._lock:
            rows, self._rows = _thinned(self._rows), []
        for row in rows:
            if isinstance(row, _Row) and isinstance(row.item, RawMessage):
                self._topic_width = max(self._topic_width, min(24, len(row.item.topic)))
        if rows:
            self._console.print(Text("\n").join(map(self._row, rows)), overflow="fold")

    def _row(self, row: _Row | _Skipped) -> Text:
        from rich.text import Text

        if isinstance(row, _Skipped):
            text = f"{plural(row.messages, 'message')} not shown, too many for a terminal: a file, a pipe or --json gets them all"
            return Text(f"{_clock(row.when)}  {text}", style="dim")
        item = row.item
        if isinstance(item, RawMessage):
            topic = item.topic if item.kind == "data" else f"{item.topic} ({item.kind})"
            return self._line(_clock(row.when), item.channel, topic, data_text(item), "")
        return Text(f"{_clock(row.when)}  {_sentence(item)}", style="green" if _is_news(item) else "bold white on red")

    def _line(self, when: str, channel: str, topic: str, text: str, style: str) -> Text:
        """Return the row of a message, cut to the width of the terminal."""
        from rich.text import Text

        width = max(20, self._console.width)
        parts = [when.ljust(12)]
        if self._channel_width:
            parts.append(_cell(channel, self._channel_width))
        parts += [_cell(topic, self._topic_width), printable(text[: 4 * width]).replace("\n", " ")]
        line = Text("  ".join(parts), style=style, no_wrap=True)
        line.truncate(width, overflow="ellipsis")
        if not style:
            line.stylize("dim", 0, 12)
            line.stylize("cyan", 12, len("  ".join(parts[:-1])))
        return line

    def _footer(self) -> Text:
        """Return the last line: the state and the counts."""
        from rich.text import Text

        now = time.monotonic()
        since, before = self._rate[0]
        rate = (self._messages - before) / max(0.1, now - since)
        self._rate.append((now, self._messages))
        good = self._state == ConnectionState.CONNECTED.value
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f" {self._state} ", "black on green" if good else "white on red")
        line.append(f" {self._title}  {plural(self._messages, 'message')}  {rate:,.0f}/s  ")
        line.append(plural(self._gaps, "gap"), "bold red" if self._gaps else "dim")
        line.append(f"  {self._invalid:,} invalid", "bold red" if self._invalid else "dim")
        line.append("  Ctrl-C ends", "dim")
        line.truncate(max(1, self._console.width - 3), overflow="ellipsis")  # room for the ^C that the terminal echoes
        return line


def _cell(text: str, width: int) -> str:
    from rich.cells import cell_len, set_cell_size

    shown = printable(text)
    return set_cell_size(shown, width) if cell_len(shown) <= width else f"{set_cell_size(shown, width - 1)}…"


def _clock(when: datetime) -> str:
    return when.astimezone().strftime("%H:%M:%S.%f")[:-3]


def _thinned(rows: Sequence[_Row | _Skipped]) -> list[_Row | _Skipped]:
    """Leave out the oldest messages beyond :data:`MOST_ROWS`, and say at their place how many."""
    excess = sum(isinstance(row, _Row) and isinstance(row.item, RawMessage) for row in rows) - MOST_ROWS
    kept: list[_Row | _Skipped] = []
    for row in rows:
        if isinstance(row, _Row):
            if excess <= 0 or not isinstance(row.item, RawMessage):
                kept.append(row)
                continue
            excess -= 1
        skipped = row if isinstance(row, _Skipped) else _Skipped(row.when, 1)
        last = kept[-1] if kept else None
        if isinstance(last, _Skipped):
            kept[-1] = _Skipped(skipped.when, last.messages + skipped.messages)
        else:
            kept.append(skipped)
    return kept
