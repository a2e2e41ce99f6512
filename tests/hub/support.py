"""A transport whose every answer a test decides, and what else the tests of the hub share."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import ClassVar, Self, TypeVar, cast

import anyio
from anyio.lowlevel import checkpoint

from fanwire.capabilities import Capabilities
from fanwire.codec import ENVELOPE
from fanwire.errors import ConnectionLost, FanwireError, Unsupported
from fanwire.messages import Cursor, Receipt, mark_of
from fanwire.topics import TopicRef
from fanwire.transport import Earliest, HistoryEntry, HistoryPage, HistoryStart, Last, Outbound, Sink, TransportOptions

__all__ = (
    "BEST_EFFORT",
    "COUNTED",
    "LINKED",
    "LOGGED",
    "ORDERED",
    "FakeHistory",
    "FakeTransport",
    "HastyClock",
    "accept",
    "entries",
    "entry",
    "fail",
    "frame",
    "leaves",
    "patience",
    "until",
)

T = TypeVar("T")

STAMP = "2026-01-01T00:00:00.000Z"

ORDERED = Capabilities(
    delivery="at_most_once",
    ordering="publisher",
    multi_process=True,
    confirmed_publish=True,
    confirmed_subscribe=True,
    async_backends=frozenset({"asyncio", "trio"}),
)
"""As core NATS or plain Redis: no positions, no history, repeats and holes told by ids."""

BEST_EFFORT = replace(ORDERED, ordering="none", confirmed_publish=False, confirmed_subscribe=False)
"""As Inngest: nothing is promised."""

LINKED = Capabilities(
    delivery="exactly_once",
    ordering="channel",
    history=frozenset({"earliest", "last_n", "after_cursor", "since_time"}),
    multi_process=True,
    confirmed_publish=True,
    confirmed_subscribe=True,
    idempotent_publish=True,
    links="contiguous",
    async_backends=frozenset({"asyncio", "trio"}),
)
"""As Redis streams or memory: positions count, the broker suppresses repeats."""

COUNTED = replace(LINKED, delivery="at_most_once", history=frozenset())
"""Positions count, but nothing is kept."""

LOGGED = Capabilities(
    delivery="at_least_once",
    ordering="channel",
    history=frozenset({"earliest", "last_n", "after_cursor", "since_time"}),
    multi_process=True,
    confirmed_publish=True,
    confirmed_subscribe=True,
    links="none",
    async_backends=frozenset({"asyncio", "trio"}),
)
"""As Kafka: positions without links, repeats are possible."""


# ---------------------------------------------------------------- waiting without sleeping


async def until(fact: Callable[[], object], seconds: float = 10.0) -> None:
    """Let other tasks run until ``fact()`` is true; fail after ``seconds`` of real time."""
    give_up = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < give_up, f"waited {seconds:g} s in vain"
        await checkpoint()


async def patience(turns: int = 50) -> None:
    """Give other tasks every chance to do what they must not do."""
    for _ in range(turns):
        await checkpoint()


def leaves(error: BaseException) -> str:
    """Return what an exception says, or those in a group, with their types."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)  # an isinstance cannot tell the parameter
        return "; ".join(leaves(one) for one in group.exceptions)
    return f"{type(error).__name__}: {error}"


