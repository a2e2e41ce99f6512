"""A: who receives what, and from when on."""

from __future__ import annotations

import random
import sys

import anyio
from anyio.lowlevel import checkpoint

from ...messages import Message
from ...realtime import Realtime
from ...topics import TopicRef
from ..check import check
from ..harness import Harness
from ..tools import Room, confirmed, expect, open_realtime, take, told, until, until_async, upto

__all__ = ()

_SURE = {"confirmed_subscribe", "ordering.publisher"}
"""Claims without which a message that is published need not be the next that arrives; what holds of best effort is in groups B to D."""


@check("A1", needs=_SURE, finds={"drop one", "swap two", "repeat one"})
async def publish_subscribe(harness: Harness) -> None:
    """A hundred messages arrive with exactly what was published: ids, data, topic, channel, headers, key, run, and nothing besides."""
    room = Room(number=1)
    async with open_realtime(harness) as rt, rt.subscribe(room.a, room.text) as messages:
        receipts = [await rt.publish(room.a, n, headers={"n": str(n)}, key=f"k{n}") for n in range(50)]
        receipts += await rt.publish_many([room.text(f"text {n}") for n in range(50)])
        receipts.append(await rt.run("run-7").publish(room.a, 50))
        found = await take(messages, 101, harness.patience)
        await rt.publish(room.a, -1)
        found.append(await anext(messages))
    expect([message.data for message in found], [*range(50), *(f"text {n}" for n in range(50)), 50, -1], "the data")
    expect([message.id for message in found[:-1]], [receipt.id for receipt in receipts], "the ids, as the receipts have them")
    expect([message.topic for message in found], ["a"] * 50 + ["text"] * 50 + ["a"] * 2, "the topics")
    expect({message.channel for message in found}, {room.name}, "the channel")
    expect([message.headers for message in found[:50]], [{"n": str(n)} for n in range(50)], "the headers")
    expect([message.key for message in found[:51]], [*(f"k{n}" for n in range(50)), None], "the keys")
    expect([message.run_id for message in found[99:]], [None, "run-7", None], "the run")


@check("A2", needs=_SURE, finds={"ready too early"})
async def ready_means_ready(harness: Harness) -> None:
    """What is published right after a subscription was entered is seen, two hundred times over, also by another connection's publisher."""
    async with open_realtime(harness) as rt, open_realtime(harness) as other:
        for number in range(200):
            room = Room(number=number)
            async with rt.subscribe(room.a) as messages:
                publisher = other if number % 2 else rt
                await publisher.publish(room.a, number)
                expect(told(await take(messages, 1, harness.patience)), [number], f"what came of message {number}")


@check("A3", needs=_SURE, finds={"begin with the last"})
async def no_replay_by_default(harness: Harness) -> None:
    """A message published before a channel was first subscribed is not delivered."""
    async with open_realtime(harness) as rt:
        for number in range(20):
            # A channel of its own each time: one that lingers is live all the time, and may still have a message on its way.
            room = Room(number=number)
            await rt.publish(room.a, number)
            async with rt.subscribe(room.a) as messages:
                await rt.publish(room.a, 1000 + number)
                expect(told(await take(messages, 1, harness.patience)), [1000 + number], "the first message of a new subscription")


@check("A4", needs=_SURE, finds={"drop one", "repeat one"})
async def fan_out(harness: Harness) -> None:
    """A hundred subscribers, half of them of a second connection, each receive all of a burst, once and in order."""
    room = Room(number=1)
    complete: list[int] = []
    async with open_realtime(harness) as rt, open_realtime(harness) as other, anyio.create_task_group() as tasks:
        ready = 0

        async def read(where: Realtime) -> None:
            nonlocal ready
            async with where.subscribe(room.a) as messages:
                ready += 1
                expect(await upto(messages, 199, harness.patience), list(range(200)), "what one of a hundred subscribers received")
                complete.append(1)

        for number in range(100):
            tasks.start_soon(read, other if number % 2 else rt)
        await until(lambda: ready == 100, "all are subscribed", harness.patience)
        for begin in range(0, 200, 50):
            await rt.publish_many([room.a(n) for n in range(begin, begin + 50)])
    expect(len(complete), 100, "subscribers that received everything")


_CHILD = """
import sys, anyio
from fanwire import Realtime
from fanwire.testing.tools import Room
async def main():
    async with Realtime.from_url(sys.argv[1]) as rt, rt.subscribe(Room(number=1).a) as messages:
        print("ready", flush=True)
        async for message in messages:
            print(message.data, flush=True)
            if message.data == 49:
                return
anyio.run(main)
"""


