"""What happened in a run: what was sent with what outcome, and what each reader saw. Times are ticks: every event has its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, final

from ...capabilities import Capabilities
from ...messages import Cursor, Gap, Message
from .steps import Join, StartKind

__all__ = ("Account", "Item", "Sent", "Visit")

Item: TypeAlias = Message[Any] | Gap  # Any: what a broken transport delivers need not even be a number


@final
@dataclass(slots=True)
class Sent:
    """A message that was published, or at least tried to be."""

    number: int
    """Its data, which no other message has; in the order of the calls."""

    realtime: int
    channel: str
    topic: str
    begun: int
    repeats: int | None
    """The number of the message that was published before under the same idempotency key."""

    ended: float = math.inf
    outcome: Literal["pending", "accepted", "unknown", "suppressed"] = "pending"
    id: str | None = None
    cursor: Cursor | None = None
    era: int = 0
    """How often the channel had lost its history or the end of it when this was accepted."""

    gone: float = math.inf
    """When it left the history."""

    revoked: bool = False
    """Whether the broker lost it though it had accepted it, as if it had never been."""

    def __str__(self) -> str:
        where = f" at {self.cursor.epoch}:{self.cursor.offset}" if self.cursor is not None else ""
        return f"{self.number} ({self.channel} {self.topic}, by realtime {self.realtime}, {self.outcome}{where})"


@final
@dataclass(slots=True)
class Visit:
    """One subscription of a reader."""

    name: str
    join: Join
    realtime: int
    interests: Mapping[str, frozenset[str]]
    begun: int
    start: StartKind
    """The plan's, or the nearest to it that was possible."""

    behind: Mapping[str, Sent] = field(default_factory=dict[str, Sent])
    """Behind which message of each channel it starts."""

    since: int = 0
    """When the time was taken to start from."""

    ready: float = math.inf
    items: list[tuple[int, Item]] = field(default_factory=list[tuple[int, Item]])
    expired: int | None = None
    """When it was told that its cursor has."""

    drained: bool = False
    """Whether it has seen the last messages of the run."""

    stuck: bool = False
    """Whether it had all the time there is to see them, and has not."""

    def __str__(self) -> str:
        wanted = ", ".join(f"{channel}[{' '.join(sorted(topics))}]" for channel, topics in self.interests.items())
        start = self.start + (f" {self.join.back}" if self.start == "last" else "")
        start += "".join(f" {sent.number}" for sent in self.behind.values())
        return f"{self.name} of realtime {self.realtime} ({wanted}, start {start}, buffer {self.join.buffer})"

    def wants(self, sent: Sent) -> bool:
        """Tell whether it subscribes the topic of a message."""
        return sent.topic in self.interests.get(sent.channel, ())

    def shown(self) -> str:
        """Return what it saw, in order."""
        texts = [f"<{item}>" if isinstance(item, Gap) else f"{item.data}" for _, item in self.items]
        return " ".join(texts) or "nothing"


@final
@dataclass(slots=True)
class Account:
    """A whole run."""

    capabilities: Capabilities
    sent: dict[int, Sent] = field(default_factory=dict[int, Sent])
    visits: list[Visit] = field(default_factory=list[Visit])
    touched: set[str] = field(default_factory=set[str])
    """Channels whose history lost something."""

    breaks: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    """When connections of each Realtime ended."""

    lossy: bool = False
    """Whether live frames were lost though the connection stood."""

    troubles: list[str] = field(default_factory=list[str])
    """What went wrong beside messages: who did not come to an end, which errors came."""
