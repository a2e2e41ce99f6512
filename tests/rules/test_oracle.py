"""Rules 3 to 7 at once, by plans drawn at random and an oracle that knows what a broker has kept: each channel is contiguous or announced, in order, and nothing comes twice.

A plan is a list of steps (publishes, faults of network and broker) and of readers (where they begin, how slow they are, when they leave and resume). It is drawn from a seed
before anything runs, and printed with the seed when it fails. How tasks take turns is drawn too, but trio and uvloop have a say in it: repeat a seed a few times there.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, assert_never, cast

import anyio
import pytest

from fanwire import Cursor, Gap, GapReason, Message, Realtime, Start, Subscription
from fanwire.errors import CursorExpired, MessagesLost
from fanwire.hub import hub as hub_module
from fanwire.hub.continuity import Links, Verdict, judge
from fanwire.hub.hub import Hub
from fanwire.hub.join import Seam
from fanwire.hub.states import ChannelRecord, Event, Phase
from fanwire_memory import MemoryTransport
from tests.hub.support import HastyClock, leaves
from tests.rules.support import Room, engine_of, pair, sever, tumble, until

pytestmark = pytest.mark.anyio

CHANNELS = 3
EXPIRED: Literal["expired"] = "expired"
"""Stands in what a reader saw where its cursor had expired, and it went on live."""

EXACT_SEAM = True
"""Whether the gaps of the live log are held against what history has shown, right behind a join. While they are not, one may be told there though nothing is missing, and a
tail that is lost just then takes messages with it."""

Seen = int | Gap | Literal["expired"]
Begin = Literal["live", "earliest", "last", "after"]
What = Literal["publish", "drop", "lose", "duplicate", "lose_ack", "disconnect", "sever", "stall", "resume", "trim", "new_epoch", "fork", "rest"]

FAULTS: dict[What, int] = {
    "publish": 30,
    "drop": 6,
    "lose": 4,
    "duplicate": 4,
    "lose_ack": 3,
    "disconnect": 2,
    "sever": 4,
    "stall": 5,
    "resume": 8,
    "trim": 3,
    "new_epoch": 2,
    "fork": 2,
    "rest": 8,
}
"""Each with how often it is drawn."""

HARMLESS: tuple[What, ...] = ("publish", "drop", "duplicate", "lose_ack", "disconnect", "sever", "stall", "resume", "rest")
"""What history makes good: of a plan without the others, a reader with room misses nothing."""


@dataclass(frozen=True)
class Step:
    """One thing that happens."""

    what: What
    channel: int
    count: int


@dataclass(frozen=True)
class Reader:
    """One who reads."""

    channels: tuple[int, ...]
    only_a: bool
    enters: int
    """At which step."""

    begin: Begin
    back: int
    """How many messages back ``last`` and ``after`` begin."""

    buffer: int
    pause: int
    """How many turns it may rest between two messages."""

    way: Literal["yield", "raise", "batches"]
    leaves: tuple[int, ...]
    """After how many messages it leaves, to resume at once."""

    @property
    def slow(self) -> bool:
        return self.buffer < 1024


@dataclass(frozen=True)
class Plan:
    """Everything that is going to happen."""

    seed: int
    steps: tuple[Step, ...]
    readers: tuple[Reader, ...]


def draw(seed: int) -> Plan:
    """Draw a plan."""
    dice = random.Random(seed)
    kinds = dict(FAULTS) if seed % 3 else {what: FAULTS[what] for what in HARMLESS}
    length = dice.randrange(20, 60)
    drawn = [
        Step(what, dice.randrange(CHANNELS), dice.choice((1, 1, 2, 3, 5, 12))) for what in dice.choices(list(kinds), list(kinds.values()), k=length)
    ]
    # Epochs have no order: of several changes that are on their way at once, nobody could tell which came last.
    steps = tuple(
        step for n, step in enumerate(drawn) if step.what != "new_epoch" or step.channel not in {s.channel for s in drawn[:n] if s.what == step.what}
    )
    readers = []
    for _ in range(dice.randrange(3, 6)):
        channels = tuple(sorted(dice.sample(range(CHANNELS), dice.choice((1, 1, 2, 3)))))
        readers.append(
            Reader(
                channels=channels,
                only_a=dice.random() < 0.2,
                enters=dice.choice((0, 0, dice.randrange(length))),
                begin=dice.choice(("live", "live", "earliest", "last", "after")),
                back=dice.randrange(1, 10),
                buffer=dice.choice((4, 9, 1024, 1024, 1024)),
                pause=dice.choice((1, 1, 4, 20)),
                way=dice.choice(("yield", "yield", "raise", "batches")),
                leaves=tuple(dice.randrange(1, 12) for _ in range(dice.choice((0, 0, 1, 3)))) if len(channels) == 1 else (),
            )
        )
    return Plan(seed, steps, tuple(readers))


# ---------------------------------------------------------------------- the oracle


@dataclass
class Model:
    """What the oracle knows of one channel: messages are numbered from 0 in the order of their publishing."""

    published: int = 0
    under_way: int = 0
    """How many more the broker may have accepted already."""

    held: list[int] = field(default_factory=list)
    """What history holds."""

    lost: set[int] = field(default_factory=set)
    """What it no longer holds, or never did."""

    vanished: set[int] = field(default_factory=set)
    """What was lost with its place: whoever reads history afterwards cannot know that it was ever there."""

    causes: set[GapReason] = field(default_factory=set)
    cursors: dict[int, Cursor] = field(default_factory=dict, repr=False)
    windows: list[Window] = field(default_factory=list, repr=False)
    """Of readers that are about to enter."""

    def publish(self, cursor: Cursor, *, stored: bool) -> None:
        self.cursors[self.published] = cursor
        if stored:
            self.held.append(self.published)
        else:
            self.lost.add(self.published)
            self.causes.add(GapReason.HOLE)
        self.published += 1
        self.under_way -= 1
        self.changed()

    def lose(self, numbers: Iterable[int], why: GapReason) -> None:
        gone = set(numbers)
        self.held = [number for number in self.held if number not in gone]
        self.lost |= gone
        self.causes.add(why)
        self.changed()

    def changed(self) -> None:
        for window in self.windows:
            window.look(self)


@dataclass(eq=False)
class Window:
    """From when a reader began to enter until it was ready: where it may begin, and where at the latest."""

    begin: Begin
    back: int
    after: int | None = None
    earliest: int = 10**9
    latest: int = 0

    def look(self, model: Model) -> None:
        newest = model.published + model.under_way
        match self.begin:
            case "live":
                low, high = 0, newest
            case "earliest":
                low, high = model.held[0] if model.held else model.published, model.held[0] if model.held else newest
            case "last":
                low = model.held[-self.back :][0] if model.held else model.published
                high = [*model.held, *range(model.published, newest + 1)][-self.back - 1 :][0]
            case "after":
                assert self.after is not None
                low = high = self.after + 1
            case _:
                assert_never(self.begin)
        self.earliest = min(self.earliest, low)
        self.latest = max(self.latest, high)


def check(seen: list[Seen], window: Window, model: Model, reader: Reader) -> None:
    """Compare what a reader saw of one channel with what the oracle knows."""
    shown: int | None = None
    gaps: list[Gap | Literal["expired"]] = []
    for item in seen:
        if not isinstance(item, int):
            gaps.append(item)
            continue
        if shown is None:
            assert item >= window.earliest, f"began with {item}, before {window.earliest}"
            missing = range(window.latest, item)
        else:
            assert item > shown or EXPIRED in gaps, f"{item} behind {shown}: twice, or out of order"
            missing = range(shown + 1, item)
        judged(gaps, [number for number in missing if not (reader.only_a and number % 2)], model, reader, shown is None)
        shown, gaps = item, []


def judged(gaps: list[Gap | Literal["expired"]], missing: list[int], model: Model, reader: Reader, first: bool) -> None:
    """Judge what was said at one place against what is missing there."""
    if not set(missing) <= model.vanished:
        assert gaps, f"{missing} are missing, and nothing is said of it"
    told = [gap for gap in gaps if isinstance(gap, Gap)]
    for gap in told:
        allowed = {*model.causes, *([GapReason.LAGGED] if reader.slow else [])}
        if GapReason.HOLE in allowed:
            allowed.add(GapReason.TRIMMED)  # a message that was never stored, at the place where a reader stands, looks like one that was discarded
        assert gap.reason in allowed, f"{gap}: nothing of that kind happened"
    unknown = EXPIRED in gaps or any(gap.reason is GapReason.RESET or gap.channel is None for gap in told)
    if gaps and not missing and not first and not unknown:
        twice = not EXACT_SEAM and (reader.begin != "live" or reader.leaves)
        assert reader.only_a or twice, f"{gaps} though nothing is missing"
    counts = [gap.lost for gap in told]
    if not unknown and None not in counts:
        surely = set(missing) - model.vanished
        assert len(surely) <= sum(cast("list[int]", counts)), f"{sorted(surely)} are missing, but only {counts} are announced"
    if not unknown and not any(gap.reason is GapReason.LAGGED for gap in told):
        assert set(missing) <= model.lost, f"{sorted(set(missing) - model.lost)} are missing, though history has them"


# ---------------------------------------------------------------------- carrying it out

Messages = Subscription[Message[int]] | Subscription[Message[int] | Gap]


class Run:
    """One plan on one broker."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.dice = random.Random(plan.seed)
        self.rooms = [Room(number=n) for n in range(CHANNELS)]
        self.numbers = {room.name: n for n, room in enumerate(self.rooms)}
        self.models = [Model() for _ in range(CHANNELS)]
        self.goals: dict[int, int] = {}
        """The last message of each channel, once it is known."""
        self.reached: Counter[int] = Counter()
        """How many readers have it."""
        self.step = 0
        self.entered = 0
        self.entering = 0
        self.open: list[Messages] = []
        self.seen = 0

    async def run(self) -> int:
        """Carry it out and check each reader; return how many messages and gaps they saw."""
        here, there = pair()
        async with self.realtime(here) as rt, self.realtime(there) as publisher, anyio.create_task_group() as tasks:
            for reader in self.plan.readers:
                tasks.start_soon(self.read, rt, reader)
            for step in self.plan.steps:
                await self.do(step, rt, publisher, here, there)
                self.step += 1
                await tumble(self.dice, 6)
            there.faults.resume()
            await until(lambda: self.entered == len(self.plan.readers), "all have entered")
            # From rest, and one after the other: then what is newest is not given up, however slow a reader is.
            await self.rest(rt, publisher)
            for n, model in enumerate(self.models):
                self.goals[n] = model.published + 1
                await self.publish(publisher, n, 2)
                await until(partial(self.all_have, n), "all have the last")
        return self.seen

    def all_have(self, channel: int) -> bool:
        """Tell whether every reader of a channel has its last message."""
        return self.reached[channel] == sum(channel in reader.channels for reader in self.plan.readers)

    def realtime(self, transport: MemoryTransport) -> Realtime:
        return Realtime(transport, clock=HastyClock(), connect_timeout=60.0, timeout=60.0)

    async def publish(self, publisher: Realtime, channel: int, count: int, *, stored: bool = True) -> None:
        model, room = self.models[channel], self.rooms[channel]
        model.under_way = count
        model.changed()
        numbers = range(model.published, model.published + count)
        for receipt in await publisher.publish_many([(room.b if number % 2 else room.a)(number) for number in numbers]):
            assert receipt.cursor is not None
            model.publish(receipt.cursor, stored=stored)

    async def do(self, step: Step, rt: Realtime, publisher: Realtime, here: MemoryTransport, there: MemoryTransport) -> None:
        """Make one step happen."""
        n, count, faults = step.channel, step.count, there.faults
        name, model = self.rooms[n].name, self.models[n]
        match step.what:
            case "publish":
                await self.publish(publisher, n, count)
            case "drop" | "lose":
                faults.drop(count, channel=name, stored=step.what == "drop")
                await self.publish(publisher, n, count, stored=step.what == "drop")
            case "duplicate":
                faults.duplicate(count, channel=name)
                await self.publish(publisher, n, count)
            case "lose_ack":
                faults.lose_ack(1, channel=name)
                await self.publish(publisher, n, count)
            case "disconnect":
                faults.disconnect(refuse=count % 3)
            case "sever":
                if here._link is not None and not here._link.broken:
                    sever(here)
            case "stall":
                faults.stall()
            case "resume":
                faults.resume()
            case "trim":
                faults.trim(name, keep=count)
                model.lose(model.held[:-count], GapReason.TRIMMED)
            case "new_epoch":
                faults.new_epoch(name)
                model.lose(model.held, GapReason.RESET)
            case "fork":
                # What a broker has lost before anybody saw it cannot be told from what was never published.
                faults.resume()
                await self.rest(rt, publisher)
                while not EXACT_SEAM and any(messages._seam is not None for messages in self.open):
                    await self.rest(rt, publisher)
                connections = rt.stats().connections
                faults.fork(name, count)
                model.vanished.update(model.held[-count:])
                model.lose(model.held[-count:], GapReason.RESET)
                faults.disconnect()  # as a failover does
                await until(lambda: self.repaired(rt, n, connections), "that is noticed")
            case "rest":
                await tumble(self.dice, 40)

    async def rest(self, rt: Realtime, publisher: Realtime) -> None:
        """Wait until all have everything, and the last of it live."""
        for n in range(CHANNELS):
            await self.publish(publisher, n, 2)
        await until(lambda: self.calm(rt), "everything published has arrived")

    def calm(self, rt: Realtime) -> bool:
        """Tell whether all that was published has been seen by everybody, and nobody reads history."""
        for room, model in zip(self.rooms, self.models, strict=True):
            record = engine_of(rt).hub.channels.get(room.name)
            if record is not None and not (record.phase in {Phase.LIVE, Phase.LINGERING} and record.position == model.cursors[model.published - 1]):
                return False
        return not self.entering and all(messages._join is None and not messages.stats().lag for messages in self.open)

    def repaired(self, rt: Realtime, channel: int, connections: int) -> bool:
        """Tell whether a channel is live on another connection."""
        record = engine_of(rt).hub.channels.get(self.rooms[channel].name)
        return rt.stats().connections > connections and (record is None or record.phase in {Phase.LIVE, Phase.LINGERING})

    # ------------------------------------------------------------------ readers

    async def read(self, rt: Realtime, reader: Reader) -> None:
        """Read as planned up to the last message, and check what came."""
        await until(lambda: self.step >= reader.enters, "it is its turn")
        start, windows = self.begin(reader)
        due = dict(windows)
        seen: dict[int, list[Seen]] = {n: [] for n in reader.channels}
        cursors: dict[str, Cursor] = {}
        leaves = list(reader.leaves)
        done = False
        while not done:
            try:
                async with self.enter(rt, reader, start, due) as messages:
                    self.entered += not cursors
                    done = await self.iterate(messages, reader, seen, cursors, leaves.pop() if leaves else 10**9)
            except CursorExpired:
                assert any(GapReason.RESET in self.models[n].causes or self.models[n].lost for n in reader.channels), (
                    "a cursor expired without a cause"
                )
                for n in reader.channels:
                    seen[n].append(EXPIRED)
                    windows[n].earliest = 0
                start = Start.LIVE
            else:
                start = Start.after(dict(cursors))
            due = {}
        for n in reader.channels:
            try:
                check(seen[n], windows[n], self.models[n], reader)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{reader} saw of channel {n}: {seen[n]}\n{windows[n]}\n{self.models[n]}") from None
            self.seen += len(seen[n])

    def begin(self, reader: Reader) -> tuple[Start, dict[int, Window]]:
        """Return where a reader begins, and what the oracle makes of it."""
        models = {n: self.models[n] for n in reader.channels}
        begin = reader.begin
        if begin == "after" and not all(model.published for model in models.values()):
            begin = "earliest"
        windows = {n: Window(begin, reader.back) for n in models}
        if begin == "live":
            return Start.LIVE, windows
        if begin == "earliest":
            return Start.EARLIEST, windows
        if begin == "last":
            return Start.last(reader.back), windows
        for n, model in models.items():
            windows[n].after = max(0, model.published - reader.back)
        return Start.after({self.rooms[n].name: models[n].cursors[window.after or 0] for n, window in windows.items()}), windows

    @asynccontextmanager
    async def enter(self, rt: Realtime, reader: Reader, start: Start, windows: dict[int, Window]) -> AsyncGenerator[Messages, None]:
        """Subscribe; the windows look on until it is ready."""
        for n, window in windows.items():
            window.look(self.models[n])
            self.models[n].windows.append(window)
        rooms = [self.rooms[n] for n in reader.channels]
        refs = [ref for room in rooms for ref in ((room.a,) if reader.only_a else (room.a, room.b))]
        plain = rt.subscribe(refs[0], *refs[1:], start=start, buffer=reader.buffer, on_gap="raise" if reader.way == "raise" else "log")
        subscription: Messages = plain if reader.way == "raise" else plain.with_gaps()
        self.entering += 1
        try:
            await subscription.__aenter__()
        finally:
            self.entering -= 1
            for n, window in windows.items():
                self.models[n].windows.remove(window)
        self.open.append(subscription)
        try:
            yield subscription
        finally:
            self.open.remove(subscription)
            await subscription.__aexit__(None, None, None)

    async def iterate(self, messages: Messages, reader: Reader, seen: dict[int, list[Seen]], cursors: dict[str, Cursor], leaves: int) -> bool:
        """Read until the last message of every channel, or so many; return whether it was the former."""
        received = gaps = 0
        while not self.done(reader, seen):
            for item in await self.next(messages, reader):
                if isinstance(item, Gap):
                    gaps += 1
                    for n in reader.channels if item.channel is None else (self.numbers[item.channel],):
                        seen[n].append(item)
                    continue
                received += 1
                n = self.numbers[item.channel]
                seen[n].append(item.data)
                self.reached[n] += item.data == self.goal(reader, n)
                assert item.cursor is not None
                cursors[item.channel] = item.cursor
            if received >= leaves:
                break
            await tumble(self.dice, reader.pause)
        stats = messages.stats()
        assert (stats.received, stats.gaps, stats.invalid) == (received, gaps, 0)
        return self.done(reader, seen)

    def done(self, reader: Reader, seen: dict[int, list[Seen]]) -> bool:
        return all(self.goal(reader, n) in seen[n] for n in reader.channels)

    def goal(self, reader: Reader, n: int) -> int | None:
        goal = self.goals.get(n)
        return goal if goal is None or not reader.only_a else goal - goal % 2

    async def next(self, messages: Messages, reader: Reader) -> list[Message[int] | Gap]:
        """Take what comes next, one way or another."""
        with anyio.CancelScope() as scope:
            if self.dice.random() < 0.1:
                scope.cancel()  # a wait that is cut short at once loses nothing
            try:
                if reader.way == "batches":
                    return list(await anext(messages.batches(max_size=self.dice.choice((1, 3, 100)))))
                return [await anext(messages)]
            except MessagesLost as lost:
                assert reader.way == "raise"
                return [lost.gap]
        return []


