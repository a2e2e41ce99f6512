"""G: reading the past, resuming, and what history no longer has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import anyio

from ...errors import CursorExpired
from ...messages import Cursor, Gap, GapReason, Message, Start
from ...realtime import Realtime
from ...topics import Outgoing, TopicRef
from ..check import check
from ..harness import Harness
from ..outage import Slow, Source, audit, beside, deep, follow, follow_all, gaps_of, opened, pair, read_up_to, refused, sound, whole
from ..tools import Room, account, confirmed, expect, open_realtime, take, told, until_async, upto

__all__ = ()

_SURE = {"confirmed_subscribe", "ordering.publisher"}
"""What a transport has to claim for its messages to be counted."""

_RESUMES = {"history.after_cursor", *_SURE}
_SEVERAL_PAGES = 600
"""Messages that are more than are read at once."""


def _cursors(source: Source) -> list[Cursor]:
    """Return where each number stands."""
    found = [source.receipts[number].cursor for number in range(source.next)]
    confirmed(None not in found, "receipts have no cursors, though history after a cursor is claimed")
    return [cursor for cursor in found if cursor is not None]


async def _history(
    rt: Realtime, *targets: TopicRef[int] | Room | str, **choice: Any
) -> list[Message[Any]]:  # Any: as rt.history() takes and gives them
    """Read history, which has to succeed."""
    with sound(f"reading the history of {targets} with {choice}"):
        read: Any = rt.history  # Any: its overloads
        return list(await read(*targets, **choice))


# ---------------------------------------------------------------- from the past into the present


async def _join(harness: Harness, past: int, start: Callable[[Source], Awaitable[tuple[Start, int, int]]]) -> None:
    """Join from history while publishing goes on between any two steps, and see that everything comes once, from where it has to begin.

    Args:
        harness: The harness.
        past: Messages that are published before.
        start: Returns where to start, and the first and the last number that may come first.
    """
    room = Room(number=1)
    publishing = 0

    async def meanwhile() -> None:
        nonlocal publishing
        if publishing:
            publishing -= 1
            await source.publish(3)

    async with beside(harness) as other, opened(other, deep(other)) as far, opened(harness, Slow(deep(harness), meanwhile)) as rt:
        source = Source(far, room.a)
        for done in range(0, past, 100):
            await source.publish(min(100, past - done))
        for live in (0, 5):
            begin, first, last = await start(source)
            publishing = 20
            async with rt.subscribe(room.a, start=begin).with_gaps() as messages:
                await source.publish()  # there may be nothing to read yet
                found = await read_up_to(messages, source, harness.patience)
                for _ in range(live):
                    await source.publish(2)
                    found += await read_up_to(messages, source, harness.patience)
                stats = messages.stats()
            publishing = 0
            confirmed(isinstance(found[0], int) and first <= found[0] <= last, f"{begin} began with {found[0]}, expected {first} to {last}")
            account(found, int(str(found[0])), source.last)
            expect(gaps_of(found), [], "gaps, though history has everything")
            expect((stats.received, stats.lost, stats.gaps), (len(found), 0, 0), "received, lost and gaps, by the counters")


@check("G1", needs={"history.earliest", *_SURE}, finds={"join too early", "show the seam twice", "hide the newest"})
async def replay_from_the_beginning(harness: Harness) -> None:
    """From the earliest message over several pages into the present, while publishing goes on: no hole, no repeat."""

    async def start(source: Source) -> tuple[Start, int, int]:
        del source
        return Start.EARLIEST, 0, 0

    await _join(harness, _SEVERAL_PAGES, start)


@check("G1b", needs={"history.last_n", *_SURE}, finds={"join too early", "show the seam twice", "hide the newest"})
async def replay_the_last(harness: Harness) -> None:
    """From the newest few messages into the present, while publishing goes on; more than there are is all there are."""

    async def start(source: Source) -> tuple[Start, int, int]:
        # What is published before the page is read belongs to the newest.
        return Start.last(7), source.next - 7, source.next - 7 + 6

    async def more(source: Source) -> tuple[Start, int, int]:
        del source
        return Start.last(990), 0, 0

    await _join(harness, 50, start)
    again = type(harness)(f"{harness.namespace}-b")
    async with again:
        await _join(again, 300, more)


@check("G1c", needs=_RESUMES, finds={"join too early", "show the seam twice", "hide the newest"})
async def replay_from_a_cursor(harness: Harness) -> None:
    """Behind a message into the present, while publishing goes on: from several pages back, and behind the very newest, cursors kept as text."""

    async def back(source: Source) -> tuple[Start, int, int]:
        return Start.after(str(_cursors(source)[20])), 21, 21

    async def newest(source: Source) -> tuple[Start, int, int]:
        return Start.after(_cursors(source)[-1]), source.next, source.next

    await _join(harness, _SEVERAL_PAGES, back)
    again = type(harness)(f"{harness.namespace}-b")
    async with again:
        await _join(again, 10, newest)


@check("G1d", needs={"history.since_time", *_SURE}, finds={"join too early", "show the seam twice", "hide the newest"})
async def replay_since_a_time(harness: Harness) -> None:
    """From the first message at or after a time into the present, while publishing goes on."""

    async def start(source: Source) -> tuple[Start, int, int]:
        # Time has to pass between what is before and what is behind it, at the server's clock.
        await anyio.sleep(0.01)
        when, first = datetime.now(UTC), source.next
        await anyio.sleep(0.01)
        await source.publish(5)
        return Start.since(when), first, first

    await _join(harness, 300, start)


@check("G1e", needs=_RESUMES, finds={"trust any cursor", "hide the newest"})
async def resume_over_several_channels(harness: Harness) -> None:
    """A subscription over several channels resumes each behind its own cursor; one cursor that has expired refuses all of them."""
    rooms = [Room(number=number) for number in range(4)]
    async with open_realtime(harness) as rt:
        sources = [Source(rt, room.a) for room in rooms]
        for count, source in enumerate(sources):
            await source.publish(5 + 100 * count)
        places = [4, 50, 204, 0]
        cursors = {room.name: _cursors(source)[place] for room, source, place in zip(rooms, sources, places, strict=True)}
        async with rt.subscribe(*(room.a for room in rooms), start=Start.after(cursors)).with_gaps() as messages:
            found = await follow_all(messages, sources, harness.patience)
        for source, place in zip(sources, places, strict=True):
            whole(found[source.channel], source, place + 1)
        cursors[rooms[1].name] = cursors[rooms[1].name]._replace(mark="00000000")
        with refused(CursorExpired, "resuming behind four cursors, one of another message"):
            async with rt.subscribe(*(room.a for room in rooms), start=Start.after(cursors)):
                pass
        expect(rt.stats().subscriptions, 0, "subscriptions that the refused one has left")


# ---------------------------------------------------------------- what cannot be resumed


async def _resumes(rt: Realtime, room: Room, cursor: Cursor, wanted: Sequence[int], seconds: float) -> None:
    """Assert that what follows a cursor is this, by a subscription and by reading."""
    expect(told(await _history(rt, room.a, start=Start.after(cursor))), list(wanted), f"what history has behind {cursor}")
    async with rt.subscribe(room.a, start=Start.after(cursor)).with_gaps() as messages:
        expect(told(await take(messages, len(wanted), seconds)), list(wanted), f"what a subscription behind {cursor} received")


async def _expired(rt: Realtime, room: Room, cursor: Cursor, why: str) -> None:
    """Assert that nothing is resumed behind a cursor."""
    with refused(CursorExpired, f"subscribing behind a cursor {why}"):
        async with rt.subscribe(room.a, start=Start.after(cursor)):
            pass
    with refused(CursorExpired, f"reading behind a cursor {why}"):
        await rt.history(room.a, start=Start.after(cursor))


@check("G2", needs=_RESUMES, uses={"trim"}, finds={"trust any cursor"})
async def cursor_expired(harness: Harness) -> None:
    """Behind a cursor whose successors were trimmed nothing is resumed, and the error says so; behind one that history still holds all is, as before."""
    room = Room(number=1)
    async with pair(harness, hurried=True) as (rt, _, _):
        source = Source(rt, room.a)
        await source.publish(10)
        cursors = _cursors(source)
        await harness.trim(room.name, 4)
        for place in (0, 3, 4):
            await _expired(rt, room, cursors[place], "of which the next message was trimmed")
        for place in (6, 7, 8):
            await _resumes(rt, room, cursors[place], range(place + 1, 10), harness.patience)
        await source.publish(2)
        await _expired(rt, room, cursors[4], "of which the next message was trimmed")
        await _resumes(rt, room, cursors[9], [10, 11], harness.patience)
        expect(rt.stats().subscriptions, 0, "subscriptions that the refused ones have left")


@check("G2b", needs=_RESUMES, finds={"trust any cursor", "ignore marks"})
async def stale_and_foreign_cursors(harness: Harness) -> None:
    """Nothing is resumed behind the cursor of another message, of another channel, of another history, or of what does not exist yet."""
    room, other = Room(number=1), Room(number=2)
    async with pair(harness, hurried=True) as (rt, far, _):
        source, elsewhere = Source(rt, room.a), Source(far, other.a)
        await source.publish(8)
        await elsewhere.publish(8)
        cursor = _cursors(source)[4]
        await _expired(rt, room, cursor._replace(mark="00000000"), "of another message")
        await _expired(rt, room, cursor._replace(offset=cursor.offset + 10**6), "of what does not exist yet")
        await _expired(rt, room, cursor._replace(epoch=f"{cursor.epoch}1"), "of another history")
        await _expired(rt, room, _cursors(elsewhere)[4], "of another channel")
        await _expired(rt, Room(number=3), cursor, "of another channel, where nothing was published")
        await _resumes(rt, room, cursor, range(5, 8), harness.patience)


@check("G3", needs=_RESUMES, uses={"recreate"}, finds={"trust any cursor"})
async def epoch_changed(harness: Harness) -> None:
    """Behind a cursor of a channel whose history began anew nothing is resumed, be the new one shorter or longer."""
    room = Room(number=1)
    async with pair(harness, hurried=True) as (rt, far, _):
        source = Source(far, room.a)
        await source.publish(10)
        cursors = _cursors(source)
        await harness.recreate(room.name)
        for place in (0, 9):
            await _expired(rt, room, cursors[place], "of a history that was recreated and is empty")
        await source.publish(20)
        for place in (0, 9):
            await _expired(rt, room, cursors[place], "of a history that was recreated and has grown past it")
        await _resumes(rt, room, _cursors(source)[12], range(13, 30), harness.patience)


@check("G3b", needs=_RESUMES, uses={"cut", "recreate"}, finds={"swallow gaps"})
async def epoch_changed_under_a_subscriber(harness: Harness) -> None:
    """A subscriber that was away is told, once, of a history that began anew, at the place where it did; one that was there all the time may be, and misses nothing."""
    room = Room(number=1)
    async with pair(harness, hurried=True) as (rt, far, clock), rt.subscribe(room.a).with_gaps() as messages:
        source = Source(far, room.a)
        for away in (False, True):
            await source.publish(10)
            first = source.next
            await upto(messages, source.last, harness.patience)
            if away:
                clock.hold()
                await harness.cut()
            await harness.recreate(room.name)
            await source.publish(5)
            clock.release()
            found = await follow(messages, source, harness.patience)
            missing = audit(found, source, first)
            confirmed(away or not missing, f"{missing} messages did not reach a subscriber whose connection stood")
            gaps = [gap.reason for gap in gaps_of(found)]
            confirmed(gaps == [GapReason.RESET] or not (gaps or away), f"the gaps were {gaps}, expected one of a history that began anew")
            confirmed(not gaps or isinstance(found[0], Gap), f"the gap is behind {found[0]}, which is of the new history")


_LOST, _BEFORE = 3, 10
"""Messages that a failover loses, of those there were."""


async def _lost_tail(harness: Harness, regrown: int) -> None:
    """Lose the newest messages, publish some more, and see what is resumed."""
    room = Room(number=1)
    async with pair(harness, hurried=True) as (rt, far, _):
        source = Source(far, room.a)
        await source.publish(_BEFORE)
        cursors = _cursors(source)
        await harness.rewind(room.name, _LOST)
        if regrown:
            await source.publish(regrown)
        for place in (_BEFORE - 1, _BEFORE - _LOST) if regrown else (_BEFORE - 1,):
            await _expired(rt, room, cursors[place], f"of a message that was lost, {regrown} others published since")
        kept = _BEFORE - _LOST - 2
        await _resumes(rt, room, cursors[kept], [kept + 1, *range(_BEFORE, _BEFORE + regrown)], harness.patience)


@check("G3c", needs=_RESUMES, uses={"rewind"}, finds={"trust any cursor"})
async def lost_tail(harness: Harness) -> None:
    """A failover has lost the newest messages: behind one of these nothing is resumed, behind those before it all is, as if nothing had happened."""
    await _lost_tail(harness, 0)


@check("G3d", needs=_RESUMES, uses={"rewind"}, finds={"ignore marks"})
async def lost_tail_grown_past(harness: Harness) -> None:
    """The same where the channel has since grown past the cursor, so that its offset is there again, in the middle."""
    await _lost_tail(harness, 20)


@check("G3e", needs=_RESUMES, uses={"rewind"}, finds={"ignore marks"})
async def lost_tail_regrown_exactly(harness: Harness) -> None:
    """The same where the channel has regrown to exactly the cursor's offset, so that the head is where it was."""
    await _lost_tail(harness, _LOST)


