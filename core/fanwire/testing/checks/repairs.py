"""G: holes in live streams, closed from history, and what is told where history no longer can."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ...capabilities import Capabilities
from ...messages import GapReason, Start
from ...transport import Transport
from ..check import check
from ..harness import Harness
from ..outage import Slow, Source, audit, deep, follow, gaps_of, pair, read_up_to, whole
from ..tools import Room, confirmed, expect, upto

__all__ = ()

_RESUMES = {"history.after_cursor", "confirmed_subscribe", "ordering.publisher"}
_SEVERAL_PAGES = 600
"""Messages that are more than are read at once."""


async def _repair(harness: Harness, meanwhile: Callable[[Slow, Source], Awaitable[None]]) -> Slow:
    """Miss several pages in an outage, and see that all of it comes, whatever happens around each page that the repair reads.

    Args:
        harness: The harness.
        meanwhile: Awaited before each page is read, and before it is handed over.

    Returns:
        What came between: it has counted the pages.
    """
    room = Room(number=1)
    slow: list[Slow] = []

    async def happen() -> None:
        await meanwhile(slow[0], source)

    def around(transport: Transport) -> Slow:
        slow.append(Slow(transport, happen))
        return slow[0]

    async with pair(harness, deep, around=around, buffer=2000) as (rt, far, clock), rt.subscribe(room.a).with_gaps() as messages:
        source = Source(far, room.a)
        await source.publish(3)
        found = await upto(messages, source.last, harness.patience)
        clock.hold()
        await harness.cut()
        for _ in range(6):
            await source.publish(100)
        clock.release()
        found += await follow(messages, source, harness.patience)
        whole(found, source)
    return slow[0]


@check("G5", needs=_RESUMES, uses={"cut"}, finds={"no repair", "end behind a page"})
async def repair_over_several_pages(harness: Harness) -> None:
    """An outage of several pages is repaired although publishing goes on between any two steps of the repair, and what comes live meanwhile waits for its turn."""

    async def publish(slow: Slow, source: Source) -> None:
        del slow
        if source.next < _SEVERAL_PAGES + 100:
            await source.publish(2)

    slow = await _repair(harness, publish)
    confirmed(slow.pages >= 3, "it was repaired from one page")


@check("G5b", needs=_RESUMES, uses={"cut"}, finds={"no repair", "end behind a page"})
async def repair_that_is_cut_off(harness: Harness) -> None:
    """A repair whose connection breaks between two pages goes on with the next connection, where it was."""
    cuts = 3

    async def cut(slow: Slow, source: Source) -> None:
        nonlocal cuts
        del source
        if cuts and slow.pages > 1:
            cuts -= 1
            await harness.cut()

    await _repair(harness, cut)
    expect(cuts, 0, "cuts that are left")


@check("G7", needs=_RESUMES, uses={"cut", "trim"}, finds={"swallow gaps", "trust any cursor"})
async def trimmed_while_away(harness: Harness) -> None:
    """What history has discarded before a subscriber was back is announced at its place, with the exact count where offsets count; all that is left comes."""
    room = Room(number=1)
    async with pair(harness, hurried=True) as (rt, far, clock), rt.subscribe(room.a).with_gaps() as messages:
        source = Source(far, room.a)
        await source.publish(3)
        await upto(messages, source.last, harness.patience)
        clock.hold()
        await harness.cut()
        await source.publish(30)
        await harness.trim(room.name, 10)
        clock.release()
        found = await follow(messages, source, harness.patience)
        expect(audit(found, source, 3, exact=True), 20, "messages that are missing")
        expect([gap.reason for gap in gaps_of(found)], [GapReason.TRIMMED], "the gaps")
        expect([gap.lost for gap in gaps_of(found)], [_counted(rt.capabilities, 20)], "what the gap counts")


def _counted(capabilities: Capabilities, count: int) -> int | None:
    return count if capabilities.links == "contiguous" else None


@check("G7b", needs={"history.earliest", *_RESUMES}, uses={"trim"}, finds={"trust any cursor"})
async def trimmed_while_catching_up(harness: Harness) -> None:
    """What history discards between two pages, of which the first was read, is announced between them."""
    room = Room(number=1)
    async with pair(harness, deep, hurried=True) as (rt, far, _):
        source = Source(far, room.a)
        for _ in range(6):
            await source.publish(100)
        async with rt.subscribe(room.a, start=Start.EARLIEST).with_gaps() as messages:
            await harness.trim(room.name, 50)
            found = await read_up_to(messages, source, harness.patience)
            found += await follow(messages, source, harness.patience)
        missing = audit(found, source, exact=True)
        confirmed(missing > 100, f"only {missing} are missing")
        expect([gap.reason for gap in gaps_of(found)], [GapReason.TRIMMED], "the gaps")
