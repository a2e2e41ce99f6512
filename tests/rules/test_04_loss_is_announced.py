"""Rule 4, loss is never silent: a slow subscriber, a broken connection, trimmed history, a hole are announced, at the exact position."""

from __future__ import annotations

import logging
import random
from typing import Literal

import anyio
import pytest

from fanwire import Gap, GapReason, Message, Realtime, Subscription
from fanwire.errors import MessagesLost
from fanwire.events import SubscriptionStats
from fanwire.hub.log import InterestLog
from fanwire.hub.states import Phase
from fanwire_memory import MemoryTransport
from tests.rules.support import (
    COUNTERS,
    Room,
    Toy,
    ToyWithHistory,
    check_account,
    engine_of,
    frame_of,
    pair,
    settle,
    sever,
    take,
    told,
    tumble,
    until,
    upto,
)

pytestmark = pytest.mark.anyio

room = Room(number=1)
other = Room(number=2)


def gap(reason: GapReason, lost: int | None, channel: str | None = room.name) -> Gap:
    return Gap(channel, reason, lost)


# ---------------------------------------------------------------------- a slow subscriber


async def _readers_of_all_speeds(seed: int) -> int:
    """Nine readers with buffers of 3, 7 and 16, three on each log, while a publisher goes on regardless; return how many gaps there were."""
    dice = random.Random(seed)
    last = 199
    accounts: list[list[int | Gap]] = []
    async with Realtime(MemoryTransport()) as rt, anyio.create_task_group() as tasks:

        async def reader(buffer: int, patience: int, ready: anyio.Event) -> None:
            account: list[int | Gap] = []
            accounts.append(account)
            async with rt.subscribe(room.a, buffer=buffer).with_gaps() as messages:
                ready.set()
                while not account or account[-1] != last:
                    account += told([await anext(messages)])
                    await tumble(dice, patience)

        for buffer, patience in ((3, 2), (7, 9), (16, 14)) * 3:
            ready = anyio.Event()
            tasks.start_soon(reader, buffer, patience, ready)
            with anyio.fail_after(10):
                await ready.wait()
        assert rt.stats().logs == 3
        for number in range(last + 1):
            await rt.publish(room.a, number)
            if dice.random() < 0.4:
                await settle(1)
        with anyio.fail_after(10):
            await until(lambda: all(account and account[-1] == last for account in accounts), "all have read the last")
    for account in accounts:
        check_account(account, 0, last)
    return sum(isinstance(item, Gap) for account in accounts for item in account)


async def test_a_slow_subscribers_gaps_are_at_the_exact_place_with_the_exact_count() -> None:
    gaps = sum([await _readers_of_all_speeds(seed) for seed in range(20)])
    assert gaps > 500


async def test_the_check_notices_a_count_that_is_one_too_low(monkeypatch: pytest.MonkeyPatch) -> None:
    lag_gap = InterestLog.lag_gap

    def off_by_one(log: InterestLog, position: int) -> tuple[Gap, int]:
        found, floor = lag_gap(log, position)
        return Gap(found.channel, found.reason, (found.lost or 0) - 1), floor

    monkeypatch.setattr(InterestLog, "lag_gap", off_by_one)
    with pytest.raises(AssertionError):
        await _readers_of_all_speeds(0)


async def test_a_gap_over_several_channels_names_none() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(room.a, other.a, buffer=4).with_gaps() as messages:
        for number in range(5):
            await rt.publish(room.a, number)
            await rt.publish(other.a, number)
        assert told(await take(messages, 5)) == [gap(GapReason.LAGGED, 6, None), 3, 3, 4, 4]


async def test_a_lag_gap_absorbs_the_gaps_that_were_given_up() -> None:
    """What the broker lost counts too, so that the account stays exact."""
    toy = Toy(COUNTERS)
    async with Realtime(toy) as rt, rt.subscribe(room.a, buffer=3).with_gaps() as messages:
        for number in (1, 2, 6, 7, 9, 10, 11, 12):
            toy.deliver(room.name, frame_of(room.a, number, f"p.{number}"))
        found = await upto(messages, 12)
        assert found == [gap(GapReason.LAGGED, 9), 10, 11, 12]
        check_account(found, 1, 12)
        toy.deliver(room.name, frame_of(room.a, 13, "p.13"))
        assert await upto(messages, 13) == [13]


