"""What the model found in the core, each as the shortest story that shows it."""

from __future__ import annotations

import anyio
import pytest

from fanwire import Gap, Realtime, Start, Subscription
from fanwire.messages import GapReason, Message
from fanwire.testing.model import Plan, run_plan
from fanwire.testing.model.__main__ import LOOPS
from fanwire.testing.model.network import HurriedClock
from fanwire.testing.model.steps import Drain, Interest, Join, Restart, Turns
from fanwire.testing.tools import Room
from tests.conformance.model_toys import Quick
from tests.rules.support import ToyWithHistory, frame_of, settle, until

pytestmark = pytest.mark.anyio

ROOM = Room(number=1)
NAME = ROOM.name


class Broker(ToyWithHistory):
    """A log that a test can rewind and hold up."""

    def put(self, *numbers: int) -> None:
        for number in numbers:
            self.append(NAME, frame_of(ROOM.a, number, f"p.{number}"), f"{number:08x}")

    def lose_tail(self, back: int) -> None:
        del self.streams[NAME][-back:]
        self.heads[NAME] = self.streams[NAME][-1].position

    def hold_history(self) -> anyio.Event:
        go_on = anyio.Event()

        async def wait(_: str) -> None:
            await go_on.wait()

        self.before_history = wait
        return go_on


async def read(items: Subscription[Message[int] | Gap], last: int) -> list[int | Gap]:
    """Read up to ``last``, or for as long as anything comes."""
    found: list[int | Gap] = []
    with anyio.move_on_after(1.0):
        async for item in items:
            found.append(item if isinstance(item, Gap) else item.data)
            if found[-1] == last:
                break
    return found


async def test_live_frames_of_an_epoch_that_a_repair_has_skipped_do_not_silence_the_one_it_led_to() -> None:
    """History is ahead of the live frames: a repair leads from e1 to e3, while frames of e2 are held. They must not be taken for the end of e3."""
    broker = Broker()
    async with Realtime(broker, clock=HurriedClock()) as rt, rt.subscribe(ROOM.a).with_gaps() as items:
        broker.put(1)
        go_on = broker.hold_history()
        broker.disconnect()
        broker.new_epoch(NAME, "e2")
        await until(lambda: bool(broker.reads), "a repair has begun")
        broker.put(2)
        broker.new_epoch(NAME, "e3")
        broker.put(3)
        go_on.set()
        await settle()
        broker.put(4, 5)
        assert (await read(items, 5))[-3:] == [3, 4, 5]


async def test_a_reader_of_history_notices_that_what_it_has_read_was_replaced() -> None:
    """The end of a log is lost while a reader is in its history, and grows again no further than the reader is."""
    broker = Broker()
    broker.put(1, 2, 3, 4, 5, 6)
    async with Realtime(broker, clock=HurriedClock()) as rt, rt.subscribe(ROOM.a, start=Start.EARLIEST).with_gaps() as items:
        broker.lose_tail(3)
        broker.disconnect()
        broker.put(104, 105)
        await until(lambda: rt.stats().gaps == 1, "the hub has noticed")
        await settle()
        assert (await anext(items)) is not None
        found = await read(items, 6)
        assert found == [2, 3, 4, 5, 6]
        with anyio.move_on_after(0.1):
            found += [item if isinstance(item, Gap) else item.data for item in [await anext(items)]]
        broker.put(106, 107)
        found += await read(items, 107)
    gaps = [item.reason for item in found if isinstance(item, Gap)]
    assert gaps == [GapReason.RESET] or {104, 105, 106} <= set(found), found


async def test_a_join_does_not_read_without_end_towards_messages_that_were_lost() -> None:
    """Between a reader's taking its place in the live log and its reading history up to there, the messages up to there are lost."""
    broker = Broker()
    broker.put(1, 2, 3, 4, 5, 6)
    async with Realtime(broker, clock=HurriedClock()) as rt, rt.subscribe(ROOM.a, start=Start.last(1)).with_gaps() as items:
        assert (await read(items, 6)) == [6]
        go_on = broker.hold_history()
        broker.put(7, 8)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, items, 8)
            await until(lambda: len(broker.reads) == 2, "the reader reads up to its place")
            broker.lose_tail(2)
            broker.disconnect()
            await until(lambda: broker.attempts == 2, "there is another connection")
            go_on.set()
        assert len(broker.reads) < 2_000, f"it reads history without end: {len(broker.reads):,} times in a second"


@pytest.mark.parametrize("loop", LOOPS)
def test_what_the_seam_holds_behind_a_gap_comes_before_what_follows_in_the_log(loop: str) -> None:
    """The last gap of a log is yielded out of what a join has sifted, and the message behind it is still there when iterating takes up the log again."""
    interests = (Interest(2, "a"), Interest(0, "a"), Interest(1, "ab"))
    join = Join(3, 1, interests, "beginning", 3, 1024, "iterate", None)
    run_plan(Quick, Plan((join, Turns(9), Restart(keep=False), Drain(), Restart(keep=False))), loop=LOOPS[loop])
