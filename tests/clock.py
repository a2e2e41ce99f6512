"""Time that passes only when a test says so."""

from __future__ import annotations

import anyio
from anyio.lowlevel import checkpoint

__all__ = ("ManualClock",)


class ManualClock:
    """A ``fanwire.clock.Clock``. Nothing that sleeps on it goes on before :meth:`advance`."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._start = self._now = start
        self._sleepers: list[tuple[float, anyio.Event]] = []
        self.slept: list[float] = []
        """What was asked for, in order: the seconds of each sleep."""

    def time(self) -> float:
        """Return seconds since 1970-01-01 UTC."""
        return self._now

    def monotonic(self) -> float:
        """Return seconds since the clock was made."""
        return self._now - self._start

    async def sleep(self, seconds: float, /) -> None:
        """Wait until the clock was advanced that far."""
        self.slept.append(seconds)
        if seconds <= 0:
            await checkpoint()
            return
        sleeper = (self._now + seconds, anyio.Event())
        self._sleepers.append(sleeper)
        try:
            await sleeper[1].wait()
        finally:
            self._sleepers.remove(sleeper)

    @property
    def sleepers(self) -> int:
        """How many tasks sleep."""
        return len(self._sleepers)

    def advance(self, seconds: float) -> None:
        """Let time pass, and wake who has slept long enough."""
        self._now += seconds
        for until, wake in self._sleepers:
            if until <= self._now:
                wake.set()