async def carry_out(seed: int, dice: random.Random, seconds: float = 20.0) -> int:
    """Carry out the plan of a seed; what fails says which it was."""
    dice.seed(seed)
    plan = draw(seed)
    try:
        with anyio.fail_after(seconds):
            return await Run(plan).run()
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - whatever it is, the seed is worth more than its traceback
        raise AssertionError(f"seed {seed}: {leaves(error)}\n{plan}") from None


@pytest.mark.parametrize("block", range(4))
async def test_plans(block: int, slow_history: random.Random) -> None:
    seen = sum([await carry_out(seed, slow_history) for seed in range(block * 10, block * 10 + 10)])
    assert seen > 500, "most plans show something"


def test_plans_are_drawn_from_their_seeds_alone_and_have_everything_in_them() -> None:
    plans = [draw(seed) for seed in range(40)]
    assert plans == [draw(seed) for seed in range(40)]
    assert {step.what for plan in plans for step in plan.steps} == set(FAULTS)
    assert {step.what for plan in plans if plan.seed % 3 == 0 for step in plan.steps} == set(HARMLESS)
    readers = [reader for plan in plans for reader in plan.readers]
    assert {reader.begin for reader in readers} == {"live", "earliest", "last", "after"}
    assert {reader.way for reader in readers} == {"yield", "raise", "batches"}
    assert (
        {reader.slow for reader in readers} == {reader.only_a for reader in readers} == {bool(reader.leaves) for reader in readers} == {True, False}
    )


