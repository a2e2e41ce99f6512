"""``fanwire publish``: one message from an argument, or many from a file or standard input."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, final

from ..errors import ConfigError, FanwireError, PartialPublish
from ..messages import Receipt
from ..outgoing import encode, refused
from ..realtime import Realtime
from ..topics import Outgoing, TopicRef
from . import connection
from .connection import Place
from .errors import OK, Located, OutputClosed
from .lines import Line, Source, open_source, read_lines
from .output import as_json, emit, make_console, note, on_terminal, plural
from .running import run
from .targets import Lookup, parse_pairs, resolve

__all__ = ("Order", "publish")

_BATCH: Final = 500
"""Messages of one round trip at most."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be published, as it was typed."""

    channel: str
    topic: str
    data: str | None
    """JSON; ``-`` stands for standard input, line by line."""

    file: str | None
    key: str | None
    headers: Sequence[str]
    lookup: Lookup
    json: bool


def publish(order: Order, place: Place) -> int:
    """Publish, and print the receipts.

    Returns:
        The exit code.

    Raises:
        ConfigError: an argument is wrong.
        Located: a line of the input is wrong, or what it holds was not accepted.
        FanwireError: the broker cannot be reached, or refuses.
    """
    if (order.data is None) == (order.file is None):
        raise ConfigError(
            "give the data as DATA, in --file FILE, or as JSON lines on standard input with -" + ("" if order.data is None else ": one of them")
        )
    job = _Job(
        ref=resolve(order.channel, order.lookup).ref(order.topic),
        key=order.key,
        headers=parse_pairs("--header", order.headers) or None,
        json=order.json,
    )
    path = "-" if order.data == "-" else order.file
    realtime = connection.open_realtime(place)
    if path is None:
        assert order.data is not None
        message = job.message(order.data.encode(errors="surrogateescape"), realtime.capabilities.max_payload)
        _warn(realtime, order)
        run(_one, realtime, job, message)
        return OK
    with open_source(path) as source:
        _warn(realtime, order)
        try:
            with _progress(source, job):
                run(_many, realtime, job, source)
        except (Located, OutputClosed):
            raise  # the one says how many there were, of the other nobody would hear
        except BaseException:
            job.summarise()
            raise
    job.summarise()
    return OK


def _warn(realtime: Realtime, order: Order) -> None:
    if not realtime.capabilities.multi_process and not order.json:
        note("this transport stays inside its process: no other process will see what is published")


@final
@dataclass(slots=True)
class _Job:
    """What all messages have in common, and the account."""

    ref: TopicRef[Any]  # Any: a payload of any topic
    key: str | None
    headers: Mapping[str, str] | None
    json: bool
    accepted: int = 0
    repeats: int = 0
    done: int = 0
    """Bytes of the input that are dealt with."""

    advance: Callable[[], None] = field(default=lambda: None)
    began: float = field(default_factory=time.monotonic)

    def message(self, text: bytes, max_payload: int | None, line: int | None = None) -> Outgoing[Any]:  # Any: a payload of any topic
        """Make the message of one JSON value, checked in every way that publishing checks it.

        Raises:
            ConfigError: it is no JSON.
            FanwireError: the schema, or the transport, does not take it.
        """
        _check_json(text, argument=line is None)
        try:
            data: object = self.ref.schema.load(text)
        except Exception as error:  # a schema may raise anything
            raise refused(self.ref, error) from error
        key = self.key if self.key is None or line is None else f"{self.key}-{line}"
        encode(self.ref, data, key, self.headers, max_payload or sys.maxsize)
        return self.ref(data, key=key, headers=self.headers)

    def account(self, receipts: Sequence[Receipt], lines: Sequence[Line] = ()) -> None:
        """Count what was accepted; with ``--json`` print it."""
        self.accepted += len(receipts)
        self.repeats += sum(receipt.duplicate for receipt in receipts)
        self.done += sum(len(line.text) + 1 for line in lines)
        self.advance()
        if self.json:
            for index, receipt in enumerate(receipts):
                emit(as_json({**_plain(receipt), "line": lines[index].number if lines else None}))

    def summarise(self) -> None:
        """Print how many messages were accepted; with ``--json`` the receipts have said it."""
        if not self.json:
            repeats = f", {plural(self.repeats, 'repeat')} dropped" if self.repeats else ""
            spent = time.monotonic() - self.began
            emit(f"{plural(self.accepted, 'message')} published on {self.ref.channel}, topic {self.ref.topic}, in {spent:.2f} s{repeats}")


