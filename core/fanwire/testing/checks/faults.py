"""F: what connections and servers do when they break."""

from __future__ import annotations

import random
import time

import anyio
from anyio.lowlevel import checkpoint

from ...capabilities import Capabilities
from ...errors import ConnectFailed, FanwireError, Timeout, Unauthenticated
from ...events import ConnectionState
from ...messages import GapReason, Message
from ..check import check
from ..harness import Harness
from ..outage import HeldClock, Source, audit, beside, follow, follow_all, gaps_of, opened, pair, refused, states, whole
from ..through import Through
from ..tools import Room, account, confirmed, expect, open_realtime, take, told, until, until_async, upto

__all__ = ()

_SURE = {"confirmed_subscribe", "ordering.publisher"}
"""What a transport has to claim for its messages to be counted."""


def _repairs(capabilities: Capabilities) -> bool:
    """Tell whether history closes what an outage leaves."""
    return "after_cursor" in capabilities.history


def _check_story(found: list[object], source: Source, capabilities: Capabilities) -> None:
    """Assert what may be missing behind an outage: nothing where there is history, else what gaps tell."""
    if _repairs(capabilities):
        whole(found, source)
    else:
        audit(found, source)


# ---------------------------------------------------------------- the server


async def _restart(harness: Harness, clock: HeldClock, source: Source, *, keep: bool) -> None:
    """Publish on while the server is restarted, and for a while before the subscriber is back."""
    clock.hold()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(source.publish_each, 20)
        await harness.restart(keep=keep)
    clock.release()


@check("F1", needs={"history.after_cursor", *_SURE}, uses={"restart"}, finds={"no repair", "forget a resubscribe"})
async def broker_restart(harness: Harness) -> None:
    """A subscriber and a publisher go on by themselves when the server is restarted with its data, twice: nothing is missing, nothing comes twice, listeners are told."""
    room = Room(number=1)
    async with pair(harness) as (rt, far, clock), rt.events() as events:
        async with rt.subscribe(room.a).with_gaps() as messages:
            source = Source(far, room.a)
            await source.publish(20)
            found = await upto(messages, source.last, harness.patience)
            for _ in range(2):
                await _restart(harness, clock, source, keep=True)
                found += await follow(messages, source, harness.patience)
            whole(found, source)
        await states(rt, events)


@check("F1b", needs=_SURE, uses={"cut", "restart"}, finds={"swallow gaps", "forget a resubscribe"})
async def broker_restart_without_its_data(harness: Harness) -> None:
    """When the server comes back without its data, what is missing for good is announced at its place, and everything goes on."""
    room = Room(number=1)
    async with pair(harness) as (rt, far, clock), rt.subscribe(room.a).with_gaps() as messages:
        source = Source(far, room.a)
        await source.publish(20)
        found = await upto(messages, source.last, harness.patience)
        for _ in range(2):
            clock.hold()
            await harness.cut()
            await source.publish(10)  # kept nowhere but at the server, which loses it
            await harness.restart(keep=False)
            clock.release()
            await source.publish(10)
            found += await follow(messages, source, harness.patience)
        audit(found, source)


# ---------------------------------------------------------------- the connection


@check("F2", needs=_SURE, uses={"cut"}, finds={"forget a resubscribe", "reconnect in silence", "forget to tell"})
async def connection_killed(harness: Harness) -> None:
    """A subscriber whose connection is reset is subscribed again without the user's code, and listeners are told of the loss and of the return, once each."""
    room = Room(number=1)
    async with pair(harness) as (rt, far, _), rt.events() as events:
        async with rt.subscribe(room.a).with_gaps() as messages, rt.subscribe(room.a, room.b).with_gaps() as other:
            source = Source(far, room.a)
            await source.publish(10)
            found, same = await upto(messages, source.last, harness.patience), await upto(other, source.last, harness.patience)
            for _ in range(2):
                await harness.cut()
                found += await follow(messages, source, harness.patience)
                same += await upto(other, source.last, harness.patience)
            _check_story(found, source, rt.capabilities)
            _check_story(same, source, rt.capabilities)
        made = rt.stats().connections
        confirmed(made in {1, 3}, f"{made} connections were made behind two that were cut, expected 3, or 1 where the client reconnects by itself")
        seen = await states(rt, events)
        turns = [ConnectionState.CONNECTED, ConnectionState.DISCONNECTED, ConnectionState.CONNECTING]
        expect(seen, [*(turns * 2 if made == 3 else []), ConnectionState.CONNECTED, ConnectionState.CLOSED], "the states that listeners were told of")


