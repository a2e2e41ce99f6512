"""Other libraries over Redis, each at its best documented setting.

A subscriber gets a validated model. Where a library hands the same bytes to all subscribers they are decoded once, which is more than its users get.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from typing import Any, Protocol, cast

from fanwire.testing.laps import Sample

from .fanout import decode, encode
from .redis_raw import CHANNEL

__all__ = ("broadcaster", "faststream", "litestar")


class _Peer:
    """Publishes one by one, which is all these libraries offer."""

    def subscribe(self) -> AbstractAsyncContextManager[AsyncIterable[Sample]]:
        raise NotImplementedError

    async def publish(self, sample: Sample, /) -> None:
        raise NotImplementedError

    async def publish_many(self, burst: Sequence[Sample], /) -> None:
        for sample in burst:
            await self.publish(sample)

    def index(self, received: Sample, /) -> int:
        return received.index


# ------------------------------------------------------------------ broadcaster


class _Broadcaster(_Peer):
    def __init__(self, broadcast: Any) -> None:  # Any: as annotated, its subscriptions cannot be iterated
        self._broadcast = broadcast
        # Its queues keep messages of several moments: one memory per message, not of the last alone.
        self._decoded: dict[int, tuple[object, Sample]] = {}

    @asynccontextmanager
    async def subscribe(self) -> AsyncGenerator[AsyncIterable[Sample]]:
        async with self._broadcast.subscribe(CHANNEL) as events:
            yield self._messages(events)

    async def _messages(self, events: AsyncIterable[Any]) -> AsyncIterator[Sample]:
        decoded = self._decoded
        async for event in events:
            known = decoded.get(id(event))
            if known is None:
                known = decoded[id(event)] = (event, decode(event.message))  # the event is kept, so that its id is its own
            yield known[1]

    async def publish(self, sample: Sample, /) -> None:
        await self._broadcast.publish(CHANNEL, encode(sample))


@asynccontextmanager
async def broadcaster(port: int) -> AsyncGenerator[_Broadcaster]:
    """Open broadcaster.

    Version 0.3.1 lets its listener go before SUBSCRIBE is sent; redis-py 8 then finds no subscription and the listener gives up, so that nothing is ever delivered.
    Here the two lines are in the other order.
    """
    backend: Any = import_module("broadcaster._backends.redis").RedisBackend  # Any: a class to derive from that is looked up

    class Patched(backend):  # type: ignore[misc]  # as above
        async def subscribe(self, channel: str) -> None:
            await self._pubsub.subscribe(channel)
            self._ready.set()

    async with import_module("broadcaster").Broadcast(backend=Patched(f"redis://127.0.0.1:{port}?protocol=2")) as broadcast:
        yield _Broadcaster(broadcast)


# ------------------------------------------------------------------ Litestar channels


class _Subscriber(Protocol):
    def iter_events(self) -> AsyncGenerator[bytes]: ...


class _Plugin(Protocol):
    """The part of ``litestar.channels.ChannelsPlugin`` that is used."""

    def start_subscription(self, channels: str) -> AbstractAsyncContextManager[_Subscriber]: ...

    async def wait_published(self, data: bytes, channels: str) -> None: ...


class _Litestar(_Peer):
    def __init__(self, plugin: _Plugin) -> None:
        self._plugin = plugin
        self._decoded: dict[int, tuple[object, Sample]] = {}

    @asynccontextmanager
    async def subscribe(self) -> AsyncGenerator[AsyncIterable[Sample]]:
        async with self._plugin.start_subscription(CHANNEL) as subscriber:
            yield self._messages(subscriber.iter_events())

    async def _messages(self, events: AsyncIterable[bytes]) -> AsyncIterator[Sample]:
        decoded = self._decoded
        async for data in events:
            known = decoded.get(id(data))
            if known is None:
                known = decoded[id(data)] = (data, decode(data))
            yield known[1]

    async def publish(self, sample: Sample, /) -> None:
        await self._plugin.wait_published(encode(sample), CHANNEL)


@asynccontextmanager
async def litestar(port: int) -> AsyncGenerator[_Litestar]:
    """Open Litestar's channels: over pub/sub, which its documentation names as the backend of least overhead."""
    from redis.asyncio import Redis

    async with Redis(host="127.0.0.1", port=port, protocol=2) as client:
        backend = import_module("litestar.channels.backends.redis").RedisChannelsPubSubBackend(redis=client)
        async with import_module("litestar.channels").ChannelsPlugin(backend=backend, channels=[CHANNEL]) as plugin:
            yield _Litestar(cast("_Plugin", plugin))


# ------------------------------------------------------------------ FastStream


class _FastStream(_Peer):
    """A handler per subscriber, each with a connection of its own; messages are encoded and validated by the library, as its users do."""

    def __init__(self, broker: Any) -> None:  # Any: a library that is installed for the run
        self._broker = broker

    @asynccontextmanager
    async def subscribe(self) -> AsyncGenerator[AsyncIterable[Sample]]:
        queue: asyncio.Queue[Sample] = asyncio.Queue()

        async def handle(message: Sample) -> None:
            queue.put_nowait(message)

        handle.__annotations__["message"] = Sample  # the class itself, not its name
        subscriber = self._broker.subscriber(CHANNEL)
        cast("Callable[[Callable[[Sample], Awaitable[None]]], object]", subscriber)(handle)
        await subscriber.start()
        try:
            yield _drain(queue)
        finally:
            await subscriber.stop()

    async def publish(self, sample: Sample, /) -> None:
        await self._broker.publish(sample, CHANNEL)


async def _drain(queue: asyncio.Queue[Sample]) -> AsyncIterator[Sample]:
    while True:
        yield await queue.get()
        while not queue.empty():
            yield queue.get_nowait()


@asynccontextmanager
async def faststream(port: int) -> AsyncGenerator[_FastStream]:
    """Open FastStream, with room for a connection per subscriber and publisher, and without its log."""
    broker = import_module("faststream.redis").RedisBroker(f"redis://127.0.0.1:{port}", logger=None, max_connections=200)
    async with broker:
        yield _FastStream(broker)
