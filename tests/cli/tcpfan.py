"""A third party's transport over a real connection, as far as the way there goes: TCP, TLS and a password. Messages stay in the process.

Tests plant a copy of it as a distribution of its own, with the schemes ``tcp``, ``tcps`` and ``tcpauth``. The server says ``+ok`` or ``-reason``, or nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar, Self, TypeVar
from urllib.parse import urlsplit

import anyio
from pydantic import Field

from fanwire.capabilities import Capabilities
from fanwire.errors import ConnectFailed, FanwireError, Unauthenticated
from fanwire.messages import Cursor, Receipt
from fanwire.transport import HistoryPage, HistoryStart, Outbound, Sink, TransportOptions
from fanwire_memory import MemoryTransport

__all__ = ("TcpOptions", "TcpTransport")

T = TypeVar("T")


class TcpOptions(TransportOptions):
    """Options."""

    level: int = Field(default=1, ge=1, le=3)


class TcpTransport:
    """Connects, and is greeted."""

    name: ClassVar[str] = "tcp"
    options_model: ClassVar[type[TransportOptions]] = TcpOptions

    def __init__(self, options: TcpOptions) -> None:
        parts = urlsplit(options.url.get_secret_value())
        self._host, self._port, self._tls = parts.hostname or "localhost", parts.port or 1, parts.scheme == "tcps"
        self._password = parts.password
        self._memory = MemoryTransport()

    @classmethod
    def from_options(cls, options: TransportOptions, /) -> Self:
        """Take the address from the URL."""
        assert isinstance(options, TcpOptions)
        return cls(options)

    @property
    def capabilities(self) -> Capabilities:
        """What the in-memory transport can do."""
        return self._memory.capabilities

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None]:
        """Connect. What goes wrong is translated with its cause, and with an author's carelessness: the password is quoted."""
        try:
            stream = await (anyio.connect_tcp(self._host, self._port, tls=True) if self._tls else anyio.connect_tcp(self._host, self._port))
        except OSError as error:
            raise self._failed() from error
        async with stream:
            try:
                greeting = await stream.receive()
            except anyio.EndOfStream as error:
                raise self._failed() from error
            if not greeting.startswith(b"+"):
                raise Unauthenticated(f"tcp: the server says {greeting.decode().strip()[1:]!r} to {self._password!r}")
            async with self._memory.run(sink):
                yield

    def _failed(self) -> ConnectFailed:
        return ConnectFailed(f"tcp: cannot connect to {self._host}:{self._port} with password {self._password!r}")

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        """See the in-memory transport."""
        return await self._memory.publish(batch)

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        """See the in-memory transport."""
        return await self._memory.subscribe(wanted, generation)

    async def unsubscribe(self, channels: Collection[str], /) -> None:
        """See the in-memory transport."""
        await self._memory.unsubscribe(channels)

    async def history(self, channel: str, /, *, start: HistoryStart, limit: int) -> HistoryPage:
        """See the in-memory transport."""
        return await self._memory.history(channel, start=start, limit=limit)

    async def ping(self, /) -> None:
        """See the in-memory transport."""
        await self._memory.ping()

    def native(self, kind: type[T], /) -> T:
        """See the in-memory transport."""
        return self._memory.native(kind)
