"""X: what fanwire asks of a transport beyond publishing and subscribing: positions, marks, links, order through failures, and connections that end at the wrong moment."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import anyio

from ...events import ConnectionState
from ...messages import Cursor, Gap, GapReason, Message, Start, mark_of
from ...subscription import Subscription
from ...transport import Sink, Transport
from ..check import check
from ..harness import Harness
from ..outage import Source, audit, beside, follow, follow_all, gaps_of, opened, pair, states, whole
from ..through import ReconnectsItself, Through, ThroughSink
from ..tools import Room, account, confirmed, expect, open_realtime, take, told, until, upto

__all__ = ()

_SURE = {"confirmed_subscribe", "ordering.publisher"}
"""What a transport has to claim for its messages to be counted."""

_RESUMES = {"history.after_cursor", *_SURE}


# ---------------------------------------------------------------- positions


@check("X1", needs=_RESUMES, uses={"cut"}, finds={"confirm without a position", "no repair"})
async def position_of_an_idle_channel(harness: Harness) -> None:
    """The very first message of a channel is not missed when it comes while the subscriber is cut off: its place is that of the subscription."""
    room = Room(number=1)
    async with pair(harness) as (rt, far, clock), rt.subscribe(room.a).with_gaps() as messages:
        source = Source(far, room.a)
        clock.hold()
        await harness.cut()
        await source.publish(1)
        clock.release()
        whole(await follow(messages, source, harness.patience), source)


@check("X2", needs=_RESUMES, uses={"cut"}, finds={"confirm without a position"})
async def nothing_missed_is_no_gap(harness: Harness) -> None:
    """Cuts during which nothing was published are told to nobody, neither on channels that were idle all the time nor on those with a past."""
    rooms = [Room(number=number) for number in range(20)]
    async with pair(harness) as (rt, far, _):
        sources = [Source(far, room.a) for room in rooms]
        for source in sources[:5]:
            await source.publish(3)  # before anybody subscribes
        async with rt.subscribe(*(room.a for room in rooms)).with_gaps() as messages:
            for source in sources[3:10]:
                await source.publish(2)
            await take(messages, 14, harness.patience)
            begins = [source.next for source in sources]
            for _ in range(2):
                made = rt.stats().connections
                await harness.cut()
                with anyio.move_on_after(harness.patience / 20):
                    await until(lambda: rt.stats().connections > made, "it is connected again", harness.patience)  # noqa: B023 - awaited here
            found = await follow_all(messages, sources, harness.patience)
            for source, begin in zip(sources, begins, strict=True):
                whole(found[source.channel], source, begin)
        expect(rt.stats().gaps, 0, "gaps, by the counters")


@check("X3", needs=_RESUMES, finds={"mark by place"})
async def cursors_and_marks(harness: Harness) -> None:
    """Receipt, live message and history tell the same place of a message; it rises, its text reads back, and its mark is that of the message's key, else of its id."""
    room = Room(number=1)
    async with open_realtime(harness) as rt, rt.subscribe(room.a) as messages:
        receipts = [await rt.publish(room.a, n, key=f"k{n}" if n % 3 == 0 else None) for n in range(10)]
        live = await take(messages, 10, harness.patience)
        async with rt.subscribe(room.a, start=Start.after(receipts[0].cursor or "")) as again:
            past = await take(again, 9, harness.patience)
        repeat = await rt.publish(room.a, 99, key="k3")
        for receipt, message in zip(receipts, live, strict=True):
            cursor = message.cursor
            assert cursor is not None
            expect(cursor.mark, mark_of(message.id, message.key), "the mark of a live message")
            expect(Cursor.parse(str(cursor)), cursor, "a cursor read back from its text")
            expect(receipt.cursor, cursor, "where the receipt says the message stands")
        expect([message.cursor for message in past], [message.cursor for message in live[1:]], "where history says the messages stand")
        cursors = [message.cursor for message in live if message.cursor is not None]
        confirmed(all(one.epoch == two.epoch and one.offset < two.offset for one, two in pairwise(cursors)), f"{cursors} do not rise")
        if rt.capabilities.links == "contiguous":
            expect([cursor.offset - cursors[0].offset for cursor in cursors], list(range(10)), "offsets, which are said to count")
        if rt.capabilities.idempotent_publish:
            expect((repeat.duplicate, repeat.cursor), (True, live[3].cursor), "whether a repeat is one, and where its message stands")


