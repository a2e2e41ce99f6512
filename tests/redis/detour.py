"""A network with two routes, of which one is slow: what was sent first arrives last."""

from __future__ import annotations

from types import TracebackType
from typing import Self, final

import anyio
from anyio.abc import Listener, SocketAttribute, SocketStream, TaskGroup

__all__ = ("Detour",)


@final
class Detour:
    """Passes on connections to a server; those there are when :meth:`hold` is called get nothing through to it until :meth:`release`, not even their end."""

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self.turned_away = 0
        """New connections that are still to be refused."""
        self._target = (host, port)
        self._tasks: TaskGroup | None = None
        self._listener: Listener[SocketStream] | None = None
        self._open: set[SocketStream] = set()
        self._slow: dict[SocketStream, list[bytes]] = {}
        """By connection to the server: what is on its way."""

    async def __aenter__(self) -> Self:
        self._listener = listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        self.port = listener.extra(SocketAttribute.local_port)
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(listener.serve, self._serve)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)
        assert self._listener is not None
        await self._listener.aclose()

    def hold(self) -> None:
        """Let the connections there are get nothing through from now on."""
        self._slow = {stream: [] for stream in self._open}

    async def release(self) -> None:
        """Let what is on its way arrive, then end those connections."""
        for stream, chunks in self._slow.items():
            async with stream:
                try:
                    for chunk in chunks:
                        await stream.send(chunk)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass  # the server wants nothing of it any more
        self._slow = {}

    async def _serve(self, client: SocketStream) -> None:
        async with client:
            if self.turned_away:
                self.turned_away -= 1
                return
            server = await anyio.connect_tcp(*self._target)
            self._open.add(server)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._down, server, client)
                try:
                    async for chunk in client:
                        if server in self._slow:
                            self._slow[server].append(chunk)
                        else:
                            await server.send(chunk)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass
                self._open.discard(server)
                if server not in self._slow:
                    await server.aclose()
                tasks.cancel_scope.cancel()

    async def _down(self, server: SocketStream, client: SocketStream) -> None:
        try:
            async for chunk in server:
                await client.send(chunk)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        if server not in self._slow:
            await client.aclose()
