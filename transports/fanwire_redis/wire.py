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

__all__ = ("Command", "Reply", "ServerError", "Wire", "pack_publishes", "take_over")

Command: TypeAlias = tuple[bytes | str | int, ...]
Reply: TypeAlias = Any  # Any: what hiredis makes of a reply depends on the command
OnPush: TypeAlias = Callable[[list[Reply]], None]


class ServerError(Exception):
    """An error reply: its text begins with a code, such as ``NOSCRIPT``."""

    @property
    def code(self) -> str:
        """The first word."""
        return str(self).partition(" ")[0]


class _Call:
    """Commands that were sent together, and their replies so far."""

    __slots__ = ("future", "likely", "missing", "replies")

    def __init__(self, future: asyncio.Future[list[Reply]], count: int, likely: bytes = b"") -> None:
        self.future = future
        self.likely = likely
        """What all replies but the last most likely look like: then they need not be parsed."""
        self.missing = count
        self.replies: list[Reply] = []


@final
class Wire(asyncio.Protocol):
    """One connection. With ``on_push`` it is for subscriptions, and everything that comes goes there."""

    def __init__(self, connection: AbstractConnection, on_push: OnPush | None = None) -> None:
        self.connection: AbstractConnection = connection
        """What it was made of."""
        self._on_push = on_push
        self._reader = hiredis.Reader(protocolError=hiredis.ProtocolError, replyError=ServerError)
        self._calls: deque[_Call] = deque()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self.ended: asyncio.Future[None] = self._loop.create_future()
        """Done when the connection is gone."""
        self.error: Exception | None = None
        """Why it went."""
        self.scripts: set[str] = set()
        """Scripts that the server has, as far as this connection knows."""

    def attach(self, transport: asyncio.WriteTransport) -> None:
        """Read from ``transport`` from now on."""
        self._transport = transport
        transport.set_protocol(self)

    # ------------------------------------------------------------------ sending

    def send(self, commands: Iterable[Command], count: int) -> asyncio.Future[list[Reply]]:
        """Send ``count`` commands together and return their replies; an error reply is a :class:`ServerError` in its place."""
        future: asyncio.Future[list[Reply]] = self._loop.create_future()
        if self.ended.done():
            _fail(future, self.lost())
            return future
        if not count:
            future.set_result([])
            return future
        self._calls.append(_Call(future, count))
        self.write(commands)
        return future

    def transact(self, packed: Iterable[bytes], count: int) -> asyncio.Future[list[Reply]]:
        """Send ``count`` commands that :func:`pack_publishes` has packed as one transaction: all are carried out with nothing in between, or none.

        Returns:
            The reply to ``EXEC``, alone where everything was queued, or else behind those to ``MULTI`` and to each command.
        """
        future: asyncio.Future[list[Reply]] = self._loop.create_future()
        if self._transport is None or self.ended.done():
            _fail(future, self.lost())
            return future
        self._calls.append(_Call(future, count + 2, b"+OK\r\n" + b"+QUEUED\r\n" * count))
        self._transport.write(b"".join((b"*1\r\n$5\r\nMULTI\r\n", *packed, b"*1\r\n$4\r\nEXEC\r\n")))
        return future

    def write(self, commands: Iterable[Command]) -> None:
        """Send commands that are answered by pushes."""
        if self._transport is not None and not self.ended.done():
            # At once: core hands over together what is published within one turn of the event loop, and another turn would add to the latency of each message.
            self._transport.write(b"".join([hiredis.pack_command(command) for command in commands]))  # type: ignore[arg-type]  # its stub says a tuple of one

    # ------------------------------------------------------------------ receiving

    def data_received(self, data: bytes) -> None:
        """Parse all that has come. Whatever cannot be parsed ends the connection: nothing behind it can be trusted."""
        reader = self._reader
        push = self._on_push
        if push is None and self._calls and (call := self._calls[0]).likely and data.startswith(call.likely):
            data = data[len(call.likely) :]
            call.missing = 1
        try:
            reader.feed(data)
            take = reader.gets
            if push is None:
                while (reply := take()) is not False:
                    if type(reply) is not hiredis.PushNotification:  # what the server tells clients of its newer protocol by itself
                        self._answer(reply)
            else:
                replies: list[Reply] = []
                while (reply := take()) is not False:
                    replies.append(reply)
                push(replies)
        except Exception as error:  # noqa: BLE001 - a protocol error, or a defect of ours: it must not leave callers waiting
            self.abort(error)

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
        if not self.ended.done():
            self.ended.set_result(None)
        calls, self._calls = self._calls, deque()
        for call in calls:
            if not call.future.done():
                _fail(call.future, self.lost())

    def lost(self) -> ConnectionLost:
        """Return the error for whoever needs the connection."""
        error = ConnectionLost(f"redis: the connection was lost{f': {self.error}' if self.error else ''}")
        error.__cause__ = self.error
        return error

    # ------------------------------------------------------------------ the end

    def abort(self, error: Exception | None = None) -> None:
        """Break the connection, because of ``error``."""
        if self.error is None:
            self.error = error
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Close it, without waiting for replies."""
        self.abort()
        self.connection._writer = self.connection._reader = None  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # its streams are ours since take_over()
        if self._transport is not None:
            await asyncio.wait((self.ended,))  # unlike awaiting it, this does not cancel it together with the caller


def pack_publishes(command: str, channel: bytes, frames: Iterable[bytes]) -> list[bytes]:
    """Pack a command for each message of one channel, for :meth:`Wire.transact`. One by one hiredis takes four times as long."""
    head = b"*3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$" % (len(command), command.encode(), len(channel), channel)
    sized: dict[int, bytes] = {}
    packed: list[bytes] = []
    for frame in frames:
        size = len(frame)
        packed += (sized.get(size) or sized.setdefault(size, b"%b%d\r\n" % (head, size)), frame, b"\r\n")
    return packed


def _fail(future: asyncio.Future[list[Reply]], error: ConnectionLost) -> None:
    future.set_exception(error)
    future.exception()  # a caller that was cancelled, or waits for something else first, may never ask


def take_over(connection: AbstractConnection, on_push: OnPush | None = None) -> Wire:
    """Make a wire of a connection that is connected and idle."""
    writer = connection._writer  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # redis-py has no other way to its socket
    if writer is None or writer.transport.is_closing():
        raise ConnectionLost("redis: the connection was lost while it was made")
    wire = Wire(connection, on_push)
    wire.attach(writer.transport)
    return wire
