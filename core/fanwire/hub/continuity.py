"""What positions, links and ids say about a stream: is this the next message, a repeat, or is something missing? Pure decisions, no I/O."""

from __future__ import annotations

from enum import Enum, auto
from typing import Literal, NamedTuple, final

from ..capabilities import Capabilities
from ..messages import Cursor, GapReason
from ..transport import HistoryEntry, HistoryPage

__all__ = ("Continuity", "Fault", "Links", "Verdict", "caught_up", "judge", "missing", "verify")

Links = Literal["none", "previous", "contiguous"]

_WINDOW = 1024
"""Keys and ids remembered per channel, where the broker itself does not suppress repeats."""

_PUBLISHERS = 64
"""Publisher counters kept per channel; one that is evicted starts from a new baseline."""


class Verdict(Enum):
    """What a message's position says when compared with the last one."""

    NEXT = auto()
    DUPLICATE = auto()
    HOLE = auto()
    """Messages between the two are missing."""

    RESET = auto()
    """The channel's history is another one than before."""


def judge(last: Cursor | None, position: Cursor, prev: Cursor | None, links: Links) -> Verdict:
    """Compare a live or replayed message at ``position`` with the newest one before it, at ``last``."""
    if last is None:
        return Verdict.NEXT
    if position.epoch != last.epoch:
        return Verdict.RESET
    if position.offset == last.offset:
        return Verdict.RESET if _contradict(position, last) else Verdict.DUPLICATE
    if position.offset < last.offset:
        return Verdict.DUPLICATE
    if links == "none":
        return Verdict.NEXT
    before = prev if prev is not None else Cursor(position.epoch, position.offset - 1) if links == "contiguous" else None
    if before is None or before.offset > last.offset:
        return Verdict.HOLE
    # A predecessor older than what was seen, or another one in its place: the tail was lost and regrown.
    return Verdict.RESET if before.offset < last.offset or _contradict(before, last) else Verdict.NEXT


def missing(last: Cursor, position: Cursor, links: Links) -> int | None:
    """Count the messages between two positions, where offsets count them."""
    if links != "contiguous" or last.epoch != position.epoch:
        return None
    return max(0, position.offset - last.offset - 1)


def caught_up(position: Cursor | None, target: Cursor | None) -> bool:
    """Tell whether ``position`` is at or behind ``target`` in the stream, or cannot be compared with it."""
    return position is None or target is None or position.epoch != target.epoch or position.offset >= target.offset


class Fault(NamedTuple):
    """Why a page does not continue from a cursor."""

    reason: GapReason
    lost: int | None


STALE: Literal["stale"] = "stale"


def verify(cursor: Cursor, known: Cursor | None, page: HistoryPage, links: Links) -> tuple[Fault | Literal["stale"] | None, list[HistoryEntry]]:
    """Judge a page that was read from ``cursor``, inclusive.

    The entry at the cursor must still be there and match its mark: histories discard the oldest first, so nothing behind it is missing then. Epoch and offset alone would
    not show a tail that was lost and has regrown past the cursor.

    Args:
        cursor: Where the reader stands.
        known: The newest position known to exist.
        page: What the transport returned.
        links: What the transport declares.

    Returns:
        A fault, ``"stale"`` where the page is from a replica that lags, or ``None``; and the entries behind the cursor, or all of them at a fault.
    """
    entries, head = list(page.entries), page.head
    epoch = head.epoch if head is not None else entries[0].position.epoch if entries else cursor.epoch
    if epoch != cursor.epoch:
        return Fault(GapReason.RESET, None), entries
    newest = max(cursor.offset, known.offset if known is not None and known.epoch == epoch else 0)
    if head is not None and head.offset < newest:
        return STALE, entries
    if not entries:
        if head is None:
            return Fault(GapReason.EXPIRED, None), entries
        if head.offset == cursor.offset:
            return (Fault(GapReason.RESET, None) if _contradict(head, cursor) else None), entries
        return (None if page.complete and cursor.mark is None else Fault(GapReason.TRIMMED, _between(cursor, head.offset, links))), entries
    first = entries[0]
    if first.position.offset == cursor.offset:
        return (Fault(GapReason.RESET, None), entries) if _contradict(first.position, cursor) else (None, entries[1:])
    if first.prev is not None and first.prev.epoch == epoch and first.prev.offset == cursor.offset:
        # The cursor's own entry is gone, but its successor says who it was.
        proven = first.prev.mark == cursor.mark if cursor.mark is not None else True
        return (None if proven else Fault(GapReason.RESET, None)), entries
    if cursor.mark is None and page.complete:
        return None, entries
    return Fault(GapReason.TRIMMED, _between(cursor, first.position.offset - 1, links)), entries


