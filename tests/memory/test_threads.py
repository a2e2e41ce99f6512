"""A named broker between event loops in several threads: prompt both ways, in one order for all, and a loop that is gone harms nobody."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Collection
from itertools import count

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint

from fanwire import Channel, Cursor, Gap, GapReason, Message, Realtime, Receipt, Start, Subscription, topic
from fanwire.transport import Last
from fanwire_memory import MemoryBroker, MemoryOptions, MemoryTransport
from tests.rules.support import until

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("backend", ["asyncio", "trio"])]

_names = count()


class Room(Channel, name="room:{number}"):
    number: int
    ping = topic(int)
    pong = topic(int)


room = Room(number=1)


def unique() -> str:
    """Return a name that no other broker of this process has."""
    return f"threads-{next(_names)}"


async def elsewhere(backend: str, work: Callable[[], Awaitable[object]]) -> None:
    """Run ``work`` in an event loop of its own, in a thread of its own, and wait for it."""

    async def run() -> None:
        with anyio.fail_after(40):
            await work()

    here = threading.get_ident()

    def thread() -> None:
        assert threading.get_ident() != here
        anyio.run(run, backend=backend)

    await to_thread.run_sync(thread)


async def numbers(items: Subscription[Message[int]], wanted: int) -> list[int]:
    with anyio.fail_after(30):
        return [(await anext(items)).data for _ in range(wanted)]


# ---------------------------------------------------------------------- both ways


async def test_messages_go_both_ways_promptly(backend: str) -> None:
    """Two hundred times there and back, with nothing else to wake either loop: one wake-up that is forgotten and this hangs."""
    name, rounds = unique(), 200
    ready = threading.Event()

    async def answer() -> None:
        async with Realtime(MemoryTransport(name)) as rt, rt.subscribe(room.ping) as pings:
            ready.set()
            for _ in range(rounds):
                await rt.publish(room.pong, (await anext(pings)).data)

    async with Realtime(MemoryTransport(name)) as rt, rt.subscribe(room.pong) as pongs, anyio.create_task_group() as tasks:
        tasks.start_soon(elsewhere, backend, answer)
        await until(ready.is_set, "the other loop is ready")
        with anyio.fail_after(30):
            for number in range(rounds):
                await rt.publish(room.ping, number)
                assert (await anext(pongs)).data == number
        assert rt.stats().gaps == 0


async def test_all_loops_see_one_order_and_each_publishers_own(backend: str) -> None:
    name, wanted = unique(), 400
    seen: dict[str, list[int]] = {}
    ready = [threading.Event(), threading.Event()]

    async def take_part(who: int) -> None:
        async with Realtime(MemoryTransport(name), buffer=10_000) as rt, rt.subscribe(room) as messages:
            ready[who].set()
            await until(lambda: all(one.is_set() for one in ready), "all are ready")
            for number in range(wanted // 2):
                # The even ones are of the first, the odd ones of the second.
                await rt.publish(room.ping if number % 3 else room.pong, 2 * number + who)
            seen[str(who)] = await numbers(messages, wanted)
            assert messages.stats().lost == messages.stats().lag == rt.stats().gaps == 0

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(elsewhere, backend, lambda: take_part(1))
        tasks.start_soon(take_part, 0)
    assert seen["0"] == seen["1"]
    assert [number for number in seen["0"] if number % 2 == 0] == list(range(0, wanted, 2))
    assert [number for number in seen["0"] if number % 2 == 1] == list(range(1, wanted, 2))


async def test_positions_are_contiguous_whoever_publishes(backend: str) -> None:
    name, each = unique(), 300
    receipts: list[Receipt] = []

    async def publish() -> None:
        async with Realtime(MemoryTransport(name)) as rt:
            receipts.extend([await rt.publish(room.ping, number) for number in range(each)])

    keep = MemoryTransport(name)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(elsewhere, backend, publish)
        tasks.start_soon(elsewhere, backend, publish)
        tasks.start_soon(publish)
    offsets = sorted(receipt.cursor.offset for receipt in receipts if receipt.cursor is not None)
    assert offsets == list(range(1, 3 * each + 1))
    assert not any(receipt.duplicate for receipt in receipts)
    async with Realtime(keep) as rt:
        assert len(await rt.history(room.ping, limit=10_000)) == 3 * each


async def test_who_comes_while_others_publish_gets_all_from_history_and_live(backend: str) -> None:
    name, wanted = unique(), 500
    begun = threading.Event()

    async def publish() -> None:
        async with Realtime(MemoryTransport(name)) as rt:
            for number in range(wanted):
                await rt.publish(room.ping, number)
                if number == 20:
                    begun.set()

    async with Realtime(MemoryTransport(name)) as rt, anyio.create_task_group() as tasks:
        tasks.start_soon(elsewhere, backend, publish)
        await until(begun.is_set, "it has begun")
        async with rt.subscribe(room.ping, start=Start.EARLIEST) as messages:
            assert await numbers(messages, wanted) == list(range(wanted))
        assert rt.stats().gaps == 0


async def test_a_key_is_taken_once_by_whoever_is_first(backend: str) -> None:
    name, keys = unique(), 200
    receipts: list[Receipt] = []

    async def publish() -> None:
        async with Realtime(MemoryTransport(name)) as rt:
            receipts.extend([await rt.publish(room.ping, number, key=f"k{number}") for number in range(keys)])

    keep = MemoryTransport(name)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(elsewhere, backend, publish)
        tasks.start_soon(publish)
    assert sum(receipt.duplicate for receipt in receipts) == keys
    async with Realtime(keep) as rt:
        assert [message.data for message in await rt.history(room.ping)] == list(range(keys))


# ---------------------------------------------------------------------- faults across threads


async def test_faults_reach_the_other_loop(backend: str) -> None:
    """Disconnected from here, the loop over there connects again and reads what it has missed; what is held back here comes over there when it may."""
    name = unique()
    transport = MemoryTransport(name)
    ready, first, second = threading.Event(), threading.Event(), threading.Event()
    found: list[int | Gap] = []
    turns = 0

    async def beat() -> None:
        nonlocal turns
        while not second.is_set():
            turns += 1
            await checkpoint()

    async def a_while() -> None:
        """Wait until the other loop has had turns enough to act upon whatever it was told."""
        enough = turns + 50
        await until(lambda: turns > enough, "the other loop has turned")

    async def follow() -> None:
        transport = MemoryTransport(name)
        async with Realtime(transport) as rt, rt.subscribe(room.ping).with_gaps() as items, anyio.create_task_group() as tasks:
            tasks.start_soon(beat)
            ready.set()
            for expected, told in ((2, first), (4, second)):
                while len(found) < expected:
                    item = await anext(items)
                    found.append(item if isinstance(item, Gap) else item.data)
                told.set()
            assert rt.stats().connections == 2

    async with Realtime(transport) as rt, anyio.create_task_group() as tasks:
        tasks.start_soon(elsewhere, backend, follow)
        await until(ready.is_set, "the other loop is ready")
        transport.faults.disconnect()
        await rt.publish(room.ping, 0)
        await rt.publish(room.ping, 1)
        await until(first.is_set, "both have come")
        transport.faults.stall()
        await rt.publish(room.ping, 2)
        await rt.publish(room.ping, 3)
        await a_while()
        assert len(found) == 2
        transport.faults.resume()
        await until(second.is_set, "both have come")
    assert found == [0, 1, 2, 3]


# ---------------------------------------------------------------------- a loop that is gone


class Deaf:
    """A sink that counts."""

    def __init__(self) -> None:
        self.frames = 0

    def subscribed(self, channel: str, generation: int, position: Cursor | None, /) -> None: ...

    def deliver(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None, /) -> None:
        self.frames += 1

    def lost(self, channels: Collection[str] | None, reason: GapReason, lost: int | None, /) -> None: ...


async def _abandon(broker: MemoryBroker, backend: str) -> Deaf:
    """Connect and subscribe in a loop that then ends without a goodbye."""
    sink = Deaf()

    async def connect() -> None:
        broker.subscribe(broker.connect(sink), [room.name], 1)

    await elsewhere(backend, connect)
    return sink


async def test_a_loop_that_ended_without_closing_harms_nobody(backend: str) -> None:
    transport = MemoryTransport(unique())
    broker = transport.native(MemoryBroker)
    async with Realtime(transport) as rt, rt.subscribe(room.ping) as messages:
        sink = await _abandon(broker, backend)
        assert len(broker._subscribers[room.name]) == 2
        for number in range(10):
            await rt.publish(room.ping, number)
        assert await numbers(messages, 10) == list(range(10))
        assert sink.frames == 0
        transport.faults.disconnect()
        await rt.publish(room.ping, 10)
        assert await numbers(messages, 1) == [10]


async def test_nothing_is_kept_for_a_loop_that_is_gone(backend: str) -> None:
    transport = MemoryTransport(unique(), MemoryOptions(history=0))
    broker = transport.native(MemoryBroker)
    async with Realtime(transport) as rt:
        await _abandon(broker, backend)
        (gone,) = broker._subscribers[room.name]
        for number in range(1000):
            await rt.publish(room.ping, number)
        assert len(gone._inbox) <= 1
        assert gone.broken


async def test_closing_in_another_thread_leaves_nothing(backend: str) -> None:
    name = unique()
    keep = MemoryTransport(name)
    broker = keep.native(MemoryBroker)

    async def come_and_go() -> None:
        for _ in range(20):
            async with Realtime(MemoryTransport(name)) as rt, rt.subscribe(room.ping) as messages:
                receipt = await rt.publish(room.pong, 1)
                await rt.publish(room.ping, 2)
                # Of others there may be more.
                assert (await anext(messages)).data == 2
                assert receipt.cursor is not None

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(elsewhere, backend, come_and_go)
        tasks.start_soon(come_and_go)
    assert not broker._links
    assert not broker._subscribers
    async with keep.run(Deaf()):
        page = await keep.history(room.name, start=Last(1000), limit=1000)
    assert [entry.position.offset for entry in page.entries] == list(range(1, 81))
