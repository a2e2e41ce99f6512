"""The way from history into the live log, step by step: what is read when, when it goes over, and what the seam lets through."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from fanwire import Cursor, Gap, GapReason, Message, Realtime, Start, TopicRef
from fanwire.errors import CursorExpired, Timeout, Unavailable
from fanwire.hub import join as module
from fanwire.hub.engine import Engine
from fanwire.hub.history import PAGE
from fanwire.hub.join import Join, Seam, history_starts
from fanwire.hub.log import Item
from fanwire.hub.states import Phase
from fanwire.messages import mark_of
from fanwire.subscription import Subscription
from fanwire.transport import Earliest, HistoryEntry, HistoryStart, Last
from tests.hub.support import LINKED, LOGGED, FakeHistory, HastyClock, entries, entry, frame, patience, until

pytestmark = pytest.mark.anyio

C: TopicRef[Any] = TopicRef("c", "t")  # Any: payloads do not matter here
D: TopicRef[Any] = TopicRef("d", "t")  # Any: as above
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def at(n: int, epoch: str = "e", publisher: str = "p") -> Cursor:
    """Where message ``n`` of :func:`entries` stands."""
    return Cursor(epoch, n, mark_of(f"{publisher}.{n}", None))


def message(n: int, cursor: Cursor | None, *, channel: str = "c", id: str | None = None, key: str | None = None) -> Message[int]:
    return Message(f"p.{n}" if id is None else id, channel, "t", n, "data", WHEN, cursor, None, key)


def shown(items: list[Item]) -> list[object]:
    return [item if isinstance(item, Gap) else item.data for item in items]


async def take(messages: Subscription[Any], count: int) -> list[object]:  # Any: as above
    """The next data, and the gaps among them."""
    with anyio.fail_after(10):
        items = [await anext(messages) for _ in range(count)]
    return shown(items)


# ---------------------------------------------------------------- where to begin


@pytest.mark.parametrize(
    ("start", "each"),
    [(Start.EARLIEST, Earliest()), (Start.last(3), Last(3)), (Start.since(WHEN), WHEN)],
    ids=repr,
)
def test_a_start_holds_for_every_channel(start: Start, each: HistoryStart) -> None:
    assert history_starts(start, ("c", "d")) == {"c": each, "d": each}


def test_cursors_are_one_per_channel() -> None:
    assert history_starts(Start.after(at(3)), ("c",)) == {"c": at(3)}
    assert history_starts(Start.after({"c": at(3), "d": at(4)}), ("c", "d")) == {"c": at(3), "d": at(4)}
    with pytest.raises(ValueError, match="one cursor cannot stand for 2 channels"):
        history_starts(Start.after(at(3)), ("c", "d"))
    with pytest.raises(ValueError, match=r"missing \['d'\], not subscribed \['x'\]"):
        history_starts(Start.after({"c": at(3), "x": at(4)}), ("c", "d"))


# ---------------------------------------------------------------- step by step


class Place:
    """A subscription's place in its log."""

    def __init__(self) -> None:
        self.position = -1


def engine_of(rt: Realtime) -> Engine:
    assert rt._engine is not None
    return rt._engine


def begin(rt: Realtime, starts: Mapping[str, HistoryStart]) -> tuple[Join, Place]:
    """Begin a join at the log that a subscription of the same channels has made."""
    (log,) = engine_of(rt).hub.logs.values()
    place = Place()
    return engine_of(rt).join(log, place, starts), place


async def test_a_short_history_is_read_in_one_page_and_left_at_once() -> None:
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, 3))
    async with Realtime(transport) as rt, rt.subscribe(C):
        join, place = begin(rt, {"c": Earliest()})
        assert shown(await join.open()) == [1, 2, 3]
        assert place.position == -1, "it has no place in the live log before it needs one"
        seam = join.finish()
        assert seam is not None
        assert place.position == 0
        assert await join.advance() == [], "there is nothing more to read"
        assert len(transport.reads) == 1


