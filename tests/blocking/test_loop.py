"""Beside an event loop: refused in one, and made from a Realtime for the threads that work with it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

import anyio
import pytest
from anyio import to_thread

from fanwire import BlockingRealtime, Realtime
from fanwire.blocking import lifetime
from fanwire.clock import SYSTEM_CLOCK
from fanwire.codec import ENVELOPE
from fanwire.errors import ConfigError, WrongLoop
from fanwire.transport import SupportsCopy, Transport, TransportOptions
from fanwire_memory import MemoryBroker, MemoryTransport
from tests.blocking.support import finish, in_thread, portals, room, until

USES: dict[str, Callable[[BlockingRealtime], object]] = {
    "publish": lambda rt: rt.publish(room.a, 1),
    "publish_many": lambda rt: rt.publish_many([room.a(1)]),
    "history": lambda rt: rt.history(room.a),
    "ping": lambda rt: rt.ping(),
    "with": lambda rt: rt.__enter__(),
    "close": lambda rt: rt.close(),
    "subscribe": lambda rt: rt.subscribe(room.a).__enter__(),
    "events": lambda rt: rt.events().__enter__(),
    "run": lambda rt: rt.run("r").publish(room.a, 1),
}


@pytest.mark.anyio
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("first", [True, False])
async def test_in_an_event_loop_it_is_refused(use: str, first: bool) -> None:
    """Rather than stopping everything else that runs there."""
    rt = BlockingRealtime.from_url("memory://")
    if not first:
        await to_thread.run_sync(rt.ping)
    with pytest.raises(WrongLoop, match=r"would block the event loop.*use a Realtime and await it, or call this in a thread of its own"):
        USES[use](rt)
    assert len(portals()) == (0 if first else 1)
    await to_thread.run_sync(rt.close)


@pytest.mark.anyio
async def test_what_needs_no_waiting_is_allowed_there() -> None:
    rt = BlockingRealtime.from_url("memory://")
    messages = await to_thread.run_sync(rt.subscribe(room.a).__enter__)
    assert rt.stats().subscriptions == 1
    assert messages.stats().received == 0
    assert rt.capabilities.history
    with pytest.raises(WrongLoop):
        messages.get(timeout=0)
    messages.close()  # does not wait here
    with anyio.fail_after(10):
        while rt.stats().subscriptions:
            await anyio.lowlevel.checkpoint()
    await to_thread.run_sync(rt.close)


def test_in_a_callback_of_an_event_loop() -> None:
    async def main() -> None:
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def callback() -> None:
            try:
                rt.ping()
            except WrongLoop as error:
                failed.set_exception(error)

        asyncio.get_running_loop().call_soon(callback)
        await failed

    rt = BlockingRealtime.from_url("memory://")
    with pytest.raises(WrongLoop):
        asyncio.run(main())


def test_in_the_portals_own_thread() -> None:
    """What is called there, such as ``on_invalid``, would wait for itself."""
    found: list[str] = []

    def on_invalid(_: object) -> None:
        try:
            rt.publish(room.a, 1)
        except WrongLoop as error:
            found.append(str(error))

    with BlockingRealtime.from_url("memory://", on_invalid=on_invalid) as rt, rt.subscribe(room.a) as messages, rt.subscribe(room.b) as others:
        rt.publish_many([type(room.a)(room.name, "a")("no number"), room.b(1)])
        assert others.get(timeout=5).data == 1
        rt.publish(room.a, 2)
        assert messages.get(timeout=5).data == 2
    assert "would block the event loop" in found[0]


# ---------------------------------------------------------------------- made from a Realtime


@pytest.mark.anyio
async def test_an_unnamed_broker_is_shared() -> None:
    """An application under an event loop, and its threads: each sees what the other publishes."""
    async with Realtime.from_url("memory://") as rt:
        blocking = rt.blocking()
        async with rt.subscribe(room.a) as messages:

            def work() -> list[int]:
                with blocking.subscribe(room.b) as replies:
                    blocking.publish(room.a, 1)
                    return [replies.get(timeout=10).data for _ in range(100)]

            async with anyio.create_task_group() as tasks:

                async def run() -> None:
                    assert await to_thread.run_sync(work) == list(range(100))

                tasks.start_soon(run)
                with anyio.fail_after(10):
                    assert (await anext(messages)).data == 1
                for n in range(100):
                    await rt.publish(room.b, n)
        assert [message.data for message in await rt.history(room.b)] == [
            message.data for message in await to_thread.run_sync(blocking.history, room.b)
        ]
        await to_thread.run_sync(blocking.close)
        await rt.publish(room.a, 2)


@pytest.mark.anyio
async def test_both_publish_at_once() -> None:
    """On a broker that took no lock before: nothing is lost on either side."""
    async with Realtime.from_url("memory://") as rt:
        await rt.publish(room.a, 0)
        blocking = rt.blocking()

        def work() -> None:
            for n in range(1000):
                blocking.publish(room.a, n)

        async with rt.subscribe(room.a, room.b, buffer=4000) as messages, anyio.create_task_group() as tasks:
            tasks.start_soon(to_thread.run_sync, work)
            for n in range(1000):
                await rt.publish(room.b, n)
            with anyio.fail_after(30):
                found = [await anext(messages) for _ in range(2000)]
        for topic in "ab":
            assert [message.data for message in found if message.topic == topic] == list(range(1000))
        await to_thread.run_sync(blocking.close)


def test_a_named_broker_is_shared_as_it_always_is() -> None:
    rt = Realtime.from_url("memory://test-loop")
    with rt.blocking() as one, BlockingRealtime.from_url("memory://test-loop") as other, one.subscribe(room.a) as messages:
        other.publish(room.a, 1)
        assert messages.get(timeout=5).data == 1
        assert one.native(MemoryBroker) is other.native(MemoryBroker)
    with BlockingRealtime.from_url("memory://") as one, BlockingRealtime.from_url("memory://") as other:
        assert one.native(MemoryBroker) is not other.native(MemoryBroker)


def test_it_takes_all_settings_along() -> None:
    """Each parameter of the constructor, now and in future."""
    given: dict[str, Any] = {
        "timeout": 1.5,
        "connect_timeout": 2.5,
        "buffer": 3,
        "buffer_bytes": 4,
        "buffer_bytes_total": 5,
        "linger": 0.5,
        "require": ["confirmed_publish"],
        "on_invalid": print,
        "codec": type(ENVELOPE)(),
        "clock": type(SYSTEM_CLOCK)(),
    }
    assert set(given) == set(inspect.signature(Realtime).parameters) - {"transport"}
    rt = Realtime(MemoryTransport(), **given)
    made = rt.blocking()
    assert isinstance(made, BlockingRealtime)
    ours, theirs = vars(made._realtime), vars(rt)
    named = {name if name in theirs else f"_{name}" for name in given} - {"_require"}  # what it requires was checked, and the copy can do the same
    assert {name: ours[name] for name in named} == {name: theirs[name] for name in named}


def test_each_call_makes_another_one() -> None:
    rt = Realtime.from_url("memory://")
    one, other = rt.blocking(), rt.blocking()
    one.close()
    assert other.ping() >= 0
    other.close()


def test_it_is_made_where_the_realtime_is_used() -> None:
    async def main() -> None:
        async with Realtime.from_url("memory://") as rt:
            with pytest.raises(WrongLoop, match=r"call rt\.blocking\(\) where rt is used, and give what it returns to your threads"):
                await to_thread.run_sync(rt.blocking)
            assert not rt.native(MemoryBroker).shared
            rt.blocking()
            assert rt.native(MemoryBroker).shared
        rt.blocking()

    asyncio.run(main())
    finish(in_thread(Realtime.from_url("memory://").blocking))


class Given:
    """A transport that was given a client's own objects."""

    name: ClassVar[str] = "given"
    options_model: ClassVar[type[TransportOptions]] = TransportOptions
    capabilities = MemoryTransport().capabilities

    def copy(self) -> NoReturn:
        raise ConfigError("given: it was made with a client of yours, which belongs to one event loop: make it from a URL")


