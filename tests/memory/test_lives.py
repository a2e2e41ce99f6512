"""How a connection of the memory broker ends: with its event loop, by a fork, under a backlog, or on purpose; and what its publishers are told of repeats."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection
from itertools import count

import anyio
import pytest
from anyio import to_thread

from fanwire import Channel, Cursor, Gap, GapReason, Message, Realtime, Receipt, topic
from fanwire.errors import ConfigError, ConnectionLost
from fanwire.transport import Outbound
from fanwire_memory import MemoryBroker, MemoryOptions, MemoryTransport
from tests.clock import ManualClock
from tests.rules.support import settle, until

pytestmark = pytest.mark.anyio

_names = count()


class Room(Channel, name="room:{number}"):
    number: int
    a = topic(int)


room = Room(number=1)


def unique() -> str:
    """Return a name that no other broker of this process has."""
    return f"lives-{next(_names)}"


class Recorder:
    """A sink that notes its frames, and does with each what it is told to."""

    def __init__(self, act: Callable[[], object] = lambda: None) -> None:
        self.frames: list[bytes] = []
        self._act = act

    def subscribed(self, channel: str, generation: int, position: Cursor | None, /) -> None: ...

    def deliver(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None, /) -> None:
        self.frames.append(frame)
        self._act()

    def lost(self, channels: Collection[str] | None, reason: GapReason, lost: int | None, /) -> None: ...


def outbound(n: int, *, id: str = "", key: str | None = None, retry: bool = False) -> Outbound:
    return Outbound(room.name, "a", id or f"p.{n}", key, None, None, b"%d" % n, b"frame %d" % n, retry)


# ---------------------------------------------------------------------- with the event loop


def _subscribe_and_close_the_loop(broker: MemoryBroker) -> Recorder:
    """Subscribe on a loop of this very thread, which is closed without a goodbye; the sink wakes somebody there at every frame."""
    loop = asyncio.new_event_loop()
    sink = Recorder(lambda: loop.call_soon(lambda: None))

    async def subscribe() -> None:
        broker.subscribe(broker.connect(sink), [room.name], 1)

    loop.run_until_complete(subscribe())
    loop.close()
    return sink


def test_a_closed_loop_of_the_same_thread_does_not_fail_a_publish() -> None:
    transport = MemoryTransport(unique())
    broker = transport.native(MemoryBroker)
    loop = asyncio.new_event_loop()
    connected, go = asyncio.Event(), asyncio.Event()
    before, after = Recorder(), Recorder()

    async def use() -> None:
        async with transport.run(before):
            await transport.subscribe({room.name: None}, 1)
            connected.set()
            await go.wait()
            # The one whose loop is closed comes between two that live.
            link = broker.connect(after)
            broker._links.insert(0, dead)  # a new connection clears away what it finds: this one it has not found
            broker.subscribe(link, [room.name], 1)
            assert isinstance(transport.publish_now(room.name, "a", "p.1", None, b"1"), Receipt)
            assert isinstance((await transport.publish([outbound(2)]))[0], Receipt)
            broker.disconnect_link(link)

    task = loop.create_task(use())
    loop.run_until_complete(connected.wait())
    gone = _subscribe_and_close_the_loop(broker)
    dead = broker._links.pop()
    assert dead.direct
    assert dead.thread == threading.get_ident()
    go.set()
    loop.run_until_complete(task)
    loop.close()
    assert before.frames == after.frames == [b"1", b"frame 2"]
    assert gone.frames == [b"1"]
    assert dead.broken
    assert not broker._subscribers
    assert not broker._links


def test_a_new_connection_clears_away_what_its_thread_has_left() -> None:
    transport = MemoryTransport(unique())
    broker = transport.native(MemoryBroker)
    _subscribe_and_close_the_loop(broker)

    async def connect() -> None:
        async with transport.run(Recorder()):
            assert len(broker._links) == 1
            assert not broker._subscribers

    asyncio.run(connect())


async def test_an_error_of_a_sink_that_lives_is_not_hidden() -> None:
    def fail() -> None:
        raise RuntimeError("a defect")

    transport = MemoryTransport()
    with pytest.raises((RuntimeError, ExceptionGroup)):
        async with transport.run(Recorder(fail)):
            await transport.subscribe({room.name: None}, 1)
            transport.publish_now(room.name, "a", "p.1", None, b"1")


async def test_a_loop_that_is_gone_is_forgotten_at_the_first_frame() -> None:
    transport = MemoryTransport(unique())
    broker = transport.native(MemoryBroker)
    async with Realtime(transport) as rt:
        await to_thread.run_sync(_subscribe_and_close_the_loop, broker)
        assert len(broker._links) == 2
        await rt.publish(room.a, 1)
        assert len(broker._links) == 1
        assert not broker._subscribers


# ---------------------------------------------------------------------- under a backlog


@pytest.mark.parametrize("history", [0, 1000])
async def test_a_loop_that_stands_still_loses_its_connection_and_is_told(monkeypatch: pytest.MonkeyPatch, history: int) -> None:
    monkeypatch.setattr("fanwire_memory.link._INBOX", 20)
    name, options = unique(), MemoryOptions(history=history)
    transport = MemoryTransport(name, options)
    ready, full = threading.Event(), threading.Event()
    found: list[int | Gap] = []

    async def follow() -> None:
        async with Realtime(MemoryTransport(name, options)) as rt, rt.subscribe(room.a).with_gaps() as items:
            ready.set()
            full.wait(10)  # the whole loop stands still
            await until(lambda: rt.stats().connections == 2 and bool(broker._subscribers), "it is connected again")
            await settle()
            await rt.publish(room.a, 100)
            with anyio.fail_after(10):
                while 100 not in found:
                    item = await anext(items)
                    found.append(item.data if isinstance(item, Message) else item)

    broker = transport.native(MemoryBroker)
    async with Realtime(transport) as rt, anyio.create_task_group() as tasks:
        tasks.start_soon(to_thread.run_sync, lambda: anyio.run(follow))
        await until(ready.is_set, "the other loop is ready")
        (link,) = broker._subscribers[room.name]
        for number in range(20):
            await rt.publish(room.a, number)
        assert not link.broken
        await rt.publish(room.a, 20)
        assert link.broken
        assert link not in broker._links
        assert not link._inbox
        assert "20 frames wait for an event loop" in str(link.lost())
        full.set()
    if history:
        assert found == [*range(21), 100]
    else:
        assert isinstance(found[0], Gap)
        assert found[1:] == [100]


# ---------------------------------------------------------------------- by a fork


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # Python >= 3.12 says so; it is what is tested
def test_a_child_forked_while_another_thread_publishes_begins_anew() -> None:
    name = unique()
    transport = MemoryTransport(name)
    broker = transport.native(MemoryBroker)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with broker.lock:
            broker._stream("left")
            held.set()
            release.wait(10)

    async def publish() -> bool:
        with anyio.fail_after(5):
            async with Realtime(MemoryTransport(name)) as rt, Realtime(transport) as before, before.subscribe(room.a) as messages:
                await rt.publish(room.a, 1)
                return (await anext(messages)).data == 1 and "left" not in broker._streams

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    child = os.fork()
    if not child:
        signal.alarm(10)  # hung: the default action ends it
        try:
            os._exit(0 if asyncio.run(publish()) else 3)
        finally:
            os._exit(4)
    _, status = os.waitpid(child, 0)
    release.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0
    assert "left" in broker._streams


# ---------------------------------------------------------------------- on purpose


async def test_who_is_blocked_when_the_connection_is_closed_is_told() -> None:
    transport = MemoryTransport()
    async with anyio.create_task_group() as tasks:

        async def publish() -> None:
            with pytest.raises(ConnectionLost, match="has ended"):
                await transport.publish([outbound(1)])

        async with transport.run(Recorder()):
            transport.faults.block()
            tasks.start_soon(publish)
            await settle()
        assert transport._link is None
    assert not transport.native(MemoryBroker)._streams


async def test_a_connection_that_is_left_late_does_not_take_its_successor_away() -> None:
    transport = MemoryTransport()
    first = transport.run(Recorder())
    await first.__aenter__()
    # Of another task's life: entered anew before the first was left.
    async with transport.run(Recorder()):
        assert transport._link is not None
        await transport.ping()
        second = transport._link
    assert second.broken
    await first.__aexit__(None, None, None)
    with pytest.raises(ConnectionLost):
        await transport.ping()


async def test_a_connection_made_during_a_delay_waits_for_the_rest_of_it() -> None:
    clock = ManualClock()
    transport = MemoryTransport(clock=clock)
    async with Realtime(transport) as rt, rt.subscribe(room.a) as messages:
        transport.faults.delay(5.0)
        await until(lambda: clock.sleepers == 1, "the delay is waited for")
        clock.advance(3.0)
        transport.faults.disconnect()
        await until(lambda: rt.stats().connections == 2 and clock.sleepers == 1, "the rest of it is waited for")
        assert clock.slept == [5.0, 2.0]
        clock.advance(2.0)
        await until(lambda: clock.sleepers == 0, "it is over")
        await rt.publish(room.a, 1)
        with anyio.fail_after(10):
            assert (await anext(messages)).data == 1


async def test_a_delay_that_ends_while_nobody_is_connected_is_over() -> None:
    clock = ManualClock()
    transport, sink = MemoryTransport(clock=clock), Recorder()
    transport.faults.delay(5.0)
    clock.advance(5.0)
    async with transport.run(sink):
        await transport.subscribe({room.name: None}, 1)
        await transport.publish([outbound(1)])
        assert sink.frames == [b"frame 1"]


def test_a_named_broker_takes_no_clock() -> None:
    with pytest.raises(ConfigError, match="a named broker is shared, it takes no clock"):
        MemoryTransport(unique(), clock=ManualClock())


# ---------------------------------------------------------------------- repeats


async def test_a_publishers_own_second_attempt_is_no_duplicate() -> None:
    transport, sink = MemoryTransport(), Recorder()
    async with transport.run(sink):
        await transport.subscribe({room.name: None}, 1)
        for key in (None, "k"):
            id = f"p.{key}"
            (first,) = await transport.publish([outbound(1, id=id, key=key)])
            (again,) = await transport.publish([outbound(1, id=id, key=key, retry=True)])
            assert isinstance(first, Receipt)
            assert again == first
            assert not first.duplicate
        (other,) = await transport.publish([outbound(2, key="k", retry=True)])
        assert isinstance(other, Receipt)
        assert other.duplicate
        assert len(sink.frames) == 2
