"""``rt.events()`` and both ``stats()``: every change of the connection is told once and in order, and every counter is moved by what its description says, by nothing else."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise
from typing import Any, cast

import anyio
import pytest

from fanwire import Cursor, Gap, GapReason, Realtime, Start, Subscription, TopicRef
from fanwire.errors import (
    Closed,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    FanwireError,
    Internal,
    MessagesLost,
    PermissionDenied,
    Unauthenticated,
    Unsupported,
)
from fanwire.events import ConnectionEvent, ConnectionState, RealtimeStats, SubscriptionStats
from fanwire.messages import Receipt, mark_of
from fanwire.transport import Outbound
from fanwire_memory import MemoryTransport
from tests.clock import ManualClock
from tests.hub.support import COUNTED, FakeHistory, FakeTransport, accept, entries, entry, frame, patience, until

pytestmark = pytest.mark.anyio

CONNECTING, CONNECTED, DISCONNECTED, FAILED, CLOSED = ConnectionState

C: TopicRef[Any] = TopicRef("c", "t")  # Any: payloads do not matter here
D: TopicRef[Any] = TopicRef("d", "t")  # Any: as above

# ---------------------------------------------------------------- events

TRANSITIONS = {
    (CONNECTING, CONNECTED),
    (CONNECTING, DISCONNECTED),
    (CONNECTING, FAILED),
    (CONNECTING, CLOSED),
    (CONNECTED, DISCONNECTED),
    (CONNECTED, FAILED),
    (CONNECTED, CLOSED),
    (DISCONNECTED, CONNECTING),
    (DISCONNECTED, CLOSED),
    (FAILED, CLOSED),
}
"""Every change there is; each is made to happen below."""


class Listener:
    """Collects what one listener hears."""

    def __init__(self) -> None:
        self.heard: list[ConnectionEvent] = []
        self.ended = False

    @property
    def states(self) -> list[ConnectionState]:
        return [event.state for event in self.heard]

    @property
    def last(self) -> ConnectionEvent | None:
        return self.heard[-1] if self.heard else None

    async def run(self, rt: Realtime) -> None:
        async with rt.events() as events:
            async for event in events:
                self.heard.append(event)
        self.ended = True


@asynccontextmanager
async def listening(transport: FakeTransport, clock: ManualClock) -> AsyncGenerator[tuple[Realtime, Listener], None]:
    """Open a Realtime with a listener, and close it."""
    rt = Realtime(transport, clock=clock)
    listener = Listener()
    async with anyio.create_task_group() as tasks:
        async with rt:
            tasks.start_soon(listener.run, rt)
            await until(lambda: listener.heard)
            yield rt, listener
        await until(lambda: listener.ended)


def changes(states: Sequence[ConnectionState]) -> set[tuple[ConnectionState, ConnectionState]]:
    return set(pairwise(states))


async def waiting_after(transport: FakeTransport, clock: ManualClock, runs: int) -> None:
    await until(lambda: transport.runs == runs and clock.sleepers)


async def broken_and_made_again(transport: FakeTransport, clock: ManualClock, listener: Listener) -> None:
    transport.break_(ConnectionLost("cable"))
    await until(lambda: clock.sleepers)
    clock.advance(20)
    await until(lambda: listener.states[-1] is CONNECTED)


async def refused_for_a_while(transport: FakeTransport, clock: ManualClock, listener: Listener) -> None:
    transport.connects = [ConnectFailed("no route"), ConnectFailed("still none")]
    transport.break_(ConnectionLost("cable"))
    for runs in (1, 2, 3):
        await waiting_after(transport, clock, runs)
        clock.advance(20)
    await until(lambda: listener.states[-1] is CONNECTED)


async def refused_for_good(transport: FakeTransport, clock: ManualClock, listener: Listener) -> None:
    transport.connects = [Unauthenticated("revoked")]
    transport.break_(ConnectionLost("cable"))
    await until(lambda: clock.sleepers)
    clock.advance(20)
    await until(lambda: listener.states[-1] is FAILED)


async def thrown_out(transport: FakeTransport, clock: ManualClock, listener: Listener) -> None:
    transport.break_(PermissionDenied("banned"))
    await until(lambda: listener.states[-1] is FAILED)


async def closed_while_it_waits(transport: FakeTransport, clock: ManualClock, listener: Listener) -> None:
    transport.break_(ConnectionLost("cable"))
    await until(lambda: clock.sleepers)


async def closed_while_it_tries(transport: FakeTransport, clock: ManualClock, listener: Listener) -> None:
    transport.hang = True
    transport.break_(ConnectionLost("cable"))
    await until(lambda: clock.sleepers)
    clock.advance(20)
    await until(lambda: listener.states[-1] is CONNECTING)


async def nothing(transport: FakeTransport, clock: ManualClock, listener: Listener) -> None:
    """Close at once."""


Story = Callable[[FakeTransport, ManualClock, Listener], Awaitable[None]]

# State, attempt, and the text of the error, of each event.
STORIES: dict[Story, list[tuple[ConnectionState, int, str | None]]] = {
    nothing: [(CONNECTED, 0, None), (CLOSED, 0, None)],
    broken_and_made_again: [
        (CONNECTED, 0, None),
        (DISCONNECTED, 0, "cable"),
        (CONNECTING, 1, None),
        (CONNECTED, 0, None),
        (CLOSED, 0, None),
    ],
    refused_for_a_while: [
        (CONNECTED, 0, None),
        (DISCONNECTED, 0, "cable"),
        (CONNECTING, 1, None),
        (DISCONNECTED, 1, "no route"),
        (CONNECTING, 2, None),
        (DISCONNECTED, 2, "still none"),
        (CONNECTING, 3, None),
        (CONNECTED, 0, None),
        (CLOSED, 0, None),
    ],
    refused_for_good: [
        (CONNECTED, 0, None),
        (DISCONNECTED, 0, "cable"),
        (CONNECTING, 1, None),
        (FAILED, 1, "revoked"),
        (CLOSED, 1, "revoked"),
    ],
    thrown_out: [(CONNECTED, 0, None), (FAILED, 0, "banned"), (CLOSED, 0, "banned")],
    closed_while_it_waits: [(CONNECTED, 0, None), (DISCONNECTED, 0, "cable"), (CLOSED, 0, None)],
    closed_while_it_tries: [(CONNECTED, 0, None), (DISCONNECTED, 0, "cable"), (CONNECTING, 1, None), (CLOSED, 1, None)],
}


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
async def test_each_change_is_told_once_with_its_attempt_and_its_reason(story: Story) -> None:
    transport, clock = FakeTransport(), ManualClock()
    async with listening(transport, clock) as (_, listener):
        await story(transport, clock, listener)
    assert [(event.state, event.attempt, None if event.error is None else str(event.error)) for event in listener.heard] == STORIES[story]
    times = [event.at for event in listener.heard]
    assert times == sorted(times)
    assert times[0] == ManualClock().time(), "by the Realtime's clock"


def test_the_stories_show_every_change_but_that_of_the_first_connection() -> None:
    seen = {change for told in STORIES.values() for change in changes([state for state, _, _ in told])}
    assert seen == TRANSITIONS
    assert {state for change in seen for state in change} == set(ConnectionState)


@pytest.mark.parametrize(
    "error", [Unauthenticated("a"), PermissionDenied("b"), ConfigError("c"), Unsupported("d"), KeyError("e")], ids=lambda error: type(error).__name__
)
async def test_what_cannot_be_helped_fails_and_is_told_to_whoever_asks_later(error: Exception) -> None:
    transport, clock = FakeTransport(), ManualClock()
    async with listening(transport, clock) as (rt, listener):
        transport.break_(error)
        await until(lambda: listener.states[-1] is FAILED)
        assert listener.last is not None
        told = listener.last.error
        assert isinstance(told, Internal if isinstance(error, KeyError) else type(error))
        with pytest.raises(type(told)):
            async with rt.events():
                pytest.fail("there is nothing to follow any more")
        assert rt.stats().state is FAILED


async def test_a_listener_that_comes_later_begins_with_the_present() -> None:
    transport, clock = FakeTransport(), ManualClock()
    async with listening(transport, clock) as (rt, first):
        transport.break_(ConnectionLost("cable"))
        await until(lambda: clock.sleepers)
        async with rt.events() as events:
            now = await anext(events)
            assert (now.state, str(now.error)) == (DISCONNECTED, "cable")
            clock.advance(20)
            assert [(await anext(events)).state for _ in range(2)] == [CONNECTING, CONNECTED]
        await until(lambda: first.states[-1] is CONNECTED)


async def test_listeners_do_not_take_from_each_other_and_leave_nothing_behind() -> None:
    transport, clock = FakeTransport(), ManualClock()
    async with listening(transport, clock) as (rt, first):
        async with rt.events() as one, rt.events() as other:
            await broken_and_made_again(transport, clock, first)
            for events in (one, other):
                assert [(await anext(events)).state for _ in range(4)] == [CONNECTED, DISCONNECTED, CONNECTING, CONNECTED]
        assert rt._engine is not None
        assert len(rt._engine.connection.listeners) == 1


async def test_events_are_there_only_while_it_is_open() -> None:
    rt = Realtime(FakeTransport())
    with pytest.raises(Closed):
        async with rt.events():
            pass
    async with rt:
        pass
    with pytest.raises(Closed):
        async with rt.events():
            pass


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_happens_each_state_follows_from_the_one_before(seed: int) -> None:
    dice = random.Random(seed)
    transport, clock = FakeTransport(), ManualClock()
    async with listening(transport, clock) as (rt, listener):
        for _ in range(40):
            match dice.randrange(4):
                case 0:
                    transport.break_(ConnectionLost("cable"))
                case 1:
                    transport.connects = [ConnectFailed("no route")] * dice.randrange(3)
                case 2:
                    clock.advance(20)
                case _:
                    await patience(dice.randrange(20))
        transport.connects = []
        while rt.stats().state is not CONNECTED:
            clock.advance(20)
            await patience(5)
        connections = rt.stats().connections
    assert changes(listener.states) <= TRANSITIONS
    assert listener.states[-1] is CLOSED
    assert listener.states.count(CONNECTED) in {connections, connections + 1}, "the first may have been told as the present"
    for before, event in pairwise(listener.heard):
        assert (event.error is None) is (event.state not in {DISCONNECTED, FAILED})
        assert event.attempt == (before.attempt + 1 if event.state is CONNECTING else 0 if event.state is CONNECTED else before.attempt)


# ---------------------------------------------------------------- counters of a Realtime


def moved(before: RealtimeStats, after: RealtimeStats) -> dict[str, object]:
    """Return what has changed: by how much, or into what."""
    found: dict[str, object] = {}
    for name, old, new in zip(RealtimeStats._fields, before, after, strict=True):
        if old != new:
            found[name] = new if name == "state" else cast("int", new) - cast("int", old)
    return found


def at(n: int) -> Cursor:
    return Cursor("e", n, mark_of(f"p.{n}", None))


def deliver(transport: FakeTransport, n: int, data: object = None, *, channel: str = "c") -> None:
    """Deliver message number ``n``, linked to the one before it."""
    transport.push(channel, entry(channel, n, data=data))


Scenario = Callable[[Realtime, FakeTransport, ManualClock], AsyncGenerator[dict[str, object], None]]
"""Does something, and yields what that must have moved; any number of times."""


async def publishing(rt: Realtime, transport: FakeTransport, clock: ManualClock) -> AsyncGenerator[dict[str, object], None]:
    await rt.publish(C, 1)
    yield {"published": 1}
    await rt.publish_many([C(1), D(2), C(3)])
    yield {"published": 3}


async def waiting_to_be_published(rt: Realtime, transport: FakeTransport, clock: ManualClock) -> AsyncGenerator[dict[str, object], None]:
    gate = anyio.Event()

    async def later(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        await gate.wait()
        return await accept(batch)

    transport.outcomes = [later]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rt.publish, C, 1)
        await until(lambda: len(transport.published) == 1)
        yield {"publishing": 1}
        tasks.start_soon(rt.publish, C, 2)
        await until(lambda: rt.stats().publishing == 2)
        yield {"publishing": 1}
        gate.set()
    yield {"publishing": -2, "published": 2}


async def a_refused_publish(rt: Realtime, transport: FakeTransport, clock: ManualClock) -> AsyncGenerator[dict[str, object], None]:
    async def refuse(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        return [PermissionDenied("not here") for _ in batch]

    transport.outcomes = [refuse]
    with pytest.raises(PermissionDenied):
        await rt.publish(C, 1)
    yield {}


async def subscribing(rt: Realtime, transport: FakeTransport, clock: ManualClock) -> AsyncGenerator[dict[str, object], None]:
    prepared = [rt.subscribe(C), rt.subscribe(C), rt.subscribe(C, buffer=7), rt.subscribe(C, D)]
    yield {}
    await prepared[0].__aenter__()
    yield {"channels": 1, "subscriptions": 1, "logs": 1}
    await prepared[1].__aenter__()
    yield {"subscriptions": 1}
    await prepared[2].__aenter__()
    yield {"subscriptions": 1, "logs": 1}
    await prepared[3].__aenter__()
    yield {"channels": 1, "subscriptions": 1, "logs": 1}
    for one, left in zip(prepared, [{}, {"logs": -1}, {"logs": -1}, {"logs": -1}], strict=True):
        await one.__aexit__(None, None, None)
        yield {"subscriptions": -1, **left}
    await until(lambda: clock.sleepers)
    clock.advance(2.0)
    await until(lambda: not rt.stats().channels)
    yield {"channels": -2}


async def frames_that_nobody_wants_any_more(rt: Realtime, transport: FakeTransport, clock: ManualClock) -> AsyncGenerator[dict[str, object], None]:
    async with rt.subscribe(C):
        yield {"channels": 1, "subscriptions": 1, "logs": 1}
    deliver(transport, 1)
    deliver(transport, 2)
    yield {"subscriptions": -1, "logs": -1, "received": 2}


async def frames_in_a_buffer(rt: Realtime, transport: FakeTransport, clock: ManualClock) -> AsyncGenerator[dict[str, object], None]:
    big = "x" * 20_000
    async with rt.subscribe(C, buffer_bytes=400_000) as messages:
        yield {"channels": 1, "subscriptions": 1, "logs": 1}
        deliver(transport, 1, big)
        size = len(entry("c", 1, data=big).frame)
        yield {"received": 1, "buffered_bytes": size}
        deliver(transport, 2, big)
        yield {"received": 1, "buffered_bytes": size}
        for _ in range(2):
            await anext(messages)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anext, messages)
            await until(lambda: messages._waiter is not None)
            tasks.cancel_scope.cancel()
        yield {"buffered_bytes": -2 * size}
        deliver(transport, 3, big)
        yield {"received": 1, "buffered_bytes": size}
    yield {"subscriptions": -1, "logs": -1, "buffered_bytes": -size}


async def a_repeat(rt: Realtime, transport: FakeTransport, clock: ManualClock) -> AsyncGenerator[dict[str, object], None]:
    async with rt.subscribe(C), rt.subscribe(C, buffer=7):
        yield {"channels": 1, "subscriptions": 2, "logs": 2}
        deliver(transport, 1)
        yield {"received": 1}
        deliver(transport, 1)
        yield {"received": 1, "duplicates": 1}


async def what_cannot_be_read(rt: Realtime, transport: FakeTransport, clock: ManualClock) -> AsyncGenerator[dict[str, object], None]:
    number = TopicRef("c", "t", Numbers())
    async with rt.subscribe(number) as messages, rt.subscribe(number, buffer=7):
        yield {"channels": 1, "subscriptions": 2, "logs": 2}
        transport.deliver("c", b"rubbish", at(1), None)
        yield {"received": 1, "invalid": 1}
        deliver(transport, 2, 2)
        yield {"received": 1}
        deliver(transport, 3, "no number")
        yield {"received": 1}
        assert (await anext(messages)).data == 2
        # Parsed when somebody takes it, once for both; bytes are accounted for at such an occasion, not for each message.
        yield {"invalid": 1, "buffered_bytes": len(entry("c", 2, data=2).frame)}


class Numbers:
    """A schema that takes numbers only."""

    def validate(self, value: object, /) -> int:
        raise NotImplementedError

    def dump(self, value: int, /) -> bytes:
        raise NotImplementedError

    def load(self, data: bytes, /) -> int:
        return int(data)


async def a_hole(rt: Realtime, transport: FakeTransport, clock: ManualClock) -> AsyncGenerator[dict[str, object], None]:
    async with rt.subscribe(C), rt.subscribe(C, buffer=7):
        yield {"channels": 1, "subscriptions": 2, "logs": 2}
        deliver(transport, 1)
        deliver(transport, 4)
        yield {"received": 2, "gaps": 1}


async def a_reconnect(rt: Realtime, transport: FakeTransport, clock: ManualClock) -> AsyncGenerator[dict[str, object], None]:
    transport.break_(ConnectionLost("cable"))
    await until(lambda: clock.sleepers)
    yield {"state": DISCONNECTED}
    transport.hang = True
    clock.advance(20)
    await until(lambda: transport.runs == 2)
    yield {"state": CONNECTING}


async def a_reconnect_with_a_loss(rt: Realtime, transport: FakeTransport, clock: ManualClock) -> AsyncGenerator[dict[str, object], None]:
    async with rt.subscribe(C):
        yield {"channels": 1, "subscriptions": 1, "logs": 1}
        transport.heads["c"] = at(5)
        transport.break_(ConnectionLost("cable"))
        await until(lambda: clock.sleepers)
        yield {"state": DISCONNECTED}
        clock.advance(20)
        await until(lambda: rt.stats().gaps)
        yield {"state": CONNECTED, "connections": 1, "gaps": 1}


SCENARIOS: tuple[Scenario, ...] = (
    publishing,
    waiting_to_be_published,
    a_refused_publish,
    subscribing,
    frames_that_nobody_wants_any_more,
    frames_in_a_buffer,
    a_repeat,
    what_cannot_be_read,
    a_hole,
    a_reconnect,
    a_reconnect_with_a_loss,
)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_each_counter_is_moved_by_what_it_counts_and_by_nothing_else(scenario: Scenario) -> None:
    transport, clock = FakeTransport(COUNTED), ManualClock()
    transport.heads = dict.fromkeys(("c", "d"), Cursor("e", 0))
    async with Realtime(transport, clock=clock) as rt:
        before = rt.stats()
        assert before == RealtimeStats(CONNECTED, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        async with aclosing(scenario(rt, transport, clock)) as expectations:
            async for expected in expectations:
                after = rt.stats()
                assert moved(before, after) == expected
                before = after
    assert rt.stats().state is CLOSED


async def test_the_scenarios_move_every_counter() -> None:
    names: set[str] = set()
    for scenario in SCENARIOS:
        transport, clock = FakeTransport(COUNTED), ManualClock()
        transport.heads = dict.fromkeys(("c", "d"), Cursor("e", 0))
        async with Realtime(transport, clock=clock) as rt, aclosing(scenario(rt, transport, clock)) as expectations:
            async for expected in expectations:
                names |= expected.keys()
    assert names == set(RealtimeStats._fields)


async def test_figures_before_and_after() -> None:
    rt = Realtime(MemoryTransport())
    assert rt.stats() == RealtimeStats(CLOSED, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    async with rt, rt.subscribe(C):
        await rt.publish(C, 1)
    assert rt.stats()._replace(channels=0) == RealtimeStats(CLOSED, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0)


async def test_a_realtime_that_never_opened_says_that_it_failed() -> None:
    transport = FakeTransport()
    transport.connects = [Unauthenticated("who")]
    rt = Realtime(transport)
    with pytest.raises(Unauthenticated):
        await rt.__aenter__()
    assert rt.stats()[:2] == (FAILED, 0)


# ---------------------------------------------------------------- counters of a subscription


def shifted(before: SubscriptionStats, after: SubscriptionStats) -> dict[str, int]:
    return {name: new - old for name, old, new in zip(SubscriptionStats._fields, before, after, strict=True) if old != new}


class Watch:
    """Looks at a subscription's counters from one moment to the next."""

    def __init__(self, messages: Subscription[Any]) -> None:  # Any: as above
        self._messages = messages
        self._before = messages.stats()
        assert self._before == SubscriptionStats(0, 0, 0, 0, 0)
        self.names: set[str] = set()

    def saw(self, **expected: int) -> None:
        after = self._messages.stats()
        assert shifted(self._before, after) == expected
        self._before = after
        self.names |= expected.keys()


