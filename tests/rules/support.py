"""What the tests of the rules share: a channel, ways to wait on facts, the account of a stream, and transports that can do less than memory does."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from itertools import count
from typing import Any, ClassVar, NoReturn, Self, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from fanwire import Capabilities, Channel, Cursor, Gap, GapReason, Message, Realtime, Receipt, Subscription, TopicRef, topic
from fanwire.codec import ENVELOPE
from fanwire.errors import ConnectionLost, FanwireError, Unsupported
from fanwire.hub.engine import Engine
from fanwire.hub.log import InterestLog
from fanwire.messages import mark_of
from fanwire.transport import Earliest, HistoryEntry, HistoryPage, HistoryStart, Last, Outbound, Sink, TransportOptions
from fanwire_memory import MemoryBroker, MemoryOptions, MemoryTransport
from tests.clock import ManualClock

__all__ = (
    "BEST_EFFORT",
    "COUNTERS",
    "KEPT_LOG",
    "KEPT_NO_LINKS",
    "LOG",
    "NO_LINKS",
    "QUIET",
    "WRONG",
    "Confirmations",
    "Room",
    "Toy",
    "ToyWithHistory",
    "check_account",
    "engine_of",
    "frame_of",
    "left_behind",
    "log_of",
    "pair",
    "passing",
    "settle",
    "sever",
    "subscribers",
    "take",
    "told",
    "tumble",
    "until",
    "upto",
)

T = TypeVar("T")

Confirmations = Mapping[str, Cursor | None | FanwireError]


class Room(Channel, name="room:{number}"):
    """The channel of these tests: two topics, whose data are numbers that count the messages."""

    number: int
    a = topic(int)
    b = topic(int)


# ---------------------------------------------------------------------- waiting on facts


async def until(fact: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    """Let other tasks run until ``fact`` holds."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain until {what}"
        await checkpoint()


async def settle(turns: int = 50) -> None:
    """Give whatever could go on the turns to do so: shows that something does not happen."""
    for _ in range(turns):
        await checkpoint()


async def tumble(dice: random.Random, sides: int) -> None:
    """Let other tasks run for a random number of turns below ``sides``."""
    for _ in range(dice.randrange(sides)):
        await checkpoint()


@asynccontextmanager
async def passing(clock: ManualClock, step: float = 0.5) -> AsyncGenerator[None, None]:
    """Let time pass whenever somebody waits for it."""

    async def go_on() -> None:
        while True:
            await settle(5)
            if clock.sleepers:
                clock.advance(step)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(go_on)
        yield
        tasks.cancel_scope.cancel()


async def take(items: AsyncIterator[T], number: int) -> list[T]:
    """Read ``number`` items."""
    with anyio.fail_after(10):
        return [await anext(items) for _ in range(number)]


async def upto(items: AsyncIterator[Message[int] | Gap] | AsyncIterator[Message[int]], last: int) -> list[int | Gap]:
    """Read up to the message with the data ``last``, which is included."""
    found: list[int | Gap] = []
    with anyio.fail_after(20):
        while not found or found[-1] != last:
            item = await anext(items)
            found.append(item if isinstance(item, Gap) else item.data)
    return found


def log_of(subscription: Subscription[Any]) -> InterestLog:  # Any: of whatever items
    """Return the log that an entered subscription reads."""
    assert subscription._log is not None
    return subscription._log


def told(items: Iterable[Message[int] | Gap]) -> list[int | Gap]:
    """Return the data of messages, and gaps as they are."""
    return [item if isinstance(item, Gap) else item.data for item in items]


# ---------------------------------------------------------------------- the account of a stream


def check_account(items: Sequence[int | Gap], first: int, last: int, *, at_most: bool = False) -> int:
    """Assert that each number from ``first`` to ``last`` came once and in order, or is accounted for by a gap at its very place.

    A gap with a count stands for exactly so many, or with ``at_most`` for so many at most; one without a count for any number.

    Returns:
        How many were missing.
    """
    shown, expected, missing, unknown = first - 1, first, 0, False
    for item in items:
        if isinstance(item, Gap):
            if item.lost is None:
                unknown = True
            else:
                assert item.lost > 0, f"{item!r} announces nothing"
                expected += item.lost
            continue
        accounted = item == expected or (unknown and item > expected) or (at_most and shown < item <= expected)
        assert accounted, f"got {item} where {expected} is next: {items}"
        missing += item - shown - 1
        shown, expected, unknown = item, item + 1, False
    assert expected == last + 1 or unknown, f"ended before {expected}, expected {last} as the last: {items}"
    return missing + expected - shown - 1


# ---------------------------------------------------------------------- looking inside


def engine_of(rt: Realtime) -> Engine:
    """Return what runs an open Realtime."""
    assert rt._engine is not None
    return rt._engine


WRONG: Any = "no number"
"""Data that the topics of :class:`Room` refuse; ``Any`` so that no checker does."""


