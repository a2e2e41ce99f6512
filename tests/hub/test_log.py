"""Interest logs: every reader sees every entry in order, or is told of what it missed exactly where and how much; the bounds hold, and nothing is kept that nobody needs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fanwire import Gap, GapReason, Message, Realtime, TopicRef
from fanwire.errors import MessagesLost
from fanwire.hub.log import CHUNK, Budget, Entry, Interest, InterestLog
from fanwire.messages import MutableMessage, make_message
from fanwire.subscription import Subscription
from tests.hub.support import BEST_EFFORT, FakeTransport, frame, leaves, until

Item = Message[Any] | Gap  # Any: payloads do not matter here
Reader = Subscription[Item]

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
REF: TopicRef[Any] = TopicRef("c", "t")  # Any: as above
INTEREST = Interest({"c": {"t": REF.schema}}, raw=False, buffer=1024, buffer_bytes=2**20)


def message(n: int) -> Message[int]:
    return make_message(f"p.{n}", "c", "t", n, "data", WHEN, None, None, None, None)


class Refusing:
    """A schema that refuses the payload ``b"bad"``."""

    def validate(self, value: object, /) -> int:
        raise NotImplementedError

    def dump(self, value: int, /) -> bytes:
        raise NotImplementedError

    def load(self, data: bytes, /) -> int:
        return int(data)


def unparsed(n: int, *, bad: bool) -> MutableMessage[Any]:  # Any: what the log is to make of it
    """A message as the hub's fast path pushes it: parsed when somebody takes it."""
    return MutableMessage(f"p.{n}", "c", "t", (Refusing(), b"bad" if bad else b"%d" % n, b"frame"), "data", WHEN, None, None, None, None)


def log_of(reader: Reader) -> InterestLog:
    assert reader._log is not None
    return reader._log


async def drain(reader: Reader) -> list[Item]:
    """Take everything that is there: a chunk at a time, with a checkpoint behind each full one, as any consumer does."""
    got = reader.take_now(10**6)
    while reader.stats().lag:
        got.append(await anext(reader))
        got += reader.take_now(10**6)
    return got


@asynccontextmanager
async def reading(*, buffer: int = 1024, buffer_bytes: int = 2**20, total: int = 2**30) -> AsyncGenerator[tuple[Reader, InterestLog]]:
    """A subscription that sees gaps, and its log, for a test to push to."""
    async with (
        Realtime(FakeTransport(), buffer=buffer, buffer_bytes=buffer_bytes, buffer_bytes_total=total) as rt,
        rt.subscribe(REF).with_gaps() as reader,
    ):
        yield reader, log_of(reader)


# ---------------------------------------------------------------- the oracle


@dataclass(frozen=True)
class Push:
    count: int
    size: int
    bad: int = 0
    """Every so many of them cannot be parsed; 0: all are parsed already."""


@dataclass(frozen=True)
class Lose:
    lost: int | None


@dataclass(frozen=True)
class Read:
    reader: int
    count: int


@dataclass(frozen=True)
class Park:
    """Read until there is nothing left, then wait for more."""

    reader: int


@dataclass(frozen=True)
class Come:
    small: bool


@dataclass(frozen=True)
class Go:
    reader: int


Step = Push | Lose | Read | Park | Come | Go

who = st.integers(0, 3)
steps: st.SearchStrategy[Step] = st.one_of(
    st.builds(Push, st.integers(1, 5), st.integers(0, 120), st.integers(0, 3)),
    st.builds(Push, st.sampled_from([1, 20, 70, 300]), st.sampled_from([0, 1, 10, 2000]), st.sampled_from([0, 0, 1, 2, 50])),
    st.builds(Lose, st.none() | st.integers(0, 9)),
    st.builds(Read, who, st.integers(1, 300)),
    st.builds(Read, who, st.integers(1, 5)),
    st.builds(Park, who),
    st.builds(Come, st.booleans()),
    st.builds(Go, who),
)

BIG, SMALL = (400, 30_000), (50, 4_000)
"""Buffers of two interests, in messages and bytes."""


