"""Nothing is left behind: no task, no entry in any table, no byte in the budget, no warning when the garbage goes; however a subscription or a Realtime is left."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint

from fanwire import Message, Realtime, Start, Subscription
from fanwire.errors import MessagesLost, Timeout
from fanwire_memory import MemoryBroker, MemoryTransport
from tests.clock import ManualClock
from tests.rules.support import QUIET, Room, Toy, engine_of, left_behind, settle, subscribers, take, told, until
from tests.rules.support_close import debris, running_tasks

pytestmark = pytest.mark.anyio

ROOM = Room(number=1)

MANY = 1000


def census(rt: Realtime, transport: MemoryTransport) -> dict[str, int]:
    """Count what is there: tasks, entries, bytes, who listens at the broker."""
    return {"tasks": running_tasks(), "broker": subscribers(transport), **left_behind(rt)}


async def empty(rt: Realtime, transport: MemoryTransport, tasks: int) -> None:
    """Wait until all has gone."""
    wanted = {"tasks": tasks, "broker": 0, **QUIET}
    try:
        await until(lambda: census(rt, transport) == wanted, "all has gone")
    except AssertionError as error:
        raise AssertionError(f"{error}: {census(rt, transport)} is not {wanted}") from None


# ---------------------------------------------------------------------- a thousand channels


async def _visit(rt: Realtime, number: int, start: Start) -> None:
    """Subscribe, publish, read, and leave something unread."""
    room = Room(number=number)
    async with rt.subscribe(room, start=start) as messages:
        await rt.publish(room.a, number)
        assert told(await take(messages, 1)) == [number]
        await rt.publish_many([room.b(number), room.a(number)])


@pytest.mark.parametrize("start", [Start.LIVE, Start.EARLIEST], ids=["live", "with history"])
async def test_a_thousand_channels_in_and_out_leave_nothing(start: Start) -> None:
    """One after the other, in crowds, and all at once."""
    transport = MemoryTransport()
    with debris() as heard:
        async with Realtime(transport, linger=0.0) as rt:
            tasks = running_tasks()
            for crowd in (1, 50, 1000):
                for begin in range(0, MANY, crowd) if crowd > 1 else range(100):
                    async with anyio.create_task_group() as visitors:
                        for number in range(begin, begin + crowd):
                            visitors.start_soon(_visit, rt, crowd * 10_000 + number, start)
                await empty(rt, transport, tasks)
    assert heard == []


async def _pass(clock: ManualClock, seconds: float) -> None:
    """Let time pass, and wait until the sweep has looked and sleeps again."""
    sleeps = len(clock.slept)
    clock.advance(seconds)
    await until(lambda: len(clock.slept) > sleeps, "the sweep waits again")


async def test_a_thousand_channels_linger_for_the_time_they_are_given_and_go_together() -> None:
    """The time is the clock's: they are there before it is over, and gone after it, without a task for each."""
    clock = ManualClock()
    transport = MemoryTransport()
    async with Realtime(transport, linger=60.0, clock=clock) as rt:
        tasks = running_tasks()
        for begin in range(0, MANY, 100):
            async with anyio.create_task_group() as visitors:
                for number in range(begin, begin + 100):
                    visitors.start_soon(_visit, rt, number, Start.LIVE)
        await until(lambda: clock.sleepers > 0, "the sweep waits")
        assert census(rt, transport) == {"tasks": tasks + 1, "broker": MANY, **QUIET, "channels": MANY, "lingering": MANY}
        for _ in range(3):
            await _pass(clock, 15.0)
        assert left_behind(rt)["lingering"] == MANY
        clock.advance(15.1)
        await until(lambda: left_behind(rt) == QUIET and subscribers(transport) == 0, "all have gone")
        await settle()
        clock.advance(15.0)  # the sweep may have gone to sleep between two batches of them
        await empty(rt, transport, tasks)
        assert clock.sleepers == 0