@check("A5", needs={"multi_process", *_SURE}, uses={"url"})
async def fan_out_processes(harness: Harness) -> None:
    """Three processes each receive every message."""
    ready: list[bool] = []
    complete: list[list[str]] = []

    async def child() -> None:
        async with await anyio.open_process([sys.executable, "-c", _CHILD, harness.url()]) as process:
            assert process.stdout is not None
            text = ""
            async for chunk in process.stdout:
                text += chunk.decode()
                if text.startswith("ready\n") and len(ready) < 3 and process not in seen:
                    seen.append(process)
                    ready.append(True)
            complete.append(text.split())

    seen: list[object] = []
    with anyio.fail_after(3 * harness.patience):
        async with open_realtime(harness) as rt, anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(child)
            await until(lambda: len(ready) == 3, "three processes are subscribed", 2 * harness.patience)
            await rt.publish_many([Room(number=1).a(n) for n in range(50)])
    expect(complete, [["ready", *map(str, range(50))]] * 3, "what each process received")


@check("A6", needs=_SURE, finds={"leak channels"})
async def isolation(harness: Harness) -> None:
    """Nothing leaks between channels, topics or namespaces, whatever their names have in common."""
    names = ["room:1", "room:11", "room", "room:", "Room:1", "room:1.a", "room:1/a", "room:*", "room:?", "room:>", "room.*", "a", "ns:a"]
    refs = [TopicRef[object](name, part) for name in names for part in ("a", "A", "a.b", "*")]
    found: dict[tuple[str, str], list[object]] = {}
    async with open_realtime(harness) as rt, anyio.create_task_group() as tasks:
        ready = 0

        async def read(ref: TopicRef[object]) -> None:
            nonlocal ready
            async with rt.subscribe(ref) as messages:
                ready += 1
                with anyio.move_on_after(harness.patience):
                    async for message in messages:
                        found.setdefault((ref.channel, ref.topic), []).append(message.data)
                        if message.data == "end":
                            return

        for ref in refs:
            tasks.start_soon(read, ref)
        await until(lambda: ready == len(refs), "all are subscribed", harness.patience)
        for ref in refs:
            await rt.publish(ref, f"{ref.channel}|{ref.topic}")
        for ref in refs:
            await rt.publish(ref, "end")
    wanted = {(ref.channel, ref.topic): [f"{ref.channel}|{ref.topic}", "end"] for ref in refs}
    expect(found, wanted, "what arrived where")


@check("A6b", needs=_SURE)
async def namespaces(harness: Harness) -> None:
    """The same channel in two namespaces is two channels."""
    other = type(harness)(f"{harness.namespace}-b")
    room = Room(number=1)
    async with (
        other,
        open_realtime(harness) as rt,
        open_realtime(other) as there,
        rt.subscribe(room.a) as here_sees,
        there.subscribe(room.a) as there_sees,
    ):
        await rt.publish(room.a, 1)
        await there.publish(room.a, 2)
        await rt.publish(room.a, 3)
        await there.publish(room.a, 4)
        expect(told(await take(here_sees, 2, harness.patience)), [1, 3], "what arrived in the one namespace")
        expect(told(await take(there_sees, 2, harness.patience)), [2, 4], "what arrived in the other")


@check("A7", needs=_SURE, finds={"swap two"})
async def several_topics_in_one_subscription(harness: Harness) -> None:
    """Topics of one channel arrive in the order of publishing, each under its name; a topic that was not asked for never appears."""
    room = Room(number=1)
    async with open_realtime(harness) as rt, rt.subscribe(room.a, room.text) as messages:
        for n in range(60):
            if n % 4 == 0:
                await rt.publish(room.b, n)
            await (rt.publish(room.text, str(n)) if n % 3 else rt.publish(room.a, n))
        found = await take(messages, 60, harness.patience)
    expect([(message.topic, message.data) for message in found], [("text", str(n)) if n % 3 else ("a", n) for n in range(60)], "topics and data")


@check("A8", needs=_SURE, uses={"subscriptions"}, finds={"forget to unsubscribe"})
async def many_channels(harness: Harness) -> None:
    """A thousand channels with a subscriber each all deliver, and the server has none left when they have gone."""
    before = await harness.subscriptions()
    rooms = [Room(number=n) for n in range(1000)]
    async with open_realtime(harness, linger=0.05) as rt:
        async with rt.subscribe(*(room.a for room in rooms)) as messages:
            expect(await harness.subscriptions(), before + 1000, "channels the server delivers")
            await rt.publish_many([room.a(room.number) for room in rooms])
            found = await take(messages, 1000, 3 * harness.patience)
            expect({message.channel: message.data for message in found}, {room.name: room.number for room in rooms}, "what each channel delivered")
        await until_async(harness.subscriptions, before, "channels the server delivers when nobody wants any", harness.patience)
        await until(
            lambda: rt.stats().channels == 0, "the Realtime keeps no channel", harness.patience
        )  # the server's answer may still be on its way