async def _lost_tail_under_a_subscriber(harness: Harness, regrown: int) -> None:
    """Lose the newest messages while a subscriber that has seen them is cut off."""
    room = Room(number=1)
    async with pair(harness, hurried=True) as (rt, far, clock), rt.subscribe(room.a).with_gaps() as messages:
        source = Source(far, room.a)
        await source.publish(_BEFORE)
        expect(await upto(messages, source.last, harness.patience), list(range(_BEFORE)), "what it has seen")
        clock.hold()
        await harness.cut()
        await harness.rewind(room.name, _LOST)
        await source.publish(regrown)
        clock.release()
        found = await follow(messages, source, harness.patience)
        audit(found, source, _BEFORE)
        expect([gap.reason for gap in gaps_of(found)], [GapReason.RESET], "the gaps")
        confirmed(isinstance(found[0], Gap), f"the gap is behind {found[0]}, which took the place of a message that was lost or came later")


@check("G3f", needs=_RESUMES, uses={"cut", "rewind"}, finds={"ignore marks", "swallow gaps"})
async def lost_tail_under_a_subscriber(harness: Harness) -> None:
    """A subscriber that has seen what a failover lost is told, though the channel has grown past its place again."""
    await _lost_tail_under_a_subscriber(harness, 20)


@check("G3g", needs=_RESUMES, uses={"cut", "rewind"}, finds={"ignore marks", "swallow gaps"})
async def lost_tail_regrown_under_a_subscriber(harness: Harness) -> None:
    """The same where the channel has regrown to exactly its place: a head that is where it was proves nothing."""
    await _lost_tail_under_a_subscriber(harness, _LOST)