@check("F3", needs=_SURE, uses={"half_open", "stall", "resume"}, finds={"reconnect in silence"})
async def half_open(harness: Harness) -> None:
    """A connection through which nothing comes any more, though nobody has closed it, is found in the time that is claimed; then everything goes on."""
    room = Room(number=1)
    assert harness.half_open is not None
    async with pair(harness) as (rt, far, _), rt.subscribe(room.a).with_gaps() as messages:
        source = Source(far, room.a)
        await source.publish(10)
        found = await upto(messages, source.last, harness.patience)
        begin = time.monotonic()
        await harness.stall()
        try:
            await source.publish(10)
            await until(lambda: rt.stats().state is not ConnectionState.CONNECTED, "the silent connection is given up", harness.half_open * 1.2 + 0.1)
            confirmed(time.monotonic() - begin > harness.half_open / 100, "it was given up at once, so not for its silence")
        finally:
            await harness.resume()
        found += await follow(messages, source, harness.patience)
        _check_story(found, source, rt.capabilities)


@check("F4", needs=_SURE, uses={"cut"}, finds={"forget a publish", "reverse a batch"})
async def publish_while_disconnected(harness: Harness) -> None:
    """What is published while there is no connection waits for one, in the order of the calls, or ends in an error that says so; what was accepted has arrived."""
    room = Room(number=1)
    async with pair(harness) as (rt, far, clock), far.subscribe(room.a).with_gaps() as messages:
        source = Source(rt, room.a)
        await source.publish(5)
        clock.hold()
        await harness.cut()
        with anyio.move_on_after(harness.patience / 20):
            await until(lambda: rt.stats().state is not ConnectionState.CONNECTED, "the loss is noticed", harness.patience)
        away = rt.stats().state is not ConnectionState.CONNECTED
        if away:
            with refused(Timeout, "publishing without a connection"):
                await rt.publish(room.b, -1, timeout=0.02)
        async with anyio.create_task_group() as tasks:
            for count in (1, 1, 3, 1, 2) * 4:
                tasks.start_soon(source.publish, count)
            await until(lambda: source.next == 5 + 32, "all are published", harness.patience)
            clock.release()
        confirmed(not (away and source.unsure), f"{sorted(source.unsure)} failed, though they could wait for a connection")
        audit(await follow(messages, source, harness.patience), source)