async def test_a_channel_that_is_wanted_again_while_it_lingers_stays_and_goes_later() -> None:
    clock = ManualClock()
    transport = MemoryTransport()
    async with Realtime(transport, linger=60.0, clock=clock) as rt:
        tasks = running_tasks()
        for number in range(100):
            await _visit(rt, number, Start.LIVE)
        await until(lambda: clock.sleepers > 0, "the sweep waits")
        await _pass(clock, 50.0)
        async with rt.subscribe(Room(number=7)) as messages:
            clock.advance(15.0)
            await until(lambda: subscribers(transport) == 1, "the others have gone")
            await rt.publish(Room(number=7).a, 1)
            assert told(await take(messages, 1)) == [1]
        await until(lambda: clock.sleepers > 0, "the sweep waits")
        clock.advance(60.1)
        await empty(rt, transport, tasks)


async def test_a_thousand_channels_are_forgotten_by_a_broker_that_keeps_no_connection() -> None:
    """They linger when the connection breaks: nobody is to be told, nobody subscribes them again."""
    transport = MemoryTransport()
    async with Realtime(transport, linger=3600.0) as rt:
        tasks = running_tasks()
        async with anyio.create_task_group() as visitors:
            for number in range(MANY):
                visitors.start_soon(_visit, rt, number, Start.LIVE)
        assert left_behind(rt)["lingering"] == MANY
        transport.faults.disconnect()
        await until(lambda: rt.stats().connections == 2, "it is connected again")
        await until(lambda: {**census(rt, transport), "tasks": 0} == {"tasks": 0, "broker": 0, **QUIET}, "all are forgotten")
        assert running_tasks() <= tasks + 1  # the sweep may still sleep


async def test_a_thousand_publishes_on_as_many_channels_leave_no_lane() -> None:
    """On a driver that has to be waited for, where each needs one."""
    toy = Toy()
    async with Realtime(toy) as rt:
        tasks = running_tasks()
        async with anyio.create_task_group() as publishers:
            for number in range(MANY):
                publishers.start_soon(rt.publish, Room(number=number).a, number)
        await rt.publish_many([Room(number=number).b(number) for number in range(MANY)])
        await until(lambda: left_behind(rt) == QUIET and running_tasks() == tasks, "nothing is left")
        assert sum(map(len, toy.batches)) == 2 * MANY


async def test_a_broker_forgets_a_thousand_channels_that_nobody_uses_any_more() -> None:
    """When their history has passed; two for each that is added."""
    clock = ManualClock()
    transport = MemoryTransport(clock=clock)
    broker = transport.native(MemoryBroker)
    async with Realtime(transport, linger=0.0) as rt:
        for number in range(MANY):
            await rt.publish(Room(number=number).a, number)
        assert (len(broker._streams), broker._bytes > 0) == (MANY, True)
        clock.advance(301.0)
        for number in range(MANY, 2 * MANY):
            await rt.publish(Room(number=number).a, number)
        assert len(broker._streams) <= MANY
        clock.advance(301.0)
        for number in range(2 * MANY, 3 * MANY):
            await rt.publish(Room(number=number).a, number)
        assert len(broker._streams) <= MANY
        assert broker._bytes == sum(len(entry[0]) for stream in broker._streams.values() for entry in stream.entries)


# ---------------------------------------------------------------------- a thousand subscriptions


async def test_a_thousand_subscriptions_of_one_channel_share_and_leave_nothing() -> None:
    transport = MemoryTransport()
    with debris() as heard:
        async with Realtime(transport, linger=0.0) as rt:
            tasks = running_tasks()
            async with AsyncExitStack() as stack:
                entered = [await stack.enter_async_context(rt.subscribe(ROOM.a)) for _ in range(MANY)]
                await rt.publish(ROOM.a, 1)
                for messages in entered[::2]:
                    assert told(await take(messages, 1)) == [1]
                assert census(rt, transport) == {
                    "tasks": tasks,
                    "broker": 1,
                    **QUIET,
                    "channels": 1,
                    "logs": 1,
                    "subscriptions": MANY,
                    "bytes": left_behind(rt)["bytes"],
                }
            await empty(rt, transport, tasks)
    assert heard == []


