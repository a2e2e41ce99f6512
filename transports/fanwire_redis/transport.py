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
from fanwire.errors import ConfigError, ConnectFailed, ConnectionLost, FanwireError, Internal, Unauthenticated, Unavailable, Unsupported
from fanwire.messages import Cursor, Receipt
from fanwire.transport import HistoryPage, HistoryStart, Outbound, Sink, TransportOptions

from .client import Master, deployment_of, open_connection
from .errors import is_transient
from .names import Names
from .options import RedisOptions
from .remembered import Remembered
from .shard import Shard
from .wire import Command, ServerError, Wire, take_over

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
        self._names = Names(self._options.namespace, self._deployment.db)
        self._keeps = self._options.history > 0
        self._remembered = Remembered()
        self._former: list[tuple[str, str, str]] = []
        """Where the last connections for commands were made to, and what the server called them."""
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
                shard = Shard(self._options, self._names, sink, sharded=self._deployment.sharded, remembered=self._remembered)
                shards.append(shard)
                await self._open(shard, master, connections)
                by_slot |= dict.fromkeys((slot for slots in master.slots for slot in slots), shard)
            self._by_slot = [by_slot[slot] for slot in range(_SLOTS)] if by_slot else []
            self._shards = shards
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, [wire for shard in shards for wire in (shard.commands, shard.subscriber.wire)])
                for shard in shards:
                    tasks.start_soon(self._probe, shard)
                    if self._keeps:
                        tasks.start_soon(self._refresh, shard)
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
        patience = self._options.patience
        own = self._options.client_name if self._own else ""
        name: list[Command] = [("CLIENT", "SETNAME", own)] if own else []
        connections.append(await open_connection(master.connection, master.where, patience))
        shard.commands = take_over(connections[-1])
        with anyio.move_on_after(patience) as waiting:
            await self._introduce(shard.commands, name, master.where)
            connections.append(await open_connection(master.connection, master.where, patience))
            shard.subscriber.attach(take_over(connections[-1], shard.subscriber.on_pushes))
            for command in name:
                await shard.subscriber.say(command)
        if waiting.cancelled_caught:
            raise ConnectFailed(f"redis: {master.where} did not answer within {patience:g} s")

    async def _introduce(self, commands: Wire, name: Sequence[Command], where: str) -> None:
        """Give the connection its name, have the server drop the one before it, and look whether the server will do.

        What was sent on a connection that broke may still be on its way: run after this connection has looked whether it was, it would be there twice. A user who may do
        none of this goes without.
        """
        kills: list[Command] = [("CLIENT", "KILL", "ID", id, "ADDR", address) for place, id, address in self._former if place == where]
        asked: list[Command] = [*name, *kills, ("PING",), ("CLIENT", "INFO"), ("INFO", "server"), ("INFO", "replication")]
        told = await commands.send(asked, len(asked))
        for answer in told:
            if isinstance(answer, ServerError) and answer.code == "NOAUTH":
                raise Unauthenticated(f"redis: {where} wants credentials, and the URL has none: redis://user:password@host") from answer
        *_, ping, client, server, replication = told
        if isinstance(ping, ServerError) and is_transient(ping):
            raise ConnectFailed(f"redis: {where} is not ready: {ping}") from ping
        self._former = [known for known in self._former if known[0] != where]
        if not isinstance(client, ServerError):
            facts = _facts(client.decode(errors="replace").split(), "=")
            self._former.append((where, facts.get("id", ""), facts.get("addr", "")))
        if not isinstance(server, ServerError) and (self._keeps or self._deployment.sharded):
            self._check_server(_facts(server.decode(errors="replace").splitlines(), ":"), where)
        if self._keeps and not isinstance(replication, ServerError) and b"role:slave" in replication:
            raise ConnectFailed(f"redis: {where} is a replica at the moment, and takes no writes: the URL has to name a master")

    def _check_server(self, facts: Mapping[str, str], where: str) -> None:
        if facts.get("redis_mode", facts.get("server_mode")) == "cluster" and not self._deployment.sharded:
            raise Unsupported(f"redis: {where} is one server of a cluster: use redis+cluster://")
        kind = "valkey" if "valkey_version" in facts else "redis"
        version = facts.get(f"{kind}_version", "0")
        if tuple(int(part) if part.isdecimal() else 0 for part in version.split(".")[:2]) < _NEEDED[kind]:
            needed = " or ".join(f"{name.capitalize()} {major}.{minor}" for name, (major, minor) in _NEEDED.items())
            raise Unsupported(f"redis: {where} is {kind.capitalize()} {version}; history and clusters need {needed}: upgrade it, or set history=0")

    async def _watch(self, wires: Sequence[Wire]) -> None:
        """End with the first connection that does."""
        await asyncio.wait([wire.ended for wire in wires], return_when=asyncio.FIRST_COMPLETED)
        broken = next(wire for wire in wires if wire.ended.done())
        if isinstance(broken.error, FanwireError):
            raise broken.error
        raise ConnectionLost(f"redis: {self._deployment.where} closed the connection{f': {broken.error}' if broken.error else ''}") from broken.error

    async def _probe(self, shard: Shard) -> None:
        """Find a connection that is half open."""
        while True:
            await anyio.sleep(self._options.probe)
            if not await self._answers(shard):
                raise ConnectionLost(f"redis: {self._deployment.where} did not answer a probe within {self._options.probe:g} s")
            if await self._deployment.moved(shard.commands.connection):
                raise ConnectionLost(f"redis: {self._deployment.where} is another server now")

    async def _answers(self, shard: Shard) -> bool:
        for patience in (self._options.probe, self._options.probe / 10):  # the second for when it was this process that had no time
            with anyio.move_on_after(patience):
                await shard.ping()
                return True
        return False

    async def _refresh(self, shard: Shard) -> None:
        """Keep what is subscribed from expiring."""
        while True:
            await anyio.sleep(max(self._options.ttl / 3, 0.01))
            await shard.refresh()

    def _shard(self, channel: str) -> Shard:
        if not self._shards:
            raise Unavailable("redis: there is no connection")
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
            return await self._shard("").publish(batch)
        parts: dict[Shard, list[int]] = {}
        for index, message in enumerate(batch):
            parts.setdefault(self._shard(message.channel), []).append(index)
        if len(parts) == 1:
            return await next(iter(parts)).publish(batch)
        results: list[Receipt | FanwireError | None] = [None] * len(batch)
        failures: list[FanwireError] = []

        async def send(shard: Shard, indices: list[int]) -> None:
            try:
                answers = await shard.publish([batch[index] for index in indices])
            except FanwireError as error:
                failures.append(error)
                answers = [error] * len(indices)
            for index, answer in zip(indices, answers, strict=True):
                results[index] = answer

        async with anyio.create_task_group() as tasks:
            for shard, indices in parts.items():
                tasks.start_soon(send, shard, indices)
        if failures:
            lost = next((failure for failure in failures if isinstance(failure, ConnectionLost)), None)
            if lost is not None:
                raise lost
            if len(failures) == len(parts):
                raise failures[0]
            raise ConnectionLost(f"{failures[0]} (others of the same batch were accepted)") from failures[0]
        return [Internal("redis: no answer") if result is None else result for result in results]

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        """See :class:`fanwire.transport.Transport`."""
        parts = self._split(wanted)
        if len(parts) == 1:
            ((shard, channels),) = parts.items()
            return await shard.subscribe(channels, generation)
        answers: dict[str, Cursor | None | FanwireError] = {}
        failures: list[FanwireError] = []

        async def ask(shard: Shard, channels: list[str]) -> None:
            try:
                answers.update(await shard.subscribe(channels, generation))
            except FanwireError as error:
                failures.append(error)

        async with anyio.create_task_group() as tasks:
            for shard, channels in parts.items():
                tasks.start_soon(ask, shard, channels)
        if failures:
            raise failures[0]
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


def _facts(words: Iterable[str], sign: str) -> dict[str, str]:
    return {name: value for name, _, value in (word.partition(sign) for word in words)}