@check("F4b", needs=_SURE, uses={"cut"}, finds={"forget a resubscribe"})
async def subscribe_while_disconnected(harness: Harness) -> None:
    """Who subscribes while there is no connection waits for one, or gives up, and sees everything that is published once it is subscribed."""
    rooms = [Room(number=number) for number in range(4)]
    async with pair(harness) as (rt, far, clock), rt.subscribe(rooms[0].a).with_gaps() as old:
        clock.hold()
        await harness.cut()
        with anyio.move_on_after(harness.patience / 20):
            await until(lambda: rt.stats().state is not ConnectionState.CONNECTED, "the loss is noticed", harness.patience)
        away = rt.stats().state is not ConnectionState.CONNECTED
        with anyio.move_on_after(0.02):
            async with rt.subscribe(rooms[3].a):
                confirmed(not away, "a subscription is ready without a connection")
        if away:
            patience, rt.connect_timeout = rt.connect_timeout, 0.02
            with refused(Timeout, "subscribing without a connection"):
                async with rt.subscribe(rooms[3].a, rooms[0].a):
                    pass
            rt.connect_timeout = patience
        seen: list[int] = []

        async def subscribe(room: Room) -> None:
            async with rt.subscribe(room.a, rooms[0].b).with_gaps() as messages:
                await far.publish(room.a, room.number)
                while not seen or seen[-1] != room.number:
                    (item,) = await take(messages, 1, harness.patience)
                    if isinstance(item, Message):
                        seen.append(item.data)

        async with anyio.create_task_group() as tasks:
            for room in rooms[1:]:
                tasks.start_soon(subscribe, room)
            await checkpoint()
            clock.release()
        expect(sorted(seen), [1, 2, 3], "what the subscribers received")
        source = Source(far, rooms[0].a)
        _check_story(await follow(old, source, harness.patience), source, rt.capabilities)
        expect(rt.stats().subscriptions, 1, "subscriptions that are left")


@check("F5", needs=_SURE, uses={"cut"}, finds={"forget a resubscribe"})
async def all_resubscribed(harness: Harness) -> None:
    """A thousand channels all deliver again behind two cuts of which the second comes while they are being subscribed again."""
    rooms = [Room(number=number) for number in range(min(1000, harness.crowd))]
    async with pair(harness, buffer=100_000) as (rt, far, _), rt.subscribe(*(room.a for room in rooms)).with_gaps() as messages:
        sources = [Source(far, room.a) for room in rooms]
        before = rt.stats().connections
        for cut in (1, 2):
            await harness.cut()
            with anyio.move_on_after(harness.patience / 20):
                await until(lambda: rt.stats().connections >= before + cut, "it is connected again", harness.patience)  # noqa: B023 - awaited here
        found = await follow_all(messages, sources, 3 * harness.patience)
        for source in sources:
            _check_story(found[source.channel], source, rt.capabilities)


@check("F6", uses={"absent"}, finds={"claim a connection"})
async def broker_down_at_start(harness: Harness) -> None:
    """Where no server is, opening ends in ``ConnectFailed`` within ``connect_timeout``, and leaves nothing behind."""
    begin = time.monotonic()
    rt = opened(harness, harness.absent(), connect_timeout=0.15)
    with refused(ConnectFailed, "opening where no server is"):
        async with rt:
            pass
    confirmed(time.monotonic() - begin < 0.15 + harness.patience, "a connect_timeout of 0.15 s took longer than the harness's patience")
    with refused(FanwireError, "publishing on what could not be opened"):
        await rt.publish(Room(number=1).a, 1)


@check("F7", uses={"unauthorised"}, finds={"mistake a refusal"})
async def auth_failure(harness: Harness) -> None:
    """Refused credentials are ``Unauthenticated`` at once: they are not tried again."""
    counting = Through(harness.unauthorised())
    begin = time.monotonic()
    with refused(Unauthenticated, "opening with credentials that the server refuses"):
        async with opened(harness, counting, connect_timeout=harness.patience * 3):
            pass
    confirmed(time.monotonic() - begin < harness.patience, "it took as long as if it had been tried again")
    expect(counting.connections, 1, "attempts to connect")


# ---------------------------------------------------------------- neighbours