def _plain(receipt: Receipt) -> Mapping[str, object]:
    return {**receipt._asdict(), "cursor": None if receipt.cursor is None else str(receipt.cursor)}


def _check_json(text: bytes, *, argument: bool) -> None:
    """Say at which column a text stops being JSON, which schemas do not all do alike.

    Raises:
        ConfigError: it is none.
    """
    name = "DATA: " if argument else ""
    try:
        json.loads(text.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}is not UTF-8 (byte 0x{text[error.start]:02x} at offset {error.start:,})") from error
    except json.JSONDecodeError as error:
        hint = """; a text is written with its quotes: '"hello"'""" if argument else ""
        raise ConfigError(f"{name}no JSON: {error.msg} at column {error.pos + 1}{hint}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name}no JSON that can be read: {error}") from error


# ---------------------------------------------------------------- one message


async def _one(realtime: Realtime, job: _Job, message: Outgoing[Any]) -> None:  # Any: a payload of any topic
    async with connection.opened(realtime) as rt:
        receipt = await rt.publish(message)
    job.account([receipt])
    if not job.json:
        where = "" if receipt.cursor is None else f", cursor {receipt.cursor}"
        what = f"a repeat of key {job.key!r}, dropped" if receipt.duplicate else "published"
        emit(f"{what}: channel {receipt.channel}, topic {receipt.topic}, id {receipt.id}{where}")


# ---------------------------------------------------------------- many messages


async def _many(realtime: Realtime, job: _Job, source: Source) -> None:
    """Publish what is read, in the order of the lines, as it comes. What stands before a faulty line is published, nothing behind it is."""
    async with connection.opened(realtime) as rt:
        async for lines in read_lines(source):
            for first in range(0, len(lines), _BATCH):
                await _batch(rt, job, source, lines[first : first + _BATCH])


async def _batch(rt: Realtime, job: _Job, source: Source, lines: Sequence[Line]) -> None:
    messages: list[Outgoing[Any]] = []  # Any: a payload of any topic
    fault: Located | None = None
    for line in lines:
        try:
            messages.append(job.message(line.text, rt.capabilities.max_payload, line.number))
        except FanwireError as error:
            fault = Located(f"line {line.number:,} of {source.name}", error)
            fault.__cause__ = error
            break
    try:
        job.account(await rt.publish_many(messages), lines)
    except PartialPublish as error:
        raise _partial(job, source, lines, error) from error
    except FanwireError as error:
        last = lines[len(messages) - 1].number
        where = f"line {lines[0].number:,}" if lines[0].number == last else f"lines {lines[0].number:,} to {last:,}"
        raise Located(f"{where} of {source.name}", error, _before(job)) from error
    if fault is not None:
        fault.after = _before(job)
        raise fault


def _partial(job: _Job, source: Source, lines: Sequence[Line], error: PartialPublish) -> Located:
    """Account for what was accepted of a batch; return what is told of the rest."""
    accepted = [(line, result) for line, result in zip(lines, error.results, strict=False) if isinstance(result, Receipt)]
    job.account([receipt for _, receipt in accepted], [line for line, _ in accepted])
    line, refusal = next((line, result) for line, result in zip(lines, error.results, strict=False) if isinstance(result, FanwireError))
    return Located(f"line {line.number:,} of {source.name}", refusal, _before(job))


def _before(job: _Job) -> str:
    return f"{plural(job.accepted, 'message')} published before it"


@contextmanager
def _progress(source: Source, job: _Job) -> Generator[None]:
    """Show on a terminal how far it is; nothing elsewhere, with ``--json``, or where the input is being typed."""
    if job.json or not on_terminal(sys.stderr) or source.file.isatty():
        yield
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    parts = SpinnerColumn(), TextColumn("{task.fields[count]} messages"), BarColumn(), TimeElapsedColumn()
    with Progress(*parts, console=make_console(sys.stderr), transient=True) as progress:
        task = progress.add_task("", total=source.size, count="0")
        job.advance = lambda: progress.update(task, completed=job.done, count=f"{job.accepted:,}")
        yield
