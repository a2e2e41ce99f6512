"""What becomes of open portals when their process ends or forks.

The interpreter ends in this order: the main thread returns; the hooks of :mod:`threading` run; all threads but daemons are joined; the hooks of :mod:`atexit` run; the rest is torn
down, during which a daemon must not run. So whoever waits for messages is told to stop in the first of these hooks, or such a thread would never be joined; what still publishes may go
on; and portals are closed in the second.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread as _executors
import contextlib
import threading
import time
from typing import Final, Protocol

__all__ = ("CLOSE_WITHIN", "abandon_all", "ended", "opened")

CLOSE_WITHIN: Final = 5.0
"""Seconds that closing may take at the interpreter's exit, all portals together."""


class Ending(Protocol):
    """What a portal is here."""

    def end_waits(self) -> None:
        """Have everybody who waits for messages stop doing so."""
        ...

    def stop(self, deadline: float) -> None:
        """Ask it to close."""
        ...

    def join(self, timeout: float | None = None) -> bool:
        """Wait for its end."""
        ...

    def abandon(self) -> None:
        """Take note that the process is a child of the one it belongs to."""
        ...


_open: set[Ending] = set()
_inherited: Final[list[Ending]] = []
"""Portals of a parent process. They are kept: collected, they would run the clean-up of tasks and transports that are the parent's, whose selector and sockets are shared."""


def opened(portal: Ending) -> None:
    """Watch over a portal."""
    _open.add(portal)


def ended(portal: Ending) -> None:
    """Watch no longer."""
    _open.discard(portal)


def abandon_all() -> None:
    """In the child of a fork: no thread of the parent's portals is here."""
    while _open:
        portal = _open.pop()
        portal.abandon()
        _inherited.append(portal)


def _end_waits() -> None:
    for portal in tuple(_open):
        portal.end_waits()


def _close_all() -> None:
    portals = tuple(_open)
    until = time.monotonic() + CLOSE_WITHIN
    for portal in portals:
        portal.stop(CLOSE_WITHIN)
    for portal in portals:
        # One that is stuck is left behind: it is a daemon, and the exit goes on without it.
        portal.join(max(0.0, until - time.monotonic()) + 1.0)


atexit.register(_close_all)

# Hooks run in the opposite order: behind this import ours comes before the one that joins the threads of executors, which may be waiting for messages, too.
assert _executors
with contextlib.suppress(RuntimeError):  # the interpreter is exiting already
    getattr(threading, "_register_atexit", atexit.register)(_end_waits)