async def test_a_thousand_subscriptions_of_a_thousand_interests_leave_nothing() -> None:
    """Each with a buffer of its own size, so that none shares; the bytes that wait are given back."""
    transport = MemoryTransport()
    async with Realtime(transport, linger=0.0) as rt:
        tasks = running_tasks()
        async with AsyncExitStack() as stack:
            for number in range(MANY):
                await stack.enter_async_context(rt.subscribe(ROOM.a, buffer=1000 + number))
            assert left_behind(rt)["logs"] == MANY
            for number in range(300):
                await rt.publish(ROOM.a, number)
            assert left_behind(rt)["bytes"] > 0
        await empty(rt, transport, tasks)


# ---------------------------------------------------------------------- ways to leave a subscription


class _Oops(Exception):
    """Raised in the body of a loop."""


async def _by_break(rt: Realtime, entered: anyio.Event) -> None:
    async with rt.subscribe(ROOM.a) as messages:
        await rt.publish_many([ROOM.a(n) for n in range(3)])
        async for message in messages:
            if message.data == 1:
                break


async def _by_exception(rt: Realtime, entered: anyio.Event) -> None:
    with pytest.raises(_Oops):
        async with rt.subscribe(ROOM.a) as messages:
            await rt.publish_many([ROOM.a(n) for n in range(3)])
            async for _ in messages:
                raise _Oops


async def _by_timeout(rt: Realtime, entered: anyio.Event) -> None:
    async with rt.subscribe(ROOM.a) as messages:
        with anyio.move_on_after(0.001) as scope:
            async for _ in messages:
                pass
        assert scope.cancelled_caught


async def _by_timeout_around(rt: Realtime, entered: anyio.Event) -> None:
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.001):
            async with rt.subscribe(ROOM.a).with_gaps() as messages:
                async for _ in messages:
                    pass


async def _by_cancellation(rt: Realtime, entered: anyio.Event) -> None:
    async with rt.subscribe(ROOM.a).raw() as messages:
        entered.set()
        async for _ in messages:
            pass


async def _by_cancellation_of_anext(rt: Realtime, entered: anyio.Event) -> None:
    async with rt.subscribe(ROOM.a) as messages:
        entered.set()
        await anext(messages)


async def _by_cancellation_of_batches(rt: Realtime, entered: anyio.Event) -> None:
    async with rt.subscribe(ROOM.a) as messages:
        await rt.publish(ROOM.a, 1)
        entered.set()
        async for _ in messages.batches(max_wait=100.0):
            pass


async def _unread(rt: Realtime, entered: anyio.Event) -> None:
    async with rt.subscribe(ROOM.a) as messages:
        await rt.publish_many([ROOM.a(n) for n in range(600)])
        assert messages.stats().lag == 600


async def _half_read_history(rt: Realtime, entered: anyio.Event) -> None:
    await rt.publish_many([ROOM.a(n) for n in range(100)])
    async with rt.subscribe(ROOM.a, start=Start.EARLIEST) as messages:
        async for _ in messages:
            break


async def _iterator_kept(rt: Realtime, entered: anyio.Event) -> None:
    """Somebody keeps the iterator longer than the subscription."""
    async with rt.subscribe(ROOM.a) as messages:
        await rt.publish(ROOM.a, 1)
        iterator = aiter(messages)
        assert (await anext(iterator)).data == 1
    with pytest.raises(StopAsyncIteration):
        await anext(iterator)


async def _never_iterated(rt: Realtime, entered: anyio.Event) -> None:
    async with rt.subscribe(ROOM.a) as messages:
        aiter(messages)


async def _never_entered(rt: Realtime, entered: anyio.Event) -> None:
    rt.subscribe(ROOM.a).with_gaps()


async def _by_a_gap(rt: Realtime, entered: anyio.Event) -> None:
    with pytest.raises(MessagesLost):
        async with rt.subscribe(ROOM.a, buffer=2, on_gap="raise") as messages:
            await rt.publish_many([ROOM.a(n) for n in range(10)])
            async for _ in messages:
                pass


