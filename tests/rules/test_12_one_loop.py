"""Rule 12, one loop: a Realtime belongs to one event loop and process; use from another raises WrongLoop, before entering and after leaving it is Closed."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from fanwire import Message, Realtime, Subscription
from fanwire.errors import Closed, FanwireError, WrongLoop
from fanwire_memory import MemoryTransport
from tests.conftest import LOOPS
from tests.rules.support import QUIET, Room, left_behind, take, told, until
from tests.rules.support_close import CALLS, Call, run_script
from tests.untested import require

ROOM = Room(number=12)

each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
each_other_loop = pytest.mark.parametrize("other", ["asyncio", "trio"])


async def _closing(rt: Realtime) -> None:
    await rt.aclose()


async def elsewhere(backend: str, what: Callable[[], Awaitable[object]]) -> BaseException | None:
    """Run ``what`` on an event loop of another thread, and return what it raised."""

    async def main() -> BaseException | None:
        try:
            with anyio.fail_after(2):
                await what()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
            return error
        return None

    return await anyio.to_thread.run_sync(lambda: anyio.run(main, backend=backend))


async def at_home(rt: Realtime) -> None:
    """Assert that where it belongs, everything goes on."""
    async with rt.subscribe(ROOM.a) as messages:
        await rt.publish(ROOM.a, 7)
        assert told(await take(messages, 1)) == [7]
    for name, call in CALLS.items():
        with anyio.fail_after(5):
            assert await call(rt) is not NotImplemented, name


# ---------------------------------------------------------------------- another loop


@pytest.mark.anyio
@each_other_loop
@pytest.mark.parametrize("call", [*CALLS.values(), _closing], ids=[*CALLS, "aclose"])
async def test_every_call_from_an_event_loop_of_another_thread_is_refused(call: Call, other: str) -> None:
    async with Realtime(MemoryTransport()) as rt:
        raised = await elsewhere(other, lambda: call(rt))
        assert type(raised) is WrongLoop, repr(raised)
        assert raised.code == "wrong_loop"
        assert "one per event loop" in str(raised)
        assert rt.stats().published == 0
        assert left_behind(rt) == QUIET
        await at_home(rt)


def test_the_calls_of_the_table_succeed_where_they_belong() -> None:
    """Or the refusals above would show nothing."""

    async def main() -> None:
        async with Realtime(MemoryTransport()) as rt:
            await at_home(rt)
            assert rt.stats().published == 6

    anyio.run(main)


@pytest.mark.parametrize("call", [*CALLS.values(), _closing], ids=[*CALLS, "aclose"])
@pytest.mark.parametrize("kind", ["asyncio", "asyncio+uvloop"])
def test_every_call_from_another_loop_of_the_same_thread_is_refused(call: Call, kind: str) -> None:
    """Two loops that take turns in one thread: neither the thread nor the kind of loop tells them apart."""
    make: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if kind == "asyncio+uvloop":
        require("uvloop", importlib.util.find_spec("uvloop") is not None, "the tests on its event loop")
        import uvloop

        make = uvloop.new_event_loop
    home, other = make(), make()
    rt = Realtime(MemoryTransport())

    async def use() -> None:
        await call(rt)

    try:
        home.run_until_complete(rt.__aenter__())
        with pytest.raises(WrongLoop, match="this is another one"):
            other.run_until_complete(use())
        home.run_until_complete(at_home(rt))
        home.run_until_complete(rt.aclose())
    finally:
        home.close()
        other.close()


@pytest.mark.anyio
@each_call
async def test_every_call_where_no_loop_runs_is_refused(call: Call) -> None:
    """In a thread without an event loop a coroutine can still be driven by hand."""
    async with Realtime(MemoryTransport()) as rt:

        def by_hand() -> None:
            step = call(rt).__await__()
            with pytest.raises(WrongLoop, match="no event loop runs here"):
                next(step)

        await anyio.to_thread.run_sync(by_hand)
        await at_home(rt)


@pytest.mark.anyio
@each_other_loop
async def test_a_subscription_refused_elsewhere_can_still_be_entered_at_home(other: str) -> None:
    async with Realtime(MemoryTransport()) as rt:
        subscription = rt.subscribe(ROOM.a)

        async def enter() -> None:
            async with subscription:
                pass

        assert type(await elsewhere(other, enter)) is WrongLoop
        assert left_behind(rt) == QUIET
        async with subscription as messages:
            await rt.publish(ROOM.a, 1)
            assert told(await take(messages, 1)) == [1]


async def _loop_over(messages: Subscription[Message[int]]) -> None:
    async for _ in messages:
        pass


def _batches(messages: Subscription[Message[int]]) -> AsyncIterator[object]:
    return messages.batches()


WAITS: dict[str, Callable[[Subscription[Message[int]]], Awaitable[object]]] = {
    "anext": lambda messages: messages.__anext__(),
    "async for": _loop_over,
    "batches": lambda messages: anext(_batches(messages)),
}


@pytest.mark.anyio
@each_other_loop
@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
async def test_waiting_for_a_message_elsewhere_is_refused(wait: Callable[[Subscription[Message[int]]], Awaitable[object]], other: str) -> None:
    """A subscription is used where its Realtime is: parked on another loop, nobody could wake it safely."""
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(ROOM.a) as messages:
        raised = await elsewhere(other, lambda: wait(messages))
        assert type(raised) is WrongLoop, repr(raised)
        await rt.publish(ROOM.a, 1)
        assert told(await take(messages, 1)) == [1]


@pytest.mark.anyio
@each_other_loop
async def test_leaving_a_subscription_elsewhere_is_refused(other: str) -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(ROOM.a) as messages:
        raised = await elsewhere(other, lambda: messages.__aexit__(None, None, None))
        assert type(raised) is WrongLoop, repr(raised)
        await rt.publish(ROOM.a, 1)
        assert told(await take(messages, 1)) == [1]


@pytest.mark.anyio
@each_other_loop
async def test_one_realtime_per_loop_shares_a_named_broker(other: str) -> None:
    """What the error tells to do instead."""
    async with Realtime(MemoryTransport("rule-12")) as rt, rt.subscribe(ROOM.a) as messages:

        async def publish() -> None:
            async with Realtime(MemoryTransport("rule-12")) as there:
                await there.publish(ROOM.a, 3)

        assert await elsewhere(other, publish) is None
        assert told(await take(messages, 1)) == [3]


# ---------------------------------------------------------------------- before entering, after leaving


@pytest.mark.anyio
@each_call
async def test_every_call_before_entering_is_refused(call: Call) -> None:
    rt = Realtime(MemoryTransport())
    with pytest.raises(Closed, match="is not open: use `async with") as caught:
        await call(rt)
    assert type(caught.value) is Closed
    async with rt:
        await call(rt)


@pytest.mark.anyio
@each_call
async def test_every_call_after_leaving_is_refused(call: Call) -> None:
    async with Realtime(MemoryTransport()) as rt:
        await call(rt)
    with pytest.raises(Closed, match="is closed") as caught:
        await call(rt)
    assert type(caught.value) is Closed


@pytest.mark.anyio
async def test_closing_before_entering_does_nothing() -> None:
    rt = Realtime(MemoryTransport())
    await rt.aclose()
    async with rt:
        await at_home(rt)


@pytest.mark.anyio
@each_other_loop
async def test_closing_elsewhere_what_is_closed_already_does_nothing(other: str) -> None:
    async with Realtime(MemoryTransport()) as rt:
        pass
    assert await elsewhere(other, rt.aclose) is None


@pytest.mark.anyio
async def test_it_is_entered_once() -> None:
    """Neither while it is open nor after it was closed."""
    async with Realtime(MemoryTransport()) as rt:
        with pytest.raises(Closed, match="entered before"):
            await rt.__aenter__()
        await at_home(rt)
    with pytest.raises(Closed, match="entered before"):
        await rt.__aenter__()


@pytest.mark.anyio
async def test_figures_may_be_asked_for_at_any_time() -> None:
    rt = Realtime(MemoryTransport())
    assert (rt.stats().channels, rt.stats().state.value) == (0, "closed")
    async with rt:
        assert rt.stats().state.value == "connected"
        assert rt.capabilities.ordering == "channel"
    assert rt.stats().state.value == "closed"


@pytest.mark.anyio
async def test_wrong_loop_is_caught_as_closed() -> None:
    async with Realtime(MemoryTransport()) as rt:
        raised = await elsewhere("asyncio", lambda: rt.publish(ROOM.a, 1))
        assert isinstance(raised, Closed)
        assert isinstance(raised, FanwireError)
        assert not raised.retryable


@pytest.mark.anyio
async def test_a_realtime_made_in_another_thread_belongs_to_where_it_was_entered() -> None:
    rt = await anyio.to_thread.run_sync(lambda: Realtime(MemoryTransport()))
    async with rt:
        await at_home(rt)


# ---------------------------------------------------------------------- another process

FORK = '''
"""Forks while a Realtime is open, and uses it in the child."""
from __future__ import annotations

import os
import sys
import threading
import traceback

import anyio
from fanwire import Channel, Realtime, topic
from fanwire.errors import Closed, WrongLoop
from fanwire_memory import MemoryTransport


class Room(Channel, name="room:{number}"):
    number: int
    a = topic(int)


ROOM = Room(number=12)
BACKEND, UVLOOP, WHAT = sys.argv[1], sys.argv[2] == "True", sys.argv[3]
OPTIONS = {"use_uvloop": UVLOOP} if BACKEND == "asyncio" else {}


async def enter(subscription):
    async with subscription:
        pass


async def listen(rt):
    async with rt.events():
        pass


def refused(name, coroutine):
    """Take one step only: a coroutine that waits, on the copy of the parent's loop, would wait for ever."""
    try:
        coroutine.send(None)
    except WrongLoop as error:
        assert "forked" in str(error) and "in each process" in str(error), error
        return
    except StopIteration:
        raise AssertionError(f"{name} was allowed") from None
    coroutine.close()
    raise AssertionError(f"{name} began to wait")


