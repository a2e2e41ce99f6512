"""A transport that does as little as one may, and its harness: best effort, without order, history or confirmation, and a network that loses and swaps.

Stands for a third party's: nothing here but ``fanwire`` is imported, and tests build a wheel of this very file.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar, NoReturn, Self, TypeVar
from urllib.parse import urlsplit

import anyio
from anyio.lowlevel import checkpoint

from fanwire.capabilities import Capabilities
from fanwire.errors import ConfigError, ConnectionLost, FanwireError, PayloadTooLarge, Unsupported
from fanwire.messages import Cursor, Receipt
from fanwire.testing.harness import Harness
from fanwire.transport import Outbound, Sink, TransportOptions

__all__ = ("LARGEST", "Ether", "PoorHarness", "PoorTransport")

T = TypeVar("T")

LARGEST = 70_000
"""Bytes of a frame that goes through."""

_LOST = 13
_SWAPPED = 5
"""Of so many frames one is lost, or exchanged with the next."""


class Ether:
    """What all transports of one name in the process send into, and hear whatever was not lost. Knows nothing but channels and who listens; for one event loop at a time."""

    _known: ClassVar[dict[str, Ether]] = {}

    def __init__(self) -> None:
        self.listeners: dict[str, dict[PoorTransport, int]] = {}
        self._count = 0
        self._swapped: tuple[str, bytes] | None = None

    @classmethod
    def named(cls, name: str) -> Ether:
        """Return the one of that name."""
        return cls._known.setdefault(name, cls())

    def send(self, channel: str, frame: bytes) -> None:
        """Deliver a frame, or lose it, or keep it until the next one has gone."""
        self._count += 1
        if self._count % _LOST == 0:
            return
        late, self._swapped = self._swapped, None
        if late is None and self._count % _SWAPPED == 0:
            self._swapped = (channel, frame)
            return
        self._deliver(channel, frame)
        if late is not None:
            self._deliver(*late)

    def _deliver(self, channel: str, frame: bytes) -> None:
        for transport, generation in list(self.listeners.get(channel, {}).items()):
            transport.hear(channel, generation, frame)

    def forget(self, transport: PoorTransport, channels: Collection[str]) -> None:
        """Let a transport hear these channels no more."""
        for channel in channels:
            listeners = self.listeners.get(channel, {})
            listeners.pop(transport, None)
            if not listeners:
                self.listeners.pop(channel, None)


class PoorTransport:
    """Derives from nothing of fanwire, and declares nothing that can be left out."""

    name: ClassVar[str] = "poor"
    options_model: ClassVar[type[TransportOptions]] = TransportOptions

    def __init__(self, options: TransportOptions) -> None:
        self._options = options
        self._ether = Ether.named(f"{urlsplit(options.url.get_secret_value()).netloc}/{options.namespace}")
        self._sink: Sink | None = None
        self._wanted: dict[str, int] = {}

    @classmethod
    def from_options(cls, options: TransportOptions, /) -> Self:
        """Take ``poor://name``, and nothing else."""
        parts = urlsplit(options.url.get_secret_value())
        if parts.path or "@" in parts.netloc:
            raise ConfigError("a poor URL is poor://name: it has neither path nor user")
        return cls(options)

    @property
    def capabilities(self) -> Capabilities:
        """What it promises: that a message arrives once, if at all."""
        return Capabilities(
            delivery="at_most_once",
            ordering="none",
            multi_process=False,
            confirmed_publish=False,
            confirmed_subscribe=False,
            max_payload=LARGEST,
            max_channel_bytes=100,
        )

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None]:
        """Listen to the ether; to each channel a little after that was asked for."""
        self._sink, self._wanted = sink, {}
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._tune)
                yield
                tasks.cancel_scope.cancel()
        finally:
            self._sink = None
            self._ether.forget(self, list(self._ether.listeners))

    async def _tune(self) -> None:
        """Begin to hear what is wanted by now, again and again: nobody is told when."""
        while True:
            for channel, generation in self._wanted.items():
                self._ether.listeners.setdefault(channel, {})[self] = generation
            await anyio.sleep(0.002)

    def hear(self, channel: str, generation: int, frame: bytes) -> None:
        """Take a frame from the ether."""
        if self._sink is not None:
            self._sink.deliver(channel, generation, frame, None, None)

    def _connected(self) -> Sink:
        if self._sink is None:
            raise ConnectionLost("poor: there is no connection")
        return self._sink

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        """Send, and hope."""
        self._connected()
        await checkpoint()
        return [self._send(message) for message in batch]

    def _send(self, message: Outbound) -> Receipt | FanwireError:
        if len(message.frame) > LARGEST:
            return PayloadTooLarge(message.channel, message.topic, len(message.frame), LARGEST)
        self._ether.send(message.channel, message.frame)
        return Receipt(message.id, message.channel, message.topic, None, duplicate=False)

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        """Note what to listen to."""
        sink = self._connected()
        for channel in wanted:
            self._wanted[channel] = generation
            sink.subscribed(channel, generation, None)
        return dict.fromkeys(wanted)

    async def unsubscribe(self, channels: Collection[str], /) -> None:
        """Listen no more."""
        for channel in channels:
            self._wanted.pop(channel, None)
        self._ether.forget(self, channels)

    async def ping(self, /) -> None:
        """Reach what is always there."""
        self._connected()
        await checkpoint()

    def native(self, kind: type[T], /) -> NoReturn:
        """Have nothing to give."""
        raise Unsupported(f"the poor transport has no {kind.__name__}; it has no client at all")


class PoorHarness(Harness):
    """An ether for each namespace."""

    patience = 5.0
    crowd = 2_000

    def transport(self, **options: object) -> PoorTransport:
        return PoorTransport(TransportOptions.model_validate({"namespace": self.namespace, **options}))

    async def subscriptions(self) -> int:
        return len(Ether.named(f"/{self.namespace}").listeners)

    async def inject(self, channel: str, frame: bytes) -> None:
        Ether.named(f"/{self.namespace}").send(channel, frame)