async def _through_a_generator(rt: Realtime, entered: anyio.Event) -> None:
    """The subscription lives in a generator of the caller's, closed by it."""

    async def numbers() -> AsyncGenerator[int, None]:
        async with rt.subscribe(ROOM.a) as messages:
            await rt.publish(ROOM.a, 1)
            async for message in messages:
                yield message.data

    stream = numbers()
    assert await anext(stream) == 1
    await stream.aclose()


Way = Callable[[Realtime, anyio.Event], Awaitable[None]]

WAYS: tuple[Way, ...] = (
    _by_break,
    _by_exception,
    _by_timeout,
    _by_timeout_around,
    _by_cancellation,
    _by_cancellation_of_anext,
    _by_cancellation_of_batches,
    _unread,
    _half_read_history,
    _iterator_kept,
    _never_iterated,
    _never_entered,
    _by_a_gap,
    _through_a_generator,
)


@pytest.mark.parametrize("way", WAYS, ids=[way.__name__.strip("_") for way in WAYS])
async def test_a_subscription_may_be_left_in_any_way(way: Way) -> None:
    transport = MemoryTransport()
    with debris() as heard:
        async with Realtime(transport, linger=0.0) as rt:
            tasks = running_tasks()
            for _ in range(20):
                entered = anyio.Event()

                async def run(entered: anyio.Event = entered) -> None:
                    await way(rt, entered)
                    entered.set()

                async with anyio.create_task_group() as group:
                    group.start_soon(run)
                    await entered.wait()
                    if "cancellation" in way.__name__:
                        for _ in range(3):
                            await checkpoint()
                        group.cancel_scope.cancel()
                await empty(rt, transport, tasks)
        gc.collect()
    assert heard == []


async def test_the_check_notices_what_is_left() -> None:
    """A subscription that is entered and never left shows in every count; a coroutine that nobody awaits, among the debris."""
    transport = MemoryTransport()
    with debris() as heard:
        async with Realtime(transport, linger=0.0) as rt:
            tasks = running_tasks()
            kept = rt.subscribe(ROOM.a)
            await kept.__aenter__()
            assert census(rt, transport) == {"tasks": tasks, "broker": 1, **QUIET, "channels": 1, "logs": 1, "subscriptions": 1}
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep_forever)
                await checkpoint()
                assert running_tasks() == tasks + 1
                group.cancel_scope.cancel()
            rt.publish(ROOM.a, 1)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]  # which is the point
        del kept
    assert any("never awaited" in complaint for complaint in heard)


async def test_a_subscription_that_was_left_is_garbage() -> None:
    """No table, waiter or generator keeps it, nor its messages."""
    async with Realtime(MemoryTransport(), linger=0.0) as rt:
        seen: list[weakref.ref[Subscription[Message[int]]]] = []

        async def visit() -> None:
            async with rt.subscribe(ROOM.a) as messages:
                seen.append(weakref.ref(messages))
                await rt.publish_many([ROOM.a(n) for n in range(10)])
                async for _ in messages:
                    break

        for _ in range(10):
            await visit()
        await until(lambda: left_behind(rt) == QUIET, "all have gone")
        gc.collect()
        assert [reference() for reference in seen] == [None] * 10


async def test_what_everybody_has_read_is_not_kept() -> None:
    """A log is no history: it holds what its slowest reader still needs, and frees it in time."""
    async with Realtime(MemoryTransport(), linger=0.0) as rt, rt.subscribe(ROOM.a) as messages:
        for number in range(5000):
            await rt.publish(ROOM.a, number)
            assert told(await take(messages, 1)) == [number]
        (log,) = engine_of(rt).hub.logs.values()
        assert len(log.entries) <= 512
        assert left_behind(rt)["bytes"] < 512 * 200


# ---------------------------------------------------------------------- ways to leave a Realtime


