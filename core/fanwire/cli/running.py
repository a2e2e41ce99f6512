"""Running a command's coroutine so that Ctrl-C and ``SIGTERM`` always end it, and end it cleanly."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, TypeVarTuple, Unpack, final

import anyio
from anyio.abc import TaskStatus

__all__ = ("Interrupted", "run")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@final
class Interrupted(BaseException):
    """The command was ended by a signal, and has cleaned up. Like ``KeyboardInterrupt``, no ``Exception``."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number: int = number


def run(command: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
    """Run ``command(*args)`` to its end, on asyncio.

    The first ``SIGINT`` or ``SIGTERM`` cancels it; another one ends it at once. Left to ``asyncio.run``, a signal that arrives just before the loop goes to sleep is noticed
    only when something else wakes it, since asyncio sets a wake-up descriptor only for handlers of its own.

    Raises:
        Interrupted: a signal came first.
    """
    number, result = anyio.run(_supervised, command, args)
    if number is not None:
        raise Interrupted(number)
    (value,) = result  # without a signal there is a result, or an exception was raised
    return value


async def _supervised(command: Callable[[Unpack[Ts]], Awaitable[T]], args: tuple[*Ts]) -> tuple[int | None, list[T]]:
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        return None, [await command(*args)]
    signals: list[int] = []
    result: list[T] = []
    failure: Exception | None = None

    async def watch(*, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(*_SIGNALS) as received:
            task_status.started()
            async for number in received:
                signals.append(number)
                tasks.cancel_scope.cancel()
                return  # which gives the signals back their own handlers

    async with anyio.create_task_group() as tasks:
        await tasks.start(watch)
        try:
            result.append(await command(*args))
        except Exception as error:  # noqa: BLE001 - raised below, where no task group wraps it
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None and not signals:
        raise failure
    return (signals[0] if signals and not result else None), result