def left_behind(rt: Realtime) -> dict[str, int]:
    """Count everything that subscriptions and publishes leave in an open Realtime while they last."""
    engine = engine_of(rt)
    hub = engine.hub
    return {
        "channels": len(hub.channels),
        "wanted": len(hub.wanted),
        "lingering": len(hub.lingering),
        "logs": len(hub.logs),
        "subscriptions": engine.subscriptions,
        "bytes": hub.budget.used,
        "lanes": len(engine.lanes._lanes),
        "publishing": engine.lanes.waiting,
    }


QUIET = {"channels": 0, "wanted": 0, "lingering": 0, "logs": 0, "subscriptions": 0, "bytes": 0, "lanes": 0, "publishing": 0}
"""What :func:`left_behind` returns when nothing is."""


def subscribers(transport: MemoryTransport) -> int:
    """Count the channels that the broker delivers to somebody."""
    return len(transport.native(MemoryBroker)._subscribers)


_names = count()


def pair(**options: int) -> tuple[MemoryTransport, MemoryTransport]:
    """Return two transports of one broker: two processes, so to say, that break and come back on their own."""
    name = f"rules-{next(_names)}"
    settings = MemoryOptions.model_validate(options)
    return MemoryTransport(name, settings), MemoryTransport(name, settings)


def sever(transport: MemoryTransport) -> None:
    """Break the connection of this one transport, and leave its neighbours on the broker alone."""
    link = transport._link
    assert link is not None
    broker = transport.native(MemoryBroker)
    with broker.lock:
        broker.disconnect_link(link)
        link.break_()


# ---------------------------------------------------------------------- toys

COUNTERS = Capabilities(
    delivery="at_most_once",
    ordering="publisher",
    multi_process=True,
    confirmed_publish=True,
    confirmed_subscribe=True,
    async_backends=frozenset({"asyncio", "trio"}),
)
"""A broker that keeps nothing and knows no positions: holes and repeats show by the publishers' counters only. Such as NATS core."""

BEST_EFFORT = replace(COUNTERS, ordering="none")
"""The same without order: repeats show by id, holes do not show at all."""

LOG = replace(COUNTERS, delivery="exactly_once", ordering="channel", idempotent_publish=True, links="contiguous")
"""Positions that count, and a broker that suppresses repeats."""

KEPT_LOG = replace(LOG, history=frozenset({"earliest", "last_n", "after_cursor"}))
"""The same with history."""

NO_LINKS = replace(COUNTERS, delivery="at_least_once", ordering="channel")
"""Positions that do not tell of their predecessors, and repeats. Such as Kafka."""

KEPT_NO_LINKS = replace(NO_LINKS, history=frozenset({"earliest", "last_n", "after_cursor"}))
"""The same with history."""


def frame_of(ref: TopicRef[int], number: int, id: str, key: str | None = None) -> bytes:
    """Encode a message of some other publisher."""
    return ENVELOPE.encode(ref, str(number).encode(), id, "2024-05-01T12:00:00.000Z", key, None, None)


async def _at_once(_: object) -> None:
    """Hold nothing up."""