async def test_nothing_is_left_before_all_channels_are_read() -> None:
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, PAGE + 2))
    transport.store("d", *entries("d", 1, PAGE * 2 + 1))
    async with Realtime(transport) as rt, rt.subscribe(C, D):
        join, place = begin(rt, {"c": Earliest(), "d": Earliest()})
        assert len(await join.open()) == 2 * PAGE
        assert join.finish() is None
        found = [await join.advance(), await join.advance(), await join.advance()]
        assert [len(items) for items in found] == [2, PAGE - 1, 2], "a page begins with the last entry of the one before"
        assert place.position == -1
        assert join.finish() is not None
        assert [channel for channel, _, _ in transport.reads] == ["c", "d", "c", "d", "d"]


async def test_what_is_published_while_it_reads_is_read_before_it_goes_over() -> None:
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, 3))
    async with Realtime(transport) as rt, rt.subscribe(C):
        join, place = begin(rt, {"c": Earliest()})
        assert shown(await join.open()) == [1, 2, 3]
        transport.store("c", *entries("c", 4, 5), live=True)
        assert join.finish() is None, "it stands behind 5 in the live log now, and has read up to 3"
        assert place.position == 2
        transport.store("c", entry("c", 6), live=True)
        assert shown(await join.advance()) == [4, 5, 6]
        seam = join.finish()
        assert seam is not None
        assert place.position == 2
        assert seam.filter([message(6, at(6)), message(7, at(7))]) == [message(7, at(7))]


async def test_a_place_that_the_log_has_given_up_meanwhile_is_taken_anew() -> None:
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, 3))
    async with Realtime(transport) as rt, rt.subscribe(C, buffer=4):
        join, place = begin(rt, {"c": Earliest()})
        await join.open()
        transport.store("c", entry("c", 4), live=True)
        assert join.finish() is None
        assert place.position == 1
        transport.store("c", *entries("c", 5, 10), live=True)
        assert shown(await join.advance()) == [4, 5, 6, 7, 8, 9, 10]
        seam = join.finish()
        assert seam is not None
        assert place.position == 7, "the first was given up by the log: six messages came, which keeps four"


async def test_a_history_that_says_nothing_is_asked_again_once_something_came() -> None:
    transport = FakeHistory(LOGGED)
    transport.known_head = False
    async with Realtime(transport) as rt, rt.subscribe(C):
        join, _ = begin(rt, {"c": Last(5)})
        assert await join.open() == []
        transport.store("c", entry("c", 1, linked=False), live=True)
        assert join.finish() is None
        assert shown(await join.advance()) == [1]
        assert [start for _, start, _ in transport.reads] == [Last(5), Last(5)]
        assert join.finish() is not None


async def test_a_cursor_that_history_cannot_continue_from_is_refused_and_a_hole_is_not() -> None:
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, 9))
    transport.trim("c", keep=4)
    async with Realtime(transport) as rt, rt.subscribe(C):
        with pytest.raises(CursorExpired, match=r"channel 'c' can no longer be resumed after e:3:\w+ \(trimmed\): start with Start.EARLIEST"):
            await begin(rt, {"c": at(3)})[0].open()
        for wrong in (at(9, publisher="q"), at(3, epoch="other")):
            with pytest.raises(CursorExpired, match="reset"):
                await begin(rt, {"c": wrong})[0].open()
        transport.heads["c"] = at(12)
        join, _ = begin(rt, {"c": at(9)})
        assert await join.open() == [Gap("c", GapReason.HOLE, 3)]


async def test_holes_of_history_are_shown_in_their_places() -> None:
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, 3), *entries("c", 5, 6))
    async with Realtime(transport) as rt, rt.subscribe(C, start=Start.EARLIEST).with_gaps() as messages:
        assert await take(messages, 6) == [1, 2, 3, Gap("c", GapReason.HOLE, 1), 5, 6]
        assert messages.stats().lost == 1


