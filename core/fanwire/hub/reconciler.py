"""The one task that talks to the broker about subscriptions: it compares what is wanted with what is there, and sends the difference in batches.

Callers only wait for a channel's phase to change, so cancelling one can never leave the conversation with the broker half way.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import final

import anyio
from anyio.abc import TaskGroup

from ..clock import Clock
from ..errors import FanwireError, Timeout, Unavailable
from ..messages import Cursor, GapReason
from ..transport import SupportsHistory, Transport
from .history import repair
from .hub import Hub
from .states import ChannelRecord, Event, Phase

__all__ = ("Reconciler",)

_logger = logging.getLogger("fanwire.reconciler")

_BATCH = 512
"""Channels named in one command."""

_REPAIRS = 16
"""Histories read at the same time."""

_PAUSE = 0.1
"""Seconds before a refused command is sent again while the connection stands."""


@final
class Reconciler:
    """Keeps the broker's subscriptions equal to the hub's wants, while there is a connection."""

    def __init__(self, hub: Hub, transport: Transport, clock: Clock, tasks: TaskGroup, *, linger: float, command_timeout: float) -> None:
        self._hub = hub
        self._transport = transport
        self._clock = clock
        self._tasks = tasks
        self._linger = linger
        self._command_timeout = command_timeout
        self._connected = False
        self._generation = 0
        self._dirty = anyio.Event()
        self._sweeping = False
        self._repairs = anyio.Semaphore(_REPAIRS)
        hub.wake_reconciler = self._wake
        hub.start_repair = self._start_repair

    def connected(self, up: bool) -> None:
        """Learn whether there is a connection."""
        self._connected = up
        self._wake()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._dirty.wait()
            self._dirty = anyio.Event()
            if self._connected:
                await self._leave()
                await self._ask()
            self._sweep_later()

    def _wake(self) -> None:
        self._dirty.set()

    async def _ask(self) -> None:
        """Subscribe to a batch of the channels that are wanted."""
        hub = self._hub
        batch = [hub.wanted.pop(name) for name in list(hub.wanted)[:_BATCH]]
        if not batch:
            return
        self._generation += 1
        generation = self._generation
        for record in batch:
            record.on(Event.ASK)
            record.generation = generation
        answers: Mapping[str, Cursor | None | FanwireError] = {}
        failure: FanwireError = Timeout(f"the transport did not answer a subscribe within {self._command_timeout:g} s")
        with anyio.move_on_after(self._command_timeout):
            try:
                answers = await self._transport.subscribe({record.name: None for record in batch}, generation)
            except FanwireError as error:
                failure = error
        pause = False
        for record in batch:
            if record.generation == generation:
                pause |= self._answered(record, answers.get(record.name, failure))
        if hub.wanted:
            self._wake()
        if pause and self._connected:
            await self._clock.sleep(_PAUSE)

    def _answered(self, record: ChannelRecord, answer: Cursor | None | FanwireError) -> bool:
        """Act upon the broker's answer for one channel; return whether to pause before asking again."""
        if record.phase is not Phase.ASKED:
            return False
        if not isinstance(answer, FanwireError):
            self._hub.subscribed(record.name, record.generation, answer)
            return False
        if isinstance(answer, Unavailable | Timeout):
            self._hub.lost([record.name], GapReason.DISCONNECTED, None)
            return True
        self._hub.refuse(record, answer)
        return False

    async def _leave(self) -> None:
        """Unsubscribe a batch of the channels that have lingered long enough."""
        hub = self._hub
        now = self._clock.monotonic()
        batch = [record for record in hub.lingering.values() if record.linger_until <= now][:_BATCH]
        if not batch:
            return
        for record in batch:
            del hub.lingering[record.name]
            record.on(Event.EXPIRE)
            record.generation = 0
        with anyio.move_on_after(self._command_timeout):
            try:
                await self._transport.unsubscribe([record.name for record in batch])
            except FanwireError as error:
                # A broken connection has unsubscribed them already; anything else costs the broker some frames that nobody takes.
                _logger.debug("unsubscribing %d channels failed: %s", len(batch), error)
        for record in batch:
            # Whoever came back meanwhile starts anew: what was published in between was not for them.
            record.position, record.loss, record.continuity = None, None, None
            record.on(Event.LEFT_WANTED if record.refs else Event.LEFT)
            if record.refs:
                hub.wanted[record.name] = record
            else:
                hub.forget(record)
        self._wake()

    def _sweep_later(self) -> None:
        """Look at the lingering channels again in a while, all of them together."""
        if self._hub.lingering and not self._sweeping:
            self._sweeping = True
            self._tasks.start_soon(self._sweep, name="fanwire linger")

    async def _sweep(self) -> None:
        await self._clock.sleep(self._linger / 4)
        self._sweeping = False
        self._wake()

    def _start_repair(self, record: ChannelRecord) -> None:
        self._tasks.start_soon(self._repair, record, name=f"fanwire repair {record.name}")

    async def _repair(self, record: ChannelRecord) -> None:
        assert isinstance(self._transport, SupportsHistory)
        async with self._repairs:
            if record.phase is Phase.REPAIRING:
                await repair(self._hub, self._transport, self._clock, record)
