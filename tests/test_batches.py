"""Iterating by batches: nothing is lost or turned around by a timeout, a cancellation, a gap or the end, wherever in a batch it comes."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest
from pydantic import BaseModel

from fanwire import Gap, GapReason, Message, Realtime, TopicRef
from fanwire.batches import Batches
from fanwire.errors import MessagesLost, PermissionDenied
from fanwire.schemas import PydanticSchema
from fanwire_memory import MemoryOptions, MemoryTransport
from tests.hub.support import COUNTED, FakeTransport, entry, patience, until


class Number(BaseModel):
    n: int


NUMBERS = TopicRef("c", "n", PydanticSchema(Number))


def numbers(batch: Sequence[Message[Number]]) -> list[int]:
    return [message.data.n for message in batch]


async def publish(rt: Realtime, *values: int) -> None:
    await rt.publish_many([NUMBERS(Number(n=n)) for n in values])


@pytest.mark.anyio
async def test_a_batch_is_what_is_there() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(NUMBERS) as messages:
        batches = messages.batches()
        await publish(rt, *range(5))
        assert numbers(await anext(batches)) == [0, 1, 2, 3, 4]
        await publish(rt, 5)
        assert numbers(await anext(batches)) == [5]


@pytest.mark.anyio
async def test_a_batch_is_never_larger_than_asked_for_and_never_empty() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(NUMBERS) as messages:
        await publish(rt, *range(1000))
        got: list[list[int]] = []
        async for batch in messages.batches(max_size=7):
            got.append(numbers(batch))
            if got[-1][-1] == 999:
                break
        assert [n for batch in got for n in batch] == list(range(1000))
        assert {len(batch) for batch in got} <= set(range(1, 8))
        assert messages.stats().received == 1000


@pytest.mark.anyio
@pytest.mark.parametrize(("max_size", "max_wait"), [(0, 0.0), (-1, 0.0), (1, -0.1)])
async def test_a_batch_that_cannot_be_is_refused(max_size: int, max_wait: float, anyio_backend: object) -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(NUMBERS) as messages:
        with pytest.raises(ValueError, match=rf"batches\(\) takes max_size >= 1 and max_wait >= 0, got {max_size} and {max_wait}"):
            messages.batches(max_size=max_size, max_wait=max_wait)


@pytest.mark.anyio
async def test_with_max_wait_a_batch_fills_up() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(NUMBERS) as messages, anyio.create_task_group() as tasks:
        got: list[list[int]] = []

        async def read() -> None:
            got.append(numbers(await anext(messages.batches(max_size=4, max_wait=30))))

        tasks.start_soon(read)
        for n in range(4):
            await patience(5)
            assert not got
            await publish(rt, n)
        await until(lambda: got)
        assert got == [[0, 1, 2, 3]]


@pytest.mark.anyio
async def test_with_max_wait_a_batch_goes_out_when_the_time_is_over() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(NUMBERS) as messages:
        await publish(rt, 1, 2)
        batches = messages.batches(max_size=4, max_wait=0.01)
        assert numbers(await anext(batches)) == [1, 2]
        await publish(rt, 3)
        assert numbers(await anext(batches)) == [3], "waiting for a fuller batch has not ended the iteration"


@pytest.mark.anyio
async def test_a_cancelled_wait_gives_back_what_it_had() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(NUMBERS) as messages, anyio.create_task_group() as tasks:
        batches = messages.batches(max_size=10, max_wait=30)
        await publish(rt, 1, 2)
        with anyio.CancelScope() as scope:
            tasks.start_soon(cancel_when_waiting, scope, messages)
            await anext(batches)
            pytest.fail("the batch was not full")
        assert messages.stats().lag == 2
        await publish(rt, 3)
        assert [(await anext(messages)).data.n for _ in range(3)] == [1, 2, 3]


async def cancel_when_waiting(scope: anyio.CancelScope, messages: object) -> None:
    await until(lambda: getattr(messages, "_waiter", None) is not None)
    scope.cancel()


@pytest.mark.anyio
async def test_a_cancelled_wait_for_the_first_loses_nothing() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(NUMBERS) as messages:
        batches = messages.batches()
        with anyio.move_on_after(0):
            await anext(batches)
        await publish(rt, 1, 2)
        assert numbers(await anext(batches)) == [1, 2]


@pytest.mark.anyio
async def test_batches_and_single_messages_may_be_taken_in_turn() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(NUMBERS) as messages:
        await publish(rt, *range(6))
        assert (await anext(messages)).data.n == 0
        batches = messages.batches(max_size=2)
        assert numbers(await anext(batches)) == [1, 2]
        async for message in messages:
            assert message.data.n == 3
            break
        assert numbers(await anext(batches)) == [4, 5]


@pytest.mark.anyio
@pytest.mark.parametrize("max_wait", [0.0, 30.0])
async def test_the_end_comes_behind_the_last_batch(max_wait: float, anyio_backend: object) -> None:
    rt = Realtime(MemoryTransport())
    async with rt:
        messages = rt.subscribe(NUMBERS)
        await messages.__aenter__()
        await publish(rt, 1, 2)
    batches = messages.batches(max_size=5, max_wait=max_wait)
    assert numbers(await anext(batches)) == [1, 2]
    with pytest.raises(StopAsyncIteration):
        await anext(batches)
    await messages.__aexit__(None, None, None)


# ---------------------------------------------------------------- gaps and errors


@pytest.mark.anyio
@pytest.mark.parametrize("max_wait", [0.0, 0.01])
async def test_a_gap_view_yields_gaps_inside_batches(max_wait: float, anyio_backend: object) -> None:
    transport = MemoryTransport("", MemoryOptions(history=0))
    async with Realtime(transport) as rt, rt.subscribe(NUMBERS).with_gaps() as items:
        await publish(rt, 1)
        transport.faults.drop(2)
        await publish(rt, 2, 3, 4)
        batch = await anext(items.batches(max_wait=max_wait))
        assert [item if isinstance(item, Gap) else item.data.n for item in batch] == [1, Gap("c", GapReason.HOLE, 2), 4]


@pytest.mark.anyio
@pytest.mark.parametrize("max_wait", [0.0, 0.01])
async def test_a_gap_to_be_raised_comes_between_batches(max_wait: float, anyio_backend: object) -> None:
    transport = MemoryTransport("", MemoryOptions(history=0))
    async with Realtime(transport) as rt, rt.subscribe(NUMBERS, on_gap="raise") as messages:
        batches = messages.batches(max_wait=max_wait)
        for first in (1, 11):
            await publish(rt, first, first + 1)
            transport.faults.drop(1)
            await publish(rt, first + 2, first + 3)
            assert numbers(await anext(batches)) == [first, first + 1]
            with pytest.raises(MessagesLost, match="1 message lost on channel 'c'"):
                await anext(batches)
            assert numbers(await anext(batches)) == [first + 3]


@pytest.mark.anyio
async def test_a_gap_that_comes_while_a_batch_fills_up_is_raised_behind_it() -> None:
    transport = MemoryTransport("", MemoryOptions(history=0))
    async with Realtime(transport) as rt, rt.subscribe(NUMBERS, on_gap="raise") as messages, anyio.create_task_group() as tasks:
        batches = messages.batches(max_size=5, max_wait=30)
        got: list[list[int]] = []

        async def read() -> None:
            got.append(numbers(await anext(batches)))

        await publish(rt, 1)
        tasks.start_soon(read)
        await until(lambda: messages._waiter is not None)
        transport.faults.drop(1)
        await publish(rt, 2, 3)
        await until(lambda: got)
        assert got == [[1]]
        with pytest.raises(MessagesLost):
            await anext(batches)
        with anyio.move_on_after(0):
            pytest.fail(f"{await anext(messages.batches(max_size=2, max_wait=30))} came though only one message was there")
        assert numbers(await anext(messages.batches())) == [3]


@pytest.mark.anyio
async def test_a_gap_right_behind_an_invalid_message_costs_nothing_that_was_collected() -> None:
    """Parsing happens when messages are taken: what follows may then turn out to be a gap to be raised."""
    transport = FakeTransport(COUNTED)
    async with Realtime(transport, on_invalid=lambda _: None) as rt, rt.subscribe(NUMBERS, on_gap="raise") as messages:
        for n in range(1, 5):
            transport.push("c", entry("c", n, topic="n", data={"n": n}))
        assert (await anext(messages)).data.n == 1
        transport.push("c", entry("c", 5, topic="n", data={"n": "no number"}))
        transport.push("c", entry("c", 9, topic="n", data={"n": 9}))
        assert rt.stats().gaps == 1
        got: list[int] = []
        lost: list[int | None] = []
        batches = messages.batches()
        while 9 not in got:
            try:
                got += numbers(await anext(batches))
            except MessagesLost as error:
                lost.append(error.gap.lost)
        assert got == [2, 3, 4, 9]
        assert lost == [3]


@pytest.mark.anyio
@pytest.mark.parametrize("max_wait", [0.0, 30.0])
async def test_an_error_that_ends_it_all_comes_behind_the_last_batch(max_wait: float, anyio_backend: object) -> None:
    """A consumer stops at the error: what was collected before it must have been handed out by then."""
    transport = MemoryTransport("", MemoryOptions(history=0))
    async with Realtime(transport) as rt, rt.subscribe(NUMBERS) as messages, anyio.create_task_group() as tasks:
        batches = messages.batches(max_size=5, max_wait=max_wait)
        got: list[int] = []
        errors: list[PermissionDenied] = []

        async def read() -> None:
            try:
                async for batch in batches:
                    got.extend(numbers(batch))
            except PermissionDenied as error:
                errors.append(error)

        await publish(rt, 1, 2)
        tasks.start_soon(read)
        await until(lambda: messages._waiter is not None)
        transport.faults.deny("c", PermissionDenied("no longer"))
        transport.faults.disconnect()
        await until(lambda: errors)
        assert got == [1, 2]


@pytest.mark.anyio
async def test_batches_iterate_themselves() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(NUMBERS) as messages:
        batches = messages.batches()
        assert isinstance(batches, Batches)
        assert batches.__aiter__() is batches


@pytest.mark.anyio
async def test_a_long_backlog_by_batches_leaves_others_their_turn() -> None:
    async with Realtime(MemoryTransport(), buffer=5000) as rt, rt.subscribe(NUMBERS) as messages:
        await publish(rt, *range(3000))
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count)
            seen = 0
            async for batch in messages.batches(max_size=10):
                seen += len(batch)
                if seen == 3000:
                    break
            tasks.cancel_scope.cancel()
        assert turns >= 10, "one turn for each chunk of 256 at least"