# ---------------------------------------------------------------- the seam


def test_a_seam_drops_what_history_has_shown_and_is_over_with_the_first_that_is_new() -> None:
    seam = Seam({"c": at(3)}, {}, None)
    assert not seam.over
    assert shown(seam.filter([message(2, at(2)), message(3, at(3))])) == []
    assert not seam.over
    assert shown(seam.filter([message(4, at(4)), message(4, at(4))])) == [4, 4]
    assert seam.over, "repeats of the live log are the hub's to drop"


def test_each_channel_of_a_seam_is_over_by_itself() -> None:
    seam = Seam({"c": at(3), "d": at(1)}, {}, None)
    assert shown(seam.filter([message(4, at(4)), message(1, at(1), channel="d")])) == [4]
    assert not seam.over
    assert shown(seam.filter([message(2, at(2), channel="d")])) == [2]
    assert seam.over


def test_a_channel_without_a_position_has_nothing_to_drop() -> None:
    seam = Seam({"c": None}, {}, None)
    assert seam.over
    assert seam.again() is None, "it is not known how far history was read"


def test_a_live_log_of_a_newer_epoch_than_history_is_all_new() -> None:
    seam = Seam({"c": at(9)}, {}, None)
    assert shown(seam.filter([message(1, at(1, "e2"))])) == [1]
    assert seam.over


def test_a_seam_knows_where_to_read_on_if_the_log_gives_up_entries() -> None:
    seam = Seam({"c": at(3), "d": at(1)}, {}, None)
    assert seam.again() == {"c": at(3), "d": at(1)}
    seam.filter([message(3, at(3)), message(4, at(4)), Gap("d", GapReason.LAGGED, 1)])
    assert seam.again() == {"c": at(4), "d": at(1)}
    seam.filter([message(5, None)])
    assert seam.again() is None


def test_a_live_log_that_is_still_in_the_old_epoch_is_behind_until_it_gets_to_the_new_one() -> None:
    """History has begun anew and was read; the live log shows the end of the old one, the change, and the beginning of the new one."""
    reset = Gap("c", GapReason.RESET, None)
    seam = Seam({"c": at(2, "new")}, {"c": "old"}, None)
    assert shown(seam.filter([message(8, at(8, "old")), message(9, at(9, "old"))])) == []
    assert shown(seam.filter([reset])) == [], "whether that is news shows behind it"
    assert shown(seam.filter([message(1, at(1, "new")), message(2, at(2, "new")), message(3, at(3, "new"))])) == [3]
    assert seam.over


def test_a_change_that_history_has_not_seen_is_shown_before_what_follows_it() -> None:
    reset = Gap("c", GapReason.RESET, None)
    seam = Seam({"c": at(2, "new")}, {"c": "old"}, None)
    assert shown(seam.filter([reset, message(1, at(1, "newer"))])) == [reset, 1]
    seam = Seam({"c": at(2, "new")}, {"c": "old"}, None)
    assert shown(seam.filter([reset, message(5, at(5, "new"))])) == [reset, 5], "3 and 4 are missing"


def test_other_gaps_are_shown_where_they_are() -> None:
    lagged, everywhere, elsewhere = Gap("c", GapReason.LAGGED, 2), Gap(None, GapReason.LAGGED, 2), Gap("d", GapReason.HOLE, 1)
    seam = Seam({"c": at(2, "new")}, {"c": "old"}, None)
    assert shown(seam.filter([lagged, everywhere, elsewhere])) == [lagged, everywhere, elsewhere]
    assert not seam.over


def test_without_exact_delivery_what_history_has_shown_is_known_by_id_and_by_key() -> None:
    seen = {("c", "p.3", ""): None, ("c", "", "order-7"): None}
    seam = Seam({"c": Cursor("e", 2)}, {}, seen)
    items: list[Item] = [
        message(3, Cursor("e", 9)),
        message(4, Cursor("e", 10)),
        message(5, Cursor("e", 11), key="order-7"),
        message(3, Cursor("e", 12), channel="d"),
        message(6, Cursor("e", 13), id=""),
    ]
    assert shown(seam.filter(items)) == [4, 3, 6]
    assert not seam.over


