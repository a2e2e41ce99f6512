"""Rule 1, broadcast: every subscription sees every message published after it is ready."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count

import anyio
import pytest
from anyio import to_thread

from fanwire import Channel, Message, Realtime, topic
from fanwire.hub.log import InterestLog, Item
from fanwire_memory import MemoryTransport
from tests.rules.support import LOG, NO_LINKS, Room, Toy, ToyWithHistory, pair, take, told, until, upto

pytestmark = pytest.mark.anyio

TRANSPORTS: dict[str, Callable[[], MemoryTransport | Toy]] = {
    "memory": MemoryTransport,
    "counters": Toy,
    "positions": lambda: Toy(LOG),
    "positions without links": lambda: Toy(NO_LINKS, positions=True),
    "history": ToyWithHistory,
}


async def _everybody_sees_everything(transport: MemoryTransport | Toy) -> None:
    """Three subscriptions that share a log, three of other interests, two topics."""
    room = Room(number=1)
    async with (
        Realtime(transport) as rt,
        rt.subscribe(room) as first,
        rt.subscribe(room) as second,
        rt.subscribe(room.b, room.a) as refs,
        rt.subscribe(room.name) as by_name,
        rt.subscribe(room.a) as only_a,
        rt.subscribe(room).with_gaps() as with_gaps,
    ):
        for number in range(300):
            await rt.publish(room.b if number % 3 else room.a, number)
        for whole in (first, second, refs, by_name, with_gaps):
            assert told(await take(whole, 300)) == list(range(300))
            assert whole.stats().lag == 0
        assert told(await take(only_a, 100)) == list(range(0, 300, 3))
        assert only_a.stats().lag == 0


@pytest.mark.parametrize("make", TRANSPORTS.values(), ids=TRANSPORTS.keys())
async def test_every_subscription_sees_every_message(make: Callable[[], MemoryTransport | Toy]) -> None:
    await _everybody_sees_everything(make())


async def test_the_check_notices_a_message_that_is_kept_from_one_log(monkeypatch: pytest.MonkeyPatch) -> None:
    push = InterestLog.push
    pushed = count(1)

    def forgetful(log: InterestLog, item: Item, size: int) -> None:
        if next(pushed) != 700:
            push(log, item, size)

    monkeypatch.setattr(InterestLog, "push", forgetful)
    with pytest.raises((AssertionError, TimeoutError)), anyio.fail_after(1):
        await _everybody_sees_everything(MemoryTransport())


async def test_a_late_subscription_sees_what_follows_and_nothing_before() -> None:
    room = Room(number=1)
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(room.a) as early:
        await rt.publish(room.a, 1)
        async with rt.subscribe(room.a) as late:
            await rt.publish(room.a, 2)
            async with rt.subscribe(room.a) as latest:
                await rt.publish(room.a, 3)
                assert await upto(latest, 3) == [3]
            assert await upto(late, 3) == [2, 3]
        assert await upto(early, 3) == [1, 2, 3]


async def test_several_realtimes_on_one_broker_see_each_others_messages_in_one_order() -> None:
    room = Room(number=1)
    one, other = pair()
    async with Realtime(one) as here, Realtime(other) as there, here.subscribe(room) as reader, there.subscribe(room) as distant:
        for number in range(100):
            await (here if number % 2 else there).publish(room.a, number)
        seen = await take(reader, 100)
        assert told(seen) == list(range(100))
        assert await take(distant, 100) == seen


async def test_a_channel_of_several_topics_reaches_each_only_with_its_own() -> None:
    class Wide(Channel, name="wide"):
        t0 = topic(int)
        t1 = topic(int)
        t2 = topic(int)

    wide, narrow = Wide(), Room(number=1)
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(wide.t1) as middle, rt.subscribe(wide.t2, narrow.a) as last:
        for number in range(30):
            await rt.publish((wide.t0, wide.t1, wide.t2)[number % 3], number)
            await rt.publish(narrow.b if number % 2 else narrow.a, 100 + number)
        assert told(await take(middle, 10)) == list(range(1, 30, 3))
        # Several channels arrive in the order they came.
        merged = [n for number in range(30) for n in ([number] * (number % 3 == 2) + [100 + number] * (number % 2 == 0))]
        assert told(await take(last, 25)) == merged


async def test_subscribers_share_one_message_that_is_not_the_publishers_object() -> None:
    class Lists(Channel, name="lists"):
        item = topic(list[int])

    lists = Lists()
    published = [1, 2]
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(lists.item) as one, rt.subscribe(lists.item) as other:
        await rt.publish(lists.item, published)
        received: Message[list[int]] = await anext(one)
        assert received.data == published
        assert received.data is not published
        assert await anext(other) is received


async def test_other_event_loops_in_other_threads_see_every_message() -> None:
    """A named memory broker is one for the process, whichever loop opens it; messages go both ways."""
    room = Room(number=1)
    here, there = pair()
    ready = threading.Event()
    found: list[int] = []

    async def elsewhere() -> None:
        async with Realtime(there) as rt, rt.subscribe(room.a) as messages:
            ready.set()
            for number in range(500):
                found.append((await anext(messages)).data)
                if number % 5 == 0:
                    await rt.publish(room.b, number)

    async with Realtime(here) as rt, rt.subscribe(room.b) as answers, anyio.create_task_group() as tasks:
        tasks.start_soon(to_thread.run_sync, anyio.run, elsewhere)
        await until(ready.is_set, "the other loop has subscribed")
        for number in range(500):
            await rt.publish(room.a, number)
        assert told(await take(answers, 100)) == list(range(0, 500, 5))
    assert found == list(range(500))
