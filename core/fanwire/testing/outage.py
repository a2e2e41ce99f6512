"""What checks of faults are written with: a clock whose pauses end when a check says so, a second client of the server, and a publisher that keeps the books."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple, final

import anyio
from anyio.lowlevel import checkpoint

from ..errors import FanwireError, PartialPublish
from ..events import ConnectionState
from ..messages import Gap, Receipt
from ..realtime import Realtime
from ..subscription import Subscription
from ..topics import TopicRef
from ..transport import HistoryPage, HistoryStart, Transport
from .harness import Harness
from .through import Through
from .tools import account, confirmed, expect, take, told

__all__ = (
    "HeldClock",
    "Pair",
    "Slow",
    "Source",
    "audit",
    "beside",
    "deep",
    "follow",
    "follow_all",
    "gaps_of",
    "opened",
    "pair",
    "read_up_to",
    "refused",
    "sound",
    "states",
    "whole",
)

_BEAT = 0.02
"""Seconds after which another message is published where none arrives."""

_PROOF = 3
"""Messages that have to arrive, one after the other, before a channel counts as live."""


@final
class HeldClock:
    """The system's clock for a Realtime, but for pauses: they are short, and while the clock is held none of them ends.

    Between two attempts to connect there is always a pause, so an outage lasts for as long as the clock is held.

    Args:
        hurried: The time a pause was to take passes nevertheless, so that deadlines come as soon as nothing else is to be waited for.
    """

    def __init__(self, *, hurried: bool = False) -> None:
        self._hurried = hurried
        self._ahead = 0.0
        self._released: anyio.Event | None = None

    def time(self) -> float:
        """Return seconds since 1970-01-01 UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic() + self._ahead

    async def sleep(self, seconds: float, /) -> None:
        """Wait for a moment, or until :meth:`release`."""
        while self._released is not None:
            await self._released.wait()
        await anyio.sleep(min(seconds, 0.0005 if self._hurried else 0.005))
        if self._hurried:
            self._ahead += seconds

    def hold(self) -> None:
        """Let no pause end."""
        self._released = self._released or anyio.Event()

    def release(self) -> None:
        """Let pauses end again."""
        released, self._released = self._released, None
        if released is not None:
            released.set()


def opened(harness: Harness, transport: Transport, **settings: Any) -> Realtime:  # Any: the constructor's
    """Return a Realtime on a transport, with the harness's patience."""
    settings.setdefault("timeout", harness.patience)
    settings.setdefault("connect_timeout", harness.patience)
    return Realtime(transport, **settings)


def deep(harness: Harness) -> Transport:
    """Return a transport that keeps enough of a channel for several pages."""
    return harness.bounded(1000) if harness.can("bounded") else harness.transport()


@asynccontextmanager
async def beside(harness: Harness) -> AsyncGenerator[Harness]:
    """Another client of the same server: what is done to the connections of ``harness`` does not concern it."""
    async with type(harness)(harness.namespace) as other:
        yield other


class Pair(NamedTuple):
    """A Realtime whose connection a check breaks, and one on a connection of its own that publishes meanwhile."""

    rt: Realtime
    far: Realtime
    clock: HeldClock
    """The clock of ``rt``."""


@asynccontextmanager
async def pair(
    harness: Harness,
    make: Callable[[Harness], Transport] = lambda harness: harness.transport(),
    *,
    around: Callable[[Transport], Transport] = lambda transport: transport,
    hurried: bool = False,
    **settings: Any,  # Any: the constructor's
) -> AsyncGenerator[Pair]:
    """Open both.

    Args:
        harness: Opens the first; another one of its kind opens the second.
        make: Makes their transports.
        around: What comes between the first and its transport.
        hurried: Deadlines of the first come early, see :class:`HeldClock`.
        **settings: Of the first one.
    """
    clock = HeldClock(hurried=hurried)
    async with (
        beside(harness) as other,
        opened(harness, around(make(harness)), clock=clock, **settings) as rt,
        opened(other, make(other), clock=HeldClock()) as far,
    ):
        try:
            yield Pair(rt, far, clock)
        finally:
            clock.release()