def test_ids_are_compared_for_a_while_and_no_longer() -> None:
    seam = Seam({}, {}, {("c", "p.3", ""): None})
    count = module._SEEN
    assert len(seam.filter([message(n, Cursor("e", n)) for n in range(10, 10 + count - 1)])) == count - 1
    assert not seam.over
    assert seam.filter([message(3, Cursor("e", 4000))]) == []
    assert seam.over


async def test_a_repeat_of_history_in_the_live_log_is_dropped_where_the_transport_may_repeat() -> None:
    transport = FakeHistory(LOGGED)
    transport.store("c", *(entry("c", n, linked=False) for n in (1, 2, 3)))
    again = HistoryEntry(frame("c", "p.3", 3), Cursor("e", 4), None)
    async with Realtime(transport) as rt, rt.subscribe(C, start=Start.EARLIEST) as messages:
        assert await take(messages, 3) == [1, 2, 3]
        transport.store("c", again, live=True)
        transport.store("c", HistoryEntry(frame("c", "p.4", 4), Cursor("e", 5), None), live=True)
        assert await take(messages, 1) == [4]


async def test_a_repeat_inside_history_is_dropped_within_a_bounded_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SEEN", 4)
    transport = FakeHistory(LOGGED)
    ids = [1, 2, 2, 3, 4, 5, 6, 7, 1]
    transport.store("c", *(HistoryEntry(frame("c", f"p.{id}", id), Cursor("e", n), None) for n, id in enumerate(ids, 1)))
    async with Realtime(transport) as rt, rt.subscribe(C, start=Start.EARLIEST) as messages:
        assert await take(messages, 8) == [1, 2, 3, 4, 5, 6, 7, 1], "the first 1 is forgotten by then"


# ---------------------------------------------------------------- as a subscription does it


async def test_history_that_cannot_be_read_at_first_is_read_again() -> None:
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, 2))
    transport.history_errors = [Unavailable("busy"), Unavailable("busy")]
    async with Realtime(transport, clock=HastyClock()) as rt, rt.subscribe(C, start=Start.EARLIEST) as messages:
        assert await take(messages, 2) == [1, 2]
        assert len(transport.reads) == 3


async def test_history_that_cannot_be_read_later_is_read_again() -> None:
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, PAGE + 2))
    async with Realtime(transport, clock=HastyClock()) as rt, rt.subscribe(C, start=Start.EARLIEST) as messages:
        transport.history_errors = [Unavailable("busy"), Unavailable("busy")]
        assert await take(messages, PAGE + 2) == list(range(1, PAGE + 3))
        assert len(transport.reads) >= 4


async def test_a_realtime_that_closes_while_history_cannot_be_read_ends_the_iteration() -> None:
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, PAGE + 2))
    rt = Realtime(transport, clock=HastyClock())
    await rt.__aenter__()
    found: list[object] = []
    async with rt.subscribe(C, start=Start.EARLIEST) as messages:

        async def read() -> None:
            found.extend([item.data async for item in messages])

        transport.history_errors = [Unavailable("busy") for _ in range(10_000)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await until(lambda: len(transport.reads) > 5)
            await rt.aclose()
    assert found == list(range(1, PAGE + 1))


async def test_history_that_is_never_answered_is_a_timeout() -> None:
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, 2))
    transport.history_errors = [Unavailable("busy") for _ in range(100_000)]
    async with Realtime(transport, clock=HastyClock(), connect_timeout=0.2) as rt:
        with pytest.raises(Timeout, match="history was not read within 0.2 s"):
            await rt.subscribe(C, start=Start.EARLIEST).__aenter__()
        assert rt.stats().subscriptions == 0


