"""What the tests of rules 9 to 12 and of leaks share: counting tasks, cancelling after so many turns, noticing what is left lying about, and calls to make from anywhere."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
from anyio.lowlevel import checkpoint

from fanwire import Realtime, Start
from fanwire.hub.waiter import on_trio
from tests.rules.support import Room, told, until

__all__ = (
    "CALLS",
    "Call",
    "Turns",
    "cancelled_after",
    "debris",
    "drain",
    "run_script",
    "running_tasks",
    "still_works",
)

Call = Callable[[Realtime], Awaitable[object]]

ROOM = Room(number=12)


async def _enter(rt: Realtime) -> None:
    async with rt.subscribe(ROOM.a):
        pass


async def _enter_by_name(rt: Realtime) -> None:
    async with rt.subscribe(ROOM.name).raw():
        pass


async def _resume(rt: Realtime) -> None:
    async with rt.subscribe(ROOM.a, start=Start.EARLIEST).with_gaps():
        pass


async def _listen(rt: Realtime) -> None:
    async with rt.events():
        pass


CALLS: dict[str, Call] = {
    "publish": lambda rt: rt.publish(ROOM.a, 1),
    "publish with a key": lambda rt: rt.publish(ROOM.a, 1, key="k"),
    "publish an outgoing": lambda rt: rt.publish(ROOM.a(1)),
    "publish_many": lambda rt: rt.publish_many([ROOM.a(1), ROOM.b(2)]),
    "subscribe": _enter,
    "subscribe by name": _enter_by_name,
    "subscribe with history": _resume,
    "history": lambda rt: rt.history(ROOM.a),
    "events": _listen,
    "ping": lambda rt: rt.ping(),
}
"""Everything a Realtime does once it is entered."""


# ---------------------------------------------------------------------- what is left


def running_tasks() -> int:
    """Count all tasks of the running event loop, those that no task group owns included."""
    if not on_trio():
        return len(asyncio.all_tasks())
    import trio

    root = trio.lowlevel.current_root_task()
    assert root is not None
    found = [root]
    for task in found:
        for nursery in task.child_nurseries:
            found += nursery.child_tasks
    return len(found)


class _Listener(logging.Handler):
    """Keeps what the event loop complains of: a task destroyed while pending, an exception that nobody took."""

    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())


@contextmanager
def debris() -> Generator[list[str]]:
    """Collect whatever is complained of when garbage goes: ResourceWarnings, coroutines never awaited, tasks destroyed while pending, exceptions nobody took.

    Warnings are errors here, so those of a finalizer end in the hook for exceptions that cannot be raised.
    """
    gc.collect()
    heard: list[str] = []
    before = sys.unraisablehook
    listeners = [(logging.getLogger(name), _Listener(heard)) for name in ("asyncio", "trio")]
    sys.unraisablehook = lambda told: heard.append(f"{told.err_msg}: {told.exc_value!r} in {told.object!r}")
    for logger, listener in listeners:
        logger.addHandler(listener)
    try:
        yield heard
        gc.collect()
    finally:
        for logger, listener in listeners:
            logger.removeHandler(listener)
        sys.unraisablehook = before


# ---------------------------------------------------------------------- cancelling


async def cancelled_after(turns: int, what: Callable[[], Awaitable[object]]) -> bool:
    """Run ``what`` in a task of its own, cancel that after so many turns of the loop, wait for its end, and return whether it was cut."""
    scope = anyio.CancelScope()

    async def run() -> None:
        with scope:
            await what()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            for _ in range(turns):
                await checkpoint()
            scope.cancel()
    return scope.cancelled_caught


class Turns:
    """Takes a number of turns of the loop whenever it is called, and counts how many calls were cut short."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.begun = 0
        self.ended = 0

    async def __call__(self, _: object = None) -> None:
        self.begun += 1
        for _turn in range(self.number):
            await checkpoint()
        self.ended += 1


async def still_works(rt: Realtime, room: Room) -> None:
    """Publish and subscribe on channels of the test's own and on a fresh one: nobody hangs, nothing of it is missing."""
    for each in (room, Room(number=room.number + 100_000)):
        with anyio.fail_after(10):
            async with rt.subscribe(each).with_gaps() as messages:
                await rt.publish(each.a, -1)
                await rt.publish_many([each.b(-2), each.a(-3)])
                found: list[object] = []
                while not found or found[-1] != -3:
                    found += told([await anext(messages)])
                assert found[-3:] == [-1, -2, -3]


async def drain(rt: Realtime, fact: Callable[[], bool]) -> None:
    """Wait until nobody publishes any more, and ``fact``."""
    await until(lambda: rt.stats().publishing == 0 and fact(), "everything has drained")


# ---------------------------------------------------------------------- another process


def run_script(source: str, path: Path, *arguments: str) -> str:
    """Run a script under this interpreter, with warnings as errors, and return what it printed; whatever it complains of fails the test."""
    import subprocess

    script = path / "script.py"
    script.write_text(source, encoding="utf-8")
    done = subprocess.run([sys.executable, "-W", "error", str(script), *arguments], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, ""), f"{done.stdout}\n{done.stderr}"
    return done.stdout
