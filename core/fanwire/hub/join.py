"""From the past into the present: what a subscription with a start other than ``Start.LIVE`` reads before it follows the live log, without a hole or a repeat at the seam.

The reader pages through each channel's history until it is at the head. Then it takes a place in the live log, notes the channels' positions at that very instant, and
reads history up to them: everything newer is in the log behind that place. If the log has meanwhile given that place up, it reads on and tries again, so a slow consumer
stays in history instead of losing messages. Only for those last pages does it hold entries of the live log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, final

from ..clock import Clock
from ..errors import CursorExpired, MessagesLost
from ..messages import Cursor, Gap, GapReason, Message, RawMessage, Start
from ..transport import Earliest, HistoryEntry, HistoryStart, Last, SupportsHistory
from .continuity import Fault, caught_up
from .history import HistoryReader
from .hub import TAIL_LOST, Hub
from .log import Interest, InterestLog, Item, LogCursor
from .states import Phase

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ("Join", "Seam", "history_starts", "read_history")

_SEEN = 1024
"""Ids and keys remembered across the seam, where the transport may repeat messages; marks, of each channel."""

_PAUSE = 0.05
_PATIENCE = 5.0
"""Seconds for which a reader that is at odds with the live log waits for the hub to notice what was lost."""


def history_starts(start: Start, channels: tuple[str, ...]) -> Mapping[str, HistoryStart]:
    """Translate a start into one per channel.

    Raises:
        ValueError: one cursor for several channels, or none for one of them.
    """
    value = start.value
    if isinstance(value, Mapping):
        missing = [name for name in channels if name not in value]
        unknown = [name for name in value if name not in channels]
        if missing or unknown:
            raise ValueError(f"Start.after() needs one cursor per channel: missing {missing}, not subscribed {unknown}")
        return value
    if isinstance(value, Cursor):
        if len(channels) != 1:
            raise ValueError(f"one cursor cannot stand for {len(channels)} channels: use Start.after({{channel.name: cursor, ...}})")
        return {channels[0]: value}
    if isinstance(value, datetime):
        return dict.fromkeys(channels, value)
    return dict.fromkeys(channels, Last(value) if isinstance(value, int) else Earliest())


def expired(channel: str, cursor: Cursor, fault: Fault) -> CursorExpired:
    """Make the error for a cursor that history cannot continue from."""
    why = fault.reason.value
    return CursorExpired(f"channel {channel!r} can no longer be resumed after {cursor} ({why}): start with Start.EARLIEST or Start.LIVE instead")


_Name = tuple[str, str, str]
"""Channel, id and ``""``, or channel, ``""`` and key: ids and keys are unique within a channel."""


def _names(item: Message[Any] | RawMessage) -> list[_Name]:  # Any: any payload
    return [name for name in ((item.channel, item.id, ""), (item.channel, "", item.key or "")) if name[1] or name[2]]


def _remember(seen: dict[_Name, None], names: Iterable[_Name]) -> None:
    seen.update(dict.fromkeys(names))
    while len(seen) > _SEEN:
        del seen[next(iter(seen))]


@final
class Seam:
    """Drops, right behind a join, the live messages that history has shown already."""

    def __init__(
        self,
        read: Mapping[str, Cursor | None],
        behind: Mapping[str, Collection[str]],
        seen: dict[_Name, None] | None,
        marks: Mapping[str, Mapping[int, str | None]] | None = None,
        tails_lost: Mapping[str, int] | None = None,
    ) -> None:
        self.tails_lost: Counter[str] = Counter(tails_lost)
        """Of each channel, how often its newest messages were lost, as far as it was met here or before."""
        self._marks = marks or {}
        """Of each channel, offset to mark of what history has shown last: another message at such a place means that the tail was lost and has regrown."""
        self._read = {channel: cursor for channel, cursor in read.items() if cursor is not None}
        self._behind = dict(behind)
        """Channels whose history was of a newer epoch than the hub, with the epoch the hub was in and those that history has left since."""
        self._held: dict[str, list[Gap]] = {}
        """Gaps the live log has shown last: the message behind them tells whether they are news."""
        self._last = dict(read)
        self.seen: dict[_Name, None] | None = seen
        """Ids and keys of what was shown, where the transport may repeat messages."""
        self._left = _SEEN if seen else 0

    def filter(self, items: list[Item]) -> list[Item]:
        """Return the items that are new."""
        found: list[Item] = []
        for item in items:
            if self._new(item):
                found += (*([] if item.channel is None else self._held.pop(item.channel, [])), item)
        for item in found:
            if not isinstance(item, Gap):
                self._last[item.channel] = item.cursor
                if self.seen is not None:
                    _remember(self.seen, _names(item))
        return found

    def again(self) -> Mapping[str, Cursor] | None:
        """Return behind which cursors to read history once more, if the live log gives up entries of which some may have been shown; ``None`` if that is unknown."""
        cursors = {channel: cursor for channel, cursor in self._last.items() if cursor is not None}
        return cursors if len(cursors) == len(self._last) else None

    def release(self) -> list[Item]:
        """Give out what is held back, since nothing will follow it here."""
        held, self._held = self._held, {}
        return [gap for gaps in held.values() for gap in gaps]

    @property
    def over(self) -> bool:
        """Whether nothing can be a repeat any more."""
        return not self._read and self._left <= 0

    def _new(self, item: Item) -> bool:
        if isinstance(item, Gap):
            if item.channel is not None and item.reason in TAIL_LOST:
                self.tails_lost[item.channel] += 1
            if item.reason is GapReason.LAGGED or item.channel is None or item.channel not in self._read:
                return True
            self._held.setdefault(item.channel, []).append(item)
            return False
        read = self._read.get(item.channel)
        if read is not None:
            cursor = item.cursor
            if cursor is not None and cursor.epoch in self._behind.get(item.channel, ()):
                return False  # history, which has begun anew, is past it
            caught_up = self._behind.pop(item.channel, None) is not None
            known = cursor is not None and cursor.epoch == read.epoch and cursor.offset <= read.offset + 1
            if cursor is not None and known and (caught_up or not self._regrown(item.channel, cursor)):
                self._held.pop(item.channel, None)  # the live log continues what history has shown
                if cursor.offset <= read.offset:
                    return False
            del self._read[item.channel]
        if self._left > 0 and self.seen is not None:
            self._left -= 1
            return not any(name in self.seen for name in _names(item))
        return True

    def _regrown(self, channel: str, cursor: Cursor) -> bool:
        """Tell whether history has shown another message at that place."""
        shown = self._marks.get(channel, {}).get(cursor.offset)
        if shown is None or cursor.mark is None:
            return any(gap.reason is GapReason.RESET for gap in self._held.get(channel, ()))
        return shown != cursor.mark


@final
class Join:
    """One subscription's way through history."""

    def __init__(
        self,
        hub: Hub,
        transport: SupportsHistory,
        clock: Clock,
        log: InterestLog,
        cursor: LogCursor,
        starts: Mapping[str, HistoryStart],
        before: Seam | None = None,
    ) -> None:
        self._hub = hub
        self._log = log
        self._cursor = cursor
        self._starts = starts
        links = hub.capabilities.links
        self._readers = {
            channel: HistoryReader(transport, channel, links, clock, start if isinstance(start, Cursor) else None)
            for channel, start in starts.items()
        }
        self._due = dict.fromkeys(self._readers)
        """Channels to read next."""
        self._pinned = False
        self._targets: dict[str, Cursor | None] = {}
        """Each channel's newest position when the place in the live log was taken: history is to be read that far."""
        self._marks: dict[str, dict[int, str | None]] = {channel: {} for channel in self._readers}
        now = {channel: self._tails_lost_of(channel) for channel in self._readers}
        self._tails_lost = now if before is None else {channel: min(count, before.tails_lost[channel]) for channel, count in now.items()}
        """Of each channel, how often its newest messages were lost, as far as this subscription was told."""
        self._seen: dict[_Name, None] | None = {} if before is None else before.seen
        if hub.capabilities.delivery == "exactly_once":
            self._seen = None
        self._epochs: dict[str, set[str]] = {channel: set() for channel in self._readers}
        """Of each channel, the epochs that history has shown."""
        self._clock = clock
        self._told: set[str] = set()
        """Channels of which history itself has shown that newest messages were lost: the live log may tell of the same."""
        self._odds_since: float | None = None
        """Since when history and the live log have been at odds, if they are, while the hub was live."""
        self._pause = False

    async def open(self) -> list[Item]:
        """Read the first page of each channel.

        Raises:
            CursorExpired: the history no longer holds a cursor it was to start behind.
        """
        items: list[Item] = []
        for channel, reader in self._readers.items():
            start = self._starts[channel]
            if isinstance(start, Cursor):
                fault, entries = await reader.next(partial(self._position, channel))
                if fault is not None and fault.reason is not GapReason.HOLE:
                    raise expired(channel, start, fault)
            else:
                fault, entries = None, await reader.first(start)
            items += self._items(reader, fault, entries)
            if reader.at_head():
                del self._due[channel]
        return items

    async def advance(self) -> list[Item]:
        """Read one more page; empty where nothing was to be read."""
        if not self._due:
            return []
        if self._pause:
            self._pause = False
            await self._clock.sleep(_PAUSE)
        channel = next(iter(self._due))
        reader = self._readers[channel]
        if reader.after is None:
            fault, entries = None, await reader.first(self._starts[channel])
        else:
            fault, entries = await reader.next(lambda: self._position(channel))
        if self._reached(channel):
            del self._due[channel]
        items = self._items(reader, fault, entries)
        if not self._pinned and self._lost_ahead(channel):
            self._tails_lost[channel] = self._tails_lost_of(channel)
            items.insert(0, Gap(channel, GapReason.RESET, None))
        return items

    def _lost_ahead(self, channel: str) -> bool:
        """Tell whether newest messages, which others have seen live, were lost before this reader came to them: history does not show that, unless its epoch changes."""
        position, after = self._position(channel), self._readers[channel].after
        same = position is None or after is None or position.epoch == after.epoch
        return same and self._tails_lost_of(channel) > self._tails_lost[channel]

    def _tails_lost_of(self, channel: str) -> int:
        record = self._hub.channels.get(channel)
        return 0 if record is None else record.tails_lost

    def _reached(self, channel: str) -> bool:
        reader = self._readers[channel]
        if not self._pinned:
            return reader.at_head()
        target, position = self._targets.get(channel), self._position(channel)
        if target is None or reader.after is None or not caught_up(position, target):
            return reader.at_head()  # the last: the hub itself has fallen behind, since the tail was lost
        return caught_up(reader.after, target)

    def finish(self) -> Seam | None:
        """Try to go over to the live log, now; return ``None`` if there is more to read first. Everything here happens at one instant."""
        if self._due:
            return None
        log = self._log
        if not self._pinned or self._cursor.position < log.first:
            self._pinned = False  # what happens from here to the next place is not told by the log
            self._due = {channel: None for channel in self._readers if self._lost_ahead(channel)}
            if self._due:
                return None
            self._pinned = True
            log.decode()  # as a subscription does it before it takes its place
            log.enter(self._cursor)
            self._targets = {channel: self._position(channel) for channel in self._readers}
            self._due = {channel: None for channel, reader in self._readers.items() if not self._knows_all(reader)}
            if self._due:
                return None
        if not self._at_odds():
            return self._seam()
        self._pinned, self._pause = False, True
        self._due = dict.fromkeys(self._readers)  # the others are not to wait for one
        return None

    def _at_odds(self) -> bool:
        """Tell whether history has shown other messages than the live log has, or the log tells of a loss that history may have told: there is no seam then.

        Where the newest messages were lost, either the reader or the hub learns of it first; behind the next place in the log both know. A hub that is live, and hears nothing
        more, may not notice for long: as nothing comes, nothing is held up, but it is not waited for without end.
        """
        log, now = self._log, self._clock.monotonic()
        log.decode()
        found = {channel for channel in self._readers if self._differs(channel, self._position(channel))}
        for item in log.slice(self._cursor.position, log.end):
            if isinstance(item, Gap):
                if item.reason in TAIL_LOST and item.channel in self._told:
                    found.add(item.channel)
            elif self._differs(item.channel, item.cursor):
                found.add(item.channel)
        if self._odds_since is None or not all(self._hub.channels[channel].phase is Phase.LIVE for channel in found):
            self._odds_since = now
        if not found:
            self._odds_since = None
        return self._odds_since is not None and now <= self._odds_since + _PATIENCE

    def _differs(self, channel: str, cursor: Cursor | None) -> bool:
        """Tell whether history has shown another message at a place than the hub has."""
        after = self._readers[channel].after
        if cursor is None or cursor.mark is None or after is None or cursor.epoch != after.epoch:
            return False
        shown = self._marks[channel].get(cursor.offset, after.mark if cursor.offset == after.offset else None)
        return shown is not None and shown != cursor.mark

    def _seam(self) -> Seam:
        read = {channel: reader.after for channel, reader in self._readers.items()}
        behind: dict[str, set[str]] = {}
        for channel, after in read.items():
            pin, record = self._targets[channel], self._hub.channels.get(channel)
            left = None if record is None else record.left
            if after is not None and pin is not None and pin.epoch != after.epoch and after.epoch not in (left or ()):
                behind[channel] = {pin.epoch, *self._epochs[channel]} - {after.epoch}
        return Seam(read, behind, self._seen, self._marks, self._tails_lost)

    def _knows_all(self, reader: HistoryReader) -> bool:
        """Tell whether history has been read up to everything the hub has received of the channel."""
        position, after = self._position(reader.channel), reader.after
        return (
            after is not None
            and position is not None
            and after[:2] == position[:2]
            and (None in (after.mark, position.mark) or after.mark == position.mark)
        )

    def _position(self, channel: str) -> Cursor | None:
        record = self._hub.channels.get(channel)
        return None if record is None else record.position

    def _items(self, reader: HistoryReader, fault: Fault | None, entries: list[HistoryEntry]) -> list[Item]:
        """Decode a page for this subscription, gaps in their places."""
        marks = self._marks[reader.channel]
        items: list[Item] = []
        for entry in [*([] if fault is None else [Gap(reader.channel, fault.reason, fault.lost)]), *reader.interior(entries)]:
            if isinstance(entry, Gap):
                items.append(entry)
                if entry.reason in TAIL_LOST:
                    marks.clear()  # nobody knows what is at those places now
                    self._told.add(reader.channel)
                continue
            self._epochs[reader.channel].add(entry.position.epoch)
            marks[entry.position.offset] = entry.position.mark
            if len(marks) > _SEEN:
                del marks[next(iter(marks))]
            item = self._hub.read(self._log.interest, reader.channel, entry)
            if item is not None and (isinstance(item, Gap) or self._note(item)):
                items.append(item)
        self._tails_lost[reader.channel] += sum(isinstance(item, Gap) and item.reason is GapReason.RESET for item in items)
        return items

    def _note(self, item: Message[object] | RawMessage) -> bool:
        """Remember a message's id and key across the seam; return whether both are new."""
        seen = self._seen
        if seen is None:
            return True
        names = _names(item)
        new = not any(name in seen for name in names)
        _remember(seen, names)
        return new


async def read_history(engine: Engine, interest: Interest, start: Start, limit: int) -> list[Message[Any]]:  # Any: any payload
    """Read one channel's history for ``rt.history()``; see there."""
    assert isinstance(engine.transport, SupportsHistory)
    ((channel, begin),) = history_starts(start, tuple(interest.topics)).items()
    reader = HistoryReader(engine.transport, channel, engine.hub.capabilities.links, engine.clock, begin if isinstance(begin, Cursor) else None)
    fault: Fault | None = None
    if isinstance(begin, Cursor):
        fault, entries = await reader.next(lambda: None)
        if fault is not None and fault.reason is not GapReason.HOLE:
            raise expired(channel, begin, fault)
    else:
        entries = await reader.first(begin)
    found: list[Message[Any]] = []
    while True:
        for item in reader.interior(entries):
            if isinstance(item, Gap):
                raise MessagesLost(item)
            message = engine.hub.read(interest, channel, item)
            if isinstance(message, Message):
                found.append(message)
                if len(found) == limit:
                    return found
        if reader.at_head() or not entries:
            return found
        fault, entries = await reader.next(lambda: None)
        if fault is not None:
            raise MessagesLost(Gap(channel, fault.reason, fault.lost))