@check("F8", needs=_SURE, finds={"unsubscribe all"})
async def unsubscribe_one_keeps_others(harness: Harness) -> None:
    """Subscriptions that end, of the same topics, the same channel or another one, leave all others as they are, also behind a reconnect."""
    rooms = [Room(number=number) for number in range(3)]
    async with (
        open_realtime(harness, linger=0.01) as rt,
        rt.subscribe(rooms[0].a).with_gaps() as first,
        rt.subscribe(rooms[0].a, rooms[1].a).with_gaps() as second,
    ):
        for step in range(5):
            async with rt.subscribe(rooms[0].a), rt.subscribe(rooms[0].b), rt.subscribe(rooms[1].a), rt.subscribe(rooms[2].a) as gone:
                await rt.publish(rooms[2].a, step)
                expect(told(await take(gone, 1, harness.patience)), [step], "what the one that goes received")
            await until(lambda: rt.stats().channels == 2, "the channel nobody wants is given up", harness.patience)
            await rt.publish_many([rooms[0].a(10 * step), rooms[1].a(10 * step + 1)])
            expect(told(await take(first, 1, harness.patience)), [10 * step], "what one that stays received")
            expect(
                sorted(map(str, told(await take(second, 2, harness.patience)))), [str(10 * step), str(10 * step + 1)], "what the other one received"
            )
        if harness.can("subscriptions"):
            await until_async(harness.subscriptions, 2, "channels the server delivers", harness.patience)


# ---------------------------------------------------------------- what an outage costs


@check("F9", needs={"history.after_cursor", *_SURE}, uses={"cut"}, finds={"no repair", "confirm without a position", "hide the newest"})
async def outage_is_repaired(harness: Harness) -> None:
    """With history an outage costs nothing, however much was published: all of it comes, in order, once, and no gap is told; three times over."""
    rooms = [Room(number=number) for number in range(4)]
    async with pair(harness) as (rt, far, clock), rt.subscribe(*(room.a for room in rooms)).with_gaps() as messages:
        sources = [Source(far, room.a) for room in rooms]
        for missed in ((1, 0, 30, 300), (0, 1, 1, 7), (40, 0, 3, 0)):
            clock.hold()
            await harness.cut()
            for source, count in zip(sources, missed, strict=True):
                if count:
                    await source.publish(count)
            clock.release()
            begins = [source.next - count for source, count in zip(sources, missed, strict=True)]
            found = await follow_all(messages, sources, harness.patience)
            for source, begin in zip(sources, begins, strict=True):
                whole(found[source.channel], source, begin)
        expect(rt.stats().gaps, 0, "gaps, by the counters")


@check("F9b", needs=_SURE, uses={"cut", "plain"}, finds={"swallow gaps", "forget a resubscribe"})
async def outage_is_announced(harness: Harness) -> None:
    """Without history an outage is announced once for each channel on which something was missed, and at most once for the others; behind it everything comes."""
    rooms = [Room(number=number) for number in range(4)]
    async with pair(harness, lambda harness: harness.plain()) as (rt, far, clock), rt.subscribe(*(room.a for room in rooms)).with_gaps() as messages:
        sources = [Source(far, room.a) for room in rooms]
        for source in sources:
            await source.publish(3)
        found = await follow_all(messages, sources, harness.patience)
        for missed in (5, 1):
            begins = [source.next for source in sources]
            clock.hold()
            await harness.cut()
            for source in sources[:3]:
                await source.publish(missed)
            clock.release()
            found = await follow_all(messages, sources, harness.patience)
            for source, room, begin in zip(sources, rooms, begins, strict=True):
                audit(found[room.name], source, begin)
                gaps = gaps_of(found[room.name])
                confirmed(len(gaps) == 1 or (room is rooms[3] and not gaps), f"{gaps} were told of {room.name}, expected one")
                expect({gap.channel for gap in gaps} | {room.name}, {room.name}, "the channels that the gaps name")
                expect({gap.reason for gap in gaps} | {GapReason.DISCONNECTED}, {GapReason.DISCONNECTED}, "the reasons")


