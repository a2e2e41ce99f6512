"""What is left behind: tasks, threads, sockets, files, subscriptions at the server, and complaints of the event loop and the garbage collector.

For tests of applications as well as of transports::

    async with no_leaks():
        async with Realtime.from_url("redis://localhost") as rt:
            await my_application(rt)

It fails with an ``AssertionError`` that names everything which was not there before.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import stat
import sys
import threading
import time
import warnings
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO, final

import anyio

from .harness import Harness

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

__all__ = ("Snapshot", "complaints", "no_leaks", "snapshot")

_POOLED: Final = ("AnyIO worker thread", "Trio thread ", "asyncio_", "ThreadPoolExecutor-")
"""Threads that a pool keeps for the next call: an event loop's own, which goes with it."""

_NULL: Final = os.stat(os.devnull).st_rdev  # noqa: PTH116 - a device is no path
"""What uvloop keeps open, one for each event loop, so as to have a descriptor to spare."""

_FILES: Final = next((path for path in (Path("/proc/self/fd"), Path("/dev/fd")) if path.is_dir()), None)


@final
@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is there at one moment."""

    tasks: Mapping[object, str]
    """Tasks of the running event loop, by what they run; the value describes each. Those that no task group owns are among them."""

    threads: Mapping[object, str]
    """Threads of the process but for those that pools keep."""

    files: Mapping[object, str]
    """Open descriptors: sockets, files, pipes. Empty where the system does not tell."""

    subscriptions: int
    """Channels that the server delivers to anybody, where a harness can tell."""

    def beyond(self, before: Snapshot) -> list[str]:
        """Return what is here and was not there before, described."""
        found = [
            f"{kind} {text}"
            for kind, here, there in (
                ("task", self.tasks, before.tasks),
                ("thread", self.threads, before.threads),
                ("descriptor", self.files, before.files),
            )
            for key, text in here.items()
            if key not in there
        ]
        more = self.subscriptions - before.subscriptions
        return [*found, f"{more} subscribed channels at the server"] if more > 0 else found


async def snapshot(harness: Harness | None = None) -> Snapshot:
    """Look at what is there now.

    Args:
        harness: Whose server's subscriptions are to be counted, if it can do so.
    """
    # By the coroutine itself, which is held here: the number of a task that has ended may be given to another one.
    tasks: dict[object, str] = {info.coro: f"{info.name!r}" for info in anyio.get_running_tasks()}
    threads: dict[object, str] = {thread: f"{thread.name!r}" for thread in threading.enumerate() if not thread.name.startswith(_POOLED)}
    subscriptions = await harness.subscriptions() if harness is not None and harness.can("subscriptions") else 0
    return Snapshot(tasks, threads, _files(), subscriptions)


def _files() -> dict[object, str]:
    """Return the open descriptors, by their number and what they are."""
    found: dict[object, str] = {}
    for name in os.listdir(_FILES) if _FILES is not None else ():  # noqa: PTH208 - names alone are wanted
        number = int(name)
        try:
            state = os.fstat(number)
        except OSError:
            continue  # that by which the directory was read
        if stat.S_ISCHR(state.st_mode) and state.st_rdev == _NULL:
            continue
        found[number, stat.S_IFMT(state.st_mode), state.st_ino] = f"{number}, {_describe(number, state.st_mode)}"
    return found


def _describe(number: int, mode: int) -> str:
    if not stat.S_ISSOCK(mode):
        try:
            return f"open on {Path(f'{_FILES}/{number}').readlink()}"
        except OSError:
            return "which is no socket"
    try:
        with socket.socket(fileno=os.dup(number)) as double:
            return f"a socket from {double.getsockname()} to {double.getpeername()}"
    except OSError:
        return "a socket that is not connected"


# ---------------------------------------------------------------------- complaints


class _Listener(logging.Handler):
    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard.append(f"{record.name}: {record.getMessage()}")


@contextmanager
def complaints() -> Generator[list[str]]:
    """Collect what the event loop and the interpreter complain of: tasks destroyed while they wait, exceptions nobody took, coroutines nobody awaited, unclosed sockets.

    What has become garbage by the end of the block is collected then. Two of these must not overlap in different tasks: hooks and filters belong to the whole process.

    Yields:
        The complaints so far.
    """
    heard: list[str] = []
    listener = _Listener(heard)
    loggers = [logging.getLogger(name) for name in ("asyncio", "trio")]
    hook, show = sys.unraisablehook, warnings.showwarning

    def unraisable(args: UnraisableHookArgs, /) -> None:
        heard.append(f"{args.err_msg or 'ignored'}: {args.exc_value!r} in {args.object!r}")

    def warned(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
    ) -> None:
        if issubclass(category, ResourceWarning) or "was never awaited" in str(message):
            heard.append(f"{category.__name__}: {message}")
        else:
            show(message, category, filename, lineno, file, line)

    gc.collect()
    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=ResourceWarning)
        warnings.filterwarnings("always", message="coroutine .* was never awaited", category=RuntimeWarning)
        warnings.showwarning = warned
        sys.unraisablehook = unraisable
        for logger in loggers:
            logger.addHandler(listener)
        try:
            yield heard
            gc.collect()
        finally:
            for logger in loggers:
                logger.removeHandler(listener)
            sys.unraisablehook = hook


@asynccontextmanager
async def no_leaks(harness: Harness | None = None, *, seconds: float = 5.0) -> AsyncGenerator[None]:
    """Assert that the block leaves nothing behind: no task, thread, socket, file, subscription at the server, and no complaint.

    Enter it where as much is open as will be at its end: a connection that is made within it and kept is left behind. What an exception leaves is not looked at.

    Args:
        harness: Whose server's subscriptions are counted too, if it can do so; nobody else may subscribe there.
        seconds: How long things may take to end by themselves, as sockets do.

    Raises:
        AssertionError: something is left; the text names each piece.
    """
    with complaints() as heard:
        before = await snapshot(harness)
        yield
        gc.collect()  # sockets that are garbage complain now, rather than being waited for
        deadline = time.monotonic() + seconds
        while (left := (await snapshot(harness)).beyond(before)) and time.monotonic() < deadline:  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.005)
    if left or heard:
        raise AssertionError(f"left behind: {'; '.join([*left, *(f'a complaint of {told}' for told in heard)])}")