class Slow(Through):
    """A transport whose history takes long enough for something to happen before each page is read, and again before it is handed over."""

    def __init__(self, transport: Transport, meanwhile: Callable[[], Awaitable[None]]) -> None:
        super().__init__(transport)
        self.meanwhile = meanwhile
        self.pages: int = 0

    async def history(self, channel: str, /, *, start: HistoryStart, limit: int) -> HistoryPage:
        """See :class:`fanwire.transport.SupportsHistory`."""
        self.pages += 1
        await self.meanwhile()
        page = await super().history(channel, start=start, limit=limit)
        await self.meanwhile()
        return page


@final
class Source:
    """Publishes 0, 1, 2 and so on on a topic, and keeps the books: which were accepted, and of which that is not known."""

    def __init__(self, rt: Realtime, ref: TopicRef[int]) -> None:
        self.channel: str = ref.channel
        self.next = 0
        self.last = -1
        """The newest number that was accepted."""
        self.receipts: dict[int, Receipt] = {}
        self.unsure: set[int] = set()
        """Numbers whose publishing failed in such a way that they may have been accepted."""
        self.rt = rt
        self.ref = ref

    async def publish(self, count: int = 1) -> None:
        """Publish so many more numbers, together."""
        await _publish(self.rt, [self] * count)

    async def publish_each(self, count: int) -> None:
        """Publish so many more numbers, one by one."""
        for _ in range(count):
            await self.publish()
            await checkpoint()


async def _publish(rt: Realtime, sources: Sequence[Source]) -> None:
    """Publish the next number of each, together, and enter in the books what became of it."""
    numbers: list[int] = []
    for source in sources:
        numbers.append(source.next)
        source.next += 1
    results: Sequence[Receipt | FanwireError]
    try:
        if len(sources) == 1:
            results = [await rt.publish(sources[0].ref, numbers[0])]
        else:
            results = await rt.publish_many([source.ref(number) for source, number in zip(sources, numbers, strict=True)])
    except PartialPublish as error:
        results = error.results
    except FanwireError as error:
        results = [error] * len(sources)
    for source, number, result in zip(sources, numbers, results, strict=True):
        if isinstance(result, Receipt):
            source.receipts[number] = result
            source.last = max(source.last, number)
        else:
            confirmed(result.retryable, f"publishing during an outage failed for good: {result!r}")
            source.unsure.add(number)


async def follow(messages: Subscription[Any], source: Source, seconds: float) -> list[object]:  # Any: messages, with gaps or without
    """Publish on until what is published arrives again; return data, and gaps, up to the newest that was accepted.

    So a check learns that a stream goes on without being told when: whatever comes before is in what is returned.
    """
    return (await follow_all(messages, [source], seconds))[source.channel]


async def follow_all(messages: Subscription[Any], sources: Sequence[Source], seconds: float) -> dict[str, list[object]]:  # Any: as above
    """Do the same on several channels, each with a source of its own; return what came, by channel."""
    deadline = time.monotonic() + seconds
    found: dict[str, list[object]] = {source.channel: [] for source in sources}
    newest = dict.fromkeys(found, -1)
    # What arrives first may come from history, to which a channel owes it though it is not live: so there are several, one after the other.
    for _ in range(_PROOF):
        behind = {source.channel: (source, source.next) for source in sources}
        wait = _BEAT / 2
        while behind:
            wait *= 2  # what is slow because it has much to do is not to be given more
            silent = [source for source, due in behind.values() if newest[source.channel] < due]
            confirmed(
                time.monotonic() < deadline, f"{sorted(behind)[:5]} did not go on within {seconds:g} s; what came: {list(found.items())[:5]}"[:1000]
            )
            if silent:
                await _publish(silent[0].rt, silent)
            with anyio.move_on_after(wait) as beat:
                while behind:
                    item = await anext(messages)
                    beat.deadline = anyio.current_time() + wait
                    channel = item.channel
                    found[channel].append(item if isinstance(item, Gap) else item.data)
                    if not isinstance(item, Gap):
                        newest[channel] = item.data
                        if channel in behind and behind[channel][1] <= item.data == behind[channel][0].last:
                            del behind[channel]
    return found