async def test_a_lag_gap_that_absorbs_an_unknown_count_is_of_unknown_count() -> None:
    toy = Toy(COUNTERS)
    async with Realtime(toy) as rt, rt.subscribe(room.a, buffer=3).with_gaps() as messages:
        toy.deliver(room.name, frame_of(room.a, 1, "p.1"))
        toy.lose(None, GapReason.DISCONNECTED, None)
        await until(lambda: room.name in toy.generations, "it is subscribed again")
        for number in range(5, 10):
            toy.deliver(room.name, frame_of(room.a, number, f"p.{number}"))
        assert await upto(messages, 9) == [gap(GapReason.LAGGED, None), 7, 8, 9]


@pytest.mark.parametrize("on_gap", ["log", "yield"])
async def test_hundreds_of_gaps_behind_a_subscriber_that_does_not_read_are_all_accounted_for(on_gap: str) -> None:
    toy = Toy(COUNTERS)
    async with Realtime(toy) as rt:
        subscription = rt.subscribe(room.a)
        view: Subscription[Message[int]] | Subscription[Message[int] | Gap] = subscription.with_gaps() if on_gap == "yield" else subscription
        async with view as messages:
            for number in range(0, 800, 2):
                toy.deliver(room.name, frame_of(room.a, number, f"p.{number}"))
            items: list[Message[int] | Gap] = []
            with anyio.fail_after(10):
                async for item in messages:
                    items.append(item)
                    if isinstance(item, Message) and item.data == 798:
                        break
            if on_gap == "yield":
                check_account(told(items), 0, 798)
            else:
                assert all(isinstance(item, Message) for item in items), "a gap was handed out as if it were a message"
                assert [item.data for item in items if isinstance(item, Message)] == list(range(0, 800, 2))
            assert messages.stats().gaps == 399


# ---------------------------------------------------------------------- how it is announced


async def _lag(rt: Realtime) -> None:
    """Publish ten messages to a subscription whose buffer takes four."""
    for number in range(10):
        await rt.publish(room.a, number)


async def test_by_default_a_warning_says_what_was_lost_and_counters_count(caplog: pytest.LogCaptureFixture) -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(room.a, buffer=4) as messages:
        await _lag(rt)
        with caplog.at_level(logging.WARNING, "fanwire"):
            assert told(await take(messages, 4)) == [6, 7, 8, 9]
        assert [record.getMessage() for record in caplog.records] == ["6 messages lost on channel 'room:1' (lagged)"]
        assert caplog.records[0].levelno == logging.WARNING
        assert messages.stats() == SubscriptionStats(received=4, lost=6, gaps=1, lag=0, invalid=0)


async def test_raised_it_can_be_gone_on_behind() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(room.a, buffer=4, on_gap="raise") as messages:
        await _lag(rt)
        with pytest.raises(MessagesLost, match="6 messages lost") as caught:
            await anext(messages)
        assert caught.value.gap == gap(GapReason.LAGGED, 6)
        assert told(await take(messages, 4)) == [6, 7, 8, 9]
        assert messages.stats() == SubscriptionStats(received=4, lost=6, gaps=1, lag=0, invalid=0)


async def test_raised_out_of_a_loop_another_loop_goes_on_behind() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(room.a, buffer=4, on_gap="raise") as messages:
        account: list[int | Gap] = []
        for first in (0, 10, 20):
            for number in range(first, first + 10):
                await rt.publish(room.a, number)
            while account[-1:] != [first + 9]:
                try:
                    async for message in messages:
                        account.append(message.data)
                        if message.data == first + 9:
                            break
                except MessagesLost as error:
                    account.append(error.gap)
        assert account == [n for first in (0, 10, 20) for n in (gap(GapReason.LAGGED, 6), *range(first + 6, first + 10))]


