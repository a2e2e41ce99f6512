"""Planted bugs of core: its mechanisms, switched off one by one for as long as a context lasts, in this process; see :mod:`fanwire.testing.bugs`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

from ..errors import FanwireError
from ..events import ConnectionState
from ..hub import continuity
from ..hub.connection import Connection
from ..hub.continuity import Fault, Verdict
from ..hub.history import HistoryReader
from ..hub.hub import Hub
from ..hub.join import Join, Seam
from ..hub.log import CHUNK, InterestLog, Item
from ..hub.states import Event
from ..messages import Cursor, Gap, GapReason
from ..transport import HistoryEntry, HistoryPage, SupportsHistory

__all__ = ("SWITCHED_OFF",)

# ---------------------------------------------------------------- continuity


@contextmanager
def no_repair() -> Generator[None]:
    """History is never read to close a hole, and nothing is said about it."""

    async def repair(hub: Hub, transport: SupportsHistory, clock: object, record: Any) -> None:  # Any: the hub's record
        del transport, clock
        record.loss, record.position = None, record.target
        hub.go_live(record, Event.REPAIRED)

    with patch("fanwire.hub.reconciler.repair", repair):
        yield


@contextmanager
def swallow_gaps() -> Generator[None]:
    """Losses are noticed, counted and not told."""

    def announce(self: Hub, record: Any, reason: GapReason, lost: int | None) -> None:  # Any: the hub's record
        del reason, lost
        record.loss = None
        self.gaps += 1

    with patch.object(Hub, "announce", announce):
        yield


@contextmanager
def ignore_marks() -> Generator[None]:
    """Positions are compared by epoch and offset alone."""
    judge = continuity.judge

    def unmarked(cursor: Cursor | None) -> Cursor | None:
        return None if cursor is None else cursor._replace(mark=None)

    def judge_unmarked(last: Cursor | None, position: Cursor, prev: Cursor | None, links: continuity.Links) -> Verdict:
        return judge(unmarked(last), position._replace(mark=None), unmarked(prev), links)

    with ExitStack() as patches:
        patches.enter_context(patch.object(continuity, "_contradict", _never))
        for module in ("hub", "history", "continuity"):
            patches.enter_context(patch(f"fanwire.hub.{module}.judge", judge_unmarked))
        patches.enter_context(patch.object(Hub, "subscribed", _subscribed_unmarked))
        yield


def _never(_one: Cursor, _other: Cursor) -> bool:
    return False


_subscribed = Hub.subscribed


def _subscribed_unmarked(self: Hub, channel: str, generation: int, position: Cursor | None, /) -> None:
    record = self.channels.get(channel)
    if record is not None and record.position is not None and position is not None and record.position[:2] == position[:2]:
        record.position = position  # whatever is there now counts as what was there before
    _subscribed(self, channel, generation, position)


@contextmanager
def reuse_ids() -> Generator[None]:
    """Every publisher of the process has one name, as those of forked processes that did not draw anew."""
    with patch("fanwire.hub.publishers._draw", lambda: "reused"):
        yield


@contextmanager
def forget_to_tell() -> Generator[None]:
    """Nobody is told that a connection broke."""
    tell = Connection._tell  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # what is switched off is inside

    def silent(self: Connection, state: ConnectionState, error: FanwireError | None) -> None:
        if state is not ConnectionState.DISCONNECTED:
            tell(self, state, error)

    with patch.object(Connection, "_tell", silent):
        yield


# ---------------------------------------------------------------- history


@contextmanager
def trust_any_cursor() -> Generator[None]:
    """Whatever history answers is taken for the continuation of what was seen."""

    def verify(cursor: Cursor, known: Cursor | None, page: HistoryPage, links: continuity.Links) -> tuple[Fault | None, list[HistoryEntry]]:
        del known, links
        return None, [entry for entry in page.entries if entry.position != cursor]

    def interior(self: HistoryReader, entries: list[HistoryEntry]) -> list[HistoryEntry]:
        del self
        return entries

    with patch("fanwire.hub.history.verify", verify), patch.object(HistoryReader, "interior", interior):
        yield


@contextmanager
def join_too_early() -> Generator[None]:
    """A subscription leaves history before it has read what is behind its place in the live log."""

    def knows_all(self: Join, reader: HistoryReader) -> bool:
        del self, reader
        return True

    with patch.object(Join, "_knows_all", knows_all):
        yield


@contextmanager
def show_the_seam_twice() -> Generator[None]:
    """Live messages that history has shown are shown again."""

    def keep(self: Seam, items: list[Item]) -> list[Item]:
        del self
        return items

    with patch.object(Seam, "filter", keep):
        yield


# ---------------------------------------------------------------- slow readers


@contextmanager
def give_up_for_all() -> Generator[None]:
    """What one subscriber is too slow for is lost to its neighbours."""

    def first(self: InterestLog) -> int:
        return max(self.floor, self.end - 1)

    with patch.object(InterestLog, "first", property(first)):
        yield


@contextmanager
def give_up_nothing() -> Generator[None]:
    """Whatever waits for a slow subscriber is kept."""

    def sweep(self: InterestLog) -> None:
        self._count()  # pyright: ignore[reportPrivateUsage]  # this is a method of it
        self.sweep_at = self.end + CHUNK

    with patch.object(InterestLog, "_sweep", sweep):
        yield


@contextmanager
def miscount_a_lag() -> Generator[None]:
    """One less is announced than a slow subscriber has missed."""
    lag_gap = InterestLog.lag_gap

    def miscounted(self: InterestLog, position: int) -> tuple[Gap, int]:
        gap, floor = lag_gap(self, position)
        return Gap(gap.channel, gap.reason, None if gap.lost is None else gap.lost - 1), floor

    with patch.object(InterestLog, "lag_gap", miscounted):
        yield


SWITCHED_OFF: Final[Mapping[str, Callable[[], AbstractContextManager[None]]]] = {
    "forget to tell": forget_to_tell,
    "give up for all": give_up_for_all,
    "give up nothing": give_up_nothing,
    "ignore marks": ignore_marks,
    "join too early": join_too_early,
    "miscount a lag": miscount_a_lag,
    "no repair": no_repair,
    "reuse ids": reuse_ids,
    "show the seam twice": show_the_seam_twice,
    "swallow gaps": swallow_gaps,
    "trust any cursor": trust_any_cursor,
}
"""By name."""
