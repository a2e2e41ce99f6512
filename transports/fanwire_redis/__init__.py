"""Redis and Valkey as a transport: live by publish and subscribe, history in one stream per channel.

URLs
    ``redis://user:password@host:6379/0``, ``rediss://`` with TLS, ``redis+unix:///path/to/socket``, ``redis+sentinel://host:26379,host:26379/service``.
    The query sets :class:`RedisOptions`, such as ``?history=100&ttl=60``.

Delivery
    One script call per channel and batch appends to the channel's stream, whose ids are ``<epoch>-<n>`` with ``n`` counting up, and publishes what it appended, id first. So
    every live message says where it stands; what a connection missed is read from the stream. Exactly once within the history, on one primary: a tail that was acknowledged
    and then lost by an asynchronous failover is announced, not recovered. ``history=0`` publishes plainly: at most once, holes told by message ids.

    History needs Redis 7.0 or Valkey 7.2. A channel with a few messages costs the server about 4.4 KB, one with a hundred of 256 bytes 29 KB, for ``ttl`` seconds after its
    last message or subscription.

Names
    ``{namespace:channel}`` is what is published on, with ``:s`` behind it the stream's key, with ``:i:`` and a digest those of idempotency keys. A user of the server needs
    ``~{namespace:*`` and ``&{namespace:*``.

Native
    ``rt.native(redis.asyncio.Redis)`` is the client.
"""

from __future__ import annotations

from .options import RedisOptions as RedisOptions
from .transport import RedisTransport as RedisTransport

__all__ = ("RedisOptions", "RedisTransport")
