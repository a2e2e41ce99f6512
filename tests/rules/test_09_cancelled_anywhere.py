"""Rule 9 again: every operation, cancelled after so many turns of the event loop, whatever it was doing then. Nothing is left, nobody hangs, everything still works."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from fanwire import Realtime, Receipt, Start
from fanwire.errors import FanwireError
from fanwire.transport import HistoryPage, Outbound
from fanwire_memory import MemoryTransport
from tests.rules.support import LOG, QUIET, Room, Toy, ToyWithHistory, left_behind, until, upto
from tests.rules.support_close import Turns, cancelled_after, debris, drain, running_tasks, still_works

pytestmark = pytest.mark.anyio

Operation = Callable[[Realtime], Coroutine[Any, Any, None]]  # Any: what a coroutine is sent, which is the event loop's affair

POINTS = range(40)
"""Turns after which an operation is cancelled."""

ROOM = Room(number=9)
KEPT = 600
"""Messages of its history: three pages, and more than one chunk."""


def slow() -> ToyWithHistory:
    """Make a transport whose every step takes several turns, so that cancellations meet each of them."""
    toy = ToyWithHistory()
    turns = Turns(3)

    async def publish(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        await turns()
        receipts = await toy.accept(batch)
        await turns()
        return receipts

    async def history(page: HistoryPage) -> HistoryPage:
        await turns()
        return page

    toy.on_publish = publish
    toy.on_history = history
    toy.before_subscribe = toy.before_unsubscribe = turns
    return toy


TRANSPORTS: dict[str, Callable[[], MemoryTransport | Toy]] = {"memory": MemoryTransport, "slow": slow}

each_transport = pytest.mark.parametrize("make", TRANSPORTS.values(), ids=TRANSPORTS.keys())


async def _live(rt: Realtime) -> None:
    async with rt.subscribe(ROOM.a, ROOM.b) as messages:
        await rt.publish(ROOM.a, 1)
        await anext(messages)
        async for _ in messages:
            pass


async def _several(rt: Realtime) -> None:
    async with rt.subscribe(*(Room(number=number).a for number in range(20))) as messages:
        await anext(messages)


async def _history(rt: Realtime) -> None:
    async with rt.subscribe(ROOM.a, start=Start.EARLIEST).with_gaps() as messages:
        await rt.publish(ROOM.a, 2)
        async for _ in messages:
            pass


async def _batches(rt: Realtime) -> None:
    async with rt.subscribe(ROOM, start=Start.last(300)).raw() as messages:
        async for _ in messages.batches(max_size=50, max_wait=0.0005):
            pass


async def _publish(rt: Realtime) -> None:
    while True:
        await rt.publish(ROOM.a, 3)


async def _publish_many(rt: Realtime) -> None:
    while True:
        await rt.publish_many([ROOM.a(4), Room(number=10).b(5), ROOM.b(6)])


async def _read_history(rt: Realtime) -> None:
    while True:
        assert len(await rt.history(ROOM, limit=30)) == 30
        await checkpoint()


async def _events(rt: Realtime) -> None:
    async with rt.events() as events:
        async for _ in events:
            pass


async def _in_and_out(rt: Realtime) -> None:
    """Whoever comes back meets a channel that lingers, is being left, or is being asked for."""
    while True:
        async with rt.subscribe(ROOM.b):
            await checkpoint()


OPERATIONS: dict[str, Operation] = {
    "subscribe": _live,
    "subscribe to many": _several,
    "subscribe with history": _history,
    "batches": _batches,
    "publish": _publish,
    "publish_many": _publish_many,
    "history": _read_history,
    "events": _events,
    "in and out": _in_and_out,
}


@each_transport
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
@pytest.mark.parametrize("crowd", [1, 3])
async def test_an_operation_may_be_cancelled_anywhere(operation: Operation, make: Callable[[], MemoryTransport | Toy], crowd: int) -> None:
    """By one or several tasks at once, on one Realtime that has to stand all of it."""
    with debris() as heard:
        async with Realtime(make(), linger=0.0) as rt:
            await rt.publish_many([ROOM.a(number) for number in range(KEPT)])
            await drain(rt, lambda: True)
            before = running_tasks()

            async def together() -> None:
                async with anyio.create_task_group() as tasks:
                    for _ in range(crowd):
                        tasks.start_soon(operation, rt)

            for turns in POINTS:
                assert await cancelled_after(turns, together)
                await until(lambda: left_behind(rt) == QUIET, f"all has gone after {turns} turns")
                await until(lambda: running_tasks() == before, f"all tasks have ended after {turns} turns")
                if turns % 8 == 0:
                    await still_works(rt, ROOM)
            await still_works(rt, ROOM)
    assert heard == []


@each_transport
async def test_a_subscriber_sees_no_hole_in_what_others_cancel(make: Callable[[], MemoryTransport | Toy]) -> None:
    """Publishes are cancelled at every point while somebody watches: what was acknowledged is there once and in order, and no gap is told."""
    async with Realtime(make(), buffer=10_000) as rt, rt.subscribe(ROOM.a).with_gaps() as messages:
        acknowledged: list[int] = []
        number = 0

        async def publish() -> None:
            nonlocal number
            while True:
                number += 1
                mine = number
                await rt.publish(ROOM.a, mine)
                acknowledged.append(mine)
                await checkpoint()

        async def crowd() -> None:
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(publish)

        for turns in POINTS:
            await cancelled_after(turns, crowd)
        await drain(rt, lambda: True)
        number += 1
        await rt.publish(ROOM.a, number)
        seen = await upto(messages, number)
        numbers = [item for item in seen if isinstance(item, int)]
        assert len(numbers) == len(seen), "a gap was told"
        assert len(set(numbers)) == len(numbers), "something came twice"
        assert set(acknowledged) <= set(numbers)
        assert len(acknowledged) > 40


async def _enter(rt: Realtime) -> None:
    async with rt.subscribe(ROOM.b):
        pass


CALLS: dict[str, Operation] = {
    "publish": lambda rt: _drop(rt.publish(ROOM.a, 1)),
    "publish_many": lambda rt: _drop(rt.publish_many([ROOM.a(1)])),
    "subscribe": _enter,
    "history": lambda rt: _drop(rt.history(ROOM, limit=1)),
    "ping": lambda rt: _drop(rt.ping()),
}


async def _drop(result: Awaitable[object]) -> None:
    await result


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_whoever_calls_again_and_again_can_be_cancelled(call: Operation) -> None:
    """Though the memory transport has every answer at once: a deadline must not wait for the loop to end, nor other tasks for their turn."""
    async with Realtime(MemoryTransport()) as rt:
        await call(rt)
        with anyio.CancelScope() as scope:
            scope.cancel()
            for _ in range(300):
                await call(rt)
        assert scope.cancelled_caught, "three hundred calls went by"


# ---------------------------------------------------------------------- a whole Realtime


async def _lifetime(transport: MemoryTransport | Toy) -> None:
    async with Realtime(transport) as rt, rt.subscribe(ROOM.a) as messages, anyio.create_task_group() as tasks:
        tasks.start_soon(rt.publish, ROOM.a, 1)
        await anext(messages)
        tasks.start_soon(rt.publish_many, [ROOM.a(2), Room(number=10).a(3)])
        await anext(messages)


@each_transport
async def test_a_lifetime_may_be_cancelled_anywhere(make: Callable[[], MemoryTransport | Toy]) -> None:
    """Entering, working and leaving: no task of it outlives whoever was cancelled."""
    before = running_tasks()
    cut = 0
    with debris() as heard:
        for turns in POINTS:
            cut += await cancelled_after(turns, lambda: _lifetime(make()))
            assert running_tasks() == before, f"a task is left, cancelled after {turns} turns"
    assert cut > 5
    assert heard == []


@each_transport
async def test_closing_may_be_cancelled_anywhere(make: Callable[[], MemoryTransport | Toy]) -> None:
    """Publishes are under way, nobody waits for them any more than for the close: it is closed all the same."""
    before = running_tasks()
    for turns in POINTS:
        outcomes: list[object] = []
        rt = Realtime(make())

        async def publish(room: Room, rt: Realtime = rt, outcomes: list[object] = outcomes) -> None:
            try:
                outcomes.append(await rt.publish(room.a, 1))
            except FanwireError as error:
                outcomes.append(error)

        await rt.__aenter__()
        try:
            async with anyio.create_task_group() as tasks:
                for number in range(3):
                    tasks.start_soon(publish, Room(number=number % 2))
                await cancelled_after(turns, rt.aclose)
                with anyio.fail_after(5):
                    await rt.aclose()
                await until(lambda: len(outcomes) == 3, "nobody waits for a publish", 2.0)  # noqa: B023 - within its round
            assert running_tasks() == before, f"a task is left, cancelled after {turns} turns"
        finally:
            with anyio.CancelScope(shield=True):
                await rt._engine._host.stop() if rt._engine is not None else None


async def test_a_reconnecting_realtime_may_be_cancelled_anywhere() -> None:
    """The connection breaks again and again meanwhile."""
    before = running_tasks()
    with debris() as heard:
        for turns in POINTS:
            toy = Toy(LOG)
            toy.before_subscribe = Turns(2)

            async def break_it(toy: Toy = toy) -> None:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_lifetime, toy)
                    while True:
                        await Turns(5)()
                        toy.disconnect()

            await cancelled_after(turns, break_it)
            assert running_tasks() == before, f"a task is left, cancelled after {turns} turns"
    assert heard == []
