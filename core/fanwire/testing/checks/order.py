"""B: in which order, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import anyio

from ...errors import FanwireError
from ...messages import Gap, Message
from ...realtime import Realtime
from ...subscription import Subscription
from ..check import check
from ..exchange import Exchange, up_to_the_end
from ..harness import Harness
from ..tools import Room, account, confirmed, expect, open_realtime, take, told

__all__ = ()

_WARM = -1
"""Data of the message that shows a subscription to be live."""


@check("B1", needs={"ordering.publisher"}, finds={"drop one", "swap two", "repeat one"})
async def order_one_publisher(harness: Harness) -> None:
    """A thousand messages that one task publishes, one by one and in batches, on both topics of a channel, arrive in that order."""
    room = Room(number=1)
    async with open_realtime(harness) as rt, rt.subscribe(room, buffer=2000) as messages:
        await Exchange(harness, rt, messages).say(room.a, _WARM)
        for begin in range(0, 1000, 50):
            for n in range(begin, begin + 20):
                await rt.publish((room.a, room.b)[n % 2], n)
            await rt.publish_many([(room.a, room.b)[n % 3 == 0](n) for n in range(begin + 20, begin + 50)])
        expect(told(await take(messages, 1000, 2 * harness.patience)), list(range(1000)), "the order")


@check("B1b", needs={"ordering.publisher"}, finds={"swap two"})
async def order_of_concurrent_calls(harness: Harness) -> None:
    """Publishes of many tasks, none of which waits for another, arrive in the order in which they were called."""
    room = Room(number=1)
    called: list[int] = []
    async with open_realtime(harness) as rt, rt.subscribe(room.a, room.b, buffer=2000) as messages:
        await Exchange(harness, rt, messages).say(room.a, _WARM)

        async def publish(many: int) -> None:
            numbers = range(len(called), len(called) + many)
            called.extend(numbers)
            await (rt.publish(room.b, numbers[0]) if many == 1 else rt.publish_many([(room.a, room.b)[n % 2](n) for n in numbers]))

        async with anyio.create_task_group() as tasks:
            for task in range(200):
                tasks.start_soon(publish, 1 + task % 5)
        expect(told(await take(messages, len(called), harness.patience)), called, "the order of messages, against that of the calls")


async def _sixteen_publishers(harness: Harness, rt: Realtime, listeners: Sequence[Subscription[Message[int]]]) -> list[list[int]]:
    """Let sixteen connections publish fifty numbers each, side by side, and return what each listener receives."""
    room = Room(number=1)
    for messages in listeners:
        await Exchange(harness, rt, messages, alone=False).say(room.a, _WARM)

    async def publish(other: Realtime, number: int) -> None:
        for step in range(50):
            await other.publish(room.a if step % 3 else room.b, number * 100 + step)

    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(open_realtime(harness)) for _ in range(16)]
        async with anyio.create_task_group() as tasks:
            for number, other in enumerate(others):
                tasks.start_soon(publish, other, number)
    return [await _numbers(messages, 16 * 50, harness.patience) for messages in listeners]


async def _numbers(messages: Subscription[Message[int]], count: int, seconds: float) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        found += [message.data for message in await take(messages, 1, seconds) if message.data != _WARM]
    return found


@check("B2", needs={"ordering.publisher"}, finds={"drop one"})
async def order_many_publishers(harness: Harness) -> None:
    """Of sixteen connections that publish on one channel at once, each one's messages arrive in its order, and all of them."""
    room = Room(number=1)
    async with open_realtime(harness) as rt, rt.subscribe(room, buffer=2000) as messages:
        (seen,) = await _sixteen_publishers(harness, rt, [messages])
    for number in range(16):
        expect([n for n in seen if n // 100 == number], [number * 100 + step for step in range(50)], f"what publisher {number} published")


@check("B2b", needs={"ordering.channel"}, finds={"drop one"})
async def one_order_for_all(harness: Harness) -> None:
    """All subscribers of a channel, on whatever connection and with whatever interest, see the messages of sixteen publishers in one order."""
    room = Room(number=1)
    async with (
        open_realtime(harness) as rt,
        open_realtime(harness) as other,
        rt.subscribe(room, buffer=2000) as first,
        rt.subscribe(room.b, room.a, buffer=2000) as second,
        other.subscribe(room.a, room.b, buffer=2000) as third,
    ):
        seen, *others = await _sixteen_publishers(harness, rt, [first, second, third])
        for each in others:
            expect(each, seen, "the order that another subscriber saw")


class _Flow:
    """A publisher of rising numbers, and a subscriber on a connection of its own that notes what comes, while something happens to their connections."""

    def __init__(self, publisher: Realtime) -> None:
        self.room = Room(number=1)
        self.seen: list[int | Gap] = []
        self.unknown: set[int] = set()
        """Numbers whose publishing failed: they may have arrived or not."""
        self.next = 0
        self._publisher = publisher
        self._first = 0

    async def read(self, messages: Subscription[Message[Any] | Gap]) -> None:  # Any: the channel's topics
        """Note everything."""
        async for item in messages:
            self.seen.append(item if isinstance(item, Gap) else item.data)

    async def publish(self, count: int) -> None:
        """Publish so many more numbers."""
        for _ in range(count):
            number, self.next = self.next, self.next + 1
            try:
                await self._publisher.publish(self.room.a, number)
            except FanwireError as error:
                confirmed(error.retryable, f"publishing while the connection is cut failed for good: {error!r}")
                self.unknown.add(number)

    @property
    def newest(self) -> int:
        """The number that came last."""
        return next((item for item in reversed(self.seen) if isinstance(item, int)), -1)

    async def until_heard(self, seconds: float) -> None:
        """Publish until a number arrives that was published from now on."""
        first = self.next
        with anyio.move_on_after(seconds):
            while self.newest < first:
                await self.publish(1)
                await anyio.sleep(0.002)
            return
        raise AssertionError(f"nothing that was published from {first} on arrived within {seconds:g} s")

    def begin(self) -> None:
        """Leave what came before the newest number out of the account."""
        self._first = self.newest
        del self.seen[: -1 - self.seen[::-1].index(self._first)]

    def settle(self) -> None:
        """Assert that each number from the first to the newest came once and in order, or is accounted for."""
        numbers = [item for item in self.seen if isinstance(item, int)]
        expect(numbers, sorted(set(numbers)), "the numbers, which rise")
        # What may have failed is taken out of the account, on both sides.
        certain = [number for number in range(self._first, self.newest + 1) if number not in self.unknown]
        place = {number: index for index, number in enumerate(certain)}
        account([item if isinstance(item, Gap) else place[item] for item in self.seen if isinstance(item, Gap) or item in place], 0, len(certain) - 1)


@check("B3", needs={"ordering.publisher"}, uses={"cut"}, finds={"drop one", "repeat one"})
async def order_survives_reconnects(harness: Harness) -> None:
    """While the connections of a publisher and a subscriber are cut twice, the numbers go on rising, and what is missing is announced at its place."""
    async with (
        open_realtime(harness) as publisher,
        open_realtime(harness) as subscriber,
        subscriber.subscribe(Room(number=1), buffer=10_000).with_gaps() as messages,
        anyio.create_task_group() as tasks,
    ):
        flow = _Flow(publisher)
        tasks.start_soon(flow.read, messages)
        # Where a subscription is not confirmed, the first numbers may be missed.
        await flow.until_heard(harness.patience)
        flow.begin()
        for _ in range(2):
            await flow.publish(50)
            await harness.cut()
            await flow.publish(50)
            await flow.until_heard(harness.patience)
        flow.settle()
        tasks.cancel_scope.cancel()


@check("B5", finds={"repeat one"})
async def nothing_old(harness: Harness) -> None:
    """What others have heard before a subscription was entered is not delivered to it."""
    room = Room(number=1)
    async with open_realtime(harness) as rt, open_realtime(harness) as other, rt.subscribe(room) as early:
        line = Exchange(harness, rt, early)
        old = {(await line.say(room.a, number)).id for number in range(20)}
        async with rt.subscribe(room.a, room.text) as late, other.subscribe(room) as elsewhere:
            for where, messages in ((rt, late), (other, elsewhere)):
                found = await up_to_the_end(harness, where, room, messages)
                expect([message.data for message in found if message.id in old], [], "old messages at a new subscription")


@check("B4", finds={"repeat one", "reuse ids"})
async def no_duplicates(harness: Harness) -> None:
    """A thousand messages of four connections arrive at most once each, on two connections, and every one has an id of its own."""
    room = Room(number=1)
    async with AsyncExitStack() as stack:
        four = [await stack.enter_async_context(open_realtime(harness)) for _ in range(4)]
        listeners = [await stack.enter_async_context(rt.subscribe(room, buffer=5000)) for rt in four[:2]]
        for rt, messages in zip(four, listeners, strict=False):
            await Exchange(harness, rt, messages, alone=False).say(room.text, "begin")
        receipts = [receipt for n, rt in enumerate(four) for receipt in await rt.publish_many([room.a(n * 1000 + step) for step in range(250)])]
        ids = [receipt.id for receipt in receipts]
        expect(len(set(ids)), 1000, "different ids among a thousand receipts")
        for rt, messages in zip(four, listeners, strict=False):
            found = await up_to_the_end(harness, rt, room, messages)
            numbers = [message.data for message in found if message.topic == "a"]
            expect(len(numbers), len(set(numbers)), "messages, against different ones")
            confirmed({message.id for message in found if message.topic == "a"} <= set(ids), "messages have other ids than the receipts say")