class Single:
    """A third party's transport that knows nothing of copies."""

    name: ClassVar[str] = "single"
    options_model: ClassVar[type[TransportOptions]] = TransportOptions
    capabilities = MemoryTransport().capabilities


def test_a_transport_that_cannot_be_copied() -> None:
    for transport, text in (
        (Given(), "given: it was made with a client of yours"),
        (Single(), r"the single transport cannot be opened a second time"),
    ):
        rt = Realtime(transport)  # type: ignore[arg-type]  # as much of a transport as is needed
        with pytest.raises(ConfigError, match=text):
            rt.blocking()
        with pytest.raises(ConfigError, match=text):
            BlockingRealtime(transport)  # type: ignore[arg-type]  # as above
    assert isinstance(MemoryTransport(), SupportsCopy)
    assert not isinstance(Single(), SupportsCopy)


def test_a_copy_of_the_memory_transport() -> None:
    transport: Transport = MemoryTransport("named")
    assert isinstance(transport, MemoryTransport)
    other = transport.copy()
    assert other is not transport
    assert other.native(MemoryBroker) is transport.native(MemoryBroker)
    assert repr(other) == repr(transport)
    assert other._link is None


def test_the_blocking_facade_forgets_what_is_forgotten() -> None:
    import gc

    before = len(lifetime._living)
    rt = BlockingRealtime.from_url("memory://")
    assert len(lifetime._living) == before + 1
    del rt
    gc.collect()
    until(lambda: len(lifetime._living) <= before, "it has gone")
