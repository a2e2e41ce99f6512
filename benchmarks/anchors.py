"""What this interpreter can do at best, measured in the same rounds as the libraries.

Nothing that hands single messages to ``async for`` can beat the first; nothing that wakes a task for each message can beat the second by much.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext

from .harness import Case, Contender, Lap, Stopwatch, Tally, consume, settle, verify
from .model import Sample

__all__ = ("ASYNC_FOR_FLOOR", "COUNTING_FLOOR", "FLOORS", "WAKE_FLOOR")


async def _ready(messages: Sequence[Sample]) -> AsyncIterator[Sample]:
    """An asynchronous generator that never has to wait."""
    for message in messages:
        yield message


async def _exhaust(messages: AsyncIterator[Sample], tally: Tally[Sample]) -> None:
    """Iterate, and do nothing else."""
    async for _ in messages:
        pass
    tally.pending -= 1


async def _async_for_lap(case: Case) -> Lap:
    """Every task iterates a generator that has everything already; there is no publisher, no codec, no waiting and no counting."""
    tally: Tally[Sample] = Tally(pending=case.subscribers)
    messages = [message for burst in case.batches() for message in burst]
    tasks = [asyncio.create_task(_exhaust(_ready(messages), tally)) for _ in range(case.subscribers)]
    with Stopwatch() as watch:
        await settle(tally)
    await asyncio.gather(*tasks)
    return Lap(case.subscribers * len(messages), watch.wall, watch.cpu)


async def _counting_lap(case: Case) -> Lap:
    """The same with the consumer that every library gets, which counts and checks."""
    tally: Tally[Sample] = Tally(pending=case.subscribers * (case.bursts + 1))
    messages = [message for burst in case.batches() for message in burst]
    tasks = [asyncio.create_task(consume(nullcontext(_ready(messages)), case.burst, tally)) for _ in range(case.subscribers)]
    with Stopwatch() as watch:
        await settle(tally)
    await asyncio.gather(*tasks)
    verify(COUNTING_FLOOR.name, case, tally, _index)
    return Lap(case.subscribers * len(messages), watch.wall, watch.cpu)


async def _wait(waiters: list[asyncio.Future[Sample]], tally: Tally[Sample], messages: int) -> None:
    """Await one future per message, and do nothing else."""
    create_future = asyncio.get_running_loop().create_future
    marks: list[Sample] = []
    tally.marks.append(marks)
    for _ in range(messages):
        future = create_future()
        waiters.append(future)
        marks.append(await future)
        tally.pending -= 1
    tally.counts.append(len(marks))


async def _wake_lap(case: Case) -> Lap:
    """The publisher resolves one future per consumer and message; there is no codec and no ``async for``."""
    tally: Tally[Sample] = Tally()
    waiters: list[asyncio.Future[Sample]] = []
    warm_up, *bursts = [message for (message,) in case.batches()]
    tasks = [asyncio.create_task(_wait(waiters, tally, case.bursts + 1)) for _ in range(case.subscribers)]
    await asyncio.sleep(0)
    await _wake(waiters, tally, [warm_up])
    with Stopwatch() as watch:
        await _wake(waiters, tally, bursts)
    await asyncio.gather(*tasks)
    verify(WAKE_FLOOR.name, case, tally, _index)
    return Lap(case.deliveries, watch.wall, watch.cpu)


async def _wake(waiters: list[asyncio.Future[Sample]], tally: Tally[Sample], messages: Sequence[Sample]) -> None:
    """Hand each message to all who wait, and yield until they have taken it."""
    for message in messages:
        woken = waiters.copy()
        waiters.clear()
        tally.pending += len(woken)
        for future in woken:
            future.set_result(message)
        while tally.pending > 0:
            await asyncio.sleep(0)


def _index(sample: Sample) -> int:
    return sample.index


ASYNC_FOR_FLOOR = Contender("async-for floor", "floor", ("burst",), 4.0, _async_for_lap)
"""The bound in bursts: iteration and nothing else."""

COUNTING_FLOOR = Contender("async-for floor, counting", "floor", ("burst",), 4.0, _counting_lap)
"""The bound in bursts for the consumer of this benchmark: what a fan-out that costs nothing would reach."""

WAKE_FLOOR = Contender("future-wake floor", "floor", ("lockstep",), 1.0, _wake_lap)
"""The bound at one message per wake-up."""

FLOORS = (ASYNC_FOR_FLOOR, COUNTING_FLOOR, WAKE_FLOOR)
"""Every anchor."""
