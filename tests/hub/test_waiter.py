"""The waker: parks a task and wakes it, on asyncio and on trio alike, also before it waits and after its wait was cancelled."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from fanwire.hub.waiter import Waiter, current_loop, on_trio, runs_anywhere, waiter_factory
from tests.hub.support import until

pytestmark = pytest.mark.anyio


async def test_it_wakes_who_waits() -> None:
    waiter = waiter_factory()()
    woken: list[bool] = []

    async def wait() -> None:
        await waiter
        woken.append(True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        for _ in range(5):
            await checkpoint()
        assert not woken
        assert not waiter.done()
        waiter.set_result(None)
        assert waiter.done()
        assert not woken, "waking is no call into the other task"
        await until(lambda: woken)


async def test_one_that_is_set_already_does_not_wait() -> None:
    waiter = waiter_factory()()
    waiter.set_result(None)
    with anyio.fail_after(5):
        await waiter
    assert waiter.done()


async def test_a_cancelled_wait_is_done_and_must_not_be_set() -> None:
    """Whoever wakes looks at ``done`` first: that is all that protects a task that has moved on."""
    waiter = waiter_factory()()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await waiter
        pytest.fail("it was not set")
    assert scope.cancelled_caught
    assert waiter.done()


async def test_a_wait_that_is_cancelled_while_parked() -> None:
    waiter = waiter_factory()()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_soon, scope)
            await waiter
            pytest.fail("it was not set")
    assert waiter.done()
    await checkpoint()  # nothing is left that would disturb what the task does next


async def cancel_soon(scope: anyio.CancelScope) -> None:
    for _ in range(3):
        await checkpoint()
    scope.cancel()


async def test_set_wins_over_a_cancellation_that_comes_later() -> None:
    waiter = waiter_factory()()
    got: list[str] = []

    async def wait(scope: anyio.CancelScope) -> None:
        with scope:
            await waiter
            got.append("woken")

    async with anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()
        tasks.start_soon(wait, scope)
        for _ in range(3):
            await checkpoint()
        waiter.set_result(None)
        scope.cancel()
    # On asyncio a cancellation may overtake the wake-up; either way the task ends and the waiter is done.
    assert got in ([], ["woken"])
    assert waiter.done()


async def test_many_wait_and_each_is_woken_by_its_own() -> None:
    make = waiter_factory()
    waiters: list[Waiter] = [make() for _ in range(100)]
    order: list[int] = []

    async def wait(n: int) -> None:
        await waiters[n]
        order.append(n)

    async with anyio.create_task_group() as tasks:
        for n in range(100):
            tasks.start_soon(wait, n)
        for _ in range(3):
            await checkpoint()
        for n in range(0, 100, 2):
            waiters[n].set_result(None)
        await until(lambda: len(order) == 50)
        assert set(order) == set(range(0, 100, 2))
        for n in range(1, 100, 2):
            waiters[n].set_result(None)
    assert sorted(order) == list(range(100))


async def test_where_it_runs_is_known(anyio_backend: tuple[str, dict[str, bool]]) -> None:
    assert on_trio() is (anyio_backend[0] == "trio")
    assert runs_anywhere()
    which = current_loop()
    assert which() is which()
    assert await anyio.to_thread.run_sync(runs_anywhere) is False
    assert await anyio.to_thread.run_sync(on_trio) is False

    def elsewhere() -> str:
        try:
            which()
        except RuntimeError:
            return "no loop here"
        return "a loop"

    assert await anyio.to_thread.run_sync(elsewhere) == "no loop here"
