"""Rules 3, 4 and 6 where the channel's history is lost and begins anew while something of the old one is still on its way: nothing is shown twice or out of order."""

from __future__ import annotations

import anyio
import pytest

from fanwire import Gap, GapReason, Realtime, Start
from fanwire.hub.states import Phase
from tests.rules.support import Room, ToyWithHistory, engine_of, frame_of, pair, settle, take, told, until, upto

pytestmark = pytest.mark.anyio

room = Room(number=1)
RESET = Gap(room.name, GapReason.RESET, None)


async def test_late_frames_of_an_epoch_that_is_over_are_not_shown() -> None:
    """A repair has led into the next epoch; what was on its way all the time comes only now."""
    toy = ToyWithHistory()
    async with Realtime(toy) as rt, rt.subscribe(room).with_gaps() as messages:
        for number in (1, 2, 3):
            toy.append(room.name, frame_of(room.a, number, f"p.{number}"), f"{number:08x}", deliver=number != 2)
        late = toy.streams[room.name]
        toy.new_epoch(room.name, "e2")
        for number in (4, 5):
            toy.append(room.name, frame_of(room.a, number, f"p.{number}"), f"{number:08x}", deliver=False)
        await until(lambda: engine_of(rt).hub.channels[room.name].phase is Phase.LIVE, "it is repaired")
        for entry in (late[2], *toy.streams[room.name]):
            toy.deliver(room.name, *entry)
        toy.append(room.name, frame_of(room.a, 6, "p.6"), "00000006")
        assert await upto(messages, 6) == [1, RESET, 4, 5, 6]


async def test_live_frames_of_an_epoch_that_history_has_left_behind_are_not_shown() -> None:
    """They are still on their way here when history, read by a newcomer, is of the next epoch already."""
    here, there = pair()
    async with Realtime(here) as rt, Realtime(there) as publisher, rt.subscribe(room).with_gaps() as neighbour:
        await publisher.publish(room.a, 2)
        await take(neighbour, 1)
        there.faults.stall()
        await publisher.publish_many([room.a(3), room.a(4)])
        there.faults.new_epoch(room.name)
        await publisher.publish_many([room.a(5), room.a(6)])
        async with rt.subscribe(room, start=Start.EARLIEST).with_gaps() as messages:
            assert told(await take(messages, 2)) == [5, 6]
            found: list[int | Gap] = []

            async def go_on() -> None:
                found.extend(await upto(messages, 7))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(go_on)
                await settle()  # it waits for the live log now
                there.faults.resume()
                await publisher.publish(room.a, 7)
            assert [item for item in found if isinstance(item, int)] == [7]
        assert await upto(neighbour, 7) == [3, 4, RESET, 5, 6, 7]


async def test_an_epoch_that_changes_while_one_catches_up_neither_repeats_nor_reorders() -> None:
    """The newcomer has its place in the live log, which holds the end of the old epoch, when history answers with the new one."""
    toy = ToyWithHistory()
    read = anyio.Event()

    async def wait(_: object) -> None:
        await read.wait()

    async with Realtime(toy) as rt, anyio.create_task_group() as tasks:
        await rt.publish_many([room.a(number) for number in (1, 2, 3)])
        async with rt.subscribe(room, start=Start.EARLIEST).with_gaps() as messages:
            await rt.publish_many([room.a(4), room.a(5)])
            found: list[int | Gap] = []

            async def go_on() -> None:
                found.extend(await upto(messages, 10))

            toy.before_history = wait
            tasks.start_soon(go_on)
            await until(lambda: len(toy.reads) == 2, "it reads up to its place in the live log")
            await rt.publish_many([room.a(6), room.a(7)])
            toy.new_epoch(room.name, "e2")
            await rt.publish_many([room.a(8), room.a(9)])
            read.set()
            await settle()
            await rt.publish(room.a, 10)
            await until(lambda: bool(found), "it has read the last")
        numbers = [item for item in found if isinstance(item, int)]
        assert numbers in ([1, 2, 3, 8, 9, 10], [1, 2, 3, 6, 7, 8, 9, 10])
        assert RESET in found[3:6]
