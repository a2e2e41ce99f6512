"""One connection: the way from the broker to a sink on some event loop."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial
from typing import final

import anyio

from fanwire.errors import ConnectionLost
from fanwire.messages import Cursor
from fanwire.transport import Sink

__all__ = ("Link",)

Call = Callable[[], None]

_INBOX = 65_536
"""Calls that may wait for a sink's event loop."""


@final
class Link:
    """Delivers on the sink's own event loop: directly when called there, else through an inbox that the loop is woken to empty.

    Its methods are called with the broker's lock held, so that the inbox keeps the broker's order; only the awaited ones are not.
    """

    def __init__(self, sink: Sink, lock: threading.RLock, *, stalled: bool, until: float | None) -> None:
        self.channels: set[str] = set()
        self.broken = False
        self.until = until
        """When the stall is to end by itself, by the monotonic clock of the broker."""
        self._why = ""
        self.sink = sink
        self.thread = threading.get_ident()
        self.direct = not stalled
        """Whether the sink may be called at once, on its own thread: nothing holds frames back, and none waits in the inbox."""
        self._lock = lock
        self._stalled = stalled
        self._call_soon = _caller()
        self._inbox: deque[Call] = deque()
        self._changed = anyio.Event()

    def subscribed(self, channel: str, generation: int, position: Cursor | None) -> None:
        """Tell the sink that a channel is live."""
        if self.direct and threading.get_ident() == self.thread:
            self.sink.subscribed(channel, generation, position)
        else:
            self._later(lambda: self.sink.subscribed(channel, generation, position))

    def deliver(self, channel: str, generation: int, frame: bytes, position: Cursor, prev: Cursor | None) -> None:
        """Bring a frame to the sink, which cannot be called at once; afterwards the link may be :attr:`broken`."""
        self._later(lambda: self.sink.deliver(channel, generation, frame, position, prev))

    def _later(self, call: Call) -> None:
        if self.broken:
            return
        self.direct = False
        if len(self._inbox) == _INBOX:
            self.break_(f"was broken: {_INBOX} frames wait for an event loop that does not take them")
            return
        self._inbox.append(call)
        if len(self._inbox) == 1 and not self._stalled:
            self._wake(self._empty)

    def _empty(self) -> None:
        """Hand over what has come; on the sink's loop."""
        with self._lock:
            while self._inbox and not self._stalled and not self.broken:
                self._inbox.popleft()()
            self.direct = not (self._stalled or self.broken)

    def _wake(self, call: Call) -> None:
        try:
            self._call_soon(call)
        except RuntimeError:
            # The loop ended without closing this connection; there is nobody to deliver to.
            self._end("was broken: its event loop has ended")

    def gone(self) -> bool:
        """Find out whether the sink's event loop has ended; if so, the link is broken."""
        self._wake(_nothing)
        return self.broken

    def _end(self, why: str) -> None:
        if not self.broken:
            self._why = why
        self.broken = True
        self.direct = False
        self._inbox.clear()

    def lost(self) -> ConnectionLost:
        """Return what tells why it is broken."""
        return ConnectionLost(f"memory: the connection {self._why}")

    def close(self) -> None:
        """End the connection from within, on the sink's loop: who still waits for it is told."""
        with self._lock:
            self._end("has ended")
        self._change()

    # ------------------------------------------------------------------ faults

    def break_(self, why: str = "was broken by a scripted fault") -> None:
        """End the connection, as seen from outside."""
        self._end(why)
        self._wake(self._change)

    def stall(self, until: float | None) -> None:
        """Deliver nothing, until then or until :meth:`resume`."""
        self._stalled = True
        self.direct = False
        self.until = until
        self._wake(self._change)

    def resume(self) -> None:
        """Deliver what was held back, and go on."""
        self._stalled = False
        self.until = None
        self._wake(self._empty)
        self._wake(self._change)

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def changed(self) -> None:
        """Wait until it is broken, stalled or resumed."""
        await self._changed.wait()

    async def changed_within(self, seconds: float, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Wait for the same, or until that long was slept."""
        changed = self._changed  # taken before anything else has a turn
        async with anyio.create_task_group() as race:

            async def wait() -> None:
                await sleep(seconds)
                race.cancel_scope.cancel()

            race.start_soon(wait)
            await changed.wait()
            race.cancel_scope.cancel()


def _nothing() -> None:
    """Find out by this call whether there is a loop to call it."""


def _caller() -> Callable[[Call], object]:
    """Return what runs a function soon on the running event loop, from any thread."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        from trio import lowlevel

        return lowlevel.current_trio_token().run_sync_soon
    # In the context of this place: the caller's may be that of another kind of event loop, for which anyio would then make its events.
    return partial(asyncio.get_running_loop().call_soon_threadsafe, context=copy_context())