@check("F9c", needs=_SURE, uses={"lose_answer"}, finds={"repeat a retry"})
async def lost_answer(harness: Harness) -> None:
    """A publish whose answer is lost is tried again where the repeat is suppressed, and told as of unknown outcome elsewhere; either way nobody sees it twice."""
    room = Room(number=1)
    async with (
        beside(harness) as other,
        open_realtime(other) as far,
        open_realtime(harness) as rt,
        rt.subscribe(room.a).with_gaps() as here,
        far.subscribe(room.a).with_gaps() as there,
    ):
        source = Source(rt, room.a)
        for _ in range(3):
            await source.publish(2)
            await harness.lose_answer()
            await source.publish(1)
            await source.publish(2)
        found = await follow(there, source, harness.patience)
        audit(found, source)
        mine = await upto(here, source.last, harness.patience)
        audit(mine, source)
        suppressed = rt.capabilities.idempotent_publish or rt.capabilities.links == "none"
        confirmed(not (suppressed and source.unsure), f"{sorted(source.unsure)} were not tried again, though a repeat would be suppressed")


@check("F9d", needs=_SURE, uses={"lose_answer"}, finds={"repeat a retry"})
async def lost_answer_with_a_key(harness: Harness) -> None:
    """The same under an idempotency key: the message is seen once, also if the caller, who cannot know, publishes it again."""
    room = Room(number=1)
    async with beside(harness) as other, open_realtime(other) as far, open_realtime(harness) as rt, far.subscribe(room.a).with_gaps() as messages:
        for number in range(3):
            await rt.publish(room.a, 2 * number)
            await harness.lose_answer()
            for _ in range(5):
                try:
                    await rt.publish(room.a, 2 * number + 1, key=f"k{number}")
                except FanwireError as error:
                    confirmed(error.retryable, f"{error!r} is for good")
                else:
                    break
            else:
                raise AssertionError("publishing failed five times")
            await rt.publish(room.a, 2 * number + 1, key=f"k{number}")
        await rt.publish(room.a, 6)
        account(await upto(messages, 6, harness.patience), 0, 6)


@check("F10", needs={"history.after_cursor", *_SURE}, uses={"cut"}, finds={"no repair", "reconnect in silence"})
async def cut_all_the_time(harness: Harness) -> None:
    """A connection that is cut again and again while publishing goes on, also in the middle of repairs, costs nothing."""
    room = Room(number=1)
    dice = random.Random(harness.namespace)
    async with pair(harness) as (rt, far, _), rt.subscribe(room.a).with_gaps() as messages:
        source = Source(far, room.a)
        found: list[object] = []
        over = False

        async def publish() -> None:
            while not over:
                await source.publish(1 + dice.randrange(10))
                await anyio.sleep(dice.random() * 0.002)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            for _ in range(10):
                found += told(await take(messages, 1 + dice.randrange(20), harness.patience))
                await harness.cut()
            over = True
        found += await follow(messages, source, harness.patience)
        whole(found, source)


@check("F11", needs=_SURE, uses={"truncate"}, finds={"forget a resubscribe", "take half for whole"})
async def cut_in_mid_frame(harness: Harness) -> None:
    """Of a connection that breaks in the middle of a frame, on its way to a subscriber or to the server, nobody sees a part: a message comes whole and once, or its loss is told."""
    room = Room(number=1)
    async with pair(harness) as (rt, far, _), rt.subscribe(room.a).with_gaps() as messages, far.subscribe(room.b).with_gaps() as witness:
        source, own = Source(far, room.a), Source(rt, room.b)
        found: list[object] = []
        seen: list[object] = []
        for after_bytes in (1, 40, 333, 1500, 4000):
            made = rt.stats().connections
            await harness.truncate(after_bytes, "down")
            await source.publish(60)
            found += await follow(messages, source, harness.patience)
            await harness.truncate(after_bytes, "up")
            await own.publish(60)
            await own.publish_each(3)
            seen += await follow(witness, own, harness.patience)
            confirmed(rt.stats().connections > made or made == 1, f"no connection was broken behind {after_bytes} bytes")
        _check_story(found, source, rt.capabilities)
        audit(seen, own)
        expect((rt.stats().invalid, far.stats().invalid), (0, 0), "frames that could not be understood")
