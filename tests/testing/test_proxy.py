"""The fault proxy: each fault as plain blocking sockets on both sides of it see it."""

from __future__ import annotations

import gc
import hashlib
import os
import socket
import struct
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from anyio import to_thread

from fanwire.testing.proxy import FaultProxy, _Connection, _Way

pytestmark = pytest.mark.anyio

PATIENCE = 10.0
BRIEF = 0.05
"""Seconds to see that nothing comes."""

WAYS: list[Literal["up", "down"]] = ["up", "down"]


class End:
    """A blocking socket, used in worker threads."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(PATIENCE)

    async def send(self, data: bytes) -> None:
        await to_thread.run_sync(self.sock.sendall, data)

    async def receive(self, size: int) -> bytes:
        """Read ``size`` bytes, or up to the end of the stream."""
        return await to_thread.run_sync(self._receive, size)

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (more := self.sock.recv(size - len(data))):
            data += more
        return data

    async def silent(self) -> bool:
        """Tell whether nothing comes, neither bytes nor an end."""
        self.sock.settimeout(BRIEF)
        try:
            await to_thread.run_sync(self.sock.recv, 1, socket.MSG_PEEK)
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(PATIENCE)
        return False

    async def broken(self) -> bool:
        """Wait for the end; tell whether it is a reset."""
        try:
            assert await self.receive(1) == b""
        except ConnectionResetError:
            return True
        return False


class Wire:
    """A listening socket, a proxy to it, and connections through it."""

    def __init__(self, listener: socket.socket, proxy: FaultProxy) -> None:
        self.listener = listener
        self.proxy = proxy
        self.ends: list[End] = []

    async def connect(self) -> tuple[End, End]:
        """Make a connection; return its client's and its server's end."""
        return await self.dial(), await self.answer()

    async def dial(self) -> End:
        return self._end(await to_thread.run_sync(socket.create_connection, self.proxy.address, PATIENCE))

    async def answer(self) -> End:
        server, _ = await to_thread.run_sync(self.listener.accept)
        return self._end(server)

    def _end(self, sock: socket.socket) -> End:
        end = End(sock)
        self.ends.append(end)
        return end


def listening(family: int = socket.AF_INET, address: Any = ("127.0.0.1", 0)) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen()
    listener.settimeout(PATIENCE)
    return listener


@asynccontextmanager
async def wired(listener: socket.socket | None = None) -> AsyncGenerator[Wire]:
    with listener or listening() as there:
        address = there.getsockname()
        wire = Wire(there, FaultProxy(address))
        try:
            async with wire.proxy:
                yield wire
        finally:
            for end in wire.ends:
                end.sock.close()


def sides(ends: tuple[End, End], way: str) -> tuple[End, End]:
    """Return who sends and who receives in that direction."""
    client, server = ends
    return (client, server) if way == "up" else (server, client)


async def until_connections(proxy: FaultProxy, count: int) -> None:
    with anyio.fail_after(PATIENCE):
        while proxy.connections != count:  # noqa: ASYNC110 - it tells nobody
            await anyio.sleep(0.001)


# ---------------------------------------------------------------------- without a fault


@pytest.mark.parametrize("way", WAYS)
async def test_bytes_pass_as_they_are_while_others_pass_the_other_way(way: str) -> None:
    data = os.urandom(3_000_000)
    async with wired() as wire:
        sender, receiver = sides(await wire.connect(), way)
        found: list[bytes] = []

        async def read(end: End, size: int) -> None:
            found.append(await end.receive(size))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, receiver, len(data))
            tasks.start_soon(read, sender, 100_000)
            tasks.start_soon(sender.send, data)
            tasks.start_soon(receiver.send, data[:100_000])
        assert sorted(hashlib.sha256(part).digest() for part in found) == sorted(hashlib.sha256(part).digest() for part in (data, data[:100_000]))


@pytest.mark.parametrize("way", WAYS)
async def test_the_end_of_a_stream_passes_and_the_other_direction_goes_on(way: str) -> None:
    async with wired() as wire:
        sender, receiver = sides(await wire.connect(), way)
        await sender.send(b"question")
        sender.sock.shutdown(socket.SHUT_WR)
        assert await receiver.receive(100) == b"question"
        await receiver.send(b"answer")
        assert await sender.receive(6) == b"answer"
        receiver.sock.close()
        assert not await sender.broken()
        await until_connections(wire.proxy, 0)


@pytest.mark.parametrize("way", WAYS)
async def test_a_reset_passes(way: str) -> None:
    async with wired() as wire:
        breaker, other = sides(await wire.connect(), way)
        breaker.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        breaker.sock.close()
        assert await other.broken()


async def test_connections_are_counted_and_independent() -> None:
    async with wired() as wire:
        first, second = await wire.connect(), await wire.connect()
        assert (wire.proxy.connections, wire.proxy.accepted) == (2, 2)
        first[0].sock.close()
        assert not await first[1].broken()
        first[1].sock.close()
        await until_connections(wire.proxy, 1)
        await second[0].send(b"still here")
        assert await second[1].receive(10) == b"still here"
        assert wire.proxy.accepted == 2


async def test_a_server_behind_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "server")
    async with wired(listening(socket.AF_UNIX, path)) as wire:
        client, server = await wire.connect()
        await client.send(b"by path")
        assert await server.receive(7) == b"by path"
        await wire.proxy.cut()
        assert await client.broken()


async def test_a_client_of_a_server_that_is_not_there_is_reset() -> None:
    async with wired() as wire:
        wire.listener.close()
        try:
            client = await wire.dial()
        except ConnectionResetError:
            pass  # so soon that the client was not even told it was connected
        else:
            assert await client.broken()
        await until_connections(wire.proxy, 0)


async def test_new_connections_lead_to_a_new_target() -> None:
    async with wired() as wire:
        _, old = await wire.connect()
        with listening() as elsewhere:
            wire.proxy.target = elsewhere.getsockname()
            wire.listener = elsewhere
            client, server = await wire.connect()
            await client.send(b"elsewhere")
            assert await server.receive(9) == b"elsewhere"
        assert await old.silent()


# ---------------------------------------------------------------------- broken connections


async def test_cut_resets_both_sides_and_new_connections_are_made() -> None:
    async with wired() as wire:
        pairs = [await wire.connect() for _ in range(3)]
        await wire.proxy.cut()
        assert wire.proxy.connections == 0
        for client, server in pairs:
            assert await client.broken()
            assert await server.broken()
        client, server = await wire.connect()
        await client.send(b"again")
        assert await server.receive(5) == b"again"


async def test_close_ends_both_sides_in_order() -> None:
    async with wired() as wire:
        client, server = await wire.connect()
        await client.send(b"arrived")
        assert await server.receive(7) == b"arrived"
        await wire.proxy.close()
        assert wire.proxy.connections == 0
        assert not await client.broken()
        assert not await server.broken()


async def test_close_is_in_order_although_something_was_on_its_way() -> None:
    async with wired() as wire:
        client, server = await wire.connect()
        wire.proxy.stall()
        await client.send(b"never")
        await wire.proxy.close()
        assert not await client.broken()
        assert not await server.broken()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("after", [0, 1, 70_000])
async def test_truncate_leaves_the_beginning_of_a_frame(way: Literal["up", "down"], after: int) -> None:
    data = os.urandom(100_000)
    async with wired() as wire:
        ends = await wire.connect()
        sender, receiver = sides(ends, way)
        await sender.send(b"before")
        assert await receiver.receive(6) == b"before"
        wire.proxy.truncate(after, way)
        assert await receiver.silent()
        await receiver.send(b"the other way")
        assert await sender.receive(13) == b"the other way"
        with suppress(ConnectionError):
            await sender.send(data)
        assert await receiver.receive(after) == data[:after]
        assert await receiver.broken()
        await until_connections(wire.proxy, 0)
        sender, receiver = sides(await wire.connect(), way)
        await sender.send(data)
        assert await receiver.receive(len(data)) == data


async def test_refuse_refuses_at_once_and_keeps_what_is_open() -> None:
    async with wired() as wire:
        client, server = await wire.connect()
        port = wire.proxy.port
        await wire.proxy.refuse()
        await wire.proxy.refuse()
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                await wire.dial()
        await client.send(b"goes on")
        assert await server.receive(7) == b"goes on"
        wire.proxy.accept()
        wire.proxy.accept()
        assert wire.proxy.port == port
        client, server = await wire.connect()
        await client.send(b"new")
        assert await server.receive(3) == b"new"
        assert wire.proxy.accepted == 2


# ---------------------------------------------------------------------- hindered bytes


@pytest.mark.parametrize("way", WAYS)
async def test_stalled_one_way_the_connection_is_half_open(way: Literal["up", "down"]) -> None:
    async with wired() as wire:
        sender, receiver = sides(await wire.connect(), way)
        wire.proxy.stall(way)
        await sender.send(b"held")
        await receiver.send(b"passes")
        assert await sender.receive(6) == b"passes"
        assert await receiver.silent()
        sender.sock.shutdown(socket.SHUT_WR)
        assert await receiver.silent(), "the end of the stream passed"
        wire.proxy.resume()
        assert await receiver.receive(100) == b"held"


async def test_stalled_both_ways_each_side_takes_the_other_for_alive() -> None:
    async with wired() as wire:
        client, server = await wire.connect()
        wire.proxy.stall()
        await client.send(b"held")
        server.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.sock.close()
        assert await client.silent(), "the reset passed"
        late = await wire.dial()
        await late.send(b"hello")
        assert await late.silent()
        wire.proxy.resume()
        assert await client.broken()
        assert await (await wire.answer()).receive(5) == b"hello"


async def test_what_was_read_before_a_stall_is_held_too() -> None:
    async with wired() as wire:
        client, server = await wire.connect()
        wire.proxy.delay(BRIEF / 2)
        await client.send(b"under way")
        wire.proxy.stall()
        assert await server.silent()
        wire.proxy.resume()
        assert await server.receive(9) == b"under way"


async def test_a_stalled_sender_is_held_up_when_buffers_are_full() -> None:
    async with wired() as wire:
        client, server = await wire.connect()
        wire.proxy.stall("up")
        client.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            await client.send(bytes(64 * 2**20))
        assert await server.silent()


async def test_cut_reaches_both_sides_of_a_stalled_connection() -> None:
    async with wired() as wire:
        client, server = await wire.connect()
        wire.proxy.stall()
        await client.send(b"lost")
        await wire.proxy.cut()
        assert await client.broken()
        assert await server.broken()


async def test_delay_is_latency_and_takes_no_throughput() -> None:
    async with wired() as wire:
        client, server = await wire.connect()
        wire.proxy.delay(0.15, "up")
        begin = time.monotonic()
        for number in range(40):
            await client.send(b"%04d" % number)
        await server.send(b"fast")
        assert await client.receive(4) == b"fast"
        assert time.monotonic() - begin < 0.15
        assert await server.receive(4) == b"0000"
        first = time.monotonic() - begin
        assert await server.receive(156) == b"".join(b"%04d" % number for number in range(1, 40))
        assert first >= 0.15 * 0.95  # timers of some loops count in whole milliseconds
        assert time.monotonic() - begin < 0.15 * 10
        wire.proxy.delay(0)
        begin = time.monotonic()
        await client.send(b"soon")
        assert await server.receive(4) == b"soon"
        assert time.monotonic() - begin < 0.15


@pytest.mark.parametrize("way", WAYS)
async def test_throttle_lets_so_much_through_in_a_second(way: Literal["up", "down"]) -> None:
    data = os.urandom(20_000)
    async with wired() as wire:
        sender, receiver = sides(await wire.connect(), way)
        wire.proxy.throttle(100_000, way)
        begin = time.monotonic()
        await sender.send(data)
        assert await receiver.receive(len(data)) == data
        assert time.monotonic() - begin >= 0.18
        wire.proxy.throttle(None)
        await sender.send(data * 100)
        assert await receiver.receive(len(data) * 100) == data * 100
        assert time.monotonic() - begin < 2.0


# ---------------------------------------------------------------------- its own life


async def test_the_port_can_be_chosen() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with FaultProxy(("127.0.0.1", 1), port=port) as proxy:
        assert proxy.address == ("127.0.0.1", port)


async def test_a_port_that_is_taken_is_refused() -> None:
    with listening() as taken, pytest.raises(OSError, match=r"(?i)in use"):
        async with FaultProxy(("127.0.0.1", 1), port=taken.getsockname()[1]):
            pytest.fail("two cannot listen there")


async def test_misuse_is_refused() -> None:
    proxy = FaultProxy(("127.0.0.1", 1))
    uses: list[Callable[[], object]] = [lambda: proxy.port, lambda: proxy.address, proxy.accept]
    for use in uses:
        with pytest.raises(RuntimeError, match="async with FaultProxy"):
            use()
    assert "not running" in repr(proxy)
    async with proxy:
        assert str(proxy.port) in repr(proxy)
        with pytest.raises(RuntimeError, match="make another one"):
            await proxy.__aenter__()
        wrong: Any = "left"
        nowhere: list[Callable[[], object]] = [
            lambda: proxy.stall(wrong),
            lambda: proxy.delay(1, wrong),
            lambda: proxy.throttle(1, wrong),
            lambda: proxy.truncate(1, wrong),
        ]
        for call in nowhere:
            with pytest.raises(ValueError, match="'up'.*'down'"):
                call()
        impossible: list[Callable[[], object]] = [lambda: proxy.delay(-1), lambda: proxy.throttle(0), lambda: proxy.truncate(-1)]
        for call in impossible:
            with pytest.raises(ValueError, match="must be"):
                call()


async def test_it_can_run_again_without_its_faults() -> None:
    proxy = FaultProxy(("127.0.0.1", 1))
    for _ in range(2):
        with listening() as listener:
            proxy.target = listener.getsockname()
            async with proxy:
                wire = Wire(listener, proxy)
                client, server = await wire.connect()
                await client.send(b"x")
                assert await server.receive(1) == b"x"
                proxy.stall()
                await proxy.refuse()
            assert await client.broken() in {True, False}
            client.sock.close()
            server.sock.close()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_nothing_is_left() -> None:
    """Neither tasks nor sockets, whatever was going on, and however it ends."""
    await to_thread.run_sync(int)  # the worker thread of the sockets is there from now on
    gc.collect()
    before, tasks = descriptors(), len(anyio.get_running_tasks())
    for _ in range(3):
        async with wired() as wire:
            for _ in range(5):
                await wire.connect()
            client, _ = await wire.connect()
            wire.proxy.delay(5.0)
            wire.proxy.throttle(1)
            await client.send(b"slow")
            wire.proxy.stall("down")
            wire.proxy.truncate(1)
            await wire.dial()
            await wire.proxy.refuse()
        with anyio.move_on_after(BRIEF):
            async with wired() as wire:
                await wire.connect()
                await anyio.sleep_forever()
        with pytest.raises(LookupError, match="the body's own"):
            async with wired() as wire:
                await wire.connect()
                raise LookupError("the body's own")
    gc.collect()
    assert len(anyio.get_running_tasks()) == tasks
    assert descriptors() == before


async def test_a_reader_whose_writer_has_ended_ends_in_peace() -> None:
    """The sink is gone, which the writer has noticed, and the source goes on sending."""
    proxy = FaultProxy(("127.0.0.1", 1))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = _Connection(ours, proxy)
        theirs.setblocking(False)
        ours.sendall(b"more")
        send, receive = anyio.create_memory_object_stream[tuple[float, bytes]](1)
        receive.close()
        with anyio.fail_after(PATIENCE):
            await connection._read(_Way(), theirs, send)
