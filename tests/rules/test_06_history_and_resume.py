"""Rule 6, history and resume: every form of start, joined to the live stream without a hole or a repeat; a cursor is verified, and what cannot be resumed is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import anyio
import pytest

from fanwire import Cursor, Gap, GapReason, Message, Realtime, Start
from fanwire.errors import CursorExpired, MessagesLost
from fanwire.hub import history
from fanwire.hub.states import Phase
from fanwire.transport import HistoryPage, HistoryStart
from fanwire_memory import MemoryOptions, MemoryTransport
from tests.clock import ManualClock
from tests.rules.support import (
    KEPT_NO_LINKS,
    QUIET,
    Room,
    ToyWithHistory,
    engine_of,
    frame_of,
    left_behind,
    log_of,
    pair,
    passing,
    settle,
    sever,
    subscribers,
    take,
    told,
    until,
    upto,
)

pytestmark = pytest.mark.anyio

room = Room(number=1)
other = Room(number=2)


async def _fill(rt: Realtime, numbers: range, channel: Room = room) -> list[Cursor]:
    """Publish numbers on both topics by turns; return where they stand."""
    receipts = [await rt.publish(channel.a if number % 2 == 0 else channel.b, number) for number in numbers]
    return [receipt.cursor for receipt in receipts if receipt.cursor is not None]


# ---------------------------------------------------------------------- the forms


class Past(NamedTuple):
    """What was published: one message a second."""

    cursors: list[Cursor]
    times: list[datetime]


FORMS: dict[str, tuple[Callable[[Past], Start], Callable[[int], int]]] = {
    "live": (lambda _: Start.LIVE, lambda many: many),
    "earliest": (lambda _: Start.EARLIEST, lambda _: 0),
    "as many as there are": (lambda past: Start.last(len(past.cursors)), lambda _: 0),
    "more than there are": (lambda _: Start.last(10_000), lambda _: 0),
    "the last three": (lambda _: Start.last(3), lambda many: many - 3),
    "after the third": (lambda past: Start.after(past.cursors[2]), lambda _: 3),
    "after the third, as text": (lambda past: Start.after(str(past.cursors[2])), lambda _: 3),
    "after the third, by channel": (lambda past: Start.after({room.name: past.cursors[2]}), lambda _: 3),
    "after the last": (lambda past: Start.after(past.cursors[-1]), lambda many: many),
    "after nothing": (lambda past: Start.after(Cursor(past.cursors[0].epoch, 0)), lambda _: 0),
    "since before the first": (lambda past: Start.since(past.times[0] - timedelta(days=1)), lambda _: 0),
    "since the third": (lambda past: Start.since(past.times[2]), lambda _: 2),
    "since right behind the third": (lambda past: Start.since(past.times[2] + timedelta(milliseconds=1)), lambda _: 3),
    "since behind the last": (lambda past: Start.since(past.times[-1] + timedelta(milliseconds=1)), lambda many: many),
}


@pytest.mark.parametrize("many", [10, 256, 700])
@pytest.mark.parametrize("form", FORMS)
async def test_each_form_of_start_begins_where_it_says(form: str, many: int) -> None:
    """Within a page of history, at its very end, and over several pages; then live."""
    clock = ManualClock()
    begin, first = FORMS[form]
    async with Realtime(MemoryTransport("", MemoryOptions(ttl=10_000), clock=clock)) as rt:
        past = Past([], [])
        for number in range(many):
            clock.advance(1.0)
            past.times.append(datetime.fromtimestamp(clock.time(), UTC))
            past.cursors.extend(await _fill(rt, range(number, number + 1)))
        clock.advance(1.0)
        async with rt.subscribe(room, start=begin(past)).with_gaps() as messages, rt.subscribe(room, start=begin(past)) as again:
            await _fill(rt, range(many, many + 1))
            for subscription in (messages, again):
                assert await upto(subscription, many) == list(range(first(many), many + 1))
                assert subscription.stats() == (many + 1 - first(many), 0, 0, 0, 0)


async def test_a_start_applies_to_the_topics_asked_for() -> None:
    async with Realtime(MemoryTransport()) as rt:
        await _fill(rt, range(20))
        async with rt.subscribe(room.b, start=Start.EARLIEST) as odd:
            assert told(await take(odd, 10)) == list(range(1, 20, 2))
        async with rt.subscribe(room.b, start=Start.last(4)) as odd:
            # The newest four of the channel, before any choice of topics.
            assert told(await take(odd, 2)) == [17, 19]
        async with rt.subscribe(room.name, start=Start.last(3)).raw() as raw:
            assert [item.json for item in await take(raw, 3)] == [b"17", b"18", b"19"]


async def test_a_start_over_several_channels_leads_each_from_its_own_place() -> None:
    async with Realtime(MemoryTransport()) as rt:
        mine, theirs = await _fill(rt, range(10)), await _fill(rt, range(100, 110), other)
        starts = [
            (Start.after({room.name: mine[7], other.name: theirs[3]}), [8, 9, *range(104, 110)]),
            (Start.after({other.name: str(theirs[8]), room.name: mine[9]}), [109]),
            (Start.last(2), [8, 9, 108, 109]),
            (Start.EARLIEST, [*range(10), *range(100, 110)]),
        ]
        for start, expected in starts:
            async with rt.subscribe(room.a, room.b, other.a, other.b, start=start).with_gaps() as messages:
                assert sorted(n for n in told(await take(messages, len(expected))) if isinstance(n, int)) == expected
                assert messages.stats().lag == 0


async def test_one_cursor_for_several_channels_is_refused() -> None:
    rt = Realtime(MemoryTransport())
    cursor = Cursor("e", 1)
    with pytest.raises(ValueError, match=r"one cursor cannot stand for 2 channels: use Start.after\(\{channel.name: cursor"):
        rt.subscribe(room.a, other.a, start=Start.after(cursor))
    wrong: list[Mapping[str, Cursor]] = [{}, {room.name: cursor}, {room.name: cursor, other.name: cursor, "third": cursor}]
    for cursors in wrong:
        with pytest.raises(ValueError, match="one cursor per channel"):
            rt.subscribe(room.a, other.a, start=Start.after(cursors))


async def test_a_start_that_cannot_be_is_refused_where_it_is_made() -> None:
    for text in ("", "e:1", "e:x:-", "e:1:xyz", ":1:-"):
        with pytest.raises(ValueError, match="not a cursor"):
            Start.after(text)
    with pytest.raises(ValueError, match="n >= 1"):
        Start.last(0)
    with pytest.raises(ValueError, match="time zone"):
        Start.since(datetime(2024, 5, 1))  # noqa: DTZ001 - the very mistake


async def test_a_cursor_is_that_of_a_receipt_and_of_a_message_and_survives_as_text() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(room.a) as messages:
        receipt = await rt.publish(room.a, 1)
        message = await anext(messages)
        assert receipt.cursor is not None
        assert message.cursor == receipt.cursor == Cursor.parse(str(receipt.cursor))
        assert receipt.cursor.mark is not None


# ---------------------------------------------------------------------- what history has lost meanwhile


@pytest.mark.parametrize("on_gap", ["yield", "raise"])
async def test_what_is_trimmed_between_two_pages_is_announced_at_its_place(on_gap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "PAGE", 4)
    transport = MemoryTransport()
    async with Realtime(transport) as rt:
        await _fill(rt, range(20))
        subscription = rt.subscribe(room, start=Start.EARLIEST, on_gap="raise")
        async with subscription.with_gaps() if on_gap == "yield" else subscription as messages:
            transport.faults.trim(room.name, keep=3)
            expected = Gap(room.name, GapReason.TRIMMED, 13)
            assert told(await take(messages, 4)) == [0, 1, 2, 3]
            if on_gap == "yield":
                assert await anext(messages) == expected
            else:
                with pytest.raises(MessagesLost) as caught:
                    await anext(messages)
                assert caught.value.gap == expected
            await rt.publish(room.a, 20)
            assert await upto(messages, 20) == [17, 18, 19, 20]
            assert messages.stats().lost == 13


async def test_an_epoch_that_changes_between_two_pages_is_announced_at_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "PAGE", 4)
    transport = MemoryTransport()
    async with Realtime(transport) as rt:
        await _fill(rt, range(10))
        async with rt.subscribe(room, start=Start.EARLIEST).with_gaps() as messages:
            transport.faults.new_epoch(room.name)
            await _fill(rt, range(10, 20))
            found = await upto(messages, 19)
            assert found[:4] == [0, 1, 2, 3]
            assert found[4] == Gap(room.name, GapReason.RESET, None)
            assert [item for item in found if isinstance(item, int)] == [0, 1, 2, 3, *range(10, 20)]


async def test_a_hole_inside_a_page_is_announced_at_its_place() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt:
        transport.faults.drop(2, skip=3, stored=False)
        await _fill(rt, range(10))
        async with rt.subscribe(room, start=Start.EARLIEST).with_gaps() as messages:
            assert await upto(messages, 9) == [0, 1, 2, Gap(room.name, GapReason.HOLE, 2), 5, 6, 7, 8, 9]


async def test_catching_up_ends_where_the_newest_message_was_lost_for_good() -> None:
    """The head is known to be ahead of the last entry that there is: it must not be waited for."""
    toy = ToyWithHistory()
    async with Realtime(toy) as rt:
        for number in (1, 2, 3):
            await rt.publish(room.a, number)
        toy.streams[room.name].pop()
        async with rt.subscribe(room, start=Start.EARLIEST).with_gaps() as messages:
            with anyio.fail_after(3):
                assert told(await take(messages, 2)) == [1, 2]
                await settle(200)
                await rt.publish(room.a, 4)
                found = await upto(messages, 4)
            assert found[-1] == 4
            assert len(toy.reads) < 20


# ---------------------------------------------------------------------- cursors that cannot be resumed


class Case(NamedTuple):
    """Ten messages are published, something happens, so many more are published; which of the ten can be resumed after, and which not."""

    trouble: Callable[[MemoryTransport, ManualClock], object]
    more: int
    good: list[int]
    bad: list[int]


CASES = {
    "nothing": Case(lambda _, __: None, 0, [0, 5, 9], []),
    "trimmed": Case(lambda transport, __: transport.faults.trim(room.name, keep=3), 0, [6, 7, 9], [0, 4, 5]),
    "trimmed, and more": Case(lambda transport, __: transport.faults.trim(room.name, keep=3), 4, [6, 7, 9], [0, 5]),
    "emptied": Case(lambda transport, __: transport.faults.trim(room.name), 0, [9], [0, 8]),
    "emptied, and more": Case(lambda transport, __: transport.faults.trim(room.name), 2, [9], [0, 8]),
    "too old": Case(lambda _, clock: clock.advance(1000.0), 0, [9], [0, 8]),
    "another epoch": Case(lambda transport, __: transport.faults.new_epoch(room.name), 0, [], [0, 9]),
    "another epoch, grown past": Case(lambda transport, __: transport.faults.new_epoch(room.name), 20, [], [0, 9]),
    "forked, head behind": Case(lambda transport, __: transport.faults.fork(room.name, 3), 0, [0, 6], [7, 9]),
    "forked, head behind, regrown in part": Case(lambda transport, __: transport.faults.fork(room.name, 3), 1, [0, 6], [7, 8, 9]),
    "forked, head exactly there": Case(lambda transport, __: transport.faults.fork(room.name, 3), 3, [0, 6], [7, 8, 9]),
    "forked, grown past": Case(lambda transport, __: transport.faults.fork(room.name, 3), 20, [0, 6], [7, 8, 9]),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_cursor_is_resumed_only_where_nothing_behind_it_can_be_missing(case: str) -> None:
    trouble, more, good, bad = CASES[case]
    clock = ManualClock()
    transport = MemoryTransport(clock=clock)
    async with passing(clock), Realtime(transport, clock=clock, linger=0.0) as rt:
        cursors = await _fill(rt, range(10))
        trouble(transport, clock)
        await _fill(rt, range(10, 10 + more))
        for place in bad:
            with pytest.raises(CursorExpired, match="Start.EARLIEST or Start.LIVE"):
                async with rt.subscribe(room, start=Start.after(cursors[place])):
                    pytest.fail("it cannot be known what is missing")
            with pytest.raises(CursorExpired):
                await rt.history(room, start=Start.after(cursors[place]))
        await until(lambda: left_behind(rt) == QUIET and subscribers(transport) == 0, "the attempts have left nothing")
        # Forked messages are gone: what follows a surviving cursor is what history has now.
        kept = range(7) if case.startswith("forked") else range(10)
        for place in good:
            expected = [*kept[place + 1 :], *range(10, 10 + more)]
            assert told(await rt.history(room, start=Start.after(cursors[place]))) == expected
            async with rt.subscribe(room, start=Start.after(cursors[place])).with_gaps() as messages:
                assert told(await take(messages, len(expected))) == expected
                assert messages.stats() == (len(expected), 0, 0, 0, 0)


async def test_a_cursor_of_another_message_at_the_same_place_is_refused() -> None:
    clock = ManualClock()
    async with passing(clock), Realtime(MemoryTransport(clock=clock), clock=clock) as rt:
        *_, cursor = await _fill(rt, range(5))
        for forged in (cursor._replace(mark="00000000"), cursor._replace(offset=99), cursor._replace(epoch="other")):
            with pytest.raises(CursorExpired):
                async with rt.subscribe(room, start=Start.after(forged)):
                    pytest.fail("there is no such place")
        async with rt.subscribe(room, start=Start.after(cursor._replace(offset=3, mark=None))) as messages:
            assert told(await take(messages, 2)) == [3, 4]


async def test_one_expired_cursor_of_several_refuses_all_and_delivers_nothing() -> None:
    transport = MemoryTransport()
    async with Realtime(transport, linger=0.0) as rt:
        mine, theirs = await _fill(rt, range(5)), await _fill(rt, range(5), other)
        transport.faults.trim(other.name, keep=1)
        with pytest.raises(CursorExpired, match="'room:2'"):
            async with rt.subscribe(room.a, other.a, start=Start.after({room.name: mine[0], other.name: theirs[0]})):
                pytest.fail("one of them has expired")
        await until(lambda: left_behind(rt) == QUIET, "the attempt has left nothing")


async def test_the_check_notices_a_mark_that_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    from fanwire.hub import continuity

    monkeypatch.setattr(continuity, "_contradict", lambda *_: False)
    with pytest.raises((ExceptionGroup, BaseExceptionGroup)):
        await test_a_cursor_is_resumed_only_where_nothing_behind_it_can_be_missing("forked, grown past")


# ---------------------------------------------------------------------- the same for a live subscriber: a gap, not an error


LIVE_CASES: dict[str, tuple[Callable[[MemoryTransport], object], int, list[int | Gap]]] = {
    "nothing happened": (lambda _: None, 0, []),
    "all kept": (lambda _: None, 4, []),
    "emptied": (lambda transport: transport.faults.trim(room.name), 0, []),
    "trimmed behind": (lambda transport: transport.faults.trim(room.name), 4, []),
    "another epoch": (lambda transport: transport.faults.new_epoch(room.name), 3, [Gap(room.name, GapReason.RESET, None)]),
    "forked, head behind": (lambda transport: transport.faults.fork(room.name, 3), 0, [Gap(room.name, GapReason.RESET, None)]),
    "forked, head exactly there": (lambda transport: transport.faults.fork(room.name, 3), 3, [Gap(room.name, GapReason.RESET, None)]),
    "forked, grown past": (lambda transport: transport.faults.fork(room.name, 3), 20, [Gap(room.name, GapReason.RESET, None)]),
}


@pytest.mark.parametrize("case", LIVE_CASES)
async def test_a_live_subscriber_is_told_what_its_place_in_history_shows(case: str) -> None:
    """Reconnected, it repairs from its last position inclusive; a tail lost by failover is announced even where offsets have grown past it again."""
    trouble, more, gaps = LIVE_CASES[case]
    clock = ManualClock()
    here, there = pair()
    async with Realtime(here, clock=clock) as rt, Realtime(there) as publisher, rt.subscribe(room).with_gaps() as messages:
        await _fill(publisher, range(10))
        sever(here)
        trouble(there)
        await _fill(publisher, range(10, 10 + more))
        async with passing(clock):
            await until(lambda: rt.stats().connections == 2 and _is_live(rt), "it is connected and live again")
            await _fill(publisher, range(90, 91))
            found = await upto(messages, 90)
        numbers = [item for item in found if isinstance(item, int)]
        assert found[:10] == list(range(10))
        assert [item for item in found if isinstance(item, Gap)] == gaps
        assert not gaps or found[10] == gaps[0], "the gap is not where the loss is"
        if "exactly" in case or "past" in case:
            # The messages in the place of those that were lost may be among what is shown.
            assert numbers[-1] == 90
            assert set(numbers) <= set(range(10 + more)) | {90}
            assert set(range(13, 10 + more)) <= set(numbers)
        else:
            assert numbers == [*range(10 + more), 90]


def _is_live(rt: Realtime) -> bool:
    return all(record.phase is Phase.LIVE for record in engine_of(rt).hub.channels.values())


async def _reconnected(toy: ToyWithHistory, missed: list[int], page: Callable[[HistoryPage], HistoryPage]) -> list[int | Gap]:
    """Show what a subscriber sees that has read 1, 2, 3, is cut off while more is published, and reads history that a test has tampered with."""
    clock = ManualClock()

    async def tampered(real: HistoryPage) -> HistoryPage:
        return page(real)

    async with Realtime(toy, clock=clock) as rt, rt.subscribe(room).with_gaps() as messages:
        for number in (1, 2, 3):
            toy.append(room.name, frame_of(room.a, number, f"p.{number}"), f"{number:08x}")
        toy.on_history = tampered
        toy.disconnect()
        await until(lambda: toy.sink is None, "it is cut off")
        for number in missed:
            toy.append(room.name, frame_of(room.a, number, f"p.{number}"), f"{number:08x}")
        async with passing(clock):
            await until(lambda: rt.stats().connections == 2 and _is_live(rt), "it is connected and live again")
            toy.append(room.name, frame_of(room.a, 90, "q.90"), "00000090")
            return await upto(messages, 90)


async def test_an_empty_history_of_the_same_epoch_with_the_same_head_misses_nothing() -> None:
    toy = ToyWithHistory(marks=False)
    assert await _reconnected(toy, [], lambda page: page._replace(entries=[])) == [1, 2, 3, 90]
    assert toy.reads


async def test_an_empty_history_with_an_unknown_head_is_a_gap_of_unknown_size() -> None:
    toy = ToyWithHistory(marks=False)
    expected = [1, 2, 3, Gap(room.name, GapReason.EXPIRED, None), 90]
    assert await _reconnected(toy, [], lambda page: page._replace(entries=[], head=None)) == expected


async def test_an_empty_history_with_an_unknown_head_refuses_a_callers_cursor() -> None:
    toy = ToyWithHistory()

    async def unknown(page: HistoryPage) -> HistoryPage:
        return page._replace(entries=[], head=None)

    async with Realtime(toy) as rt:
        receipt = await rt.publish(room.a, 1)
        assert receipt.cursor is not None
        toy.on_history = unknown
        with pytest.raises(CursorExpired, match="expired"):
            async with rt.subscribe(room, start=Start.after(receipt.cursor)):
                pytest.fail("it cannot be known what is missing")


async def test_without_marks_the_entry_at_the_place_is_taken_for_what_it_was() -> None:
    assert await _reconnected(ToyWithHistory(marks=False), [4, 5], lambda page: page) == [1, 2, 3, 4, 5, 90]


@pytest.mark.parametrize("vouched", [True, False])
async def test_without_marks_and_links_the_transports_word_decides_where_the_entry_is_gone(vouched: bool) -> None:
    toy = ToyWithHistory(KEPT_NO_LINKS, marks=False)
    found = await _reconnected(toy, [4, 5], lambda page: HistoryPage([e for e in page.entries if e.position.offset > 3], page.head, vouched))
    assert found == [1, 2, 3, *([] if vouched else [Gap(room.name, GapReason.TRIMMED, None)]), 4, 5, 90]


async def test_a_page_of_a_replica_that_lags_is_read_again() -> None:
    toy = ToyWithHistory()
    stale = 3

    def lagging(page: HistoryPage) -> HistoryPage:
        nonlocal stale
        stale -= 1
        return HistoryPage(page.entries[:1], Cursor("e1", 2), complete=False) if stale >= 0 else page

    assert await _reconnected(toy, [4, 5], lagging) == [1, 2, 3, 4, 5, 90]
    assert len(toy.reads) == 4


async def test_a_replica_that_lags_for_good_is_judged_in_the_end() -> None:
    toy = ToyWithHistory()
    found = await _reconnected(toy, [4, 5], lambda _: HistoryPage([], Cursor("e1", 2), complete=False))
    assert found == [1, 2, 3, Gap(room.name, GapReason.RESET, None), 90]


# ---------------------------------------------------------------------- history without subscribing


async def test_history_reads_without_subscribing() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt:
        assert await rt.history(room) == []
        cursors = await _fill(rt, range(600))
        assert told(await rt.history(room)) == list(range(600))
        assert told(await rt.history(room, start=Start.last(3))) == [597, 598, 599]
        assert told(await rt.history(room, start=Start.after(cursors[596]))) == [597, 598, 599]
        assert told(await rt.history(room.b, start=Start.last(4))) == [597, 599]
        assert told(await rt.history(room, topics=["a"], limit=2)) == [0, 2]
        assert told(await rt.history(room.name, limit=300)) == list(range(300))
        assert left_behind(rt) == QUIET
        assert subscribers(transport) == 0
        # Reading on behind the last one.
        found: list[Message[int]] = []
        while len(found) < 600:
            last = found[-1].cursor if found else None
            found += await rt.history(room.a, room.b, start=Start.EARLIEST if last is None else Start.after(last), limit=77)
        assert told(found) == list(range(600))
        assert [message.cursor for message in found] == cursors


async def test_history_says_when_messages_were_discarded_between_two_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "PAGE", 4)
    transport = MemoryTransport()
    read = MemoryTransport.history

    async def trimmed(transport: MemoryTransport, channel: str, /, *, start: HistoryStart, limit: int) -> HistoryPage:
        page = await read(transport, channel, start=start, limit=limit)
        transport.faults.trim(room.name, keep=2)
        return page

    monkeypatch.setattr(MemoryTransport, "history", trimmed)
    async with Realtime(transport) as rt:
        await _fill(rt, range(20))
        with pytest.raises(MessagesLost, match="14 messages lost") as caught:
            await rt.history(room)
        assert caught.value.gap == Gap(room.name, GapReason.TRIMMED, 14)


async def test_what_history_refuses() -> None:
    async with Realtime(MemoryTransport()) as rt:
        with pytest.raises(ValueError, match="Start.LIVE"):
            await rt.history(room, start=Start.LIVE)
        with pytest.raises(ValueError, match="limit"):
            await rt.history(room, limit=0)
        with pytest.raises(ValueError, match="one channel, got 2"):
            await rt.history(room.a, other.a)


async def test_a_subscription_joins_history_only_as_far_as_it_is_asked_to() -> None:
    """Neighbours on the same log are not shown the past of one of them."""
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(room) as live:
        await _fill(rt, range(10))
        await take(live, 10)
        async with rt.subscribe(room, start=Start.EARLIEST) as past:
            assert log_of(past) is log_of(live)
            await _fill(rt, range(10, 11))
            assert await upto(past, 10) == list(range(11))
        assert await upto(live, 10) == [10]