# ---------------------------------------------------------------- bounds


@check("G4", needs={"history.earliest", "history.last_n", *_SURE}, uses={"bounded", "stored"}, finds={"hide the newest"})
async def history_bounds(harness: Harness) -> None:
    """A history that is to keep twenty messages keeps these, and not many more, of each channel; it is read from the oldest that is left to the newest."""
    rooms = [Room(number=number) for number in range(3)]
    async with opened(harness, harness.bounded(20)) as rt:
        for room in rooms:
            source = Source(rt, room.a)
            for count in (5, 300, 300):
                await source.publish(count)
                kept = await harness.stored(room.name)
                least = min(20, source.next)
                confirmed(least <= kept <= 20 + 128, f"{kept} of {source.next} messages are kept, expected {least} and not many more")
                expect(told(await _history(rt, room.a)), list(range(source.next - kept, source.next)), "what history has")
                for n in (1, 5, 20):
                    expect(told(await _history(rt, room.a, start=Start.last(n))), list(range(max(0, source.next - n), source.next)), f"the last {n}")


@check("G4b", needs={"history.earliest", *_RESUMES}, uses={"fading"}, finds={"trust any cursor"})
async def history_fades(harness: Harness) -> None:
    """The history of a channel where nothing is published, and which nobody subscribes, is gone after its time: nothing is resumed behind what it had, and life goes on."""
    room = Room(number=1)
    async with opened(harness, harness.fading(0.1)) as rt:
        source = Source(rt, room.a)
        await source.publish(5)

        async def left() -> int:
            return len(await _history(rt, room.a))

        await until_async(left, 0, "messages in history", harness.patience)
        if harness.can("stored"):
            await until_async(lambda: harness.stored(room.name), 0, "messages that the server keeps", harness.patience)
        behind = Start.after(_cursors(source)[0])
        with refused(CursorExpired, "reading behind what history does not have any more"):
            await rt.history(room.a, start=behind)
        with refused(CursorExpired, "subscribing behind what history does not have any more"):
            async with rt.subscribe(room.a, start=behind):
                pass
        async with rt.subscribe(room.a).with_gaps() as messages:
            await source.publish(3)
            whole(await upto(messages, source.last, harness.patience), source, 5)


