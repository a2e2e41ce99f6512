"""The redis-py client that connections are made with: it knows hosts, sentinels, TLS and credentials."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from .options import RedisOptions, Target, parse_target

__all__ = ("make_client", "where_is")

_DEFAULT = "redis://localhost:6379"


def make_client(options: RedisOptions) -> Redis:
    """Make a client for the options' URL. No I/O.

    Raises:
        ConfigError: the URL is wrong.
    """
    target = parse_target(options.url.get_secret_value() or _DEFAULT)
    shared: dict[str, Any] = {  # Any: keyword arguments of the client
        **target.credentials(),
        "db": target.db,
        "protocol": 2,
        "client_name": options.client_name or None,
        "retry": Retry(NoBackoff(), 0),  # core tries again, with a bound on the whole
        "socket_connect_timeout": None,
    }
    if target.scheme == "redis+unix":
        return Redis(connection_pool=ConnectionPool(connection_class=UnixDomainSocketConnection, path=target.path, **shared))
    if target.scheme == "redis+sentinel":
        return _behind_sentinels(options, target, shared)
    host, port = target.hosts[0]
    if target.scheme == "rediss":
        return Redis(connection_pool=ConnectionPool(connection_class=SSLConnection, host=host, port=port, **_tls(options), **shared))
    return Redis(connection_pool=ConnectionPool(host=host, port=port, **shared))


def _behind_sentinels(options: RedisOptions, target: Target, shared: dict[str, Any]) -> Redis:  # Any: as above
    password = options.sentinel_password
    sentinels = Sentinel(  # type: ignore[no-untyped-call]  # redis-py's
        list(target.hosts),
        sentinel_kwargs={
            "username": options.sentinel_username,
            "password": None if password is None else password.get_secret_value(),
            "protocol": 2,
            "retry": shared["retry"],
            "socket_connect_timeout": 2.0,
        },
        **shared,
    )
    client: Redis = sentinels.master_for(target.service)  # pyright: ignore[reportUnknownMemberType]  # redis-py's
    return client


def _tls(options: RedisOptions) -> dict[str, Any]:  # Any: as above
    return {
        "ssl_cert_reqs": "required" if options.tls_verify else "none",
        "ssl_check_hostname": options.tls_verify,
        "ssl_ca_certs": None if options.tls_ca is None else str(options.tls_ca),
        "ssl_certfile": None if options.tls_cert is None else str(options.tls_cert),
        "ssl_keyfile": None if options.tls_key is None else str(options.tls_key),
    }


def where_is(client: Redis) -> str:
    """Return where a client connects to, without credentials."""
    pool = client.connection_pool
    service = getattr(pool, "service_name", None)
    if service is not None:
        return f"master {service!r} of the sentinels"
    kwargs = pool.connection_kwargs
    return str(kwargs["path"]) if "path" in kwargs else f"{kwargs.get('host', 'localhost')}:{kwargs.get('port', 6379)}"
