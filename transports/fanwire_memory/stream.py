"""One channel's history in memory."""

from __future__ import annotations

import secrets
from bisect import bisect_left
from collections import deque
from datetime import datetime
from typing import NamedTuple, final

from fanwire.messages import Cursor, mark_of
from fanwire.transport import Earliest, HistoryEntry, HistoryPage, HistoryStart, Last

__all__ = ("Stored", "Stream")

_KEYS = 1024
"""Idempotency keys remembered per channel."""


class Stored(NamedTuple):
    """An entry, the id of its message, and when it came, in seconds."""

    entry: HistoryEntry
    id: str
    at: float


@final
class Stream:
    """Messages of one channel, oldest first, and the place of the next one. Not synchronised: the broker does that."""

    __slots__ = ("bytes", "entries", "head", "keys", "touched")

    def __init__(self, now: float) -> None:
        self.head = Cursor(secrets.token_hex(6), 0)
        self.entries: deque[Stored] = deque()
        self.bytes = 0
        self.keys: dict[str, Cursor] = {}
        self.touched = now

    def repeated(self, id: str, key: str | None, retry: bool) -> Cursor | None:
        """Return where a message stands that was there before, by its key or, for a retry, by its id."""
        if key is not None:
            return self.keys.get(key)
        if not retry:
            return None
        return next((stored.entry.position for stored in reversed(self.entries) if stored.id == id), None)

    def append(self, frame: bytes, id: str, key: str | None, now: float, keep: bool) -> HistoryEntry:
        """Give a frame its position, and store it if it is to be kept."""
        prev = self.head
        position = self.head = Cursor(prev.epoch, prev.offset + 1, mark_of(id, key))
        entry = HistoryEntry(frame, position, prev)
        self.touched = now
        if keep:
            self.entries.append(Stored(entry, id, now))
            self.bytes += len(frame)
        if key is not None:
            self.keys[key] = position
            if len(self.keys) > _KEYS:
                del self.keys[next(iter(self.keys))]
        return entry

    def trim(self, count: int, oldest: float) -> int:
        """Discard entries beyond the newest ``count`` and those stored before ``oldest``; return the bytes freed."""
        freed = 0
        entries = self.entries
        while entries and (len(entries) > count or entries[0].at < oldest):
            freed += len(entries.popleft().entry.frame)
        self.bytes -= freed
        return freed

    def page(self, start: HistoryStart, limit: int) -> HistoryPage:
        """Read at most ``limit`` entries from ``start``, inclusive."""
        entries = [stored.entry for stored in self.entries]
        match start:
            case Cursor(epoch, offset, _):
                first = bisect_left(entries, offset, key=lambda entry: entry.position.offset) if epoch == self.head.epoch else 0
            case Last(n):
                first = max(0, len(entries) - n)
            case Earliest():
                first = 0
            case datetime():
                first = bisect_left(self.entries, start.timestamp(), key=lambda stored: stored.at)
        return HistoryPage(entries[first : first + limit], self.head, complete=self.head.offset == len(entries))

    def cut(self, back: int) -> int:
        """Lose the newest ``back`` messages, as if they had never been; return the bytes freed."""
        freed = 0
        for _ in range(min(back, len(self.entries))):
            entry = self.entries.pop().entry
            freed += len(entry.frame)
            self.head = entry.prev or self.head
        self.bytes -= freed
        return freed
