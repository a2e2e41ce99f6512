"""Everything that runs while a Realtime is open, put together, and its beginning and end."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import final

import anyio

from ..clock import Clock
from ..codec import Codec
from ..errors import Closed, ConnectFailed, FanwireError, Internal, Timeout, Unavailable
from ..events import ConnectionEvent, ConnectionState, RealtimeStats
from ..transport import HistoryStart, SupportsHistory, Transport
from .connection import Connection, EventQueue
from .host import Host
from .hub import Hub, OnInvalid
from .join import Join, Seam
from .lanes import Lanes
from .log import InterestLog, LogCursor
from .reconciler import Reconciler
from .records import traced
from .states import Phase
from .told import fresh
from .waiter import WaiterFactory, waiter_factory

__all__ = ("Engine",)

_logger = logging.getLogger("fanwire")


@final
class Engine:
    """Hub, lanes, reconciler and connection of one open Realtime."""

    def __init__(
        self,
        transport: Transport,
        *,
        codec: Codec,
        clock: Clock,
        on_invalid: OnInvalid,
        connect_timeout: float,
        linger: float,
        buffer_bytes_total: int,
        hold_bytes: int,
    ) -> None:
        self.transport = transport
        self.clock = clock
        self.new_waiter: WaiterFactory = waiter_factory()
        self.hub: Hub = Hub(
            capabilities=transport.capabilities,
            codec=codec,
            clock=clock,
            budget=buffer_bytes_total,
            hold_bytes=hold_bytes,
            linger=linger,
            on_invalid=on_invalid,
        )
        self.lanes: Lanes = Lanes(transport, codec, clock, self.new_waiter)
        self.connection: Connection = Connection(self.hub, transport, clock, connect_timeout=connect_timeout)
        self.failure: FanwireError | None = None
        self.subscriptions: int = 0
        self._connect_timeout = connect_timeout
        self._linger = linger
        self._settled = anyio.Event()
        """The first connection is made, or none will be."""
        self._host = Host()

    async def open(self) -> None:
        """Start, and wait for the first connection.

        Raises:
            ConnectFailed: none was made within ``connect_timeout`` seconds.
            FanwireError: trying again cannot help.
        """
        self.connection.on_change.append(self._on_change)
        self._host.start(self._main, f"fanwire {self.transport.name}")
        try:
            with anyio.move_on_after(self._connect_timeout):
                await self._settled.wait()
            if self.failure is not None:
                raise fresh(self.failure)
            if not self._settled.is_set():
                reason = self.connection.error
                raise ConnectFailed(
                    f"{self.transport.name}: no connection within {self._connect_timeout:g} s{'' if reason is None else f': {reason}'}"
                ) from reason
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._host.stop()
            raise

    async def close(self, deadline: float) -> None:
        """Flush for at most ``deadline`` seconds, end iterators behind what is queued, and release everything."""
        try:
            with anyio.move_on_after(deadline):
                await self.lanes.flush()
        finally:
            self.hub.end(None)
            with anyio.CancelScope(shield=True):
                await self._host.stop()
            self.lanes.fail(Closed("this Realtime is closed: the message was not sent in time"))
            self.connection.close()

    def abort(self, error: FanwireError) -> None:
        """Give up opening."""
        self.failure = error
        self._settled.set()

    def _on_change(self, up: bool) -> None:
        if up:
            self._settled.set()

    async def _main(self) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                reconciler = Reconciler(self.hub, self.transport, self.clock, tasks, linger=self._linger, command_timeout=self._connect_timeout)
                self.connection.on_change += [reconciler.connected, self.lanes.connected]
                tasks.start_soon(reconciler.run, name="fanwire reconciler")
                tasks.start_soon(self.lanes.run, tasks, name="fanwire lanes")
                tasks.start_soon(self.lanes.deadlines.run, name="fanwire deadlines")
                self._fail(await self.connection.run())
                tasks.cancel_scope.cancel()
        except Exception as error:
            _logger.error("fanwire stopped by an unexpected error", exc_info=traced(error))
            failure = Internal(f"fanwire stopped by an unexpected error: {error!r}")
            failure.__cause__ = error
            self.connection.give_up(failure)
            self._fail(failure)

    def _fail(self, error: FanwireError) -> None:
        self.failure = error
        self.lanes.fail(error)
        self.hub.end(error)
        self._settled.set()

    # ------------------------------------------------------------------ for subscriptions

    async def ready(self, log: InterestLog, timeout: float = math.inf) -> None:
        """Wait until all channels of ``log`` are live at one instant.

        Raises:
            Timeout: that took more than ``timeout`` seconds.
            FanwireError: the broker refuses a channel, or everything has ended.
        """
        with anyio.move_on_after(timeout):
            while True:
                if log.closed:
                    raise fresh(log.error) if log.error is not None else Closed("this Realtime was closed while the subscription was being made")
                pending = next((record for record in log.records if record.phase is not Phase.LIVE), None)
                if pending is None:
                    return
                waiter = self.new_waiter()
                pending.waiters = [*(pending.waiters or ()), waiter]
                try:
                    await waiter
                except BaseException:
                    pending.waiters = [other for other in pending.waiters or () if other is not waiter] or None
                    raise
        state = "" if self.connection.state is ConnectionState.CONNECTED else "; there is no connection to the broker"
        names = [record.name for record in log.records if record.phase is not Phase.LIVE]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise Timeout(f"not subscribed within {timeout:g} s: {', '.join(map(repr, names[:3]))}{more}{state}")

    def join(self, log: InterestLog, cursor: LogCursor, starts: Mapping[str, HistoryStart], before: Seam | None = None) -> Join:
        """Begin a subscription's way through history, or go back to it from behind the seam ``before``."""
        assert isinstance(self.transport, SupportsHistory)
        return Join(self.hub, self.transport, self.clock, log, cursor, starts, before)

    async def retry_history(self, log: InterestLog, error: Unavailable) -> None:
        """Wait, after history could not be read, until reading it again makes sense."""
        _logger.debug("reading history failed: %s", error)
        await self.clock.sleep(0.05)
        await self.ready(log)

    # ------------------------------------------------------------------ figures

    @contextmanager
    def events(self) -> Generator[EventQueue]:
        """Listen to the connection, from its present state on."""
        connection = self.connection
        queue = EventQueue(self.new_waiter)
        queue.put(ConnectionEvent(connection.state, self.clock.time(), 0, connection.error))
        connection.listeners[queue] = None
        try:
            yield queue
        finally:
            del connection.listeners[queue]

    def stats(self) -> RealtimeStats:
        """Return all counters."""
        hub, lanes = self.hub, self.lanes
        return RealtimeStats(
            state=self.connection.state,
            connections=self.connection.connections,
            channels=len(hub.channels),
            subscriptions=self.subscriptions,
            logs=len(hub.logs),
            published=lanes.published,
            publishing=lanes.waiting,
            received=hub.received,
            duplicates=hub.duplicates,
            invalid=hub.invalid,
            gaps=hub.gaps,
            buffered_bytes=hub.budget.used,
        )
