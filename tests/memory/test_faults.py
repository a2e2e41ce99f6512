"""Scripted faults: each method does what it says, to those messages it says, and nothing to the rest."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from fanwire import Channel, Cursor, Gap, GapReason, Message, Realtime, Start, Subscription, topic
from fanwire.errors import ConnectionLost, CursorExpired, FanwireError, PartialPublish, PayloadTooLarge, PermissionDenied, Timeout
from fanwire.events import ConnectionState
from fanwire_memory import Faults, MemoryBroker, MemoryOptions, MemoryTransport
from tests.clock import ManualClock
from tests.rules.support import settle, until

pytestmark = pytest.mark.anyio


class Room(Channel, name="room:{number}"):
    number: int
    a = topic(int)


room, other = Room(number=1), Room(number=2)

KEEP_NONE = MemoryOptions(history=0)


async def take(items: Subscription[Message[int] | Gap], number: int) -> list[int | Gap]:
    with anyio.fail_after(10):
        found = [await anext(items) for _ in range(number)]
    return [item if isinstance(item, Gap) else item.data for item in found]


async def kept(rt: Realtime, of: Room = room) -> list[int]:
    return [message.data for message in await rt.history(of.a)]


def data(messages: Sequence[Message[Any]]) -> list[object]:
    return [message.data for message in messages]


# ---------------------------------------------------------------------- drop


async def test_drop_keeps_a_message_from_everybody_and_history_repairs_it() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt, rt.subscribe(room.a).with_gaps() as first, rt.subscribe(room).with_gaps() as second:
        transport.faults.drop()
        receipt = await rt.publish(room.a, 1)
        assert receipt.cursor is not None
        assert await kept(rt) == [1]
        await settle()
        assert first.stats().lag == second.stats().lag == 0
        await rt.publish(room.a, 2)
        assert await take(first, 2) == await take(second, 2) == [1, 2]
        assert rt.stats().gaps == 0


async def test_drop_for_good_is_announced() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt, rt.subscribe(room.a).with_gaps() as messages:
        transport.faults.drop(2, stored=False)
        for number in range(4):
            await rt.publish(room.a, number)
        assert await kept(rt) == [2, 3]
        first, *rest = await take(messages, 3)
        assert first == Gap(room.name, GapReason.TRIMMED, 2)
        assert rest == [2, 3]


async def test_drop_without_history_is_a_hole() -> None:
    transport = MemoryTransport("", KEEP_NONE)
    async with Realtime(transport) as rt, rt.subscribe(room.a).with_gaps() as messages:
        transport.faults.drop(skip=1)
        for number in range(3):
            await rt.publish(room.a, number)
        assert await take(messages, 3) == [0, Gap(room.name, GapReason.HOLE, 1), 2]


async def test_skip_and_count_and_channel_choose_the_messages() -> None:
    transport = MemoryTransport("", KEEP_NONE)
    async with Realtime(transport) as rt, rt.subscribe(room.a).with_gaps() as messages, rt.subscribe(other.a).with_gaps() as others:
        transport.faults.drop(2, skip=2, channel=room.name)
        for number in range(6):
            await rt.publish(other.a, number)
            await rt.publish(room.a, number)
        assert await take(messages, 5) == [0, 1, Gap(room.name, GapReason.HOLE, 2), 4, 5]
        assert await take(others, 6) == list(range(6))
        assert not transport.faults.scripts


async def test_faults_wait_for_their_messages_in_the_order_they_were_scripted() -> None:
    transport = MemoryTransport("", KEEP_NONE)
    async with Realtime(transport) as rt, rt.subscribe(room.a).with_gaps() as messages:
        transport.faults.drop()
        transport.faults.refuse(PermissionDenied("not today"))
        await rt.publish(room.a, 0)
        with pytest.raises(PermissionDenied):
            await rt.publish(room.a, 1)
        await rt.publish(room.a, 2)
        assert await take(messages, 2) == [Gap(room.name, GapReason.HOLE, 1), 2]


@pytest.mark.parametrize(("count", "skip"), [(0, 0), (-1, 0), (1, -1)])
async def test_a_script_for_no_message_is_refused(count: int, skip: int) -> None:
    faults = MemoryTransport().faults
    for script in (faults.drop, faults.duplicate, faults.lose_ack):
        with pytest.raises(ValueError, match="count must be at least 1 and skip at least 0"):
            script(count, skip=skip)
    with pytest.raises(ValueError, match="count must be at least 1"):
        faults.refuse(PermissionDenied("x"), count, skip=skip)
    assert not faults.scripts


# ---------------------------------------------------------------------- duplicate


async def test_duplicate_delivers_twice_and_the_hub_drops_the_repeat() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt, rt.subscribe(room.a).with_gaps() as messages:
        transport.faults.duplicate(2)
        for number in range(3):
            await rt.publish(room.a, number)
        assert await take(messages, 3) == [0, 1, 2]
        stats = rt.stats()
        assert (stats.received, stats.duplicates, stats.gaps) == (5, 2, 0)
        assert await kept(rt) == [0, 1, 2]


# ---------------------------------------------------------------------- refuse


async def test_refuse_fails_the_publish_and_the_message_is_absent() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt, rt.subscribe(room.a).with_gaps() as messages:
        transport.faults.refuse(PermissionDenied("not today"), 2, skip=1)
        await rt.publish(room.a, 0)
        for number in (1, 2):
            with pytest.raises(PermissionDenied, match="not today"):
                await rt.publish(room.a, number)
        await rt.publish(room.a, 3)
        assert await take(messages, 2) == [0, 3]
        assert await kept(rt) == [0, 3]
        assert rt.stats().gaps == 0


async def test_behind_a_refused_message_the_rest_of_its_channel_is_not_sent() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt, rt.subscribe(room.a).with_gaps() as messages:
        transport.faults.refuse(PayloadTooLarge("room:1", "a", 10, 5), skip=1, channel=room.name)
        with pytest.raises(PartialPublish) as caught:
            await rt.publish_many([room.a(0), other.a(0), room.a(1), room.a(2), other.a(1)])
        results = caught.value.results
        assert [isinstance(result, FanwireError) for result in results] == [False, False, True, True, False]
        assert isinstance(results[2], PayloadTooLarge)
        await rt.publish(room.a, 3)
        assert await take(messages, 2) == [0, 3]
        assert await kept(rt, other) == [0, 1]


# ---------------------------------------------------------------------- lose_ack


async def test_lose_ack_is_retried_by_the_same_id_and_seen_once() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt, rt.subscribe(room.a).with_gaps() as messages:
        transport.faults.lose_ack(2)
        receipt = await rt.publish(room.a, 0)
        assert not receipt.duplicate
        await rt.publish(room.a, 1)
        assert await take(messages, 2) == [0, 1]
        assert await kept(rt) == [0, 1]
        assert not transport.faults.scripts


async def test_lose_ack_without_suppression_leaves_the_outcome_unknown() -> None:
    transport = MemoryTransport("", KEEP_NONE)
    async with Realtime(transport) as rt, rt.subscribe(room.a).with_gaps() as messages:
        transport.faults.lose_ack()
        with pytest.raises(ConnectionLost, match="the outcome of this publish is unknown"):
            await rt.publish(room.a, 0)
        await rt.publish(room.a, 1)
        assert await take(messages, 2) == [0, 1]


# ---------------------------------------------------------------------- disconnect


async def test_disconnect_breaks_every_connection_and_they_come_back() -> None:
    transport = MemoryTransport("faults-disconnect")
    async with (
        Realtime(transport) as rt,
        Realtime(MemoryTransport("faults-disconnect")) as second,
        rt.subscribe(room.a).with_gaps() as messages,
        second.subscribe(room.a).with_gaps() as others,
    ):
        transport.faults.disconnect()
        for number in range(3):
            await rt.publish(room.a, number)
        assert await take(messages, 3) == await take(others, 3) == [0, 1, 2]
        assert (rt.stats().connections, second.stats().connections) == (2, 2)
        assert (rt.stats().gaps, second.stats().gaps) == (0, 0)


async def test_disconnect_without_history_is_announced_once() -> None:
    transport = MemoryTransport("", KEEP_NONE)
    async with Realtime(transport) as rt, rt.subscribe(room.a).with_gaps() as messages:
        transport.faults.disconnect()
        await until(lambda: rt.stats().connections == 2 and bool(transport.native(MemoryBroker)._subscribers), "it is subscribed again")
        await rt.publish(room.a, 1)
        first, second = await take(messages, 2)
        assert isinstance(first, Gap)
        assert first.reason is GapReason.DISCONNECTED
        assert second == 1


async def test_disconnect_refuses_the_next_attempts() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt, rt.events() as events:
        transport.faults.disconnect(refuse=2)
        states: list[ConnectionState] = []
        with anyio.fail_after(20):
            async for event in events:
                states.append(event.state)
                if len(states) > 1 and event.state is ConnectionState.CONNECTED:
                    break
        connecting, down = ConnectionState.CONNECTING, ConnectionState.DISCONNECTED
        assert states == [ConnectionState.CONNECTED, down, connecting, down, connecting, down, connecting, ConnectionState.CONNECTED]
        assert await rt.publish(room.a, 1)


# ---------------------------------------------------------------------- deny


async def test_deny_refuses_a_channel_and_allows_it_again() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt, rt.subscribe(other.a).with_gaps() as others:
        transport.faults.deny(room.name, PermissionDenied("members only"))
        with pytest.raises(PermissionDenied, match="members only"):
            async with rt.subscribe(room.a):
                pytest.fail("it was subscribed")
        with pytest.raises(PermissionDenied):
            async with rt.subscribe(room.a, other.a):
                pytest.fail("it was subscribed")
        await rt.publish(other.a, 1)
        assert await take(others, 1) == [1]
        transport.faults.deny(room.name, None)
        async with rt.subscribe(room.a).with_gaps() as messages:
            await rt.publish(room.a, 2)
            assert await take(messages, 1) == [2]
        transport.faults.deny(room.name, None)


# ---------------------------------------------------------------------- stall, delay, block


async def test_stall_holds_back_what_is_accepted_until_resume() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt, rt.subscribe(room.a).with_gaps() as messages:
        transport.faults.stall()
        for number in range(3):
            await rt.publish(room.a, number)
        await settle()
        assert messages.stats().lag == 0
        assert await kept(rt) == [0, 1, 2]
        transport.faults.resume()
        assert await take(messages, 3) == [0, 1, 2]
        await rt.publish(room.a, 3)
        assert messages.stats().lag == 1
        assert await take(messages, 1) == [3]


async def test_stall_holds_back_connections_made_meanwhile() -> None:
    transport = MemoryTransport("faults-stall")
    async with Realtime(transport) as rt:
        transport.faults.stall()
        async with Realtime(MemoryTransport("faults-stall"), connect_timeout=5.0) as late, anyio.create_task_group() as tasks:
            found: list[int | Gap] = []

            async def follow() -> None:
                async with late.subscribe(room.a, start=Start.EARLIEST).with_gaps() as messages:
                    found.extend(await take(messages, 1))

            tasks.start_soon(follow)
            await rt.publish(room.a, 1)
            await settle()
            transport.faults.resume()
            await until(lambda: found == [1], "the late one has it")


async def test_delay_ends_by_itself_by_the_brokers_clock() -> None:
    clock = ManualClock()
    transport = MemoryTransport(clock=clock)
    async with Realtime(transport) as rt, rt.subscribe(room.a).with_gaps() as messages:
        transport.faults.delay(5.0)
        await rt.publish(room.a, 1)
        await until(lambda: clock.sleepers == 1, "the delay is waited for")
        clock.advance(4.9)
        await settle()
        assert messages.stats().lag == 0
        clock.advance(0.2)
        assert await take(messages, 1) == [1]
        await rt.publish(room.a, 2)
        assert await take(messages, 1) == [2]


async def test_a_delay_that_has_ended_does_not_hold_back_later_connections() -> None:
    clock = ManualClock()
    transport = MemoryTransport(clock=clock)
    async with Realtime(transport) as rt, rt.subscribe(room.a).with_gaps() as messages:
        transport.faults.delay(5.0)
        await until(lambda: clock.sleepers == 1, "the delay is waited for")
        clock.advance(5.0)
        await until(lambda: clock.sleepers == 0, "the delay is over")
        transport.faults.disconnect()
        await until(lambda: rt.stats().connections == 2 and bool(transport.native(MemoryBroker)._subscribers), "it is subscribed again")
        await settle()  # so that it is delivered live, not found in history on the way back
        await rt.publish(room.a, 1)
        await settle()
        assert messages.stats().lag == 1
        assert await take(messages, 1) == [1]


async def test_a_delay_that_was_resumed_does_not_end_a_later_stall() -> None:
    clock = ManualClock()
    transport = MemoryTransport(clock=clock)
    async with Realtime(transport) as rt, rt.subscribe(room.a).with_gaps() as messages:
        transport.faults.delay(5.0)
        await until(lambda: clock.sleepers == 1, "the delay is waited for")
        transport.faults.resume()
        transport.faults.stall()
        await rt.publish(room.a, 1)
        clock.advance(5.0)
        await settle()
        assert messages.stats().lag == 0
        transport.faults.resume()
        assert await take(messages, 1) == [1]


async def test_a_connection_that_breaks_during_a_delay_is_made_anew_at_once() -> None:
    clock = ManualClock()
    transport = MemoryTransport(clock=clock)
    async with Realtime(transport) as rt:
        transport.faults.delay(60.0)
        await until(lambda: clock.sleepers == 1, "the delay is waited for")
        transport.faults.disconnect()
        await until(lambda: rt.stats().connections == 2, "it is connected again", seconds=3.0)


async def test_block_answers_nothing_until_resume() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt, rt.subscribe(room.a).with_gaps() as messages:
        transport.faults.block()
        with pytest.raises(Timeout, match="outcome is unknown"):
            await rt.publish(room.a, 0, timeout=0.01)
        done: list[int] = []

        async def publish() -> None:
            await rt.publish(room.a, 1)
            done.append(1)

        async def subscribe() -> None:
            async with rt.subscribe(other.a):
                done.append(2)

        async def ping() -> None:
            await rt.ping()
            done.append(3)

        async with anyio.create_task_group() as tasks:
            for blocked in (publish, subscribe, ping):
                tasks.start_soon(blocked)
            await settle()
            assert not done
            transport.faults.resume()
        assert sorted(done) == [1, 2, 3]
        # The first was handed over before its caller gave up: its outcome was unknown, and is that it was accepted.
        assert await take(messages, 2) == [0, 1]


async def test_a_connection_that_breaks_while_blocked_is_told() -> None:
    transport = MemoryTransport("", KEEP_NONE)
    async with Realtime(transport) as rt:
        transport.faults.block()
        async with anyio.create_task_group() as tasks:

            async def publish() -> None:
                with pytest.raises(ConnectionLost):
                    await rt.publish(room.a, 0)

            tasks.start_soon(publish)
            await until(lambda: rt.stats().publishing == 1, "it is under way")
            await settle()
            transport.faults.disconnect()
        transport.faults.resume()
        assert (await rt.publish(room.a, 1)).channel == room.name


# ---------------------------------------------------------------------- trim, new_epoch, fork


async def test_trim_discards_history_and_keeps_the_position() -> None:
    transport = MemoryTransport()
    broker = transport.native(MemoryBroker)
    async with Realtime(transport) as rt, rt.subscribe(room.a).with_gaps() as messages:
        receipts = [await rt.publish(room.a, number) for number in range(4)]
        transport.faults.trim(room.name, 1)
        assert await kept(rt) == [3]
        first, last = receipts[0].cursor, receipts[-1].cursor
        assert first is not None
        assert last is not None
        with pytest.raises(CursorExpired):
            await rt.history(room.a, start=Start.after(first))
        assert data(await rt.history(room.a, start=Start.after(last))) == []
        transport.faults.trim(room.name)
        assert await kept(rt) == []
        assert broker._bytes == 0
        receipt = await rt.publish(room.a, 4)
        assert receipt.cursor is not None
        assert (receipt.cursor.epoch, receipt.cursor.offset) == (last.epoch, 5)
        assert await take(messages, 5) == [0, 1, 2, 3, 4]


async def test_trim_makes_a_hole_that_history_cannot_repair() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt, rt.subscribe(room.a).with_gaps() as messages:
        transport.faults.drop(2, skip=1)
        for number in range(3):
            await rt.publish(room.a, number)
        transport.faults.trim(room.name)
        await rt.publish(room.a, 3)
        found = await take(messages, 3)
        assert found[0] == 0
        assert found[1] == Gap(room.name, GapReason.TRIMMED, 2)
        assert found[2] == 3


async def test_forget_begins_all_channels_anew() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt:
        before = [(await rt.publish(Room(number=number).a, 1)).cursor for number in range(3)]
        transport.faults.forget()
        assert [await rt.history(Room(number=number)) for number in range(3)] == [[], [], []]
        after = [(await rt.publish(Room(number=number).a, 2)).cursor for number in range(3)]
    for old, new in zip(before, after, strict=True):
        assert old is not None
        assert new is not None
        assert (new.epoch != old.epoch, new.offset) == (True, 1)


async def test_new_epoch_begins_anew() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt, rt.subscribe(room.a).with_gaps() as messages:
        before = (await rt.publish(room.a, 1)).cursor
        assert before is not None
        transport.faults.new_epoch(room.name)
        assert await kept(rt) == []
        after = (await rt.publish(room.a, 2)).cursor
        assert after is not None
        assert after.epoch != before.epoch
        assert after.offset == 1
        with pytest.raises(CursorExpired):
            await rt.history(room.a, start=Start.after(before))
        found = await take(messages, 3)
        assert (found[0], found[2]) == (1, 2)
        assert found[1] == Gap(room.name, GapReason.RESET, None)
        assert transport.native(MemoryBroker)._bytes > 0


async def test_fork_loses_the_newest_and_reuses_their_positions() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt:
        lost = [(await rt.publish(room.a, number)).cursor for number in range(4)][2:]
        transport.faults.fork(room.name, 2)
        assert await kept(rt) == [0, 1]
        again = [(await rt.publish(room.a, number)).cursor for number in (12, 13, 14)]
        assert [cursor and (cursor.epoch, cursor.offset) for cursor in again[:2]] == [cursor and (cursor.epoch, cursor.offset) for cursor in lost]
        assert [cursor and cursor.mark for cursor in again[:2]] != [cursor and cursor.mark for cursor in lost]
        assert isinstance(lost[0], Cursor)
        with pytest.raises(CursorExpired):
            await rt.history(room.a, start=Start.after(lost[0]))
        assert await kept(rt) == [0, 1, 12, 13, 14]


async def test_fork_cannot_lose_more_than_there_is() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt:
        await rt.publish(room.a, 1)
        transport.faults.fork(room.name, 50)
        assert await kept(rt) == []
        assert transport.native(MemoryBroker)._bytes == 0
        receipt = await rt.publish(room.a, 2)
        assert receipt.cursor is not None
        assert receipt.cursor.offset == 1


# ---------------------------------------------------------------------- all of them


def test_every_method_has_a_test_here() -> None:
    methods = {name for name, value in vars(Faults).items() if callable(value) and not name.startswith("_")}
    assert methods == {
        "block", "delay", "deny", "disconnect", "drop", "duplicate", "forget", "fork", "lose_ack", "new_epoch", "refuse", "resume", "stall", "take", "trim",
    }  # fmt: skip


async def test_a_default_subscription_logs_what_a_fault_has_lost(caplog: pytest.LogCaptureFixture) -> None:
    transport = MemoryTransport("", KEEP_NONE)
    with caplog.at_level(logging.WARNING, "fanwire.subscription"):
        async with Realtime(transport) as rt, rt.subscribe(room.a) as messages:
            transport.faults.drop()
            await rt.publish(room.a, 1)
            await rt.publish(room.a, 2)
            with anyio.fail_after(10):
                assert (await anext(messages)).data == 2
            assert messages.stats().lost == 1
    assert "1 message lost on channel 'room:1' (hole)" in caplog.text
