"""Bytes to and from one Redis server: commands are packed and replies parsed in bulk by hiredis. The client has made the connection and authenticated it.

redis-py spends about 350 Python calls on a command and 50 on a message received; here it is a handful, and one system call for whatever is ready at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, final

import hiredis
from redis.asyncio.connection import AbstractConnection

from fanwire.errors import ConnectionLost, Internal

__all__ = ("Command", "Reply", "ServerError", "Wire", "take_over")

Command: TypeAlias = tuple[bytes | str | int, ...]
Reply: TypeAlias = Any  # Any: what hiredis makes of a reply depends on the command
OnPush: TypeAlias = Callable[[Reply], None]


class ServerError(Exception):
    """An error reply: its text begins with a code, such as ``NOSCRIPT``."""

    @property
    def code(self) -> str:
        """The first word."""
        return str(self).partition(" ")[0]


class _Call:
    """Commands that were sent together, and their replies so far."""

    __slots__ = ("future", "missing", "replies")

    def __init__(self, future: asyncio.Future[list[Reply]], count: int) -> None:
        self.future = future
        self.missing = count
        self.replies: list[Reply] = []


@final
class Wire(asyncio.Protocol):
    """One connection. With ``on_push`` it is for subscriptions, and everything that comes goes there."""

    def __init__(self, connection: AbstractConnection, on_push: OnPush | None = None) -> None:
        self._connection = connection
        self._on_push = on_push
        self._reader = hiredis.Reader(protocolError=hiredis.ProtocolError, replyError=ServerError)
        self._calls: deque[_Call] = deque()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._outgoing: list[bytes] = []
        self.closed: asyncio.Event = asyncio.Event()
        self.error: Exception | None = None
        self.scripts: set[str] = set()
        """Scripts that the server has, as far as this connection knows."""

    def attach(self, transport: asyncio.WriteTransport) -> None:
        """Read from ``transport`` from now on."""
        self._transport = transport
        transport.set_protocol(self)

    # ------------------------------------------------------------------ sending

    def send(self, commands: Iterable[Command], count: int) -> asyncio.Future[list[Reply]]:
        """Send ``count`` commands together and return their replies; an error reply is a :class:`ServerError` in its place.

        What several callers send within one turn of the event loop goes out as one write.
        """
        future: asyncio.Future[list[Reply]] = self._loop.create_future()
        if self.closed.is_set():
            future.set_exception(self._lost())
            return future
        self._calls.append(_Call(future, count))
        self.write(commands)
        return future

    def write(self, commands: Iterable[Command]) -> None:
        """Send commands that are answered by pushes."""
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.extend(hiredis.pack_command(command) for command in commands)  # type: ignore[arg-type]  # its stub says a tuple of one

    def _flush(self) -> None:
        data, self._outgoing = b"".join(self._outgoing), []
        if self._transport is not None and not self.closed.is_set():
            self._transport.write(data)

    async def unless_closed(self, future: asyncio.Future[None]) -> None:
        """Wait for ``future``, for as long as the connection lasts.

        Raises:
            ConnectionLost: it broke first.
        """
        closed = self._loop.create_task(self.closed.wait())
        try:
            await asyncio.wait((future, closed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            closed.cancel()
        if not future.done():
            raise self._lost()

    # ------------------------------------------------------------------ receiving

    def data_received(self, data: bytes) -> None:
        """Parse all that has come. Whatever cannot be parsed ends the connection: nothing behind it can be trusted."""
        reader = self._reader
        try:
            reader.feed(data)
            take = reader.gets
            push = self._on_push
            if push is None:
                while (reply := take()) is not False:
                    if type(reply) is not hiredis.PushNotification:  # what the server tells clients of its newer protocol by itself
                        self._answer(reply)
            else:
                while (reply := take()) is not False:
                    push(reply)
        except Exception as error:  # noqa: BLE001 - a protocol error, or a defect of ours: it must not leave callers waiting
            self.error = error
            self.abort()

    def _answer(self, reply: Reply) -> None:
        if not self._calls:
            raise Internal(f"redis: a reply that nobody waits for: {str(reply)[:80]!r}")
        call = self._calls[0]
        call.replies.append(reply)
        call.missing -= 1
        if not call.missing:
            self._calls.popleft()
            if not call.future.done():
                call.future.set_result(call.replies)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody who waits."""
        if self.error is None:
            self.error = exc
        self.closed.set()
        calls, self._calls = self._calls, deque()
        for call in calls:
            if not call.future.done():
                call.future.set_exception(self._lost())
                call.future.exception()  # a caller that was cancelled meanwhile does not ask

    def _lost(self) -> ConnectionLost:
        error = ConnectionLost(f"redis: the connection was lost{f': {self.error}' if self.error else ''}")
        error.__cause__ = self.error
        return error

    # ------------------------------------------------------------------ the end

    def abort(self) -> None:
        """Break the connection."""
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Close it, without waiting for replies."""
        self.abort()
        self._connection._writer = self._connection._reader = None  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # its streams are ours since take_over()
        if self._transport is not None:
            await self.closed.wait()


def take_over(connection: AbstractConnection, on_push: OnPush | None = None) -> Wire:
    """Make a wire of a connection that is connected and idle."""
    writer = connection._writer  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # redis-py has no other way to its socket
    if writer is None:
        raise ConnectionLost("redis: the connection was lost while it was made")
    wire = Wire(connection, on_push)
    wire.attach(writer.transport)
    return wire