async def test_each_counter_of_a_subscription_is_moved_by_what_it_counts_and_by_nothing_else() -> None:
    transport = FakeTransport(COUNTED)
    transport.heads["c"] = Cursor("e", 0)
    async with Realtime(transport) as rt, rt.subscribe(TopicRef("c", "t", Numbers())).with_gaps() as messages, rt.subscribe(C) as neighbour:
        watch = Watch(messages)
        deliver(transport, 1, 1)
        deliver(transport, 2, 2)
        watch.saw(lag=2)
        await anext(messages)
        watch.saw(received=1, lag=-1)
        await anext(messages)
        watch.saw(received=1, lag=-1)
        transport.deliver("c", b"rubbish", at(3), at(2))
        watch.saw(invalid=1)
        deliver(transport, 7, 7)
        assert await anext(messages) == Gap("c", GapReason.HOLE, 3)
        watch.saw(lost=3, gaps=1, lag=1)
        await anext(messages)
        watch.saw(received=1, lag=-1)
        assert transport.sink is not None
        transport.sink.lost(["c"], GapReason.EXPIRED, None)
        transport.heads["c"] = Cursor("e2", 0)
        await until(lambda: transport.generations["c"] == 2 and rt.stats().gaps == 2)
        assert await anext(messages) == Gap("c", GapReason.RESET, None)
        watch.saw(gaps=1)
        assert watch.names == set(SubscriptionStats._fields)
        assert neighbour.stats()[0] == 0, "what one takes is not taken by another"