@dataclass(eq=False)
class Seat:
    """A reader, what it has got, and what it was owed when it came."""

    reader: Reader
    start: int
    limits: tuple[int, int]
    got: list[Item] = field(default_factory=list[Item])
    parked: anyio.CancelScope | None = None
    overrun: bool = False
    """More was waiting for it at some time than its buffer holds."""


@dataclass
class World:
    """Everything that was pushed, and who reads it."""

    rt: Realtime
    tasks: anyio.abc.TaskGroup
    stream: list[tuple[Entry, int]] = field(default_factory=list[tuple[Entry, int]])
    where: dict[int, int] = field(default_factory=dict[int, int])
    """Identity of an entry to its place in the stream."""
    bad: set[int] = field(default_factory=set[int])
    """Places of what cannot be parsed."""
    seats: list[Seat] = field(default_factory=list[Seat])
    gone: list[Seat] = field(default_factory=list[Seat])

    @property
    def logs(self) -> list[InterestLog]:
        return list({id(log): log for log in (log_of(seat.reader) for seat in self.seats)}.values())

    def push(self, item: Entry, size: int, *, bad: bool = False) -> None:
        if bad:
            self.bad.add(len(self.stream))
        self.where[id(item)] = len(self.stream)
        self.stream.append((item, size))
        for log in self.logs:
            if isinstance(item, Gap):
                log.push_gap(item)
            else:
                log.push(item, size)
            check_bounds(log)
        assert self.budget.used == sum(log.bytes for log in self.logs)
        for seat in self.seats:
            # Its buffer holds at most so many entries, and so many bytes: from here on it may have lost something.
            unread = self.stream[self.after(seat) :]
            seat.overrun |= len(unread) > seat.limits[0] or sum(size for _, size in unread) > seat.limits[1]

    def after(self, seat: Seat) -> int:
        """The place behind the newest entry that a reader got."""
        known = [self.where[id(item)] + 1 for item in seat.got[-2:] if id(item) in self.where]
        return max(known, default=seat.start)

    @property
    def budget(self) -> Budget:
        assert self.rt._engine is not None
        return self.rt._engine.hub.budget


def check_bounds(log: InterestLog) -> None:
    """Entries that may still be taken keep both bounds; bytes are looked at once per chunk, or at once for large entries."""
    buffer, buffer_bytes = log.interest.buffer, log.interest.buffer_bytes
    assert log.end - log.first <= buffer
    takeable = log.sizes[log.first - log.base :]
    assert sum(takeable) <= buffer_bytes + buffer_bytes / 8
    assert len(log.entries) == len(log.sizes) == log.end - log.base <= buffer + CHUNK
    assert log.base <= log.floor <= log.end


async def walk(plan: list[Step]) -> None:
    async with Realtime(FakeTransport(), linger=0.0) as rt, anyio.create_task_group() as tasks:
        world = World(rt, tasks)
        await come(world, BIG)
        for step in plan:
            await take(world, step)
        for seat in list(world.seats):
            unpark(seat)
            seat.got += await drain(seat.reader)
            check(world, seat)
            assert seat.reader.stats().lag == 0
        for seat in list(world.seats):
            await go(world, seat)
        assert world.budget.used == 0
        assert not rt.stats().logs


async def come(world: World, limits: tuple[int, int]) -> None:
    reader = world.rt.subscribe(REF, buffer=limits[0], buffer_bytes=limits[1]).with_gaps()
    await reader.__aenter__()
    world.seats.append(Seat(reader, len(world.stream), limits))


async def go(world: World, seat: Seat) -> None:
    unpark(seat)
    await seat.reader.__aexit__(None, None, None)
    world.seats.remove(seat)
    world.gone.append(seat)
    check(world, seat, complete=False)


def unpark(seat: Seat) -> None:
    if seat.parked is not None:
        seat.parked.cancel()
        seat.parked = None


async def park(world: World, seat: Seat) -> None:
    scope = seat.parked = anyio.CancelScope()

    async def wait() -> None:
        with scope:
            while True:
                seat.got.append(await anext(seat.reader))

    world.tasks.start_soon(wait)
    await settle(lambda: seat.reader._waiter is not None)


async def settle(fact: Callable[[], object]) -> None:
    """As ``until``, but give up after so many turns: a failing plan is tried hundreds of times."""
    for _ in range(300):
        if fact():
            return
        await checkpoint()
    raise AssertionError("a reader that should wait for more does something else")


