"""The transport's face towards fanwire."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar, Self, TypeVar, final
from urllib.parse import unquote, urlsplit

import anyio
from pydantic import Field

from fanwire.capabilities import Capabilities
from fanwire.clock import SYSTEM_CLOCK, Clock
from fanwire.errors import ConfigError, ConnectionLost, FanwireError, Unsupported
from fanwire.messages import Cursor, Receipt
from fanwire.transport import HistoryPage, HistoryStart, Outbound, Sink, TransportOptions

from .broker import Limits, MemoryBroker, shared_broker
from .faults import Faults
from .link import Link

__all__ = ("MemoryOptions", "MemoryTransport")

T = TypeVar("T")


@final
class MemoryOptions(TransportOptions):
    """Options of ``memory://``."""

    history: int = Field(default=1000, ge=0)
    """Messages kept per channel; 0 keeps none."""

    ttl: float = Field(default=300.0, gt=0)
    """Seconds a message is kept."""

    max_bytes: int = Field(default=64 * 2**20, ge=0)
    """Bytes of all histories together; the channel published to longest ago gives up its oldest first."""

    max_payload: int = Field(default=2**20, ge=1)
    """Bytes of one encoded message."""


@final
class MemoryTransport:
    """Messages within the process. See the package's docstring.

    Example::

        transport = MemoryTransport()
        async with Realtime(transport) as rt:
            transport.faults.disconnect()

    Args:
        name: Name of a broker that is shared in the process; by default one of its own.
        options: Everything else.
        clock: Where time comes from, for a broker of its own; for tests.

    Raises:
        ConfigError: a named broker is open already with other limits, or is given a clock.
    """

    name: ClassVar[str] = "memory"
    options_model: ClassVar[type[TransportOptions]] = MemoryOptions

    def __init__(self, name: str = "", /, options: MemoryOptions | None = None, *, clock: Clock = SYSTEM_CLOCK) -> None:
        options = options or MemoryOptions()
        if name and clock is not SYSTEM_CLOCK:
            raise ConfigError(f"a named broker is shared, it takes no clock: leave out the name {name!r} or clock=")
        limits = Limits(options.history, options.ttl, options.max_bytes)
        self._use(shared_broker(name, options.namespace, limits) if name else MemoryBroker(limits, shared=False, clock=clock), options)

    def _use(self, broker: MemoryBroker, options: MemoryOptions) -> None:
        self._broker = broker
        self._faults = Faults(broker)
        self._options = options
        self._link: Link | None = None

    @classmethod
    def from_options(cls, options: TransportOptions, /) -> Self:
        """Build it from its options; the URL's host is the name of the broker."""
        assert isinstance(options, MemoryOptions)
        parts = urlsplit(options.url.get_secret_value())
        if parts.path.strip("/") or "@" in parts.netloc:
            raise ConfigError("a memory URL is memory:// or memory://name: it has neither path nor user")
        return cls(unquote(parts.netloc), options)

    def copy(self, /) -> Self:
        """See :class:`fanwire.transport.SupportsCopy`. A broker without a name is shared from now on: each use of it takes a lock."""
        self._broker.share()
        other = type(self).__new__(type(self))
        other._use(self._broker, self._options)  # noqa: SLF001  # of this very class
        return other

    def __repr__(self) -> str:
        return f"<MemoryTransport namespace={self._options.namespace!r} history={self._options.history}>"

    @property
    def faults(self) -> Faults:
        """Scripted faults of its broker."""
        return self._faults

    @property
    def capabilities(self) -> Capabilities:
        """Everything, within the process; without ``history`` nothing is kept and nothing is repeated."""
        keeps = self._options.history > 0
        return Capabilities(
            delivery="exactly_once" if keeps else "at_most_once",
            ordering="channel",
            history=frozenset({"earliest", "last_n", "after_cursor", "since_time"}) if keeps else frozenset(),
            multi_process=False,
            confirmed_publish=True,
            confirmed_subscribe=True,
            idempotent_publish=keeps,
            links="contiguous",
            max_payload=self._options.max_payload,
            async_backends=frozenset({"asyncio", "trio"}),
        )

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None, None]:
        """See :class:`fanwire.transport.Transport`."""
        link = self._link = self._broker.connect(sink)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, link, tasks.cancel_scope)
                yield
                tasks.cancel_scope.cancel()
        finally:
            lost = link.lost() if link.broken else None
            self._broker.disconnect_link(link)
            link.close()
            if self._link is link:
                self._link = None
        if lost is not None:
            raise lost

    async def _watch(self, link: Link, scope: anyio.CancelScope) -> None:
        """End stalls that last for a time, and the connection when it breaks."""
        while not link.broken:
            clock, until = self._broker.clock, link.until
            if until is None:
                await link.changed()
            elif (left := until - clock.monotonic()) > 0:
                await link.changed_within(left, clock.sleep)
            else:
                self._broker.end_delay()
        scope.cancel()

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        """See :class:`fanwire.transport.Transport`."""
        link = await self._unblocked()
        return self._broker.publish(link, batch)

    def publish_now(self, channel: str, topic: str, id: str, key: str | None, frame: bytes, /) -> Receipt | None:
        """See :class:`fanwire.transport.SupportsImmediatePublish`."""
        broker, link = self._broker, self._link
        if broker.shared:
            with broker.lock:
                return None if link is None or link.broken or broker.hindered else broker.accept(channel, topic, id, key, frame, broker.now())
        # Only one thread is here: the lock would cost a twentieth of a publish.
        return None if link is None or link.broken or broker.hindered else broker.accept(channel, topic, id, key, frame, broker.now())

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        """See :class:`fanwire.transport.Transport`."""
        link = await self._unblocked()
        return self._broker.subscribe(link, wanted, generation)

    async def unsubscribe(self, channels: Collection[str], /) -> None:
        """See :class:`fanwire.transport.Transport`."""
        self._broker.unsubscribe(self._connected(), channels)

    async def history(self, channel: str, /, *, start: HistoryStart, limit: int) -> HistoryPage:
        """See :class:`fanwire.transport.SupportsHistory`."""
        return self._broker.history(self._connected(), channel, start, limit)

    async def ping(self, /) -> None:
        """See :class:`fanwire.transport.Transport`."""
        await self._unblocked()

    def native(self, kind: type[T], /) -> T:
        """See :class:`fanwire.transport.Transport`."""
        for own in (self._broker, self._faults):
            if isinstance(own, kind):  # pyright: ignore[reportUnnecessaryIsInstance]  # a caller's type may be theirs
                return own
        raise Unsupported(f"the memory transport has no {kind.__name__}; it has MemoryBroker and Faults")

    def _connected(self) -> Link:
        if self._link is None or self._link.broken:
            raise ConnectionLost("memory: there is no connection")
        return self._link

    async def _unblocked(self) -> Link:
        """Return the link, once no scripted fault blocks it."""
        link = self._connected()
        while self._broker.blocked:
            await link.changed()
            if link.broken:
                raise link.lost()
        return link