async def test_a_lag_is_lost_when_it_is_met_and_counted_once() -> None:
    transport = FakeTransport(COUNTED)
    transport.heads["c"] = Cursor("e", 0)
    async with Realtime(transport) as rt, rt.subscribe(C, buffer=4, on_gap="raise") as messages:
        watch = Watch(messages)
        for n in range(1, 11):
            deliver(transport, n)
        watch.saw(lag=10)
        with pytest.raises(MessagesLost):
            await anext(messages)
        watch.saw(lost=6, gaps=1, lag=-6)
        assert (await anext(messages)).data == 7
        watch.saw(received=1, lag=-1)
        assert rt.stats().gaps == 0, "the stream itself has none"


async def test_a_subscription_counts_from_when_it_was_entered() -> None:
    transport = FakeTransport(COUNTED)
    transport.heads["c"] = Cursor("e", 0)
    async with Realtime(transport) as rt, rt.subscribe(C) as early:
        transport.deliver("c", b"rubbish", at(1), None)
        deliver(transport, 2)
        async with rt.subscribe(C) as late:
            assert late.stats() == SubscriptionStats(0, 0, 0, 0, 0)
            deliver(transport, 3)
            assert late.stats() == SubscriptionStats(received=0, lost=0, gaps=0, lag=1, invalid=0)
            assert early.stats() == SubscriptionStats(received=0, lost=0, gaps=0, lag=2, invalid=1)
        assert late.stats() == SubscriptionStats(0, 0, 0, 0, 0), "what it left behind waits for nobody"


async def test_what_is_read_from_history_counts_like_anything_else() -> None:
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, 3))
    async with Realtime(transport) as rt, rt.subscribe(C, start=Start.EARLIEST) as messages:
        assert messages.stats() == SubscriptionStats(received=0, lost=0, gaps=0, lag=3, invalid=0)
        await anext(messages)
        assert messages.stats() == SubscriptionStats(received=1, lost=0, gaps=0, lag=2, invalid=0)
        assert rt.stats().received == 0, "frames that come live"


async def test_batches_count_what_they_hand_out() -> None:
    transport = FakeTransport(COUNTED)
    transport.heads["c"] = Cursor("e", 0)
    async with Realtime(transport) as rt, rt.subscribe(C) as messages:
        for n in range(1, 6):
            transport.deliver("c", frame("c", f"p.{n}", n), at(n), at(n - 1) if n > 1 else None)
        assert len(await anext(messages.batches(max_size=3))) == 3
        assert messages.stats() == SubscriptionStats(received=3, lost=0, gaps=0, lag=2, invalid=0)