async def anew(unentered):
    """What the error tells to do: open one in each process."""
    for rt in (unentered, Realtime(MemoryTransport("fork"))):
        async with rt, rt.subscribe(ROOM.a) as messages:
            await rt.publish(ROOM.a, 1)
            assert (await anext(messages)).data == 1


def in_a_thread(*arguments):
    """A new loop needs a thread without one."""
    failed = []

    def run():
        try:
            anyio.run(anew, *arguments, backend=BACKEND, backend_options=OPTIONS)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it hangs"
    if failed:
        raise failed[0]


def child(rt, closed, unentered, subscription, messages):
    if WHAT == "waiting":
        refused("anext", messages.__anext__())
        return
    if WHAT == "leaving":
        refused("__aexit__", messages.__aexit__(None, None, None))
        return
    refused("publish", rt.publish(ROOM.a, 5))
    refused("publish_many", rt.publish_many([ROOM.a(5)]))
    refused("subscribe", enter(subscription))
    refused("history", rt.history(ROOM.a))
    refused("events", listen(rt))
    refused("ping", rt.ping())
    refused("aclose", rt.aclose())
    refused("__aexit__", rt.__aexit__(None, None, None))
    try:
        closed.publish(ROOM.a, 5).send(None)
    except Closed as error:
        assert type(error) is Closed, error
    in_a_thread(unentered)