async def test_a_log_that_gives_up_entries_behind_the_seam_is_read_from_history_instead() -> None:
    """The reader pauses between going over and taking: what the log gave up meanwhile is still in history, so nothing is lost."""
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, 2))
    async with Realtime(transport) as rt, rt.subscribe(C, start=Start.EARLIEST, buffer=4).with_gaps() as messages:
        assert await take(messages, 2) == [1, 2]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anext, messages)
            await until(lambda: messages._seam is not None and messages._waiter is not None)  # it has gone over to the live log and waits there
            tasks.cancel_scope.cancel()
        transport.store("c", *entries("c", 3, 30), live=True)
        await patience()
        assert await take(messages, 28) == list(range(3, 31))
        assert messages.stats().lost == 0
        assert rt.stats().gaps == 0
        assert any(isinstance(start, Cursor) for _, start, _ in transport.reads[1:])


async def test_capabilities_decide_whether_repeats_are_looked_for() -> None:
    for capabilities, looks in ((LINKED, False), (LOGGED, True)):
        transport = FakeHistory(capabilities)
        async with Realtime(transport) as rt, rt.subscribe(C):
            assert (begin(rt, {"c": Earliest()})[0]._seen is not None) is looks


@pytest.mark.parametrize("anew", [False, True], ids=["a tail that has regrown", "a new epoch"])
async def test_a_reader_far_behind_is_told_of_a_tail_that_was_lost_before_it_came_there(anew: bool) -> None:
    """Another subscriber has seen messages live that a failover loses. History, read only later, looks whole."""
    transport = FakeHistory()
    newest = 3 * PAGE
    transport.store("c", *entries("c", 1, newest))
    async with (
        Realtime(transport, clock=HastyClock()) as rt,
        rt.subscribe(C).with_gaps() as neighbour,
        rt.subscribe(C, start=Start.EARLIEST).with_gaps() as behind,
    ):
        assert await take(behind, 3) == [1, 2, 3]
        del transport.stored["c"][0 if anew else -5 :]
        transport.store("c", *entries("c", 1 if anew else newest - 4, newest + 10, publisher="q", epoch="f" if anew else "e"))
        if not anew:  # the first that took a lost one's place continues the last that was kept
            first = transport.stored["c"][newest - 5]
            transport.stored["c"][newest - 5] = first._replace(prev=at(newest - 5))
        transport.break_()
        assert (await take(neighbour, 1)) == [Gap("c", GapReason.RESET, None)]
        found = await take(behind, newest - 2 + 10 if not anew else PAGE - 3 + 1 + newest + 10)
        gaps = [item for item in found if isinstance(item, Gap)]
        assert gaps == [Gap("c", GapReason.RESET, None)]
        whole = [4 + n for n in range(newest + 7)] if not anew else [*range(4, PAGE + 1), *range(1, newest + 11)]
        assert [item for item in found if not isinstance(item, Gap)] == whole
        transport.store("c", *entries("c", newest + 11, newest + 12, publisher="q", epoch="f" if anew else "e"), live=True)
        assert await take(behind, 2) == [newest + 11, newest + 12]
        assert behind.stats().gaps == 1


async def test_a_reader_that_met_the_loss_itself_is_not_told_again() -> None:
    """It reads the new tail before the connection breaks that lets the others know."""
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, 2 * PAGE))
    async with (
        Realtime(transport, clock=HastyClock()) as rt,
        rt.subscribe(C).with_gaps() as neighbour,
        rt.subscribe(C, start=Start.EARLIEST).with_gaps() as behind,
    ):
        assert await take(behind, PAGE) == list(range(1, PAGE + 1))
        transport.stored["c"] = entries("c", 1, 3 * PAGE, publisher="q", epoch="f")
        transport.heads["c"] = transport.stored["c"][-1].position
        assert await take(behind, 1 + PAGE) == [Gap("c", GapReason.RESET, None), *range(1, PAGE + 1)]
        transport.break_()
        assert (await take(neighbour, 1)) == [Gap("c", GapReason.RESET, None)]
        assert await take(behind, 2 * PAGE) == list(range(PAGE + 1, 3 * PAGE + 1))
        assert behind.stats().gaps == 1


