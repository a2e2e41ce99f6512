"""What is timed, and how: one publisher loop, one consumer loop and one count for whatever can publish and subscribe.

A *lap* is one subject, subscribed afresh and warmed up, that delivers a number of messages in one of three ways: `pipelined`, `awaited` and `paced`. Publishers and
subscribers share this process and its event loop. Subscribers count for themselves, so a lap knows what was dropped, whatever the subject says of itself.
"""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, final

import anyio
import anyio.abc
from pydantic import BaseModel

__all__ = ("BURST", "PUBLISHERS", "Lap", "Sample", "Subject", "awaited", "paced", "pipelined", "samples")

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

BURST = 256
"""Messages that are published in one call, where they are pipelined."""

PUBLISHERS = 50
"""Concurrent publishers, where each awaits its messages."""

_CALLS = 2
"""Bursts under way at a time: one is made ready while the broker works on the other."""

_AHEAD = 2
"""Bursts that subscribers may be behind: few enough for any bounded buffer, enough to keep everybody busy."""

_STALLED = 5.0
"""Seconds without another burst after which what is missing counts as dropped."""


class Sample(BaseModel, frozen=True):
    """One message, a piece of generated text: 256 bytes of JSON."""

    index: int
    run_id: str
    text: str


def samples(count: int) -> tuple[Sample, ...]:
    """Make messages numbered from 100,000, all of one size."""
    text = (
        "Thinking about the question, then answering it in words that come one after another, the way real prose does arrive: "
        "a sentence, a pause, another sentence, and so on to the very end of the text."
    )
    return tuple(Sample(index=100_000 + i, run_id="run_01JD8Z5Q4W9X3V7K2M6N", text=text) for i in range(count))


class Subject(Protocol[T_co]):
    """What is measured: one channel, how to subscribe to it and how to publish on it."""

    def subscribe(self) -> AbstractAsyncContextManager[AsyncIterable[T_co]]:
        """One subscription; entering returns when it is ready."""
        ...

    async def publish(self, sample: Sample, /) -> None:
        """Validate and publish one message; return once the broker has it."""
        ...

    async def publish_many(self, burst: Sequence[Sample], /) -> None:
        """The same for several, in order; calls that overlap keep theirs."""
        ...

    def index(self, received: Any, /) -> int:  # Any: what its subscriptions yield
        """Read the number of a message that was received."""
        ...


@final
class Lap(NamedTuple):
    """What became of the messages."""

    published: int
    expected: int
    """Published times subscribers."""

    delivered: int
    """As the subscribers count."""

    seconds: float
    """From the first call to the last receipt."""

    cpu: float
    """Seconds of processor time that this process used meanwhile."""

    delays: tuple[float, ...] = ()
    """Seconds from the call to the receipt, for each delivery; only of `paced`."""

    @property
    def rate(self) -> float:
        """Deliveries per second."""
        return self.delivered / self.seconds


