"""The ids of outgoing messages: ``<publisher>.<n>``, where ``n`` counts the messages of one channel without a hole."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import final

__all__ = ("Publishers", "TimeStamps")

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def _draw() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(10))


@final
class Publishers:
    """Publisher and counter of each channel, in a bounded table.

    A channel goes on under a fresh publisher when one of its messages finally failed or its outcome is unknown, and when its counter was evicted: subscribers would take
    a number that never comes for a loss, and a number that comes twice for a repeat.
    """

    def __init__(self, limit: int = 65_536) -> None:
        self._limit = limit
        self._default = _draw()
        self._counts: dict[str, int] = {}
        self._names: dict[str, str] = {}

    def take(self, channel: str) -> str:
        """Return the next id of ``channel``."""
        n = self._counts.get(channel)
        if n is None:
            if len(self._counts) >= self._limit:
                self._evict()
            n = 0
        self._counts[channel] = n = n + 1
        return f"{self._names.get(channel, self._default)}.{n}"

    def untake(self, channel: str) -> None:
        """Give the latest id back: nothing was handed over under it."""
        self._counts[channel] -= 1

    def renew(self, channel: str) -> None:
        """Go on under a fresh publisher."""
        self._names[channel] = _draw()
        self._counts[channel] = 0

    def _evict(self) -> None:
        for channel in list(self._counts)[: max(1, self._limit // 2)]:
            del self._counts[channel]
            self._names.pop(channel, None)
        self._rename_rest()

    def _rename_rest(self) -> None:
        """Keep the remaining channels' publisher, and give those to come another."""
        for channel in self._counts:
            self._names.setdefault(channel, self._default)
        self._default = _draw()


@final
class TimeStamps:
    """RFC 3339 time stamps in UTC, microseconds; the part down to the second is written once a second."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._second = -1
        self._prefix = ""

    def __call__(self) -> str:
        """Return the present time."""
        micros = int(self._now() * 1e6)
        second, fraction = divmod(micros, 1_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return "%s.%06dZ" % (self._prefix, fraction)  # noqa: UP031 - half the cost of an f-string with a width, on every publish
