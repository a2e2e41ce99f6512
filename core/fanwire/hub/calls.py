"""What a publish is while it waits: its messages, each with a state, and the lane of the channel they stand in."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple, final

from ..errors import FanwireError
from ..messages import Receipt
from ..topics import TopicRef
from ..transport import Outbound
from .waiter import Waiter

__all__ = ("Call", "Entry", "Lane", "Prepared", "State")


class Prepared(NamedTuple):
    """One message that has passed all local checks."""

    ref: TopicRef[Any]  # Any: the payload is encoded
    data: bytes
    created_at: str
    key: str | None
    headers: Mapping[str, str] | None
    run_id: str | None


class State(Enum):
    """What has become of a message so far."""

    QUEUED = auto()
    SENT = auto()
    DONE = auto()
    ABANDONED = auto()
    """Its caller no longer waits; it was in flight, so the outcome is unknown."""

    WITHDRAWN = auto()
    """Its caller no longer waits, and it was not sent."""


_QUEUED, _DONE, _ABANDONED = State.QUEUED, State.DONE, State.ABANDONED  # looked up for every message


@final
class Entry:
    """One message in a lane."""

    __slots__ = ("call", "channel", "outbound", "prepared", "result", "state")

    def __init__(self, prepared: Prepared, channel: str, call: Call) -> None:
        self.prepared: Prepared = prepared
        self.channel: str = channel
        self.call: Call = call
        self.result: Receipt | FanwireError | None = None
        self.state: State = _QUEUED
        self.outbound: Outbound | None = None
        """Set by an attempt whose outcome is unknown: a retry keeps its id."""


@final
class Call:
    """One publish or publish_many: its entries and who waits for them."""

    __slots__ = ("entries", "open", "refused", "waiter")

    def __init__(self, messages: Sequence[Prepared]) -> None:
        self.entries: list[Entry] = [Entry(message, message[0].channel, self) for message in messages]
        self.open: int = len(self.entries)
        self.refused: set[str] = set()
        """Channels of which a message was refused: the rest of the call on them is not sent."""
        self.waiter: Waiter | None = None

    def expire(self) -> None:
        """Give up waiting."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def finish(self, entry: Entry, result: Receipt | FanwireError) -> None:
        """Note what became of a message, the first time that it is told, and wake the caller with the last."""
        if entry.state is not _DONE and entry.state is not _ABANDONED:
            entry.state = _DONE
            entry.result = result
            self.open -= 1
            if not self.open and self.waiter is not None and not self.waiter.done():
                self.waiter.set_result(None)


@final
class Lane:
    """The messages of one channel that wait; exists only while there are any or a batch is in flight."""

    __slots__ = ("busy", "channel", "entries")

    def __init__(self, channel: str) -> None:
        self.channel: str = channel
        self.entries: deque[Entry] = deque()
        self.busy: bool = False
