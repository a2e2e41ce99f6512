"""Connecting and reconnecting: one task that keeps entering the transport's ``run()``, with exponential backoff and full jitter, for as long as trying can help."""

from __future__ import annotations

import logging
import math
import random
from collections import deque
from collections.abc import Callable
from typing import Self, final

import anyio

from ..clock import Clock
from ..errors import AuthError, ConfigError, ConnectFailed, ConnectionLost, FanwireError, Internal, Unsupported
from ..events import ConnectionEvent, ConnectionState
from ..messages import GapReason
from ..transport import Transport
from .hub import Hub
from .records import summary, traced
from .waiter import Waiter, WaiterFactory

__all__ = ("Connection", "EventQueue", "backoff")

_logger = logging.getLogger("fanwire.connection")

_FIRST_DELAY = 0.05
_MAX_DELAY = 10.0
_LASTING = 10.0
"""Seconds after which a connection counts as a good one."""
_TERMINAL = (AuthError, ConfigError, Unsupported, Internal)
"""Trying again cannot help."""


def backoff(attempt: int, uniform: Callable[[float, float], float] = random.uniform) -> float:
    """Return the seconds to wait after failed attempt number ``attempt`` (from 1): full jitter under an exponential bound of at most 10 s."""
    return uniform(0.0, min(_MAX_DELAY, _FIRST_DELAY * 2 ** min(attempt, 16)))


@final
class Connection:
    """The state of one Realtime's connection, and who wants to hear of it."""

    def __init__(self, hub: Hub, transport: Transport, clock: Clock, *, connect_timeout: float) -> None:
        self.state: ConnectionState = ConnectionState.CONNECTING
        self.connections: int = 0
        self.error: FanwireError | None = None
        """Why the last attempt failed; kept when given up."""
        self.on_change: list[Callable[[bool], None]] = []
        """Called with whether there is a connection now."""
        self.listeners: dict[EventQueue, None] = {}
        self._hub = hub
        self._transport = transport
        self._clock = clock
        self._connect_timeout = connect_timeout
        self._attempt = 0
        self._failures = 0
        """Connections in a row that were not made or did not last: a broker that accepts and drops is not to be hammered either."""

    async def run(self) -> FanwireError:
        """Stay connected until that is hopeless; return why."""
        while True:
            self._attempt += 1
            self._tell(ConnectionState.CONNECTING, None)
            error = await self._once()
            self.error = error
            self._failures += 1
            if isinstance(error, _TERMINAL):
                _logger.error("%s: giving up: %s", self._transport.name, summary(error))
                self.give_up(error)
                return error
            if self._attempt:
                _logger.warning("%s: connection attempt %d failed: %s", self._transport.name, self._attempt, error)
            else:
                _logger.warning("%s: the connection was lost: %s", self._transport.name, error)
            self._tell(ConnectionState.DISCONNECTED, error)
            await self._clock.sleep(backoff(self._failures))

    async def _once(self) -> FanwireError:
        """Live through one connection; return why it ended."""
        up = False
        began = self._clock.monotonic()
        try:
            with anyio.CancelScope(deadline=anyio.current_time() + self._connect_timeout) as connecting:
                async with self._transport.run(self._hub):
                    connecting.deadline = math.inf
                    up = True
                    self._up()
                    await anyio.sleep_forever()
            if connecting.cancelled_caught:
                return ConnectFailed(f"{self._transport.name}: no connection within {self._connect_timeout:g} s")
            return ConnectionLost(f"{self._transport.name}: the connection ended")
        except (FanwireError, ExceptionGroup) as error:
            return _reason(error)
        except Exception as error:
            _logger.error("%s: unexpected error in the transport", self._transport.name, exc_info=traced(error))
            failure = Internal(f"{self._transport.name}: unexpected {type(error).__name__} in the transport: {error}")
            failure.__cause__ = error
            return failure
        finally:
            if up:
                if self._clock.monotonic() - began >= _LASTING:
                    self._failures = 0
                for tell in self.on_change:
                    tell(False)
                self._hub.lost(None, GapReason.DISCONNECTED, None)

    def _up(self) -> None:
        self._attempt = 0
        self.connections += 1
        self.error = None
        self._tell(ConnectionState.CONNECTED, None)
        for tell in self.on_change:
            tell(True)

    def give_up(self, error: FanwireError) -> None:
        """Tell listeners that there will be no further attempt."""
        self.error = error
        self._tell(ConnectionState.FAILED, error)

    def close(self) -> None:
        """Tell listeners that it is over."""
        if self.state is not ConnectionState.CLOSED:
            self._tell(ConnectionState.CLOSED, self.error if self.state is ConnectionState.FAILED else None)

    def _tell(self, state: ConnectionState, error: FanwireError | None) -> None:
        self.state = state
        event = ConnectionEvent(state, self._clock.time(), self._attempt, error)
        for listener in self.listeners:
            listener.put(event)


@final
class EventQueue:
    """The connection events that one listener has not taken yet; the oldest of more than 256 are given up."""

    def __init__(self, new_waiter: WaiterFactory) -> None:
        self._events: deque[ConnectionEvent] = deque(maxlen=256)
        self._new_waiter = new_waiter
        self._waiter: Waiter | None = None
        self._ended = False

    def put(self, event: ConnectionEvent) -> None:
        """Add an event and wake the listener."""
        self._events.append(event)
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ConnectionEvent:
        """Wait for the next event; a cancelled wait loses none. Ends behind CLOSED."""
        if self._ended:
            raise StopAsyncIteration
        while not self._events:
            self._waiter = self._new_waiter()
            await self._waiter
        event = self._events.popleft()
        self._ended = event.state is ConnectionState.CLOSED
        return event


def _reason(error: FanwireError | ExceptionGroup[Exception]) -> FanwireError:
    """Pick the error to act upon; a driver's task group may have wrapped it."""
    if isinstance(error, FanwireError):
        return error
    ours, others = error.split(FanwireError)
    if ours is None or others is not None:
        failure = Internal(f"unexpected errors in the transport: {error}")
        failure.__cause__ = error
        return failure
    first: BaseException = ours
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, FanwireError)
    return first
