"""Steps of runs in Redis: durable as the server is, shared by all processes that reach it."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import weakref
from collections.abc import AsyncGenerator, Awaitable, Iterator
from types import TracebackType
from typing import Final, Literal, NamedTuple, Protocol, Self, cast, final

import anyio
import redis.exceptions as client_errors
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.sentinel import MasterNotFoundError

from fanwire.errors import Closed, ConfigError, DeclarationError, FanwireError, PermissionDenied, Unavailable, Unsupported, WrongLoop
from fanwire.registry import open_transport
from fanwire.runs import StepRecord

from .client import Deployment, deployment_of
from .errors import connect_error, server_error
from .options import RedisOptions
from .transport import RedisTransport
from .wire import ServerError

__all__ = ("RedisStepStore",)

_VERSION: Final = 1
_LONGEST: Final = 100 * 365 * 86_400.0
"""Seconds that the server can add to its clock without a doubt."""

_RECORD: Final = """
local known = redis.call('HGET', KEYS[1], ARGV[1])
if not known then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return known
"""
"""Returns what was recorded before."""

_CONNECTIONS: Final = 16
"""Calls under way at a time, and connections that they make, on one event loop."""

_PAUSES: Final = 0.05, 1.0
"""Seconds between tries: the first ones, and the longest."""

_GRANT: Final = "~{{{0}:* +eval +hexists +hget +hset +pexpire +unlink; in a cluster also +cluster|slots +command +readonly"

_CODES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (client_errors.OutOfMemoryError, "OOM"),
    (client_errors.ReadOnlyError, "READONLY"),
    (client_errors.MasterDownError, "MASTERDOWN"),
    (client_errors.ClusterDownError, "CLUSTERDOWN"),
    (client_errors.TryAgainError, "TRYAGAIN"),
    (client_errors.MovedError, "MOVED"),
    (client_errors.AskError, "ASK"),
)
"""Codes that the client takes off the text."""


_TELLING: Final = (client_errors.AuthenticationError, client_errors.AuthorizationError, client_errors.NoPermissionError)
"""What is worth more than the error of a cluster's client that none of its servers can be asked."""


class _Commands(Protocol):
    """What is used of either client; redis-py's own annotations say nothing about it."""

    def execute_command(self, *args: str | bytes | int, NEVER_DECODE: bool) -> Awaitable[bytes | None]: ...  # noqa: N803 - redis-py's


class _Open(NamedTuple):
    """What is open on one event loop."""

    deployment: Deployment
    client: _Commands
    turns: asyncio.Semaphore
    keeper: AsyncGenerator[None] | None
    """Closes it. The loop ends its asynchronous generators when it is shut down. ``None`` where the client is the application's."""


