"""D: lifetime, cancellation, and what is left behind."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from ...errors import Closed, FanwireError, WrongLoop
from ...messages import Message, Receipt
from ...realtime import Realtime
from ...subscription import Subscription
from ..check import check
from ..exchange import Exchange, works
from ..harness import Harness
from ..leaks import no_leaks
from ..tools import Room, confirmed, expect, open_realtime, take, until, until_async

__all__ = ()

T = TypeVar("T")

ROOM = Room(number=1)


async def _rest(harness: Harness, items: AsyncIterator[T]) -> list[T]:
    """Read an iterator to its end."""
    with anyio.move_on_after(harness.patience):
        return [item async for item in items]
    raise AssertionError(f"an iterator did not end within {harness.patience:g} s, though its Realtime is closed")


# ---------------------------------------------------------------------- closing


@check("D1", needs={"ordering.publisher"}, finds={"close in haste"})
async def close_ends_iteration(harness: Harness) -> None:
    """Closing ends iterators in every form, those that wait and those that are behind, after the items that are there already."""
    room = ROOM
    numbers = list(range(300))
    waited: list[object] = []
    async with AsyncExitStack() as stack:
        rt = await stack.enter_async_context(open_realtime(harness))
        plain, half, gaps, batched = [await stack.enter_async_context(rt.subscribe(room.a)) for _ in range(4)]
        raw = await stack.enter_async_context(rt.subscribe(room.a).raw())
        waiting = await stack.enter_async_context(rt.subscribe(Room(number=2).a).with_gaps())
        await Exchange(harness, rt, plain).say(room.a, -1)
        for n in range(0, 300, 100):
            await rt.publish_many([room.a(number) for number in numbers[n : n + 100]])
        await take(half, 1, harness.patience)
        # Once the last has arrived, all are in every buffer.
        await until(lambda: min(each.stats().lag + each.stats().received for each in (half, gaps, batched)) >= 300, "all are there", harness.patience)
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                waited.extend(await _rest(harness, waiting))

            tasks.start_soon(wait)
            await rt.aclose()
            expect([message.data for message in await _rest(harness, plain)], numbers, "what an iterator still yields")
            expect([message.data for message in await _rest(harness, half)][-200:], numbers[-200:], "what an iterator in the middle still yields")
            expect([message.data for message in await _rest(harness, gaps)][-300:], numbers, "what another one still yields")
            expect([message.data for message in await _rest(harness, raw)][-300:], numbers, "what a raw one still yields")
            found = await _rest(harness, batched.batches(max_size=70))
            expect([message.data for batch in found for message in batch][-300:], numbers, "what batches still yield")
    expect(waited, [], "what an iterator without messages yields")


@check("D4")
async def closing_again(harness: Harness) -> None:
    """Ten tasks may close at once, and anybody again later; all return when it is closed."""
    async with open_realtime(harness) as rt, rt.subscribe(ROOM.a) as messages:
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(rt.aclose)
        expect(rt.stats().state.value, "closed", "the state")
        with anyio.fail_after(harness.patience):
            await rt.aclose()
        expect(await _rest(harness, messages), [], "messages")


async def _subscribe(rt: Realtime) -> None:
    async with rt.subscribe(ROOM.a):
        pass


async def _subscribe_by_name(rt: Realtime) -> None:
    async with rt.subscribe(ROOM.name).raw():
        pass


async def _listen(rt: Realtime) -> None:
    async with rt.events():
        pass


_CALLS: dict[str, Callable[[Realtime], Awaitable[object]]] = {
    "publish": lambda rt: rt.publish(ROOM.a, 1),
    "publish with a key": lambda rt: rt.publish(ROOM.a, 1, key="k"),
    "publish_many": lambda rt: rt.publish_many([ROOM.a(1), ROOM.b(2)]),
    "publish of a run": lambda rt: rt.run("run").publish(ROOM.a, 1),
    "subscribe": _subscribe,
    "subscribe by name": _subscribe_by_name,
    "events": _listen,
    "ping": lambda rt: rt.ping(),
}


def _calls(rt: Realtime) -> dict[str, Callable[[Realtime], Awaitable[object]]]:
    """Return everything that may be done with an open Realtime."""
    if "history.earliest" not in rt.capabilities.names():
        return _CALLS
    return {**_CALLS, "history": lambda rt: rt.history(ROOM.a)}


async def _fails(harness: Harness, what: str, error: type[FanwireError], call: Awaitable[object]) -> None:
    """Assert that a call raises exactly this class, at once."""
    try:
        with anyio.fail_after(harness.patience):
            await call
    except FanwireError as raised:
        expect(type(raised), error, f"what {what} raises")
        return
    raise AssertionError(f"{what} is possible, it should raise {error.__name__}")


@check("D5")
async def use_after_close(harness: Harness) -> None:
    """Whatever is done before a Realtime is entered, or after it was closed, is Closed at once."""
    async with open_realtime(harness) as rt:
        await works(harness, rt, ROOM)
        waiting = rt.subscribe(ROOM.a)
    before = Realtime(harness.transport(), timeout=harness.patience, connect_timeout=harness.patience)
    for what, call in _calls(rt).items():
        await _fails(harness, f"{what} after closing", Closed, call(rt))
        await _fails(harness, f"{what} before entering", Closed, call(before))
    await _fails(harness, "entering a subscription after closing", Closed, waiting.__aenter__())
    await _fails(harness, "entering again", Closed, rt.__aenter__())


@check("D7", needs={"confirmed_publish", "ordering.publisher"}, finds={"lose the last batch"})
async def close_flushes(harness: Harness) -> None:
    """Ten thousand messages that were given to publish before it was closed are all accepted, and arrive."""
    room, other = ROOM, Room(number=2)
    outcomes: list[Receipt | FanwireError] = []
    called: list[int] = []
    async with open_realtime(harness) as reader, reader.subscribe(room.a, other.a, buffer=20_000, buffer_bytes=64 * 2**20) as messages:
        await Exchange(harness, reader, messages).say(room.a, -1)
        async with open_realtime(harness) as rt, anyio.create_task_group() as tasks:

            async def publish(numbers: Sequence[int]) -> None:
                called.extend(numbers)
                try:
                    outcomes.extend(await rt.publish_many([(room, other)[number % 2].a(number) for number in numbers]))
                except FanwireError as error:
                    outcomes.append(error)

            for begin in range(0, 10_000, 100):
                tasks.start_soon(publish, range(begin, begin + 100))
            await until(lambda: rt.stats().publishing + rt.stats().published >= 10_000, "all were given to publish", 3 * harness.patience)
            with anyio.fail_after(3 * harness.patience):
                await rt.aclose(3 * harness.patience)
        expect([outcome for outcome in outcomes if not isinstance(outcome, Receipt)], [], "publishes that failed")
        found = [message.data for message in await take(messages, 10_000, 3 * harness.patience)]
    for parity in (0, 1):
        expect([n for n in found if n % 2 == parity], [n for n in called if n % 2 == parity], "what one of two channels received")


@check("D8", uses={"stall", "resume"}, finds={"ignore the deadline"})
async def the_deadline_of_closing(harness: Harness) -> None:
    """Behind a server that does not answer, closing ends at its deadline: what was not sent is told so, what is there already can still be read."""
    outcomes: list[object] = []
    async with open_realtime(harness) as rt, rt.subscribe(ROOM.a) as messages:
        line = Exchange(harness, rt, messages)
        await line.say(ROOM.a, 0)
        async with anyio.create_task_group() as tasks:

            async def publish(number: int) -> None:
                try:
                    outcomes.append(await rt.publish(ROOM.a, number))
                except FanwireError as error:
                    outcomes.append(error)

            await harness.stall()
            try:
                for number in range(1, 20):
                    tasks.start_soon(publish, number)
                await until(lambda: rt.stats().publishing + len(outcomes) == 19, "all were given to publish", harness.patience)
                with anyio.fail_after(harness.patience):
                    await rt.aclose(0.1)
            finally:
                await harness.resume()
        expect(len(outcomes), 19, "publishes that came to an end")
        for outcome in outcomes:
            confirmed(isinstance(outcome, Receipt | Closed), f"a publish that closing cut off says {outcome!r}")
        found = [message.data for message in await _rest(harness, messages)]
        confirmed(found == sorted(set(found)), f"behind its close a subscription yields {found}")


@check("D9")
async def a_transport_is_used_again(harness: Harness) -> None:
    """When a Realtime is closed, another one may be made with the same transport object, three times over."""
    transport = harness.transport()
    for number in range(3):
        async with Realtime(transport, timeout=harness.patience, connect_timeout=harness.patience) as rt:
            await works(harness, rt, Room(number=number))


# ---------------------------------------------------------------------- leaving a subscription


class _Oops(Exception):
    """What an application raises."""


async def _in_its_body(messages: Subscription[Message[Any]], way: str) -> None:  # Any: a view's
    """Go on in the body of a subscription until it ends."""
    if way == "exception":
        raise _Oops
    if way == "iterating":
        async for _ in messages:
            pass
    if way == "batches":
        async for _ in messages.batches():
            pass
    await anyio.sleep_forever()


_WAYS = ("exception", "iterating", "batches", "waiting")


@check("D2", finds={"never let go"}, alone=True)
async def cancelling_consumers_is_clean(harness: Harness) -> None:
    """Two hundred consumers that are cancelled, or raise, leave no task and no complaint, and their neighbours miss nothing."""
    async with open_realtime(harness, linger=0.0) as rt, rt.subscribe(ROOM.a) as messages:
        line = Exchange(harness, rt, messages)
        await line.say(ROOM.a, -1)
        async with no_leaks():
            for begin in range(0, 200, 50):
                ready = 0

                async def consume(number: int) -> None:
                    nonlocal ready
                    try:
                        async with rt.subscribe(Room(number=number % 10).a) as own:
                            ready += 1
                            await _in_its_body(own, _WAYS[number % 4])
                    except _Oops:
                        pass

                async with anyio.create_task_group() as tasks:
                    for number in range(begin, begin + 50):
                        tasks.start_soon(consume, number)
                    await until(lambda: ready == 50, "all are subscribed", harness.patience)  # noqa: B023 - within its round
                    tasks.cancel_scope.cancel()
                await line.say(ROOM.a, begin)
            await until(lambda: rt.stats().subscriptions == 1, "all subscriptions but one are gone", harness.patience)
            await until(lambda: rt.stats().channels == 1, "all channels but one are gone", harness.patience)


@check("D3", uses={"subscriptions"}, finds={"forget to unsubscribe"})
async def leaving_unsubscribes(harness: Harness) -> None:
    """However a subscription is left, by its end, an exception or a cancellation, the server stops delivering its channel."""
    async with open_realtime(harness, linger=0.0) as rt:
        before = await harness.subscriptions()
        for number, way in enumerate(("end", *_WAYS)):
            entered = anyio.Event()

            async def consume(way: str = way, number: int = number, entered: anyio.Event = entered) -> None:
                try:
                    async with rt.subscribe(Room(number=number).a) as messages:
                        entered.set()
                        if way != "end":
                            await _in_its_body(messages, way)
                except _Oops:
                    pass

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consume)
                await entered.wait()
                tasks.cancel_scope.cancel()
            await until_async(harness.subscriptions, before, f"channels delivered after a subscription was left by {way}", harness.patience)


@check("D3b", finds={"unsubscribe all"})
async def leaving_one_keeps_the_others(harness: Harness) -> None:
    """When subscriptions to other channels, and others to the same channel, come and go, one that stays goes on receiving."""
    async with open_realtime(harness, linger=0.0) as rt, rt.subscribe(ROOM.a) as messages:
        line = Exchange(harness, rt, messages)
        await line.say(ROOM.a, -1)
        for number in range(20):
            async with rt.subscribe(Room(number=number).b), rt.subscribe(ROOM.a, ROOM.b), rt.subscribe(ROOM.name).raw():
                await line.say(ROOM.a, number)
            await until(lambda: rt.stats().channels == 1, "the others are gone", harness.patience)
            await line.say(ROOM.a, 100 + number)


# ---------------------------------------------------------------------- loops and processes


@check("D10", finds={"work on any loop"})
async def another_event_loop(harness: Harness) -> None:
    """Whatever is done with a Realtime from the event loop of another thread is WrongLoop at once, and where it belongs everything goes on."""
    async with open_realtime(harness) as rt, rt.subscribe(ROOM.a) as messages:
        line = Exchange(harness, rt, messages)
        await line.say(ROOM.a, 1)

        async def elsewhere() -> None:
            for what, call in _calls(rt).items():
                await _fails(harness, f"{what} from another event loop", WrongLoop, call(rt))
            await _fails(harness, "iterating on another event loop", WrongLoop, anext(messages))
            await _fails(harness, "closing from another event loop", WrongLoop, rt.aclose())

        await anyio.to_thread.run_sync(lambda: anyio.run(elsewhere))
        await line.say(ROOM.a, 2)


_FORK = """
import os, sys, threading, traceback
import anyio
from fanwire import Realtime
from fanwire.errors import WrongLoop
from fanwire.testing.tools import Room

