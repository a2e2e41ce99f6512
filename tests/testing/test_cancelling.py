"""Cancellation at every await point: each point is met once, in order, whatever waits there; what hangs or breaks is told, with the point."""

from __future__ import annotations

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from fanwire import Realtime
from fanwire.testing.cancelling import cancelled_everywhere
from fanwire.testing.tools import Room
from fanwire_memory import MemoryTransport

pytestmark = pytest.mark.anyio


async def test_each_point_is_met_once() -> None:
    reached: list[int] = []
    runs: list[list[int]] = []

    async def scenario() -> None:
        reached.clear()
        for number in range(5):
            await checkpoint()
            reached.append(number)

    async def after(point: int) -> None:
        assert point == len(runs) + 1
        runs.append(list(reached))

    points = await cancelled_everywhere(scenario, after=after)
    # A checkpoint is one await point or two, as the event loop has it.
    assert points in (5, 10)
    assert len(runs) == points + 1
    assert runs[-1] == [0, 1, 2, 3, 4]
    assert {len(run) for run in runs} == {0, 1, 2, 3, 4, 5}
    assert [len(run) for run in runs] == sorted(len(run) for run in runs)


async def test_every_kind_of_wait_is_cut() -> None:
    cut: list[str] = []
    event, lock = anyio.Event(), anyio.Lock()
    sender, receiver = anyio.create_memory_object_stream[int](0)

    async def scenario() -> None:
        where = "sleep"
        try:
            await anyio.sleep(0.001)
            where = "event"
            with anyio.move_on_after(0.002):
                await event.wait()
            where = "stream"
            with anyio.move_on_after(0.002):
                await receiver.receive()
            where = "lock"
            async with lock:
                await checkpoint()
            where = "thread"
            await anyio.to_thread.run_sync(lambda: None)
            where = "group"
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep, 0.001)
        except BaseException:
            cut.append(where)
            raise

    with sender, receiver:
        points = await cancelled_everywhere(scenario)
    assert points >= 6
    assert {"sleep", "event", "stream", "lock", "group"} <= set(cut)


async def test_tasks_of_the_scenario_end_with_it() -> None:
    running = 0

    async def child() -> None:
        nonlocal running
        running += 1
        try:
            await anyio.sleep_forever()
        finally:
            running -= 1

    async def scenario() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(child)
                await checkpoint()
            tasks.cancel_scope.cancel()

    async def after(point: int) -> None:
        assert running == 0, point

    assert await cancelled_everywhere(scenario, after=after) >= 3


async def test_a_scenario_without_an_await_runs_once() -> None:
    runs: list[int] = []

    async def scenario() -> None:
        runs.append(1)

    assert await cancelled_everywhere(scenario) == 0
    assert runs == [1]


async def test_values_pass_both_ways() -> None:
    """What the scenario waits for comes back to it as if nobody stood between."""
    found: list[object] = []

    async def scenario() -> None:
        rt = Realtime(MemoryTransport())
        async with rt, rt.subscribe(Room(number=1).a) as messages:
            await rt.publish(Room(number=1).a, 7)
            found.append((await anext(messages)).data)
            found.append(await anyio.to_thread.run_sync(lambda: "from a thread"))

    assert await cancelled_everywhere(scenario) > 3
    assert found[-2:] == [7, "from a thread"]


async def test_exceptions_pass_both_ways() -> None:
    caught: list[str] = []

    async def scenario() -> None:
        try:
            with anyio.fail_after(0.001):
                await anyio.sleep_forever()
        except TimeoutError:
            caught.append("timeout")
        try:
            await anyio.to_thread.run_sync(_fail)
        except LookupError:
            caught.append("lookup")

    await cancelled_everywhere(scenario)
    assert caught[-2:] == ["timeout", "lookup"]


def _fail() -> None:
    raise LookupError


# ---------------------------------------------------------------------- what is told


async def test_a_failure_tells_its_point() -> None:
    async def scenario() -> None:
        for _ in range(4):
            await checkpoint()

    async def after(point: int) -> None:
        if point == 3:
            raise LookupError("left")

    with pytest.raises(LookupError, match="left") as caught:
        await cancelled_everywhere(scenario, after=after)
    assert caught.value.__notes__ == ["the scenario was cancelled at await point 3"]


async def test_a_leak_on_the_way_out_is_found() -> None:
    """The reason for all this: the second await is in a place where a cancellation leaves something."""
    held: list[int] = []

    async def scenario() -> None:
        await checkpoint()
        held.append(1)
        await checkpoint()  # must be within a try
        held.pop()

    async def after(_: int) -> None:
        assert held == []

    with pytest.raises(AssertionError) as caught:
        await cancelled_everywhere(scenario, after=after)
    assert caught.value.__notes__


async def test_who_takes_no_cancellation_is_found() -> None:
    async def scenario() -> None:
        await checkpoint()
        with anyio.CancelScope(shield=True), anyio.move_on_after(0.3):
            await anyio.sleep_forever()

    with pytest.raises(AssertionError, match=r"did not end within 0\.1 s"):
        await cancelled_everywhere(scenario, seconds=0.1)


async def test_a_scenario_that_never_ends_is_given_up() -> None:
    async def scenario() -> None:
        while True:
            await checkpoint()

    with pytest.raises(AssertionError, match="more than 10 await points"):
        await cancelled_everywhere(scenario, at_most=10)


async def test_whoever_cancels_the_whole_is_obeyed() -> None:
    async def scenario() -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(0.02) as scope:
        while True:
            await cancelled_everywhere(scenario, after=_sleep)
    assert scope.cancelled_caught


async def _sleep(_: int) -> None:
    await anyio.sleep(0.001)