async def take(world: World, step: Step) -> None:
    match step:
        case Push(count, size, bad):
            for _ in range(count):
                n = len(world.stream)
                world.push(message(n) if not bad else unparsed(n, bad=n % bad == 0), size, bad=bool(bad) and n % bad == 0)
        case Lose(lost):
            world.push(Gap("c", GapReason.HOLE, lost), 0)
        case Come(small):
            if len(world.seats) < 5:
                await come(world, SMALL if small else BIG)
        case Read(reader, count):
            seat = world.seats[reader % len(world.seats)]
            if seat.parked is None:
                seat.got += seat.reader.take_now(count)
        case Park(reader):
            seat = world.seats[reader % len(world.seats)]
            if seat.parked is None:
                await park(world, seat)
        case Go(reader):
            if len(world.seats) > 1:
                await go(world, world.seats[reader % len(world.seats)])
    for seat in world.seats:
        if seat.parked is not None:
            await settle(lambda seat=seat: seat.reader._waiter is not None and not log_of(seat.reader).end - seat.reader.position)  # type: ignore[misc]  # bound now


def check(world: World, seat: Seat, *, complete: bool = True) -> None:
    """Compare what a reader got with what was pushed since it came."""
    at = seat.start
    told: int | None = 0
    lagged = False
    for item in [*seat.got, None]:
        if isinstance(item, Gap) and item.reason is GapReason.LAGGED:
            assert item.channel == "c"
            told = None if told is None or item.lost is None else told + item.lost
            lagged = True
            continue
        if item is None and not complete:
            break
        assert item is None or type(item) in {Message, Gap}
        index = len(world.stream) if item is None else world.where[id(item)]
        assert index not in world.bad, f"{item} should have been refused"
        assert index >= at, f"{item} came twice or out of order"
        if not lagged:
            assert all(place in world.bad for place in range(at, index)), f"entries before {item} are missing without a word"
        else:
            # Those that nobody has tried to parse may count, though they would have been dropped.
            least, most = owed(world, at, index)
            right = told is None if least is None or most is None else told is not None and least <= told <= most
            assert right, f"the gap before {item} says {told}, missing are {least} to {most}"
        at, told, lagged = index + 1, 0, False
    gaps = [item for item in seat.got if isinstance(item, Gap)]
    if complete:
        assert seat.reader.stats()[:3] == (len(seat.got) - len(gaps), sum(gap.lost or 0 for gap in gaps), len(gaps)), "stats() count otherwise"
    if any(gap.reason is GapReason.LAGGED for gap in gaps):
        assert seat.overrun, "somebody lagged whose buffer was never full"


def owed(world: World, start: int, stop: int) -> tuple[int, int] | tuple[None, None]:
    """Messages between two places, those that gap entries stand for included: without and with those that cannot be parsed."""
    least = most = 0
    for place, (item, _) in enumerate(world.stream[start:stop], start):
        lost = item.lost if isinstance(item, Gap) else 1
        if lost is None:
            return None, None
        most += lost
        least += 0 if place in world.bad else lost
    return least, most


@given(st.lists(steps, min_size=5, max_size=60))
@settings(max_examples=150)
@example([Push(1, 1), Park(0), Lose(3), Push(1, 1)])
@example([Push(300, 1, 2), Lose(1), Push(300, 1, 50), Read(0, 5), Come(True), Push(30, 2000), Lose(None), Park(1)])
def test_every_reader_gets_everything_in_order_or_is_told(plan: list[Step]) -> None:
    anyio.run(walk, plan)


