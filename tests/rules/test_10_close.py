"""Rule 10, close: aclose refuses new work, flushes lanes, ends iterators behind what is queued, and closes; idempotent, and within its deadline."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import anyio.abc
import pytest
from anyio.lowlevel import checkpoint

from fanwire import GapReason, Realtime, Receipt, Start
from fanwire.errors import Closed, ConnectFailed, ConnectionLost, FanwireError, MessagesLost, PartialPublish, Unauthenticated, Unavailable
from fanwire.transport import HistoryPage, Outbound, Sink
from fanwire_memory import MemoryBroker, MemoryTransport
from tests.rules.support import LOG, QUIET, Room, Toy, ToyWithHistory, engine_of, frame_of, left_behind, pair, settle, subscribers, take, told, until
from tests.rules.support_close import CALLS, Call, debris, running_tasks

pytestmark = pytest.mark.anyio

T = TypeVar("T")

ROOM = Room(number=10)

Outcomes = dict[int, Receipt | FanwireError]


async def publishing(rt: Realtime, number: int, outcomes: Outcomes, room: Room = ROOM) -> None:
    """Publish a number, and note what came of it."""
    try:
        outcomes[number] = await rt.publish(room.a, number)
    except FanwireError as error:
        outcomes[number] = error


async def rest(items: AsyncIterator[T]) -> list[T]:
    """Read an iterator to its end."""
    with anyio.fail_after(10):
        return [item async for item in items]


def links(transport: MemoryTransport) -> int:
    """Count the connections to the broker."""
    return len(transport.native(MemoryBroker)._links)


async def in_flight_and_queued(rt: Realtime, tasks: anyio.abc.TaskGroup, outcomes: Outcomes) -> None:
    """Publish 1, which the blocked driver takes and does not answer, and 2, which waits behind it."""
    tasks.start_soon(publishing, rt, 1, outcomes)
    await until(lambda: rt.stats().publishing == 1, "1 is under way")
    await settle()
    tasks.start_soon(publishing, rt, 2, outcomes)
    await until(lambda: rt.stats().publishing == 2, "2 is queued")


# ---------------------------------------------------------------------- refuses new work


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_new_work_is_refused_while_it_still_flushes(call: Call) -> None:
    transport = MemoryTransport()
    outcomes: Outcomes = {}
    async with Realtime(transport) as rt:
        prepared = rt.subscribe(ROOM.a)
        async with anyio.create_task_group() as tasks:
            transport.faults.block()
            await in_flight_and_queued(rt, tasks, outcomes)
            tasks.start_soon(rt.aclose)
            await settle()
            assert links(transport) == 1
            with pytest.raises(Closed, match="this Realtime is closed") as caught:
                await call(rt)
            assert type(caught.value) is Closed
            with pytest.raises(Closed, match="this Realtime is closed"):
                async with prepared:
                    pytest.fail("it is closing")
            assert rt.stats().publishing == 2
            transport.faults.resume()
    assert [type(outcome) for outcome in outcomes.values()] == [Receipt, Receipt]


# ---------------------------------------------------------------------- flushes lanes


async def test_what_was_accepted_is_sent_before_it_closes() -> None:
    """Sixty publishes on three channels, one way or another, all queued behind a broker that does not answer yet."""
    here, there = pair()
    rooms = [Room(number=n) for n in range(3)]
    outcomes: Outcomes = {}
    called: list[int] = []
    async with Realtime(there) as reader, reader.subscribe(*(room.a for room in rooms)).with_gaps() as messages:
        async with Realtime(here) as rt, anyio.create_task_group() as tasks:
            here.faults.block()

            async def publish(number: int) -> None:
                called.append(number)
                await publishing(rt, number, outcomes, rooms[number % 3])

            for number in range(60):
                tasks.start_soon(publish, number)
            await until(lambda: rt.stats().publishing == 60, "these are queued")
            called += [60, 61, 62]
            tasks.start_soon(rt.publish_many, [room.a(60 + n) for n, room in enumerate(rooms)])
            await until(lambda: rt.stats().publishing == 63, "all are queued")
            tasks.start_soon(rt.aclose)
            await settle()
            assert outcomes == {}
            here.faults.resume()
        found = await take(messages, 63)
    assert all(isinstance(outcome, Receipt) for outcome in outcomes.values())
    assert len(outcomes) == 60
    numbers = [number for number in told(found) if isinstance(number, int)]
    for n in range(3):
        assert [number for number in numbers if number % 3 == n] == [number for number in called if number % 3 == n]


@pytest.mark.parametrize("error", [ConnectionLost("toy: no answer"), Unavailable("toy: busy")], ids=["unknown", "not sent"])
async def test_a_batch_that_has_to_be_sent_again_is_sent_again_before_it_closes(error: FanwireError) -> None:
    toy = Toy(LOG)
    outcomes: Outcomes = {}
    go = anyio.Event()

    async def fail_once(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        await go.wait()
        if len(toy.batches) == 1:
            raise error
        return await toy.accept(batch)

    toy.on_publish = fail_once
    async with Realtime(toy) as rt, anyio.create_task_group() as tasks:
        tasks.start_soon(publishing, rt, 1, outcomes)
        await until(lambda: bool(toy.batches), "it is in flight")
        tasks.start_soon(rt.aclose)
        await settle()
        go.set()
    assert isinstance(outcomes[1], Receipt)
    assert len(toy.batches) == 2


async def test_nothing_to_flush_is_not_waited_for() -> None:
    """However long the deadline; nor is a subscriber that never reads."""
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(ROOM.a) as messages:
        for number in range(10):
            await rt.publish(ROOM.a, number)
        with anyio.fail_after(2):
            await rt.aclose(3600.0)
        assert told(await rest(messages)) == list(range(10))


# ---------------------------------------------------------------------- the deadline


@pytest.mark.parametrize("deadline", [0.0, 0.05])
async def test_the_deadline_cuts_off_a_broker_that_does_not_answer(deadline: float) -> None:
    here, there = pair()
    outcomes: Outcomes = {}
    async with Realtime(there) as reader, reader.subscribe(ROOM).with_gaps() as messages:
        async with Realtime(here) as rt, anyio.create_task_group() as tasks:
            here.faults.block()
            await in_flight_and_queued(rt, tasks, outcomes)
            with anyio.fail_after(5):
                await rt.aclose(deadline)
        assert [type(outcomes[number]) for number in (1, 2)] == [Closed, Closed]
        assert "its outcome is unknown" in str(outcomes[1])
        assert "not sent" in str(outcomes[2])
        assert (rt.stats().publishing, left_behind(rt)) == (0, QUIET)
        here.faults.resume()
        # Neither of them comes later: what called itself failed has ended.
        await settle()
        await reader.publish(ROOM.a, 3)
        assert told(await take(messages, 1)) == [3]


async def test_the_deadline_leaves_what_was_answered_in_time() -> None:
    toy = Toy(LOG)
    outcomes: Outcomes = {}
    other = Room(number=11)
    closing = anyio.Event()

    async def answer_one_channel(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        if any(message.channel == ROOM.name for message in batch):
            await anyio.sleep_forever()
        await closing.wait()
        return await toy.accept(batch)

    toy.on_publish = answer_one_channel
    async with Realtime(toy) as rt, anyio.create_task_group() as tasks:
        tasks.start_soon(publishing, rt, 1, outcomes)
        await until(lambda: len(toy.batches) == 1, "1 is in flight")
        tasks.start_soon(publishing, rt, 2, outcomes, other)
        await until(lambda: len(toy.batches) == 2, "2 is in flight")
        tasks.start_soon(rt.aclose, 0.1)
        await settle()
        closing.set()
    assert isinstance(outcomes[1], Closed)
    assert isinstance(outcomes[2], Receipt)


async def test_every_kind_of_publish_that_is_cut_off_is_told_so() -> None:
    transport = MemoryTransport()
    errors: list[BaseException] = []

    async def call(what: Callable[[], Awaitable[object]]) -> None:
        try:
            await what()
        except Exception as error:  # noqa: BLE001 - looked at below
            errors.append(error)

    async with Realtime(transport) as rt, anyio.create_task_group() as tasks:
        transport.faults.block()
        for _ in range(5):
            tasks.start_soon(call, lambda: rt.publish(ROOM.a, 1))
            tasks.start_soon(call, lambda: rt.publish_many([ROOM.a(1), Room(number=11).b(2)]))
            tasks.start_soon(call, lambda: rt.publish(Room(number=11).a, 1, key="k", timeout=100.0))
        await until(lambda: rt.stats().publishing == 20, "all wait")
        await rt.aclose(0.0)
    assert len(errors) == 15
    for error in errors:
        # Of a publish_many one message may have been in flight and the other not: then each has its own outcome.
        assert [type(one) for one in (error.results if isinstance(error, PartialPublish) else [error])] in ([Closed], [Closed, Closed])


# ---------------------------------------------------------------------- ends iterators


async def test_iterators_end_behind_what_is_queued() -> None:
    """In every form, more than one chunk behind."""
    numbers = list(range(600))
    async with (
        Realtime(MemoryTransport()) as rt,
        rt.subscribe(ROOM.a) as plain,
        rt.subscribe(ROOM.a) as half,
        rt.subscribe(ROOM).with_gaps() as gaps,
        rt.subscribe(ROOM.a).raw() as raw,
        rt.subscribe(ROOM.a) as batched,
    ):
        for number in numbers:
            await rt.publish(ROOM.a, number)
        assert told(await take(half, 3)) == numbers[:3]
        await rt.aclose()
        assert told(await rest(plain)) == numbers
        assert told(await rest(half)) == numbers[3:]
        assert told(await rest(gaps)) == numbers
        assert [message.data for message in await rest(raw)] == numbers
        assert [message.data for batch in await rest(batched.batches(max_size=100)) for message in batch] == numbers
        for ended in (plain, half, gaps, raw, batched):
            assert await rest(ended) == []
            with pytest.raises(StopAsyncIteration):
                await anext(ended)
        assert plain.stats().received == 600
    assert left_behind(rt) == QUIET


async def test_iterators_that_wait_are_woken_and_end() -> None:
    ended: list[str] = []
    async with Realtime(MemoryTransport()) as rt, anyio.create_task_group() as tasks:

        async def by_loop(room: Room) -> None:
            async with rt.subscribe(room.a) as messages:
                assert await rest(messages) == []
            ended.append("loop")

        async def by_anext(room: Room) -> None:
            async with rt.subscribe(room).with_gaps() as messages:
                with pytest.raises(StopAsyncIteration):
                    await anext(messages)
            ended.append("anext")

        async def by_batches(room: Room) -> None:
            async with rt.subscribe(room.b).raw() as messages:
                assert await rest(messages.batches(max_wait=100.0)) == []
            ended.append("batches")

        for number in range(3):
            for form in (by_loop, by_anext, by_batches):
                tasks.start_soon(form, Room(number=number))
        await until(lambda: sum(len(log.waiters) for log in engine_of(rt).hub.logs.values()) == 9, "all wait")
        with anyio.fail_after(5):
            await rt.aclose()
    assert sorted(ended) == ["anext"] * 3 + ["batches"] * 3 + ["loop"] * 3


async def test_a_batch_that_is_being_collected_is_handed_out_before_the_end() -> None:
    found: list[list[object]] = []
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(ROOM.a) as messages, anyio.create_task_group() as tasks:

        async def collect() -> None:
            found.extend([list(told(batch)) async for batch in messages.batches(max_wait=100.0)])

        tasks.start_soon(collect)
        await rt.publish(ROOM.a, 1)
        await until(lambda: messages.stats().received == 1, "1 is collected")
        await settle()
        assert found == []
        with anyio.fail_after(5):
            await rt.aclose()
    assert found == [[1]]


async def test_a_gap_that_is_queued_is_told_before_the_end() -> None:
    async with (
        Realtime(MemoryTransport()) as rt,
        rt.subscribe(ROOM.a, on_gap="raise", buffer=4) as messages,
        rt.subscribe(ROOM.a, buffer=4).with_gaps() as gaps,
    ):
        for number in range(10):
            await rt.publish(ROOM.a, number)
        await rt.aclose()
        with pytest.raises(MessagesLost) as caught:
            await anext(messages)
        assert (caught.value.gap.reason, caught.value.gap.lost) == (GapReason.LAGGED, 6)
        assert told(await rest(messages)) == [6, 7, 8, 9]
        assert told(await rest(gaps)) == [caught.value.gap, 6, 7, 8, 9]


async def test_closing_is_no_loss() -> None:
    """Nor is it told as one: no gap, no warning, no error."""
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(ROOM.a).with_gaps() as messages:
        await rt.publish(ROOM.a, 1)
        await rt.aclose()
        assert told(await rest(messages)) == [1]
        assert (messages.stats().gaps, rt.stats().gaps) == (0, 0)


async def test_a_subscriber_may_close_the_realtime_itself() -> None:
    found: list[int] = []
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(ROOM.a) as messages:
        for number in range(5):
            await rt.publish(ROOM.a, number)
        with anyio.fail_after(5):
            async for message in messages:
                found.append(message.data)
                if message.data == 2:
                    await rt.aclose()
    assert found == [0, 1, 2, 3, 4]


async def test_connection_events_end_behind_closed() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.events() as events:
        await rt.aclose()
        assert [event.state.value for event in await rest(events)] == ["connected", "closed"]


# ---------------------------------------------------------------------- closes


async def test_nothing_is_left_when_it_has_closed() -> None:
    """Nor of channels that still linger, nor of subscriptions left afterwards."""
    transport = MemoryTransport()
    tasks = running_tasks()
    async with Realtime(transport, linger=3600.0) as rt:
        async with rt.subscribe(Room(number=1)):
            pass
        async with rt.subscribe(Room(number=2)) as messages:
            await rt.publish(Room(number=2).a, 1)
            assert (links(transport), subscribers(transport)) == (1, 2)
            assert running_tasks() > tasks
            await rt.aclose()
            assert (links(transport), subscribers(transport)) == (0, 0)
            assert running_tasks() == tasks
            assert told(await rest(messages)) == [1]
    assert left_behind(rt) == QUIET
    assert repr(rt) == "<Realtime memory closed>"


async def test_closing_again_does_nothing() -> None:
    rt = Realtime(MemoryTransport())
    await rt.aclose()
    async with rt:
        await rt.aclose()
        await rt.aclose(0.0)
    await rt.aclose()
    with pytest.raises(Closed, match="is closed"):
        await rt.publish(ROOM.a, 1)


async def test_closing_from_several_tasks_waits_for_the_one_that_does_it() -> None:
    transport = MemoryTransport()
    outcomes: Outcomes = {}
    closed: list[int] = []
    async with Realtime(transport) as rt, anyio.create_task_group() as tasks:
        transport.faults.block()
        await in_flight_and_queued(rt, tasks, outcomes)

        async def close(number: int) -> None:
            await rt.aclose()
            assert links(transport) == 0
            closed.append(number)

        for number in range(5):
            tasks.start_soon(close, number)
        await settle()
        assert closed == []
        transport.faults.resume()
        await until(lambda: len(closed) == 5, "all have returned")
    assert [type(outcome) for outcome in outcomes.values()] == [Receipt, Receipt]


async def test_one_of_several_who_close_may_be_cancelled() -> None:
    """Whichever: the others still wait for the end, and it comes."""
    for victim in range(3):
        transport = MemoryTransport()
        outcomes: Outcomes = {}
        closed: list[int] = []
        before = running_tasks()
        async with Realtime(transport) as rt, anyio.create_task_group() as tasks:
            transport.faults.block()
            await in_flight_and_queued(rt, tasks, outcomes)
            scopes = [anyio.CancelScope() for _ in range(3)]

            async def close(number: int) -> None:
                with scopes[number]:  # noqa: B023 - of this round
                    await rt.aclose()
                    closed.append(number)  # noqa: B023

            for number in range(3):
                tasks.start_soon(close, number)
            await settle()
            scopes[victim].cancel()
            await settle()
            transport.faults.resume()
            await until(lambda: len(closed) == 2, "the others have returned")  # noqa: B023
            await until(lambda: len(outcomes) == 2, "nobody waits for a publish")  # noqa: B023
            assert links(transport) == 0, f"the connection is still there, after closing task {victim} was cancelled"
        assert running_tasks() == before


async def test_a_close_that_is_cancelled_leaves_nothing_running() -> None:
    """Cancelling means: do not wait for the lanes. It does not mean: do not close."""
    transport = MemoryTransport()
    outcomes: Outcomes = {}
    before = running_tasks()
    async with Realtime(transport) as rt, rt.subscribe(ROOM.a) as messages, anyio.create_task_group() as tasks:
        transport.faults.block()
        await in_flight_and_queued(rt, tasks, outcomes)
        with anyio.CancelScope() as scope:
            tasks.start_soon(_cancel_later, scope)
            await rt.aclose()
        try:
            assert scope.cancelled_caught
            with anyio.fail_after(5):
                await rt.aclose()
            assert links(transport) == 0
            await until(lambda: len(outcomes) == 2, "nobody waits for a publish", 2.0)
            with anyio.fail_after(2):
                assert [message async for message in messages] == []
        finally:
            transport.faults.resume()
            tasks.cancel_scope.cancel()
    assert running_tasks() == before


# ---------------------------------------------------------------------- in the midst of something else


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("make", [MemoryTransport, ToyWithHistory], ids=["memory", "toy"])
async def test_closing_at_any_turn_of_a_call_lets_it_through_or_refuses_it(call: Call, make: Callable[[], MemoryTransport | Toy]) -> None:
    """Whatever the call was about to do then, it does not go on to wait for something that never comes."""
    for turns in range(12):
        ended: list[FanwireError | None] = []

        async def run(rt: Realtime, ended: list[FanwireError | None] = ended) -> None:
            try:
                await call(rt)
            except FanwireError as error:
                ended.append(error)
            else:
                ended.append(None)

        with anyio.fail_after(2):
            async with Realtime(make(), connect_timeout=100.0) as rt, anyio.create_task_group() as tasks:
                tasks.start_soon(run, rt)
                for _ in range(turns):
                    await checkpoint()
                await rt.aclose()
        assert len(ended) == 1
        assert ended[0] is None or type(ended[0]) is Closed, f"closed after {turns} turns: {ended[0]!r}"
        assert left_behind(rt) == QUIET, f"closed after {turns} turns"


async def test_closing_while_a_subscription_is_being_made() -> None:
    transport = MemoryTransport()
    raised: list[FanwireError] = []

    async def enter(number: int) -> None:
        try:
            async with rt.subscribe(Room(number=number).a, ROOM.a):
                pytest.fail("nobody has confirmed")
        except FanwireError as error:
            raised.append(error)

    async with Realtime(transport) as rt, anyio.create_task_group() as tasks:
        transport.faults.block()
        for number in range(3):
            tasks.start_soon(enter, number)
        await until(lambda: rt.stats().subscriptions == 3, "they wait")
        await settle()
        with anyio.fail_after(5):
            await rt.aclose()
    assert [type(error) for error in raised] == [Closed] * 3
    assert "while the subscription was being made" in str(raised[0])
    assert left_behind(rt) == QUIET
    assert subscribers(transport) == 0


async def test_closing_while_the_broker_is_told_to_stop() -> None:
    toy = Toy(LOG)
    before = running_tasks()

    async def never(_: object) -> None:
        await anyio.sleep_forever()

    toy.before_unsubscribe = never
    async with Realtime(toy, linger=0.0) as rt:
        async with rt.subscribe(ROOM.a):
            pass
        await until(lambda: bool(toy.unsubscribes), "the broker is told")
        with anyio.fail_after(5):
            await rt.aclose()
    assert running_tasks() == before


async def test_closing_while_there_is_no_connection() -> None:
    """With nothing to send it does not wait for one; iterators end behind what they have."""
    toy = Toy(LOG)
    before = running_tasks()
    async with Realtime(toy) as rt, rt.subscribe(ROOM.a) as messages:
        await rt.publish(ROOM.a, 1)
        toy.refusals += [ConnectFailed("toy: nobody listens")] * 1000
        toy.disconnect()
        await until(lambda: toy.attempts > 1, "it tries to connect")
        with anyio.fail_after(5):
            await rt.aclose(3600.0)
        assert told(await rest(messages)) == [1]
        attempts = toy.attempts
        await settle()
        assert (toy.attempts, running_tasks()) == (attempts, before)


async def test_closing_while_there_is_no_connection_gives_up_what_is_queued_at_the_deadline() -> None:
    toy = Toy(LOG)
    outcomes: Outcomes = {}
    async with Realtime(toy) as rt, anyio.create_task_group() as tasks:
        toy.refusals += [ConnectFailed("toy: nobody listens")] * 1000
        toy.disconnect()
        await until(lambda: toy.attempts > 1, "it tries to connect")
        tasks.start_soon(publishing, rt, 1, outcomes)
        await until(lambda: rt.stats().publishing == 1, "1 is queued")
        with anyio.fail_after(5):
            await rt.aclose(0.05)
    assert isinstance(outcomes[1], Closed)
    assert "not sent" in str(outcomes[1])
    assert toy.batches == []


async def test_closing_flushes_what_is_queued_once_the_connection_is_back() -> None:
    toy = Toy(LOG)
    outcomes: Outcomes = {}
    async with Realtime(toy) as rt, anyio.create_task_group() as tasks:
        toy.refusals += [ConnectFailed("toy: nobody listens")] * 3
        toy.disconnect()
        await until(lambda: toy.attempts > 1, "it tries to connect")
        tasks.start_soon(publishing, rt, 1, outcomes)
        await until(lambda: rt.stats().publishing == 1, "1 is queued")
        await rt.aclose()
    assert isinstance(outcomes[1], Receipt)


class _SlowToConnect(Toy):
    """Takes for ever to connect."""

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None, None]:
        self.attempts += 1
        await anyio.sleep_forever()
        yield


def _refusing() -> Toy:
    toy = Toy()
    toy.refusals += [ConnectFailed("toy: nobody listens")] * 1000
    return toy


@pytest.mark.parametrize("make", [_SlowToConnect, _refusing], ids=["slow", "refused"])
async def test_closing_while_it_connects_for_the_first_time(make: Callable[[], Toy]) -> None:
    """Whoever is entering it is told; nothing is left running."""
    toy = make()
    before = running_tasks()
    rt = Realtime(toy, connect_timeout=100.0)
    raised: list[FanwireError] = []

    async def enter() -> None:
        try:
            async with rt:
                pytest.fail("there is no connection")
        except FanwireError as error:
            raised.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enter)
        await until(lambda: toy.attempts > 0, "it tries to connect")
        try:
            with anyio.fail_after(2):
                await rt.aclose()
            await until(lambda: bool(raised), "who enters is told", 2.0)
        finally:
            tasks.cancel_scope.cancel()
    assert [type(error) for error in raised] == [Closed]
    assert running_tasks() == before


@pytest.mark.parametrize("broken", [True, False], ids=["the driver's call breaks", "the driver never answers"])
async def test_closing_while_a_subscriber_waits_for_a_page_of_history(broken: bool) -> None:
    """Its iterator ends behind the pages it has, as any other does."""
    toy = ToyWithHistory()
    for number in range(300):
        toy.append(ROOM.name, frame_of(ROOM.a, number, f"p.{number}"), f"{number:08x}")
    gate = anyio.Event()

    async def break_the_second(page: HistoryPage) -> HistoryPage:
        if len(toy.reads) > 1:
            await gate.wait()
            raise ConnectionLost("toy: the connection was broken")
        return page

    toy.on_history = break_the_second
    found: list[object] = []
    async with Realtime(toy) as rt, rt.subscribe(ROOM.a, start=Start.EARLIEST).with_gaps() as messages, anyio.create_task_group() as tasks:

        async def read() -> None:
            async for item in messages:
                found.extend(told([item]))
            found.append("end")

        tasks.start_soon(read)
        await until(lambda: len(toy.reads) == 2, "it reads the second page")
        with anyio.fail_after(5):
            await rt.aclose()
        if broken:
            gate.set()
        try:
            await until(lambda: found[-1] == "end", "the iterator ends", 2.0)
        finally:
            tasks.cancel_scope.cancel()
    assert found == [*range(256), "end"]
    assert left_behind(rt) == QUIET


@pytest.mark.parametrize("broken", [True, False], ids=["the driver's call breaks", "the driver never answers"])
async def test_closing_while_a_subscription_reads_its_first_page_of_history(broken: bool) -> None:
    toy = ToyWithHistory()
    gate = anyio.Event()

    async def late(_: HistoryPage) -> HistoryPage:
        await gate.wait()
        raise ConnectionLost("toy: the connection was broken")

    toy.on_history = late
    raised: list[FanwireError] = []

    async def enter() -> None:
        try:
            async with rt.subscribe(ROOM.a, start=Start.EARLIEST):
                pytest.fail("nothing was read")
        except FanwireError as error:
            raised.append(error)

    async with Realtime(toy) as rt, anyio.create_task_group() as tasks:
        tasks.start_soon(enter)
        await until(lambda: len(toy.reads) == 1, "it reads the first page")
        with anyio.fail_after(5):
            await rt.aclose()
        if broken:
            gate.set()
        try:
            await until(lambda: bool(raised), "who enters is told", 2.0)
        finally:
            tasks.cancel_scope.cancel()
    assert [type(error) for error in raised] == [Closed]
    assert left_behind(rt) == QUIET


async def test_closing_while_a_hole_is_being_repaired() -> None:
    toy = ToyWithHistory()

    async def never(page: HistoryPage) -> HistoryPage:
        await anyio.sleep_forever()
        return page

    toy.on_history = never
    before = running_tasks()
    async with Realtime(toy) as rt, rt.subscribe(ROOM.a) as messages:
        await rt.publish(ROOM.a, 1)
        toy.append(ROOM.name, frame_of(ROOM.a, 2, "p.1"), "00000002", deliver=False)
        toy.append(ROOM.name, frame_of(ROOM.a, 3, "p.2"), "00000003")
        await until(lambda: bool(toy.reads), "it reads the hole")
        with anyio.fail_after(5):
            await rt.aclose()
        assert told(await rest(messages)) == [1]
        assert running_tasks() == before


# ---------------------------------------------------------------------- how it is left


async def test_leaving_by_an_exception_still_sends_what_was_accepted() -> None:
    transport = MemoryTransport()
    outcomes: Outcomes = {}
    before = running_tasks()
    async with anyio.create_task_group() as tasks:
        with pytest.raises(ValueError, match="of the body"):
            async with Realtime(transport) as rt:
                transport.faults.block()
                await in_flight_and_queued(rt, tasks, outcomes)
                tasks.start_soon(_resume_later, transport)
                raise ValueError("of the body")
        assert links(transport) == 0
    assert [type(outcome) for outcome in outcomes.values()] == [Receipt, Receipt]
    assert running_tasks() == before


async def test_leaving_by_a_cancellation_does_not_wait() -> None:
    """There is a publish in flight that nobody answers: whoever is cancelled does not wait ten seconds for it, and leaves nothing behind."""
    transport = MemoryTransport()
    outcomes: Outcomes = {}
    before = running_tasks()
    with debris() as heard:
        async with anyio.create_task_group() as tasks:
            with anyio.fail_after(5), anyio.CancelScope() as scope:
                async with Realtime(transport) as rt, rt.subscribe(ROOM.a) as messages:
                    transport.faults.block()
                    await in_flight_and_queued(rt, tasks, outcomes)
                    scope.cancel()
                    await anext(messages)
            assert scope.cancelled_caught
            try:
                assert links(transport) == 0
                await until(lambda: len(outcomes) == 2, "nobody waits for a publish", 2.0)
            finally:
                transport.faults.resume()
                tasks.cancel_scope.cancel()
        assert running_tasks() == before
    assert heard == []


async def test_a_connection_that_was_given_up_can_be_closed() -> None:
    """Iterators have ended with the reason, behind what was queued; closing takes it back from nobody."""
    toy = Toy(LOG)
    async with Realtime(toy) as rt, rt.subscribe(ROOM.a) as prompt, rt.subscribe(ROOM.b, ROOM.a) as late:
        await rt.publish(ROOM.a, 1)
        toy.refusals.append(Unauthenticated("toy: who are you?"))
        toy.disconnect()
        await until(lambda: rt.stats().state.value == "failed", "it is given up")
        assert told(await take(prompt, 1)) == [1]
        with pytest.raises(Unauthenticated, match="who are you"):
            await anext(prompt)
        with pytest.raises(Unauthenticated, match="who are you"):
            await rt.publish(ROOM.a, 2)
        await rt.aclose()
        with pytest.raises(Closed):
            await rt.publish(ROOM.a, 2)
        assert told(await take(late, 1)) == [1]
        with pytest.raises(Unauthenticated, match="who are you"):
            await anext(late)


class _FailsToClose(Toy):
    """Its client raises an error of its own when it is closed."""

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None, None]:
        async with super().run(sink):
            try:
                yield
            finally:
                raise OSError("toy: the socket was gone already")


async def test_a_driver_that_fails_to_close_is_closed_all_the_same() -> None:
    before = running_tasks()
    async with Realtime(_FailsToClose(LOG)) as rt, rt.subscribe(ROOM.a) as messages:
        await rt.publish(ROOM.a, 1)
        with anyio.fail_after(5):
            await rt.aclose()
        assert told(await rest(messages)) == [1]
        assert running_tasks() == before
        assert rt.stats().state.value == "closed"


# ---------------------------------------------------------------------- helpers


async def _cancel_later(scope: anyio.CancelScope) -> None:
    await settle()
    scope.cancel()


async def _resume_later(transport: MemoryTransport) -> None:
    await settle()
    transport.faults.resume()