# ---------------------------------------------------------------------- planted faults


def no_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing between two messages is not noticed."""

    def blind(last: Cursor | None, position: Cursor, prev: Cursor | None, links: Links) -> Verdict:
        verdict = judge(last, position, prev, links)
        return Verdict.NEXT if verdict is Verdict.HOLE else verdict

    monkeypatch.setattr(hub_module, "judge", blind)


def repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes twice is shown twice."""

    def forgetful(last: Cursor | None, position: Cursor, prev: Cursor | None, links: Links) -> Verdict:
        verdict = judge(last, position, prev, links)
        return Verdict.NEXT if verdict is Verdict.DUPLICATE else verdict

    monkeypatch.setattr(hub_module, "judge", forgetful)


def silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hub has to announce, it keeps to itself."""

    def announce(hub: Hub, record: ChannelRecord, reason: GapReason, lost: int | None) -> None:
        record.loss = None

    monkeypatch.setattr(Hub, "announce", announce)


def alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repair that succeeds is announced as a loss all the same."""
    go_live = Hub.go_live

    def tell(hub: Hub, record: ChannelRecord, event: Event) -> None:
        if event is Event.REPAIRED:
            hub.announce(record, GapReason.HOLE, 1)
        go_live(hub, record, event)

    monkeypatch.setattr(Hub, "go_live", tell)


