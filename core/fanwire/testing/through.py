"""A transport that passes everything on to another one: the base of whatever comes between fanwire and a transport, to watch it, to hold something up, or to break it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar, Self, TypeVar, cast

import anyio
from anyio.abc import TaskStatus

from ..capabilities import Capabilities
from ..errors import FanwireError, Unavailable
from ..messages import Cursor, GapReason, Receipt
from ..transport import HistoryPage, HistoryStart, Outbound, Sink, SupportsHistory, Transport, TransportOptions

__all__ = ("ReconnectsItself", "Through", "ThroughSink")

T = TypeVar("T")


class ThroughSink:
    """Passes on to the hub whatever a transport delivers; override a method to come between."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink

    def subscribed(self, channel: str, generation: int, position: Cursor | None, /) -> None:
        """See :class:`fanwire.transport.Sink`."""
        self.sink.subscribed(channel, generation, position)

    def deliver(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None, /) -> None:
        """See :class:`fanwire.transport.Sink`."""
        self.sink.deliver(channel, generation, frame, position, prev)

    def lost(self, channels: Collection[str] | None, reason: GapReason, lost: int | None, /) -> None:
        """See :class:`fanwire.transport.Sink`."""
        self.sink.lost(channels, reason, lost)


class Through:
    """Passes on to a transport whatever is asked of it; override a method to come between.

    It has a history like the other one's, and no immediate publish: each goes through :meth:`publish`.
    """

    name: ClassVar[str] = "through"
    options_model: ClassVar[type[TransportOptions]] = TransportOptions

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.connections: int = 0
        """How often a connection was asked for."""

    @classmethod
    def from_options(cls, options: TransportOptions, /) -> Self:
        """It is made around a transport, never from options."""
        raise NotImplementedError(options)

    @property
    def capabilities(self) -> Capabilities:
        """The other one's."""
        return self.transport.capabilities

    def around(self, sink: Sink) -> Sink:
        """Return what the other one delivers to; by default the hub itself."""
        return sink

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None]:
        """See :class:`fanwire.transport.Transport`."""
        self.connections += 1
        async with self.transport.run(self.around(sink)):
            yield

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        """See :class:`fanwire.transport.Transport`."""
        return await self.transport.publish(batch)

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        """See :class:`fanwire.transport.Transport`."""
        return await self.transport.subscribe(wanted, generation)

    async def unsubscribe(self, channels: Collection[str], /) -> None:
        """See :class:`fanwire.transport.Transport`."""
        await self.transport.unsubscribe(channels)

    async def ping(self, /) -> None:
        """See :class:`fanwire.transport.Transport`."""
        await self.transport.ping()

    async def history(self, channel: str, /, *, start: HistoryStart, limit: int) -> HistoryPage:
        """See :class:`fanwire.transport.SupportsHistory`."""
        return await cast("SupportsHistory", self.transport).history(channel, start=start, limit=limit)  # only asked of one that declares it

    def native(self, kind: type[T], /) -> T:
        """See :class:`fanwire.transport.Transport`."""
        return self.transport.native(kind)


class ReconnectsItself(Through):
    """A transport whose client reconnects by itself, and says so."""

    tells: ClassVar[bool] = True

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None]:
        """Stay for longer than one connection."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._stay, sink)
            yield
            tasks.cancel_scope.cancel()

    async def _stay(self, sink: Sink, *, task_status: TaskStatus[None]) -> None:
        live = False
        while True:
            try:
                async with super().run(sink):
                    if not live:
                        live = True
                        task_status.started()
                    elif self.tells:
                        sink.lost(None, GapReason.DISCONNECTED, None)
                    await anyio.sleep_forever()
            except* Unavailable:  # a task group of the transport's may have wrapped it
                if not live:
                    raise
                await anyio.sleep(0.005)
