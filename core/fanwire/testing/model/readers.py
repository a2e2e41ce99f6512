"""The readers of a plan: each has one subscription at a time, reads it as the plan wants, and leaves it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, final

import anyio
from anyio.abc import TaskGroup

from ...errors import Closed, CursorExpired, FanwireError
from ...messages import Cursor, Message, Start
from ...realtime import Realtime
from ...subscription import Subscription
from ..tools import Room
from .account import Account, Item, Sent, Visit
from .steps import Join, StartKind

__all__ = ("Readers",)

_LONG_AGO: Final = 3600.0
"""Seconds before the run that stand for its beginning."""


@final
class _Reading:
    """A visit under way."""

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self.credit: float = math.inf if visit.join.credit is None else visit.join.credit
        self.leaving = False
        self.numbers: set[int] = set()
        """What it has seen."""
        self.changed = anyio.Event()
        self.wait = anyio.CancelScope()
        """Of the wait for the next item."""
        self.whole = anyio.CancelScope()
        self.over = anyio.Event()

    def change(self) -> None:
        """Wake the reader that waits for permission to read."""
        self.changed.set()
        self.changed = anyio.Event()


@final
class Readers:
    """All readers of a run."""

    def __init__(self, account: Account, tick: Callable[[], int], tasks: TaskGroup) -> None:
        self._account = account
        self._tick = tick
        self._tasks = tasks
        self._readings: dict[int, _Reading] = {}
        self._last: dict[tuple[int, str], Sent] = {}
        """What each reader saw last of each channel."""
        self._news = anyio.Event()

    # ------------------------------------------------------------------ what plans do

    def busy(self, reader: int) -> bool:
        """Tell whether a reader has a subscription."""
        return reader in self._readings

    def join(self, step: Join, place: int, realtime: Realtime, interests: Mapping[str, str]) -> None:
        """Begin a subscription."""
        behind = self._behind(step, interests)
        start: StartKind = step.start
        if step.start in {"after", "resume"} and not behind:
            start = "earliest" if "earliest" in self._account.capabilities.history else "live"
        wanted = {channel: frozenset(topics) for channel, topics in interests.items()}
        number = sum(visit.join.reader == step.reader for visit in self._account.visits) + 1
        tick = self._tick()
        visit = Visit(f"subscription {number} of reader {step.reader}", step, place, wanted, tick, start, behind, tick)
        self._account.visits.append(visit)
        reading = self._readings[step.reader] = _Reading(visit)
        refs = [getattr(Room.parse(channel), topic) for channel, topics in interests.items() for topic in topics]
        subscription = realtime.subscribe(*refs, start=_start(visit), buffer=step.buffer).with_gaps()
        self._tasks.start_soon(self._read, reading, subscription)

    def _behind(self, step: Join, interests: Mapping[str, str]) -> dict[str, Sent]:
        """Return the message of each channel to start behind; nothing unless there is one of each."""
        found: dict[str, Sent] = {}
        for channel in interests:
            if step.start == "resume":
                last = self._last.get((step.reader, channel))
            elif step.start == "after":
                accepted = [
                    sent for sent in self._account.sent.values() if sent.channel == channel and sent.cursor is not None and sent.outcome == "accepted"
                ]
                last = accepted[-min(step.back, len(accepted))] if accepted else None
            else:
                return {}
            if last is None or last.cursor is None:
                return {}
            found[channel] = last
        return found

    def allow(self, reader: int, count: float) -> None:
        """Allow a slow reader some more items."""
        if (reading := self._readings.get(reader)) is not None:
            reading.credit += count
            reading.change()

    def allow_all(self) -> None:
        """Let everybody read to the end."""
        for reader in self._readings:
            self.allow(reader, math.inf)

    def interrupt(self, reader: int) -> None:
        """Cancel a reader's wait for the next item."""
        if (reading := self._readings.get(reader)) is not None:
            reading.wait.cancel()

    async def leave(self, reader: int, cancel: bool, patience: float) -> None:
        """End a reader's subscription, and wait until it is over."""
        reading = self._readings.get(reader)
        if reading is None:
            return
        reading.leaving = True
        if cancel or reading.visit.ready == math.inf:
            reading.whole.cancel()
        else:
            reading.wait.cancel()
        reading.change()
        with anyio.move_on_after(patience) as scope:
            await reading.over.wait()
        if scope.cancelled_caught:
            self._account.troubles.append(f"{reading.visit} did not leave")

    async def leave_all(self, patience: float) -> None:
        """End all subscriptions."""
        for reader in list(self._readings):
            await self.leave(reader, False, patience)

    def closing(self, place: int) -> None:
        """Let those read to the end whose Realtime is being closed."""
        for reader, reading in self._readings.items():
            if reading.visit.realtime == place:
                self.allow(reader, math.inf)

    # ------------------------------------------------------------------ who has read what

    def waiting(self) -> list[Visit]:
        """Return the visits that are to come to the end: of readers that read everything."""
        return [reading.visit for reading in self._followed()]

    def have_seen(self, sent: Sent, marks: set[int]) -> bool:
        """Tell whether everybody who subscribes the topic of ``sent`` has seen one of ``marks``, all of which are of that topic."""
        return not any(reading.visit.wants(sent) and marks.isdisjoint(reading.numbers) for reading in self._followed())

    def _followed(self) -> list[_Reading]:
        return [reading for reading in self._readings.values() if reading.credit == math.inf and not reading.leaving]

    def behind(self) -> list[str]:
        """Return who waits for messages."""
        return [f"{visit} ({'not ready' if visit.ready == math.inf else f'saw {len(visit.items)} items'})" for visit in self.waiting()]

    async def news(self) -> None:
        """Wait until somebody has read something, or ended."""
        await self._news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    # ------------------------------------------------------------------ reading

    async def _read(self, reading: _Reading, subscription: Subscription[Item]) -> None:
        visit = reading.visit
        try:
            with reading.whole:
                async with subscription:
                    visit.ready = self._tick()
                    while await self._allowed(reading):
                        reading.wait = anyio.CancelScope()
                        with reading.wait:
                            if await self._some(reading, subscription):
                                break
        except CursorExpired:
            visit.expired = self._tick()
        except Closed:
            pass  # its Realtime was closed while it was beginning
        except FanwireError as error:
            self._account.troubles.append(f"{visit} raised {error!r}")
        finally:
            if self._readings.get(visit.join.reader) is reading:
                del self._readings[visit.join.reader]
            reading.over.set()
            self._tell()

    async def _allowed(self, reading: _Reading) -> bool:
        """Wait until the reader may read; return whether it is to."""
        while not reading.leaving and reading.credit < 1:
            await reading.changed.wait()
        return not reading.leaving

    async def _some(self, reading: _Reading, subscription: Subscription[Item]) -> bool:
        """Read for as long as allowed; return whether the stream is over."""
        if reading.visit.join.reads == "anext":
            try:
                self._take(reading, await anext(subscription))
            except StopAsyncIteration:
                return True
            return False
        if reading.visit.join.reads == "batches":
            async for batch in subscription.batches(max_size=int(min(reading.credit, 5))):
                for item in batch:
                    self._take(reading, item)
                if reading.credit < 5 or reading.leaving:
                    return False
            return True
        async for item in subscription:
            self._take(reading, item)
            if reading.credit < 1 or reading.leaving:
                return False
        return True

    def _take(self, reading: _Reading, item: Item) -> None:
        visit = reading.visit
        visit.items.append((self._tick(), item))
        reading.credit -= 1
        sent = self._account.sent.get(item.data) if isinstance(item, Message) else None
        if sent is not None:
            reading.numbers.add(sent.number)
            if sent.outcome != "accepted" and isinstance(item, Message):
                sent.cursor, sent.id = sent.cursor or item.cursor, sent.id or item.id
            self._last[visit.join.reader, sent.channel] = sent
        self._tell()


def _start(visit: Visit) -> Start:
    """Return where a visit starts."""
    match visit.start:
        case "earliest":
            return Start.EARLIEST
        case "last":
            return Start.last(visit.join.back)
        case "since":
            return Start.since(datetime.fromtimestamp(math.floor(time.time() * 1000) / 1000, UTC))
        case "beginning":
            return Start.since(datetime.fromtimestamp(time.time() - _LONG_AGO, UTC))
        case "after" | "resume":
            cursors: dict[str, Cursor] = {channel: sent.cursor for channel, sent in visit.behind.items() if sent.cursor is not None}
            return Start.after(cursors)
        case "live":
            return Start.LIVE