@check("G6", needs={"history.earliest", *_RESUMES}, finds={"hide the newest", "end behind a page"})
async def history_without_subscribing(harness: Harness) -> None:
    """History is read without subscribing: all of it, by topic, up to a limit, and on from there; on a channel where nothing was published it is empty."""
    room = Room(number=1)
    async with opened(harness, deep(harness)) as rt:
        expect(await _history(rt, room), [], "the history of a channel where nothing was published")
        receipts = [receipt for begin in range(0, _SEVERAL_PAGES, 100) for receipt in await rt.publish_many(_both(room, begin, begin + 100))]
        everything = await _history(rt, room)
        expect(told(everything), list(range(_SEVERAL_PAGES)), "everything")
        expect([message.id for message in everything], [receipt.id for receipt in receipts], "the ids, as the receipts have them")
        expect([message.cursor for message in everything], [receipt.cursor for receipt in receipts], "the cursors, as the receipts have them")
        expect(told(await _history(rt, room.b)), list(range(1, _SEVERAL_PAGES, 2)), "one topic")
        expect(told(await _history(rt, room.name, topics=["a"], limit=3)), [0, 2, 4], "one topic by name, three messages at most")
        found: list[Message[int]] = []
        while len(found) < _SEVERAL_PAGES:
            cursor = found[-1].cursor if found else None
            part = await _history(rt, room.a, room.b, start=Start.EARLIEST if cursor is None else Start.after(cursor), limit=77)
            confirmed(bool(part), f"reading on ended behind {len(found)} messages")
            found += part
        expect(told(found), list(range(_SEVERAL_PAGES)), "everything, read on from one limit to the next")
        expect((rt.stats().channels, rt.stats().subscriptions), (0, 0), "channels and subscriptions that reading has left")


def _both(room: Room, first: int, end: int) -> list[Outgoing[int]]:
    """Return numbers on both topics by turns."""
    return [(room.b if number % 2 else room.a)(number) for number in range(first, end)]