def _between(cursor: Cursor, last: int, links: Links) -> int | None:
    return max(0, last - cursor.offset) or None if links == "contiguous" else None


def _contradict(one: Cursor, other: Cursor) -> bool:
    """Tell whether two cursors of one offset are of different messages."""
    return one.mark is not None and other.mark is not None and one.mark != other.mark


@final
class Continuity:
    """Repeats and holes of one channel by ids and keys, for transports that do not tell them by themselves.

    On ordered streams each publisher's counter is followed: the first sight of a publisher is a baseline, a jump is a hole, a step back a repeat. It shows interior holes,
    not the first or last messages of a publisher. On unordered streams ids are only remembered, in a bounded window. Keys are remembered where the broker does not
    suppress them.
    """

    __slots__ = ("_count", "_counters", "_ids", "_keys", "_last", "_next", "_publisher", "_suppress")

    def __init__(self, capabilities: Capabilities) -> None:
        self._count = capabilities.ordering != "none"
        self._suppress = not capabilities.idempotent_publish
        self._counters: dict[str, int] = {}
        self._publisher = ""
        self._last = 0
        self._next: str | None = None
        """The id that comes next of ``_publisher``, whose counter is ``_last`` while this is set, whatever ``_counters`` says."""
        self._ids: dict[str, None] = {}
        self._keys: dict[str, None] = {}

    @staticmethod
    def needed(capabilities: Capabilities) -> bool:
        """Tell whether the transport's own positions and suppression leave anything to find."""
        return capabilities.links == "none" or not capabilities.idempotent_publish

    def reset(self) -> None:
        """Forget the counters: what is missing has been announced."""
        self._next = None
        self._counters.clear()

    def follows(self, id: str) -> bool:
        """Note ``id`` if it is the very next one of a publisher that is followed; whatever else it is, is for :meth:`check`."""
        if id == self._next:
            self._last = n = self._last + 1
            self._next = f"{self._publisher}.{n + 1}"
            return True
        publisher, _, number = id.rpartition(".")
        self._settle()
        last = self._counters.get(publisher)
        if last is None or not number.isdecimal() or int(number[:18]) != last + 1:
            return False
        del self._counters[publisher]  # the one that was heard of last is forgotten last
        self._counters[publisher] = last + 1
        self._publisher, self._last, self._next = publisher, last + 1, f"{publisher}.{last + 2}"
        return True

    def _settle(self) -> None:
        """Enter what :meth:`follows` has counted aside."""
        if self._next is not None:
            self._counters.pop(self._publisher, None)
            self._counters[self._publisher] = self._last
            self._next = None

    def check(self, id: str, key: str | None, by_id: bool) -> tuple[bool, int]:
        """Note a message; return whether it is new, and how many are missing before it.

        Args:
            id: ``<publisher>.<n>``, or ``""`` of a foreign publisher.
            key: Its idempotency key.
            by_id: Whether ids are to be trusted, because positions carry no links.
        """
        # The number first: one that is suppressed by its key is no hole.
        new, missed = self._by_id(id) if by_id and id else (True, 0)
        if key is not None and self._suppress and not _note(self._keys, key):
            new = False
        return new, missed

    def _by_id(self, id: str) -> tuple[bool, int]:
        publisher, _, number = id.rpartition(".")
        if not self._count or not publisher or not number.isdecimal():
            return _note(self._ids, id), 0
        self._settle()
        n = int(number[:18])
        last = self._counters.pop(publisher, None)
        self._counters[publisher] = n if last is None else max(n, last)
        if len(self._counters) > _PUBLISHERS:
            del self._counters[next(iter(self._counters))]
        if last is None:
            return True, 0
        return n > last, max(0, n - last - 1)


def _note(window: dict[str, None], value: str) -> bool:
    """Remember ``value`` in a bounded window; return whether it is new."""
    if value in window:
        return False
    window[value] = None
    if len(window) > _WINDOW:
        del window[next(iter(window))]
    return True
