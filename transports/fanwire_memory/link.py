"""One connection: the way from the broker to a sink on some event loop."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import final

import anyio

from fanwire.messages import Cursor
from fanwire.transport import Sink

__all__ = ("Link",)

Call = Callable[[], None]


@final
class Link:
    """Delivers on the sink's own event loop: directly when called there, else through an inbox that the loop is woken to empty.

    Its methods are called with the broker's lock held, so that the inbox keeps the broker's order; only the awaited ones are not.
    """

    def __init__(self, sink: Sink, lock: threading.RLock, *, stalled: bool) -> None:
        self.channels: set[str] = set()
        self.broken = False
        self.delay: float | None = None
        """Seconds after which a stall is to end by itself."""
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
        """Bring a frame to the sink, which cannot be called at once."""
        self._later(lambda: self.sink.deliver(channel, generation, frame, position, prev))

    def _later(self, call: Call) -> None:
        self.direct = False
        self._inbox.append(call)
        if len(self._inbox) == 1 and not self._stalled:
            self._wake(self._empty)

    def _empty(self) -> None:
        """Hand over what has come; on the sink's loop."""
        with self._lock:
            while self._inbox and not self._stalled and not self.broken:
                self._inbox.popleft()()
            self.direct = not self._stalled

    def _wake(self, call: Call) -> None:
        try:
            self._call_soon(call)
        except RuntimeError:
            # The loop ended without closing this connection; there is nobody to deliver to.
            self.broken = True

    # ------------------------------------------------------------------ faults

    def break_(self) -> None:
        """End the connection, as seen from outside."""
        self.broken = True
        self._inbox.clear()
        self._wake(self._change)

    def stall(self, seconds: float | None) -> None:
        """Deliver nothing, for ``seconds`` or until :meth:`resume`."""
        self._stalled = True
        self.direct = False
        self.delay = seconds
        self._wake(self._change)

    def resume(self) -> None:
        """Deliver what was held back, and go on."""
        self._stalled = False
        self.delay = None
        self._wake(self._empty)
        self._wake(self._change)

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def changed(self) -> None:
        """Wait until it is broken, stalled or resumed."""
        await self._changed.wait()


def _caller() -> Callable[[Call], object]:
    """Return what runs a function soon on the running event loop, from any thread."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        from trio import lowlevel

        return lowlevel.current_trio_token().run_sync_soon
    return asyncio.get_running_loop().call_soon_threadsafe
