"""Redis and Valkey as a transport: live by publish and subscribe, history in one stream per channel.

URLs
    ``redis://user:password@host:6379/0``, ``rediss://`` with TLS, ``redis+unix:///path/to/socket``, ``redis+sentinel://host:26379,host:26379/service``,
    ``redis+cluster://host:6379,host:6379``. The query sets :class:`RedisOptions`, such as ``?history=100&ttl=60``. A client of the application's own can be passed in:
    ``RedisTransport(client=redis.asyncio.Redis(...))``.

Delivery
    One script call per channel and batch appends to the channel's stream, whose ids are ``<epoch>-<n>`` with ``n`` counting up, and publishes what it appended, id first. So
    every live message says where it stands; what a connection missed is read from the stream. Exactly once within the history, on one primary: a tail that was acknowledged
    and then lost by an asynchronous failover is announced, not recovered. ``history=0`` publishes plainly: at most once, holes told by message ids. A cluster's channels are
    sharded: each is published and stored in its slot.

    History needs Redis 7.0 or Valkey 7.2. It is kept for ``ttl`` seconds after a channel's last message, and for as long as anybody subscribes. Until then a channel costs
    the server about 0.4 KB if it is empty, 4.7 KB with up to about ten messages, and 0.3 KB per message beyond, of 250 bytes each: 31 KB with a hundred, 293 KB with the
    thousand that are kept by default. A remembered idempotency key costs 0.2 KB, a subscribed channel another 0.25 KB.

Names
    ``{namespace:channel}`` is what is published on, with ``:<db>`` behind it in a database other than 0; with ``:s`` behind it the stream's key, with ``:i:`` and a digest
    those of idempotency keys, with ``:r`` those of steps. Whatever a channel is called, it cannot be taken for another one, a pattern, or a notification of the server's.

Users
    A user of the server with access to one namespace alone, here ``fanwire``, is made by::

        ACL SETUSER app on >password ~{fanwire:* &{fanwire:* +ping +info +client|kill +client|info +client|setname
            +subscribe +unsubscribe +ssubscribe +sunsubscribe +publish +spublish +multi +exec
            +eval +evalsha +xadd +xdel +xrange +xrevrange +xinfo|stream +pexpire +get +set

    Without history ``&{fanwire:* +subscribe +unsubscribe +publish`` is enough; with ``+multi +exec`` batches are faster. Without ``ping``, ``info`` and ``client`` it works,
    but the server's age is not checked, and a command that is still on its way when its connection is given up may be carried out behind its repetition. In a cluster
    ``+cluster|slots`` comes on top, for :class:`RedisStepStore` ``+hget +hset +hexists +unlink``.

Native
    ``rt.native(redis.asyncio.Redis)`` is the client, of a cluster ``rt.native(redis.asyncio.RedisCluster)``.
"""

from __future__ import annotations

from .options import RedisOptions as RedisOptions
from .steps import RedisStepStore as RedisStepStore
from .transport import RedisTransport as RedisTransport

__all__ = ("RedisOptions", "RedisStepStore", "RedisTransport")
