"""Reading history page by page, and repairing with it what a live channel missed: whatever the pages say, what is missing is told where it is missing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from fanwire import Cursor, Gap, GapReason, Message, Realtime, Start, TopicRef
from fanwire.errors import ConnectionLost, FanwireError, MessagesLost, PermissionDenied, Unavailable
from fanwire.hub.continuity import Fault, Links
from fanwire.hub.history import PAGE, HistoryReader
from fanwire.hub.hub import Hub
from fanwire.hub.states import ChannelRecord, Phase
from fanwire.messages import mark_of
from fanwire.subscription import Subscription
from fanwire.transport import Earliest, HistoryEntry, HistoryPage, HistoryStart, Last
from tests.clock import ManualClock
from tests.hub.support import LOGGED, FakeHistory, HastyClock, entries, entry, frame, patience, until

pytestmark = pytest.mark.anyio

C: TopicRef[Any] = TopicRef("c", "t")  # Any: payloads do not matter here
RESET = Gap("c", GapReason.RESET, None)


def at(n: int, epoch: str = "e", publisher: str = "p") -> Cursor:
    """Where message ``n`` of :func:`entries` stands."""
    return Cursor(epoch, n, mark_of(f"{publisher}.{n}", None))


def reader(transport: FakeHistory, after: Cursor | None, links: Links = "contiguous", clock: HastyClock | None = None) -> HistoryReader:
    return HistoryReader(transport, "c", links, clock or HastyClock(), after)


def nothing() -> Cursor | None:
    """What a reader knows of newer messages that follows no live channel."""
    return None


def numbers(found: list[HistoryEntry]) -> list[int]:
    return [one.position.offset for one in found]


def stored(count: int) -> FakeHistory:
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, count))
    return transport


# ---------------------------------------------------------------- the first page


@pytest.mark.parametrize("start", [Earliest(), Last(600), datetime(2026, 1, 1, tzinfo=UTC)], ids=repr)
async def test_the_first_page_is_asked_for_as_it_was_wanted(start: HistoryStart) -> None:
    transport = stored(600)
    one = reader(transport, None)
    assert numbers(await one.first(start)) == list(range(1, PAGE + 1))
    assert transport.reads == [("c", start, PAGE)]
    assert one.after == at(PAGE)
    assert not one.at_head()


async def test_history_that_is_empty_is_read_up_to_its_head() -> None:
    transport = FakeHistory()
    transport.heads["c"] = at(7)
    one = reader(transport, None)
    assert await one.first(Earliest()) == []
    assert one.after == at(7)
    assert one.at_head()


async def test_history_that_says_nothing_at_all_leaves_the_reader_where_it_is() -> None:
    transport = FakeHistory()
    transport.known_head = False
    one = reader(transport, None)
    assert await one.first(Earliest()) == []
    assert one.after is None
    assert one.at_head(), "there is nothing to compare with"


# ---------------------------------------------------------------- the next pages


async def test_pages_follow_each_other_from_the_last_entry_inclusive() -> None:
    transport = stored(600)
    one = reader(transport, None)
    found = numbers(await one.first(Earliest()))
    while not one.at_head():
        fault, more = await one.next(nothing)
        assert fault is None
        found += numbers(more)
    assert found == list(range(1, 601))
    assert [start for _, start, _ in transport.reads[1:]] == [at(256), at(511)]


@pytest.mark.parametrize(("links", "lost"), [("contiguous", 2), ("previous", None)])
async def test_what_was_trimmed_between_two_pages_is_told_with_its_count_and_reading_goes_on(links: Links, lost: int | None) -> None:
    transport = stored(10)
    one = reader(transport, at(4), links)
    transport.trim("c", keep=4)
    fault, found = await one.next(nothing)
    assert fault == Fault(GapReason.TRIMMED, lost)
    assert numbers(found) == [7, 8, 9, 10]
    assert one.at_head()
    assert one.interior(found) == found, "what is missing before the page is the fault's to tell"


async def test_what_was_trimmed_up_to_the_end_is_told_and_reading_is_at_its_head() -> None:
    transport = stored(10)
    one = reader(transport, at(4))
    transport.trim("c", keep=0)
    assert await one.next(nothing) == (Fault(GapReason.TRIMMED, 6), [])
    assert one.after == at(10)
    assert one.at_head()


async def test_a_history_that_began_anew_is_read_from_its_beginning() -> None:
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, 3, epoch="e2"))
    one = reader(transport, at(4))
    fault, found = await one.next(nothing)
    assert fault == Fault(GapReason.RESET, None)
    assert [item.position for item in found] == [at(n, "e2") for n in (1, 2, 3)]


async def test_a_tail_that_was_lost_and_has_regrown_is_seen_by_its_mark() -> None:
    transport = stored(3)
    transport.store("c", *entries("c", 4, 8, publisher="q"))
    one = reader(transport, at(4))
    fault, found = await one.next(nothing)
    assert fault == Fault(GapReason.RESET, None)
    assert numbers(found) == [4, 5, 6, 7, 8]


async def test_nothing_new_is_no_fault() -> None:
    transport = stored(4)
    one = reader(transport, at(4))
    assert await one.next(nothing) == (None, [])
    assert one.after == at(4)


async def test_an_empty_history_without_a_head_cannot_tell() -> None:
    transport = FakeHistory()
    transport.known_head = False
    assert await reader(transport, at(4)).next(nothing) == (Fault(GapReason.EXPIRED, None), [])


@pytest.mark.parametrize(("links", "lost"), [("contiguous", 3), ("previous", None)])
async def test_a_page_that_ends_before_the_head_is_asked_for_once_more_and_then_believed(links: Links, lost: int | None) -> None:
    transport = stored(4)
    transport.heads["c"] = at(7)
    one = reader(transport, at(4), links)
    assert await one.next(nothing) == (Fault(GapReason.HOLE, lost), [])
    assert len(transport.reads) == 2
    assert one.after == at(7)


async def test_what_arrives_between_the_two_is_read() -> None:
    transport = stored(4)
    transport.heads["c"] = at(7)

    def arrive(_: str) -> None:
        if len(transport.reads) == 2:
            transport.store("c", *entries("c", 5, 7))

    transport.before_read = arrive
    fault, found = await reader(transport, at(4)).next(nothing)
    assert (fault, numbers(found)) == (None, [5, 6, 7])


# ---------------------------------------------------------------- replicas that lag


async def test_a_page_of_a_replica_that_lags_is_read_again() -> None:
    transport = stored(8)
    transport.lag = 5
    clock = HastyClock()

    def catch_up(_: str) -> None:
        transport.lag = max(0, 6 - len(transport.reads))

    transport.before_read = catch_up
    fault, found = await reader(transport, at(4), clock=clock).next(lambda: at(8))
    assert (fault, numbers(found)) == (None, [5, 6, 7, 8])
    assert len(transport.reads) == 6
    assert clock.monotonic() == pytest.approx(5 * 0.05)


async def test_what_is_known_is_asked_before_each_reading() -> None:
    """A message that is published while history is read may be missing in the page without anything being wrong."""
    transport = stored(4)
    asked: list[int] = []

    def known() -> Cursor:
        asked.append(len(transport.reads))
        return transport.stored["c"][-1].position

    def publish(_: str) -> None:
        if len(transport.reads) == 1:
            transport.lag = 1
            transport.store("c", *entries("c", 5, 5))

    transport.before_read = publish
    assert await reader(transport, at(4)).next(known) == (None, [])
    assert asked == [0]


async def test_a_replica_that_lags_for_too_long_is_judged_as_it_is() -> None:
    transport = stored(8)
    transport.lag = 2
    clock = HastyClock()
    fault, found = await reader(transport, at(4), clock=clock).next(lambda: at(8))
    assert (fault, numbers(found)) == (None, [5, 6])
    assert 5.0 <= clock.monotonic() < 5.2


async def test_a_history_that_stays_behind_the_cursor_is_another_one() -> None:
    transport = stored(8)
    transport.lag = 6
    clock = HastyClock()
    fault, found = await reader(transport, at(4), clock=clock).next(nothing)
    assert fault == Fault(GapReason.RESET, None)
    assert found == []
    assert clock.monotonic() >= 5.0


# ---------------------------------------------------------------- inside a page


async def test_an_entry_that_the_links_say_is_missing_is_a_gap_at_its_place() -> None:
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, 3), *entries("c", 6, 7))
    one = reader(transport, None)
    found = one.interior(await one.first(Earliest()))
    assert [item if isinstance(item, Gap) else item.position.offset for item in found] == [1, 2, 3, Gap("c", GapReason.HOLE, 2), 6, 7]


async def test_an_entry_missing_at_the_seam_of_two_pages_is_a_gap() -> None:
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, 4), *entries("c", 6, 7))
    one = reader(transport, at(4))
    fault, page = await one.next(nothing)
    found = one.interior(page)
    assert fault is None
    assert [item if isinstance(item, Gap) else item.position.offset for item in found] == [Gap("c", GapReason.HOLE, 1), 6, 7]


async def test_a_history_that_begins_anew_inside_a_page_is_a_gap() -> None:
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, 3))
    transport.store("c", *entries("c", 3, 5, publisher="q"))
    one = reader(transport, None)
    found = one.interior(await one.first(Earliest()))
    assert [item if isinstance(item, Gap) else item.position.offset for item in found] == [1, 2, 3, RESET, 3, 4, 5]


async def test_without_links_no_place_is_suspected() -> None:
    transport = FakeHistory(LOGGED)
    transport.store("c", entry("c", 1, linked=False), entry("c", 9, linked=False))
    one = reader(transport, None, "none")
    page = await one.first(Earliest())
    assert one.interior(page) == page


async def test_history_says_where_an_entry_is_missing() -> None:
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, 3), *entries("c", 6, 7))
    async with Realtime(transport) as rt:
        assert [message.data for message in await rt.history(C, limit=3)] == [1, 2, 3]
        with pytest.raises(MessagesLost, match="2 messages lost on channel 'c' .hole.") as lost:
            await rt.history(C)
        assert lost.value.gap == Gap("c", GapReason.HOLE, 2)
        assert [message.data for message in await rt.history(C, start=Start.after(at(6)))] == [7]


async def test_history_leaves_out_what_is_not_valid_and_reports_it() -> None:
    reasons: list[str] = []
    transport = FakeHistory()
    good = entry("c", 1)
    foreign = HistoryEntry(frame("d", "p.2"), at(2), at(1))
    rubbish = HistoryEntry(b"\xff", at(3), at(2))
    transport.store("c", good, foreign, rubbish, entry("c", 4))
    async with Realtime(transport, on_invalid=lambda message: reasons.append(message.reason)) as rt:
        assert [message.data for message in await rt.history(C)] == [1, 4]
        assert reasons == ["the frame says it is of channel 'd'", "the frame is not UTF-8"]
        assert rt.stats().invalid == 2


async def test_history_shows_data_only_and_raw_shows_all() -> None:
    transport = FakeHistory()
    other = frame("c", "p.2", "x").replace(b'"kind":"data"', b'"kind":"run"')
    transport.store("c", entry("c", 1), HistoryEntry(other, at(2), at(1)), entry("c", 3))
    async with Realtime(transport) as rt:
        assert [message.data for message in await rt.history(C)] == [1, 3]
        async with rt.subscribe("c", start=Start.EARLIEST).raw() as messages:
            assert [(await anext(messages)).kind for _ in range(3)] == ["data", "run", "data"]


# ---------------------------------------------------------------- repairs


def hub_of(rt: Realtime) -> Hub:
    assert rt._engine is not None
    return rt._engine.hub


def record_of(rt: Realtime) -> ChannelRecord:
    return hub_of(rt).channels["c"]


def is_live(rt: Realtime) -> Callable[[], bool]:
    return lambda: record_of(rt).phase is Phase.LIVE


async def take(messages: Subscription[Any], count: int) -> list[object]:  # Any: as above
    """The next data, and the gaps among them."""
    with anyio.fail_after(10):
        items = [await anext(messages) for _ in range(count)]
    return [item.data if isinstance(item, Message) else item for item in items]


async def test_a_hole_is_repaired_over_many_pages_while_live_frames_wait() -> None:
    transport = stored(1)
    async with Realtime(transport, clock=HastyClock()) as rt, rt.subscribe(C).with_gaps() as messages:
        transport.store("c", *entries("c", 2, 700))
        transport.push("c", entry("c", 700))
        assert record_of(rt).phase is Phase.REPAIRING
        transport.store("c", *entries("c", 701, 703), live=True)
        assert await take(messages, 702) == list(range(2, 704))
        assert [start for _, start, _ in transport.reads] == [at(1), at(256), at(511)]
        assert rt.stats().gaps == 0


async def test_frames_for_which_there_is_no_room_are_read_instead() -> None:
    transport = stored(1)
    async with Realtime(transport, clock=HastyClock(), buffer_bytes=400) as rt, rt.subscribe(C, buffer_bytes=10**6).with_gaps() as messages:
        transport.store("c", *entries("c", 2, 3))
        transport.push("c", entry("c", 3))
        transport.store("c", *entries("c", 4, 20), live=True)
        assert record_of(rt).overflowed
        assert await take(messages, 19) == list(range(2, 21))
        assert not record_of(rt).overflowed
        assert rt.stats().gaps == 0


async def test_what_history_has_discarded_is_told_where_it_is_missing() -> None:
    transport = stored(1)
    async with Realtime(transport, clock=HastyClock()) as rt, rt.subscribe(C).with_gaps() as messages:
        transport.store("c", *entries("c", 2, 6))
        transport.trim("c", keep=3)
        transport.push("c", entry("c", 6))
        assert await take(messages, 4) == [Gap("c", GapReason.TRIMMED, 2), 4, 5, 6]


async def test_a_history_with_nothing_left_is_told_and_live_goes_on() -> None:
    transport = stored(1)
    async with Realtime(transport, clock=HastyClock()) as rt, rt.subscribe(C).with_gaps() as messages:
        transport.store("c", *entries("c", 2, 6))
        transport.trim("c", keep=0)
        transport.push("c", entry("c", 6))
        assert await take(messages, 1) == [Gap("c", GapReason.TRIMMED, 5)], (
            "what history discarded is lost, the frame that was held up to it included"
        )
        await until(is_live(rt))
        transport.store("c", entry("c", 7), live=True)
        assert await take(messages, 1) == [7]


async def test_a_frame_that_history_never_shows_is_announced() -> None:
    """The broker delivered it and lost it, and knows nothing of it."""
    transport = stored(3)
    transport.known_head = False
    async with Realtime(transport, clock=HastyClock()) as rt, rt.subscribe(C).with_gaps() as messages:
        transport.deliver("c", *entry("c", 6))
        assert await take(messages, 2) == [Gap("c", GapReason.EXPIRED, None), 6]
        transport.deliver("c", *entry("c", 7))
        assert await take(messages, 1) == [7]


async def test_a_history_that_cannot_be_read_for_a_while_is_read_again() -> None:
    transport = stored(1)
    transport.history_errors = [Unavailable("busy"), ConnectionLost("gone")]
    async with Realtime(transport, clock=HastyClock()) as rt, rt.subscribe(C).with_gaps() as messages:
        transport.store("c", *entries("c", 2, 4))
        transport.push("c", entry("c", 4))
        assert await take(messages, 3) == [2, 3, 4]
        assert len(transport.reads) == 3


@pytest.mark.parametrize("error", [PermissionDenied("not yours"), FanwireError("odd")], ids=lambda error: type(error).__name__)
async def test_a_history_that_must_not_be_read_is_a_gap_and_a_warning(error: FanwireError, caplog: pytest.LogCaptureFixture) -> None:
    transport = stored(1)
    transport.history_errors = [error]
    async with Realtime(transport, clock=HastyClock()) as rt, rt.subscribe(C).with_gaps() as messages:
        with caplog.at_level(logging.WARNING, "fanwire"):
            transport.store("c", *entries("c", 2, 4))
            transport.push("c", entry("c", 4))
            assert await take(messages, 2) == [Gap("c", GapReason.EXPIRED, None), 4]
        assert [record.name for record in caplog.records] == ["fanwire.history"]
        assert caplog.messages == [f"the history of channel 'c' cannot be read: {error}"]


async def test_a_connection_lost_while_repairing_starts_another_repair_and_the_first_stops() -> None:
    transport = stored(1)
    gate = anyio.Event()
    clock = ManualClock()
    waiting = 0

    class Slow(FakeHistory):
        async def history(self, channel: str, /, *, start: HistoryStart, limit: int) -> HistoryPage:
            nonlocal waiting
            page = await super().history(channel, start=start, limit=limit)
            waiting += 1
            await gate.wait()
            return page

    slow = Slow()
    slow.stored, slow.heads = transport.stored, transport.heads
    async with Realtime(slow, clock=clock) as rt, rt.subscribe(C).with_gaps() as messages:
        slow.store("c", *entries("c", 2, 4))
        slow.push("c", entry("c", 4))
        await until(lambda: waiting == 1)
        slow.break_()
        await until(lambda: clock.sleepers == 1)
        slow.store("c", entry("c", 5))
        clock.advance(10)
        await until(lambda: waiting == 2)
        gate.set()
        assert await take(messages, 4) == [2, 3, 4, 5]
        await patience()
        assert rt.stats().gaps == 0
        assert rt.stats().duplicates == 0


async def test_a_page_that_repeats_what_was_read_repeats_nothing() -> None:
    transport = stored(1)
    async with Realtime(transport, clock=HastyClock()) as rt, rt.subscribe(C).with_gaps() as messages:
        transport.store("c", entry("c", 2), entry("c", 2), entry("c", 3), entry("c", 4))
        transport.push("c", entry("c", 4))
        assert await take(messages, 3) == [2, 3, 4]
        await until(is_live(rt))
        transport.store("c", entry("c", 5), live=True)
        assert await take(messages, 1) == [5]


async def test_a_history_that_turns_into_another_one_within_a_page_is_told_at_the_place() -> None:
    transport = stored(1)
    async with Realtime(transport, clock=HastyClock()) as rt, rt.subscribe(C).with_gaps() as messages:
        transport.store("c", *entries("c", 2, 4))
        transport.store("c", *entries("c", 4, 6, publisher="q"))
        transport.push("c", entry("c", 6, publisher="q"))
        assert await take(messages, 7) == [2, 3, 4, RESET, 4, 5, 6]


async def test_an_entry_missing_even_in_history_is_told_at_the_place() -> None:
    transport = stored(1)
    async with Realtime(transport, clock=HastyClock()) as rt, rt.subscribe(C).with_gaps() as messages:
        transport.store("c", *entries("c", 2, 3), *entries("c", 5, 6))
        transport.push("c", entry("c", 6))
        assert await take(messages, 5) == [2, 3, Gap("c", GapReason.HOLE, 1), 5, 6]


async def test_what_a_repair_brings_is_not_brought_again_where_only_ids_tell() -> None:
    """Behind a break a publisher sends again what was not answered: the log has it twice, of which a repair reads one, or both. What is missing in history is not told by ids."""
    transport = FakeHistory(LOGGED)
    ids = [1, 2, 4, 2, 4, 4, 5, 7]
    log = [HistoryEntry(frame("c", f"p.{id}", id), Cursor("e", n, mark_of(f"p.{id}", None)), None) for n, id in enumerate(ids, 1)]
    async with Realtime(transport, clock=HastyClock()) as rt, rt.subscribe(C).with_gaps() as messages:
        transport.store("c", log[0], live=True)
        transport.store("c", *log[1:5])
        transport.break_()
        await until(lambda: rt.stats().connections == 2 and rt._usable().hub.channels["c"].phase is Phase.LIVE)
        transport.store("c", *log[5:], live=True)
        found = [await anext(messages) for _ in range(6)]
        assert [item if isinstance(item, Gap) else item.data for item in found] == [1, 2, 4, 5, Gap("c", GapReason.HOLE, 1), 7]
        assert rt.stats().duplicates == 3
