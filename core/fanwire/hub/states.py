"""The life of a subscribed channel: one table, and the record that walks through it.

::

            want            ask               confirm
    (none) ─────► WANTED ─────────► ASKED ──────────────► LIVE ◄────┐ want
                    ▲  ▲            │ │ confirm_behind      │ ▲     │
                    │  └──── lost ──┼─┤                     │ │ repaired
                    │        refuse │ ▼                     │ │     │
                    └──── lost ──── │ REPAIRING ────────────┼─┘  LINGERING ── expire ──► LEAVING ── left ──► GONE
                    └──── lost ─────┼───────────────────────┘       ▲                      │
                    ▲               ▼ release ──────────────────────┘                      │
                    │              GONE                                                    │
                    └───────────────────── left_wanted ────────────────────────────────────┘

A channel is *live* while frames are handed on at once, *repairing* while history is read up to them, *lingering* while nobody wants it but it stays subscribed, so that
a reloaded page is served at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple, final

from ..errors import Internal
from ..messages import Cursor, GapReason
from .waiter import Waiter

if TYPE_CHECKING:
    from ..transport import HistoryEntry
    from .continuity import Continuity
    from .log import InterestLog
    from .routes import Route, RoutingTable

__all__ = ("TRANSITIONS", "ChannelRecord", "Event", "Phase", "PlainTopic")


class Phase(Enum):
    """Where a channel stands between this process and the broker."""

    WANTED = auto()
    """Somebody subscribes; the broker is to be asked."""

    ASKED = auto()
    """The broker is being asked. Frames that come before its answer are held."""

    REPAIRING = auto()
    """Subscribed again behind a loss; history is being read, live frames are held."""

    LIVE = auto()
    LINGERING = auto()
    """Nobody subscribes any more; still subscribed at the broker, position kept up to date."""

    LEAVING = auto()
    """The broker is being told to stop."""

    GONE = auto()
    """Forgotten; the record is no longer in the hub."""


class Event(Enum):
    """What can happen to a channel."""

    WANT = auto()
    """A first subscription came."""

    RELEASE = auto()
    """The last subscription went."""

    ASK = auto()
    CONFIRM = auto()
    """The broker confirmed, and nothing was missed or can be repaired."""

    CONFIRM_BEHIND = auto()
    """The broker confirmed; something may have been missed and history can tell."""

    REPAIRED = auto()
    REFUSE = auto()
    """The broker refused this channel."""

    LOST = auto()
    """Continuity ended: the connection broke, or the transport says so."""

    EXPIRE = auto()
    """It has lingered long enough."""

    LEFT = auto()
    """The broker stopped, and nobody wants it again meanwhile."""

    LEFT_WANTED = auto()
    """The broker stopped, but somebody wants it again."""


_P, _E = Phase, Event

TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
    (_P.WANTED, _E.ASK): _P.ASKED,
    (_P.WANTED, _E.RELEASE): _P.GONE,
    (_P.WANTED, _E.LOST): _P.WANTED,
    (_P.ASKED, _E.CONFIRM): _P.LIVE,
    (_P.ASKED, _E.CONFIRM_BEHIND): _P.REPAIRING,
    (_P.ASKED, _E.REFUSE): _P.GONE,
    (_P.ASKED, _E.LOST): _P.WANTED,
    (_P.ASKED, _E.RELEASE): _P.ASKED,
    (_P.ASKED, _E.WANT): _P.ASKED,
    (_P.REPAIRING, _E.REPAIRED): _P.LIVE,
    (_P.REPAIRING, _E.LOST): _P.WANTED,
    (_P.REPAIRING, _E.RELEASE): _P.LINGERING,
    (_P.REPAIRING, _E.WANT): _P.REPAIRING,
    (_P.LIVE, _E.RELEASE): _P.LINGERING,
    (_P.LIVE, _E.CONFIRM_BEHIND): _P.REPAIRING,
    (_P.LIVE, _E.LOST): _P.WANTED,
    (_P.LINGERING, _E.WANT): _P.LIVE,
    (_P.LINGERING, _E.EXPIRE): _P.LEAVING,
    (_P.LINGERING, _E.LOST): _P.GONE,
    (_P.LEAVING, _E.WANT): _P.LEAVING,
    (_P.LEAVING, _E.RELEASE): _P.LEAVING,
    (_P.LEAVING, _E.LOST): _P.LEAVING,
    (_P.LEAVING, _E.LEFT): _P.GONE,
    (_P.LEAVING, _E.LEFT_WANTED): _P.WANTED,
}


class PlainTopic(NamedTuple):
    """How plain frames of one topic look, and where they go."""

    signature: bytes
    topic: str
    routes: Sequence[Route]


@final
class ChannelRecord:
    """What the hub knows of one channel. Its containers are made on first use: an idle channel stays below 0.5 KB."""

    __slots__ = (
        "continuity",
        "generation",
        "held",
        "held_bytes",
        "left",
        "linger_until",
        "logs",
        "loss",
        "name",
        "overflowed",
        "phase",
        "plain",
        "plains",
        "position",
        "refs",
        "repair",
        "routes",
        "tails_lost",
        "target",
        "waiters",
    )

    def __init__(self, name: str) -> None:
        self.name: str = name
        self.phase: Phase = Phase.WANTED
        self.refs: int = 0
        self.generation: int = 0
        self.position: Cursor | None = None
        """Position of the newest message seen or accounted for; ``None`` before the first confirmation and where the transport has none."""
        self.target: Cursor | None = None
        """While repairing: history is to be read this far; what is newer is held."""
        self.tails_lost: int = 0
        """How often the newest messages, or all, were announced to be lost. Whoever was still behind them in history cannot see it there."""
        self.left: set[str] | None = None
        """Epochs that ended since the channel was asked for: their frames that are still on their way come too late."""
        self.loss: tuple[GapReason, int | None] | None = None
        """Why continuity ended, until it is repaired or announced."""
        self.linger_until: float = 0.0
        self.logs: dict[InterestLog, None] = {}
        self.routes: RoutingTable = {}
        self.plain: PlainTopic | None = None
        """The topic that came last, for the next frame to be recognised by."""
        self.plains: dict[str, PlainTopic] | None = None
        """All topics that came lately. A cache, dropped when the routes change."""
        self.waiters: list[Waiter] | None = None
        self.held: list[HistoryEntry] | None = None
        self.held_bytes: int = 0
        self.overflowed: bool = False
        """Held frames were given up; history has them."""
        self.continuity: Continuity | None = None
        self.repair: int = 0
        """Number of the latest repair: an older one that still runs has to stop."""

    def __repr__(self) -> str:
        return f"<channel {self.name!r} {self.phase.name.lower()} refs={self.refs} generation={self.generation} position={self.position}>"

    def on(self, event: Event) -> None:
        """Walk one step.

        Raises:
            Internal: the table has no such step.
        """
        try:
            self.phase = TRANSITIONS[self.phase, event]
        except KeyError:
            raise Internal(f"channel {self.name!r}: {event.name} cannot happen while {self.phase.name}") from None
        if self.phase is not Phase.REPAIRING and self.phase is not Phase.ASKED:
            self.held = None
            self.held_bytes = 0
            self.overflowed = False

    def leave(self, epoch: str) -> None:
        """Remember that ``epoch`` is over."""
        if self.left is None:
            self.left = set()
        self.left.add(epoch)

    def hold(self, entry: HistoryEntry, limit: int) -> bool:
        """Keep a live frame until history has been read up to it; return whether there was room within ``limit`` bytes."""
        if self.held is None:
            self.held = []
        if self.overflowed or self.held_bytes + len(entry.frame) > limit:
            self.overflowed = True
            self.held.clear()
            self.held_bytes = 0
            return False
        self.held.append(entry)
        self.held_bytes += len(entry.frame)
        return True

    def wake(self) -> None:
        """Wake who waits for this channel's phase to change."""
        waiters, self.waiters = self.waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)