class Toy:
    """A broker in a few lines, whose every step a test can hold up, refuse or repeat.

    Args:
        capabilities: What it declares. With links it gives positions; without links only if ``positions`` says so.
        positions: Whether messages and subscriptions have positions.
        marks: Whether those positions carry the mark of the message.
    """

    name: ClassVar[str] = "toy"
    options_model: ClassVar[type[TransportOptions]] = TransportOptions

    def __init__(self, capabilities: Capabilities = COUNTERS, *, positions: bool = False, marks: bool = True) -> None:
        self._capabilities = capabilities
        self.positions = positions or capabilities.links != "none"
        self.marks = marks
        self.sink: Sink | None = None
        self.attempts = 0
        """Connections asked for."""
        self.refusals: list[Exception] = []
        """Errors of the next attempts to connect."""
        self.hang = False
        """Whether attempts to connect neither succeed nor fail."""
        self.generations: dict[str, int] = {}
        """The channels it delivers."""
        self.subscribes: list[tuple[str, ...]] = []
        self.unsubscribes: list[tuple[str, ...]] = []
        self.batches: list[list[Outbound]] = []
        """What every publish was handed."""
        self.in_band = True
        """Whether the sink is told before subscribe returns, as the contract has it for positions in stream order."""
        self.before_subscribe: Callable[[Collection[str]], Awaitable[None]] = _at_once
        self.before_unsubscribe: Callable[[Collection[str]], Awaitable[None]] = _at_once
        self.on_subscribe: Callable[[Collection[str], int], Awaitable[Confirmations]] = self.confirm_all
        self.on_publish: Callable[[Sequence[Outbound]], Awaitable[Sequence[Receipt | FanwireError]]] = self.accept
        self.streams: dict[str, list[HistoryEntry]] = {}
        self.heads: dict[str, Cursor] = {}
        self._broken = anyio.Event()

    @classmethod
    def from_options(cls, _: TransportOptions, /) -> Self:
        return cls()

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None, None]:
        self.attempts += 1
        if self.hang:
            await anyio.sleep_forever()
        if self.refusals:
            raise self.refusals.pop(0)
        broken = self._broken = anyio.Event()
        self.sink = sink
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, broken, tasks.cancel_scope)
                yield
                tasks.cancel_scope.cancel()
        finally:
            self.sink = None
            self.generations.clear()
        if broken.is_set():
            raise ConnectionLost("toy: the connection was broken")

    async def _watch(self, broken: anyio.Event, scope: anyio.CancelScope) -> None:
        await broken.wait()
        scope.cancel()

    def disconnect(self) -> None:
        """Break the connection."""
        self._broken.set()

    # ------------------------------------------------------------------ publishing

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        self.batches.append(list(batch))
        return await self.on_publish(batch)

    async def accept(self, batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        """Take all of a batch."""
        return [self.store(message) for message in batch]

    def store(self, message: Outbound) -> Receipt:
        """Give a message its place, and deliver it."""
        position = self.append(message.channel, message.frame, mark_of(message.id, message.key))
        return Receipt(message.id, message.channel, message.topic, position, False)

    def append(self, channel: str, frame: bytes, mark: str, *, deliver: bool = True) -> Cursor | None:
        """Append a frame to a channel."""
        if not self.positions:
            if deliver:
                self.deliver(channel, frame)
            return None
        prev = self.head(channel)
        position = self.heads[channel] = Cursor(prev.epoch, prev.offset + 1, mark if self.marks else None)
        entry = HistoryEntry(frame, position, prev if self.capabilities.links != "none" else None)
        self.streams.setdefault(channel, []).append(entry)
        if deliver:
            self.deliver(*(channel, *entry))
        return position

    def head(self, channel: str) -> Cursor:
        """Return a channel's newest position."""
        return self.heads.setdefault(channel, Cursor("e1", 0))

    def new_epoch(self, channel: str, epoch: str) -> None:
        """Lose a channel's history and positions."""
        self.heads[channel] = Cursor(epoch, 0)
        self.streams.pop(channel, None)

    def deliver(self, channel: str, frame: bytes, position: Cursor | None = None, prev: Cursor | None = None) -> None:
        """Hand a frame to the sink, if the channel is subscribed."""
        if self.sink is not None and channel in self.generations:
            self.sink.deliver(channel, self.generations[channel], frame, position, prev)

    def lose(self, channels: Collection[str] | None, reason: GapReason, lost: int | None) -> None:
        """Tell of a loss, as a client does that reconnects by itself: nothing is subscribed any more."""
        assert self.sink is not None
        for channel in list(self.generations) if channels is None else channels:
            self.generations.pop(channel, None)
        self.sink.lost(channels, reason, lost)

    # ------------------------------------------------------------------ subscribing

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Confirmations:
        self.subscribes.append(tuple(wanted))
        return await self.on_subscribe(wanted, generation)

    async def confirm_all(self, channels: Collection[str], generation: int) -> Confirmations:
        """Make channels live, unless the connection breaks meanwhile."""
        broken = self._broken
        await self.before_subscribe(channels)
        if broken.is_set():
            raise ConnectionLost("toy: the connection was broken")
        return {channel: self.confirm(channel, generation) for channel in channels}

    def confirm(self, channel: str, generation: int) -> Cursor | None:
        """Make a channel live."""
        assert self.sink is not None
        position = self.head(channel) if self.positions else None
        self.generations[channel] = generation
        if self.in_band:
            self.sink.subscribed(channel, generation, position)
        return position

    async def unsubscribe(self, channels: Collection[str], /) -> None:
        self.unsubscribes.append(tuple(channels))
        await self.before_unsubscribe(channels)
        for channel in channels:
            self.generations.pop(channel, None)

    async def ping(self, /) -> None:
        """Reach what is always there."""

    def native(self, kind: type[T], /) -> NoReturn:
        raise Unsupported(f"the toy transport has no {kind.__name__}")


class ToyWithHistory(Toy):
    """A toy that keeps everything, unless a test takes it away."""

    def __init__(self, capabilities: Capabilities = KEPT_LOG, *, marks: bool = True) -> None:
        super().__init__(capabilities, positions=True, marks=marks)
        self.reads: list[tuple[str, HistoryStart]] = []
        self.vouch = False
        """Whether pages are said to be complete."""
        self.before_history: Callable[[str], Awaitable[None]] = _at_once
        self.on_history: Callable[[HistoryPage], Awaitable[HistoryPage]] = self.as_it_is
        """Has the last word on a page that was read."""

    async def history(self, channel: str, /, *, start: HistoryStart, limit: int) -> HistoryPage:
        self.reads.append((channel, start))
        await checkpoint()
        await self.before_history(channel)
        return await self.on_history(self.page(channel, start, limit))

    async def as_it_is(self, page: HistoryPage) -> HistoryPage:
        """Leave a page alone."""
        return page

    def page(self, channel: str, start: HistoryStart, limit: int) -> HistoryPage:
        """Read a page."""
        entries: Sequence[HistoryEntry] = self.streams.get(channel, [])
        head = self.head(channel)
        match start:
            case Cursor(epoch, offset, _):
                entries = [entry for entry in entries if epoch != head.epoch or entry.position.offset >= offset]
            case Last(n):
                entries = entries[-n:]
            case Earliest() | datetime():
                pass
        return HistoryPage(entries[:limit], head, complete=self.vouch)
