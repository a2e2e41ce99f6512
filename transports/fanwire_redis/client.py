"""The redis-py client that connections are made with: it knows hosts, sentinels, clusters, TLS and credentials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol, cast, final

import anyio
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection, Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from fanwire.errors import ConnectFailed, FanwireError, Unsupported

from .errors import connect_error
from .options import RedisOptions, Target, parse_target

__all__ = ("Deployment", "Master", "deployment_of", "open_connection")

_DEFAULT: Final = "redis://localhost:6379"
_SENTINEL: Final = 2.0
"""Seconds that one sentinel may take to answer."""


@final
class Master(NamedTuple):
    """A server that takes writes."""

    where: str
    connection: Callable[[], AbstractConnection]
    """Makes a connection that is not connected yet."""

    slots: Sequence[range]
    """Of a cluster; empty outside of one."""


class Deployment(Protocol):
    """Servers that are one place to publish to."""

    @property
    def client(self) -> object:
        """The redis-py client."""
        ...

    @property
    def where(self) -> str:
        """Where that is, without credentials."""
        ...

    @property
    def sharded(self) -> bool:
        """Whether channels are spread over servers."""
        ...

    @property
    def db(self) -> int:
        """Number of the database."""
        ...

    async def masters(self) -> Sequence[Master]:
        """Find the servers to connect to."""
        ...

    async def moved(self, connection: AbstractConnection) -> bool:
        """Tell whether another server has taken the place of the one that this connection leads to. As long as nobody can say so, it has not."""
        ...

    async def close(self) -> None:
        """Close what the client has opened by itself."""
        ...


def deployment_of(options: RedisOptions, client: Redis | RedisCluster | None) -> Deployment:
    """Return where a transport with these options connects to. No I/O.

    Raises:
        ConfigError: the URL is wrong.
    """
    if isinstance(client, RedisCluster):
        return Cluster(client, own=False, patience=options.patience)
    if client is not None:
        return Single(client, own=False, patience=options.patience)
    target = parse_target(options.url.get_secret_value() or _DEFAULT)
    shared: dict[str, Any] = {  # Any: keyword arguments of the client
        **target.credentials(),
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),  # core tries again, with a bound on the whole
        "socket_connect_timeout": None,
        "socket_timeout": None,
    }
    if target.scheme == "redis+cluster":
        nodes = [ClusterNode(host, port) for host, port in target.hosts]
        arguments: dict[str, Any] = {**shared, "startup_nodes": nodes, **({"ssl": True, **_tls(options)} if options.tls else {})}  # Any: as above
        return Cluster(RedisCluster(**arguments), own=True, patience=options.patience)
    return Single(_single(options, target, shared), own=True, patience=options.patience)


def _single(options: RedisOptions, target: Target, shared: dict[str, Any]) -> Redis:  # Any: as above
    shared = {**shared, "db": target.db}
    if target.scheme == "redis+unix":
        return Redis(connection_pool=ConnectionPool(connection_class=UnixDomainSocketConnection, path=target.path, **shared))
    if target.scheme == "redis+sentinel":
        password = options.sentinel_password
        of_sentinels: dict[str, Any] = {  # Any: as above
            "username": options.sentinel_username,
            "password": None if password is None else password.get_secret_value(),
            "protocol": 2,
            "retry": shared["retry"],
            "socket_connect_timeout": _SENTINEL,
            "socket_timeout": _SENTINEL,
            **({"ssl": True, **_tls(options)} if (options.tls if options.sentinel_tls is None else options.sentinel_tls) else {}),
        }
        arguments = {**shared, "sentinel_kwargs": of_sentinels, **({"ssl": True, **_tls(options)} if options.tls else {})}
        sentinels = Sentinel(list(target.hosts), **arguments)  # type: ignore[no-untyped-call]  # redis-py's
        client: Redis = sentinels.master_for(target.service)  # pyright: ignore[reportUnknownMemberType]  # redis-py's
        return client
    host, port = target.hosts[0]
    if target.scheme == "rediss" or options.tls:
        return Redis(connection_pool=ConnectionPool(connection_class=SSLConnection, host=host, port=port, **_tls(options), **shared))
    return Redis(connection_pool=ConnectionPool(host=host, port=port, **shared))


def _tls(options: RedisOptions) -> dict[str, Any]:  # Any: as above
    return {
        "ssl_cert_reqs": "required" if options.tls_verify else "none",
        "ssl_check_hostname": options.tls_verify,
        "ssl_ca_certs": None if options.tls_ca is None else str(options.tls_ca),
        "ssl_certfile": None if options.tls_cert is None else str(options.tls_cert),
        "ssl_keyfile": None if options.tls_key is None else str(options.tls_key),
    }


@final
class Single:
    """One server, or the master that sentinels name at the moment."""

    sharded = False

    def __init__(self, client: Redis, *, own: bool, patience: float) -> None:
        self.client = client
        self._own = own
        self._patience = patience

    @property
    def where(self) -> str:
        """See :class:`Deployment`."""
        pool = self.client.connection_pool
        service = getattr(pool, "service_name", None)
        if service is not None:
            return f"master {service!r} of the sentinels"
        kwargs = pool.connection_kwargs
        return str(kwargs["path"]) if "path" in kwargs else f"{kwargs.get('host', 'localhost')}:{kwargs.get('port', 6379)}"

    @property
    def db(self) -> int:
        """See :class:`Deployment`."""
        return int(self.client.connection_pool.connection_kwargs.get("db") or 0)

    async def masters(self) -> Sequence[Master]:
        """See :class:`Deployment`."""
        pool = self.client.connection_pool
        if isinstance(pool, SentinelConnectionPool):
            await self._find(pool)
        return [Master(self.where, pool.make_connection, ())]

    async def _find(self, pool: SentinelConnectionPool) -> None:
        """Ask all sentinels at once; the first that names the master is the first to be asked from now on.

        Connecting asks them again, one after the other, where those that are silent would take up the time; and its error leaves out what they have said.
        """
        service = str(pool.service_name)  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]  # redis-py's
        sentinels = _sentinels(pool)
        named, others = False, 0
        failures: list[FanwireError] = []

        async def ask(sentinel: Redis) -> None:
            nonlocal named, others
            kwargs = sentinel.connection_pool.connection_kwargs
            try:
                states = cast("dict[object, dict[str, Any]]", await sentinel.sentinel_masters())  # Any: numbers and words, as redis-py has read them
            except Exception as error:  # noqa: BLE001 - told below
                failures.append(connect_error(error, f"the sentinel {kwargs['host']}:{kwargs['port']}"))
                return
            state = states.get(service)
            # As discover_master() does, one after the other.
            if state is None or not pool.sentinel_manager.check_master_state(state, service):  # pyright: ignore[reportUnknownMemberType]  # redis-py's
                others += 1
                return
            named = True
            sentinels.sort(key=lambda other: other is not sentinel)
            tasks.cancel_scope.cancel()

        with anyio.move_on_after(self._patience):
            async with anyio.create_task_group() as tasks:
                for each in tuple(sentinels):
                    tasks.start_soon(ask, each)
        if named:
            return
        if others:
            raise connect_error(MasterNotFoundError(service), self.where)
        if failures:
            raise next((failure for failure in failures if not failure.retryable), failures[0])
        raise ConnectFailed(f"redis: no connection to {self.where}: they did not answer within {self._patience:g} s")

    async def moved(self, connection: AbstractConnection) -> bool:
        """Ask the sentinels: a master that they have replaced takes writes until it is told, and loses them then."""
        pool = self.client.connection_pool
        if not isinstance(pool, SentinelConnectionPool) or not isinstance(connection, Connection):
            return False
        try:
            host, port = cast("tuple[str, int]", await pool.get_master_address())  # type: ignore[no-untyped-call]  # pyright: ignore[reportUnknownMemberType]  # redis-py's
        except (RedisError, OSError):
            return False
        return (str(host), int(port)) != (str(connection.host), int(connection.port))

    async def close(self) -> None:
        """See :class:`Deployment`."""
        if not self._own:
            return
        pool = self.client.connection_pool
        await pool.disconnect()
        if isinstance(pool, SentinelConnectionPool):
            for sentinel in _sentinels(pool):
                await sentinel.connection_pool.disconnect()


def _sentinels(pool: SentinelConnectionPool) -> list[Redis]:
    return cast("list[Redis]", pool.sentinel_manager.sentinels)  # pyright: ignore[reportUnknownMemberType]  # redis-py does not say what they are


@final
class Cluster:
    """The masters of a cluster, each with its slots."""

    sharded = True
    db = 0

    def __init__(self, client: RedisCluster, *, own: bool, patience: float) -> None:
        self.client = client
        self._own = own
        self._patience = patience
        self._seeds = [(str(node.host), int(node.port)) for node in client.nodes_manager.startup_nodes.values()]
        self._found: list[tuple[str, int]] = []
        """The masters, as the cluster named them last: the servers that were given may all have gone."""

    @property
    def where(self) -> str:
        """See :class:`Deployment`."""
        return f"the cluster of {', '.join(f'{host}:{port}' for host, port in self._seeds[:3])}"

    async def masters(self) -> Sequence[Master]:
        """Ask the first server that answers."""
        failure: FanwireError = ConnectFailed(f"redis: {self.where} has no servers")
        for host, port in dict.fromkeys((*self._seeds, *self._found)):
            try:
                return await self._ask(host, port)
            except ConnectFailed as error:
                failure = error
        raise failure

    async def _ask(self, host: str, port: int) -> Sequence[Master]:
        connection = await open_connection(self._maker(host, port), f"{host}:{port}", self._patience)
        try:
            await connection.send_command("CLUSTER", "SLOTS")
            reply: list[list[Any]] = cast("list[list[Any]]", await connection.read_response(disable_decoding=True))  # as the server nests it
            found: dict[tuple[str, int], list[range]] = {}
            for part in reply:
                address = self.client.nodes_manager.remap_host_port((part[2][0] or b"").decode() or host, int(part[2][1]))
                found.setdefault(address, []).append(range(part[0], part[1] + 1))
        except Exception as error:
            if "cluster support disabled" in str(error):
                raise Unsupported(f"redis: {host}:{port} is no cluster: use redis://") from error
            raise connect_error(error, f"{host}:{port}") from error
        finally:
            await connection.disconnect(nowait=True)
        if sum(len(slots) for ranges in found.values() for slots in ranges) < 16384:
            raise ConnectFailed(f"redis: {self.where} does not serve all slots at the moment")
        self._found = list(found)
        return [Master(f"{h}:{p}", self._maker(h, p), slots) for (h, p), slots in found.items()]

    async def moved(self, connection: AbstractConnection) -> bool:
        """The servers tell by themselves."""
        return False

    def _maker(self, host: str, port: int) -> Callable[[], AbstractConnection]:
        node = ClusterNode(host, port, **self.client.connection_kwargs)
        arguments: dict[str, Any] = {**node.connection_kwargs, "retry": Retry(NoBackoff(), 0)}  # Any: as above
        return lambda: node.connection_class(**arguments)

    async def close(self) -> None:
        """See :class:`Deployment`."""
        if self._own:
            await self.client.aclose()


async def open_connection(make: Callable[[], AbstractConnection], where: str, patience: float) -> AbstractConnection:
    """Connect and authenticate.

    Args:
        make: Makes the connection.
        where: For the text of an error.
        patience: Seconds that it may take.

    Raises:
        FanwireError: that failed; the text says where.
    """
    connection = make()
    try:
        with anyio.fail_after(patience):
            await connection.connect()  # type: ignore[no-untyped-call]  # redis-py's
    except BaseException as error:
        with anyio.CancelScope(shield=True):
            await connection.disconnect(nowait=True)
        if isinstance(error, TimeoutError):
            raise ConnectFailed(
                f"redis: {where} did not answer within {patience:g} s: is that a Redis server, and does it speak TLS or not?"
            ) from error
        if not isinstance(error, Exception):
            raise
        raise connect_error(error, where) from error
    return connection
