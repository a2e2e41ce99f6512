"""Rule 4, what only the ids of messages show, what is no loss at all, and everything at once: each message is shown once or announced."""

from __future__ import annotations

import random
from collections.abc import Sequence

import anyio
import pytest

from fanwire import Cursor, Gap, GapReason, Realtime, Receipt, Start
from fanwire.errors import ConnectionLost, CursorExpired, FanwireError, InvalidPayload, PermissionDenied, Timeout
from fanwire.hub.hub import Hub
from fanwire.hub.log import InterestLog
from fanwire.hub.publishers import Publishers
from fanwire.hub.states import Phase
from fanwire.transport import Outbound
from tests.rules.support import (
    COUNTERS,
    NO_LINKS,
    WRONG,
    Room,
    Toy,
    check_account,
    engine_of,
    frame_of,
    pair,
    sever,
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


# ---------------------------------------------------------------------- holes that only publishers' counters show


async def test_a_hole_in_a_publishers_numbers_is_announced_at_its_place() -> None:
    toy = Toy(COUNTERS)
    async with Realtime(toy) as rt, rt.subscribe(room).with_gaps() as messages:
        for publisher, number in (("p", 41), ("q", 7), ("p", 42), ("p", 45), ("q", 8), ("q", 8), ("p", 46), ("q", 6), ("q", 10)):
            toy.deliver(room.name, frame_of(room.a, number, f"{publisher}.{number}"))
        assert await upto(messages, 10) == [41, 7, 42, gap(GapReason.HOLE, 2), 45, 8, 46, gap(GapReason.HOLE, 1), 10]
        assert rt.stats().duplicates == 2


async def test_positions_without_links_show_repeats_but_no_holes() -> None:
    """At or before the last position in the epoch: a repeat. The counters show the holes."""
    toy = Toy(NO_LINKS, positions=True)
    async with Realtime(toy) as rt, rt.subscribe(room).with_gaps() as messages:
        frames = [frame_of(room.a, number, f"p.{number}") for number in range(1, 7)]
        for number, frame in enumerate(frames, 1):
            position = toy.append(room.name, frame, f"{number:08x}", deliver=False)
            if number != 4:
                toy.deliver(room.name, frame, position)
        for frame, position, _ in toy.streams[room.name]:
            toy.deliver(room.name, frame, position)
        toy.append(room.name, frame_of(room.a, 7, "p.7"), "00000007")
        assert await upto(messages, 7) == [1, 2, 3, gap(GapReason.HOLE, 1), 5, 6, 7]
        assert rt.stats().duplicates == 6


async def test_without_an_id_a_message_is_neither_hole_nor_repeat() -> None:
    toy = Toy(COUNTERS)
    async with Realtime(toy) as rt, rt.subscribe(room).with_gaps() as messages:
        for number in (1, 1, 5, 2):
            toy.deliver(room.name, b'{"topic":"a","kind":"data","channel":"room:1","created_at":"2024-05-01T12:00:00.000Z","data":%d}' % number)
        assert await upto(messages, 2) == [1, 1, 5, 2]


class _Refusing:
    """Answers the next batches as it was told to."""

    def __init__(self, toy: Toy, *answers: FanwireError | None) -> None:
        self.toy = toy
        self.answers = list(answers)
        toy.on_publish = self.publish

    async def publish(self, batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        answer = self.answers.pop(0) if self.answers else None
        if answer is None:
            return await self.toy.accept(batch)
        return [answer for _ in batch]


async def test_refused_and_invalid_publishes_are_no_holes() -> None:
    toy = Toy(COUNTERS)
    async with Realtime(toy) as rt, rt.subscribe(room).with_gaps() as messages:
        await rt.publish(room.a, 1)
        with pytest.raises(InvalidPayload):
            await rt.publish(room.a, WRONG)
        await rt.publish(room.a, 2)
        _Refusing(toy, PermissionDenied("not this one"))
        with pytest.raises(PermissionDenied):
            await rt.publish(room.a, -1)
        await rt.publish(room.a, 3)
        await rt.publish(room.a, 4)
        assert await upto(messages, 4) == [1, 2, 3, 4]


async def test_publishes_that_time_out_or_are_cancelled_are_no_holes() -> None:
    toy = Toy(COUNTERS)
    async with Realtime(toy) as rt, rt.subscribe(room).with_gaps() as messages:
        await rt.publish(room.a, 1)

        async def never(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
            with anyio.move_on_after(0.1):
                await anyio.sleep_forever()
            raise PermissionDenied("neither now nor later")

        toy.on_publish = never
        with pytest.raises(Timeout):
            await rt.publish(room.a, -1, timeout=0.02)
        with anyio.move_on_after(0.02):
            await rt.publish(room.a, -2)
        toy.on_publish = toy.accept
        await rt.publish(room.a, 2)
        await rt.publish(room.a, 3)
        assert await upto(messages, 3) == [1, 2, 3]


async def test_a_publisher_whose_counter_was_evicted_is_a_new_one() -> None:
    toy = Toy(COUNTERS)
    async with Realtime(toy) as rt, rt.subscribe(room).with_gaps() as messages:
        engine_of(rt).lanes._publishers = Publishers(limit=2)
        for number in range(10):
            await rt.publish(room.a, number)
            await rt.publish(Room(number=100 + number).a, number)
            await rt.publish(Room(number=200 + number).a, number)
        assert await upto(messages, 9) == list(range(10))
        assert len({message.id.partition(".")[0] for batch in toy.batches for message in batch if message.channel == room.name}) > 2


async def test_what_passes_while_a_channel_lingers_is_no_hole() -> None:
    """Nobody subscribed, so nobody missed it."""
    toy = Toy(COUNTERS)
    async with Realtime(toy, linger=60.0) as rt:
        async with rt.subscribe(room).with_gaps() as messages:
            await rt.publish(room.a, 1)
            assert await upto(messages, 1) == [1]
        for number in (2, 3, 4):
            await rt.publish(room.a, number)
        async with rt.subscribe(room).with_gaps() as messages:
            await rt.publish(room.a, 5)
            assert await upto(messages, 5) == [5]
        assert rt.stats().gaps == 0


async def test_a_repeat_that_is_suppressed_by_its_key_is_no_hole() -> None:
    toy = Toy(COUNTERS)
    async with Realtime(toy) as rt, rt.subscribe(room).with_gaps() as messages:
        await rt.publish(room.a, 1, key="once")
        await rt.publish(room.a, -1, key="once")
        await rt.publish(room.a, 2)
        assert await upto(messages, 2) == [1, 2]


async def test_a_lost_connection_forgets_the_numbers_and_announces_once() -> None:
    toy = Toy(COUNTERS)
    async with Realtime(toy) as rt, rt.subscribe(room).with_gaps() as messages:
        toy.deliver(room.name, frame_of(room.a, 1, "p.1"))
        toy.disconnect()
        await until(lambda: room.name in toy.generations and rt.stats().connections == 2, "it is subscribed again")
        for number in (9, 10, 12):
            toy.deliver(room.name, frame_of(room.a, number, f"p.{number}"))
        assert await upto(messages, 12) == [1, gap(GapReason.DISCONNECTED, None), 9, 10, gap(GapReason.HOLE, 1), 12]


async def test_a_retry_is_neither_hole_nor_repeat() -> None:
    toy = Toy(COUNTERS)
    async with Realtime(toy) as rt, rt.subscribe(room).with_gaps() as messages:
        await rt.publish(room.a, 1)

        async def accept_and_break(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
            toy.on_publish = toy.accept
            await toy.accept(batch)
            raise ConnectionLost("no answer")

        toy.on_publish = accept_and_break
        await rt.publish(room.a, 2)
        await rt.publish(room.a, 3)
        assert await upto(messages, 3) == [1, 2, 3]


# ---------------------------------------------------------------------- everything at once


async def _storm(seed: int, dice: random.Random) -> int:
    """Drop, lose, repeat, delay, sever, trim and restart while readers of all kinds come and go; return how many gaps were told."""
    dice.seed(seed)
    here, there = pair(history=dice.choice((8, 1000)))
    gaps = published = expired = 0
    cursors: list[Cursor] = []
    readers = 6
    restarts = dice.random() < 0.5
    """Whether epochs change; who joins from history while one does has tests of its own."""
    async with Realtime(here, linger=dice.choice((0.0, 0.01))) as rt, Realtime(there) as publisher, anyio.create_task_group() as tasks:

        async def reader(late: bool) -> None:
            nonlocal gaps, readers, expired
            await tumble(dice, 400 if late else 1)
            account: list[int | Gap] = []
            patience, length = dice.choice((2, 6)), dice.choice((15, 10_000))
            place = max(0, len(cursors) - 3)
            starts = (Start.LIVE, Start.EARLIEST, Start.last(5), Start.after(cursors[place])) if cursors and not restarts else (Start.LIVE,)
            start = dice.choice(starts)
            try:
                async with rt.subscribe(room, start=start, buffer=dice.choice((4, 1024))).with_gaps() as messages:
                    ready = published
                    readers -= 1
                    while len(account) < length and (not finished.is_set() or account[-1:] != [published - 1]):
                        account += told([await anext(messages)])
                        await tumble(dice, patience)
            except CursorExpired:
                assert start.kind == "after"
                readers -= 1
                expired += 1
                return
            gaps += sum(isinstance(item, Gap) for item in account)
            begin = _begin(account)
            if begin is not None:
                # What was published before and is still on its way may be seen by who comes to a channel that is live already.
                assert start.kind != "live" or begin <= ready, f"began with {begin}, expected {ready} at the latest: {account}"
                assert start.kind != "after" or begin <= place + 1, f"began with {begin}, expected {place + 1}: {account}"
                last = next((item for item in reversed(account) if isinstance(item, int)), None)
                if last is not None:
                    # A reader that history has led beyond what this process had received counts that, too, as what a repair could not find.
                    check_account(account[: account.index(last) + 1], begin, last, at_most=start.kind != "live")

        finished = anyio.Event()
        for late in (False, False, False, True, True, True):
            tasks.start_soon(reader, late)
        await until(lambda: readers <= 3, "the first are ready")
        for _ in range(120):
            trouble = dice.random()
            if trouble < 0.05:
                there.faults.drop(stored=dice.random() < 0.7)
            elif trouble < 0.08:
                there.faults.duplicate()
            elif trouble < 0.10 and here._link is not None and not here._link.broken:
                sever(here)
            elif trouble < 0.12:
                there.faults.trim(room.name, keep=dice.randrange(4))
            elif trouble < 0.13 and restarts and here._link is not None and not here._link.broken:
                sever(here)  # a broker that restarts without its data takes the connections with it
                there.faults.new_epoch(room.name)
            elif trouble < 0.15:
                there.faults.stall()
            elif trouble < 0.20:
                there.faults.resume()
            published += 1
            receipt = await publisher.publish(room.a if published % 2 else room.b, published - 1)
            assert receipt.cursor is not None
            cursors.append(receipt.cursor)
            await tumble(dice, 5)
        # The last is always seen: nothing befalls it, and everybody is connected.
        there.faults.scripts.clear()
        there.faults.resume()
        await until(lambda: readers == 0, "all have come")
        await until(lambda: all(record.phase in {Phase.LIVE, Phase.LINGERING} for record in engine_of(rt).hub.channels.values()), "it is live")
        published += 1
        finished.set()
        await publisher.publish(room.a, published - 1)
    return gaps


def _begin(account: Sequence[int | Gap]) -> int | None:
    """Return the number that the first item stands for, if that is known."""
    missing = 0
    for item in account:
        if isinstance(item, int):
            return item - missing
        if item.lost is None:
            return None
        missing += item.lost
    return None


async def test_whatever_happens_each_message_is_shown_once_or_announced(slow_history: random.Random) -> None:
    gaps = 0
    for seed in range(25):
        with anyio.fail_after(20):
            gaps += await _storm(seed, slow_history)
    assert gaps > 50


async def test_the_check_notices_gaps_that_are_not_told(slow_history: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InterestLog, "push_gap", lambda *_: None)
    await _is_noticed(slow_history)


async def test_the_check_notices_repeats_that_are_not_dropped(slow_history: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver = Hub.deliver

    def blind(hub: Hub, channel: str, generation: int, frame: bytes, position: object, prev: object) -> None:
        deliver(hub, channel, generation, frame, None, None)

    monkeypatch.setattr(Hub, "deliver", blind)
    await _is_noticed(slow_history)


async def _is_noticed(dice: random.Random) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        for seed in range(25):
            with anyio.fail_after(20):
                await _storm(seed, dice)
    assert caught.group_contains(AssertionError)