# ---------------------------------------------------------------- links and holes


@check("X4", needs={"links", *_RESUMES}, uses={"lose"}, finds={"no repair"})
async def hole_is_repaired(harness: Harness) -> None:
    """Messages that are lost on the way, one or several, also twice in a row, are fetched from history before those behind them are shown."""
    room = Room(number=1)
    async with open_realtime(harness) as rt, rt.subscribe(room.a).with_gaps() as messages, rt.subscribe(room.a, room.b).with_gaps() as other:
        source = Source(rt, room.a)
        for count, skip in ((1, 2), (5, 0), (1, 0), (1, 0)):
            await harness.lose(count, skip)
            for _ in range(10):
                await source.publish()
        whole(await upto(messages, source.last, harness.patience), source)
        whole(await upto(other, source.last, harness.patience), source)
        expect(rt.stats().gaps, 0, "gaps, by the counters")


@check("X5", needs=_SURE, uses={"lose", "plain"}, finds={"swallow gaps"})
async def hole_is_announced(harness: Harness) -> None:
    """Without history, messages that are lost on the way are announced before the one behind them, and counted."""
    room = Room(number=1)
    async with opened(harness, harness.plain()) as rt, rt.subscribe(room.a).with_gaps() as messages:
        source = Source(rt, room.a)
        for count, skip in ((1, 2), (5, 3), (2, 1)):
            await harness.lose(count, skip)
            for _ in range(10):
                await source.publish()
        found = await upto(messages, source.last, harness.patience)
        expect(audit(found, source, exact=rt.capabilities.links != "previous"), 8, "messages that are missing")
        expect([gap.reason for gap in gaps_of(found)], [GapReason.HOLE] * 3, "the gaps")


# ---------------------------------------------------------------- lanes


@check("X6", needs=_SURE, uses={"lose_answer"}, finds={"reverse a batch", "repeat a retry"})
async def order_through_failures(harness: Harness) -> None:
    """Publishes that wait behind one whose answer was lost follow it: what is tried again comes before what was called later, on every channel."""
    rooms = [Room(number=number) for number in range(3)]
    async with (
        beside(harness) as other,
        open_realtime(other) as far,
        open_realtime(harness) as rt,
        far.subscribe(*(room.a for room in rooms)).with_gaps() as messages,
    ):
        sources = [Source(rt, room.a) for room in rooms]
        for _ in range(3):
            await harness.lose_answer()
            async with anyio.create_task_group() as tasks:
                for count in (1, 2, 5, 1, 1):
                    for source in sources:
                        tasks.start_soon(source.publish, count)
        found = await follow_all(messages, sources, harness.patience)
        for source in sources:
            audit(found[source.channel], source)


# ---------------------------------------------------------------- connections that end at the wrong moment


@check("X7", needs=_SURE, uses={"cut", "stall", "resume"}, finds={"hang in a subscribe"})
async def subscribe_in_flight(harness: Harness) -> None:
    """A subscription whose confirmation is under way when the connection breaks is made on the next one; it is told of no loss, and its neighbours lose nothing."""
    rooms = [Room(number=number) for number in range(4)]
    async with pair(harness, connect_timeout=3 * harness.patience, linger=60.0) as (rt, far, _), rt.subscribe(rooms[0].a).with_gaps() as old:
        source = Source(far, rooms[0].a)
        for room in rooms[1:]:
            async with anyio.create_task_group() as tasks:
                await harness.stall()
                channels = rt.stats().channels
                tasks.start_soon(_newcomer, harness, rt.subscribe(room.a).with_gaps(), Source(far, room.a))
                await until(lambda: rt.stats().channels > channels, "the channel is wanted", harness.patience)  # noqa: B023 - awaited here
                await anyio.sleep(0.005)  # it may be asked for now; nobody can tell
                await harness.cut()
                await harness.resume()
            found = await follow(old, source, harness.patience)
            if "after_cursor" in rt.capabilities.history:
                whole(found, source, int(str(found[0])))


