"""The harnesses of the Redis transport: on one server with and without history, on a cluster, and behind sentinels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Generator
from contextlib import AsyncExitStack, contextmanager
from types import TracebackType
from typing import ClassVar, Literal, Self

import redis
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.asyncio import RedisCluster as ClusterClient
from redis.asyncio.sentinel import SentinelConnectionPool

from fanwire.capabilities import Capabilities
from fanwire.testing.harness import Harness
from fanwire.testing.proxy import FaultProxy
from fanwire_redis import RedisOptions, RedisTransport
from fanwire_redis.names import fresh_epoch
from fanwire_redis.scripts import PUBLISH
from tests.servers.processes import free_ports
from tests.servers.redis import ForeignServer, RedisCluster, RedisServer, Sentinels, command, external, valkey_server

__all__ = ("ClusterHarness", "Hybrid", "Plain", "PlainCluster", "SentinelHarness", "Valkey", "cluster", "sentinels", "server", "stop_all", "valkey")

_running: list[Callable[[], None]] = []


@functools.cache
def server() -> RedisServer:
    """Return the server that all tests share that do not break it for others."""
    elsewhere = external()
    made = ForeignServer(elsewhere) if elsewhere else RedisServer("--enable-debug-command", "yes")
    _running.append(made.stop)
    made.start()
    return made


@functools.cache
def valkey() -> RedisServer:
    """Return the shared server that is a Valkey."""
    made = RedisServer("--enable-debug-command", "yes", program=valkey_server())
    _running.append(made.stop)
    made.start()
    return made


@functools.cache
def cluster() -> RedisCluster:
    """Return the shared cluster."""
    made = RedisCluster()
    _running.append(made.stop)
    made.start()
    return made


@functools.cache
def sentinels() -> Sentinels:
    """Return the shared sentinels with their servers."""
    made = Sentinels(down_after=60_000)  # a server that is restarted is not replaced
    _running.append(made.stop)
    made.start()
    return made


def stop_all() -> None:
    """Stop what was started."""
    while _running:
        _running.pop()()
    for shared in (server, valkey, cluster, sentinels):
        shared.cache_clear()


class RedisHarness(Harness):
    """What all have in common: a fault proxy of its own before each server. The servers are looked at, and told to forget, by plain clients."""

    probe: ClassVar[float] = 0.8
    half_open = 2.1 * probe
    crowd = 1_000  # each is asked for, and its bytes pass the proxy, in this process
    native: ClassVar[tuple[type, ...]] = (Redis,)
    defaults: ClassVar[dict[str, object]] = {}
    scheme: ClassVar[str] = "redis"

    def __init__(self, namespace: str) -> None:
        super().__init__(namespace)
        self._proxies = {server.port: FaultProxy((server.host, server.port)) for server in self.servers()}
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for proxy in self._proxies.values():
            await self._open.enter_async_context(proxy)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self._open.aclose()

    @classmethod
    def capabilities(cls) -> Capabilities:
        """They depend on the options only: to collect the tests, no server has to run."""
        return RedisTransport(RedisOptions.model_validate(cls.defaults)).capabilities

    # ------------------------------------------------------------------ where

    @classmethod
    def servers(cls) -> list[RedisServer]:
        """Return the servers that get a proxy."""
        return [server()]

    @classmethod
    def masters(cls) -> list[RedisServer]:
        """Return the servers that take writes."""
        return cls.servers()

    @classmethod
    def location(cls) -> str:
        """Return the URL by which others reach the servers."""
        return cls.servers()[0].url

    def proxied(self, address: tuple[str, int]) -> tuple[str, int]:
        """Return the proxy's address for a server's, if it has one."""
        proxy = self._proxies.get(address[1])
        return address if proxy is None else proxy.address

    def through(self, options: RedisOptions) -> RedisTransport:
        """Return a transport that comes to the servers through the proxies."""
        ((host, port),) = (proxy.address for proxy in self._proxies.values())
        return RedisTransport(options.model_copy(update={"url": SecretStr(f"redis://{host}:{port}")}))

    def options(self, **options: object) -> RedisOptions:
        return RedisOptions.model_validate({"namespace": self.namespace, "probe": self.probe, **self.defaults, **options})

    def transport(self, **options: object) -> RedisTransport:
        return self.through(self.options(**options))

    def plain(self) -> RedisTransport:
        return self.transport(history=0)

    def absent(self) -> RedisTransport:
        return RedisTransport(self.options(url=SecretStr(f"redis://127.0.0.1:{free_ports()[0]}")))

    def unauthorised(self) -> RedisTransport:
        return RedisTransport(self.options(url=SecretStr(f"{self.scheme}://nobody:wrong@{self.location().partition('://')[2]}")))

    def url(self) -> str:
        joint = "&".join(f"{name}={value}" for name, value in {"namespace": self.namespace, **self.defaults}.items())
        return f"{self.location()}?{joint}"

    def schemes(self) -> Collection[str]:
        return (self.scheme,)

    # ------------------------------------------------------------------ the network

    async def cut(self) -> None:
        for proxy in self._proxies.values():
            await proxy.cut()

    async def stall(self) -> None:
        for proxy in self._proxies.values():
            proxy.stall()

    async def resume(self) -> None:
        for proxy in self._proxies.values():
            proxy.resume()

    async def lose_answer(self) -> None:
        await self.truncate(0, "down")

    async def truncate(self, after_bytes: int, direction: Literal["up", "down"]) -> None:
        for proxy in self._proxies.values():
            proxy.truncate(after_bytes, direction)

    # ------------------------------------------------------------------ the servers

    @contextmanager
    def at(self, channel: str | None = None) -> Generator[list[redis.Redis]]:
        """Give clients of the masters, or of the one that has ``channel``."""
        clients = [master.client() for master in self.masters()]
        try:
            if channel is None or len(clients) == 1:
                yield clients
            else:
                slot = command(clients[0], "CLUSTER KEYSLOT", self.stream(channel))
                yield [client for client in clients if any(first <= slot <= last for first, last in _slots(client))]
        finally:
            for client in clients:
                client.close()

    def channel(self, channel: str) -> str:
        return f"{{{self.namespace}:{channel}}}"

    def stream(self, channel: str) -> str:
        return f"{self.channel(channel)}:s"

    async def restart(self, *, keep: bool) -> None:
        for master in self.masters():
            master.restart(keep=keep)

    async def subscriptions(self) -> int:
        which = "SHARDCHANNELS" if len(self.masters()) > 1 else "CHANNELS"
        with self.at() as clients:
            return sum(len(command(client, "PUBSUB", which, f"{{{self.namespace}:*")) for client in clients)

    async def inject(self, channel: str, frame: bytes) -> None:
        """As a foreign client does that knows where fanwire stores and publishes."""
        publish = "SPUBLISH" if len(self.masters()) > 1 else "PUBLISH"
        with self.at(channel) as (client,):
            if self.defaults.get("history") == 0:
                command(client, publish, self.channel(channel), frame)
            else:
                arguments = (publish, self.channel(channel), 1000, 600_000, "", fresh_epoch(), 600_000, "plain", b"00000000 " + frame)
                command(client, "EVAL", PUBLISH.source, 1, self.stream(channel), *arguments)


def _slots(client: redis.Redis) -> list[tuple[int, int]]:
    port = client.connection_pool.connection_kwargs["port"]
    return [(first, last) for first, last, master, *_ in command(client, "CLUSTER", "SLOTS") if master[1] == port]


if external() is not None:
    RedisHarness.restart = Harness.restart  # type: ignore[method-assign]  # a server that others may use is not restarted


class Hybrid(RedisHarness):
    """One server, with history."""

    def bounded(self, count: int) -> RedisTransport:
        return self.transport(history=count)

    async def stored(self, channel: str) -> int:
        with self.at(channel) as (client,):
            return int(client.xlen(self.stream(channel)))

    async def trim(self, channel: str, keep: int) -> None:
        with self.at(channel) as (client,):
            client.xtrim(self.stream(channel), maxlen=keep, approximate=False)

    async def recreate(self, channel: str) -> None:
        with self.at(channel) as (client,):
            client.delete(self.stream(channel))

    async def rewind(self, channel: str, back: int) -> None:
        """As a replica has it that was behind when it was promoted."""
        with self.at(channel) as (client,):
            entries = command(client, "XRANGE", self.stream(channel), "-", "+")
            epoch, _, number = entries[-1][0].partition(b"-")
            last = f"{epoch.decode()}-{int(number) - back}"
            with client.pipeline(transaction=True) as pipeline:  # made anew, for newer servers do not let a stream go back
                pipeline.delete(self.stream(channel))
                for id, fields in entries[:-back]:
                    pipeline.xadd(self.stream(channel), fields, id)
                if len(entries) == back:
                    pipeline.xadd(self.stream(channel), {"d": ""}, last)
                    pipeline.xdel(self.stream(channel), last)
                pipeline.execute()


class Valkey(Hybrid):
    """One server of another make, and newer."""

    @classmethod
    def servers(cls) -> list[RedisServer]:
        return [valkey()]


class Plain(RedisHarness):
    """One server, without history."""

    defaults: ClassVar[dict[str, object]] = {"history": 0}


class ClusterHarness(Hybrid):
    """A cluster, with history. A restart of all of it is a test of its own."""

    native: ClassVar[tuple[type, ...]] = (ClusterClient,)
    scheme = "redis+cluster"
    restart = Harness.restart

    @classmethod
    def servers(cls) -> list[RedisServer]:
        return cluster().servers[:3]

    @classmethod
    def location(cls) -> str:
        return cluster().url

    def through(self, options: RedisOptions) -> RedisTransport:
        hosts = ",".join(f"{host}:{port}" for host, port in (self.proxied(("", master.port)) for master in self.masters()))
        transport = RedisTransport(options.model_copy(update={"url": SecretStr(f"{self.scheme}://{hosts}")}))
        transport.native(ClusterClient).nodes_manager.address_remap = self.proxied  # the servers name one another by their own addresses
        return transport


class PlainCluster(ClusterHarness):
    """A cluster, without history."""

    defaults: ClassVar[dict[str, object]] = Plain.defaults


class SentinelHarness(Hybrid):
    """The master that sentinels name."""

    scheme = "redis+sentinel"

    @classmethod
    def servers(cls) -> list[RedisServer]:
        return sentinels().servers

    @classmethod
    def masters(cls) -> list[RedisServer]:
        return [sentinels().master()]

    @classmethod
    def location(cls) -> str:
        return sentinels().url

    def through(self, options: RedisOptions) -> RedisTransport:
        transport = RedisTransport(options.model_copy(update={"url": SecretStr(self.location())}))
        pool = transport.native(Redis).connection_pool
        assert isinstance(pool, SentinelConnectionPool)
        named = pool.get_master_address

        async def proxied() -> tuple[str, int]:
            return self.proxied(await named())  # type: ignore[no-untyped-call]  # redis-py's

        pool.get_master_address = proxied  # type: ignore[method-assign]  # where the sentinel's word meets the network
        return transport
