"""The tool that looks for what is left behind: it names each kind of leak, waits for what ends by itself, and is silent where nothing is left."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from fanwire import Realtime
from fanwire.testing.leaks import complaints, no_leaks, snapshot
from fanwire.testing.tools import Room
from fanwire_memory import MemoryTransport
from tests.conformance.harnesses import MemoryHarness
from tests.untested import require

pytestmark = pytest.mark.anyio

ROOM = Room(number=1)

SOON = 0.05
"""Seconds after which what is still there counts as left."""


async def test_a_realtime_that_is_used_and_closed_leaves_nothing() -> None:
    async with no_leaks(), Realtime(MemoryTransport()) as rt, rt.subscribe(ROOM.a) as messages:
        await rt.publish(ROOM.a, 1)
        assert (await anext(messages)).data == 1


# ---------------------------------------------------------------------- each kind of leak


async def test_a_task_is_named() -> None:
    async with anyio.create_task_group() as tasks:
        with pytest.raises(AssertionError, match=r"left behind: task '.*sleep_forever.*'"):
            async with no_leaks(seconds=SOON):
                tasks.start_soon(anyio.sleep_forever)
        tasks.cancel_scope.cancel()


async def test_a_task_of_nobody_is_named() -> None:
    """One that no task group owns, as a library may start it."""
    rt = Realtime(MemoryTransport())
    with pytest.raises(AssertionError, match="task '.*fanwire"):
        async with no_leaks(seconds=SOON):
            await rt.__aenter__()
    await rt.aclose()


async def test_a_thread_is_named() -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait, name="a thread of mine")
    with pytest.raises(AssertionError, match="left behind: thread 'a thread of mine'"):
        async with no_leaks(seconds=SOON):
            thread.start()
    over.set()
    thread.join()


async def test_threads_that_a_pool_keeps_are_nobodys_leak() -> None:
    async with no_leaks(seconds=SOON):
        await anyio.to_thread.run_sync(lambda: None)


async def test_a_socket_is_named_with_both_its_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []
        with pytest.raises(AssertionError) as caught:
            async with no_leaks(seconds=SOON):
                kept.append(socket.create_connection(server.getsockname()))
        here = kept[0].getsockname()
        assert f"a socket from {here} to {server.getsockname()}" in str(caught.value)
        kept[0].close()


async def test_sockets_without_a_peer_are_named_too() -> None:
    kept: list[socket.socket] = []
    with pytest.raises(AssertionError, match=r"descriptor \d+, a socket that is not connected"):
        async with no_leaks(seconds=SOON):
            kept.append(socket.socket())
    kept[0].close()


async def test_a_file_is_named(tmp_path: Path) -> None:
    require("open descriptors", bool((await snapshot()).files), "this system does not list them")
    with pytest.raises(AssertionError, match=r"descriptor \d+, open on .*left\.txt"):
        async with no_leaks(seconds=SOON):
            kept = (tmp_path / "left.txt").open("w", encoding="utf-8")
    kept.close()


async def test_a_descriptor_that_stands_for_something_else_is_a_leak() -> None:
    """The number was there before, but what it was is closed, and another thing is open instead."""
    before = socket.socket()
    number = before.fileno()
    with pytest.raises(AssertionError, match=rf"descriptor {number},"):
        async with no_leaks(seconds=SOON):
            before.close()
            after = socket.socket()
            assert after.fileno() == number
    after.close()


async def test_subscriptions_at_the_server_are_counted() -> None:
    async with MemoryHarness("leaks") as harness, Realtime(harness.transport(), linger=60.0) as rt:
        with pytest.raises(AssertionError, match="3 subscribed channels at the server"):
            async with no_leaks(harness, seconds=SOON), rt.subscribe(*(Room(number=n).a for n in range(3))):
                pass  # they linger behind it
        async with no_leaks(harness, seconds=SOON), rt.subscribe(Room(number=1).a):
            pass


async def test_a_coroutine_that_nobody_awaits_is_told() -> None:
    with pytest.raises(AssertionError, match="complaint of RuntimeWarning: coroutine '.*_nothing' was never awaited"):
        async with no_leaks(seconds=SOON):
            _nothing()  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]  # which is the point


async def _nothing() -> None:
    pass


async def test_a_socket_that_is_garbage_is_told() -> None:
    with pytest.raises(AssertionError, match="complaint of ResourceWarning: unclosed <socket"):
        async with no_leaks(seconds=SOON):
            await _forget(socket.socket)


async def _forget(make: Callable[[], object]) -> None:
    """Make something that only the garbage collector can find."""
    circle: list[object] = [make()]
    circle.append(circle)
    await checkpoint()


async def test_an_exception_in_a_finalizer_is_told() -> None:
    class Bad:
        def __del__(self) -> None:
            raise RuntimeError("in a finalizer")

    with pytest.raises(AssertionError, match=r"RuntimeError\('in a finalizer'\)"):
        async with no_leaks(seconds=SOON):
            await _forget(Bad)


def test_an_exception_that_nobody_took_is_told() -> None:
    """A task of asyncio that failed, and whose result was not asked for."""

    async def fail() -> None:
        raise RuntimeError("nobody looks")

    async def main() -> None:
        with pytest.raises(AssertionError, match="complaint of asyncio: Task exception was never retrieved"):
            async with no_leaks(seconds=SOON):
                task = asyncio.create_task(fail())
                await asyncio.wait([task])
                del task

    asyncio.run(main())


# ---------------------------------------------------------------------- no false alarm


async def test_what_ends_by_itself_is_waited_for() -> None:
    async with anyio.create_task_group() as tasks, no_leaks(seconds=10.0):
        tasks.start_soon(anyio.sleep, 0.05)


async def test_what_was_there_before_is_no_leak() -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    with socket.socket():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            await checkpoint()
            async with no_leaks(seconds=SOON):
                await checkpoint()
            tasks.cancel_scope.cancel()
    over.set()
    thread.join()


async def test_what_ends_meanwhile_is_no_leak() -> None:
    opened = socket.socket()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep_forever)
        await checkpoint()
        async with no_leaks(seconds=SOON):
            opened.close()
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await checkpoint()


async def test_an_exception_of_the_block_is_what_counts() -> None:
    """It goes on unchanged, whatever it leaves."""
    kept: list[socket.socket] = []
    with pytest.raises(LookupError, match="mine"):
        async with no_leaks(seconds=SOON):
            kept.append(socket.socket())
            raise LookupError("mine")
    kept[0].close()


async def test_other_warnings_go_where_they_go_otherwise() -> None:
    with pytest.warns(UserWarning, match="about something else"):
        async with no_leaks(seconds=SOON):
            warnings.warn("about something else", UserWarning, stacklevel=1)
    with pytest.raises(DeprecationWarning, match="an error here"):
        async with no_leaks(seconds=SOON):
            warnings.warn("an error here", DeprecationWarning, stacklevel=1)


def test_hooks_and_filters_are_put_back() -> None:
    hook, show, filters = sys.unraisablehook, warnings.showwarning, list(warnings.filters)
    handlers = list(logging.getLogger("asyncio").handlers)
    for fails in (False, True):
        with suppress(LookupError), complaints() as heard:
            assert sys.unraisablehook is not hook
            assert heard == []
            if fails:
                raise LookupError
        assert (sys.unraisablehook, warnings.showwarning, list(warnings.filters)) == (hook, show, filters)
        assert logging.getLogger("asyncio").handlers == handlers


async def test_all_that_is_left_is_named_at_once() -> None:
    kept: list[socket.socket] = []
    async with anyio.create_task_group() as tasks:
        with pytest.raises(AssertionError) as caught:
            async with no_leaks(seconds=SOON):
                kept += [socket.socket(), socket.socket()]
                tasks.start_soon(anyio.sleep_forever)
        tasks.cancel_scope.cancel()
    assert str(caught.value).count("descriptor") == 2
    assert str(caught.value).count("task") == 1
    for each in kept:
        each.close()


# ---------------------------------------------------------------------- snapshots


async def test_snapshots_may_be_compared_by_hand() -> None:
    before = await snapshot()
    opened = socket.socket()
    after = await snapshot()
    assert [text.partition(",")[0] for text in after.beyond(before)] == [f"descriptor {opened.fileno()}"]
    assert before.beyond(after) == []
    opened.close()
    assert (await snapshot()).beyond(before) == []


async def test_a_snapshot_itself_opens_nothing() -> None:
    gc.collect()
    before = await snapshot()
    for _ in range(20):
        assert (await snapshot()).beyond(before) == []
