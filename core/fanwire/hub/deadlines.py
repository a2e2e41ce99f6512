"""One timer for all calls that have the same time: a scope for each would cost more than everything else that one publish takes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Protocol, final

import anyio

from .waiter import on_trio

__all__ = ("Deadlines", "Expires")


class Expires(Protocol):
    """What is told that its time is over."""

    def expire(self) -> None:
        """Give up."""
        ...


@final
class Deadlines:
    """Deadlines of calls that all have the same time, so that they come in the order in which they were set."""

    def __init__(self) -> None:
        self._usual = 0.0
        """The time that calls have here: the first that was asked for."""
        self._due: dict[Expires, float] = {}
        self._any = anyio.Event()
        self._now: Callable[[], float] | None = None
        """The event loop's clock while :meth:`run` does."""

    def add(self, call: Expires, timeout: float) -> bool:
        """Tell ``call`` when ``timeout`` seconds are over; return ``False`` for a time that is not the usual one, or too short to share a timer."""
        if timeout != self._usual:
            if self._usual or not 1.0 <= timeout < math.inf:
                return False
            self._usual = timeout
        if self._now is None:
            return False
        if not self._due:
            self._any.set()
        self._due[call] = self._now() + timeout
        return True

    def drop(self, call: Expires) -> None:
        """Forget a call; one that is not known is ignored."""
        self._due.pop(call, None)

    async def run(self) -> None:
        """Tell calls that their time is over, until cancelled."""
        self._now = now = _clock()
        try:
            while True:
                for call, due in list(self._first()):
                    if due <= now():
                        del self._due[call]
                        call.expire()
                    else:
                        await anyio.sleep(due - now())  # whatever is added meanwhile is due later
                if not self._due:
                    self._any = anyio.Event()
                    await self._any.wait()
        finally:
            self._now = None

    def _first(self) -> list[tuple[Expires, float]]:
        return [next(iter(self._due.items()))] if self._due else []


def _clock() -> Callable[[], float]:
    if on_trio():
        import trio

        return trio.current_time
    return asyncio.get_running_loop().time
