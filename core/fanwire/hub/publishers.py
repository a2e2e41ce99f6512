"""The ids of outgoing messages: ``<publisher>.<n>``, where ``n`` counts the messages of one channel without a hole."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import final

__all__ = ("Counter", "Publishers", "TimeStamps")

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def _draw() -> str:
    """Return a random publisher, about 60 bits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(10))


@final
class Counter:
    """One channel's publisher and the last number taken."""

    __slots__ = ("n", "prefix")

    def __init__(self, publisher: str) -> None:
        self.prefix: str = f"{publisher}."
        self.n: int = 0


@final
class Publishers:
    """Publisher and counter of each channel, in a bounded table.

    A channel goes on under a fresh publisher when one of its messages finally failed or its outcome is unknown, and when its counter was evicted: subscribers would take
    a number that never comes for a loss, and a number that comes twice for a repeat.
    """

    def __init__(self, limit: int = 65_536) -> None:
        self._limit = limit
        self._default = _draw()
        """Publisher of channels that are not in the table."""
        self.table: dict[str, Counter] = {}
        """Counter of each channel; read by the hot path, changed only here."""

    def counter(self, channel: str) -> Counter:
        """Return the counter of ``channel``."""
        counter = self.table.get(channel)
        if counter is None:
            self._make_room(channel)
            counter = self.table[channel] = Counter(self._default)
        return counter

    def take(self, channel: str) -> str:
        """Return the next id of ``channel``."""
        counter = self.counter(channel)
        counter.n += 1
        return f"{counter.prefix}{counter.n}"

    def renew(self, channel: str) -> None:
        """Go on under a fresh publisher."""
        self._make_room(channel)
        self.table[channel] = Counter(_draw())

    def _make_room(self, newcomer: str) -> None:
        """Forget the older half of a full table; those channels, should they come back, get a publisher that nobody has seen."""
        if newcomer in self.table or len(self.table) < self._limit:
            return
        for channel in list(self.table)[: max(1, self._limit // 2)]:
            del self.table[channel]
        self._default = _draw()


@final
class TimeStamps:
    """RFC 3339 time stamps in UTC, to the millisecond: written once for all messages of the same one."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._from = self._until = 0.0
        self._text = ""

    def __call__(self) -> str:
        """Return the present time."""
        now = self._now()
        if self._from <= now < self._until:
            return self._text
        tick = int(now * 1000)
        seconds, millis = divmod(tick, 1000)
        self._from, self._until = tick / 1000, (tick + 1) / 1000
        self._text = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{millis:03d}Z"
        return self._text
