"""One channel's history in memory."""

from __future__ import annotations

import secrets
from bisect import bisect_left
from collections import deque
from datetime import datetime
from typing import assert_never, final

from fanwire.messages import Cursor
from fanwire.transport import Earliest, HistoryEntry, HistoryPage, HistoryStart, Last

__all__ = ("Stored", "Stream")

_KEYS = 1024
"""Idempotency keys remembered per channel."""


Stored = tuple[bytes, Cursor, Cursor, str, float]
"""An entry of history: frame, position, the position before it, id of the message, and when it came, in seconds. A bare tuple: it is made on every publish."""


@final
class Stream:
    """Messages of one channel, oldest first, and the place of the next one. Not synchronised: the broker does that."""

    __slots__ = ("at", "entries", "head", "keys")

    def __init__(self, now: float) -> None:
        self.head = Cursor(secrets.token_hex(6), 0)
        self.entries: deque[Stored] = deque()
        self.keys: dict[str, tuple[Cursor, str]] = {}
        """Idempotency key to the position and the id of its message."""
        self.at = now
        """When it was made, or last found in use though empty, in seconds."""

    def repeated(self, id: str, key: str | None, retry: bool) -> Cursor | None:
        """Return where a message stands that was there before, by its key or, for a retry, by its id."""
        if key is not None:
            known = self.keys.get(key)
            return None if known is None else known[0]
        if not retry:
            return None
        return next((position for _, position, _, known, _ in reversed(self.entries) if known == id), None)

    def is_anothers(self, id: str, key: str | None) -> bool:
        """Return whether a repeat is that of another message's key, and not the publisher's own second attempt."""
        return key is not None and self.keys[key][1] != id

    def remember(self, key: str, position: Cursor, id: str) -> None:
        """Note where the message of an idempotency key stands."""
        self.keys[key] = (position, id)
        if len(self.keys) > _KEYS:
            del self.keys[next(iter(self.keys))]

    def trim(self, count: int, oldest: float) -> int:
        """Discard entries beyond the newest ``count`` and those stored before ``oldest``; return the bytes freed."""
        freed = 0
        entries = self.entries
        while entries and (len(entries) > count or entries[0][4] < oldest):
            freed += len(entries.popleft()[0])
        return freed

    def page(self, start: HistoryStart, limit: int) -> HistoryPage:
        """Read at most ``limit`` entries from ``start``, inclusive."""
        entries = [HistoryEntry(frame, position, prev) for frame, position, prev, _, _ in self.entries]
        match start:
            case Cursor(epoch, offset, _):
                first = bisect_left(entries, offset, key=lambda entry: entry.position.offset) if epoch == self.head.epoch else 0
            case Last(n):
                first = max(0, len(entries) - n)
            case Earliest():
                first = 0
            case datetime():
                first = bisect_left(self.entries, start.timestamp(), key=lambda stored: stored[4])
            case _:
                assert_never(start)
        return HistoryPage(entries[first : first + limit], self.head, complete=self.head.offset == len(entries))

    def cut(self, back: int) -> int:
        """Lose the newest ``back`` messages, as if they had never been; return the bytes freed."""
        freed = 0
        for _ in range(min(back, len(self.entries))):
            frame, _, self.head, _, _ = self.entries.pop()
            freed += len(frame)
        return freed