async def main():
    async with Realtime(MemoryTransport()) as closed:
        pass
    unentered = Realtime(MemoryTransport())
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(ROOM.a) as messages:
        await rt.publish(ROOM.a, 1)
        assert (await anext(messages)).data == 1
        pid = os.fork()
        if pid == 0:
            try:
                child(rt, closed, unentered, rt.subscribe(ROOM.a), messages)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        # The parent has noticed nothing.
        await rt.publish(ROOM.a, 2)
        message = await anext(messages)
        print(status, message.data)


anyio.run(main, backend=BACKEND, backend_options=OPTIONS)
'''


@pytest.mark.parametrize("what", ["everything", "waiting", "leaving"])
@pytest.mark.parametrize("loop", LOOPS)
def test_every_call_in_a_forked_child_is_refused(loop: str, what: str, tmp_path: Path) -> None:
    """Unless it is made on a Realtime that was entered there; the parent's is none the worse."""
    require("os.fork", hasattr(os, "fork"), "forking")
    package = loop.removeprefix("asyncio+")
    require(package, package == "asyncio" or importlib.util.find_spec(package) is not None, "the tests on its event loop")
    backend, options = LOOPS[loop]
    assert run_script(FORK, tmp_path, backend, str(options.get("use_uvloop", False)), what).split() == ["0", "2"]


@pytest.mark.anyio
async def test_the_realtime_goes_with_the_task_that_leaves_it() -> None:
    """One loop, but any task of it: entered in one, left in another, used in a third."""
    rt = Realtime(MemoryTransport())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rt.__aenter__)
        await until(lambda: rt.stats().state.value == "connected", "it is entered")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(at_home, rt)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rt.aclose)
    with pytest.raises(Closed):
        await rt.publish(ROOM.a, 1)
