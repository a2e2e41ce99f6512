"""A TCP proxy that does to connections what networks do: breaks them, stalls them, slows them down, cuts them in the middle of a frame.

Useful by itself, for any client of any server; needs no privileges::

    async with FaultProxy(("127.0.0.1", 6379)) as proxy:
        client = connect(proxy.host, proxy.port)
        proxy.stall("down")  # whatever the server answers stays on its way
        await proxy.cut()  # every connection breaks, as by a reset
        await proxy.refuse()  # and no new one can be made

Works under asyncio, uvloop and trio. Whom the proxy stands between may run on the same event loop, in other threads, or in other processes.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias, final

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream, TaskGroup

__all__ = ("Direction", "FaultProxy")

Direction = Literal["up", "down", "both"]
"""``up`` is from the client to the server, ``down`` from the server to the client."""

Target: TypeAlias = "tuple[str, int] | str"

_CHUNK: Final = 65_536
_WAITING: Final = 64
"""Chunks of one direction of a connection that may wait for their time."""

_SLICE: Final = 0.01
"""Seconds' worth of bytes that a throttled direction sends at once."""

_RESET: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""SO_LINGER on, with no time: closing discards what is unsent and resets the connection."""


@final
class FaultProxy:
    """A proxy to ``target`` that listens on a port of its own, for as long as its context lasts.

    Without a fault it passes on bytes as they come, and each side's end of stream. A side that resets its connection resets the other. A client that connects while the
    server cannot be reached is reset, since the proxy has answered by then.

    Args:
        target: Host and port of the server, or the path of its unix socket.
        host: Where to listen.
        port: On which port; by default one that is free.

    Raises:
        OSError: on entering, if it cannot listen there.
    """

    def __init__(self, target: Target, *, host: str = "127.0.0.1", port: int = 0) -> None:
        if isinstance(target, str) and not hasattr(socket, "AF_UNIX"):
            raise ValueError(f"there are no unix sockets here: give the host and port of the server, not {target!r}")
        self.target: Target = target
        """Where new connections lead; may be changed at any time."""
        self.host: str = host
        self.accepted: int = 0
        """Connections made so far."""
        self._wanted = port
        self._port: int | None = None
        self._ways: dict[str, _Way] = {"up": _Way(), "down": _Way()}
        self._connections: dict[_Connection, None] = {}
        self._guard: socket.socket | None = None
        """Bound to the port, and never listening: keeps it ours while connections are refused."""
        self._tasks: TaskGroup | None = None
        self._accepting: _Accepting | None = None

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise RuntimeError("this FaultProxy is running: make another one")
        family = (await anyio.getaddrinfo(self.host, self._wanted, type=socket.SOCK_STREAM))[0][0]
        self._guard = _bound(family, self.host, self._wanted)
        try:
            self._port = self._guard.getsockname()[1]
            self._tasks = await anyio.create_task_group().__aenter__()
            self.accept()
        except BaseException:
            self._guard.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        tasks, guard = self._tasks, self._guard
        assert tasks is not None
        assert guard is not None
        try:
            tasks.cancel_scope.cancel()
            # The body's own exception is none of the tasks' business: told of it, the group would wrap it.
            await tasks.__aexit__(None, None, None)
        finally:
            guard.close()
            self._tasks = self._guard = self._accepting = self._port = None
            self._ways = {"up": _Way(), "down": _Way()}

    def __repr__(self) -> str:
        where = "not running" if self._port is None else f"on {self.host}:{self._port}"
        return f"<FaultProxy to {self.target!r} {where}, {self.connections} connections>"

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._port is None:
            raise RuntimeError("this FaultProxy is not running: use `async with FaultProxy(...) as proxy:`")
        return self._port

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to connect to."""
        return self.host, self.port

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    # ------------------------------------------------------------------ breaking connections

    async def cut(self) -> None:
        """Reset every connection, on both sides; what was on its way is lost. Returns when that is done. New connections can be made."""
        await self._end_all(reset=True)

    async def close(self) -> None:
        """End every connection in order: both sides see the end of the stream. What was on its way is lost. New connections can be made."""
        await self._end_all(reset=False)

    async def _end_all(self, *, reset: bool) -> None:
        ending = list(self._connections)
        for connection in ending:
            connection.end(reset=reset)
        for connection in ending:
            await connection.gone.wait()

    async def refuse(self) -> None:
        """Refuse new connections, as a host does where nobody listens, until :meth:`accept`. Open ones go on. Returns when that is so."""
        accepting, self._accepting = self._accepting, None
        if accepting is not None:
            accepting.scope.cancel()
            await accepting.gone.wait()

    def accept(self) -> None:
        """Let new connections be made again, behind :meth:`refuse`."""
        if self._tasks is None or self._guard is None:
            raise RuntimeError("this FaultProxy is not running: use `async with FaultProxy(...) as proxy:`")
        if self._accepting is None:
            listener = _bound(self._guard.family, self.host, self.port)
            listener.listen(1024)
            self._accepting = _Accepting(listener, self._begin)
            self._tasks.start_soon(self._accepting.run, name="fault proxy accepts")

    def _begin(self, client: socket.socket) -> None:
        assert self._tasks is not None
        self.accepted += 1
        connection = _Connection(client, self)
        self._connections[connection] = None
        self._tasks.start_soon(self._serve, connection, name="fault proxy connection")

    async def _serve(self, connection: _Connection) -> None:
        try:
            await connection.run(self.target, self._ways["up"], self._ways["down"])
        finally:
            del self._connections[connection]
            connection.gone.set()

    def truncate(self, after_bytes: int, direction: Literal["up", "down"] = "down") -> None:
        """Let this many more bytes of each open connection through in one direction, and cut the connection where the next one would follow.

        With a frame larger than that under way, its receiver is left with the beginning of it. With 0, nothing more comes through: the answer to whatever is asked next is
        lost. Connections made later are not concerned.

        Args:
            after_bytes: Bytes that still pass.
            direction: Which way; not ``both``.
        """
        if after_bytes < 0:
            raise ValueError(f"after_bytes must be at least 0, got {after_bytes}")
        self._chosen(direction)
        for connection in self._connections:
            connection.left[direction] = after_bytes

    # ------------------------------------------------------------------ hindering bytes

    def stall(self, direction: Direction = "both") -> None:
        """Let nothing through, until :meth:`resume`, without breaking anything: as where a route was lost, or a peer hangs.

        Neither bytes nor the end of a connection pass, so each side takes the other for alive; new connections seem to be made and stay silent. :meth:`cut` and :meth:`close`
        reach both sides nevertheless.

        Args:
            direction: Which way; ``up`` and ``down`` leave the connections half open.
        """
        for way in self._chosen(direction):
            way.stall()

    def resume(self) -> None:
        """End :meth:`stall`: what was held back goes on."""
        for way in self._ways.values():
            way.go_on()

    def delay(self, seconds: float, direction: Direction = "both") -> None:
        """Let each byte arrive so much later, 0 for at once. Adds latency, and takes no throughput."""
        if seconds < 0:
            raise ValueError(f"seconds must be at least 0, got {seconds}")
        for way in self._chosen(direction):
            way.seconds = seconds

    def throttle(self, bytes_per_second: float | None, direction: Direction = "both") -> None:
        """Let so many bytes through per second, of each connection in each direction; ``None`` for any number."""
        if bytes_per_second is not None and bytes_per_second <= 0:
            raise ValueError(f"bytes_per_second must be positive, or None for no limit, got {bytes_per_second}; stall() lets nothing through")
        for way in self._chosen(direction):
            way.rate = bytes_per_second

    def _chosen(self, direction: Direction) -> list[_Way]:
        if direction == "both":
            return list(self._ways.values())
        if direction not in self._ways:
            raise ValueError(f"a direction is 'up' (from the client to the server), 'down' or 'both', got {direction!r}")
        return [self._ways[direction]]


