"""Rule 3, order: messages of one publisher on one channel arrive in the order of the publish calls, across topics. One lane a channel, one batch in flight, retries first."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest

from fanwire import Realtime, Receipt
from fanwire.errors import ConnectionLost, FanwireError, InvalidPayload, Unavailable
from fanwire.hub import calls
from fanwire.transport import Outbound
from fanwire_memory import MemoryTransport
from tests.rules.support import BEST_EFFORT, COUNTERS, LOG, WRONG, Room, Toy, frame_of, pair, settle, take, told, tumble, until, upto

pytestmark = pytest.mark.anyio

TRANSPORTS: dict[str, Callable[[], MemoryTransport | Toy]] = {"memory": MemoryTransport, "counters": Toy, "positions": lambda: Toy(LOG)}


class _Slow:
    """Takes a random number of turns for each batch, and counts how many of one channel are in flight."""

    def __init__(self, toy: Toy, dice: random.Random) -> None:
        self.toy = toy
        self.dice = dice
        self.flying: list[str] = []
        self.most = 0
        self.clashes = 0
        toy.on_publish = self.publish

    async def publish(self, batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        channels = {message.channel for message in batch}
        self.clashes += any(channel in self.flying for channel in channels)
        self.flying += channels
        self.most = max(self.most, len(self.flying))
        await tumble(self.dice, 12)
        receipts = [self.toy.store(message) for message in batch]
        for channel in channels:
            self.flying.remove(channel)
        return receipts


async def _concurrent_calls_arrive_in_order(transport: MemoryTransport | Toy, seed: int) -> None:
    """Many tasks publish at random moments on both topics, one by one and many at once; the order of the calls is the order of the messages."""
    dice = random.Random(seed)
    room = Room(number=1)
    called: list[int] = []
    async with Realtime(transport) as rt, rt.subscribe(room).with_gaps() as messages:

        async def publisher() -> None:
            await tumble(dice, 40)
            ref = dice.choice((room.a, room.b))
            number = len(called)
            if dice.random() < 0.3:
                numbers = range(number, number + dice.randrange(1, 6))
                called.extend(numbers)
                await rt.publish_many([dice.choice((room.a, room.b))(n) for n in numbers])
            else:
                called.append(number)
                await rt.publish(ref, number)

        async with anyio.create_task_group() as tasks:
            for _ in range(60):
                tasks.start_soon(publisher)
        assert told(await take(messages, len(called))) == called
        assert messages.stats().lag == 0


@pytest.mark.parametrize("make", TRANSPORTS.values(), ids=TRANSPORTS.keys())
async def test_concurrent_calls_arrive_in_the_order_of_the_calls(make: Callable[[], MemoryTransport | Toy]) -> None:
    for seed in range(10):
        await _concurrent_calls_arrive_in_order(make(), seed)


async def test_slow_batches_keep_the_order_and_one_is_in_flight_per_channel() -> None:
    for seed in range(10):
        toy = Toy(LOG)
        slow = _Slow(toy, random.Random(-seed))
        await _concurrent_calls_arrive_in_order(toy, seed)
        assert slow.clashes == 0
        assert slow.most == 1


async def test_the_check_notices_two_batches_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """With lanes that are never busy, a later batch overtakes."""
    monkeypatch.setattr(calls.Lane, "busy", property(lambda _: False, lambda _, __: None))
    toy = Toy(LOG)
    slow = _Slow(toy, random.Random(1))
    with pytest.raises((AssertionError, ExceptionGroup, TimeoutError)):
        for seed in range(20):
            await _concurrent_calls_arrive_in_order(toy, seed)
    assert slow.clashes > 0


async def test_channels_do_not_wait_for_each_other() -> None:
    """A lane is a channel's: what is in flight on one does not hold up another."""
    stuck, free = Room(number=1), Room(number=2)
    toy = Toy(LOG)
    go = anyio.Event()

    async def publish(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        if batch[0].channel == stuck.name:
            await go.wait()
        return await toy.accept(batch)

    toy.on_publish = publish
    done: list[int] = []
    async with Realtime(toy) as rt, rt.subscribe(stuck.a, free.a) as messages, anyio.create_task_group() as tasks:

        async def first() -> None:
            await rt.publish(stuck.a, 1)
            done.append(1)

        tasks.start_soon(first)
        await until(lambda: len(toy.batches) == 1, "the first is in flight")
        await rt.publish(free.a, 2)
        assert done == []
        go.set()
        assert told(await take(messages, 2)) == [2, 1]


# ---------------------------------------------------------------------- retries come first


async def _retries_come_first(toy: Toy, failures: Sequence[tuple[int, FanwireError]]) -> None:
    """Batches fail after a part of them was accepted, while more is published; nothing is out of order, twice or missing."""
    room = Room(number=1)
    script = list(failures)

    async def publish(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        await settle(3)
        if script:
            accepted, error = script.pop(0)
            for message in batch[:accepted]:
                toy.store(message)
            raise error
        return await toy.accept(batch)

    toy.on_publish = publish
    called: list[int] = []
    async with Realtime(toy) as rt, rt.subscribe(room).with_gaps() as messages:

        async def publisher(ref: Any) -> None:  # Any: either topic
            called.append(len(called))
            await rt.publish(ref, called[-1])

        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(publisher, (room.a, room.b)[number % 2])
                await settle(number % 4)
        assert told(await take(messages, 40)) == called
        assert rt.stats().gaps == 0
        assert messages.stats().lag == 0
    handed = [message.id for batch in toy.batches for message in batch]
    assert len(handed) > 40
    seen: list[str] = []
    for batch, following in zip(toy.batches, toy.batches[1:], strict=False):
        if batch[0].id == following[0].id:  # it was offered again
            assert [message.id for message in following[: len(batch)]] == [message.id for message in batch]
        else:
            assert not {message.id for message in following} & set(seen)
        seen += [message.id for message in batch]


async def test_a_batch_of_unknown_outcome_is_sent_again_before_what_came_later() -> None:
    """Without native suppression the receiving hub drops what it has seen already."""
    await _retries_come_first(
        Toy(COUNTERS), [(0, ConnectionLost("nothing arrived")), (99, ConnectionLost("all arrived")), (1, ConnectionLost("one did"))]
    )


async def test_a_batch_that_was_not_sent_is_sent_before_what_came_later() -> None:
    await _retries_come_first(Toy(LOG), [(0, Unavailable("not now")), (0, Unavailable("not now either"))])


async def test_a_batch_that_waits_for_a_new_connection_goes_before_what_came_later() -> None:
    room = Room(number=1)
    toy = Toy(COUNTERS)
    called: list[int] = []
    async with Realtime(toy) as rt, rt.subscribe(room).with_gaps() as messages, anyio.create_task_group() as tasks:

        async def publish(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
            if rt.stats().connections == 1:
                toy.disconnect()
                raise ConnectionLost("broken off")
            await until(lambda: room.name in toy.generations, "it is subscribed again")
            return await toy.accept(batch)

        toy.on_publish = publish

        async def publisher(ref: Any) -> None:  # Any: either topic
            called.append(len(called))
            await rt.publish(ref, called[-1])

        for number in range(30):
            tasks.start_soon(publisher, (room.a, room.b)[number % 2])
            await settle(number % 3)
        gap, *rest = await take(messages, 31)
        assert str(gap).endswith("(disconnected)")
        assert told(rest) == called == list(range(30))


async def test_what_fails_validation_or_is_refused_leaves_the_others_in_order() -> None:
    room = Room(number=1)
    transport = MemoryTransport()
    async with Realtime(transport) as rt, rt.subscribe(room).with_gaps() as messages, anyio.create_task_group() as tasks:
        transport.faults.refuse(Unavailable("unused"), skip=1000)  # so that nothing goes the immediate way
        called: list[int] = []

        async def publisher(number: int) -> None:
            if number % 5 == 0:
                with pytest.raises(InvalidPayload):
                    await rt.publish(room.a, WRONG)
            else:
                called.append(number)
                await rt.publish(room.a, number)

        for number in range(1, 50):
            tasks.start_soon(publisher, number)
        assert told(await take(messages, 40)) == called


async def test_immediate_publishes_do_not_overtake_those_that_wait() -> None:
    """On memory a lone publish is done at once, but not while earlier ones of its channel wait in the lane."""
    room = Room(number=1)
    transport = MemoryTransport()
    async with Realtime(transport) as rt, rt.subscribe(room) as messages, anyio.create_task_group() as tasks:
        transport.faults.block()
        tasks.start_soon(rt.publish, room.a, 1)
        await until(lambda: rt.stats().publishing == 1, "it waits")
        transport.faults.resume()
        await rt.publish(room.b, 2)
        await rt.publish(room.a, 3)
        assert told(await take(messages, 3)) == [1, 2, 3]


# ---------------------------------------------------------------------- what is declared


async def test_with_channel_order_all_subscribers_see_one_order_of_many_publishers() -> None:
    room = Room(number=1)
    one, other = pair()
    dice = random.Random(7)
    async with (
        Realtime(one) as here,
        Realtime(other) as there,
        here.subscribe(room) as first,
        there.subscribe(room) as second,
        here.subscribe(room.a, room.b) as third,
    ):

        async def publisher(rt: Realtime, number: int) -> None:
            for step in range(20):
                await rt.publish(room.a if step % 3 else room.b, number * 100 + step)
                await tumble(dice, 4)

        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(publisher, here if number % 2 else there, number)
        seen = told(await take(first, 200))
        assert told(await take(second, 200)) == seen
        assert told(await take(third, 200)) == seen
        for number in range(10):
            assert [n for n in seen if isinstance(n, int) and n // 100 == number] == [number * 100 + step for step in range(20)]


async def test_without_declared_order_nothing_is_taken_for_a_hole() -> None:
    """Best effort: swapped frames are shown as they come, repeats are dropped by id."""
    room = Room(number=1)
    toy = Toy(BEST_EFFORT)
    async with Realtime(toy) as rt, rt.subscribe(room.a).with_gaps() as messages:
        for number in (1, 4, 2, 2, 3, 1, 9):
            toy.deliver(room.name, frame_of(room.a, number, f"p.{number}"))
        assert await upto(messages, 9) == [1, 4, 2, 3, 9]
        assert rt.stats().duplicates == 2
