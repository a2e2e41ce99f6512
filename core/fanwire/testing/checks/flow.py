"""E: readers that are slower than what is published, and a broker that takes nothing."""

from __future__ import annotations

import random
import time

import anyio
from anyio.lowlevel import checkpoint

from ...errors import FanwireError, MessagesLost, Timeout
from ...messages import Gap, GapReason, Start
from ..check import check
from ..harness import Harness
from ..outage import Slow, Source, audit, deep, follow, gaps_of, opened, refused, whole
from ..tools import Room, account, confirmed, expect, open_realtime, take, told, upto

__all__ = ()

_SURE = {"confirmed_subscribe", "ordering.publisher"}
"""What a transport has to claim for its messages to be counted."""


@check("E1", needs=_SURE, finds={"give up for all", "give up nothing"})
async def slow_subscriber_isolated(harness: Harness) -> None:
    """While one subscriber never reads, its neighbours receive all, whether they share its buffer or not, and no more is kept for it than its buffer holds."""
    room, bound = Room(number=1), 256_000
    async with (
        open_realtime(harness, buffer_bytes_total=bound) as rt,
        rt.subscribe(room.a, buffer_bytes=bound // 4).with_gaps() as stuck,
        rt.subscribe(room.a, buffer_bytes=bound // 4) as same,
        rt.subscribe(room.a, room.b) as other,
        rt.subscribe(room, buffer=64) as third,
    ):
        for begin in range(0, 4000, 64):
            await rt.publish_many([room.a(n) for n in range(begin, begin + 64)])
            for messages in (same, other, third):
                expect(told(await take(messages, 64, harness.patience)), list(range(begin, begin + 64)), "what a neighbour received")
            confirmed(rt.stats().buffered_bytes <= bound, f"{rt.stats().buffered_bytes} bytes are kept, of {bound} at most")
            confirmed(stuck.stats().lag <= 4032, "more waits than was published")
        expect([messages.stats().gaps for messages in (same, other, third)], [0, 0, 0], "gaps that neighbours were told of")
        expect(stuck.stats().received, 0, "messages the one that does not read has received")
        found = await upto(stuck, 4031, harness.patience)
    expect(found[0], Gap(room.name, GapReason.LAGGED, 4032 - len(found) + 1), "what it is told first")
    account(found, 0, 4031, exact=True)


@check("E2", needs=_SURE, finds={"miscount a lag"})
async def overflow_gives_up_the_oldest(harness: Harness) -> None:
    """Beyond its buffer a subscription loses the oldest messages, all others come, and one gap says how many are missing; the counters agree."""
    room = Room(number=1)
    async with open_realtime(harness) as rt, rt.subscribe(room.a, buffer=5000) as witness:
        for buffer in (1, 5, 256, 1024):
            async with rt.subscribe(room.a, buffer=buffer).with_gaps() as messages:
                await rt.publish_many([room.a(n) for n in range(1200)])
                await upto(witness, 1199, harness.patience)  # whoever shares a frame has it too
                expect(messages.stats().lag >= buffer, True, "messages wait")
                found = told(await take(messages, buffer + 1, harness.patience))
                expect(found, [Gap(room.name, GapReason.LAGGED, 1200 - buffer), *range(1200 - buffer, 1200)], f"what a buffer of {buffer} kept")
                stats = messages.stats()
                expect((stats.received, stats.lost, stats.gaps, stats.lag), (buffer, 1200 - buffer, 1, 0), "received, lost, gaps, lag")


@check("E2b", needs=_SURE, finds={"give up nothing"})
async def overflow_of_bytes(harness: Harness) -> None:
    """Beyond its bytes a subscription loses the oldest messages, and is told so, also where a single one is larger than all it may keep."""
    room = Room(number=1)
    text = "x" * 10_000
    async with (
        open_realtime(harness) as rt,
        rt.subscribe(room.text) as witness,
        rt.subscribe(room.text, buffer_bytes=64_000).with_gaps() as messages,
        rt.subscribe(room.text, buffer_bytes=5000).with_gaps() as tiny,
    ):
        await rt.publish_many([room.text(f"{n}:{text}") for n in range(40)])
        await rt.publish(room.text, "40:")
        await take(witness, 41, harness.patience)
        for subscription, least, most in ((messages, 5, 7), (tiny, 1, 1)):
            items = await take(subscription, 1, harness.patience)
            while told(items)[-1] != "40:":
                items += await take(subscription, 1, harness.patience)
            found = [item if isinstance(item, Gap) else int(str(item.data).partition(":")[0]) for item in items]
            account(found, 0, 40, exact=True)
            confirmed(least <= len(found) - 1 <= most, f"{len(found) - 1} of 41 messages were kept, expected {least} to {most}")
            expect([gap.reason for gap in gaps_of(found)], [GapReason.LAGGED], "the reason")


@check("E3", needs=_SURE, finds={"miscount a lag"})
async def lag_is_told_in_its_place(harness: Harness) -> None:
    """Wherever a reader falls behind, and as often as it does, the gap is where the messages are missing, and counts them."""
    room = Room(number=1)
    dice = random.Random(1)
    async with open_realtime(harness) as rt, rt.subscribe(room.a) as witness, rt.subscribe(room.a, buffer=16).with_gaps() as messages:
        source = Source(rt, room.a)
        found: list[object] = []
        for _ in range(60):
            await source.publish(1 + dice.randrange(40))
            await upto(witness, source.last, harness.patience)
            for _ in range(dice.randrange(16)):
                found += told(await take(messages, 1, harness.patience))
                if found[-1] == source.last:
                    break
        if found[-1:] != [source.last]:
            found += await upto(messages, source.last, harness.patience)
        missing = audit(found, source, exact=True)
        confirmed(missing > 100, "nothing was given up")
        expect(messages.stats().lost, missing, "messages lost, by the counters")
        expect({gap.reason for gap in gaps_of(found)}, {GapReason.LAGGED}, "the reasons")


@check("E3b", needs=_SURE, finds={"miscount a lag"})
async def lag_raised(harness: Harness) -> None:
    """With ``on_gap="raise"`` a gap is an error where the messages are missing, and iterating goes on behind it."""
    room = Room(number=1)
    async with open_realtime(harness) as rt, rt.subscribe(room.a) as witness, rt.subscribe(room.a, buffer=8, on_gap="raise") as messages:
        source = Source(rt, room.a)
        found: list[object] = []
        for _ in range(3):
            await source.publish(30)
            await upto(witness, source.last, harness.patience)
            with anyio.fail_after(harness.patience):
                while found[-1:] != [source.last]:
                    try:
                        found.append((await anext(messages)).data)
                    except MessagesLost as error:
                        found.append(error.gap)
        expect([gap.lost for gap in gaps_of(found)], [22, 22, 22], "what each error says")
        audit(found, source, exact=True)


@check("E4", needs={"history.earliest", *_SURE}, finds={"join too early", "hide the newest"})
async def history_larger_than_the_buffer(harness: Harness) -> None:
    """A subscription whose buffer holds two messages reads a history of six hundred, slowly and while more is published: all of it, without a gap and without getting stuck."""
    room = Room(number=1)

    async def meanwhile() -> None:
        if source.next < 650:
            await source.publish(2)

    transport = Slow(deep(harness), meanwhile)
    async with opened(harness, transport) as rt:
        source = Source(rt, room.a)
        for _ in range(6):
            await source.publish(100)
        found: list[object] = []
        async with rt.subscribe(room.a, start=Start.EARLIEST, buffer=2).with_gaps() as messages:
            while not found or found[-1] != source.last:
                found += told(await take(messages, 1, harness.patience))
                if len(found) % 50 == 0:
                    await checkpoint()
                    await meanwhile()
            expect(messages.stats().gaps, 0, "gaps")
        whole(found, source)
        confirmed(transport.pages >= 3, "it was read in one page")


@check("E5", needs={"confirmed_publish", *_SURE}, uses={"stall", "resume"}, finds={"publish into a void"})
async def stalled_broker(harness: Harness) -> None:
    """Publishing to a broker that does not answer ends in ``Timeout``, keeps nothing for ever, and goes on once it answers again; nothing comes out of order or twice."""
    room = Room(number=1)
    async with open_realtime(harness, linger=60.0) as rt, rt.subscribe(room.a).with_gaps() as messages:
        source = Source(rt, room.a)
        await source.publish(5)
        await harness.stall()
        try:
            begin = time.monotonic()
            with refused(Timeout, "publishing to a broker that does not answer"):
                await rt.publish(room.b, -1, timeout=0.05)
            confirmed(time.monotonic() - begin < harness.patience, "a timeout of 0.05 s took longer than the harness's patience")
            outcomes: list[FanwireError] = []

            async def give_up() -> None:
                try:
                    await rt.publish(room.b, -1, timeout=0.05)
                except FanwireError as error:
                    outcomes.append(error)

            for _ in range(3):
                async with anyio.create_task_group() as tasks:
                    for _ in range(100):
                        tasks.start_soon(give_up)
            expect([type(error) for error in outcomes], [Timeout] * 300, "how publishing ended")
            confirmed(rt.stats().publishing <= 1, f"{rt.stats().publishing} publishes are kept that nobody waits for; one may be under way")
        finally:
            await harness.resume()
        found = await follow(messages, source, harness.patience)
        audit(found, source)
        expect(rt.stats().publishing, 0, "publishes under way when all has been answered")