@final
class _Way:
    """What is done to the bytes of one direction."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.rate: float | None = None
        self._stalled: anyio.Event | None = None

    def stall(self) -> None:
        """Let nothing through."""
        self._stalled = self._stalled or anyio.Event()

    def go_on(self) -> None:
        """Let things through."""
        stalled, self._stalled = self._stalled, None
        if stalled is not None:
            stalled.set()

    async def clear(self) -> None:
        """Wait until it is not stalled; does not suspend where it is not."""
        while self._stalled is not None:
            await self._stalled.wait()


@final
class _Accepting:
    """A listening socket, for as long as connections are accepted."""

    def __init__(self, listener: socket.socket, begin: Callable[[socket.socket], None]) -> None:
        self.scope = anyio.CancelScope()
        self.gone = anyio.Event()
        self._listener = listener
        self._begin = begin

    async def run(self) -> None:
        """Accept connections until the scope is cancelled."""
        try:
            with self.scope:
                while True:
                    try:
                        client, _ = self._listener.accept()
                    except BlockingIOError:
                        await anyio.wait_readable(self._listener)
                    except ConnectionError:
                        continue  # it was gone before it was accepted
                    else:
                        client.setblocking(False)
                        self._begin(client)
        finally:
            self._listener.close()
            self.gone.set()


@final
class _Connection:
    """A client's connection, and the one to the server that goes with it."""

    def __init__(self, client: socket.socket, proxy: FaultProxy) -> None:
        self.gone = anyio.Event()
        self.left: dict[str, int] = {}
        """By direction: bytes that pass before the connection is cut."""
        self._client = client
        self._server: socket.socket | None = None
        self._scope = anyio.CancelScope()
        self._reset = False
        self._proxy = proxy

    def end(self, *, reset: bool) -> None:
        """Ask it to end, by a reset or in order."""
        self._reset = self._reset or reset
        self._scope.cancel()

    async def run(self, target: Target, up: _Way, down: _Way) -> None:
        """Connect to the server, and carry bytes until both sides have ended."""
        try:
            with self._scope:
                await up.clear()
                self._server = await _connect(target)
                for end in (self._client, self._server):
                    if end.family != getattr(socket, "AF_UNIX", None):
                        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._carry, "up", up, self._client, self._server)
                    tasks.start_soon(self._carry, "down", down, self._server, self._client)
        except* OSError:
            self._reset = True  # whatever it was: a peer has broken its half, or is not there
        finally:
            _close(self._client, reset=self._reset)
            if self._server is not None:
                _close(self._server, reset=self._reset)

    async def _carry(self, direction: str, way: _Way, source: socket.socket, sink: socket.socket) -> None:
        """Carry what ``source`` sends to ``sink``."""
        send, receive = anyio.create_memory_object_stream[tuple[float, bytes]](_WAITING)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._write, direction, way, sink, receive)
            await self._read(way, source, send)

    async def _read(self, way: _Way, source: socket.socket, send: ObjectSendStream[tuple[float, bytes]]) -> None:
        async with send:
            while True:
                await way.clear()
                try:
                    data = source.recv(_CHUNK)
                except BlockingIOError:
                    await anyio.wait_readable(source)
                    continue
                try:
                    await send.send((anyio.current_time() + way.seconds, data))
                except anyio.BrokenResourceError:
                    return  # the other task has found the receiver gone, and is about to end both
                if not data:
                    return

    async def _write(self, direction: str, way: _Way, sink: socket.socket, receive: ObjectReceiveStream[tuple[float, bytes]]) -> None:
        async with receive:
            async for due, data in receive:
                await anyio.sleep_until(due)
                if not data:
                    await way.clear()
                    sink.shutdown(socket.SHUT_WR)
                rest = memoryview(data)
                while rest:
                    await way.clear()
                    left = self.left.get(direction)
                    if left == 0:
                        self.end(reset=True)
                        return
                    size = len(rest) if way.rate is None else max(1, int(way.rate * _SLICE))
                    try:
                        sent = sink.send(rest[: size if left is None else min(size, left)])
                    except BlockingIOError:
                        await anyio.wait_writable(sink)
                        continue
                    rest = rest[sent:]
                    if left is not None:
                        self.left[direction] = left - sent
                    if way.rate is not None:
                        await anyio.sleep(sent / way.rate)


