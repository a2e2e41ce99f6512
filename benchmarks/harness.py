"""How one contender is timed: the same publisher loop, the same consumer loop and the same checks for all of them.

A *lap* is one contender, subscribed and warmed up from scratch, delivering a fixed number of messages. The publisher sends a burst and yields until every
subscriber has received all of it, so no queue can grow and nothing may be dropped. In the ``burst`` regime a burst is 64 messages, so that a subscriber takes
many per wake-up and the cost of ``async for`` rules; in the ``lockstep`` regime it is one, and waking a task rules.

Each consumer keeps the last message of every burst. Together with its count that proves order and completeness after the clock has stopped.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field, replace
from typing import ClassVar, Generic, Literal, NamedTuple, Protocol, Self, TypeVar

from .model import Sample, samples

__all__ = ("BenchmarkError", "Case", "Contender", "Hub", "Lap", "Regime", "Stopwatch", "Tally", "consume", "contender", "settle", "verify")

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Regime = Literal["burst", "lockstep"]

LAP_LIMIT = 60.0
"""Seconds after which a lap is given up: a message must have been lost, since nobody else can hold it up."""


class BenchmarkError(AssertionError):
    """A contender lost, repeated or reordered messages, so that its figures mean nothing."""


@dataclass(frozen=True, slots=True)
class Case:
    """What one lap does.

    Attributes:
        regime: ``burst`` or ``lockstep``.
        subscribers: Number of ``async for`` loops.
        burst: Messages per burst; 1 in lockstep.
        bursts: Number of timed bursts; one more goes before them to warm up.
    """

    regime: Regime
    subscribers: int
    burst: int
    bursts: int

    @property
    def deliveries(self) -> int:
        """Messages received in the timed part, over all subscribers."""
        return self.subscribers * self.burst * self.bursts

    def scaled(self, share: float) -> Case:
        """The same case with fewer or more bursts, for contenders much slower or faster than the rest.

        Args:
            share: Factor on the number of bursts.

        Returns:
            A case of at least two bursts.
        """
        return replace(self, bursts=max(2, round(self.bursts * share)))

    def batches(self) -> list[Sequence[Sample]]:
        """The messages of a lap, cut into bursts, the warm-up burst first."""
        every = samples(self.burst * (self.bursts + 1))
        return [every[i : i + self.burst] for i in range(0, len(every), self.burst)]


class Lap(NamedTuple):
    """The outcome of one lap."""

    deliveries: int
    wall: float
    """Seconds from the first publish to the last receipt."""
    cpu: float
    """Seconds of processor time that the process used meanwhile."""

    @property
    def wall_rate(self) -> float:
        """Deliveries per second of wall time."""
        return self.deliveries / self.wall

    @property
    def cpu_rate(self) -> float:
        """Deliveries per second of processor time."""
        return self.deliveries / self.cpu


class Stopwatch:
    """Times its block by wall and by processor, with the garbage collector emptied before and off meanwhile, equally for everyone."""

    profiler: ClassVar[cProfile.Profile | None] = None
    """Switched on within every timed block, for `benchmarks.profile`."""

    def __enter__(self) -> Self:
        gc.collect()
        gc.disable()
        if self.profiler is not None:
            self.profiler.enable()
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        if self.profiler is not None:
            self.profiler.disable()
        gc.enable()


@dataclass(slots=True)
class Tally(Generic[T]):
    """What the consumers of one lap share with its publisher."""

    ready: int = 0
    """Consumers that have subscribed."""
    pending: int = 0
    """Consumers that have not yet received all of the current burst."""
    counts: list[int] = field(default_factory=list[int])
    """Messages received, by consumer, once it has ended."""
    marks: list[list[T]] = field(default_factory=list[list[T]])
    """The last message of each burst, by consumer."""


class Hub(Protocol[T_co]):
    """A fan-out under test, in the few operations the harness needs."""

    def subscribe(self) -> AbstractAsyncContextManager[AsyncIterable[T_co]]:
        """One subscription to the only channel there is."""
        ...

    async def send(self, burst: Sequence[Sample], /) -> None:
        """Validate, encode and publish messages in order, in the way that is best for this hub."""
        ...

    def dropped(self) -> int:
        """Messages that the hub itself says it lost."""
        ...


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that runs laps.

    Attributes:
        name: Its row in the tables.
        kind: ``floor`` is a bound of the interpreter, ``peer`` another library, ``fanwire`` the subject.
        regimes: Where it takes part.
        share: Part of a case's bursts that it gets: rates are compared, so a slow one need not run as long.
        lap: Runs one lap. Raises `BenchmarkError` if a message is missing, repeated or out of order.
        open_hub: Opens a fresh hub, for other measurements than laps; a floor has none.
    """

    name: str
    kind: Literal["floor", "peer", "fanwire"]
    regimes: tuple[Regime, ...]
    share: float
    lap: Callable[[Case], Awaitable[Lap]]
    open_hub: Callable[[], AbstractAsyncContextManager[Hub[object]]] | None = None