async def test_a_realtime_may_be_entered_and_left_in_different_tasks() -> None:
    """As fixtures do: one task sets up, another one tears down, and those in between have ended long since."""
    transport = MemoryTransport()
    before = running_tasks()
    with debris() as heard:
        for _ in range(5):
            rt = Realtime(transport)
            for step in (rt.__aenter__, lambda rt=rt: _visit(rt, 1, Start.LIVE), lambda rt=rt: rt.__aexit__(None, None, None)):
                async with anyio.create_task_group() as group:
                    group.start_soon(_await, step)
            assert (running_tasks(), subscribers(transport), left_behind(rt)) == (before, 0, QUIET)
    assert heard == []


async def _await(step: Callable[[], Awaitable[object]]) -> None:
    await step()


async def test_the_task_that_entered_may_be_cancelled_without_harm() -> None:
    """Its scope is not the Realtime's: what goes on in others goes on."""
    rt = Realtime(MemoryTransport())
    async with anyio.create_task_group() as group:
        entered = anyio.Event()

        async def enter() -> None:
            await rt.__aenter__()
            entered.set()
            await anyio.sleep_forever()

        group.start_soon(enter)
        await entered.wait()
        group.cancel_scope.cancel()
    await _visit(rt, 1, Start.LIVE)
    await rt.aclose()


@pytest.fixture
async def rt() -> AsyncIterator[Realtime]:
    """A Realtime as users' tests have it."""
    async with Realtime(MemoryTransport()) as opened:
        yield opened


async def test_a_fixture_gives_an_open_realtime(rt: Realtime) -> None:
    await _visit(rt, 1, Start.LIVE)


async def test_a_realtime_may_live_in_a_generator() -> None:
    @asynccontextmanager
    async def opened() -> AsyncGenerator[Realtime, None]:
        async with Realtime(MemoryTransport()) as rt:
            yield rt

    before = running_tasks()
    with debris() as heard:
        async with opened() as rt:
            await _visit(rt, 1, Start.LIVE)
        assert running_tasks() == before
    assert heard == []


async def _read(rt: Realtime, found: list[int]) -> None:
    async with rt.subscribe(ROOM.a) as messages:
        found.extend([message.data async for message in messages])


@pytest.mark.parametrize("error", [_Oops(), Timeout("of the body"), KeyboardInterrupt()], ids=["exception", "our own", "interrupt"])
async def test_a_realtime_left_by_an_exception_leaves_nothing(error: BaseException) -> None:
    """Subscribers of other tasks end, behind what they have; the exception goes on unchanged."""
    transport = MemoryTransport()
    before = running_tasks()
    found: list[int] = []
    rt = Realtime(transport)
    raised: list[BaseException] = []
    with debris() as heard:
        async with anyio.create_task_group() as group:
            try:
                async with rt:
                    group.start_soon(_read, rt, found)
                    await until(lambda: any(log.waiters for log in engine_of(rt).hub.logs.values()), "it reads")
                    async with rt.subscribe(ROOM.b):
                        await rt.publish(ROOM.a, 1)
                        raise error
            except type(error) as caught:
                raised.append(caught)
            assert raised == [error]
            assert subscribers(transport) == 0
        assert (found, running_tasks(), left_behind(rt)) == ([1], before, QUIET)
    assert heard == []


async def test_a_realtime_that_could_not_be_entered_leaves_nothing() -> None:
    before = running_tasks()
    with debris() as heard:
        for _ in range(10):
            transport = MemoryTransport()
            transport.faults.disconnect(refuse=1000)
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(Realtime(transport).__aenter__)
                    for _ in range(5):
                        await checkpoint()
                    scope.cancel()
            assert running_tasks() == before
    assert heard == []


async def test_a_realtime_that_was_left_is_garbage() -> None:
    async def live() -> weakref.ref[Realtime]:
        async with Realtime(MemoryTransport()) as rt:
            await _visit(rt, 1, Start.LIVE)
            return weakref.ref(rt)

    references = [await live() for _ in range(5)]
    await checkpoint()
    gc.collect()
    assert [reference() for reference in references] == [None] * 5