def audit(found: Sequence[object], source: Source, first: int = 0, *, exact: bool = False) -> int:
    """Assert that what was accepted from ``first`` on came once and in order, or is accounted for by a gap at its very place.

    What may or may not have been accepted may come, once and in its place.

    Returns:
        How many are missing, all of them announced.
    """
    numbers = [item for item in found if isinstance(item, int)]
    expect(numbers, sorted(set(numbers)), "the numbers, which rise")
    certain = [number for number in range(first, source.last + 1) if number not in source.unsure]
    place = {number: index for index, number in enumerate(certain)}
    known = [place[item] if isinstance(item, int) else item for item in found if isinstance(item, Gap) or item in place]
    strange = [number for number in numbers if number not in place and number not in source.unsure]
    expect(strange, [], f"numbers that were not published from {first} on")
    return account(known, 0, len(certain) - 1, exact=exact)


def whole(found: Sequence[object], source: Source, first: int = 0) -> None:
    """Assert that everything from ``first`` on came once and in order, and no gap was told."""
    expect(gaps_of(found), [], "gaps, though history has everything")
    audit(found, source, first)


def gaps_of(found: Sequence[object]) -> list[Gap]:
    """Return the gaps."""
    return [item for item in found if isinstance(item, Gap)]


async def read_up_to(messages: Subscription[Any], source: Source, seconds: float) -> list[object]:  # Any: as above
    """Read until nothing is behind, however much is published meanwhile."""
    found: list[object] = []
    while not found or found[-1] != source.last:
        found += told(await take(messages, 1, seconds))
    return found


@contextmanager
def refused(kind: type[FanwireError], what: str) -> Generator[None]:
    """Assert that the body raises ``kind``."""
    try:
        yield
    except kind:
        return
    except FanwireError as error:
        raise AssertionError(f"{what}: expected {kind.__name__}, got {error!r}") from error
    raise AssertionError(f"{what}: expected {kind.__name__}, and nothing was raised")


@contextmanager
def sound(what: str) -> Generator[None]:
    """Assert that the body raises no error of fanwire's."""
    try:
        yield
    except FanwireError as error:
        raise AssertionError(f"{what}: {error!r}") from error


async def states(rt: Realtime, events: Any) -> list[ConnectionState]:  # Any: the iterator that rt.events() gives
    """Close a Realtime, and return the states its listener was told, checked: they take turns, and count what ``stats()`` counts."""
    made = rt.stats().connections
    await rt.aclose()
    told = [event async for event in events]
    found = [event.state for event in told]
    expect(found[-1:], [ConnectionState.CLOSED], "the last state")
    expect(found.count(ConnectionState.CONNECTED), made, "connections that listeners were told of, as stats() counts them")
    follows = {
        ConnectionState.CONNECTED: {ConnectionState.DISCONNECTED, ConnectionState.CLOSED},
        ConnectionState.DISCONNECTED: {ConnectionState.CONNECTING},
        ConnectionState.CONNECTING: {ConnectionState.CONNECTED, ConnectionState.DISCONNECTED},
    }
    for event, after in itertools.pairwise(told):
        confirmed(after.state in follows.get(event.state, set()), f"{after.state} follows {event.state} in {[state.value for state in found]}")
        confirmed((event.error is not None) == (event.state is ConnectionState.DISCONNECTED), f"{event} has no reason, or one too many")
    return found