async def test_a_loss_whose_gap_the_log_has_given_up_behind_the_seam_is_told() -> None:
    """As above, but among what the log gave up was the word that its tail was lost, which history does not show."""
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, 2))
    async with (
        Realtime(transport, clock=HastyClock()) as rt,
        rt.subscribe(C).with_gaps() as neighbour,
        rt.subscribe(C, start=Start.EARLIEST, buffer=4).with_gaps() as messages,
    ):
        assert await take(messages, 2) == [1, 2]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anext, messages)
            await until(lambda: messages._seam is not None and messages._waiter is not None)
            tasks.cancel_scope.cancel()
        transport.store("c", *entries("c", 3, 4), live=True)
        assert await take(neighbour, 2) == [3, 4]
        del transport.stored["c"][-2:]
        transport.store("c", entry("c", 3, publisher="q")._replace(prev=at(2)), *entries("c", 4, 10, publisher="q"))
        transport.break_()
        assert await take(neighbour, 1) == [Gap("c", GapReason.RESET, None)]
        await until(lambda: rt._usable().hub.channels["c"].phase is Phase.LIVE)
        transport.store("c", *entries("c", 11, 30, publisher="q"), live=True)
        assert await take(messages, 29) == [Gap("c", GapReason.RESET, None), *range(3, 31)]


# ---------------------------------------------------------------- a tail that is lost on the way


async def place_behind_six(rt: Realtime, transport: FakeHistory, linked: bool) -> tuple[Join, Place]:
    """Read 1 to 5, and take a place in the live log behind 6, which is yet to be read."""
    transport.store("c", *(entry("c", n, linked=linked) for n in range(1, 6)))
    join, place = begin(rt, {channel: Earliest() for channel in engine_of(rt).hub.channels})
    assert shown(await join.open()) == [1, 2, 3, 4, 5]
    transport.store("c", entry("c", 6, linked=linked), live=True)
    assert join.finish() is None
    assert place.position == 1
    return join, place


def regrow(transport: FakeHistory, kept: int, linked: bool) -> None:
    """Lose all but so many, and store others up to 8."""
    tail = [entry("c", n, publisher="q", linked=linked) for n in range(kept + 1, 9)]
    transport.stored["c"][kept:] = [tail[0]._replace(prev=at(kept) if linked else None), *tail[1:]]
    transport.heads["c"] = tail[-1].position


async def read_on(join: Join) -> list[Item]:
    """Read all that is due."""
    items: list[Item] = []
    while join._due:
        items += await join.advance()
    return items