@final
class RedisStepStore:
    """A :class:`fanwire.runs.StepStore` on Redis, shared by all processes that reach the server.

    One hash per run, ``{namespace:run}:r``, with a field per step. It lives for ``ttl`` seconds after its newest step was recorded. What is recorded lasts as the server's
    data does: whether it survives a restart or a failover is a matter of the server's configuration. A step whose record was lost is done again::

        async with RedisStepStore("redis://localhost:6379") as store:
            run = rt.run(order.id, steps=store)

    Made from a URL it may be used on several event loops, after a fork, and by :class:`fanwire.BlockingRealtime`: each loop has connections of its own, 16 at most, closed when
    the loop is.

    Args:
        source: A URL, as the transport takes it: ``redis://``, ``rediss://``, ``redis+unix://``, ``redis+sentinel://`` or ``redis+cluster://``. Of its options those about
            the connection count, and ``namespace``; ``ttl`` and ``history`` are the transport's. Or a client, which belongs to one event loop and is not closed.
        namespace: Prefix of the keys; by default the URL's, or ``fanwire``.
        ttl: Seconds that a run is kept after its newest step; by default a week. Longer than the last retry of any run comes.
        timeout: Seconds that a call may take. In that time it is tried again while the server cannot be reached.
        max_record: Bytes of one record.

    Raises:
        ConfigError: an argument is wrong.
    """

    def __init__(
        self,
        source: str | Redis | RedisCluster = "redis://",
        /,
        *,
        namespace: str | None = None,
        ttl: float = 7 * 86_400.0,
        timeout: float = 10.0,
        max_record: int = 2**24,
    ) -> None:
        if not 0.001 <= ttl <= _LONGEST:
            raise ConfigError(f"ttl must be a number of seconds from 0.001 to {_LONGEST:.0f}, got {ttl!r}")
        if not timeout > 0:
            raise ConfigError(f"timeout must be positive, got {timeout!r}")
        if not max_record >= 1:
            raise ConfigError(f"max_record must be at least 1, got {max_record!r}")
        self._client = None if isinstance(source, str) else source
        self._options = _options(source if isinstance(source, str) else "redis://", namespace)
        self._plan = deployment_of(self._options, self._client)
        self._ttl = int(ttl * 1000)
        self._timeout = timeout
        self._max_record = max_record
        self._loop: asyncio.AbstractEventLoop | None = None
        """Where a client that was passed in is used."""
        self._open: dict[asyncio.AbstractEventLoop, _Open] = {}
        self._closed = False
        _stores.add(self)

    def __repr__(self) -> str:
        return f"<RedisStepStore {self._plan.where} namespace={self._options.namespace!r}>"

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            FanwireError: the server cannot be reached, or refuses the credentials.
        """
        try:
            await self._call("HEXISTS", self._key(""), b"")
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._disconnect()  # for nobody leaves what was not entered
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Close it."""
        await self.aclose()

    async def load(self, run_id: str, step_id: str, /) -> StepRecord | None:
        """See :class:`fanwire.runs.StepStore`.

        Raises:
            Unavailable: the server could not be reached within the timeout.
            ConfigError: the run's key holds something else than steps.
            FanwireError: the server refused.
        """
        found = await self._call("HGET", self._key(run_id), _bytes(step_id))
        return None if found is None else self._decoded(run_id, found)

    async def record(self, run_id: str, step_id: str, record: StepRecord, /) -> StepRecord:
        """See :class:`fanwire.runs.StepStore`.

        Raises:
            Unavailable: the server could not be reached within the timeout; the step may be recorded all the same.
            DeclarationError: the record is larger than ``max_record``.
            ConfigError: the run's key holds something else than steps.
            FanwireError: the server refused.
        """
        encoded = _encoded(record)
        if len(encoded) > self._max_record:
            raise DeclarationError(
                f"step {step_id!r} of run {run_id!r} has {len(encoded):,} bytes to record, the store takes {self._max_record:,}: "
                "return less, or make it with a larger max_record"
            )
        known = await self._call("EVAL", _RECORD, 1, self._key(run_id), _bytes(step_id), encoded, self._ttl)
        return record if known is None else self._decoded(run_id, known)

    async def forget(self, run_id: str, /) -> None:
        """See :class:`fanwire.runs.StepStore`.

        Raises:
            Unavailable: the server could not be reached within the timeout.
            FanwireError: the server refused.
        """
        await self._call("UNLINK", self._key(run_id))

    async def aclose(self) -> None:
        """Close the connections of this event loop; those of another end with it. Idempotent; a closed store cannot be used again."""
        self._closed = True
        await self._disconnect()

    async def _disconnect(self) -> None:
        opened = self._open.pop(_loop(), None)
        if opened is not None and opened.keeper is not None:
            await opened.keeper.aclose()

    # ------------------------------------------------------------------ the way there

    async def _call(self, *command: str | bytes | int) -> bytes | None:
        """Send one command, again while the server is away: each of them may be repeated."""
        deployment, client, turns, _ = await self._connected()
        failure: FanwireError | None = None
        pause, longest = _PAUSES
        with anyio.move_on_after(self._timeout):
            while True:
                try:
                    async with turns:
                        return await client.execute_command(*command, NEVER_DECODE=True)
                except (client_errors.RedisError, client_errors.RedisClusterException, OSError) as error:
                    failure = await _said_by_sentinels(error, deployment) or self._failure(error)
                    if not failure.retryable:
                        raise failure from error
                await anyio.sleep(pause)
                pause = min(2 * pause, longest)
        what = f": {str(failure).removeprefix('redis: ')}" if failure is not None else ", and nothing was answered"
        raise Unavailable(f"redis: the steps at {self._plan.where} cannot be reached within {self._timeout:g} s{what}") from failure

    async def _connected(self) -> _Open:
        """Return what is open on this event loop."""
        if self._closed:
            raise Closed(f"{self!r} is closed")
        loop = _loop()
        opened = self._open.get(loop)
        if opened is not None:
            return opened
        if self._client is not None and (self._loop or loop) is not loop:
            raise WrongLoop("the redis client that was passed to RedisStepStore belongs to another event loop: make the store from a URL")
        self._loop = loop
        for over in [other for other in list(self._open) if other.is_closed()]:
            self._open.pop(over, None)
        # With a client of the application this is its; else each loop has its own.
        deployment = deployment_of(self._options, self._client)
        keeper = None if self._client is not None else _keep(deployment)
        opened = self._open[loop] = _Open(deployment, cast("_Commands", deployment.client), asyncio.Semaphore(_CONNECTIONS), keeper)
        if keeper is not None:
            await anext(keeper)  # to its first line, without waiting
        return opened

    def _forked(self) -> None:
        """In the child of a fork: leave the parent's connections alone.

        Closing one takes it off its event loop's selector, which is the parent's, too. So they must not be closed by being collected, nor by the end of the interpreter,
        which no list of ours outlives.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._open))
        self._open = {}

    def _failure(self, error: Exception) -> FanwireError:
        """Return the error for what the client raised; ``retryable`` says whether to try again."""
        error = next((cause for cause in _chain(error) if isinstance(cause, _TELLING)), error)
        text = str(error) or type(error).__name__
        if "WRONGTYPE" in text:
            return ConfigError(
                f"redis: a key of namespace {self._options.namespace!r} holds something else than steps: {text}; choose another namespace"
            )
        if "luster mode is not enabled" in text or "luster support disabled" in text:
            return Unsupported(f"redis: {self._plan.where} is no cluster: use redis://")
        if isinstance(error, client_errors.NoPermissionError) or "ACL failure in script" in text or "The user executing the script can't" in text:
            return PermissionDenied(f"redis: this user may not do that: {text}; for steps grant it {_GRANT.format(self._options.namespace)}")
        if isinstance(error, client_errors.MovedError) and not self._plan.sharded:
            return Unsupported(f"redis: {self._plan.where} is one server of a cluster: use redis+cluster://")
        if isinstance(error, client_errors.ResponseError) and "DB index" not in text:
            code = next((code for kind, code in _CODES if isinstance(error, kind)), "")
            return server_error(ServerError(f"{code} {text}".strip()))
        return connect_error(error, self._plan.where)

    # ------------------------------------------------------------------ what is stored

    def _key(self, run_id: str) -> bytes:
        """Return the key of a run. A namespace has no colon, and what the transport's own keys end with is something else."""
        return b"{" + self._options.namespace.encode() + b":" + _bytes(run_id) + b"}:r"

    def _decoded(self, run_id: str, found: bytes) -> StepRecord:
        head, _, data = found.partition(b"\n")
        try:
            version, kind, channel, topic = cast(
                "tuple[int, Literal['publish', 'run'], str | None, str | None]", json.loads(head)
            )  # as it was written
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"redis: key {self._key(run_id)!r} holds something else than steps: choose another namespace, or delete the key"
            ) from error
        if version != _VERSION:
            raise ConfigError(
                f"run {run_id!r} was recorded by another version of fanwire (its records are of version {version!r}, this one knows {_VERSION})"
            )
        return StepRecord(kind, channel, topic, data)


