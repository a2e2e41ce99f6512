"""D, continued: nothing is left, whatever was done and wherever it was cancelled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from anyio.lowlevel import checkpoint

from ...errors import FanwireError
from ...messages import Start
from ...realtime import Realtime
from ..cancelling import cancelled_everywhere
from ..check import check
from ..exchange import Exchange, faithful, up_to_the_end, works
from ..harness import Harness
from ..leaks import Snapshot, no_leaks, snapshot
from ..tools import Room, confirmed, expect, open_realtime, take, until, until_async

__all__ = ()

ROOM = Room(number=1)


@check("D11", finds={"leave a socket", "leave a thread"}, alone=True)
async def nothing_is_left(harness: Harness) -> None:
    """Ten lifetimes with all that one does leave no task, thread, socket, file or subscription at the server."""
    async with no_leaks(harness, seconds=harness.patience):
        for number in range(10):
            room = Room(number=number)
            async with open_realtime(harness) as rt, rt.subscribe(room.a) as messages, rt.subscribe(room):
                await Exchange(harness, rt, messages).say(room.a, 1)
                await rt.publish_many([room.a(2), room.b(3), Room(number=100).a(4)])
                await rt.ping()
                if "history.earliest" in rt.capabilities.names():
                    await rt.history(room)


async def _visit(rt: Realtime, number: int) -> None:
    """Subscribe, hear a message, and leave another one unread."""
    room = Room(number=number)
    async with rt.subscribe(room.a) as messages:
        await rt.publish_many([room.a(number), room.a(number)])
        if faithful(rt):
            await anext(messages)


async def _visit_many(harness: Harness, rt: Realtime, numbers: range) -> None:
    """The same of many channels by one subscription."""
    rooms = [Room(number=number) for number in numbers]
    async with rt.subscribe(*(room.a for room in rooms)) as messages:
        await rt.publish_many([room.a(room.number) for room in rooms])
        if faithful(rt):
            found = await take(messages, len(rooms) // 2, harness.patience)
            confirmed(all(message.channel == Room(number=message.data).name for message in found), "a message came on another channel than its own")


@check("D12", finds={"forget to unsubscribe"}, alone=True)
async def ten_thousand_channels(harness: Harness) -> None:
    """Ten thousand channels in and out, one by one in crowds and by the hundred, leave nothing here nor at the server."""
    many = harness.crowd
    async with open_realtime(harness, linger=0.0) as rt:
        await works(harness, rt, ROOM)
        await until(lambda: rt.stats().channels == 0, "the first channel is gone", harness.patience)
        async with no_leaks(harness, seconds=harness.patience):
            for begin in range(0, many, 500):
                numbers = range(begin, min(begin + 500, many))
                async with anyio.create_task_group() as visitors:
                    if begin % 5_000 == 0:
                        for number in numbers:
                            visitors.start_soon(_visit, rt, number)
                    else:
                        for first in range(0, 500, 100):
                            visitors.start_soon(_visit_many, harness, rt, numbers[first : first + 100])
            await until(lambda: rt.stats().channels == 0, "all channels are gone", harness.patience)
            stats = rt.stats()
            expect((stats.subscriptions, stats.logs, stats.publishing, stats.buffered_bytes), (0, 0, 0, 0), "what the Realtime still has")
        await works(harness, rt, ROOM)


# ---------------------------------------------------------------------- cancelled at every await point


async def _everywhere(harness: Harness, scenario: Callable[[Realtime], Awaitable[object]], *, history: int = 0) -> None:
    """Cancel a scenario at each of its await points on one Realtime, which has to be none the worse."""
    async with no_leaks(harness, seconds=harness.patience), open_realtime(harness, linger=0.0) as rt:
        if history:
            await rt.publish_many([ROOM.a(n) for n in range(history)])
        await works(harness, rt, Room(number=2))

        async def nothing(point: int) -> None:
            await until(lambda: rt.stats().channels == 0 and rt.stats().publishing == 0, "channels and publishes are gone", harness.patience)
            stats = rt.stats()
            expect((stats.subscriptions, stats.logs, stats.buffered_bytes), (0, 0, 0), "what the Realtime still has")
            if point % 8 == 0:
                await works(harness, rt, Room(number=2))

        before = await snapshot(harness)
        points = await cancelled_everywhere(lambda: scenario(rt), seconds=2 * harness.patience, after=nothing)
        confirmed(points > 1, f"the scenario has {points} await points, so hardly anything was cancelled")
        await until_async(lambda: _left(harness, before), "", "what is left on the open connection", harness.patience)
        await works(harness, rt, ROOM)


async def _left(harness: Harness, before: Snapshot) -> str:
    """Tell what there is more of; other ones in the place of those that were there are none the worse, for a connection may have been made anew."""
    now = await snapshot(harness)
    more = any(len(here) > len(there) for here, there in ((now.tasks, before.tasks), (now.threads, before.threads), (now.files, before.files)))
    return "; ".join(now.beyond(before)) if more or now.subscriptions > before.subscriptions else ""


@check("D13", finds={"forget to unsubscribe"}, alone=True)
async def cancelled_subscribing(harness: Harness) -> None:
    """Subscribing to one channel and to many, cancelled at every await point, leaves nothing here nor at the server."""

    async def subscribe(rt: Realtime) -> None:
        async with rt.subscribe(ROOM.a), rt.subscribe(*(Room(number=number).b for number in range(20))), rt.subscribe(ROOM.name).raw():
            await checkpoint()

    await _everywhere(harness, subscribe)


@check("D6", finds={"drop one"}, alone=True)
async def cancelled_publishing(harness: Harness) -> None:
    """Publishing, cancelled at every await point: each message is absent or whole, what was acknowledged arrives once and in order, and no loss is told."""
    acknowledged: list[int] = []
    begun = 0
    async with open_realtime(harness) as listener, listener.subscribe(ROOM.a, ROOM.text, buffer=100_000) as messages:
        await Exchange(harness, listener, messages).say(ROOM.text, "begin")

        async def publish(rt: Realtime) -> None:
            nonlocal begun
            for many in (1, 5, 70, 1):
                numbers = range(begun, begun + many)
                begun += many
                await (rt.publish(ROOM.a, numbers[0]) if many == 1 else rt.publish_many([ROOM.a(n) for n in numbers]))
                acknowledged.extend(numbers)
                await checkpoint()

        await _everywhere(harness, publish)
        found = [message.data for message in await up_to_the_end(harness, listener, ROOM, messages) if message.topic == "a" and message.data >= 0]
        expect(len(found), len(set(found)), "messages, against different ones")
        confirmed(set(found) <= set(range(begun)), "messages came that nobody published")
        if faithful(listener):
            confirmed(set(acknowledged) <= set(found), "messages that were acknowledged did not arrive")
            expect(found, sorted(found), "the order")
            expect(messages.stats().gaps, 0, "losses that were told")


@check("D15", finds={"never let go"}, alone=True)
async def cancelled_iterating(harness: Harness) -> None:
    """Iterating in every form, cancelled at every await point, leaves nothing."""

    async def iterate(rt: Realtime) -> None:
        async with rt.subscribe(ROOM.a) as one, rt.subscribe(ROOM.a, ROOM.b).with_gaps() as two, rt.subscribe(ROOM.a).raw() as three:
            sure = faithful(rt) and "confirmed_subscribe" in rt.capabilities.names()
            for number in range(3):
                await rt.publish(ROOM.a, number)
                if sure:
                    await anext(one)
                    async for _ in two:
                        break
                    async for _ in three.batches(max_wait=0.001):
                        break
            # Behind the last message it waits for one that does not come.
            with anyio.move_on_after(0.002):
                async for _ in one:
                    pass

    await _everywhere(harness, iterate)


@check("D15b", needs={"ordering.publisher"}, finds={"drop one"})
async def cancelled_waits_lose_nothing(harness: Harness) -> None:
    """A consumer whose waits are cancelled again and again, wherever they are, and who goes on each time, receives every message once and in order."""
    found: list[int] = []
    async with open_realtime(harness) as rt, rt.subscribe(ROOM.a, buffer=10_000) as messages, anyio.create_task_group() as tasks:
        await Exchange(harness, rt, messages).say(ROOM.a, -1)

        async def publish() -> None:
            for number in range(0, 600, 3):
                await rt.publish(ROOM.a, number)
                await rt.publish_many([ROOM.a(number + 1), ROOM.a(number + 2)])
                await checkpoint()

        tasks.start_soon(publish)
        with anyio.move_on_after(2 * harness.patience):
            turns = 0
            while not found or found[-1] != 599:
                turns += 1
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as both:
                        both.start_soon(_cancel_after, turns % 4, scope)
                        try:
                            if turns % 3:
                                found.append((await anext(messages)).data)
                            else:
                                async for message in messages:
                                    found.append(message.data)  # noqa: PERF401 - what came before the cancellation counts
                        finally:
                            scope.cancel()
        tasks.cancel_scope.cancel()
        expect(found, list(range(600)), "the messages")
        expect(messages.stats().gaps, 0, "losses that were told")


async def _cancel_after(turns: int, scope: anyio.CancelScope) -> None:
    for _ in range(turns):
        await checkpoint()
    scope.cancel()


@check("D16", needs={"history.earliest"}, finds={"never let go"}, alone=True)
async def cancelled_reading_history(harness: Harness) -> None:
    """Reading history, and subscribing with it, cancelled at every await point, leaves nothing."""

    async def read(rt: Realtime) -> None:
        await rt.history(ROOM.a, limit=40)
        async with rt.subscribe(ROOM.a, start=Start.EARLIEST) as messages:
            for _ in range(50):
                await anext(messages)
            async for _ in messages.batches(max_size=20):
                break

    await _everywhere(harness, read, history=100)


@check("D17", finds={"leave a socket"}, alone=True)
async def cancelled_lifetimes(harness: Harness) -> None:
    """Connecting, working and closing, cancelled at every await point, leaves no task, thread, socket or subscription at the server."""

    async def live() -> None:
        async with open_realtime(harness) as rt, rt.subscribe(ROOM.a):
            await rt.publish(ROOM.a, 1)
            await rt.publish_many([ROOM.a(2), ROOM.b(3)])
            await checkpoint()

    async with no_leaks(harness, seconds=harness.patience):
        await cancelled_everywhere(live, seconds=2 * harness.patience)


@check("D17b", finds={"leave a socket"}, alone=True)
async def cancelled_closing(harness: Harness) -> None:
    """Closing with publishes under way, cancelled at every await point: it is closed all the same, nobody waits for a publish, and nothing is left."""
    outcomes: list[object] = []
    opened: list[Realtime] = []

    async def open_another() -> None:
        opened.append(await open_realtime(harness).__aenter__())
        outcomes.clear()

    async def close() -> None:
        rt = opened[-1]

        async def publish(number: int) -> None:
            try:
                outcomes.append(await rt.publish_many([Room(number=number % 2).a(1)]))
            except FanwireError as error:
                outcomes.append(error)

        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(publish, number)
            await rt.aclose()

    async def closed(point: int) -> None:
        with anyio.fail_after(harness.patience):
            await opened[-1].aclose()
        expect(
            (opened[-1].stats().state.value, opened[-1].stats().publishing), ("closed", 0), f"the state, and publishes under way, at point {point}"
        )
        await open_another()

    async with no_leaks(harness, seconds=harness.patience):
        await open_another()
        await cancelled_everywhere(close, seconds=2 * harness.patience, after=closed)
        await opened[-1].aclose()
