"""Rule 5, bounded: a buffer of messages and one of bytes per subscription; a subscriber never slows the publisher or its neighbours."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import anyio
import pytest
from anyio.lowlevel import checkpoint

from fanwire import Channel, Gap, GapReason, Realtime, Start, topic
from fanwire.errors import ConfigError, PermissionDenied
from fanwire.hub.history import PAGE
from fanwire.hub.log import CHUNK, InterestLog
from fanwire.hub.states import Phase
from fanwire_memory import MemoryOptions, MemoryTransport
from tests.rules.support import (
    Room,
    Toy,
    ToyWithHistory,
    check_account,
    engine_of,
    frame_of,
    log_of,
    settle,
    take,
    told,
    until,
    upto,
)

pytestmark = pytest.mark.anyio

room = Room(number=1)


class Desk(Channel, name="desk:{number}"):
    number: int
    paper = topic(str)


PAPER = "x" * 10_000


# ---------------------------------------------------------------------- the bounds


async def test_the_bounds_are_those_promised() -> None:
    parameters = inspect.signature(Realtime).parameters
    assert parameters["buffer"].default == 1024
    assert parameters["buffer_bytes"].default == 8 * 2**20
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(room) as plain, rt.subscribe(room, buffer=5, buffer_bytes=600) as own:
        assert (log_of(plain).interest.buffer, log_of(plain).interest.buffer_bytes) == (1024, 8 * 2**20)
        assert (log_of(own).interest.buffer, log_of(own).interest.buffer_bytes) == (5, 600)
    async with Realtime(MemoryTransport(), buffer=7, buffer_bytes=700) as rt, rt.subscribe(room) as plain:
        assert (log_of(plain).interest.buffer, log_of(plain).interest.buffer_bytes) == (7, 700)


@pytest.mark.parametrize("name", ["buffer", "buffer_bytes", "buffer_bytes_total"])
async def test_a_bound_below_one_is_refused(name: str) -> None:
    make: Callable[..., Realtime] = Realtime
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, got 0"):
        make(MemoryTransport(), **{name: 0})
    rt = Realtime(MemoryTransport())
    if name == "buffer":
        with pytest.raises(ValueError, match="at least 1"):
            rt.subscribe(room, buffer=0)
    if name == "buffer_bytes":
        with pytest.raises(ValueError, match="at least 1"):
            rt.subscribe(room, buffer_bytes=0)


@pytest.mark.parametrize("buffer", [1, 2, 255, 256, 257, 1024])
async def test_beyond_the_buffer_the_oldest_are_given_up_as_one_gap(buffer: int) -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(room, buffer=buffer).with_gaps() as messages:
        for number in range(buffer):
            await rt.publish(room.a, number)
        assert told(await take(messages, buffer)) == list(range(buffer))
        for number in range(3000):
            await rt.publish(room.a, number)
        assert told(await take(messages, buffer + 1)) == [Gap(room.name, GapReason.LAGGED, 3000 - buffer), *range(3000 - buffer, 3000)]
        assert messages.stats().lag == 0


async def test_a_subscription_that_is_never_read_holds_no_more_than_its_buffer() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(room) as messages:
        log = log_of(messages)
        for number in range(6000):
            await rt.publish(room.a, number)
            assert len(log.entries) <= 1024 + CHUNK
            assert log.end - log.first <= 1024


async def test_a_subscriber_that_stops_in_the_middle_of_a_burst_holds_no_more_than_its_buffer_and_what_it_took() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(room).with_gaps() as messages:
        for number in range(1024):
            await rt.publish(room.a, number)
        found = told(await take(messages, 1))
        for number in range(1024, 6000):
            await rt.publish(room.a, number)
        found += await upto(messages, 5999)
        missing = check_account(found, 0, 5999)
        assert 6000 - missing <= 1024 + CHUNK


# ---------------------------------------------------------------------- bytes


async def test_beyond_the_buffers_bytes_the_oldest_are_given_up() -> None:
    desk = Desk(number=1)
    limit = 64 * 1024
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(desk.paper, buffer_bytes=limit).with_gaps() as papers:
        log = log_of(papers)
        for number in range(100):
            await rt.publish(desk.paper, f"{number}:{PAPER}")
            assert sum(log.sizes[log.floor - log.base :]) <= limit
            assert len(log.entries) <= CHUNK
        first = await anext(papers)
        assert isinstance(first, Gap)
        assert first.reason is GapReason.LAGGED
        assert first.lost is not None
        assert 100 - first.lost == limit // 10_100
        rest = [item for item in await take(papers, 100 - first.lost) if not isinstance(item, Gap)]
        assert [int(item.data.partition(":")[0]) for item in rest] == list(range(first.lost, 100))


async def test_small_messages_count_too() -> None:
    """They are counted a chunk at a time, so that at most an eighth more is held."""
    limit = 100_000
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(room, buffer=100_000, buffer_bytes=limit).with_gaps() as messages:
        log = log_of(messages)
        for number in range(5000):
            await rt.publish(room.a, number)
            assert sum(log.sizes[log.floor - log.base :]) <= limit * 9 / 8
        found = await upto(messages, 4999)
        missing = check_account(found, 0, 4999)
        assert len([item for item in found if isinstance(item, Gap)]) == 1
        assert 0 < missing < 5000 - limit // 200


async def test_a_message_larger_than_the_whole_buffer_is_announced_as_lost() -> None:
    desk = Desk(number=1)
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(desk.paper, buffer_bytes=5000).with_gaps() as papers:
        await rt.publish(desk.paper, PAPER)
        await rt.publish(desk.paper, "small")
        first, second = await take(papers, 2)
        assert first == Gap(desk.name, GapReason.LAGGED, 1)
        assert not isinstance(second, Gap)
        assert second.data == "small"


async def test_all_subscriptions_together_are_bounded_too() -> None:
    limit = 300_000
    async with (
        Realtime(MemoryTransport(), buffer_bytes_total=limit) as rt,
        rt.subscribe(Desk(number=1).paper).with_gaps() as first,
        rt.subscribe(Desk(number=2).paper).with_gaps() as second,
        rt.subscribe(Desk(number=3).paper).with_gaps() as third,
    ):
        for step in range(100):
            for number in (1, 2, 3):
                await rt.publish(Desk(number=number).paper, f"{step}:{PAPER}")
                assert rt.stats().buffered_bytes <= limit
        for papers in (first, second, third):
            found: list[int | Gap] = []
            while not found or found[-1] != 99:
                item = await anext(papers)
                found.append(item if isinstance(item, Gap) else int(item.data.partition(":")[0]))
            missing = check_account(found, 0, 99)
            assert 100 - missing <= limit // 10_000


async def test_the_bound_for_all_holds_when_a_refused_subscription_still_fills_its_buffer() -> None:
    """It was refused one of its two channels, the other one goes on, and nobody has left it yet."""
    forbidden, allowed = Desk(number=1), Desk(number=2)
    transport = MemoryTransport()
    async with Realtime(transport, buffer_bytes_total=100_000) as rt, rt.subscribe(forbidden.paper, allowed.paper):
        transport.faults.deny(forbidden.name, PermissionDenied("not any more"))
        transport.faults.disconnect()
        await until(lambda: rt.stats().logs == 0, "it is refused")
        await until(lambda: [record.phase for record in engine_of(rt).hub.channels.values()] == [Phase.LIVE], "only the other channel is left")
        for number in range(50):
            await rt.publish(allowed.paper, f"{number}:{PAPER}")
            assert rt.stats().buffered_bytes <= 100_000 + 11_000


# ---------------------------------------------------------------------- what is read is freed


async def test_what_everybody_has_read_is_freed() -> None:
    """It is no history: when all wait for the next message, nothing of the past is held."""
    async with Realtime(MemoryTransport()) as rt, anyio.create_task_group() as tasks:
        async with rt.subscribe(room) as messages, rt.subscribe(room) as others:
            log = log_of(messages)
            assert log is log_of(others)
            for _ in range(5):
                for number in range(600):
                    await rt.publish(room.a, number)
                await take(messages, 600)
                await take(others, 300)
                assert len(log.entries) >= 300
                await take(others, 300)
            for subscription in (messages, others):
                tasks.start_soon(take, subscription, 1)
            await until(lambda: len(log.waiters) == 2, "both wait")
            await rt.publish(room.a, 0)
            assert len(log.entries) == 1
            assert rt.stats().buffered_bytes < 1000
            await settle()
        assert rt.stats().buffered_bytes == 0


async def test_a_subscription_that_leaves_frees_what_only_it_has_not_read() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(room) as reader:
        log = log_of(reader)
        async with rt.subscribe(room):
            for number in range(1000):
                await rt.publish(room.a, number)
            await take(reader, 1000)
            assert len(log.entries) == 1000
        for number in range(1000):
            await rt.publish(room.a, number)
            await take(reader, 1)
        assert len(log.entries) <= CHUNK


# ---------------------------------------------------------------------- nobody is slowed


async def _turns_of(publishes: int, rt: Realtime) -> int:
    """Count how many turns other tasks get while that much is published."""
    turns = found = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await checkpoint()
            turns += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        await settle(3)
        turns = 0
        for number in range(publishes):
            await rt.publish(room.a, number)
        found = turns
        tasks.cancel_scope.cancel()
    return found


async def test_a_publisher_is_not_slowed_by_who_does_not_read() -> None:
    async with Realtime(MemoryTransport()) as rt:
        alone = await _turns_of(6400, rt)
        async with rt.subscribe(room), rt.subscribe(room, buffer=1), rt.subscribe(room.a, buffer_bytes=1):
            assert await _turns_of(6400, rt) <= alone + 2


@pytest.mark.parametrize("same_log", [True, False])
async def test_neighbours_are_not_slowed_and_lose_nothing(same_log: bool) -> None:
    async with (
        Realtime(MemoryTransport()) as rt,
        rt.subscribe(room) as stuck,
        (rt.subscribe(room) if same_log else rt.subscribe(room.a, buffer=64)).with_gaps() as reader,
    ):
        assert (log_of(stuck) is log_of(reader)) is same_log
        for first in range(0, 6400, 64):
            for number in range(first, first + 64):
                await rt.publish(room.a, number)
            assert told(await take(reader, 64)) == list(range(first, first + 64))
        assert reader.stats().gaps == 0
        assert stuck.stats().received == 0


async def test_the_check_notices_a_log_that_gives_up_for_all_what_one_has_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a floor that follows the slowest's bound for everybody, the neighbour would lose."""
    monkeypatch.setattr(InterestLog, "first", property(lambda log: log.end - 1))
    with pytest.raises((AssertionError, TimeoutError)), anyio.fail_after(0.3):
        await test_neighbours_are_not_slowed_and_lose_nothing(True)


