"""The in-memory broker behind TCP, and a transport to it: what the kit's fault checks do to a connection is done to a real one, through the fault proxy."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Literal, NoReturn, Self, TypeVar

import anyio
from anyio.abc import SocketStream, TaskGroup
from anyio.streams.buffered import BufferedByteReceiveStream

from fanwire.capabilities import Capabilities
from fanwire.errors import ConnectFailed, ConnectionLost, FanwireError, Unauthenticated, Unsupported
from fanwire.messages import Cursor, GapReason, Receipt
from fanwire.testing.harness import Harness
from fanwire.testing.proxy import FaultProxy
from fanwire.transport import Earliest, HistoryEntry, HistoryPage, HistoryStart, Last, Outbound, Sink, TransportOptions
from fanwire_memory import MemoryTransport
from tests.conformance.harnesses import MemoryHarness

__all__ = ("AttentiveHarness", "WireHarness", "WireTransport")

T = TypeVar("T")
Json = Any  # Any: one JSON value

PASSWORD = "open sesame"
_LINE = 2**24


class _Wire:
    """Lines of JSON, both ways; what is to be sent never waits, so that no line is cut in two by who gives up."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._lines = BufferedByteReceiveStream(stream)
        self._send, self._receive = anyio.create_memory_object_stream[bytes](1_000_000)

    def send(self, value: Json) -> None:
        self._send.send_nowait(json.dumps(value).encode() + b"\n")

    async def receive(self) -> Json:
        return json.loads(await self._lines.receive_until(b"\n", _LINE))

    async def write(self) -> None:
        async for line in self._receive:
            await self._stream.send(line)

    def close(self) -> None:
        self._send.close()
        self._receive.close()


_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, anyio.IncompleteRead, OSError)


# ---------------------------------------------------------------------- the server