def test_the_oracle_has_teeth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the count of a lag gap is off by one; the gap is not told; a lagging reader goes on one too late."""
    plan: list[Step] = [Push(500, 1), Read(0, 1000), Push(1, 1), Park(0), Push(3, 1)]
    anyio.run(walk, plan)
    right = InterestLog.lag_gap

    def planted(change: Callable[[Gap, int], tuple[Gap, int]], found: str) -> None:
        def lag_gap(log: InterestLog, position: int) -> tuple[Gap, int]:
            return change(*right(log, position))

        monkeypatch.setattr(InterestLog, "lag_gap", lag_gap)
        with pytest.raises((AssertionError, KeyError, ExceptionGroup)) as caught:
            anyio.run(walk, plan)
        assert found in leaves(caught.value)

    planted(lambda gap, floor: (Gap(gap.channel, gap.reason, (gap.lost or 0) + 1), floor), "the gap before")
    planted(lambda gap, floor: (Gap(gap.channel, GapReason.HOLE, gap.lost), floor), "KeyError")
    planted(lambda gap, floor: (gap, floor + 1), "the gap before")


# ---------------------------------------------------------------- gaps in a log


@pytest.mark.anyio
async def test_a_gap_stands_where_it_was_pushed() -> None:
    async with reading() as (reader, log):
        log.push(message(1), 1)
        gap = Gap("c", GapReason.HOLE, 3)
        log.push_gap(gap)
        log.push(message(2), 1)
        assert reader.take_now(10) == [message(1), gap, message(2)]
        assert reader.stats()[:3] == (2, 3, 1)


@pytest.mark.anyio
async def test_a_gap_that_finds_everybody_waiting_is_a_gap() -> None:
    """The log is freed at that very moment, for all have read what it held; the gap must not be forgotten with it."""
    async with Realtime(FakeTransport()) as rt, rt.subscribe(REF, on_gap="raise") as reader, anyio.create_task_group() as tasks:
        log = reader._log
        assert log is not None
        log.push(message(1), 1)
        assert (await anext(reader)).data == 1
        got: list[object] = []

        async def read() -> None:
            try:
                got.append(await anext(reader))
            except MessagesLost as error:
                got.append(error.gap)

        tasks.start_soon(read)
        await until(lambda: log.waiters)
        gap = Gap("c", GapReason.HOLE, 3)
        log.push_gap(gap)
        log.push(message(2), 1)
        await until(lambda: got)
        assert got == [gap]
        assert reader.stats()[:3] == (1, 3, 1), "it was raised and counted, not handed out as a message"
        assert (await anext(reader)).data == 2


@pytest.mark.anyio
async def test_a_gap_of_a_size_nobody_knows_makes_the_lag_unknown() -> None:
    async with reading(buffer=2) as (reader, log):
        for gap in (Gap("c", GapReason.HOLE, 5), Gap("c", GapReason.EXPIRED, None)):
            log.push(message(1), 1)
            log.push_gap(gap)
        log.push(message(2), 1)
        log.push(message(3), 1)
        assert reader.take_now(10) == [Gap("c", GapReason.LAGGED, None), message(2), message(3)]


@pytest.mark.anyio
async def test_gap_entries_given_up_are_absorbed_with_their_count() -> None:
    async with reading(buffer=2) as (reader, log):
        log.push(message(1), 1)
        log.push_gap(Gap("c", GapReason.HOLE, 5))
        log.push(message(2), 1)
        log.push(message(3), 1)
        assert reader.take_now(10) == [Gap("c", GapReason.LAGGED, 6), message(2), message(3)]


@pytest.mark.anyio
@pytest.mark.parametrize("count", [255, 256, 257, 300, 600])
async def test_hundreds_of_gaps_are_told_and_never_handed_out_as_messages(count: int, anyio_backend: object) -> None:
    """A subscriber without a view of gaps is promised messages, however many gaps wait for it; and none is told of fewer losses than there were."""
    transport = FakeTransport(BEST_EFFORT)
    async with Realtime(transport) as rt, rt.subscribe("c") as plain, rt.subscribe("c").with_gaps() as seeing:
        assert transport.sink is not None
        for n in range(count):
            transport.deliver("c", frame("c", f"p.{n}", n))
            transport.sink.lost(["c"], GapReason.HOLE, 1)
            await until(lambda: "c" in transport.generations and rt.stats().gaps == n + 1)  # noqa: B023 - awaited at once
        transport.deliver("c", frame("c", "p.z", -1))
        got = [await anext(plain)]
        while got[-1].data != -1:
            got.append(await anext(plain))
            assert isinstance(got[-1], Message), f"a {type(got[-1]).__name__} was handed out as a message"
        assert plain.stats().gaps == count or plain.stats().lost < count
        seen = await drain(seeing)
        assert [item.data for item in seen if isinstance(item, Message)] == [*(message.data for message in got)]
        told = [item.lost for item in seen if isinstance(item, Gap)]
        assert None in told or sum(lost or 0 for lost in told) == count


# ---------------------------------------------------------------- bounds and memory


@pytest.mark.anyio
async def test_a_message_larger_than_the_buffer_is_a_gap_of_one() -> None:
    async with reading(buffer_bytes=100) as (reader, log):
        log.push(message(1), 10)
        log.push(message(2), 1000)
        log.push(message(3), 10)
        assert reader.take_now(10) == [Gap("c", GapReason.LAGGED, 2), message(3)]


@pytest.mark.anyio
async def test_large_messages_given_up_are_freed() -> None:
    """`buffer_bytes` bounds what is held, not only what may still be taken: 200 messages of 1 MiB must not stay for the sake of one that reads nothing."""
    async with reading(buffer_bytes=8 * 2**20) as (_, log):
        held = 0
        for n in range(200):
            log.push(message(n), 2**20)
            held = max(held, sum(log.sizes))
        assert held <= 2 * 8 * 2**20, f"{held / 2**20:.0f} MiB were held for a buffer of 8 MiB"


@pytest.mark.anyio
async def test_what_the_budget_takes_back_is_freed() -> None:
    async with Realtime(FakeTransport(), buffer_bytes_total=10 * 2**20) as rt, rt.subscribe("a") as one, rt.subscribe("b") as other:
        logs = [one._log, other._log]
        assert logs[0] is not None
        assert logs[1] is not None
        for n in range(8):
            logs[0].push(message(n), 2**20)
        for n in range(8):
            logs[1].push(message(n), 2**20)
            held = sum(sum(log.sizes) for log in logs if log is not None)
            assert rt.stats().buffered_bytes <= 10 * 2**20
            assert held <= 11 * 2**20, f"{held / 2**20:.0f} MiB are held under a budget of 10 MiB"


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1, 10, 100, 3000]), st.integers(1, 300)), min_size=1, max_size=40))
@settings(max_examples=60)
@example([(0, 10, 200), (1, 3000, 3), (2, 1, 5), (2, 3000, 3)])  # giving up half of the largest log once is not enough here
def test_the_budget_of_all_logs_is_kept(pushes: list[tuple[int, int, int]]) -> None:
    async def run() -> None:
        limit = 20_000
        async with Realtime(FakeTransport(), buffer_bytes=10_000, buffer_bytes_total=limit) as rt:
            readers = [rt.subscribe(f"c{n}").with_gaps() for n in range(4)]
            for reader in readers:
                await reader.__aenter__()
            logs = [reader._log for reader in readers]
            for at, size, count in pushes:
                log = logs[at]
                assert log is not None
                for n in range(count):
                    log.push(message(n), size)
                    assert rt.stats().buffered_bytes <= limit
            for reader in readers:
                assert all(isinstance(item, Gap | Message) for item in await drain(reader))
                await reader.__aexit__(None, None, None)
            assert rt.stats().buffered_bytes == 0

    anyio.run(run)


@pytest.mark.anyio
async def test_a_log_that_everybody_has_read_holds_nothing() -> None:
    """It is freed when all have caught up. A channel that rests after a burst must not keep the burst."""
    async with (
        Realtime(FakeTransport()) as rt,
        rt.subscribe(REF).with_gaps() as one,
        rt.subscribe(REF).with_gaps() as other,
        anyio.create_task_group() as tasks,
    ):
        log = log_of(one)
        assert log is log_of(other)
        for n in range(700):
            log.push(message(n), 1000)
        assert len(await drain(one)) == len(await drain(other)) == 700
        tasks.start_soon(anext, one)
        tasks.start_soon(anext, other)
        await until(lambda: len(log.waiters) == 2)
        assert sum(log.sizes) == 0, f"{sum(log.sizes):,} bytes are kept though nobody needs them"
        assert rt.stats().buffered_bytes == 0
        log.push(message(0), 1)


@pytest.mark.anyio
async def test_a_log_frees_what_everybody_has_read_at_the_next_message_at_the_latest() -> None:
    async with Realtime(FakeTransport()) as rt, rt.subscribe(REF).with_gaps() as one, anyio.create_task_group() as tasks:
        log = log_of(one)
        for n in range(700):
            log.push(message(n), 1000)
        assert len(await drain(one)) == 700
        tasks.start_soon(anext, one)
        await until(lambda: len(log.waiters) == 1)
        log.push(message(700), 5)
        assert (len(log.entries), sum(log.sizes)) == (1, 5)
        assert rt.stats().buffered_bytes <= 5


@pytest.mark.anyio
async def test_a_slow_reader_does_not_make_the_log_grow_for_ever_and_a_fast_one_loses_nothing() -> None:
    async with reading(buffer=300) as (slow, log), slow._realtime.subscribe(REF, buffer=300).with_gaps() as fast:
        assert log_of(fast) is log
        got: list[Item] = []
        for n in range(5_000):
            log.push(message(n), 1)
            if n % 100 == 99:
                got += await drain(fast)
            check_bounds(log)
        assert [item.data for item in got if isinstance(item, Message)] == list(range(5_000))
        assert slow.take_now(1000)[:2] == [Gap("c", GapReason.LAGGED, 4_700), message(4_700)]


@pytest.mark.anyio
async def test_a_reader_that_leaves_is_waited_for_no_longer() -> None:
    async with Realtime(FakeTransport()) as rt, rt.subscribe(REF).with_gaps() as stays:
        async with rt.subscribe(REF).with_gaps():
            log = log_of(stays)
            for n in range(200):
                log.push(message(n), 10)
            assert len(await drain(stays)) == 200
        for n in range(200):
            log.push(message(n), 10)
            assert len(await drain(stays)) == 1
        assert len(log.entries) <= CHUNK


# ---------------------------------------------------------------- ends


@pytest.mark.anyio
async def test_readers_end_behind_what_is_queued_and_each_gets_its_own_error() -> None:
    async with Realtime(FakeTransport()) as rt, rt.subscribe(REF) as one, rt.subscribe(REF) as other:
        log = one._log
        assert log is not None
        log.push(message(1), 1)
        log.finish(MessagesLost(Gap("c", GapReason.HOLE, 1)))
        raised: list[BaseException] = []
        for reader in (one, other):
            assert (await anext(reader)).data == 1
            with pytest.raises(MessagesLost) as caught:
                await anext(reader)
            raised.append(caught.value)
        assert raised[0] is not raised[1], "an exception collects the traceback of who raised it"
        assert raised[0].__cause__ is raised[1].__cause__ is log.error


def test_logs_are_shared_by_equal_interests_only() -> None:
    other = TopicRef("c", "t").schema
    same = Interest({"c": {"t": REF.schema}}, raw=False, buffer=1024, buffer_bytes=2**20)
    assert same.key() == INTEREST.key()
    different = [
        Interest({"d": {"t": REF.schema}}, raw=False, buffer=1024, buffer_bytes=2**20),
        Interest({"c": {"u": REF.schema}}, raw=False, buffer=1024, buffer_bytes=2**20),
        Interest({"c": None}, raw=False, buffer=1024, buffer_bytes=2**20),
        Interest({"c": {"t": REF.schema}}, raw=True, buffer=1024, buffer_bytes=2**20),
        Interest({"c": {"t": REF.schema}}, raw=False, buffer=1023, buffer_bytes=2**20),
        Interest({"c": {"t": REF.schema}}, raw=False, buffer=1024, buffer_bytes=2**21),
        Interest({"c": {"t": REF.schema}, "d": None}, raw=False, buffer=1024, buffer_bytes=2**20),
    ]
    keys = [interest.key() for interest in [same, *different]]
    assert len(set(keys)) == len(keys)
    assert other is REF.schema, "refs made by hand share the pass-through schema, and so their logs"


def test_a_gap_over_several_channels_names_none() -> None:
    log = InterestLog(Interest({"c": None, "d": None}, raw=False, buffer=1, buffer_bytes=100), Budget(1000))
    log.push(message(1), 1)
    log.push(message(2), 1)
    assert log.lag_gap(0) == (Gap(None, GapReason.LAGGED, 1), 1)