def _bound(family: int, host: str, port: int) -> socket.socket:
    """Return a socket that is bound there, beside others of ours that are."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.setblocking(False)
        bound.bind((host, port))
    except BaseException:
        bound.close()
        raise
    return bound


async def _connect(target: Target) -> socket.socket:
    """Connect to the server; raises ``OSError`` if no address of it can be reached."""
    if isinstance(target, str):
        return await _connect_to(socket.AF_UNIX, target)
    failure: OSError = ConnectionRefusedError(errno.ECONNREFUSED, f"no address of {target!r}")
    for family, _, _, _, address in await anyio.getaddrinfo(*target, type=socket.SOCK_STREAM):
        try:
            return await _connect_to(family, address)
        except OSError as error:
            failure = error
    raise failure


async def _connect_to(family: int, address: object) -> socket.socket:
    server = socket.socket(family, socket.SOCK_STREAM)
    try:
        server.setblocking(False)
        code = server.connect_ex(address)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # what getaddrinfo gave, or a path
        if code in {errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN}:
            await anyio.wait_writable(server)
            code = server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, f"cannot connect to {address!r}")
    except BaseException:
        server.close()
        raise
    return server


def _close(end: socket.socket, *, reset: bool) -> None:
    """Close one side, by a reset or in order."""
    try:
        if reset:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        else:
            end.shutdown(socket.SHUT_WR)
            for _ in range(_WAITING):
                if not end.recv(_CHUNK):  # what was not read would turn the end of the stream into a reset
                    break
    except OSError:
        pass  # its peer has gone
    finally:
        end.close()