class _SinkToWire:
    """What a client has subscribed goes to it in the order of the stream, confirmations included."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def subscribed(self, channel: str, generation: int, position: Cursor | None, /) -> None:
        self._wire.send({"subscribed": [channel, generation, position]})

    def deliver(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None, /) -> None:
        self._wire.send({"deliver": [channel, generation, frame.decode("latin-1"), position, prev]})

    def lost(self, channels: Collection[str] | None, reason: GapReason, lost: int | None, /) -> None:
        raise NotImplementedError(channels, reason, lost)


class WireServer:
    """Serves the named brokers of this process on a port of its own."""

    def __init__(self, broker: Callable[[Mapping[str, object]], MemoryTransport]) -> None:
        self.port = 0
        self.clients = 0
        """How many have connected so far."""
        self._broker = broker
        self._tasks: TaskGroup | None = None
        self._serving: anyio.CancelScope | None = None
        self._over = anyio.Event()

    async def __aenter__(self) -> Self:
        self._tasks = await anyio.create_task_group().__aenter__()
        await self._tasks.start(self._serve)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def stop(self) -> None:
        assert self._serving is not None
        self._serving.cancel()
        await self._over.wait()

    async def start(self) -> None:
        assert self._tasks is not None
        await self._tasks.start(self._serve)

    async def _serve(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        self._over = anyio.Event()
        accepted: list[socket.socket] = []
        try:
            with socket.create_server(("127.0.0.1", self.port)) as listener, anyio.CancelScope() as self._serving:
                self.port = listener.getsockname()[1]
                listener.setblocking(False)
                async with anyio.create_task_group() as clients:
                    task_status.started()
                    while True:  # not by a listener of anyio's: on asyncio, one that is cancelled may lose a connection that is just coming, whose client then waits for ever
                        try:
                            accepted.append(listener.accept()[0])
                        except BlockingIOError:
                            await anyio.wait_readable(listener)
                        else:
                            clients.start_soon(self._client, accepted[-1])
        finally:
            for client in accepted:
                client.close()
            self._over.set()

    async def _client(self, client: socket.socket) -> None:
        self.clients += 1
        stream = await SocketStream.from_socket(client)
        wire = _Wire(stream)
        try:
            async with stream:
                hello = await wire.receive()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(wire.write)
                    if hello["password"] == PASSWORD:
                        transport = self._broker(hello["options"])
                        async with transport.run(_SinkToWire(wire)):
                            wire.send({"welcome": True})
                            while True:
                                request = await wire.receive()
                                wire.send({"answer": request["n"], "value": await _answer(transport, request["op"], request["value"])})
                    wire.send({"welcome": False})
                    await wire.receive()
        except* (*_BROKEN, ConnectionLost):
            pass  # the client has gone
        finally:
            wire.close()


async def _answer(transport: MemoryTransport, op: str, value: Json) -> Json:
    if op == "publish":
        batch = [
            Outbound(channel, topic, id, key, None, None, b"", frame.encode("latin-1"), retry) for channel, topic, id, key, frame, retry in value
        ]
        receipts = [result for result in await transport.publish(batch) if isinstance(result, Receipt)]
        return [(receipt.cursor, receipt.duplicate) for receipt in receipts]
    if op == "subscribe":
        channels, generation = value
        return await transport.subscribe(dict.fromkeys(channels), generation)
    if op == "unsubscribe":
        return await transport.unsubscribe(value)
    if op == "history":
        channel, (kind, place), limit = value
        starts: dict[str, Callable[[], HistoryStart]] = {
            "after": lambda: Cursor(*place),
            "since": lambda: datetime.fromtimestamp(place, UTC),
            "last": lambda: Last(place),
            "earliest": Earliest,
        }
        page = await transport.history(channel, start=starts[kind](), limit=limit)
        return [[(frame.decode("latin-1"), position, prev) for frame, position, prev in page.entries], page.head, page.complete]
    return None


# ---------------------------------------------------------------------- the transport


@asynccontextmanager
async def _until_lost(works: Sequence[Callable[[], Awaitable[None]]]) -> AsyncGenerator[None]:
    """Do all of this while the body runs; cancel it, and raise ``ConnectionLost``, when the first of them finds the connection broken."""
    lost: list[ConnectionLost] = []
    async with anyio.create_task_group() as tasks:

        async def until_lost(work: Callable[[], Awaitable[None]]) -> None:
            try:
                await work()
            except ConnectionLost as error:
                lost.append(error)
            except _BROKEN as error:
                lost.append(ConnectionLost(f"wire: {error!r}"))
                lost[-1].__cause__ = error
            tasks.cancel_scope.cancel()

        for work in works:
            tasks.start_soon(until_lost, work)
        yield
        tasks.cancel_scope.cancel()
    if lost:
        raise lost[0]


class WireTransport:
    """A client. With a ``heartbeat`` it asks, after so many seconds each, whether the server is there, and waits as long for an answer."""

    name: ClassVar[str] = "wire"
    options_model: ClassVar[type[TransportOptions]] = TransportOptions
    heartbeat: ClassVar[float | None] = None

    def __init__(self, address: Callable[[], tuple[str, int]], options: Mapping[str, object], capabilities: Capabilities, password: str) -> None:
        self._address = address
        self._options = options
        self._capabilities = capabilities
        self._password = password
        self._wire: _Wire | None = None
        self._asked: dict[int, _Answer] = {}
        self._number = 0

    @classmethod
    def from_options(cls, options: TransportOptions, /) -> Self:
        raise NotImplementedError(options)

    def copy(self, /) -> Self:
        return type(self)(self._address, self._options, self._capabilities, self._password)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None]:
        try:
            stream = await anyio.connect_tcp(*self._address())
        except OSError as error:
            raise ConnectFailed(f"wire: {error}") from error
        wire = _Wire(stream)
        try:
            async with stream:
                await self._enter(wire, stream)
                self._wire = wire
                works: list[Callable[[], Awaitable[None]]] = [wire.write, partial(self._read, wire, sink)]
                if self.heartbeat is not None:
                    works.append(partial(self._beat, self.heartbeat))
                async with _until_lost(works):
                    yield
        finally:
            self._wire = None
            wire.close()
            for answer in self._asked.values():
                answer.done.set()
            self._asked.clear()

    async def _enter(self, wire: _Wire, stream: SocketStream) -> None:
        try:
            await stream.send(json.dumps({"password": self._password, "options": self._options}).encode() + b"\n")
            welcome = await wire.receive()
        except _BROKEN as error:
            raise ConnectFailed(f"wire: {error!r}") from error
        if not welcome["welcome"]:
            raise Unauthenticated("wire: the password is wrong") from PermissionError("so the server says")

    async def _read(self, wire: _Wire, sink: Sink) -> None:
        while True:
            told = await wire.receive()
            if "deliver" in told:
                channel, generation, frame, position, prev = told["deliver"]
                sink.deliver(channel, generation, frame.encode("latin-1"), _cursor(position), _cursor(prev))
            elif "subscribed" in told:
                channel, generation, position = told["subscribed"]
                sink.subscribed(channel, generation, _cursor(position))
            else:
                answer = self._asked.pop(told["answer"], None)
                if answer is not None:
                    answer.value, answer.came = told["value"], True
                    answer.done.set()

    async def _beat(self, seconds: float) -> None:
        while True:
            await anyio.sleep(seconds)
            with anyio.move_on_after(seconds) as waiting:
                await self.ping()
            if waiting.cancelled_caught:
                raise ConnectionLost(f"wire: no answer within {seconds:g} s")

    async def _ask(self, op: str, value: Json) -> Json:
        if self._wire is None:
            raise ConnectionLost("wire: there is no connection")
        self._number = number = self._number + 1
        answer = self._asked[number] = _Answer()
        self._wire.send({"n": number, "op": op, "value": value})
        await answer.done.wait()
        if not answer.came:
            raise ConnectionLost("wire: the connection ended before the answer came")
        return answer.value

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        value = [(message.channel, message.topic, message.id, message.key, message.frame.decode("latin-1"), message.retry) for message in batch]
        answers = await self._ask("publish", value)
        return [
            Receipt(message.id, message.channel, message.topic, _cursor(cursor), duplicate)
            for message, (cursor, duplicate) in zip(batch, answers, strict=True)
        ]

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        answers = await self._ask("subscribe", [list(wanted), generation])
        return {channel: _cursor(position) for channel, position in answers.items()}

    async def unsubscribe(self, channels: Collection[str], /) -> None:
        await self._ask("unsubscribe", list(channels))

    async def history(self, channel: str, /, *, start: HistoryStart, limit: int) -> HistoryPage:
        match start:
            case Cursor():
                begin: Json = ("after", start)
            case datetime():
                begin = ("since", start.timestamp())
            case Last(n):
                begin = ("last", n)
            case _:
                begin = ("earliest", None)
        entries, head, complete = await self._ask("history", [channel, begin, limit])
        found = [HistoryEntry(frame.encode("latin-1"), Cursor(*position), _cursor(prev)) for frame, position, prev in entries]
        return HistoryPage(found, _cursor(head), complete)

    async def ping(self, /) -> None:
        await self._ask("ping", None)

    def native(self, kind: type[T], /) -> NoReturn:
        raise Unsupported(f"the wire transport has no {kind.__name__}")


class _Answer:
    def __init__(self) -> None:
        self.done = anyio.Event()
        self.came = False
        self.value: Json = None


def _cursor(value: Json) -> Cursor | None:
    return None if value is None else Cursor(*value)


# ---------------------------------------------------------------------- the harness


class WireHarness(MemoryHarness):
    """Each has a server and a proxy of its own; the brokers are those of the namespace, so servers of one namespace are one server with several ports."""

    native = ()
    crowd = 300  # each message is written and read as JSON four times
    schemes = Harness.schemes  # pyright: ignore[reportAssignmentType]  # it is none that a URL opens
    transport_type: ClassVar[type[WireTransport]] = WireTransport
    servers: ClassVar[dict[str, list[WireServer]]] = {}

    def __init__(self, namespace: str) -> None:
        super().__init__(namespace)
        self._server = WireServer(self._broker)
        self._proxy = FaultProxy(("127.0.0.1", 0))
        self._open = AsyncExitStack()

    def _broker(self, options: Mapping[str, object]) -> MemoryTransport:
        return super().transport(**options)

    async def __aenter__(self) -> Self:
        await self._open.enter_async_context(self._server)
        self._proxy.target = ("127.0.0.1", self._server.port)
        await self._open.enter_async_context(self._proxy)
        self.servers.setdefault(self.namespace, []).append(self._server)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.servers[self.namespace].remove(self._server)
        await self._open.aclose()

    def transport(self, **options: object) -> WireTransport:  # type: ignore[override]  # a memory transport only in what it can do
        return self._client(lambda: self._proxy.address, options)

    def _client(self, address: Callable[[], tuple[str, int]], options: Mapping[str, object], password: str = PASSWORD) -> WireTransport:
        capabilities = replace(self._broker(options).capabilities, multi_process=True)
        return self.transport_type(address, options, capabilities, password)

    def plain(self) -> WireTransport:  # type: ignore[override]  # as above
        return self.transport(history=0)

    def bounded(self, count: int) -> WireTransport:  # type: ignore[override]  # as above
        return self.transport(history=count)

    def fading(self, seconds: float) -> WireTransport:  # type: ignore[override]  # as above
        return self.transport(ttl=seconds)

    def absent(self) -> WireTransport:  # type: ignore[override]  # as above
        return self._client(lambda: ("127.0.0.1", 1), {})

    def unauthorised(self) -> WireTransport:
        return self._client(lambda: self._proxy.address, {}, "let me in")

    async def cut(self) -> None:
        await self._proxy.cut()

    async def stall(self) -> None:
        self._proxy.stall()

    async def resume(self) -> None:
        self._proxy.resume()

    async def lose_answer(self) -> None:
        self._proxy.truncate(0)

    async def truncate(self, after_bytes: int, direction: Literal["up", "down"]) -> None:
        self._proxy.truncate(after_bytes, direction)

    async def restart(self, *, keep: bool) -> None:
        for server in self.servers[self.namespace]:
            await server.stop()
        for broker in self._brokers.values():
            if not keep:
                broker.faults.forget()
        for server in self.servers[self.namespace]:
            await server.start()


class _Attentive(WireTransport):
    heartbeat = 0.05


class AttentiveHarness(WireHarness):
    """Of a transport that finds silent connections: soon, so only where nothing else keeps the event loop busy."""

    half_open = 0.1
    transport_type: ClassVar[type[WireTransport]] = _Attentive