async def consume(subscription: AbstractAsyncContextManager[AsyncIterable[T]], burst: int, tally: Tally[T]) -> None:
    """The consumer, the same for all: counts, and keeps the last message of each burst.

    Args:
        subscription: What to iterate.
        burst: Messages per burst.
        tally: Where to report.
    """
    count, due = 0, burst
    marks: list[T] = []
    tally.marks.append(marks)
    try:
        async with subscription as messages:
            tally.ready += 1
            async for message in messages:
                count += 1
                if count == due:
                    due += burst
                    marks.append(message)
                    tally.pending -= 1
    finally:
        tally.counts.append(count)


async def settle(tally: Tally[T]) -> None:
    """Yield to the consumers until none is pending.

    Yielding costs one turn of the loop and no future, so that the publisher adds as little as it can to what is measured.

    Args:
        tally: What the consumers report to.
    """
    while tally.pending > 0:
        await asyncio.sleep(0)


def contender(
    name: str,
    open_hub: Callable[[], AbstractAsyncContextManager[Hub[T]]],
    index: Callable[[T], int],
    *,
    kind: Literal["peer", "fanwire"] = "peer",
    regimes: tuple[Regime, ...] = ("burst", "lockstep"),
    share: float = 1.0,
) -> Contender:
    """Make a hub take part.

    Args:
        name: Its row in the tables.
        open_hub: Opens a fresh one; called once per lap.
        index: Reads the number of a message that a subscriber received.
        kind: As in `Contender`.
        regimes: As in `Contender`.
        share: As in `Contender`.

    Returns:
        The contender.
    """

    async def lap(case: Case) -> Lap:
        tally: Tally[T] = Tally()
        try:
            async with asyncio.timeout(LAP_LIMIT), open_hub() as hub:
                watch, dropped = await _drive(hub, case, tally)
        except TimeoutError as error:
            raise BenchmarkError(f"{name}: {tally.pending} of {case.subscribers} subscribers still wait after {LAP_LIMIT:.0f} s: {case}") from error
        if dropped:
            raise BenchmarkError(f"{name}: dropped {dropped} messages by its own account: {case}")
        verify(name, case, tally, index)
        return Lap(case.deliveries, watch.wall, watch.cpu)

    return Contender(name, kind, regimes, share, lap, open_hub)


async def _drive(hub: Hub[T], case: Case, tally: Tally[T]) -> tuple[Stopwatch, int]:
    """Subscribe, warm up, time the bursts and unsubscribe; the number is what the hub says it dropped."""
    warm_up, *bursts = case.batches()
    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[None]] = []
        # The first subscriber goes alone: broadcaster forgets one of two that come first at the same time.
        for wanted in (1, case.subscribers):
            tasks += [group.create_task(consume(hub.subscribe(), case.burst, tally)) for _ in range(wanted - len(tasks))]
            while tally.ready < wanted:
                await asyncio.sleep(0)
        tally.pending += case.subscribers
        await hub.send(warm_up)
        await settle(tally)
        with Stopwatch() as watch:
            for burst in bursts:
                tally.pending += case.subscribers
                await hub.send(burst)
                while tally.pending > 0:
                    await asyncio.sleep(0)
        dropped = hub.dropped()
        for task in tasks:
            task.cancel()
    return watch, dropped


def verify(name: str, case: Case, tally: Tally[T], index: Callable[[T], int]) -> None:
    """Check after a lap that every consumer received everything in order.

    Args:
        name: The contender, for the message.
        case: What it ran.
        tally: What its consumers reported.
        index: Reads the number of a message.

    Raises:
        BenchmarkError: If a count or the last message of a burst is not what it must be.
    """
    total = case.burst * (case.bursts + 1)
    expected = [samples(total)[i].index for i in range(case.burst - 1, total, case.burst)]
    if tally.counts != [total] * case.subscribers:
        wrong = [count for count in tally.counts if count != total]
        raise BenchmarkError(f"{name}: {len(wrong)} of {case.subscribers} subscribers received another number than {total}, e.g. {wrong[:3]}: {case}")
    for marks in tally.marks:
        with suppress(StopIteration):
            position = next(i for i, (got, want) in enumerate(zip(map(index, marks), expected, strict=True)) if got != want)
            raise BenchmarkError(f"{name}: burst {position} ended with message {index(marks[position])}, not {expected[position]}: {case}")