_stores: Final[weakref.WeakSet[RedisStepStore]] = weakref.WeakSet()


def _in_child() -> None:
    for store in _stores:
        store._forked()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # this module's own


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def _chain(error: BaseException | None) -> Iterator[Exception]:
    """Yield an error, and what came before it."""
    while isinstance(error, Exception):
        yield error
        error = error.__cause__ or error.__context__


async def _keep(deployment: Deployment) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await deployment.close()


def _options(url: str, namespace: str | None) -> RedisOptions:
    """Return a URL's options.

    Raises:
        ConfigError: it is wrong, or not one of this transport's.
    """
    transport = open_transport(url, **({} if namespace is None else {"namespace": namespace}))
    if not isinstance(transport, RedisTransport):
        raise ConfigError(
            f"RedisStepStore takes a URL of the redis transport, such as redis://localhost:6379, not one of the {transport.name} transport"
        )
    return transport._options  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # of the same package


def _loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise Unsupported("RedisStepStore works under asyncio only; under trio use SQLiteStepStore") from None


def _bytes(id: str) -> bytes:
    return id.encode("utf-8", "surrogatepass")  # no two strings alike, whatever they hold


def _encoded(record: StepRecord) -> bytes:
    """Return one line about it, then its data."""
    return json.dumps([_VERSION, record.kind, record.channel, record.topic], separators=(",", ":")).encode() + b"\n" + record.data


async def _said_by_sentinels(error: Exception, deployment: Deployment) -> FanwireError | None:
    """Return what is wrong with sentinels that name no master: the client's error leaves out what they said."""
    if not any(isinstance(cause, MasterNotFoundError) or "unknown command 'SENTINEL'" in str(cause) for cause in _chain(error)):
        return None
    try:
        await deployment.masters()
    except FanwireError as said:
        return said
    return None