@check("A9", needs=_SURE)
async def concurrent_subscribes_to_one_channel(harness: Harness) -> None:
    """A hundred tasks that subscribe to one channel at once, and in different ways, each see the message published when they are ready."""
    room = Room(number=1)
    async with open_realtime(harness) as rt, anyio.create_task_group() as tasks:
        ready, seen = 0, 0

        async def read(number: int) -> None:
            nonlocal ready, seen
            async with rt.subscribe(*((room.a,), (room.a, room.b), (room.b, room.a, room.text))[number % 3]) as messages:
                ready += 1
                expect(told(await take(messages, 1, harness.patience)), [7], "what one of a hundred received")
                seen += 1

        for number in range(100):
            tasks.start_soon(read, number)
        await until(lambda: ready == 100, "all are subscribed", harness.patience)
        await rt.publish(room.a, 7)
        await until(lambda: seen == 100, "all have received it", harness.patience)


@check("A10", needs=_SURE, finds={"drop one"})
async def subscribe_and_unsubscribe_storm(harness: Harness) -> None:
    """Two thousand subscriptions that come and go at random on twenty channels miss nothing while they are there, nor do those that stay."""
    dice = random.Random(harness.namespace)
    rooms = [Room(number=n) for n in range(20)]
    begun = dict.fromkeys(range(20), -1)
    """The newest number of each channel that was handed to a publish."""
    over = anyio.Event()
    async with open_realtime(harness, linger=0.01) as rt, anyio.create_task_group() as tasks:

        async def come_and_go() -> None:
            for _ in range(100):
                number = dice.randrange(20)
                async with rt.subscribe(rooms[number].a).with_gaps() as messages:
                    next_number = begun[number] + 1
                    if dice.random() < 0.3:
                        await checkpoint()
                        continue
                    (item,) = await take(messages, 1, harness.patience)
                    # What was on its way when the subscription became ready may come first; what is published from there on is not missing.
                    confirmed(
                        isinstance(item, Message) and item.data <= next_number,
                        f"{item} came first, though {next_number} was published when it was ready",
                    )

        async def publish() -> None:
            while not over.is_set():
                for number in range(20):
                    begun[number] += 1
                    await rt.publish(rooms[number].a, begun[number])

        async def stay() -> None:
            async with rt.subscribe(*(room.a for room in rooms)).with_gaps() as messages:
                staying.set()
                expected: dict[str, int] = {}
                async for item in messages:
                    confirmed(isinstance(item, Message), f"{item} without a reason")
                    assert isinstance(item, Message)
                    if item.channel in expected:
                        expect(item.data, expected[item.channel], f"the next message of {item.channel}")
                    expected[item.channel] = item.data + 1

        staying = anyio.Event()
        tasks.start_soon(stay)
        await staying.wait()
        tasks.start_soon(publish)
        async with anyio.create_task_group() as crowd:
            for _ in range(20):
                crowd.start_soon(come_and_go)
        over.set()
        tasks.cancel_scope.cancel()


@check("A11", needs=_SURE, finds={"drop one"})
async def self_delivery(harness: Harness) -> None:
    """A publisher's own subscription receives what it publishes, like everybody's."""
    room = Room(number=1)
    async with open_realtime(harness) as rt, rt.subscribe(room) as own:
        for number in range(10):
            await rt.publish(room.a, number)
        expect(told(await take(own, 10, harness.patience)), list(range(10)), "what its own subscription received")


@check("A12", needs=_SURE, uses={"subscriptions"})
async def a_lingering_channel_is_taken_up_again(harness: Harness) -> None:
    """A channel left and entered again at once, as a page that is reloaded does, misses nothing and is not asked for twice."""
    room = Room(number=1)
    async with open_realtime(harness, linger=30.0) as rt:
        async with rt.subscribe(room.a) as messages:
            await rt.publish(room.a, 1)
            expect(told(await take(messages, 1, harness.patience)), [1], "before")
        expect(await harness.subscriptions(), 1, "channels the server delivers while it lingers")
        async with rt.subscribe(room.a) as messages:
            await rt.publish(room.a, 2)
            expect(told(await take(messages, 1, harness.patience)), [2], "after")
