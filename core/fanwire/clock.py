"""Time as a dependency: everything in core that waits, expires or stamps asks a Clock, so that tests need not sleep."""

from __future__ import annotations

from time import monotonic as _monotonic_time
from time import time as _wall_time
from typing import TYPE_CHECKING, Protocol, final

import anyio

__all__ = ("SYSTEM_CLOCK", "Clock", "SystemClock")


class Clock(Protocol):
    """Where core takes the time from."""

    def time(self) -> float:
        """Return seconds since 1970-01-01 UTC, for time stamps and ages."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back, for intervals."""
        ...

    async def sleep(self, seconds: float, /) -> None:
        """Wait that long; a cancellation point."""
        ...


@final
class SystemClock:
    """The machine's own clocks."""

    # The functions themselves, not methods around them: every publish asks for the time.
    if TYPE_CHECKING:  # how a checker is to see them

        def time(self) -> float:
            """Return seconds since 1970-01-01 UTC."""
            ...

        def monotonic(self) -> float:
            """Return seconds that never go back."""
            ...

    else:
        time = staticmethod(_wall_time)
        monotonic = staticmethod(_monotonic_time)

    async def sleep(self, seconds: float, /) -> None:
        """Wait ``seconds`` of the running event loop."""
        await anyio.sleep(seconds)


SYSTEM_CLOCK = SystemClock()
