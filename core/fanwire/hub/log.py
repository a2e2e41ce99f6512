"""Interest logs: the fan-out.

Subscriptions with the same interest share one log and have a cursor each. Publishing costs one append a log plus one wake-up per idle subscriber; a busy subscriber costs
nothing. The log holds only what its slowest cursor still needs, bounded in messages and bytes, and is freed as soon as everybody has caught up: it is not history.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, final

from ..errors import FanwireError
from ..messages import Gap, GapReason, Message, MutableMessage, RawMessage
from ..schemas import Schema
from .waiter import Waiter

if TYPE_CHECKING:
    from anyio import CancelScope

    from .states import ChannelRecord

__all__ = ("CHUNK", "Budget", "Entry", "Interest", "InterestLog", "Item", "LogCursor")

Item = Message[Any] | RawMessage | Gap  # Any: a log carries messages of several topics

Entry = Item | MutableMessage[Any]
"""What is pushed: a message may still have to be parsed. ``Any``: its payload, or what that is to be made of."""


class InvalidMessage(MutableMessage[Any]):  # Any: any payload
    """A message whose payload its schema has refused, until it is dropped."""

    __slots__ = ()


Refused = Callable[[str, str, Exception, bytes], None]
"""Told of a payload that its schema refuses: channel, topic, the schema's exception, frame."""


def _ignore(_channel: str, _topic: str, _error: Exception, _frame: bytes, /) -> None:
    """Tell nobody."""


CHUNK = 256
"""Messages a subscriber takes out of the log at once."""

_MAX_GAPS = 256


@final
@dataclass(frozen=True, slots=True)
class Interest:
    """What a subscription wants to see, and how; the key of its log."""

    topics: Mapping[str, Mapping[str, Schema[Any]] | None]
    """Channel to topic to schema; ``None``: all topics of the channel, unparsed JSON values as data. ``Any``: any payload."""

    raw: bool
    buffer: int
    buffer_bytes: int

    def key(self) -> object:
        """Return a hashable identity: schemas count by identity."""
        channels = frozenset((c, None if t is None else frozenset((name, id(schema)) for name, schema in t.items())) for c, t in self.topics.items())
        return (channels, self.raw, self.buffer, self.buffer_bytes)


class LogCursor(Protocol):
    """A subscription's place in a log."""

    position: int
    """Index of the next entry to take."""


@final
class Budget:
    """Bytes that all logs of one Realtime hold together."""

    __slots__ = ("limit", "shrink", "used")

    def __init__(self, limit: int) -> None:
        self.limit: int = limit
        self.used: int = 0
        self.shrink: Callable[[], None] = lambda: None
        """Called when ``used`` passes ``limit``: makes the largest log give up its oldest entries."""


