"""The limit and the raw client: hiredis on a bare asyncio protocol, and redis-py, each with one connection to receive and the same local fan-out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Generic, TypeVar

import hiredis
from redis.asyncio import Redis

from fanwire.testing.laps import Sample

from .fanout import SharedLog, decode, encode

__all__ = ("CHANNEL", "limit", "limit_without_codec", "raw")

T = TypeVar("T")

CHANNEL = "bench"
_HOST = "127.0.0.1"
_pack: Callable[[tuple[object, ...]], bytes] = vars(hiredis)["pack_command"]  # its stub says a tuple of one


def _index(received: Sample) -> int:
    return received.index


# ------------------------------------------------------------------ redis-py


class RawSubject:
    """redis-py with hiredis: a pipeline for a burst; a pool, which is its default, where publishers are concurrent; ``listen()`` to receive."""

    index = staticmethod(_index)

    def __init__(self, client: Any, log: SharedLog[Sample]) -> None:
        self._client = client  # Any: redis-py's methods are typed in part
        self._log = log
        self._one = asyncio.Lock()

    def subscribe(self) -> AbstractAsyncContextManager[Any]:
        return self._log.subscribe()

    async def publish(self, sample: Sample, /) -> None:
        await self._client.publish(CHANNEL, encode(sample))

    async def publish_many(self, burst: Sequence[Sample], /) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for sample in burst:
            pipeline.publish(CHANNEL, encode(sample))
        async with self._one:  # one connection: on several, bursts would mix
            await pipeline.execute()


async def _listen(messages: Any, log: SharedLog[Sample]) -> None:
    push = log.push
    async for message in messages.listen():
        if message["type"] == "message":
            push(decode(message["data"]))


@asynccontextmanager
async def raw(port: int) -> AsyncGenerator[RawSubject]:
    """Open the raw client."""
    log = SharedLog[Sample]()
    made: Any = Redis(host=_HOST, port=port, protocol=2)  # Any: as above
    async with made as client, client.pubsub() as messages:
        await messages.subscribe(CHANNEL)
        listening = asyncio.create_task(_listen(messages, log))
        try:
            yield RawSubject(client, log)
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening


# ------------------------------------------------------------------ the limit


class _Publishing(asyncio.Protocol):
    """Sends commands and counts replies."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._calls: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._replies = 0
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        while reader.gets() is not False:
            self._replies += 1
        while self._calls and self._replies >= self._calls[0][0]:
            count, done = self._calls.popleft()
            self._replies -= count
            done.set_result(None)

    async def send(self, commands: bytes, count: int) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls.append((count, done))
        self._transport.write(commands)
        await done


class _Receiving(asyncio.Protocol):
    """Takes messages from what the server pushes."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._reader = hiredis.Reader()
        self._take = take
        self.subscribed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(_pack(("SUBSCRIBE", CHANNEL)))

    def data_received(self, data: bytes) -> None:
        reader, take = self._reader, self._take
        reader.feed(data)
        while (reply := reader.gets()) is not False:
            if reply[0] == b"message":
                take(reply[2])
            else:
                self.subscribed.set_result(None)


class LimitSubject(Generic[T]):
    """Commands packed by hiredis, one write for a burst, replies counted and not looked at: no library can do less."""

    def __init__(self, publishing: _Publishing, log: SharedLog[T], encode: Callable[[Sample], bytes], index: Callable[[T], int]) -> None:
        self._publishing = publishing
        self._log = log
        self._encode = encode
        self.index = index

    def subscribe(self) -> AbstractAsyncContextManager[Any]:
        return self._log.subscribe()

    async def publish(self, sample: Sample, /) -> None:
        await self.publish_many((sample,))

    async def publish_many(self, burst: Sequence[Sample], /) -> None:
        pack, encode = _pack, self._encode
        commands = b"".join([pack(("PUBLISH", CHANNEL, encode(sample))) for sample in burst])
        await self._publishing.send(commands, len(burst))


@asynccontextmanager
async def _limit(
    port: int, encode: Callable[[Sample], bytes], decode: Callable[[bytes], T], index: Callable[[T], int]
) -> AsyncGenerator[LimitSubject[T]]:
    loop = asyncio.get_running_loop()
    log = SharedLog[T]()
    push = log.push
    receiving, receiver = await loop.create_connection(lambda: _Receiving(lambda data: push(decode(data))), _HOST, port)
    publishing, sender = await loop.create_connection(_Publishing, _HOST, port)
    try:
        await receiver.subscribed
        yield LimitSubject(sender, log, encode, index)
    finally:
        receiving.close()
        publishing.close()


def limit(port: int) -> AbstractAsyncContextManager[LimitSubject[Sample]]:
    """Open the limit for validated messages."""
    return _limit(port, encode, decode, _index)


def limit_without_codec(port: int) -> AbstractAsyncContextManager[LimitSubject[bytes]]:
    """Open the limit for bytes: they are made before, and nobody looks into them."""
    made: dict[int, bytes] = {}

    def ready(sample: Sample) -> bytes:
        return made.get(sample.index) or made.setdefault(sample.index, encode(sample))

    return _limit(port, ready, lambda data: data, lambda data: decode(data).index)
