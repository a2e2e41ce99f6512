"""What a plan is made of: frozen values, each of which says what happens next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple, TypeAlias, final

__all__ = (
    "CHANNELS",
    "READERS",
    "REALTIMES",
    "Close",
    "Cut",
    "Drain",
    "Failover",
    "Hold",
    "Interest",
    "Interrupt",
    "Join",
    "Leave",
    "Lose",
    "Plan",
    "Publish",
    "Read",
    "Recreate",
    "Release",
    "Restart",
    "Resume",
    "Stall",
    "StartKind",
    "Step",
    "Topics",
    "Trim",
    "Turns",
)

CHANNELS: Final = 3
REALTIMES: Final = 3
READERS: Final = 4

StartKind: TypeAlias = Literal["live", "earliest", "last", "after", "resume", "since", "beginning"]
Topics: TypeAlias = Literal["a", "b", "ab"]


class Interest(NamedTuple):
    """A channel, and the topics of it that are wanted."""

    channel: int
    topics: Topics


@final
@dataclass(frozen=True, slots=True)
class Turns:
    """Let other tasks run for so many turns of the loop."""

    count: int


@final
@dataclass(frozen=True, slots=True)
class Publish:
    """Publish numbers on a channel; with ``ab`` on both topics in turn."""

    realtime: int
    channel: int
    topics: Topics
    count: int
    how: Literal["one by one", "together", "many", "cancelled"]
    """``together``: concurrent calls; ``many``: one call; ``cancelled``: concurrent calls that are cancelled after a turn or two."""

    wait: bool
    """Whether the next step waits for the broker to have accepted them."""

    keyed: bool
    """Whether each is published a second time under its idempotency key, with other data."""


@final
@dataclass(frozen=True, slots=True)
class Join:
    """Subscribe, in the background; nothing if that reader is there already."""

    reader: int
    realtime: int
    interests: tuple[Interest, ...]
    start: StartKind
    """``after``: behind the receipt of an earlier message; ``resume``: behind what this reader saw last; ``since``: from now on; ``beginning``: since the run began."""

    back: int
    """Of ``last`` how many, of ``after`` how many messages ago."""

    buffer: int
    reads: Literal["anext", "iterate", "batches"]
    credit: int | None
    """Items it may read before :class:`Read` allows more; ``None``: all."""


@final
@dataclass(frozen=True, slots=True)
class Read:
    """Allow a slow reader some more."""

    reader: int
    count: int


@final
@dataclass(frozen=True, slots=True)
class Interrupt:
    """Cancel a reader's wait for the next item, as a timeout does; it goes on."""

    reader: int


@final
@dataclass(frozen=True, slots=True)
class Leave:
    """End a reader's subscription, wherever it is."""

    reader: int
    cancel: bool
    """Whether by cancelling its task, in place of leaving the block."""


@final
@dataclass(frozen=True, slots=True)
class Close:
    """Close a Realtime; whoever needs it next opens another one."""

    realtime: int
    flush: bool
    """Whether to wait for what is still to be sent."""


@final
@dataclass(frozen=True, slots=True)
class Hold:
    """Break the connection of one Realtime, and let it make no other one before :class:`Release`."""

    realtime: int
    release: bool
    """Whether it may connect again at once."""


@final
@dataclass(frozen=True, slots=True)
class Release:
    """Let a Realtime connect again."""

    realtime: int


@final
@dataclass(frozen=True, slots=True)
class Lose:
    """Lose live frames: those for one Realtime, or with ``None`` those for all."""

    realtime: int | None
    count: int
    skip: int
    """Frames to let pass first."""


@final
@dataclass(frozen=True, slots=True)
class Cut:
    """Have the server break every connection."""


@final
@dataclass(frozen=True, slots=True)
class Restart:
    """Restart the server."""

    keep: bool
    """With its data."""


@final
@dataclass(frozen=True, slots=True)
class Stall:
    """Let nothing through, until :class:`Resume`."""


@final
@dataclass(frozen=True, slots=True)
class Resume:
    """End a stall."""


@final
@dataclass(frozen=True, slots=True)
class Trim:
    """Discard a channel's history but for the newest."""

    channel: int
    keep: int


@final
@dataclass(frozen=True, slots=True)
class Recreate:
    """Lose a channel's history and position: a new epoch."""

    channel: int


@final
@dataclass(frozen=True, slots=True)
class Failover:
    """Fail over to a replica that lags: every connection breaks, the channel's newest messages are lost, and others take their place before anybody else is back."""

    channel: int
    back: int
    """Messages that are lost."""

    regrow: int
    """Messages that are published then, by ``realtime``, before the other ones may connect."""

    realtime: int


@final
@dataclass(frozen=True, slots=True)
class Drain:
    """Wait until every reader that reads at all has read what was published so far."""


Step: TypeAlias = (
    Turns
    | Publish
    | Join
    | Read
    | Interrupt
    | Leave
    | Close
    | Hold
    | Release
    | Lose
    | Cut
    | Restart
    | Stall
    | Resume
    | Trim
    | Recreate
    | Failover
    | Drain
)


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run."""

    steps: tuple[Step, ...]
    latency: int = 0
    """Turns that a call to the broker takes on its way there, and on its way back."""

    lag: int = 0
    """Turns that a live frame is under way."""

    immediate: bool = True
    """Whether a publish may be handed over without suspending, where the transport can."""

    linger: float = 1.0
    """Seconds that a channel stays subscribed which nobody wants."""

    def __str__(self) -> str:
        first = f"Plan(latency={self.latency}, lag={self.lag}, immediate={self.immediate}, linger={self.linger}, steps=("
        return "\n".join([first, *(f"    {step!r}," for step in self.steps), "))"])

    def without(self, begin: int, end: int) -> Plan:
        """Return the plan without some of its steps."""
        return replace(self, steps=self.steps[:begin] + self.steps[end:])
