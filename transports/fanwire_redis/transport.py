"""The transport's face towards fanwire, for one server at a time: standalone, behind a Unix socket, or the master that sentinels name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, ClassVar, Self, TypeVar, final

import anyio
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from fanwire.capabilities import Capabilities
from fanwire.errors import ConnectionLost, FanwireError, Unsupported
from fanwire.messages import Cursor, Receipt
from fanwire.transport import HistoryPage, HistoryStart, Outbound, Sink, TransportOptions

from .client import make_client, where_is
from .errors import connect_error
from .names import Names
from .options import RedisOptions
from .shard import Shard
from .wire import ServerError, take_over

__all__ = ("RedisTransport",)

T = TypeVar("T")

_NEEDED = {"redis": (7, 0), "valkey": (7, 2)}
"""Versions that number the entries of a stream as history needs it."""


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

    def __init__(self, options: RedisOptions | None = None, *, client: Redis | None = None) -> None:
        self._options = options or RedisOptions()
        self._own = client is None
        self._client: Redis = client if client is not None else make_client(self._options)
        self._names = Names(self._options.namespace)
        self._epochs: dict[str, str] = {}
        self._shard: Shard | None = None

    @classmethod
    def from_options(cls, options: TransportOptions, /) -> Self:
        """Build it from its options."""
        assert isinstance(options, RedisOptions)
        return cls(options)

    def __repr__(self) -> str:
        return f"<RedisTransport {where_is(self._client)} namespace={self._options.namespace!r} history={self._options.history}>"

    @property
    def capabilities(self) -> Capabilities:
        """With history everything but reading since a time; without it plain publish and subscribe."""
        keeps = self._options.history > 0
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

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None]:
        """See :class:`fanwire.transport.Transport`."""
        shard = Shard(self._options, self._names, sink, sharded=False, epochs=self._epochs)
        connections: list[AbstractConnection] = []
        try:
            connections.append(await self._connect())
            shard.commands = take_over(connections[0])
            connections.append(await self._connect())
            shard.pushes = take_over(connections[1], shard.on_push)
            if self._options.history > 0:
                await self._check_version(shard)
            self._shard = shard
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, shard)
                tasks.start_soon(self._probe, shard)
                yield
                tasks.cancel_scope.cancel()
        finally:
            self._shard = None
            with anyio.CancelScope(shield=True):
                await shard.close()
                for connection in connections:
                    await connection.disconnect(nowait=True)
                if self._own:
                    await self._client.connection_pool.disconnect()

    async def _connect(self) -> AbstractConnection:
        connection: AbstractConnection = self._client.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py's
        try:
            await connection.connect()  # type: ignore[no-untyped-call]  # as above
        except Exception as error:
            await connection.disconnect(nowait=True)
            raise connect_error(error, where_is(self._client)) from error
        return connection

    async def _check_version(self, shard: Shard) -> None:
        (reply,) = await shard.commands.send([("INFO", "server")], 1)
        if isinstance(reply, ServerError):
            return  # a user who may not ask; the first publish will show
        facts = dict(line.partition(":")[::2] for line in reply.decode().splitlines() if ":" in line)
        kind = "valkey" if "valkey_version" in facts else "redis"
        version = facts.get(f"{kind}_version", "0")
        if tuple(int(part) if part.isdecimal() else 0 for part in version.split(".")[:2]) < _NEEDED[kind]:
            needed = " or ".join(f"{name.capitalize()} {major}.{minor}" for name, (major, minor) in _NEEDED.items())
            raise Unsupported(
                f"redis: {where_is(self._client)} is {kind.capitalize()} {version}; history needs {needed}: upgrade it, or set history=0"
            )

    async def _watch(self, shard: Shard) -> None:
        """End with the first connection that does."""
        closed = [asyncio.ensure_future(wire.closed.wait()) for wire in (shard.commands, shard.pushes)]
        try:
            await asyncio.wait(closed, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in closed:
                waiting.cancel()
        broken = shard.commands if shard.commands.closed.is_set() else shard.pushes
        if isinstance(broken.error, ConnectionLost):
            raise broken.error
        raise ConnectionLost(f"redis: {where_is(self._client)} closed the connection{f': {broken.error}' if broken.error else ''}") from broken.error

    async def _probe(self, shard: Shard) -> None:
        """Find a connection that is half open, and keep what is subscribed from expiring."""
        refreshed = anyio.current_time()
        while True:
            await anyio.sleep(self._options.probe)
            with anyio.move_on_after(self._options.probe) as waiting:
                await shard.ping()
                if self._options.history > 0 and anyio.current_time() - refreshed >= self._options.ttl / 3:
                    refreshed = anyio.current_time()
                    await shard.refresh()
            if waiting.cancelled_caught:
                raise ConnectionLost(f"redis: {where_is(self._client)} did not answer a probe within {self._options.probe:g} s")

    def _connected(self) -> Shard:
        if self._shard is None:
            raise ConnectionLost("redis: there is no connection")
        return self._shard

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        """See :class:`fanwire.transport.Transport`."""
        shard = self._connected()
        return await (shard.publish(batch) if self._options.history > 0 else shard.publish_plain(batch))

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        """See :class:`fanwire.transport.Transport`."""
        return await self._connected().subscribe(wanted, generation)

    async def unsubscribe(self, channels: Collection[str], /) -> None:
        """See :class:`fanwire.transport.Transport`."""
        await self._connected().unsubscribe(channels)

    async def history(self, channel: str, /, *, start: HistoryStart, limit: int) -> HistoryPage:
        """See :class:`fanwire.transport.SupportsHistory`."""
        if isinstance(start, datetime):
            raise Unsupported("redis: history cannot be read since a time")
        return await self._connected().page(channel, start, limit)

    async def ping(self, /) -> None:
        """See :class:`fanwire.transport.Transport`."""
        await self._connected().ping()

    def native(self, kind: type[T], /) -> T:
        """See :class:`fanwire.transport.Transport`."""
        client: Any = self._client  # Any: a caller's type may be any
        if isinstance(client, kind):
            return client
        raise Unsupported(f"the redis transport has no {kind.__name__}; it has {type(client).__name__}")