@final
class InterestLog:
    """An append-only list with a cursor per subscription.

    ``entries[i]`` has the index ``base + i``; ``end`` is the index behind the newest. Entries below ``floor`` are given up though not freed yet, and so are those
    below ``end - buffer``: :attr:`first` is the oldest that may be taken.
    """

    __slots__ = (
        "_refused",
        "attached",
        "base",
        "budget",
        "bytes",
        "channels",
        "closed",
        "counted",
        "cursors",
        "decoded",
        "end",
        "entries",
        "error",
        "floor",
        "gaps",
        "interest",
        "invalid",
        "large",
        "records",
        "scopes",
        "sizes",
        "sweep_at",
        "waiters",
    )

    def __init__(self, interest: Interest, budget: Budget, refused: Refused = _ignore) -> None:
        self.interest: Interest = interest
        self.channels: tuple[str, ...] = tuple(interest.topics)
        self.budget: Budget = budget
        self._refused = refused
        self.entries: list[Entry] = []
        self.sizes: list[int] = []
        self.scopes: dict[CancelScope, None] = {}
        """What subscriptions read from history at present, to be cut short at the end."""
        self.base: int = 0
        self.floor: int = 0
        self.end: int = 0
        self.bytes: int = 0
        """Of the entries from ``floor`` up to ``counted``."""
        self.counted: int = 0
        self.decoded: int = 0
        """Entries below are parsed. Nobody takes one above."""
        self.sweep_at: int = CHUNK
        self.large: int = interest.buffer_bytes // (8 * CHUNK)
        """Entries of more bytes are accounted for at once."""
        self.waiters: list[Waiter] = []
        self.cursors: dict[LogCursor, None] = {}
        self.gaps: list[tuple[int, int | None]] = []
        """Index and ``lost`` of the gap entries that some cursor may still have before it."""
        self.invalid: int = 0
        self.records: tuple[ChannelRecord, ...] = ()
        self.attached: int = 0
        """Subscriptions that use this log, those that are not ready yet or still read history included; ``cursors`` has those that read the log."""
        self.closed: bool = False
        """Iterators end behind what is queued, with ``error`` if there is one."""
        self.error: FanwireError | None = None

    @property
    def first(self) -> int:
        """Index of the oldest entry that may still be taken."""
        return max(self.floor, self.end - self.interest.buffer)

    def push(self, item: Entry, size: int) -> None:
        """Append ``item`` of ``size`` bytes and wake who waits."""
        waiters = self.waiters
        if waiters:
            self.waiters = []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        self.entries.append(item)
        self.sizes.append(size)
        self.end += 1
        if self.end >= self.sweep_at or size > self.large:
            self._sweep()

    def park(self, waiter: Waiter) -> None:
        """Let a subscription wait that has taken everything; when all of them do, nothing needs to be kept."""
        self.waiters.append(waiter)
        if len(self.waiters) == len(self.cursors) and self.base != self.end:
            self._free()

    def push_gap(self, gap: Gap) -> None:
        """Append a gap at this very position."""
        self.push(gap, 0)
        # Behind push(): the entry is there now.
        self.gaps.append((self.end - 1, gap.lost))
        if len(self.gaps) > _MAX_GAPS and self.gaps[1][0] < self.first:
            # Both are given up. Only a subscriber this far behind can be told about both at once; it then learns that the count is unknown.
            self.gaps[:2] = [(self.gaps[1][0], None)]

    def wake(self) -> None:
        """Wake everybody, for a change other than a new entry."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def finish(self, error: FanwireError | None) -> None:
        """End every iterator behind what is queued, with ``error`` if there is one. Only the first time counts."""
        if self.closed:
            return
        self.error = error
        self.closed = True
        self.wake()
        for scope in self.scopes:
            scope.cancel()

    def enter(self, cursor: LogCursor) -> None:
        """Give ``cursor`` the place behind the newest entry."""
        self.decode()  # what is dropped there must not move the place
        cursor.position = self.end
        self.cursors[cursor] = None

    def decode(self) -> None:
        """Parse the entries that nobody has looked at yet, all in one go; what cannot be parsed is dropped.

        Together they cost half of what they would one by one, between other work. A message that is in several logs is parsed by the first that gets here.
        """
        start = max(self.decoded, self.floor) - self.base
        self.decoded = self.end
        good = True
        for item in self.entries[start:]:
            if item.__class__ is MutableMessage:
                message: MutableMessage[Any] = item  # pyright: ignore[reportAssignmentType]  # Any: any payload; its class was just looked at
                schema, data, frame = message.data
                try:
                    message.data = schema.load(data)
                except Exception as error:  # noqa: BLE001 - a schema may raise anything, and one bad message must not stop the stream
                    message.__class__ = InvalidMessage
                    self._refused(message.channel, message.topic, error, frame)
                    good = False
                else:
                    message.__class__ = Message  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]  # the same slots, as CPython checks
            elif item.__class__ is InvalidMessage:
                good = False
        if not good:
            self._drop_invalid(start)

    def _drop_invalid(self, start: int) -> None:
        """Take invalid messages out, behind everything that any cursor has passed."""
        kept: list[Entry] = []
        sizes: list[int] = []
        moved: dict[int, int] = {}
        for index in range(start, len(self.entries)):
            item = self.entries[index]
            moved[self.base + index] = self.base + start + len(kept)
            if item.__class__ is not InvalidMessage:
                kept.append(item)
                sizes.append(self.sizes[index])
        self._count()
        dropped = sum(self.sizes[start:]) - sum(sizes)
        self.bytes -= dropped
        self.budget.used -= dropped
        self.invalid += len(self.entries) - start - len(kept)
        self.entries[start:] = kept
        self.sizes[start:] = sizes
        self.gaps = [(moved.get(index, index), lost) for index, lost in self.gaps]
        self.end = self.counted = self.decoded = self.base + len(self.entries)

    def next_gap(self, position: int) -> int | None:
        """Return the index of the first gap entry at or behind ``position``."""
        for index, _ in self.gaps:
            if index >= position:
                return index
        return None

    def slice(self, start: int, stop: int) -> Sequence[Item]:
        """Return the entries from index ``start`` up to ``stop``; both must be held."""
        return self.entries[start - self.base : stop - self.base]  # type: ignore[return-value]  # pyright: ignore[reportReturnType]  # parsed by now

    def lag_gap(self, position: int) -> tuple[Gap, int]:
        """Return the gap of a cursor that fell below the floor, and where it goes on. Gap entries given up on the way are absorbed."""
        floor = self.first
        absorbed = [lost for index, lost in self.gaps if position <= index < floor]
        lost: int | None = floor - position - len(absorbed)
        for count in absorbed:
            lost = None if lost is None or count is None else lost + count
        return Gap(self.channels[0] if len(self.channels) == 1 else None, GapReason.LAGGED, lost), floor

    def shrink(self) -> None:
        """Give up the older half, for the sake of the Realtime's budget."""
        self._count()
        self._give_up(max(self.first, self.floor + (self.end - self.floor + 1) // 2))
        self._cut()

    def discard(self) -> None:
        """Free everything, when nobody is interested any more."""
        self._free()

    def _free(self) -> None:
        self.budget.used -= self.bytes
        self.entries = []
        self.sizes = []
        self.gaps.clear()
        self.bytes = 0
        self.base = self.floor = self.counted = self.decoded = self.end
        self.sweep_at = self.end + CHUNK

    def _give_up(self, floor: int) -> None:
        """Raise the floor and account for the entries below it."""
        given_up = sum(self.sizes[self.floor - self.base : floor - self.base])
        self.bytes -= given_up
        self.budget.used -= given_up
        self.floor = floor

    def _cut(self) -> None:
        """Free what is below the floor."""
        drop = self.floor - self.base
        del self.entries[:drop], self.sizes[:drop]
        self.base = self.floor

    def _count(self) -> None:
        """Account for the bytes of what was pushed since the last time."""
        added = sum(self.sizes[self.counted - self.base :])
        self.counted = self.end
        self.bytes += added
        self.budget.used += added

    def _sweep(self) -> None:
        """Enforce the bounds, and free what every cursor has taken or may no longer take.

        Once per chunk, because it looks at every cursor, and for each large entry: what is not accounted for yet is at most an eighth of ``buffer_bytes``.
        """
        self._count()
        floor = self.first
        excess = self.bytes - sum(self.sizes[self.floor - self.base : floor - self.base]) - self.interest.buffer_bytes
        while excess > 0:
            excess -= self.sizes[floor - self.base]
            floor += 1
        self._give_up(floor)
        if self.end >= self.sweep_at:
            needed = min((cursor.position for cursor in self.cursors), default=self.end)
            self.gaps = [gap for gap in self.gaps if gap[0] >= needed]
            self._give_up(max(floor, min(needed, self.end)))
            self.sweep_at = self.end + CHUNK
        self._cut()
        if self.budget.used > self.budget.limit:
            self.budget.shrink()
