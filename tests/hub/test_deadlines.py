"""One timer for many calls."""

from __future__ import annotations

import anyio
import pytest

from fanwire.hub.deadlines import Deadlines


class Call:
    def __init__(self, name: str, told: list[str]) -> None:
        self._name = name
        self._told = told
        self.expired = anyio.Event()

    def expire(self) -> None:
        self._told.append(self._name)
        self.expired.set()


@pytest.mark.anyio
async def test_calls_expire_in_order_and_those_that_were_dropped_do_not() -> None:
    deadlines, told = Deadlines(), list[str]()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deadlines.run)
        await anyio.wait_all_tasks_blocked()
        first, second, third = (Call(name, told) for name in ("first", "second", "third"))
        begin = anyio.current_time()
        assert deadlines.add(first, 1.0)
        assert deadlines.add(second, 1.0)
        deadlines.drop(first)
        assert deadlines.add(third, 1.0)
        with anyio.fail_after(10):
            await third.expired.wait()
        assert told == ["second", "third"]
        assert anyio.current_time() - begin >= 1.0
        last = Call("last", told)
        assert deadlines.add(last, 1.0)  # it waits again by now
        with anyio.fail_after(10):
            await last.expired.wait()
        tasks.cancel_scope.cancel()
    assert told == ["second", "third", "last"]


@pytest.mark.anyio
async def test_times_that_cannot_share_a_timer_are_left_to_the_caller() -> None:
    deadlines = Deadlines()
    call = Call("", [])
    assert not deadlines.add(call, 5.0)  # it does not run yet
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deadlines.run)
        await anyio.wait_all_tasks_blocked()
        for unusual in (0.0, -1.0, 0.5, float("inf"), 6.0):
            assert not deadlines.add(call, unusual), unusual
        assert deadlines.add(call, 5.0)
        tasks.cancel_scope.cancel()
    assert not deadlines.add(call, 5.0)
    deadlines.drop(call)
    deadlines.drop(call)