# ---------------------------------------------------------------------- what waits for history


async def test_frames_held_during_a_repair_are_bounded_in_bytes_and_nothing_is_lost() -> None:
    """What does not fit is read from history instead."""
    toy = ToyWithHistory()
    read = anyio.Event()

    async def wait(_: object) -> None:
        await read.wait()

    async with Realtime(toy, buffer_bytes=20_000) as rt, rt.subscribe(room, buffer=5000, buffer_bytes=2**20).with_gaps() as messages:
        await rt.publish(room.a, 0)
        toy.before_history = wait
        toy.append(room.name, frame_of(room.a, 1, "p.1"), "00000001", deliver=False)
        for number in range(2, 2000):
            await rt.publish(room.a, number)
            assert engine_of(rt).hub.channels[room.name].held_bytes <= 20_000
        read.set()
        assert await upto(messages, 1999) == list(range(2000))
        assert rt.stats().gaps == 0


async def test_a_subscription_that_reads_history_holds_one_page_of_it() -> None:
    transport = MemoryTransport("", MemoryOptions(history=5000))
    async with Realtime(transport) as rt:
        for number in range(5000):
            await rt.publish(room.a, number)
        async with rt.subscribe(room, start=Start.EARLIEST).with_gaps() as messages:
            for number in range(5000):
                assert told([await anext(messages)]) == [number]
                assert len(messages._rest) <= PAGE
                if number % 100 == 0:
                    await rt.publish(room.a, 5000 + number // 100)
            assert await upto(messages, 5049) == list(range(5000, 5050))


async def test_what_is_published_meanwhile_is_not_pinned_by_who_reads_history() -> None:
    """The live log holds nothing for a subscription that is still far behind."""
    transport = MemoryTransport("", MemoryOptions(history=10_000))
    async with Realtime(transport) as rt:
        for number in range(3000):
            await rt.publish(room.a, number)
        async with rt.subscribe(room, start=Start.EARLIEST).with_gaps() as slow:
            log = log_of(slow)
            for number in range(3000, 6000):
                await rt.publish(room.a, number)
                assert len(log.entries) <= CHUNK
            assert await upto(slow, 5999) == list(range(6000))
            assert slow.stats().gaps == 0


async def test_the_toys_do_not_bound_anything_themselves() -> None:
    """What is measured above is the hub's doing, on any transport."""
    toy = Toy()
    async with Realtime(toy) as rt, rt.subscribe(room, buffer=3).with_gaps() as messages:
        for number in range(1, 10):
            toy.deliver(room.name, frame_of(room.a, number, f"p.{number}"))
        assert await upto(messages, 9) == [Gap(room.name, GapReason.LAGGED, 6), 7, 8, 9]