@pytest.mark.parametrize("linked", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("kept", [2, 4, 5])
async def test_a_reader_that_meets_a_lost_tail_before_the_hub_does_waits_for_it(kept: int, linked: bool) -> None:
    """It has read what was lost (2 and 4), or only the hub has heard of it (5)."""
    reset = Gap("c", GapReason.RESET, None)
    transport = FakeHistory(LINKED if linked else LOGGED)
    async with Realtime(transport, clock=HastyClock()) as rt, rt.subscribe(C).with_gaps() as neighbour:
        join, place = await place_behind_six(rt, transport, linked)
        regrow(transport, kept, linked)
        assert shown(await read_on(join)) == ([6, 7, 8] if kept == 5 else [reset, 5, 6, 7, 8])
        assert join.finish() is None, "the hub has another message at 6"
        assert shown(await read_on(join)) == []
        assert join.finish() is None, "still"
        transport.break_()
        assert await take(neighbour, 5) == [6, reset, 6, 7, 8]
        await until(lambda: engine_of(rt).hub.channels["c"].phase is Phase.LIVE)
        while (seam := join.finish()) is None:
            assert await read_on(join) == [], "it has been told, if there was anything to tell"
        (log,) = engine_of(rt).hub.logs.values()
        new: list[Item] = [message(9, at(9, publisher="q")), reset, message(10, at(10))]
        assert shown(seam.filter([*log.slice(place.position, log.end), *new])) == [9, reset, 10]


async def test_a_loss_that_the_hub_has_met_and_the_reader_too_is_no_news() -> None:
    """The live log tells of it behind the place that was taken before, and what follows there begins below what history has shown."""
    reset = Gap("c", GapReason.RESET, None)
    transport = FakeHistory()
    async with Realtime(transport, clock=HastyClock()) as rt, rt.subscribe(C):
        join, place = await place_behind_six(rt, transport, linked=True)
        regrow(transport, 3, linked=True)
        assert shown(await read_on(join)) == [reset, 5, 6, 7, 8]
        hub, record = engine_of(rt).hub, engine_of(rt).hub.channels["c"]
        hub.announce(record, GapReason.RESET, None)
        record.position = at(8, publisher="q")
        assert join.finish() is None
        assert await read_on(join) == []
        assert join.finish() is not None
        assert place.position == 2
        hub.announce(record, GapReason.HOLE, 1)
        assert join.finish() is not None, "another gap does not keep it"
        assert place.position == 2


@pytest.mark.parametrize("linked", [True, False], ids=["links", "no links"])
async def test_a_hub_that_never_notices_is_not_waited_for_without_end(linked: bool) -> None:
    transport, clock = FakeHistory(LINKED if linked else LOGGED), HastyClock()
    async with Realtime(transport, clock=clock) as rt, rt.subscribe(C):
        join, _ = await place_behind_six(rt, transport, linked)
        regrow(transport, 5, linked)
        begun = clock.monotonic()
        assert shown(await read_on(join)) == [6, 7, 8]
        while (seam := join.finish()) is None:
            assert await read_on(join) == []
        assert 4.9 < clock.monotonic() - begun < 5.5
        assert len(transport.reads) < 250
        assert shown(seam.filter([message(8, at(8, publisher="q")), message(9, at(9, publisher="q"))])) == [9], "what comes is shown"


async def test_without_links_a_live_message_that_history_has_ends_the_wait() -> None:
    """The hub goes on as if nothing were; nothing is held back that came behind the loss."""
    transport, clock = FakeHistory(LOGGED), HastyClock()
    async with Realtime(transport, clock=clock) as rt, rt.subscribe(C):
        join, place = await place_behind_six(rt, transport, linked=False)
        regrow(transport, 5, linked=False)
        assert shown(await read_on(join)) == [6, 7, 8]
        assert join.finish() is None
        transport.store("c", entry("c", 9, publisher="q", linked=False), live=True)
        assert shown(await read_on(join)) == [9]
        seam = join.finish()
        assert seam is not None
        assert place.position == 2
        assert shown(seam.filter([message(10, at(10, publisher="q"))])) == [10]


async def test_other_channels_are_read_on_while_one_waits() -> None:
    transport = FakeHistory()
    async with Realtime(transport, clock=HastyClock()) as rt, rt.subscribe(C, D):
        join, _ = await place_behind_six(rt, transport, linked=True)
        regrow(transport, 5, linked=True)
        assert shown(await read_on(join)) == [6, 7, 8]
        assert join.finish() is None
        transport.store("d", *entries("d", 1, 3), live=True)
        assert shown(await read_on(join)) == [1, 2, 3]
        assert join.finish() is None


async def test_of_what_history_has_shown_only_the_newest_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SEEN", 4)
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, 9))
    async with Realtime(transport) as rt, rt.subscribe(C):
        join, _ = begin(rt, {"c": Earliest()})
        await join.open()
        assert list(join._marks["c"]) == [6, 7, 8, 9]