url, backend = sys.argv[1:]
room = Room(number=1)
unopened = Realtime.from_url(url)

def publisher(receipt):
    return receipt.id.rpartition(".")[0]

async def in_the_child():
    async with unopened, unopened.subscribe(room.a) as messages:
        print("child", publisher(await unopened.publish(room.a, 2)), flush=True)
        await anext(messages)

def child(rt):
    try:
        rt.publish(room.a, 1).send(None)
    except WrongLoop:
        print("refused -", flush=True)
    # A new event loop needs a thread that has none.
    thread = threading.Thread(target=anyio.run, args=(in_the_child,), kwargs={"backend": backend})
    thread.start()
    thread.join()

async def main():
    async with Realtime.from_url(url) as rt, rt.subscribe(room.a) as messages:
        print("parent", publisher(await rt.publish(room.a, 0)), flush=True)
        await anext(messages)
        pid = os.fork()
        if pid == 0:
            try:
                child(rt)
            except BaseException:
                traceback.print_exc()
            os._exit(0)
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            await anyio.sleep(0.01)
        print("parent", publisher(await rt.publish(room.a, 3)), flush=True)
        async with unopened:
            print("parent", publisher(await unopened.publish(room.a, 4)), flush=True)

anyio.run(main, backend=backend)
"""


@check("D10b", needs={"confirmed_subscribe", "ordering.publisher"}, uses={"url"})
async def fork(harness: Harness) -> None:
    """In the child of a fork an open Realtime is WrongLoop, and one that was only made works under a name of its own; in the parent both go on."""
    confirmed(hasattr(os, "fork"), "this system has no fork: leave url() out of the harness, or run the kit elsewhere")
    backend = min(harness.transport().capabilities.async_backends)
    with anyio.fail_after(3 * harness.patience):
        result = await anyio.run_process([sys.executable, "-c", _FORK, harness.url(), backend], check=False)
    complaint = result.stderr.decode()
    confirmed(result.returncode == 0, f"the script that forks failed: {complaint[-1_000:]}")
    lines = [line.split() for line in result.stdout.decode().splitlines()]
    expect([who for who, _ in lines], ["parent", "refused", "child", "parent", "parent"], f"what happened, with {complaint[-1_000:]!r}")
    open_one, _, in_child, still, in_parent = [publisher for _, publisher in lines]
    expect((still, len({open_one, in_child, in_parent})), (open_one, 3), "the names publishers had")