async def _newcomer(harness: Harness, subscription: Subscription[Message[int] | Gap], source: Source) -> None:
    """Enter a subscription, and see that all comes which is published from then on, and no gap."""
    with anyio.fail_after(harness.patience):
        async with subscription as messages:
            await source.publish(3)
            whole(await upto(messages, source.last, harness.patience), source)


@check("X8", needs=_SURE, uses={"cut"}, finds={"forget a resubscribe", "swallow gaps"})
async def client_that_reconnects_by_itself(harness: Harness) -> None:
    """A transport whose client reconnects by itself, and tells of the loss, is subscribed again: with history nothing is missing, without it a gap is told."""
    rooms = [Room(number=number) for number in range(3)]
    makers: list[Callable[[Harness], Transport]] = [lambda each: each.transport(), lambda each: each.plain()]
    for make in makers[: 2 if harness.can("plain") else 1]:
        async with pair(harness, make, around=ReconnectsItself) as (rt, far, _), rt.events() as events:
            async with rt.subscribe(*(room.a for room in rooms)).with_gaps() as messages:
                sources = [Source(far, room.a) for room in rooms]
                found = await follow_all(messages, sources, harness.patience)
                for _ in range(2):
                    begins = [source.next for source in sources]
                    await harness.cut()
                    for source in sources:
                        await source.publish(3)
                    found = await follow_all(messages, sources, harness.patience)
                    for source, begin in zip(sources, begins, strict=True):
                        missing = audit(found[source.channel], source, begin)
                        confirmed(
                            not (missing and "after_cursor" in rt.capabilities.history), f"{missing} messages are missing, though history has them"
                        )
                expect(rt.stats().connections, 1, "connections, as fanwire sees it")
            expect(await states(rt, events), [ConnectionState.CONNECTED, ConnectionState.CLOSED], "the states that listeners were told of")


class _Late(Through):
    """A transport whose frames can be held up on their way to the hub."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self.held: list[tuple[str, int, bytes, Cursor | None, Cursor | None]] | None = None
        self.sink: Sink | None = None

    def around(self, sink: Sink) -> Sink:
        """Let frames through, or hold them up."""
        self.sink = sink
        return _LateSink(sink, self)

    def go_on(self) -> None:
        """Let through what is held up, and whatever comes."""
        held, self.held = self.held, None
        assert self.sink is not None
        for frame in held or ():
            self.sink.deliver(*frame)


class _LateSink(ThroughSink):
    def __init__(self, sink: Sink, late: _Late) -> None:
        super().__init__(sink)
        self.late = late

    def deliver(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None, /) -> None:
        if self.late.held is None:
            self.sink.deliver(channel, generation, frame, position, prev)
        else:
            self.late.held.append((channel, generation, frame, position, prev))


@check("X9", needs=_RESUMES, finds={"show the seam twice"})
async def cursor_ahead_of_the_live_stream(harness: Harness) -> None:
    """Who resumes behind a message that is still on its way here, as a receipt or another process knows it, is shown only what follows; its neighbours miss nothing."""
    room = Room(number=1)
    late: list[_Late] = []

    def around(transport: Transport) -> _Late:
        late.append(_Late(transport))
        return late[0]

    async with pair(harness, around=around) as (rt, far, _), rt.subscribe(room.a).with_gaps() as neighbour:
        source = Source(far, room.a)
        await source.publish(3)
        expect(told(await take(neighbour, 3, harness.patience)), [0, 1, 2], "what came in time")
        late[0].held = []
        await source.publish(5)
        ahead = source.receipts[5].cursor
        assert ahead is not None
        async with rt.subscribe(room.a, start=Start.after(ahead)).with_gaps() as messages:
            expect(told(await take(messages, 2, harness.patience)), [6, 7], "what history has behind the cursor")
            with anyio.move_on_after(0.02):
                raise AssertionError(f"{await anext(messages)} came, though nothing else was published")
            late[0].go_on()
            await source.publish(2)
            expect(await upto(messages, 9, harness.patience), [8, 9], "what came live")
        account(await upto(neighbour, 9, harness.patience), 3, 9)
