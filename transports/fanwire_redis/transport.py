"""The transport's face towards fanwire: one shard per server, channels to shards, and whether they live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import ClassVar, Self, TypeVar, final

import anyio
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot

from fanwire.capabilities import Capabilities
from fanwire.errors import ConfigError, ConnectionLost, FanwireError, Internal, Unsupported
from fanwire.messages import Cursor, Receipt
from fanwire.transport import HistoryPage, HistoryStart, Outbound, Sink, TransportOptions

from .client import Master, deployment_of, open_connection
from .names import Names
from .options import RedisOptions
from .shard import Shard
from .wire import ServerError, Wire, take_over

__all__ = ("RedisTransport",)

T = TypeVar("T")

_NEEDED = {"redis": (7, 0), "valkey": (7, 2)}
"""Versions that number the entries of a stream as history needs it."""

_SLOTS = 16384


@final
class RedisTransport:
    """Messages over Redis. See the package's docstring.

    Args:
        options: Everything a URL can say.
        client: A client of the application's, to make connections as it does. It is not closed.

    Raises:
        ConfigError: the URL is wrong.
    """

    name: ClassVar[str] = "redis"
    options_model: ClassVar[type[TransportOptions]] = RedisOptions

    def __init__(self, options: RedisOptions | None = None, *, client: Redis | RedisCluster | None = None) -> None:
        self._options = options or RedisOptions()
        self._own = client is None
        self._deployment = deployment_of(self._options, client)
        self._names = Names(self._options.namespace)
        self._keeps = self._options.history > 0
        self._epochs: dict[str, str] = {}
        self._shards: list[Shard] = []
        self._by_slot: list[Shard] = []
        """The shard of each slot; empty outside of a cluster."""

    @classmethod
    def from_options(cls, options: TransportOptions, /) -> Self:
        """Build it from its options."""
        assert isinstance(options, RedisOptions)
        return cls(options)

    def copy(self, /) -> Self:
        """See :class:`fanwire.transport.SupportsCopy`."""
        if not self._own:
            raise ConfigError("a redis client that was passed in belongs to one event loop: make the transport from a URL or options")
        return type(self)(self._options)

    def __repr__(self) -> str:
        return f"<RedisTransport {self._deployment.where} namespace={self._options.namespace!r} history={self._options.history}>"

    @property
    def capabilities(self) -> Capabilities:
        """With history everything but reading since a time; without it plain publish and subscribe."""
        keeps = self._keeps
        return Capabilities(
            delivery="exactly_once" if keeps else "at_most_once",
            ordering="channel",
            history=frozenset({"earliest", "last_n", "after_cursor"}) if keeps else frozenset(),
            multi_process=True,
            confirmed_publish=True,
            confirmed_subscribe=True,
            idempotent_publish=keeps,
            links="contiguous" if keeps else "none",
            max_payload=self._options.max_payload,
        )

    # ------------------------------------------------------------------ the connection

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None]:
        """See :class:`fanwire.transport.Transport`."""
        shards: list[Shard] = []
        connections: list[AbstractConnection] = []
        try:
            by_slot: dict[int, Shard] = {}
            for master in await self._deployment.masters():
                shard = Shard(self._options, self._names, sink, sharded=self._deployment.sharded, epochs=self._epochs)
                shards.append(shard)
                await self._open(shard, master, connections)
                by_slot |= dict.fromkeys((slot for slots in master.slots for slot in slots), shard)
            self._by_slot = [by_slot[slot] for slot in range(_SLOTS)] if by_slot else []
            self._shards = shards
            async with anyio.create_task_group() as tasks:
                for shard in shards:
                    tasks.start_soon(self._watch, shard)
                    tasks.start_soon(self._probe, shard)
                yield
                tasks.cancel_scope.cancel()
        finally:
            self._shards, self._by_slot = [], []
            with anyio.CancelScope(shield=True):
                for shard in shards:
                    await shard.close()
                for connection in connections:
                    await connection.disconnect(nowait=True)
                await self._deployment.close()

    async def _open(self, shard: Shard, master: Master, connections: list[AbstractConnection]) -> None:
        connections.append(await open_connection(master.connection, master.where))
        shard.commands = take_over(connections[-1])
        if self._keeps:
            await self._check_version(shard.commands, master.where)
        connections.append(await open_connection(master.connection, master.where))
        shard.pushes = take_over(connections[-1], shard.on_push)

    async def _check_version(self, commands: Wire, where: str) -> None:
        (reply,) = await commands.send([("INFO", "server")], 1)
        if isinstance(reply, ServerError):
            return  # a user who may not ask; the first publish will show
        facts = dict(line.partition(":")[::2] for line in reply.decode().splitlines() if ":" in line)
        kind = "valkey" if "valkey_version" in facts else "redis"
        version = facts.get(f"{kind}_version", "0")
        if tuple(int(part) if part.isdecimal() else 0 for part in version.split(".")[:2]) < _NEEDED[kind]:
            needed = " or ".join(f"{name.capitalize()} {major}.{minor}" for name, (major, minor) in _NEEDED.items())
            raise Unsupported(f"redis: {where} is {kind.capitalize()} {version}; history needs {needed}: upgrade it, or set history=0")

    async def _watch(self, shard: Shard) -> None:
        """End with the first connection that does."""
        closed = [asyncio.ensure_future(wire.closed.wait()) for wire in (shard.commands, shard.pushes)]
        try:
            await asyncio.wait(closed, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in closed:
                waiting.cancel()
        broken = shard.commands if shard.commands.closed.is_set() else shard.pushes
        if isinstance(broken.error, FanwireError):
            raise broken.error
        raise ConnectionLost(f"redis: {self._deployment.where} closed the connection{f': {broken.error}' if broken.error else ''}") from broken.error

    async def _probe(self, shard: Shard) -> None:
        """Find a connection that is half open, and keep what is subscribed from expiring."""
        refreshed = anyio.current_time()
        while True:
            await anyio.sleep(self._options.probe)
            with anyio.move_on_after(self._options.probe) as waiting:
                await shard.ping()
                if self._keeps and anyio.current_time() - refreshed >= self._options.ttl / 3:
                    refreshed = anyio.current_time()
                    await shard.refresh()
            if waiting.cancelled_caught:
                raise ConnectionLost(f"redis: {self._deployment.where} did not answer a probe within {self._options.probe:g} s")

    def _shard(self, channel: str) -> Shard:
        if not self._shards:
            raise ConnectionLost("redis: there is no connection")
        return self._by_slot[key_slot(self._names.channel(channel))] if self._by_slot else self._shards[0]

    def _split(self, channels: Iterable[str]) -> dict[Shard, list[str]]:
        """Group channels by their shards."""
        found: dict[Shard, list[str]] = {}
        for channel in channels:
            found.setdefault(self._shard(channel), []).append(channel)
        return found

    # ------------------------------------------------------------------ messages

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        """See :class:`fanwire.transport.Transport`."""
        if not self._by_slot:
            return await self._send(self._shard(""), batch)
        parts: dict[Shard, list[int]] = {}
        for index, message in enumerate(batch):
            parts.setdefault(self._shard(message.channel), []).append(index)
        if len(parts) == 1:
            return await self._send(next(iter(parts)), batch)
        results: list[Receipt | FanwireError | None] = [None] * len(batch)

        async def send(shard: Shard, indices: list[int]) -> None:
            try:
                answers = await self._send(shard, [batch[index] for index in indices])
            except FanwireError as error:
                answers = [error] * len(indices)
            for index, answer in zip(indices, answers, strict=True):
                results[index] = answer

        async with anyio.create_task_group() as tasks:
            for shard, indices in parts.items():
                tasks.start_soon(send, shard, indices)
        return [Internal("redis: no answer") if result is None else result for result in results]

    async def _send(self, shard: Shard, batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        return await (shard.publish(batch) if self._keeps else shard.publish_plain(batch))

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        """See :class:`fanwire.transport.Transport`."""
        answers: dict[str, Cursor | None | FanwireError] = {}
        for shard, channels in self._split(wanted).items():
            answers |= await shard.subscribe(channels, generation)
        return answers

    async def unsubscribe(self, channels: Collection[str], /) -> None:
        """See :class:`fanwire.transport.Transport`."""
        for shard, part in self._split(channels).items():
            shard.unsubscribe(part)

    async def history(self, channel: str, /, *, start: HistoryStart, limit: int) -> HistoryPage:
        """See :class:`fanwire.transport.SupportsHistory`."""
        if isinstance(start, datetime):
            raise Unsupported("redis: history cannot be read since a time")
        return await self._shard(channel).page(channel, start, limit)

    async def ping(self, /) -> None:
        """See :class:`fanwire.transport.Transport`."""
        if not self._shards:
            raise ConnectionLost("redis: there is no connection")
        for shard in self._shards:
            await shard.ping()

    def native(self, kind: type[T], /) -> T:
        """See :class:`fanwire.transport.Transport`."""
        client = self._deployment.client
        if isinstance(client, kind):
            return client
        raise Unsupported(f"the redis transport has no {kind.__name__}; it has {type(client).__name__}")