class HastyClock:
    """Time that passes as fast as anybody sleeps: for tests that must not wait and do not look at a clock."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._start = self._now = start

    def time(self) -> float:
        """Return seconds since 1970-01-01 UTC."""
        return self._now

    def monotonic(self) -> float:
        """Return seconds since the clock was made."""
        return self._now - self._start

    async def sleep(self, seconds: float, /) -> None:
        """Be there already, one turn of the loop later."""
        await checkpoint()
        self._now += max(0.0, seconds)


# ---------------------------------------------------------------- frames and entries


def frame(channel: str, id: str, data: object = None, *, topic: str = "t", key: str | None = None) -> bytes:
    """Return an envelope as the default codec writes it."""
    ref = TopicRef(channel, topic)
    return ENVELOPE.encode(ref, ref.schema.dump(id if data is None else data), id, STAMP, key, None, None)


def entry(
    channel: str, n: int, *, epoch: str = "e", topic: str = "t", publisher: str = "p", linked: bool = True, data: object = None
) -> HistoryEntry:
    """Return the stored message number ``n``, whose data is ``n`` by default; its predecessor is of the same publisher."""
    id = f"{publisher}.{n}"
    prev = Cursor(epoch, n - 1, mark_of(f"{publisher}.{n - 1}", None) if n > 1 else None) if linked else None
    return HistoryEntry(frame(channel, id, n if data is None else data, topic=topic), Cursor(epoch, n, mark_of(id, None)), prev)


def entries(channel: str, first: int, last: int, **options: str) -> list[HistoryEntry]:
    """Return the stored messages ``first`` to ``last``."""
    return [entry(channel, n, epoch=options.get("epoch", "e"), publisher=options.get("publisher", "p")) for n in range(first, last + 1)]


# ---------------------------------------------------------------- the transport

Outcome = Callable[[Sequence[Outbound]], Awaitable[Sequence[Receipt | FanwireError]]]


async def accept(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
    """Accept all of a batch."""
    return [Receipt(message.id, message.channel, message.topic, None, False) for message in batch]


def fail(error: Exception) -> Outcome:
    """Return an outcome: the call raises ``error``."""

    async def outcome(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        raise error

    return outcome


Answer = Mapping[str, Cursor | None | FanwireError]
Confirm = Callable[[Mapping[str, frozenset[str] | None], int], Awaitable[Answer]]


class FakeTransport:
    """Connects at once, accepts and confirms everything, and remembers what it was asked, unless a script says otherwise."""

    name: ClassVar[str] = "fake"
    options_model: ClassVar[type[TransportOptions]] = TransportOptions

    def __init__(self, capabilities: Capabilities = ORDERED) -> None:
        self._capabilities = capabilities
        self.sink: Sink | None = None
        self.generations: dict[str, int] = {}
        self.runs = 0
        self.published: list[list[Outbound]] = []
        self.subscribes: list[tuple[dict[str, frozenset[str] | None], int]] = []
        self.unsubscribes: list[list[str]] = []
        self.connects: list[BaseException | None] = []
        """What the next attempts to connect raise."""
        self.outcomes: list[Outcome] = []
        """What the next publishes do; :func:`accept` behind the last."""
        self.confirms: list[Confirm] = []
        """What the next subscribes do; behind the last they are confirmed at :attr:`heads`."""
        self.heads: dict[str, Cursor | None] = {}
        self.on_unsubscribe: Callable[[], Awaitable[None]] | None = None
        self.pings = 0
        self.hang = False
        """Connecting takes for ever."""
        self.quiet = False
        """A connection that breaks ends without an error."""
        self._broken = anyio.Event()
        self._error: BaseException = ConnectionLost("fake: broken")

    @classmethod
    def from_options(cls, options: TransportOptions, /) -> Self:
        """Take no options."""
        assert not options.url.get_secret_value()
        return cls()

    @property
    def capabilities(self) -> Capabilities:
        """What the test says."""
        return self._capabilities

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None, None]:
        """Connect as scripted; live until :meth:`break_`."""
        self.runs += 1
        failure = self.connects.pop(0) if self.connects else None
        if failure is not None:
            raise failure
        if self.hang:
            await anyio.sleep_forever()
        self.sink = sink
        self._broken = broken = anyio.Event()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, tasks.cancel_scope)
                yield
                tasks.cancel_scope.cancel()
        finally:
            self.sink = None
            self.generations.clear()
        if broken.is_set() and not self.quiet:
            raise self._error

    async def _watch(self, scope: anyio.CancelScope) -> None:
        await self._broken.wait()
        scope.cancel()

    def _check(self) -> None:
        if self._broken.is_set():
            raise ConnectionLost("fake: broken")

    def break_(self, error: BaseException | None = None) -> None:
        """Break the connection, with ``error``."""
        self._error = error or ConnectionLost("fake: broken")
        self._broken.set()

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        """Do what the script says next."""
        self._check()
        self.published.append(list(batch))
        outcome = self.outcomes.pop(0) if self.outcomes else accept
        return await outcome(batch)

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Answer:
        """Do what the script says next."""
        self._check()
        self.subscribes.append((dict(wanted), generation))
        if self.confirms:
            return await self.confirms.pop(0)(wanted, generation)
        return self.confirm(wanted, generation)

    def confirm(self, wanted: Mapping[str, frozenset[str] | None], generation: int) -> Answer:
        """Make channels live at :attr:`heads`, in the stream and by the answer."""
        for channel in wanted:
            self.generations[channel] = generation
            if self.sink is not None:
                self.sink.subscribed(channel, generation, self.heads.get(channel))
        return {channel: self.heads.get(channel) for channel in wanted}

    async def unsubscribe(self, channels: Collection[str], /) -> None:
        """Forget channels."""
        self.unsubscribes.append(sorted(channels))
        for channel in channels:
            self.generations.pop(channel, None)
        if self.on_unsubscribe is not None:
            await self.on_unsubscribe()

    async def ping(self, /) -> None:
        """Answer."""
        self.pings += 1

    def native(self, kind: type[T], /) -> T:
        """Give itself."""
        if isinstance(self, kind):
            return self
        raise Unsupported(f"the fake transport has no {kind.__name__}; it has FakeTransport")

    # What a broker does by itself.

    def deliver(self, channel: str, raw: bytes, position: Cursor | None = None, prev: Cursor | None = None) -> None:
        """Deliver a frame, if the channel is subscribed."""
        if self.sink is not None and channel in self.generations:
            self.sink.deliver(channel, self.generations[channel], raw, position, prev)

    def push(self, channel: str, stored: HistoryEntry) -> None:
        """Deliver an entry live."""
        self.heads[channel] = stored.position
        self.deliver(channel, *stored)


class FakeHistory(FakeTransport):
    """As above, with history."""

    def __init__(self, capabilities: Capabilities = LINKED) -> None:
        super().__init__(capabilities)
        self.stored: dict[str, list[HistoryEntry]] = {}
        self.reads: list[tuple[str, HistoryStart, int]] = []
        self.before_read: Callable[[str], None] = lambda _: None
        """Called before each read: trims, publishes, lags."""
        self.lag = 0
        """How many of the newest entries the replica that is read does not have yet."""
        self.known_head = True
        self.complete: bool | None = None
        """``None``: true while nothing was trimmed."""
        self.history_errors: list[Exception] = []

    def store(self, channel: str, *more: HistoryEntry, live: bool = False) -> None:
        """Add entries; deliver them too if ``live``."""
        for one in more:
            self.stored.setdefault(channel, []).append(one)
            self.heads[channel] = one.position
            if live:
                self.deliver(channel, *one)

    def trim(self, channel: str, keep: int) -> None:
        """Discard all but the newest."""
        kept = self.stored[channel]
        del kept[: max(0, len(kept) - keep)]

    async def history(self, channel: str, /, *, start: HistoryStart, limit: int) -> HistoryPage:
        """Read as the contract has it, from a replica that may lag."""
        self.reads.append((channel, start, limit))
        self.before_read(channel)
        await checkpoint()
        if self.history_errors:
            raise self.history_errors.pop(0)
        stored = self.stored.get(channel, [])
        seen = stored[: len(stored) - self.lag] if self.lag else stored
        head = self.heads.get(channel) if not self.lag else seen[-1].position if seen else Cursor("e", 0)
        found = seen
        match start:
            case Cursor(epoch, offset, _):
                found = [one for one in seen if one.position.epoch != epoch or one.position.offset >= offset]
            case Last(n):
                found = seen[-n:]
            case Earliest() | datetime():
                pass
        complete = (not seen or seen[0].position.offset == 1) if self.complete is None else self.complete
        return HistoryPage(found[:limit], head if self.known_head else None, complete)