@final
class _Crowd(Generic[T]):
    """The subscribers of one lap. Each counts, and tells when it has another ``burst``.

    It keeps the last message of each, which together with the count shows that all came in order; where publishers are concurrent and there is no one order, ``every`` message.
    """

    def __init__(self, subject: Subject[T], size: int, burst: int, *, every: bool = False) -> None:
        self._subject = subject
        self.size = size
        self._burst = burst
        self._every = every
        self.counts: list[int] = []
        self.kept: list[list[T]] = []
        self.stamps: list[list[float]] = []
        """When each burst was complete."""
        self.bursts = 0
        """Bursts received, over all subscribers."""
        self.last = 0.0
        self._wanted: dict[int, anyio.Event] = {}

    @asynccontextmanager
    async def __call__(self) -> AsyncGenerator[None]:
        """Subscribe one after the other: there are libraries that forget one of two that come first at the same time."""
        async with anyio.create_task_group() as tasks:
            for _ in range(self.size):
                await tasks.start(self._consume)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()

    async def _consume(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        count, due, every = 0, self._burst, self._every
        kept: list[T] = []
        stamps: list[float] = []
        try:
            async with self._subject.subscribe() as messages:
                task_status.started()
                async for message in messages:
                    count += 1
                    if every:
                        kept.append(message)
                    if count == due:
                        due += self._burst
                        stamps.append(time.perf_counter())
                        if not every:
                            kept.append(message)
                        self.last = stamps[-1]
                        self.bursts += 1
                        if self.bursts in self._wanted:
                            self._wanted.pop(self.bursts).set()
        finally:
            self.counts.append(count)
            self.kept.append(kept)
            self.stamps.append(stamps)

    async def reach(self, bursts: int) -> None:
        """Wait until the subscribers together have received that many bursts, or nothing comes any more."""
        seen = -1
        while self.bursts < bursts and seen != (seen := self.bursts):
            reached = self._wanted.setdefault(bursts, anyio.Event())
            with anyio.move_on_after(_STALLED):
                await reached.wait()

    def lap(self, numbers: Sequence[int], times: Sequence[float]) -> Lap:
        """Count what arrived of ``numbers`` behind the first burst, which was for warming up. Where something arrived twice or out of order, nothing counts."""
        index, burst, delivered = self._subject.index, self._burst, 0
        for count, kept in zip(self.counts, self.kept, strict=True):
            found = [index(message) for message in kept]
            right = sorted(found) == list(numbers) if self._every else found == list(numbers[burst - 1 :: burst])
            if count < len(numbers) or (count == len(numbers) and right):
                delivered += max(0, count - burst)
        published = len(numbers) - burst
        end = self.last if self.last > times[1] else time.perf_counter()
        return Lap(published, published * self.size, delivered, end - times[1], times[0])


@contextmanager
def _timed() -> Generator[list[float]]:
    """Give processor time, which the block took when it has ended, and when it began; with the garbage collector emptied before and off meanwhile."""
    gc.collect()
    gc.disable()
    times = [time.process_time(), time.perf_counter()]
    try:
        yield times
    finally:
        times[0] = time.process_time() - times[0]
        gc.enable()


async def pipelined(subject: Subject[T], subscribers: int, messages: int) -> Lap:
    """Publish in bursts, one call each, two calls at a time, while subscribers may be a little behind.

    Args:
        subject: What is measured.
        subscribers: How many iterate.
        messages: Published at least, in whole bursts; one more burst goes before them.
    """
    every = samples((max(1, -(-messages // BURST)) + 1) * BURST)
    crowd = _Crowd(subject, subscribers, BURST)
    bursts = iter(range(BURST, len(every), BURST))

    async def publish() -> None:
        for begin in bursts:
            await subject.publish_many(every[begin : begin + BURST])
            due = (begin // BURST + 1 - _AHEAD) * subscribers
            if crowd.bursts < due:
                await crowd.reach(due)

    async with crowd():
        await subject.publish_many(every[:BURST])
        await crowd.reach(subscribers)
        with _timed() as times:
            async with anyio.create_task_group() as tasks:
                for _ in range(_CALLS):
                    tasks.start_soon(publish)
            await crowd.reach(len(every) // BURST * subscribers)
    return crowd.lap([sample.index for sample in every], times)


async def awaited(subject: Subject[T], subscribers: int, messages: int) -> Lap:
    """Publish by concurrent publishers that await each message.

    Args:
        subject: What is measured.
        subscribers: How many iterate.
        messages: Published by all publishers together, as many by each; one more of each goes before them.
    """
    rounds = max(1, messages // PUBLISHERS) + 1
    every = samples(PUBLISHERS * rounds)
    crowd = _Crowd(subject, subscribers, PUBLISHERS, every=True)

    async def publish(first: int) -> None:
        for sample in every[PUBLISHERS + first :: PUBLISHERS]:
            await subject.publish(sample)

    async with crowd():
        for sample in every[:PUBLISHERS]:
            await subject.publish(sample)
        await crowd.reach(subscribers)
        with _timed() as times:
            async with anyio.create_task_group() as tasks:
                for first in range(PUBLISHERS):
                    tasks.start_soon(publish, first)
            await crowd.reach(rounds * subscribers)
    return crowd.lap([sample.index for sample in every], times)


async def paced(subject: Subject[T], subscribers: int, messages: int, rate: float) -> Lap:
    """Publish one message after the other, and note when each arrives.

    Args:
        subject: What is measured.
        subscribers: How many iterate.
        messages: How many; one more goes before them.
        rate: Messages per second.
    """
    every = samples(messages + 1)
    crowd = _Crowd(subject, subscribers, 1)
    called: list[float] = []
    async with crowd():
        await subject.publish(every[0])
        await crowd.reach(subscribers)
        with _timed() as times:
            for number, sample in enumerate(every[1:]):
                await anyio.sleep(max(0.0, times[1] + number / rate - time.perf_counter()))
                called.append(time.perf_counter())
                await subject.publish(sample)
            await crowd.reach((messages + 1) * subscribers)
    lap = crowd.lap([sample.index for sample in every], times)
    return lap._replace(delays=tuple(stamp - call for stamps in crowd.stamps for stamp, call in zip(stamps[1:], called, strict=False)))