@pytest.mark.parametrize("way", ["anext", "loop", "batches"])
@pytest.mark.parametrize("on_gap", ["log", "raise", "yield"])
async def test_who_waits_for_the_next_message_is_told_of_a_gap_first(
    on_gap: Literal["log", "raise", "yield"], way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An idle subscription, having read something, that is parked when messages get lost."""
    toy = Toy(COUNTERS)
    account: list[object] = []
    async with Realtime(toy) as rt, anyio.create_task_group() as tasks:

        async def reader(ready: anyio.Event) -> None:
            subscription = rt.subscribe(room.a) if on_gap == "yield" else rt.subscribe(room.a, on_gap=on_gap)
            async with subscription.with_gaps() if on_gap == "yield" else subscription as items:
                ready.set()
                batches = items.batches()
                while not account or account[-1] != 6:
                    try:
                        if way == "anext":
                            account.append(await anext(items))
                        elif way == "batches":
                            account.extend(await anext(batches))
                        else:
                            async for item in items:
                                account.append(item)
                                break
                    except MessagesLost as error:
                        account.append(error)
                    account[:] = [item.data if isinstance(item, Message) else item for item in account]

        ready = anyio.Event()
        tasks.start_soon(reader, ready)
        with anyio.fail_after(10):
            await ready.wait()
            for number in (1, 2, 5, 6):
                toy.deliver(room.name, frame_of(room.a, number, f"p.{number}"))
                await settle()
    told_of = [item for item in account if not isinstance(item, int)]
    assert [item for item in account if isinstance(item, int)] == [1, 2, 5, 6]
    expected = gap(GapReason.HOLE, 2)
    if on_gap == "log":
        assert told_of == []
        assert "2 messages lost on channel 'room:1' (hole)" in caplog.messages
    elif on_gap == "yield":
        assert told_of == [expected]
    else:
        (error,) = told_of
        assert isinstance(error, MessagesLost)
        assert error.gap == expected
    assert account.index(5) - account.index(2) == 1 + len(told_of)


async def test_raised_out_of_batches_it_comes_between_them() -> None:
    toy = Toy(COUNTERS)
    async with Realtime(toy) as rt, rt.subscribe(room.a, on_gap="raise") as messages:
        for number in (1, 2, 3, 6, 7):
            toy.deliver(room.name, frame_of(room.a, number, f"p.{number}"))
        batches = messages.batches(max_size=100)
        assert told(await anext(batches)) == [1, 2, 3]
        with pytest.raises(MessagesLost) as caught:
            await anext(batches)
        assert caught.value.gap == gap(GapReason.HOLE, 2)
        assert told(await anext(batches)) == [6, 7]


async def test_raised_while_a_batch_is_being_filled_it_comes_behind_that_batch() -> None:
    toy = Toy(COUNTERS)
    async with Realtime(toy) as rt, rt.subscribe(room.a, on_gap="raise") as messages, anyio.create_task_group() as tasks:
        batches = messages.batches(max_size=100, max_wait=5.0)

        async def later() -> None:
            await settle()
            for number in (1, 2, 5):
                toy.deliver(room.name, frame_of(room.a, number, f"p.{number}"))
                await settle()

        tasks.start_soon(later)
        assert told(await anext(batches)) == [1, 2]
        with pytest.raises(MessagesLost) as caught:
            await anext(batches)
        assert caught.value.gap == gap(GapReason.HOLE, 2)
        assert (await anext(messages)).data == 5


async def test_with_gaps_yields_them_in_batches_too() -> None:
    toy = Toy(COUNTERS)
    async with Realtime(toy) as rt, rt.subscribe(room.a).with_gaps() as messages:
        for number in (1, 2, 5, 6):
            toy.deliver(room.name, frame_of(room.a, number, f"p.{number}"))
        assert told(await anext(messages.batches())) == [1, 2, gap(GapReason.HOLE, 2), 5, 6]


async def test_each_subscription_is_told_in_its_own_way_and_others_are_not() -> None:
    toy = Toy(COUNTERS)
    async with (
        Realtime(toy) as rt,
        rt.subscribe(room.a) as logs,
        rt.subscribe(room.a, on_gap="raise") as raises,
        rt.subscribe(room.a).with_gaps() as yields,
        rt.subscribe(other.a, on_gap="raise") as elsewhere,
        rt.subscribe(other.a, room.b).with_gaps() as both,
    ):
        for number in (1, 4):
            toy.deliver(room.name, frame_of(room.a, number, f"p.{number}"))
        toy.deliver(other.name, frame_of(other.a, 1, "p.1"))
        assert told(await take(logs, 2)) == [1, 4]
        assert told(await take(raises, 1)) == [1]
        with pytest.raises(MessagesLost):
            await anext(raises)
        assert told(await take(raises, 1)) == [4]
        assert told(await take(yields, 3)) == [1, gap(GapReason.HOLE, 2), 4]
        assert told(await take(elsewhere, 1)) == [1]
        # A topic's subscriber is told what the channel lost: it may have been its own.
        assert told(await take(both, 2)) == [gap(GapReason.HOLE, 2), 1]
        assert [s.stats().lost for s in (logs, raises, yields, elsewhere, both)] == [2, 2, 2, 0, 2]
        assert rt.stats().gaps == 1


async def test_what_on_gap_may_be() -> None:
    rt = Realtime(MemoryTransport())
    with pytest.raises(ValueError, match="with_gaps"):
        rt.subscribe(room.a, on_gap="yield")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]  # on purpose


async def test_stats_count_what_was_handed_out_and_what_waits() -> None:
    toy = Toy(COUNTERS)
    async with Realtime(toy, on_invalid=lambda _: None) as rt, rt.subscribe(room.a) as messages:
        assert messages.stats() == SubscriptionStats(0, 0, 0, 0, 0)
        for number in (1, 2, 3, 4, 7):
            toy.deliver(room.name, frame_of(room.a, number, f"p.{number}"))
        toy.deliver(room.name, b'{"id":"p.8","topic":"a","kind":"data","channel":"room:1","created_at":"2024-05-01T12:00:00.000Z","data":"text"}')
        await take(messages, 2)
        assert messages.stats()[:3] == (2, 0, 0)
        await take(messages, 3)
        assert messages.stats() == SubscriptionStats(received=5, lost=2, gaps=1, lag=0, invalid=1)


# ---------------------------------------------------------------------- a broken connection, trimmed history, holes


async def test_a_broken_connection_without_history_is_announced_with_the_exact_count_where_offsets_count() -> None:
    here, there = pair(history=0)
    async with Realtime(here) as rt, Realtime(there) as publisher, rt.subscribe(room).with_gaps() as messages:
        for number in range(3):
            await publisher.publish(room.a, number)
        sever(here)
        for number in range(3, 8):
            await publisher.publish(room.b, number)
        await until(lambda: rt.stats().gaps == 1, "it is connected again")
        await publisher.publish(room.a, 8)
        assert await upto(messages, 8) == [0, 1, 2, gap(GapReason.DISCONNECTED, 5), 8]


async def test_history_that_was_trimmed_meanwhile_is_announced_with_the_exact_count() -> None:
    here, there = pair(history=10)
    async with Realtime(here) as rt, Realtime(there) as publisher, rt.subscribe(room).with_gaps() as messages:
        for number in range(3):
            await publisher.publish(room.a, number)
        sever(here)
        for number in range(3, 33):
            await publisher.publish(room.b, number)
        found = await upto(messages, 32)
        assert found == [0, 1, 2, gap(GapReason.TRIMMED, 20), *range(23, 33)]
        check_account(found, 0, 32)


async def test_history_that_was_lost_with_its_epoch_is_announced() -> None:
    here, there = pair()
    async with Realtime(here) as rt, Realtime(there) as publisher, rt.subscribe(room).with_gaps() as messages:
        await publisher.publish(room.a, 1)
        sever(here)
        there.faults.new_epoch(room.name)
        await publisher.publish(room.a, 2)
        await publisher.publish(room.a, 3)
        assert await upto(messages, 3) == [1, gap(GapReason.RESET, None), 2, 3]
        there.faults.new_epoch(room.name)
        await publisher.publish(room.a, 4)
        assert await upto(messages, 4) == [gap(GapReason.RESET, None), 4]


@pytest.mark.parametrize("seen", [True, False])
async def test_an_epoch_that_changes_during_a_repair_neither_repeats_nor_reorders(seen: bool) -> None:
    """A frame of the old epoch is held when history has the new one only."""
    toy = ToyWithHistory()
    read = anyio.Event()

    async def wait(_: object) -> None:
        await read.wait()

    async with Realtime(toy) as rt, rt.subscribe(room).with_gaps() as messages:
        await rt.publish(room.a, 1)
        toy.before_history = wait
        toy.append(room.name, frame_of(room.a, 2, "p.2"), "00000002", deliver=False)
        toy.append(room.name, frame_of(room.a, 3, "p.3"), "00000003")
        await until(lambda: bool(toy.reads), "history is read")
        toy.new_epoch(room.name, "e2")
        toy.append(room.name, frame_of(room.a, 4, "p.4"), "00000004", deliver=seen)
        read.set()
        await until(lambda: engine_of(rt).hub.channels[room.name].phase is Phase.LIVE, "it is repaired")
        toy.append(room.name, frame_of(room.a, 5, "p.5"), "00000005")
        found = await upto(messages, 5)
        numbers = [item for item in found if isinstance(item, int)]
        assert numbers in ([1, 4, 5], [1, 3, 4, 5])
        assert gap(GapReason.RESET, None) in found[1 : found.index(4)]


async def test_a_message_lost_on_the_way_is_fetched_from_history_without_a_gap() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt, rt.subscribe(room).with_gaps() as messages:
        transport.faults.drop(3, skip=2)
        for number in range(8):
            await rt.publish(room.a, number)
        assert await upto(messages, 7) == list(range(8))
        assert rt.stats().gaps == 0


async def test_a_message_lost_for_good_is_announced_at_its_place() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt, rt.subscribe(room).with_gaps() as messages:
        transport.faults.drop(3, skip=2, stored=False)
        for number in range(8):
            await rt.publish(room.a, number)
        assert await upto(messages, 7) == [0, 1, gap(GapReason.HOLE, 3), 5, 6, 7]


async def test_the_newest_message_lost_for_good_is_announced_when_the_connection_is_back() -> None:
    """The head is known to be ahead of the last entry that history has: it must not be waited for."""
    toy = ToyWithHistory()
    async with Realtime(toy) as rt, rt.subscribe(room).with_gaps() as messages:
        await rt.publish(room.a, 1)
        toy.append(room.name, frame_of(room.a, 2, "p.2"), "00000002", deliver=False)
        toy.streams[room.name].pop()
        toy.disconnect()
        with anyio.fail_after(3):
            await until(lambda: rt.stats().connections == 2, "it is connected again")
            first, second = told(await take(messages, 2))
            assert first == 1
            assert isinstance(second, Gap)
            assert second.lost in {1, None}
            await rt.publish(room.a, 3)
            assert await upto(messages, 3) == [3]
        assert len(toy.reads) < 10


async def test_a_repeated_message_is_shown_once() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt, rt.subscribe(room).with_gaps() as messages:
        transport.faults.duplicate(5)
        for number in range(8):
            await rt.publish(room.a, number)
        assert await upto(messages, 7) == list(range(8))
        assert rt.stats().duplicates == 5


async def test_what_the_driver_says_was_lost_is_announced_at_its_place() -> None:
    toy = Toy(COUNTERS)
    async with Realtime(toy) as rt, rt.subscribe(room.a, other.a).with_gaps() as messages:
        toy.deliver(room.name, frame_of(room.a, 1, "p.1"))
        toy.lose([room.name], GapReason.HOLE, 4)
        toy.deliver(other.name, frame_of(other.a, 100, "p.100"))
        await until(lambda: room.name in toy.generations, "it is subscribed again")
        toy.deliver(room.name, frame_of(room.a, 6, "p.6"))
        assert await upto(messages, 6) == [1, 100, gap(GapReason.HOLE, 4), 6]
