"""Reading history from a cursor, page by page: to close holes of live channels, and to lead a new subscription from the past into the present."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import final

from ..clock import Clock
from ..errors import FanwireError, Unavailable
from ..messages import Cursor, Gap, GapReason
from ..transport import HistoryEntry, HistoryStart, SupportsHistory
from .continuity import Fault, Links, Verdict, caught_up, judge, missing, verify
from .hub import Hub
from .states import ChannelRecord, Event, Phase

__all__ = ("PAGE", "HistoryReader", "repair")

_logger: logging.Logger = logging.getLogger("fanwire.history")

PAGE = 256
"""Entries asked for at once."""

_STALE_DEADLINE = 5.0
_STALE_PAUSE = 0.05


@final
class HistoryReader:
    """Reads one channel's history forward. Every page begins at the last entry of the page before it, so that a trim in between shows."""

    def __init__(self, transport: SupportsHistory, channel: str, links: Links, clock: Clock, after: Cursor | None) -> None:
        self.after = after
        """The last position read, or the cursor to start behind; ``None`` before the first page of another start."""
        self.channel = channel
        self.head: Cursor | None = None
        """The newest position that the last page knew of."""
        self._came_from: Cursor | None = None
        """What the last page continues from."""
        self._transport = transport
        self._links: Links = links
        self._clock = clock

    async def first(self, start: HistoryStart) -> list[HistoryEntry]:
        """Read the first page from a start that is no cursor."""
        page = await self._transport.history(self.channel, start=start, limit=PAGE)
        self.head = page.head
        if page.entries:
            self.after = page.entries[-1].position
        elif page.head is not None:
            self.after = page.head
        return list(page.entries)

    async def next(self, known: Callable[[], Cursor | None]) -> tuple[Fault | None, list[HistoryEntry]]:
        """Read the page behind :attr:`after`; ``known`` tells the newest position known to exist.

        A page from a replica that lags is read again until a deadline, then judged as it is. A page that ends before its own head is read again once, since a transport
        may have to ask for the two separately; after that the newest messages are lost.
        """
        assert self.after is not None
        give_up = self._clock.monotonic() + _STALE_DEADLINE
        asked_again = False
        while True:
            newest = known()  # before reading: what is published meanwhile may be missing in the page
            page = await self._transport.history(self.channel, start=self.after, limit=PAGE)
            verdict, entries = verify(self.after, newest, page, self._links)
            if verdict is None and not entries and not caught_up(self.after, page.head):
                if asked_again:
                    assert page.head is not None
                    verdict = Fault(GapReason.HOLE, page.head.offset - self.after.offset if self._links == "contiguous" else None)
                    break
                asked_again = True
                continue
            if verdict != "stale":
                break
            if self._clock.monotonic() >= give_up:
                verdict, entries = verify(self.after, None, page, self._links)
                if verdict == "stale":
                    verdict = Fault(GapReason.RESET, None)
                break
            await self._clock.sleep(_STALE_PAUSE)
        self.head = page.head
        self._came_from = self.after if verdict is None else None
        if entries:
            self.after = entries[-1].position
        elif verdict is not None and page.head is not None:
            self.after = page.head
        return verdict, entries

    def at_head(self) -> bool:
        """Tell whether the last page reached the newest message of its time."""
        return caught_up(self.after, self.head)

    def interior(self, entries: list[HistoryEntry]) -> list[HistoryEntry | Gap]:
        """Put a gap wherever the links say that an entry is missing, inside the page that was read last or before it."""
        found: list[HistoryEntry | Gap] = []
        last = self._came_from
        for entry in entries:
            verdict = judge(last, entry.position, entry.prev, self._links)
            if verdict is Verdict.RESET:
                found.append(Gap(self.channel, GapReason.RESET, None))
            elif verdict is Verdict.HOLE and last is not None:
                found.append(Gap(self.channel, GapReason.HOLE, missing(last, entry.position, self._links)))
            found.append(entry)
            last = entry.position
        return found


async def repair(hub: Hub, transport: SupportsHistory, clock: Clock, record: ChannelRecord) -> None:  # noqa: C901 - one loop, with every way out of it
    """Read what a live channel missed, hand it on in order, and go live; announce what history no longer has.

    Ends early when the connection is lost: subscribing again starts another repair.
    """
    record.repair += 1
    number = record.repair
    assert record.position is not None
    epoch = record.position.epoch
    reader = HistoryReader(transport, record.name, hub.capabilities.links, clock, record.position)
    asked: set[str] = set()
    while True:
        try:
            fault, entries = await reader.next(lambda: record.target)
        except Unavailable:
            # With the connection gone, subscribing again will start another repair; else the read is worth another try.
            await clock.sleep(_STALE_PAUSE)
            if record.repair == number and record.phase is Phase.REPAIRING:
                continue
            return
        except FanwireError as error:
            _logger.warning("the history of channel %r cannot be read: %s", record.name, error)
            fault, entries = Fault(GapReason.EXPIRED, None), []
        if record.repair != number or record.phase is not Phase.REPAIRING:
            return
        if fault is not None:
            hub.announce(record, fault.reason, fault.lost)
            # What follows continues from here, wherever that is.
            # After a reset, what came live meanwhile is the beginning of what follows, whatever a history that lags knows of it.
            record.position = None if entries or (fault.reason is GapReason.RESET and record.held) else reader.head
        if fault is not None and not entries and not caught_up(record.position, record.target):
            record.position = None  # history ends before what was seen live: it has nothing more to tell
        for entry in entries:
            hub.replay(record, entry)
        if record.position is None or caught_up(record.position, record.target):
            strange = _strange(record, {epoch, *asked})
            if not strange:
                break
            # What is read behind their delivery knows whether they are next or were skipped.
            asked |= strange
            continue
        if not entries and reader.at_head():
            # History ends before a frame that was seen: the broker lost it.
            hub.announce(record, GapReason.EXPIRED, None)
            record.position = None
            break
        record.overflowed = False
    record.loss = None
    if record.position is not None:
        for over in {epoch, *asked} - {record.position.epoch}:
            record.leave(over)  # what was held of it is part of the loss that was announced
    hub.go_live(record, Event.REPAIRED)


def _strange(record: ChannelRecord, known: set[str]) -> set[str]:
    """Return the epochs of held frames that history has not shown."""
    if record.position is None:
        return set()
    return {entry.position.epoch for entry in record.held or ()} - known - {record.position.epoch}