def quiet_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow reader is not told what its buffer has given up."""
    meet = Subscription[object]._meet

    def say_nothing(subscription: Subscription[object], gap: Gap) -> bool:
        return gap.reason is GapReason.LAGGED or meet(subscription, gap)

    monkeypatch.setattr(Subscription, "_meet", say_nothing)


def no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a join, everything in the live log is shown."""
    monkeypatch.setattr(Seam, "filter", lambda _, items: items)


def modest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer messages are said to be lost than are."""
    monkeypatch.setattr(hub_module, "missing", lambda last, position, _: max(0, position.offset - last.offset - 2))


PLANTED: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "holes are not noticed": (no_holes, "nothing is said of it"),
    "repeats are shown": (repeats, "twice, or out of order"),
    "losses are not announced": (silence, "nothing is said of it"),
    "repairs are announced": (alarm, "though nothing is missing|nothing of that kind happened"),
    "lag is not announced": (quiet_lag, "nothing is said of it"),
    "no seam": (no_seam, "twice, or out of order"),
    "counts are too low": (modest_counts, "but only"),
}


@pytest.mark.parametrize("fault", PLANTED)
async def test_a_planted_fault_is_found(fault: str, slow_history: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, said = PLANTED[fault]
    plant(monkeypatch)
    found: list[str] = []
    for seed in range(60):
        try:
            await carry_out(seed, slow_history, 2.0)
        except AssertionError as error:
            found.append(str(error))
            if re.search(said, str(error)):
                return
    pytest.fail(f"60 plans did not find it, but: {[text[:100] for text in found]}")
