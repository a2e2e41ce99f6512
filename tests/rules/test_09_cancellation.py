"""Rule 9, cancellation: before hand-over a publish is absent, after it the outcome is unknown and others are unaffected; a consumer that is cut short loses nothing."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Literal

import anyio
import anyio.abc
import pytest
from anyio.lowlevel import checkpoint

from fanwire import Gap, GapReason, Message, Realtime, Receipt, Start, Subscription
from fanwire.errors import ConnectFailed, ConnectionLost, FanwireError, MessagesLost, Timeout
from fanwire.transport import Outbound
from fanwire_memory import MemoryTransport
from tests.rules.support import (
    BEST_EFFORT,
    COUNTERS,
    LOG,
    QUIET,
    Room,
    Toy,
    ToyWithHistory,
    engine_of,
    frame_of,
    left_behind,
    settle,
    take,
    told,
    tumble,
    until,
    upto,
)
from tests.rules.support_close import Turns, debris, drain, running_tasks, still_works

pytestmark = pytest.mark.anyio

ROOM = Room(number=9)

TRANSPORTS: dict[str, Callable[[], MemoryTransport | Toy]] = {
    "memory": MemoryTransport,
    "counters": Toy,
    "best effort": lambda: Toy(BEST_EFFORT),
    "positions": lambda: Toy(LOG),
}

each_transport = pytest.mark.parametrize("make", TRANSPORTS.values(), ids=TRANSPORTS.keys())


class Blocked:
    """A transport whose driver takes publishes and does not answer before ``go``."""

    def __init__(self, transport: MemoryTransport | Toy) -> None:
        self.transport = transport
        self._go = anyio.Event()
        if isinstance(transport, Toy):
            transport.on_publish = self._publish
        else:
            transport.faults.block()

    async def _publish(self, batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        assert isinstance(self.transport, Toy)
        await self._go.wait()
        return await self.transport.accept(batch)

    def go(self) -> None:
        """Answer, now and from now on."""
        self._go.set()
        if isinstance(self.transport, MemoryTransport):
            self.transport.faults.resume()


class Calls:
    """Calls in tasks of their own, each with a scope to cancel it by, and what came of them."""

    def __init__(self, rt: Realtime, tasks: anyio.abc.TaskGroup) -> None:
        self.rt = rt
        self.scopes: dict[int, anyio.CancelScope] = {}
        self.results: dict[int, object] = {}
        self._tasks = tasks

    async def publish(self, number: int, room: Room = ROOM) -> None:
        """Begin to publish ``number``; returns when it is queued or handed over."""
        await self.begin(number, lambda: self.rt.publish(room.a, number))

    async def begin(self, number: int, what: Callable[[], Awaitable[object]], messages: int = 1) -> None:
        """Begin a call that publishes some messages."""
        expected = self.rt.stats().publishing + messages
        self._tasks.start_soon(self._run, number, what)
        await until(lambda: self.rt.stats().publishing == expected, f"call {number} is under way")
        await settle(10)

    async def _run(self, number: int, what: Callable[[], Awaitable[object]]) -> None:
        with anyio.CancelScope() as scope:
            self.scopes[number] = scope
            try:
                self.results[number] = await what()
            except FanwireError as error:
                self.results[number] = error
        self.results.setdefault(number, "cancelled")

    async def cancel(self, *numbers: int) -> None:
        """Cancel calls, and wait for their end."""
        for number in numbers:
            self.scopes[number].cancel()
        await until(lambda: all(number in self.results for number in numbers), f"calls {numbers} have ended")
        assert [self.results[number] for number in numbers] == ["cancelled"] * len(numbers)

    async def accepted(self, *numbers: int) -> None:
        """Wait for the end of calls, and assert that each was accepted."""
        await until(lambda: all(number in self.results for number in numbers), f"calls {numbers} have ended")
        assert [type(self.results[number]) for number in numbers] == [Receipt] * len(numbers)


def _have_ended(calls: Calls, number: int) -> bool:
    return len(calls.results) == number


# ---------------------------------------------------------------------- before hand-over: absent


@each_transport
async def test_a_publish_cancelled_before_hand_over_is_absent(make: Callable[[], MemoryTransport | Toy]) -> None:
    """2 waits behind 1, which the driver has; 3 waits behind 2. Neither a message nor a gap tells of 2."""
    transport = make()
    async with Realtime(transport) as rt, rt.subscribe(ROOM).with_gaps() as messages, anyio.create_task_group() as tasks:
        blocked, calls = Blocked(transport), Calls(rt, tasks)
        for number in (1, 2, 3):
            await calls.publish(number)
        await calls.cancel(2)
        assert rt.stats().publishing == 2
        blocked.go()
        assert await upto(messages, 3) == [1, 3]
        await rt.publish(ROOM.a, 4)
        assert await upto(messages, 4) == [4]
        await calls.accepted(1, 3)


@each_transport
async def test_of_many_calls_any_may_be_cancelled(make: Callable[[], MemoryTransport | Toy]) -> None:
    """Of publishes and publish_manys on two channels, cancelled in any order: exactly the others arrive, each channel in the order of the calls."""
    rooms = (Room(number=1), Room(number=2))
    for seed in range(3):
        dice = random.Random(seed)
        transport = make()
        expected: dict[str, list[int]] = {room.name: [] for room in rooms}
        async with (
            Realtime(transport) as rt,
            rt.subscribe(rooms[0]).with_gaps() as first,
            rt.subscribe(rooms[1]).with_gaps() as second,
            anyio.create_task_group() as tasks,
        ):
            blocked, calls = Blocked(transport), Calls(rt, tasks)
            for room in rooms:
                await calls.publish(room.number, room)  # in flight: it keeps the rest waiting
                expected[room.name].append(room.number)
            sent: dict[int, list[tuple[Room, int]]] = {}
            for number in range(10, 210, 10):
                parts = [(dice.choice(rooms), number + n) for n in range(dice.randrange(1, 5))]
                sent[number] = parts
                await calls.begin(number, partial(rt.publish_many, [room.a(n) for room, n in parts]), len(parts))
            victims = dice.sample(list(sent), 10)
            for victim in victims:
                await calls.cancel(victim)
            for number, parts in sent.items():
                for room, n in parts if number not in victims else ():
                    expected[room.name].append(n)
            blocked.go()
            await drain(rt, partial(_have_ended, calls, 22))
            for room, messages in zip(rooms, (first, second), strict=True):
                await rt.publish(room.b, 0)
                assert await upto(messages, 0) == [*expected[room.name], 0]


@each_transport
async def test_what_was_cancelled_is_absent_after_the_connection_came_back(make: Callable[[], MemoryTransport | Toy]) -> None:
    transport = make()
    async with Realtime(transport) as rt, anyio.create_task_group() as tasks:
        calls = Calls(rt, tasks)
        if isinstance(transport, Toy):
            transport.refusals += [ConnectFailed("toy: nobody listens")] * 3
            transport.disconnect()
        else:
            transport.faults.disconnect(refuse=3)
        await until(lambda: rt.stats().state.value == "disconnected", "the connection is gone")
        for number in (1, 2, 3):
            await calls.publish(number)
        await calls.cancel(1, 3)
        async with rt.subscribe(ROOM.a).with_gaps() as messages:
            await until(lambda: 2 in calls.results, "2 is sent")
            await rt.publish(ROOM.a, 4)
            found = await upto(messages, 4)
            # 2 may have been sent before the subscription was ready.
            assert found in ([2, 4], [4])
        if isinstance(transport, Toy):
            assert [int(message.data) for batch in transport.batches for message in batch] == [2, 4]


@each_transport
async def test_a_publish_that_timed_out_before_hand_over_is_absent_and_says_so(make: Callable[[], MemoryTransport | Toy]) -> None:
    transport = make()
    async with Realtime(transport) as rt, rt.subscribe(ROOM).with_gaps() as messages, anyio.create_task_group() as tasks:
        blocked, calls = Blocked(transport), Calls(rt, tasks)
        await calls.publish(1)
        with pytest.raises(Timeout, match="it was not sent"):
            await rt.publish(ROOM.a, 2, timeout=0.02)
        await calls.publish(3)
        blocked.go()
        assert await upto(messages, 3) == [1, 3]


async def test_a_publish_in_a_cancelled_scope_is_absent() -> None:
    """Where it has to wait for the driver, it is cancelled before the driver gets it; whichever task has its turn first."""
    toy = Toy()
    async with Realtime(toy) as rt, rt.subscribe(ROOM.a).with_gaps() as messages:
        for number in range(30):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await rt.publish(ROOM.a, number)
            assert scope.cancelled_caught
        await rt.publish(ROOM.a, 30)
        assert await upto(messages, 30) == [30]
        assert [[int(message.data) for message in batch] for batch in toy.batches] == [[30]]


# ---------------------------------------------------------------------- after hand-over: unknown, and others unaffected


@each_transport
async def test_a_publish_cancelled_after_hand_over_leaves_the_others_alone(make: Callable[[], MemoryTransport | Toy]) -> None:
    transport = make()
    async with Realtime(transport) as rt, rt.subscribe(ROOM).with_gaps() as messages, anyio.create_task_group() as tasks:
        blocked, calls = Blocked(transport), Calls(rt, tasks)
        for number in (1, 2, 3):
            await calls.publish(number)
        await calls.cancel(1)
        await settle()
        assert 2 not in calls.results
        blocked.go()
        assert await upto(messages, 3) in ([1, 2, 3], [2, 3])
        await rt.publish(ROOM.a, 4)
        assert await upto(messages, 4) == [4]
        await calls.accepted(2, 3)


@each_transport
async def test_of_the_callers_of_one_batch_one_may_be_cancelled(make: Callable[[], MemoryTransport | Toy]) -> None:
    """1 to 5 coalesce behind 0 into one batch. With that in flight 3 is cancelled: the other four get their receipts."""
    transport = make()
    async with Realtime(transport) as rt, rt.subscribe(ROOM).with_gaps() as messages, anyio.create_task_group() as tasks:
        blocked, calls = Blocked(transport), Calls(rt, tasks)
        await calls.publish(0, Room(number=0))
        engine_of(rt).lanes.connected(up=False)  # holds back what comes, so that it goes out together
        for number in range(1, 6):
            await calls.publish(number)
        engine_of(rt).lanes.connected(up=True)
        await settle()
        await calls.cancel(3)
        blocked.go()
        await drain(rt, lambda: len(calls.results) == 6)
        await rt.publish(ROOM.b, 9)
        assert await upto(messages, 9) in ([1, 2, 3, 4, 5, 9], [1, 2, 4, 5, 9])
        await calls.accepted(1, 2, 4, 5)


@each_transport
async def test_a_publish_that_timed_out_after_hand_over_says_so(make: Callable[[], MemoryTransport | Toy]) -> None:
    transport = make()
    async with Realtime(transport) as rt, rt.subscribe(ROOM).with_gaps() as messages:
        blocked = Blocked(transport)
        with pytest.raises(Timeout, match="it was handed over, the outcome is unknown"):
            await rt.publish(ROOM.a, 1, timeout=0.02)
        blocked.go()
        await rt.publish(ROOM.a, 2)
        assert await upto(messages, 2) in ([1, 2], [2])
        await until(lambda: left_behind(rt)["lanes"] == 0, "the lane is gone")


@pytest.mark.parametrize("capabilities", [COUNTERS, BEST_EFFORT, LOG], ids=["counters", "best effort", "positions"])
@pytest.mark.parametrize("arrived", [True, False])
async def test_a_cancelled_publish_whose_batch_is_sent_again_is_no_hole(capabilities: Any, arrived: bool) -> None:  # Any: pytest passes it
    """The connection breaks with 1, 2 and 3 in flight, and 2 was cancelled meanwhile: 1 and 3 are sent again, and nobody takes the missing id for a loss."""
    toy = Toy(capabilities)
    answer = anyio.Event()

    async def break_once(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        if len(toy.batches) > 1:
            return [toy.store(message) for message in batch if not (arrived and message.retry)] + [
                Receipt(message.id, message.channel, message.topic, None, True) for message in batch if arrived and message.retry
            ]
        await answer.wait()
        if arrived:
            await toy.accept(batch)
        raise ConnectionLost("toy: no answer")

    toy.on_publish = break_once
    async with Realtime(toy) as rt, rt.subscribe(ROOM).with_gaps() as messages, anyio.create_task_group() as tasks:
        calls = Calls(rt, tasks)
        engine_of(rt).lanes.connected(up=False)
        for number in (1, 2, 3):
            await calls.publish(number)
        engine_of(rt).lanes.connected(up=True)
        await until(lambda: bool(toy.batches), "all are in flight")
        assert len(toy.batches[0]) == 3
        await calls.cancel(2)
        answer.set()
        await drain(rt, lambda: len(calls.results) == 3)
        await rt.publish(ROOM.b, 4)
        found = await upto(messages, 4)
        assert found in ([1, 2, 3, 4], [1, 3, 4]), "a cancelled publish shows as a gap"
        await calls.accepted(1, 3)


async def test_a_call_of_the_driver_is_never_cut_short_by_its_callers() -> None:
    """No half-written frame: what has begun to be sent is sent to its end, though all who asked for it have gone."""
    toy = Toy()
    turns = Turns(20)

    async def slowly(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        await turns()
        return await toy.accept(batch)

    toy.on_publish = slowly
    toy.before_subscribe = toy.before_unsubscribe = turns
    async with Realtime(toy, linger=0.0) as rt:
        for k in range(30):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    for number in range(5):
                        tasks.start_soon(rt.publish, Room(number=number).a, k)
                        tasks.start_soon(_stay, rt, Room(number=k))
                    for _ in range(k):
                        await checkpoint()
                    scope.cancel()
        await until(lambda: left_behind(rt) == QUIET, "all has ended")
        assert turns.begun == turns.ended > 20


async def _stay(rt: Realtime, room: Room) -> None:
    async with rt.subscribe(room.a) as messages:
        await anext(messages)


# ---------------------------------------------------------------------- who enters


def _are_in(rt: Realtime, number: int) -> bool:
    return rt.stats().subscriptions == number


async def test_who_entered_first_may_be_cancelled() -> None:
    """The broker is asked once, on behalf of both; the one who stays gets in."""
    toy = Toy()
    confirm, leave = anyio.Event(), anyio.Event()
    entered: list[str] = []

    async def wait(_: object) -> None:
        await confirm.wait()

    toy.before_subscribe = wait

    async def enter(name: str, scope: anyio.CancelScope) -> None:
        with scope:
            async with rt.subscribe(ROOM.a) as messages:
                entered.append(name)
                await leave.wait()
                assert told(await take(messages, 1)) == [1]

    for victim in (0, 1):
        entered.clear()
        toy.subscribes.clear()
        confirm, leave = anyio.Event(), anyio.Event()
        async with Realtime(toy, linger=0.0) as rt, anyio.create_task_group() as tasks:
            scopes = [anyio.CancelScope(), anyio.CancelScope()]
            for number, scope in enumerate(scopes):
                tasks.start_soon(enter, str(number), scope)
                await until(partial(_are_in, rt, number + 1), "it waits")
            scopes[victim].cancel()
            await until(partial(_are_in, rt, 1), "one has gone")
            confirm.set()
            await until(lambda: bool(entered), "the other one is in")
            await rt.publish(ROOM.a, 1)
            leave.set()
            await until(lambda: left_behind(rt) == QUIET, "both have gone")
        assert entered == [str(1 - victim)]
        assert toy.subscribes == [(ROOM.name,)]


async def test_when_all_who_entered_are_cancelled_the_broker_is_told_to_stop() -> None:
    toy = Toy()
    confirm = anyio.Event()

    async def wait(_: object) -> None:
        await confirm.wait()

    toy.before_subscribe = wait
    async with Realtime(toy, linger=0.0) as rt:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(_stay, rt, ROOM)
            await until(lambda: rt.stats().subscriptions == 5, "they wait")
            await until(lambda: bool(toy.subscribes), "the broker is asked")
            tasks.cancel_scope.cancel()
        assert rt.stats().subscriptions == 0
        confirm.set()
        await until(lambda: left_behind(rt) == QUIET, "nothing is left")
        await until(lambda: toy.generations == {}, "the broker has stopped")
        await still_works(rt, ROOM)


# ---------------------------------------------------------------------- consumers lose nothing

How = Literal["async for", "anext", "batches", "patient batches"]
WAYS: tuple[How, ...] = ("async for", "anext", "batches", "patient batches")


class _Interrupted(Exception):
    """Raised in the body of a loop."""


async def _read(messages: Subscription[Message[int] | Gap], how: How, found: list[int | Gap], dice: random.Random, chance: float = 0.2) -> None:
    """Read in one way, until something cuts it short: an exception in the body of the loop, by chance, or whoever cancels."""
    try:
        if how == "async for":
            async for message in messages:
                found += told([message])
                _cut(dice, chance)
        elif how == "anext":
            while True:
                found += told([await anext(messages)])
                _cut(dice, chance)
        else:
            async for batch in messages.batches(max_size=dice.randrange(1, 9), max_wait=0.001 if how == "patient batches" else 0.0):
                found += told(batch)
                _cut(dice, chance)
    except (_Interrupted, StopAsyncIteration):
        return


def _cut(dice: random.Random, chance: float) -> None:
    if dice.random() < chance:
        raise _Interrupted


async def _consume(messages: Subscription[Message[int] | Gap], last: int, dice: random.Random) -> list[int | Gap]:
    """Read up to ``last``, each time in another way and cut short at another place."""
    found: list[int | Gap] = []
    with anyio.fail_after(20):
        while not found or found[-1] != last:
            async with anyio.create_task_group() as tasks:

                async def cancel_some_time(tasks: anyio.abc.TaskGroup = tasks) -> None:
                    await tumble(dice, 12)
                    tasks.cancel_scope.cancel()

                tasks.start_soon(cancel_some_time)
                await _read(messages, dice.choice(WAYS), found, dice)
                tasks.cancel_scope.cancel()
    return found


@pytest.mark.parametrize("start", ["live", "history", "history of a slow broker"])
async def test_a_consumer_that_is_cut_short_anywhere_loses_nothing(start: str) -> None:
    """Timeouts, breaks and exceptions, resumed by ``async for``, ``anext`` and batches in turn, while messages come at random."""
    for seed in range(4):
        dice = random.Random(seed)
        transport = ToyWithHistory() if start == "history of a slow broker" else MemoryTransport()
        last = 700 if start == "live" else 1400
        async with Realtime(transport, buffer=5000) as rt:
            done = 0 if start == "live" else 700
            await rt.publish_many([ROOM.a(n) for n in range(1, done + 1)])
            how = Start.LIVE if start == "live" else Start.EARLIEST
            async with rt.subscribe(ROOM.a, start=how).with_gaps() as messages, anyio.create_task_group() as tasks:

                async def publish(rt: Realtime = rt, done: int = done, dice: random.Random = dice) -> None:
                    for number in range(done + 1, last + 1):  # noqa: B023 - within its round
                        await rt.publish(ROOM.a, number)
                        await tumble(dice, 3)

                tasks.start_soon(publish)
                assert await _consume(messages, last, dice) == list(range(1, last + 1))
                assert (messages.stats().received, messages.stats().lag) == (last, 0)


@each_transport
async def test_a_message_that_comes_with_the_cancellation_is_kept(make: Callable[[], MemoryTransport | Toy]) -> None:
    """Both in one turn of the loop, in both orders; the wait is cut and the message there, or it was handed out."""
    async with Realtime(make()) as rt, rt.subscribe(ROOM.a).with_gaps() as messages:
        found: list[int | Gap] = []
        for number in range(60):
            how = WAYS[number % 4]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_read, messages, how, found, random.Random(number), 0.0)
                log = next(iter(engine_of(rt).hub.logs.values()))
                await until(lambda: bool(log.waiters), "it waits")  # noqa: B023 - within its round
                if number % 8 < 4:
                    tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await rt.publish(ROOM.a, number)
                tasks.cancel_scope.cancel()
        await rt.publish(ROOM.a, 60)
        assert [*found, *await upto(messages, 60)] == list(range(61))


async def test_a_deadline_that_has_passed_takes_nothing() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(ROOM.a) as messages:
        found: list[int | Gap] = []
        for number in range(300):
            await rt.publish(ROOM.a, number)
        for _ in range(400):
            with anyio.move_on_after(0):
                found += told([await anext(messages)])
        await rt.publish(ROOM.a, 300)
        while found[-1:] != [300]:
            found += told(await take(messages, 1))
        assert found == list(range(301))


async def _next(items: AsyncIterator[object]) -> None:
    await anext(items)


async def test_a_batch_whose_wait_is_cancelled_gives_back_what_it_has_collected() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(ROOM.a) as messages:
        for number in range(3):
            await rt.publish(ROOM.a, number)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_next, messages.batches(max_wait=100.0))
                await until(lambda: messages.stats().received == 3, "it collects")
                await settle()
                scope.cancel()
        assert messages.stats() == (0, 0, 0, 3, 0)
        await rt.publish(ROOM.a, 3)
        assert told(await take(messages, 4)) == [0, 1, 2, 3]
        assert messages.stats() == (4, 0, 0, 0, 0)


async def test_a_gap_met_while_a_batch_is_collected_is_told_whoever_goes_on() -> None:
    """It comes behind the batch; a ``break`` there, and reading on in another way, must not lose it."""
    for how in ("the same batches", "other batches", "anext", "async for"):
        toy = Toy(COUNTERS)
        async with Realtime(toy) as rt, rt.subscribe(ROOM.a, on_gap="raise") as messages:
            found: list[list[object]] = []
            batches = messages.batches(max_wait=100.0)

            async def collect(batches: AsyncIterator[Sequence[Message[int]]] = batches, found: list[list[object]] = found) -> None:
                found.append(list(told(await anext(batches))))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(collect)
                toy.deliver(ROOM.name, frame_of(ROOM.a, 1, "p.1"))
                await until(lambda: messages.stats().received == 1, "1 is collected")
                await settle()
                toy.deliver(ROOM.name, frame_of(ROOM.a, 4, "p.4"))
            assert found == [[1]]
            with pytest.raises(MessagesLost) as caught, anyio.fail_after(5):
                if how == "the same batches":
                    await anext(batches)
                elif how == "other batches":
                    await anext(messages.batches())
                elif how == "anext":
                    await anext(messages)
                else:
                    async for _ in messages:
                        pytest.fail(f"2 and 3 are missing, and nobody is told, going on by {how}")
            assert (caught.value.gap.reason, caught.value.gap.lost) == (GapReason.HOLE, 2)
            assert told(await take(messages, 1)) == [4]


async def test_neighbours_of_a_consumer_that_is_cut_short_are_unaffected() -> None:
    """Five share one log; three are cancelled while they wait, one raises, one goes on."""
    found: list[int | Gap] = []
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(ROOM.a) as steady:
        for number in range(50):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(_stay, rt, ROOM)
                tasks.start_soon(_raise, rt)
                log = next(iter(engine_of(rt).hub.logs.values()))
                await until(lambda: len(log.waiters) == 3 + 1, "they wait")  # noqa: B023 - within its round
                tasks.cancel_scope.cancel()
            await rt.publish(ROOM.a, number)
            found += told(await take(steady, 1))
    assert found == list(range(50))


async def _raise(rt: Realtime) -> None:
    with pytest.raises(_Interrupted):
        async with rt.subscribe(ROOM.a):
            raise _Interrupted
    await _stay(rt, ROOM)


async def test_a_second_task_that_iterates_is_refused_and_the_first_goes_on() -> None:
    found: list[int | Gap] = []
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(ROOM.a) as messages, anyio.create_task_group() as tasks:

        async def first() -> None:
            async for message in messages:
                found.extend(told([message]))
                if message.data == 3:
                    return

        tasks.start_soon(first)
        log = next(iter(engine_of(rt).hub.logs.values()))
        await until(lambda: bool(log.waiters), "it waits")
        with pytest.raises(RuntimeError, match="another task is iterating"):
            await anext(messages)
        for number in (1, 2, 3):
            await rt.publish(ROOM.a, number)
    assert found == [1, 2, 3]


async def _loop(messages: Subscription[Message[int]], ended: list[bool]) -> None:
    async for _ in messages:
        pass
    ended.append(True)


async def test_leaving_ends_the_iterator_of_another_task() -> None:
    with debris() as heard:
        async with Realtime(MemoryTransport()) as rt, anyio.create_task_group() as tasks:
            for _ in range(3):
                ended: list[bool] = []
                async with rt.subscribe(ROOM.a) as messages:
                    tasks.start_soon(_loop, messages, ended)
                    await until(lambda: sum(len(log.waiters) for log in engine_of(rt).hub.logs.values()) == 1, "it waits")
                await until(partial(bool, ended), "its iterator has ended")
    assert heard == []


async def test_a_thousand_consumers_cancelled_at_once_leave_nothing() -> None:
    with debris() as heard:
        async with Realtime(MemoryTransport(), linger=0.0) as rt:
            before = running_tasks()
            async with anyio.create_task_group() as tasks:
                for number in range(1000):
                    tasks.start_soon(_stay, rt, Room(number=number % 10))
                logs = engine_of(rt).hub.logs
                await until(lambda: sum(len(log.waiters) for log in logs.values()) == 1000, "all wait")
                tasks.cancel_scope.cancel()
            await until(lambda: left_behind(rt) == QUIET, "all have gone")
            assert running_tasks() == before
            await still_works(rt, ROOM)
    assert heard == []
