"""Rule 7, reconnect: automatic, unlimited, with backoff and jitter; a hole is repaired from history or announced once per channel; publishes of unknown outcome; states."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import anyio
import pytest

from fanwire import Gap, GapReason, Realtime, Receipt
from fanwire.errors import ConfigError, ConnectFailed, ConnectionLost, FanwireError, Internal, PermissionDenied, Timeout, Unauthenticated, Unavailable
from fanwire.events import ConnectionState
from fanwire.hub.connection import backoff
from fanwire.hub.hub import Hub
from fanwire.hub.states import Phase
from fanwire.transport import HistoryPage, Outbound
from fanwire_memory import MemoryOptions, MemoryTransport
from tests.clock import ManualClock
from tests.rules.support import (
    BEST_EFFORT,
    COUNTERS,
    LOG,
    QUIET,
    Room,
    Toy,
    ToyWithHistory,
    check_account,
    engine_of,
    frame_of,
    left_behind,
    pair,
    passing,
    settle,
    sever,
    take,
    told,
    until,
    upto,
)

pytestmark = pytest.mark.anyio

room = Room(number=1)
other = Room(number=2)


def _connected(rt: Realtime, times: int) -> bool:
    return rt.stats().connections == times


def _all_live(rt: Realtime) -> bool:
    return all(record.phase is Phase.LIVE for record in engine_of(rt).hub.channels.values())


# ---------------------------------------------------------------------- automatic, unlimited, exponential, with full jitter


async def test_the_bound_of_the_wait_grows_exponentially_up_to_ten_seconds() -> None:
    asked: list[tuple[float, float]] = []

    def highest(low: float, high: float) -> float:
        asked.append((low, high))
        return high

    bounds = [backoff(attempt, highest) for attempt in range(1, 200)]
    assert all(low == 0.0 for low, _ in asked)  # full jitter: anywhere from nothing up to the bound
    assert bounds[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert all(later == pytest.approx(2 * earlier) or later == 10.0 for earlier, later in pairwise(bounds))
    assert bounds[-1] == 10.0
    assert len({backoff(20) for _ in range(50)}) == 50


async def test_it_tries_for_as_long_as_it_takes() -> None:
    clock = ManualClock()
    toy = Toy()
    async with Realtime(toy, clock=clock) as rt, rt.subscribe(room.a).with_gaps() as messages:
        toy.refusals += [ConnectFailed(f"toy: nobody listens, attempt {number}") for number in range(100)]
        toy.disconnect()
        async with passing(clock, step=1.0):
            await until(lambda: rt.stats().connections == 2, "it is connected again")
        assert toy.attempts == 102
        waits = clock.slept[-101:]
        assert all(0.0 <= wait <= 10.0 for wait in waits)
        assert all(wait <= 0.05 * 2**failures for failures, wait in enumerate(waits[:8], 1))
        assert max(waits) > 5.0
        await until(lambda: room.name in toy.generations, "it is subscribed again")
        await rt.publish(room.a, 1)
        assert await upto(messages, 1) == [Gap(room.name, GapReason.DISCONNECTED, None), 1]


async def test_after_a_connection_that_lasted_the_wait_is_short_again() -> None:
    clock = ManualClock()
    toy = Toy()
    async with Realtime(toy, clock=clock) as rt, passing(clock):
        for connections in range(2, 8):
            toy.refusals += [ConnectFailed("toy: nobody listens")] * 10
            before = len(clock.slept)
            clock.advance(60.0)
            toy.disconnect()
            await until(partial(_connected, rt, connections), "it is connected again")
            waits = clock.slept[before:]
            assert len(waits) == 11
            assert all(wait <= 0.05 * 2**failures for failures, wait in enumerate(waits, 1))


async def test_a_broker_that_accepts_and_drops_is_not_hammered() -> None:
    clock = ManualClock()
    toy = Toy()
    async with Realtime(toy, clock=clock) as rt, passing(clock, step=0.05):
        begin = clock.monotonic()
        for connections in range(2, 30):
            toy.disconnect()
            await until(partial(_connected, rt, connections), "it is connected again")
        assert clock.monotonic() - begin > 10.0


async def test_an_attempt_that_hangs_ends_after_connect_timeout() -> None:
    toy = Toy()
    async with Realtime(toy, connect_timeout=0.05) as rt, rt.events() as events:
        toy.hang = True
        toy.disconnect()
        hung = (await take(events, 4))[-1]
        assert isinstance(hung.error, ConnectFailed)
        assert "no connection within 0.05 s" in str(hung.error)
        toy.hang = False
        await until(lambda: rt.stats().connections == 2, "it is connected again")


async def test_entering_keeps_trying_until_connect_timeout_and_says_why_it_failed() -> None:
    toy = Toy()
    toy.refusals += [ConnectFailed("toy: not yet"), ConnectFailed("toy: not yet")]
    async with Realtime(toy) as rt:
        assert toy.attempts == 3
        assert rt.stats().state is ConnectionState.CONNECTED
    toy = Toy()
    toy.refusals += [ConnectFailed("toy: never")] * 10_000
    with pytest.raises(ConnectFailed, match=r"no connection within 0.1 s: toy: never") as caught:
        async with Realtime(toy, connect_timeout=0.1):
            pytest.fail("there is no broker")
    assert isinstance(caught.value.__cause__, ConnectFailed)


# ---------------------------------------------------------------------- what is terminal


@pytest.mark.parametrize(
    "error", [Unauthenticated("toy: wrong password"), ConfigError("toy: no such vhost"), PermissionDenied("toy: banned")], ids=repr
)
async def test_refused_credentials_are_not_tried_again_at_the_start(error: FanwireError) -> None:
    toy = Toy()
    toy.refusals += [error]
    with pytest.raises(type(error), match=str(error)):
        async with Realtime(toy):
            pytest.fail("they are refused")
    await settle()
    assert toy.attempts == 1


async def test_credentials_refused_later_end_everything_with_that_error() -> None:
    clock = ManualClock()
    toy = Toy()
    async with Realtime(toy, clock=clock) as rt, rt.events() as events, rt.subscribe(room.a) as messages, rt.subscribe(other.a) as idle:
        await rt.publish(room.a, 1)
        await rt.publish(room.a, 2)
        toy.refusals += [ConnectFailed("toy: restarting"), Unauthenticated("toy: password changed"), ConnectFailed("toy: never asked")]
        async with passing(clock):
            toy.disconnect()
            await until(lambda: rt.stats().state is ConnectionState.FAILED, "it gives up")
            await settle(200)
            assert toy.attempts == 3
            clock.advance(1000.0)
            await settle(200)
            assert toy.attempts == 3
        # Behind what is queued, iterators end with the reason.
        assert told(await take(messages, 2)) == [1, 2]
        for _ in range(2):
            for subscription in (messages, idle):
                with pytest.raises(Unauthenticated, match="password changed"):
                    await anext(subscription)
        with pytest.raises(Unauthenticated, match="password changed"):
            await rt.publish(room.a, 3)
        with pytest.raises(Unauthenticated, match="password changed"):
            await rt.publish_many([room.a(3)])
        with pytest.raises(Unauthenticated, match="password changed"):
            async with rt.subscribe(room.a):
                pytest.fail("nothing can be subscribed")
        with anyio.fail_after(10):
            states = [(await anext(events)).state.value for _ in range(6)]
        assert states == ["connected", "disconnected", "connecting", "disconnected", "connecting", "failed"]
    await settle()


async def test_publishes_that_wait_when_credentials_are_refused_fail_with_that_error() -> None:
    toy = Toy()
    errors: list[FanwireError] = []
    async with Realtime(toy) as rt, anyio.create_task_group() as tasks:
        toy.refusals += [Unauthenticated("toy: password changed")]

        async def publish() -> None:
            try:
                await rt.publish(room.a, 1)
            except FanwireError as error:
                errors.append(error)

        toy.disconnect()
        await until(lambda: toy.sink is None, "it is cut off")
        for _ in range(3):
            tasks.start_soon(publish)
        await until(lambda: len(errors) == 3, "they are told")
    assert [type(error) for error in errors] == [Unauthenticated] * 3
    assert len({id(error) for error in errors}) == 3, "each caller gets an exception of its own"


async def test_a_defect_of_the_transport_is_terminal_and_named() -> None:
    toy = Toy()
    toy.refusals += [ZeroDivisionError("division by zero")]
    with pytest.raises(Internal, match="unexpected ZeroDivisionError in the transport"):
        async with Realtime(toy):
            pytest.fail("it cannot work")


# ---------------------------------------------------------------------- repaired from history: no gap


async def test_with_history_the_hole_is_repaired_and_no_gap_is_told() -> None:
    """Several channels, more than a page, several times."""
    here, there = pair(history=5000)
    rooms = [Room(number=number) for number in range(5)]
    dice = random.Random(3)
    async with Realtime(here) as rt, Realtime(there) as publisher:
        async with (
            rt.subscribe(*(channel.a for channel in rooms)).with_gaps() as everything,
            rt.subscribe(rooms[0]).with_gaps() as one,
            rt.subscribe(rooms[1].b).with_gaps() as idle,
        ):
            published = 0
            for connections, missed in enumerate((1, 700, 0, 30), 2):
                for number in range(5 + missed):
                    if number == 4:
                        sever(here)
                    await publisher.publish(rooms[published % 5].a, published)
                    published += 1
                    if dice.random() < 0.01:
                        await settle(3)
                await until(partial(_connected, rt, connections), "it is connected again")
                await until(lambda: _all_live(rt), "all are live again")
            # Each channel in its order; channels are repaired side by side.
            found = [item for item in told(await take(everything, published)) if isinstance(item, int)]
            for channel in range(5):
                assert [n for n in found if n % 5 == channel] == list(range(channel, published, 5))
            assert told(await take(one, len(range(0, published, 5)))) == list(range(0, published, 5))
            assert idle.stats() == (0, 0, 0, 0, 0)
        assert rt.stats().gaps == 0


async def test_a_repair_that_is_cut_off_goes_on_with_the_next_connection() -> None:
    clock = ManualClock()
    toy = ToyWithHistory()
    cuts = 4

    async def cut(page: HistoryPage) -> HistoryPage:
        nonlocal cuts
        if cuts:
            cuts -= 1
            toy.disconnect()
            raise ConnectionLost("toy: broken off")
        return page

    toy.on_history = cut
    async with Realtime(toy, clock=clock) as rt, rt.subscribe(room.a).with_gaps() as messages:
        await rt.publish(room.a, 1)
        toy.disconnect()
        await until(lambda: toy.sink is None, "it is cut off")
        for number in range(2, 600):
            toy.append(room.name, frame_of(room.a, number, f"p.{number}"), f"{number:08x}")
        async with passing(clock):
            await until(lambda: not cuts and rt.stats().connections > 3 and _all_live(rt), "it is repaired")
        await rt.publish(room.a, 600)
        assert await upto(messages, 600) == list(range(1, 601))
        assert rt.stats().gaps == 0


@pytest.mark.parametrize("error", [Unavailable("toy: the replica is loading"), ConnectionLost("toy: the reading connection broke")], ids=repr)
async def test_a_history_that_cannot_be_read_for_a_moment_is_read_again(error: FanwireError) -> None:
    """The connection that delivers still stands: nothing else would wake the repair."""
    clock = ManualClock()
    toy = ToyWithHistory()
    failures = 3

    async def failing(page: HistoryPage) -> HistoryPage:
        nonlocal failures
        if failures:
            failures -= 1
            raise error
        return page

    toy.on_history = failing
    async with passing(clock), Realtime(toy, clock=clock) as rt, rt.subscribe(room.a).with_gaps() as messages:
        await rt.publish(room.a, 1)
        toy.append(room.name, frame_of(room.a, 2, "p.2"), "00000002", deliver=False)
        await rt.publish(room.a, 3)
        with anyio.fail_after(5):
            assert await upto(messages, 3) == [1, 2, 3]


@pytest.mark.parametrize("error", [PermissionDenied("toy: not the past"), Timeout("toy: too slow")], ids=repr)
async def test_a_history_that_cannot_be_read_at_all_concerns_its_channel_only(error: FanwireError) -> None:
    """The loss is announced; nobody else notices."""
    clock = ManualClock()
    toy = ToyWithHistory()

    async def refused(page: HistoryPage) -> HistoryPage:
        raise error

    toy.on_history = refused
    async with (
        passing(clock),
        Realtime(toy, clock=clock) as rt,
        rt.subscribe(room.a).with_gaps() as messages,
        rt.subscribe(other.a).with_gaps() as neighbour,
    ):
        await rt.publish(room.a, 1)
        toy.append(room.name, frame_of(room.a, 2, "p.2"), "00000002", deliver=False)
        await rt.publish(room.a, 3)
        await rt.publish(other.a, 1)
        with anyio.fail_after(5):
            assert await upto(neighbour, 1) == [1]
            await until(lambda: _all_live(rt), "it is live again")
            await rt.publish(room.a, 4)
            first, gap, *rest = await upto(messages, 4)
        assert first == 1
        assert isinstance(gap, Gap)
        assert rest in ([3, 4], [4])


# ---------------------------------------------------------------------- without history: exactly one gap per channel


async def _one_gap_per_channel(breaks: int) -> None:
    """Break the connection so many times before all is subscribed again; messages may have been missed or not, nobody can know."""
    clock = ManualClock()
    toy = Toy()
    rooms = [Room(number=number) for number in range(4)]
    async with Realtime(toy, clock=clock) as rt, anyio.create_task_group() as tasks:
        async with (
            rt.subscribe(*(channel.a for channel in rooms)).with_gaps() as everything,
            rt.subscribe(rooms[0].a).with_gaps() as one,
            rt.subscribe(rooms[0].b, rooms[3].b).with_gaps() as topics,
        ):
            await rt.publish(rooms[0].a, 1)
            remaining = breaks

            async def break_again(_: object) -> None:
                nonlocal remaining
                if remaining:
                    remaining -= 1
                    sink, connections = toy.sink, toy.attempts
                    toy.disconnect()
                    await until(lambda: toy.sink is not sink or toy.attempts > connections, "it is cut off")

            toy.before_subscribe = break_again
            tasks.start_soon(_pass, clock)
            toy.disconnect()
            await until(lambda: rt.stats().connections == breaks + 2 and len(toy.generations) == 4, "all are subscribed again")
            await rt.publish(rooms[0].a, 2)
            await rt.publish(rooms[0].b, 3)
            found = await upto(everything, 2)
            gaps = [item for item in found if isinstance(item, Gap)]
            assert found[0] == 1
            assert sorted(str(gap.channel) for gap in gaps) == [channel.name for channel in rooms]
            assert {(gap.reason, gap.lost) for gap in gaps} == {(GapReason.DISCONNECTED, None)}
            assert await upto(one, 2) == [1, Gap(rooms[0].name, GapReason.DISCONNECTED, None), 2]
            assert sorted(str(item.channel) for item in await upto(topics, 3) if isinstance(item, Gap)) == [rooms[0].name, rooms[3].name]
        tasks.cancel_scope.cancel()


async def _pass(clock: ManualClock) -> None:
    async with passing(clock):
        await anyio.sleep_forever()


@pytest.mark.parametrize("breaks", [0, 1, 3])
async def test_without_history_exactly_one_gap_is_told_per_channel(breaks: int) -> None:
    await _one_gap_per_channel(breaks)


async def test_the_check_notices_a_loss_that_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hub, "_announce_loss", lambda *_: None)
    with pytest.raises(ExceptionGroup) as caught:
        await _one_gap_per_channel(0)
    assert caught.group_contains(AssertionError)


async def test_where_the_same_message_is_still_the_newest_nothing_was_missed() -> None:
    """Equal position and mark prove it, without any history."""
    here, there = pair(history=0)
    async with Realtime(here) as rt, Realtime(there) as publisher, rt.subscribe(room.a, other.a).with_gaps() as messages:
        await publisher.publish(room.a, 1)
        await publisher.publish(other.a, 2)
        sever(here)
        await publisher.publish(other.a, 3)
        await until(lambda: rt.stats().connections == 2 and _all_live(rt), "all are live again")
        await publisher.publish(room.a, 4)
        assert await upto(messages, 4) == [1, 2, Gap(other.name, GapReason.DISCONNECTED, 1), 4]


async def test_a_client_that_reconnects_by_itself_is_subscribed_again_and_announced_once() -> None:
    toy = Toy()
    async with Realtime(toy) as rt, rt.subscribe(room.a, other.a).with_gaps() as messages:
        toy.deliver(room.name, frame_of(room.a, 1, "p.1"))
        toy.lose(None, GapReason.DISCONNECTED, None)
        await until(lambda: len(toy.generations) == 2, "both are subscribed again")
        toy.deliver(room.name, frame_of(room.a, 5, "p.5"))
        found = await upto(messages, 5)
        assert found[0] == 1
        assert {item.channel for item in found if isinstance(item, Gap)} == {room.name, other.name}
        assert len(found) == 4
        assert rt.stats().connections == 1
        assert toy.subscribes == [(room.name, other.name), (room.name, other.name)]


async def test_frames_of_an_earlier_connection_are_dropped() -> None:
    toy = Toy()
    async with Realtime(toy) as rt, rt.subscribe(room.a).with_gaps() as messages:
        toy.deliver(room.name, frame_of(room.a, 1, "p.1"))
        old = toy.generations[room.name]
        toy.disconnect()
        await until(lambda: rt.stats().connections == 2 and room.name in toy.generations, "it is subscribed again")
        assert toy.sink is not None
        toy.sink.deliver(room.name, old, frame_of(room.a, 2, "p.2"), None, None)
        toy.deliver(room.name, frame_of(room.a, 3, "p.3"))
        assert await upto(messages, 3) == [1, Gap(room.name, GapReason.DISCONNECTED, None), 3]


async def test_a_channel_that_is_refused_after_a_reconnect_ends_its_subscription_only() -> None:
    transport = MemoryTransport()
    async with Realtime(transport, linger=0.0) as rt:
        async with rt.subscribe(room.a) as messages, rt.subscribe(other.a) as neighbour, rt.subscribe(room.a, other.a) as both:
            await rt.publish(room.a, 1)
            transport.faults.deny(room.name, PermissionDenied("not any more"))
            transport.faults.disconnect()
            await until(lambda: rt.stats().connections == 2 and _all_live(rt), "the other channel is live again")
            await rt.publish(other.a, 2)
            assert told(await take(neighbour, 1)) == [2]
            assert told(await take(messages, 1)) == [1]
            with pytest.raises(PermissionDenied, match="not any more"):
                await anext(messages)
            with pytest.raises(PermissionDenied):
                await take(both, 3)
        await until(lambda: left_behind(rt) == QUIET, "all have gone")


async def test_channels_that_linger_are_not_subscribed_again() -> None:
    toy = Toy()
    async with Realtime(toy, linger=60.0) as rt:
        async with rt.subscribe(room.a), rt.subscribe(other.a):
            pass
        async with rt.subscribe(other.a).with_gaps() as messages:
            toy.disconnect()
            await until(lambda: rt.stats().connections == 2 and bool(toy.generations), "it is subscribed again")
            assert set(toy.generations) == {other.name}
            await rt.publish(other.a, 1)
            assert (await upto(messages, 1))[-1] == 1


async def test_a_subscription_made_without_a_connection_waits_for_one() -> None:
    clock = ManualClock()
    toy = Toy()
    async with Realtime(toy, clock=clock) as rt, anyio.create_task_group() as tasks:
        toy.disconnect()
        await until(lambda: clock.sleepers == 1, "it waits before it connects again")

        async def subscriber() -> None:
            async with rt.subscribe(room.a).with_gaps() as messages:
                await rt.publish(room.a, 1)
                assert await upto(messages, 1) == [1]

        tasks.start_soon(subscriber)
        await settle()
        assert toy.subscribes == []
        clock.advance(1.0)


# ---------------------------------------------------------------------- publishes of unknown outcome


async def _published_once(rt: Realtime, transport: MemoryTransport | Toy, key: str | None) -> None:
    async with rt.subscribe(room).with_gaps() as messages:
        await rt.publish(room.a, 1)
        if isinstance(transport, MemoryTransport):
            transport.faults.lose_ack()
        else:
            accept = transport.accept

            async def no_answer(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
                transport.on_publish = accept
                await accept(batch)
                raise ConnectionLost("toy: no answer")

            transport.on_publish = no_answer
        receipt = await rt.publish(room.b, 2, key=key)
        await rt.publish(room.a, 3)
        assert await upto(messages, 3) == [1, 2, 3]
        assert receipt.topic == "b"
        assert rt.stats().gaps == 0


@pytest.mark.parametrize("key", [None, "once"])
async def test_a_lost_answer_is_retried_and_the_repeat_suppressed(key: str | None) -> None:
    """By the broker where it can, else by the receiving hubs: by counters, or by ids where there is no order."""
    for transport in (MemoryTransport(), Toy(COUNTERS), Toy(BEST_EFFORT), Toy(replace(COUNTERS, idempotent_publish=True))):
        async with Realtime(transport) as rt:
            await _published_once(rt, transport, key)
            if isinstance(transport, Toy):
                ids = [message.id for batch in transport.batches for message in batch if message.topic == "b"]
                assert len(ids) == 2
                assert len(set(ids)) == 1
                assert [message.retry for batch in transport.batches for message in batch if message.topic == "b"] == [False, True]


@pytest.mark.parametrize(
    "transport", [MemoryTransport("", MemoryOptions(history=0)), Toy(replace(LOG, idempotent_publish=False))], ids=["memory", "toy"]
)
async def test_a_lost_answer_is_told_where_a_repeat_would_be_seen(transport: MemoryTransport | Toy) -> None:
    async with Realtime(transport) as rt, rt.subscribe(room).with_gaps() as messages:
        await rt.publish(room.a, 1)
        if isinstance(transport, MemoryTransport):
            transport.faults.lose_ack()
        else:
            accept = transport.accept

            async def no_answer(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
                transport.on_publish = accept
                await accept(batch)
                raise ConnectionLost("toy: no answer")

            transport.on_publish = no_answer
        with pytest.raises(ConnectionLost, match="outcome of this publish is unknown") as caught:
            await rt.publish(room.a, 2)
        assert caught.value.retryable
        await rt.publish(room.a, 3)
        found = await upto(messages, 3)
        assert found == [1, 2, 3]
        assert rt.stats().gaps == 0


async def test_after_an_unknown_outcome_the_channel_goes_on_under_a_fresh_publisher() -> None:
    toy = Toy(replace(LOG, idempotent_publish=False))
    async with Realtime(toy) as rt:
        await rt.publish(room.a, 1)
        await rt.publish(other.a, 1)

        async def no_answer(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
            toy.on_publish = toy.accept
            raise ConnectionLost("toy: no answer")

        toy.on_publish = no_answer
        with pytest.raises(ConnectionLost):
            await rt.publish(room.a, 2)
        await rt.publish(room.a, 3)
        await rt.publish(other.a, 2)
        first, _, lost, fresh, neighbour = (message.id.partition(".") for batch in toy.batches for message in batch)
        assert first[0] == lost[0] == neighbour[0]
        assert fresh[0] != lost[0]
        assert (first[2], lost[2], fresh[2], neighbour[2]) == ("1", "2", "1", "2")


async def test_a_publish_without_a_connection_waits_for_one() -> None:
    clock = ManualClock()
    toy = Toy(COUNTERS)
    done: list[Receipt] = []
    async with Realtime(toy, clock=clock) as rt, anyio.create_task_group() as tasks:
        toy.disconnect()
        await until(lambda: clock.sleepers == 1, "it waits before it connects again")

        async def publish(number: int) -> None:
            done.append(await rt.publish(room.a, number))

        for number in range(10):
            tasks.start_soon(publish, number)
        await settle()
        assert toy.batches == []
        assert rt.stats().publishing == 10
        with pytest.raises(Timeout, match="without a connection to the broker: it was not sent"):
            await rt.publish(room.a, -1, timeout=0.01)
        clock.advance(1.0)
        await until(lambda: len(done) == 10, "all are sent")
        assert len(toy.batches) == 1
        assert b"-1" not in b"".join(message.data for message in toy.batches[0])


# ---------------------------------------------------------------------- what events show


async def test_events_show_the_connection_from_its_present_state_to_its_end() -> None:
    clock = ManualClock()
    toy = Toy()
    rt = Realtime(toy, clock=clock)
    async with rt, rt.events() as events, rt.events() as others:
        begin = clock.time()
        toy.refusals += [ConnectFailed("toy: nobody listens")]
        toy.disconnect()
        async with passing(clock):
            await until(lambda: rt.stats().connections == 2, "it is connected again")
        seen = await take(events, 6)
        assert [(event.state.value, event.attempt) for event in seen] == [
            ("connected", 0),
            ("disconnected", 0),
            ("connecting", 1),
            ("disconnected", 1),
            ("connecting", 2),
            ("connected", 0),
        ]
        assert [type(event.error) for event in seen] == [type(None), ConnectionLost, type(None), ConnectFailed, type(None), type(None)]
        assert [event.at for event in seen] == sorted(event.at for event in seen)
        assert begin <= seen[0].at <= seen[-1].at <= clock.time()
        await rt.aclose()
        assert [event.state for event in await take(events, 1)] == [ConnectionState.CLOSED]
        with pytest.raises(StopAsyncIteration):
            await anext(events)
        assert [event.state async for event in others] == [*(event.state for event in seen), ConnectionState.CLOSED]


async def test_a_listener_that_is_cancelled_misses_nothing_and_one_that_sleeps_misses_the_oldest() -> None:
    toy = Toy()
    async with Realtime(toy) as rt, rt.events() as events:
        await take(events, 1)
        with anyio.move_on_after(0.01):
            await anext(events)
        toy.disconnect()
        assert [event.state.value for event in await take(events, 3)] == ["disconnected", "connecting", "connected"]
        connection = engine_of(rt).connection
        for attempt in range(300):
            connection._attempt = attempt
            connection._tell(ConnectionState.CONNECTING, None)
        connection._attempt = 0
        assert [event.attempt for event in await take(events, 256)] == list(range(44, 300))
    assert connection.listeners == {}


async def test_stats_count_connections_and_show_the_state() -> None:
    toy = Toy()
    rt = Realtime(toy)
    assert rt.stats().state is ConnectionState.CLOSED
    async with rt:
        assert (rt.stats().state, rt.stats().connections) == (ConnectionState.CONNECTED, 1)
        toy.disconnect()
        await until(lambda: rt.stats().connections == 2, "it is connected again")
        assert rt.stats().state is ConnectionState.CONNECTED
    assert rt.stats().state is ConnectionState.CLOSED


# ---------------------------------------------------------------------- all of it, at random


async def test_breaking_all_the_time_loses_nothing_that_history_has(at_once: None) -> None:
    for seed in range(15):
        dice = random.Random(seed)
        here, there = pair()
        async with Realtime(here) as rt, Realtime(there) as publisher, rt.subscribe(room).with_gaps() as messages:
            for number in range(150):
                await publisher.publish(room.a, number)
                if dice.random() < 0.1 and here._link is not None and not here._link.broken:
                    sever(here)
                await settle(dice.randrange(6))
            found = await upto(messages, 149)
            assert check_account(found, 0, 149) == 0
            assert rt.stats().gaps == 0
            assert rt.stats().connections > 3
