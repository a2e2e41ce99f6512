"""The conversation with the broker about subscriptions: what is asked and when, whatever the answers, and that nothing is left behind."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from fanwire import Cursor, Gap, GapReason, Message, Realtime, TopicRef
from fanwire.errors import ConnectionLost, FanwireError, Internal, PermissionDenied, Timeout, Unavailable
from fanwire.hub.hub import Hub
from fanwire.hub.states import Phase
from fanwire.subscription import Subscription
from tests.clock import ManualClock
from tests.hub.support import COUNTED, LINKED, ORDERED, FakeHistory, FakeTransport, HastyClock, entries, entry, frame, patience, until

pytestmark = pytest.mark.anyio

Answer = Mapping[str, Cursor | None | FanwireError]
Wanted = Mapping[str, frozenset[str] | None]


def ref(channel: str) -> TopicRef[Any]:  # Any: payloads do not matter here
    return TopicRef(channel, "t")


C = ref("c")
DENIED = PermissionDenied("not yours")


def hub_of(rt: Realtime) -> Hub:
    assert rt._engine is not None
    return rt._engine.hub


def phase(rt: Realtime, channel: str) -> Phase:
    record = hub_of(rt).channels.get(channel)
    return Phase.GONE if record is None else record.phase


async def take(messages: Subscription[Any], count: int) -> list[object]:  # Any: as above
    """The next data, and the gaps among them."""
    with anyio.fail_after(10):
        items = [await anext(messages) for _ in range(count)]
    return [item.data if isinstance(item, Message) else item for item in items]


class Entering:
    """A subscription that is entered by a task of its own."""

    def __init__(self, tasks: anyio.abc.TaskGroup, subscription: Subscription[Any]) -> None:  # Any: as above
        self.ready = False
        self._subscription = subscription
        tasks.start_soon(self._run)

    async def _run(self) -> None:
        await self._subscription.__aenter__()
        self.ready = True


# ---------------------------------------------------------------- asking


async def test_what_is_wanted_together_is_asked_for_together_and_in_bounded_commands() -> None:
    transport = FakeTransport()
    async with Realtime(transport) as rt, rt.subscribe(*(ref(f"c{n}") for n in range(1200))):
        assert [len(wanted) for wanted, _ in transport.subscribes] == [512, 512, 176]
        assert sorted(name for wanted, _ in transport.subscribes for name in wanted) == sorted(f"c{n}" for n in range(1200))
        assert all(topics is None for wanted, _ in transport.subscribes for topics in wanted.values()), (
            "the whole channel: counters and positions hold for all of it"
        )
        generations = [generation for _, generation in transport.subscribes]
        assert generations == sorted(set(generations)), "each command has a generation of its own"


async def test_a_channel_that_is_there_is_not_asked_for_again() -> None:
    transport = FakeTransport()
    async with Realtime(transport) as rt, rt.subscribe(C) as one, rt.subscribe("c") as other, rt.subscribe(C, buffer=5) as third:
        assert len(transport.subscribes) == 1
        assert rt.stats().logs == 3
        transport.deliver("c", frame("c", "p.1", 7))
        for messages in (one, other, third):
            assert await take(messages, 1) == [7]


async def test_one_command_at_a_time() -> None:
    transport = FakeTransport()
    gate = anyio.Event()
    running = 0

    async def slow(wanted: Wanted, generation: int) -> Answer:
        nonlocal running
        running += 1
        assert running == 1
        await gate.wait()
        running -= 1
        return transport.confirm(wanted, generation)

    transport.confirms = [slow, slow]
    async with Realtime(transport) as rt, anyio.create_task_group() as tasks:
        ready: list[str] = []

        async def subscribe(channel: str) -> None:
            async with rt.subscribe(ref(channel)):
                ready.append(channel)

        tasks.start_soon(subscribe, "a")
        await until(lambda: transport.subscribes)
        tasks.start_soon(subscribe, "b")
        tasks.start_soon(subscribe, "c")
        await patience()
        assert len(transport.subscribes) == 1
        assert not ready
        gate.set()
        await until(lambda: len(ready) == 3)
        assert [sorted(wanted) for wanted, _ in transport.subscribes] == [["a"], ["b", "c"]]


# ---------------------------------------------------------------- answers


async def test_a_refused_channel_concerns_nobody_else() -> None:
    transport = FakeTransport()

    async def refuse_one(wanted: Wanted, generation: int) -> Answer:
        return {**transport.confirm({name: None for name in wanted if name != "secret"}, generation), "secret": DENIED}

    async with Realtime(transport) as rt, anyio.create_task_group() as tasks:
        errors: list[PermissionDenied] = []
        ready: list[str] = []

        async def subscribe(*channels: str) -> None:
            try:
                async with rt.subscribe(*map(ref, channels)):
                    ready.append(channels[0])
            except PermissionDenied as error:
                errors.append(error)

        gate = anyio.Event()

        async def hold(wanted: Wanted, generation: int) -> Answer:
            await gate.wait()
            return transport.confirm(wanted, generation)

        transport.confirms = [hold, refuse_one]
        tasks.start_soon(subscribe, "first")
        await until(lambda: transport.subscribes)
        for channels in (["secret"], ["a"], ["b", "secret"]):
            tasks.start_soon(subscribe, *channels)
        await until(lambda: len(hub_of(rt).wanted) == 3)
        gate.set()
        await until(lambda: len(ready) + len(errors) == 4)
        assert sorted(ready) == ["a", "first"]
        assert len({id(error) for error in errors}) == 2
        assert str(errors[0]) == "not yours"
        async with rt.subscribe(ref("secret")):
            assert phase(rt, "secret") is Phase.LIVE, "allowed meanwhile"


async def test_a_whole_command_that_is_refused_refuses_each_channel() -> None:
    transport = FakeTransport()

    async def refuse(wanted: Wanted, generation: int) -> Answer:
        raise DENIED

    async with Realtime(transport) as rt:
        transport.confirms = [refuse]
        with pytest.raises(PermissionDenied):
            await rt.subscribe(ref("a"), ref("b")).__aenter__()
        assert rt.stats()[2:5] == (0, 0, 0)


async def test_what_may_pass_is_asked_again_after_a_pause_and_the_others_are_live() -> None:
    transport, clock = FakeTransport(), ManualClock()

    async def busy(wanted: Wanted, generation: int) -> Answer:
        return {**transport.confirm({"a": None}, generation), "b": Unavailable("moving")}

    async def down(wanted: Wanted, generation: int) -> Answer:
        raise Unavailable("busy")

    async def forgetful(wanted: Wanted, generation: int) -> Answer:
        return {}

    transport.confirms = [busy, down, forgetful]
    async with Realtime(transport, clock=clock) as rt, anyio.create_task_group() as tasks:
        subscription = rt.subscribe(ref("a"), ref("b"))
        entering = Entering(tasks, subscription)
        for asked in (1, 2, 3):
            await until(lambda: clock.sleepers)
            assert len(transport.subscribes) == asked
            assert phase(rt, "a") is Phase.LIVE
            assert phase(rt, "b") is Phase.WANTED
            clock.advance(1)
            await until(lambda asked=asked: len(transport.subscribes) == asked + 1)  # type: ignore[misc]  # bound now
        await until(lambda: entering.ready)
        assert [sorted(wanted) for wanted, _ in transport.subscribes] == [["a", "b"], ["b"], ["b"], ["b"]]
        await subscription.__aexit__(None, None, None)


async def test_a_broker_that_does_not_answer_is_asked_again_and_the_caller_is_told_in_time() -> None:
    transport = FakeTransport()

    async def never(wanted: Wanted, generation: int) -> Answer:
        await anyio.sleep_forever()
        raise AssertionError

    transport.confirms = [never, never]
    async with Realtime(transport, connect_timeout=0.05, clock=HastyClock()) as rt:
        with pytest.raises(Timeout, match=r"not subscribed within 0.05 s: 'c'$"):
            await rt.subscribe(C).__aenter__()
        assert rt.stats().subscriptions == 0
        with anyio.fail_after(10):
            while True:
                try:
                    async with rt.subscribe(C):
                        break
                except Timeout:
                    continue
        assert len(transport.subscribes) >= 2


async def test_many_channels_that_are_not_ready_are_named_in_part() -> None:
    transport = FakeTransport()

    async def down(wanted: Wanted, generation: int) -> Answer:
        raise Unavailable("busy")

    transport.confirms = [down] * 1000
    async with Realtime(transport, connect_timeout=0.05, clock=ManualClock()) as rt:
        with pytest.raises(Timeout, match=r"not subscribed within 0.05 s: 'c0', 'c1', 'c2' and 7 more$"):
            await rt.subscribe(*(ref(f"c{n}") for n in range(10))).__aenter__()


async def test_an_unexpected_exception_ends_everything_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    transport = FakeTransport()

    async def broken(wanted: Wanted, generation: int) -> Answer:
        raise KeyError("oops")

    async with Realtime(transport) as rt, rt.subscribe(C) as messages:
        transport.confirms = [broken]
        with caplog.at_level(logging.CRITICAL, "fanwire"), pytest.raises(Internal, match="KeyError"):
            await rt.subscribe(ref("d")).__aenter__()
        with pytest.raises(Internal):
            await anext(messages)
        with pytest.raises(Internal):
            await rt.publish(C, 1)


async def test_an_answer_of_an_earlier_connection_counts_for_nothing() -> None:
    """The call was made on one connection and completes, against the contract, on the next."""
    transport = FakeTransport(COUNTED)
    gate = anyio.Event()

    async def late(wanted: Wanted, generation: int) -> Answer:
        transport.generations["c"] = generation
        await gate.wait()
        return {"c": Cursor("e", 3)}

    async with Realtime(transport, clock=HastyClock()) as rt, anyio.create_task_group() as tasks:
        transport.confirms = [late]
        messages = rt.subscribe(C).with_gaps()
        entering = Entering(tasks, messages)
        await until(lambda: transport.subscribes)
        transport.break_()
        await until(lambda: transport.runs == 2 and transport.sink is not None)
        assert transport.sink is not None
        transport.sink.deliver("c", 1, entry("c", 3).frame, Cursor("e", 3), None)
        transport.sink.subscribed("c", 1, Cursor("e", 2))
        transport.heads["c"] = Cursor("e", 5)
        gate.set()
        await until(lambda: entering.ready)
        assert len(transport.subscribes) == 2
        transport.push("c", entry("c", 6))
        assert await take(messages, 1) == [6]
        assert messages.stats().gaps == 0
        await messages.__aexit__(None, None, None)


async def test_frames_of_an_earlier_subscribe_are_dropped() -> None:
    transport = FakeTransport(COUNTED)
    async with Realtime(transport) as rt, rt.subscribe(C) as messages:
        assert transport.sink is not None
        old = transport.generations["c"]
        transport.sink.lost(["c"], GapReason.DISCONNECTED, None)
        await until(lambda: transport.generations["c"] != old)
        transport.sink.deliver("c", old, frame("c", "p.1", "old"), Cursor("e", 1), Cursor("e", 0))
        transport.deliver("c", frame("c", "p.1", "new"), Cursor("e", 1), Cursor("e", 0))
        transport.deliver("unknown", frame("unknown", "p.1"), None, None)
        transport.sink.deliver("unknown", 1, frame("unknown", "p.1"), None, None)
        transport.sink.lost(["unknown"], GapReason.DISCONNECTED, None)
        assert await take(messages, 1) == ["new"]


async def test_frames_that_come_before_the_answer_are_held_for_it() -> None:
    transport = FakeTransport()
    gate = anyio.Event()

    async def late(wanted: Wanted, generation: int) -> Answer:
        transport.generations.update(dict.fromkeys(wanted, generation))
        await gate.wait()
        return dict.fromkeys(wanted)

    async with Realtime(transport) as rt, anyio.create_task_group() as tasks:
        transport.confirms = [late]
        messages = rt.subscribe(C)
        entering = Entering(tasks, messages)
        await until(lambda: transport.generations)
        for n in (1, 2):
            transport.deliver("c", frame("c", f"p.{n}", n))
        assert messages.stats().lag == 0
        gate.set()
        await until(lambda: entering.ready)
        transport.deliver("c", frame("c", "p.3", 3))
        got = await take(messages, 1)
        while got[-1] != 3:
            got += await take(messages, 1)
        assert got in ([1, 2, 3], [2, 3], [3]), "those from before it was ready may be seen or not, but not turned around"
        await messages.__aexit__(None, None, None)


# ---------------------------------------------------------------- leaving


async def test_a_channel_lingers_and_is_there_at_once_for_who_comes_back() -> None:
    transport, clock = FakeTransport(), ManualClock()
    async with Realtime(transport, clock=clock, linger=2.0) as rt:
        async with rt.subscribe(C):
            pass
        assert phase(rt, "c") is Phase.LINGERING
        await until(lambda: clock.sleepers)
        clock.advance(1.9)
        await patience()
        transport.deliver("c", frame("c", "p.1", "for nobody"))
        async with rt.subscribe(C) as messages:
            transport.deliver("c", frame("c", "p.2", 2))
            assert await take(messages, 1) == [2]
            clock.advance(100)
            await patience()
            assert phase(rt, "c") is Phase.LIVE
        assert len(transport.subscribes) == 1
        assert not transport.unsubscribes
        while phase(rt, "c") is not Phase.GONE:
            await until(lambda: clock.sleepers)
            clock.advance(1.0)
            await patience(5)
        assert transport.unsubscribes == [["c"]]
        assert not hub_of(rt).channels


async def test_channels_left_one_by_one_are_unsubscribed_together() -> None:
    transport, clock = FakeTransport(), ManualClock()
    async with Realtime(transport, clock=clock, linger=4.0) as rt:
        for n in range(100):
            async with rt.subscribe(ref(f"c{n}")):
                pass
            clock.advance(0.02)
            await patience(2)
        for _ in range(40):
            clock.advance(0.25)
            await patience(5)
        assert not hub_of(rt).channels
        assert sum(map(len, transport.unsubscribes)) == 100
        assert len(transport.unsubscribes) <= 6, "each expiry alone would be a hundred commands"
        assert not transport.generations


async def test_without_lingering_it_leaves_at_once() -> None:
    transport = FakeTransport()
    async with Realtime(transport, linger=0.0) as rt:
        async with rt.subscribe(C):
            pass
        await until(lambda: not hub_of(rt).channels)
        assert transport.unsubscribes == [["c"]]


async def test_unsubscribing_is_sent_in_bounded_commands() -> None:
    transport = FakeTransport()
    async with Realtime(transport, linger=0.0) as rt:
        async with rt.subscribe(*(ref(f"c{n}") for n in range(1100))):
            pass
        await until(lambda: not hub_of(rt).channels)
        assert [len(names) for names in transport.unsubscribes] == [512, 512, 76]


async def test_who_comes_back_while_it_leaves_is_subscribed_anew() -> None:
    transport = FakeTransport(COUNTED)
    gate = anyio.Event()
    transport.on_unsubscribe = gate.wait
    async with Realtime(transport, linger=0.0) as rt, anyio.create_task_group() as tasks:
        async with rt.subscribe(C):
            transport.push("c", entry("c", 1))
        await until(lambda: transport.unsubscribes)
        assert phase(rt, "c") is Phase.LEAVING
        gone = rt.subscribe(C)
        cancelled = anyio.CancelScope()

        async def come_and_go() -> None:
            with cancelled:
                await gone.__aenter__()

        tasks.start_soon(come_and_go)
        messages = rt.subscribe(C).with_gaps()
        entering = Entering(tasks, messages)
        await patience()
        cancelled.cancel()
        await patience()
        assert len(transport.subscribes) == 1
        transport.heads["c"] = Cursor("e", 9)
        gate.set()
        await until(lambda: entering.ready)
        assert len(transport.subscribes) == 2
        transport.push("c", entry("c", 10))
        assert await take(messages, 1) == [10]
        assert messages.stats().gaps == 0, "what was published in between was not for it"
        await messages.__aexit__(None, None, None)


async def test_an_unsubscribe_that_fails_is_no_reason_to_stay() -> None:
    transport = FakeTransport()

    async def fail() -> None:
        raise Unavailable("busy")

    transport.on_unsubscribe = fail
    async with Realtime(transport, linger=0.0) as rt:
        async with rt.subscribe(C):
            pass
        await until(lambda: not hub_of(rt).channels)
        transport.on_unsubscribe = None
        async with rt.subscribe(C) as messages:
            transport.deliver("c", frame("c", "p.1", 1))
            assert await take(messages, 1) == [1]


async def test_a_connection_lost_while_lingering_or_leaving_forgets_the_channel() -> None:
    transport, clock = FakeTransport(), ManualClock()
    async with Realtime(transport, clock=clock, linger=5.0) as rt:
        async with rt.subscribe(C):
            pass
        transport.break_()
        await until(lambda: not hub_of(rt).channels)
        clock.advance(10)
        await until(lambda: transport.runs == 2)
        await patience()
        assert len(transport.subscribes) == 1, "nobody wants it any more"


@pytest.mark.parametrize("moment", ["wanted", "asked"])
async def test_a_subscriber_that_gives_up_leaves_nothing_behind(moment: str, anyio_backend: object) -> None:
    transport = FakeTransport()
    gate = anyio.Event()

    async def late(wanted: Wanted, generation: int) -> Answer:
        await gate.wait()
        return transport.confirm(wanted, generation)

    transport.confirms = [late]
    async with Realtime(transport, linger=0.0) as rt, anyio.create_task_group() as tasks:
        other = rt.subscribe(ref("other"))
        entering = None
        if moment == "wanted":
            entering = Entering(tasks, other)
            await until(lambda: transport.subscribes)
        with anyio.CancelScope() as scope:
            tasks.start_soon(cancel_at, scope, rt, moment)
            await rt.subscribe(C).__aenter__()
        assert scope.cancelled_caught
        gate.set()
        await until(lambda: phase(rt, "c") is Phase.GONE)
        assert "c" not in transport.generations
        assert (["c"] in transport.unsubscribes) is (moment == "asked")
        if entering is not None:
            await until(lambda: entering.ready)
            await other.__aexit__(None, None, None)


async def cancel_at(scope: anyio.CancelScope, rt: Realtime, moment: str) -> None:
    await until(lambda: phase(rt, "c").name.lower() == moment)
    scope.cancel()


async def test_a_thousand_channels_in_and_out_leave_nothing() -> None:
    transport = FakeTransport()
    async with Realtime(transport, linger=0.0) as rt:
        for _ in range(3):
            subscriptions = [rt.subscribe(ref(f"c{n}")) for n in range(1000)]
            async with anyio.create_task_group() as tasks:
                for subscription in subscriptions:
                    tasks.start_soon(subscription.__aenter__)
            for subscription in subscriptions:
                await subscription.__aexit__(None, None, None)
            await until(lambda: not hub_of(rt).channels)
        hub = hub_of(rt)
        assert not hub.logs
        assert not hub.lingering
        assert not hub.wanted
        assert not transport.generations
        assert len(transport.subscribes) + len(transport.unsubscribes) <= 60


# ---------------------------------------------------------------- continuity across all that


async def test_a_channel_that_lingered_tells_no_false_hole() -> None:
    """Publishers went on counting while nobody was there to count along."""
    transport, clock = FakeTransport(ORDERED), ManualClock()
    async with Realtime(transport, clock=clock, linger=5.0) as rt:
        async with rt.subscribe(C) as messages:
            transport.deliver("c", frame("c", "p.1", 1))
            assert await take(messages, 1) == [1]
        for n in range(2, 9):
            transport.deliver("c", frame("c", f"p.{n}", n))
        async with rt.subscribe(C).with_gaps() as items:
            transport.deliver("c", frame("c", "p.9", 9))
            transport.deliver("c", frame("c", "p.12", 12))
            assert await take(items, 3) == [9, Gap("c", GapReason.HOLE, 2), 12]


@pytest.mark.parametrize("channels", [["c"], None])
async def test_continuity_that_a_transport_says_has_ended_is_announced_once_per_channel(channels: list[str] | None, anyio_backend: object) -> None:
    transport = FakeTransport(ORDERED)
    async with Realtime(transport) as rt, rt.subscribe(C, ref("d")).with_gaps() as items:
        assert transport.sink is not None
        transport.deliver("c", frame("c", "p.1", 1))
        transport.sink.lost(channels, GapReason.DISCONNECTED, None)
        transport.sink.lost(channels, GapReason.DISCONNECTED, None)
        await until(lambda: phase(rt, "c") is phase(rt, "d") is Phase.LIVE)
        transport.deliver("c", frame("c", "p.9", 9))
        transport.deliver("d", frame("d", "p.1", 1))
        gaps: list[object] = [Gap(name, GapReason.DISCONNECTED, None) for name in channels or ["c", "d"]]
        got = await take(items, 3 + len(gaps))
        assert [item for item in got if not isinstance(item, Gap)] == [1, 9, 1]
        assert sorted(map(str, (item for item in got if isinstance(item, Gap)))) == sorted(map(str, gaps))
        assert transport.runs == 1


async def test_what_the_transport_says_was_lost_is_told() -> None:
    transport = FakeTransport(ORDERED)
    async with Realtime(transport) as rt, rt.subscribe(C).with_gaps() as items:
        assert transport.sink is not None
        transport.sink.lost(["c"], GapReason.TRIMMED, 7)
        await until(lambda: phase(rt, "c") is Phase.LIVE)
        assert await take(items, 1) == [Gap("c", GapReason.TRIMMED, 7)]


@pytest.mark.parametrize(
    ("before", "after", "gap"),
    [
        (Cursor("e", 5, "aaaaaaaa"), Cursor("e", 5, "aaaaaaaa"), None),
        (Cursor("e", 5, "aaaaaaaa"), Cursor("e", 8, "bbbbbbbb"), Gap("c", GapReason.DISCONNECTED, 3)),
        (Cursor("e", 5, "aaaaaaaa"), Cursor("e", 5, "bbbbbbbb"), Gap("c", GapReason.DISCONNECTED, None)),
        (Cursor("e", 5, "aaaaaaaa"), Cursor("f", 5, "aaaaaaaa"), Gap("c", GapReason.RESET, None)),
        (Cursor("e", 5), Cursor("e", 5), Gap("c", GapReason.DISCONNECTED, None)),
        (Cursor("e", 5, "aaaaaaaa"), None, Gap("c", GapReason.DISCONNECTED, None)),
        (None, Cursor("e", 5), Gap("c", GapReason.DISCONNECTED, None)),
        (None, None, Gap("c", GapReason.DISCONNECTED, None)),
    ],
)
async def test_a_reconnect_without_history(before: Cursor | None, after: Cursor | None, gap: Gap | None, anyio_backend: object) -> None:
    """The same message is still the newest: nothing was missed. Otherwise one gap, with the count where offsets have it."""
    transport = FakeTransport(COUNTED)
    transport.heads["c"] = before
    async with Realtime(transport, clock=HastyClock()) as rt, rt.subscribe(C).with_gaps() as items:
        transport.heads["c"] = after
        transport.break_()
        await until(lambda: len(transport.subscribes) == 2 and phase(rt, "c") is Phase.LIVE)
        assert items.take_now(10) == ([] if gap is None else [gap])


async def test_somebody_may_come_while_a_channel_that_nobody_wants_is_asked_for_again() -> None:
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, 3))
    gates = [anyio.Event(), anyio.Event()]
    async with Realtime(transport, clock=HastyClock()) as rt, anyio.create_task_group() as tasks:
        first = rt.subscribe(C)
        await first.__aenter__()

        async def held(wanted: Wanted, generation: int) -> Answer:
            await gates[0].wait()
            return transport.confirm(wanted, generation)

        transport.confirms = [held]
        transport.break_()
        await until(lambda: phase(rt, "c") is Phase.ASKED)
        await first.__aexit__(None, None, None)
        transport.store("c", entry("c", 4))
        gates[0].set()
        messages = rt.subscribe(C).with_gaps()
        entering = Entering(tasks, messages)
        await until(lambda: entering.ready)
        transport.store("c", entry("c", 5), live=True)
        assert (await take(messages, 1))[0] in {4, 5}
        assert messages.stats().gaps == 0
        await messages.__aexit__(None, None, None)


async def test_who_comes_while_a_channel_is_repaired_for_nobody_is_served() -> None:
    """The last subscriber leaves while history is being read, and another comes."""
    transport = FakeHistory()
    gate = anyio.Event()

    class Held(FakeHistory):
        async def history(self, channel: str, /, *, start: Any, limit: int) -> Any:  # Any: as the base has it
            await gate.wait()
            return await super().history(channel, start=start, limit=limit)

    transport = Held()
    transport.store("c", *entries("c", 1, 3))
    async with Realtime(transport, clock=HastyClock()) as rt, anyio.create_task_group() as tasks:
        async with rt.subscribe(C):
            transport.store("c", entry("c", 4))
            transport.break_()
            await until(lambda: phase(rt, "c") is Phase.REPAIRING)
        messages = rt.subscribe(C).with_gaps()
        entering = Entering(tasks, messages)
        await patience()
        gate.set()
        await until(lambda: entering.ready)
        transport.store("c", entry("c", 5), live=True)
        assert (await take(messages, 1))[-1] in {4, 5}
        await messages.__aexit__(None, None, None)


async def test_a_subscription_over_a_refused_channel_takes_nothing_more_and_costs_nothing() -> None:
    transport = FakeTransport(COUNTED)
    async with Realtime(transport, buffer_bytes_total=2000, clock=HastyClock()) as rt:
        both = rt.subscribe(C, ref("d"))
        await both.__aenter__()
        transport.push("c", entry("c", 1))

        async def refuse_d(wanted: Wanted, generation: int) -> Answer:
            return {**transport.confirm({name: None for name in wanted if name != "d"}, generation), "d": DENIED}

        transport.confirms = [refuse_d]
        transport.break_()
        await until(lambda: phase(rt, "d") is Phase.GONE and phase(rt, "c") is Phase.LIVE)
        for n in range(2, 700):
            transport.push("c", entry("c", n))  # raising here would be raising into the transport
        got: list[object] = []
        with pytest.raises(PermissionDenied):
            got.append((await anext(both)).data)
            got.append((await anext(both)).data)
        assert got == [1]
        async with rt.subscribe(C) as alone:
            transport.push("c", entry("c", 700))
            assert await take(alone, 1) == [700]
        await both.__aexit__(None, None, None)
        assert rt.stats().buffered_bytes == 0


async def test_histories_are_read_a_few_at_a_time() -> None:
    reading = most = 0
    gate = anyio.Event()

    class Counting(FakeHistory):
        async def history(self, channel: str, /, *, start: Any, limit: int) -> Any:  # Any: as the base has it
            nonlocal reading, most
            reading += 1
            most = max(most, reading)
            await gate.wait()
            reading -= 1
            return await super().history(channel, start=start, limit=limit)

    transport = Counting(LINKED)
    names = [f"c{n}" for n in range(60)]
    for name in names:
        transport.store(name, entry(name, 1))
    async with Realtime(transport, clock=HastyClock()) as rt, rt.subscribe(*map(ref, names)) as messages:
        for name in names:
            transport.store(name, entry(name, 2))
        transport.break_()
        await until(lambda: reading)
        await patience()
        assert most == 16
        gate.set()
        got = [await anext(messages) for _ in names]
        assert sorted(message.channel for message in got) == sorted(names)
        assert {message.data for message in got} == {2}
        assert rt.stats().gaps == 0


async def test_a_transport_whose_subscribe_is_lost_asks_on_the_next_connection() -> None:
    transport = FakeTransport()
    broken: list[bool] = []

    async def lose(wanted: Wanted, generation: int) -> Answer:
        transport.break_()
        broken.append(True)
        raise ConnectionLost("cable")

    transport.confirms = [lose]
    async with Realtime(transport, clock=HastyClock()) as rt, rt.subscribe(C) as messages:
        assert broken
        assert transport.runs == 2
        transport.deliver("c", frame("c", "p.1", 1))
        assert await take(messages, 1) == [1]
        assert rt.stats().gaps == 0, "it was not ready before: there is nothing to have missed"
