"""Several threads at one façade: they publish, subscribe and close, each whenever it likes; none hangs."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import Context
from functools import partial

import pytest

import fanwire.blocking.portal as portals_module
from fanwire import BlockingRealtime, BlockingSubscription, Message
from fanwire.blocking.portal import Job, Portal
from fanwire.errors import Closed, Internal, Unavailable
from fanwire_memory import MemoryTransport
from tests.blocking.support import Room, finish, in_thread, opened, portal_of, portals, room, until, waits


@pytest.fixture
def transport() -> MemoryTransport:
    return MemoryTransport()


@pytest.fixture
def rt(transport: MemoryTransport) -> Iterator[BlockingRealtime]:
    with BlockingRealtime(transport, connect_timeout=30.0) as rt:
        yield rt


WAITS: dict[str, Callable[[BlockingSubscription[Message[int]]], object]] = {
    "for": list,
    "next": next,
    "get": lambda messages: messages.get(),
    "get with a timeout": lambda messages: messages.get(timeout=60),
    "batches": lambda messages: list(messages.batches(max_wait=60.0)),
}
ENDS: dict[str, type[Exception] | None] = {"for": None, "next": StopIteration, "get": Closed, "get with a timeout": Closed, "batches": None}


def ends(wait: str, future: Future[object]) -> None:
    expected = ENDS[wait]
    if expected is None:
        assert finish(future) == []
    else:
        with pytest.raises(expected):
            finish(future)


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("closing", ["subscription", "realtime"])
def test_closing_ends_a_wait_in_another_thread(rt: BlockingRealtime, wait: str, closing: str) -> None:
    with rt.subscribe(room.a) as messages:
        waiting = in_thread(lambda: WAITS[wait](messages))
        until(waits(messages), "the other thread waits")
        (messages if closing == "subscription" else rt).close()
        ends(wait, waiting)
        ends(wait, in_thread(lambda: WAITS[wait](messages) if wait != "for" or closing == "realtime" else []))


def test_closing_ends_a_view_of_events(rt: BlockingRealtime) -> None:
    with rt.events() as events:
        assert next(events).state == "connected"
        waiting = in_thread(lambda: [event.state for event in events])
        until(lambda: bool(portal_of(rt)._waits), "the other thread waits")
        rt.close()
        assert finish(waiting) == ["closed"]


def test_closing_fails_what_is_still_to_be_sent(rt: BlockingRealtime, transport: MemoryTransport) -> None:
    transport.faults.block()
    publishing = in_thread(lambda: rt.publish(room.a, 1, timeout=60))
    subscribing = in_thread(rt.subscribe(room.b).__enter__)
    until(lambda: rt.stats().publishing == rt.stats().subscriptions == 1, "both are under way")
    rt.close(0.01)
    with pytest.raises(Closed):
        finish(publishing)
    with pytest.raises(Closed):
        finish(subscribing)
    until(lambda: not portals(), "the thread has ended")


def test_closing_sends_what_was_accepted(rt: BlockingRealtime, transport: MemoryTransport) -> None:
    transport.faults.block()
    publishing = in_thread(lambda: rt.publish(room.a, 1))
    until(lambda: rt.stats().publishing == 1, "it is being sent")
    closing = in_thread(lambda: rt.close(10.0))
    until(lambda: portal_of(rt).over is not None, "it is closing")
    with pytest.raises(Closed):
        rt.publish(room.a, 2)
    transport.faults.resume()
    assert finish(publishing).topic == "a"
    finish(closing)


def test_closing_while_it_is_being_opened(transport: MemoryTransport) -> None:
    transport.faults.disconnect(refuse=10**9)
    rt = BlockingRealtime(transport, connect_timeout=60.0)
    opening = [in_thread(rt.ping) for _ in range(3)]
    until(lambda: opened(rt) and rt.stats().state == "disconnected", "it tries to connect")
    rt.close()
    for waiting in opening:
        with pytest.raises(Closed):
            finish(waiting)
    until(lambda: not portals(), "the thread has ended")


@pytest.fixture
def last_moment(rt: BlockingRealtime, monkeypatch: pytest.MonkeyPatch) -> Portal:
    """Have the next call reach the portal's loop in its very last turn.

    It was let in before the end was noted, and handed over once the loop had cancelled its tasks. A task begun then would never run, nor be awaited.
    """
    portal = portal_of(rt)
    loop = portal._loop
    assert loop is not None
    ending, handed_over = threading.Event(), threading.Event()
    context, post = portals_module._context, portal.post

    async def last_thing(timeout: float | None = None) -> None:
        ending.set()
        assert handed_over.wait(10)  # which the loop sees in its last turn

    def context_at_the_end() -> Context:
        assert ending.wait(10)
        return context()

    def post_and_tell(callback: Callable[[], object], given: Context | None = None) -> bool:
        try:
            return post(callback, given)
        finally:
            if given is not None:
                handed_over.set()

    monkeypatch.setattr(loop, "shutdown_default_executor", last_thing)
    monkeypatch.setattr(portals_module, "_context", context_at_the_end)
    monkeypatch.setattr(portal, "post", post_and_tell)
    return portal


def test_a_call_that_reaches_the_loop_at_its_very_end(rt: BlockingRealtime, last_moment: Portal) -> None:
    calling = in_thread(rt.ping)
    until(lambda: bool(last_moment._jobs), "it was let in")
    loop = last_moment._loop
    assert loop is not None
    rt.close()
    with pytest.raises(Closed):
        finish(calling)
    assert not last_moment._jobs
    assert not asyncio.all_tasks(loop)


def test_a_view_that_asks_for_more_at_the_very_end(rt: BlockingRealtime, request: pytest.FixtureRequest) -> None:
    with rt.events() as events:
        assert next(events).state == "connected"
        portal: Portal = request.getfixturevalue("last_moment")
        asking = in_thread(lambda: list(events))
        until(lambda: bool(portal._jobs), "it was let in")
        rt.close()
        assert finish(asking) == []


def test_any_number_of_threads_may_close(rt: BlockingRealtime) -> None:
    rt.ping()
    for closing in [in_thread(rt.close) for _ in range(5)]:
        finish(closing)
    until(lambda: not portals(), "the thread has ended")


def test_one_connection_for_all_first_uses() -> None:
    """Twenty threads at once, at an object nobody has used."""
    rt = BlockingRealtime.from_url("memory://")
    barrier = threading.Barrier(20)

    def use() -> int:
        barrier.wait(10)
        return portal_of(rt).realtime.stats().connections if rt.ping() else -1

    assert [finish(future) for future in [in_thread(use) for _ in range(20)]] == [1] * 20
    assert len(portals()) == 1
    rt.close()


def test_all_publish_at_once(rt: BlockingRealtime) -> None:
    """The messages of each thread keep their order, and none is lost."""
    count = 200

    def publish(number: int) -> None:
        for n in range(count):
            rt.publish(Room(number=number).a, n)
            rt.publish(room.b, number * count + n)

    with rt.subscribe(room.b, buffer=10 * count) as together, rt.subscribe(*[Room(number=n).a for n in range(8)], buffer=10 * count) as apart:
        publishers = [in_thread(lambda number=number: publish(number)) for number in range(8)]  # type: ignore[misc]
        one = [together.get(timeout=20).data for _ in range(8 * count)]
        other = [apart.get(timeout=20) for _ in range(8 * count)]
        for publisher in publishers:
            finish(publisher)
    for number in range(8):
        assert [value - number * count for value in one if value // count == number] == list(range(count))
        assert [message.data for message in other if message.channel == f"room:{number}"] == list(range(count))


def test_each_thread_has_its_own_subscription(rt: BlockingRealtime) -> None:
    ready = threading.Barrier(9)

    def follow() -> list[int]:
        with rt.subscribe(room.a) as messages:
            ready.wait(10)
            return [messages.get(timeout=20).data for _ in range(100)]

    followers = [in_thread(follow) for _ in range(8)]
    ready.wait(10)
    for n in range(100):
        rt.publish(room.a, n)
    assert [finish(follower) for follower in followers] == [list(range(100))] * 8


@pytest.mark.parametrize("wait", ["get", "batches"])
def test_two_threads_at_one_subscription_are_told(rt: BlockingRealtime, wait: str) -> None:
    with rt.subscribe(room.a) as messages:
        waiting = in_thread(lambda: WAITS[wait](messages))
        until(waits(messages), "the other thread waits")
        for other in (lambda: messages.get(timeout=1), lambda: next(messages.batches())):
            with pytest.raises(RuntimeError, match="another thread is iterating this subscription: make one subscription per thread"):
                other()
        messages.close()
        ends(wait, waiting)


def test_threads_may_take_turns(rt: BlockingRealtime) -> None:
    with rt.subscribe(room.a) as messages:
        for n in range(5):
            rt.publish(room.a, n)
        assert [finish(in_thread(messages.get)).data for _ in range(5)] == list(range(5))


def test_a_generator_that_is_collected_in_the_portals_thread(rt: BlockingRealtime) -> None:
    """A web server drops the generator of a response; whichever thread the garbage collector runs in, it must neither wait for itself nor leave the subscription."""

    def stream() -> Iterator[int]:
        with rt.subscribe(room.a) as messages:
            for message in messages:
                yield message.data

    responses: list[Iterator[int]] = []
    for number in range(1, 4):
        responses.append(stream())
        first = in_thread(partial(next, responses[-1]))
        until(lambda number=number: rt.stats().subscriptions == number, "it is subscribed")  # type: ignore[misc]  # a default binds it
        rt.publish(room.a, number)
        assert finish(first) == number
    done = threading.Event()

    def collect() -> None:
        responses.clear()
        gc.collect()
        done.set()

    assert portal_of(rt).post(collect)
    assert done.wait(10)
    until(lambda: rt.stats().subscriptions == 0, "they have gone")


def test_a_portal_that_dies_is_told_and_replaced(rt: BlockingRealtime) -> None:
    """Nothing may end its loop but a defect; then everybody is told, and the next use opens another one."""
    with rt.subscribe(room.a) as messages:
        waiting = in_thread(messages.get)
        until(waits(messages), "the other thread waits")
        portal = portal_of(rt)

        def die() -> None:
            raise SystemExit("a defect")

        portal.post(die)
        with pytest.raises((Internal, Closed)):
            finish(waiting)
        assert portal.join(10)
        with pytest.raises(Internal, match="ended unexpectedly"):
            rt.publish(room.a, 1)
        rt.publish(room.a, 1)
        assert portal_of(rt) is not portal
        with pytest.raises(Internal, match="ended unexpectedly"):
            messages.get()


def test_without_a_thread_there_is_no_portal(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    rt = BlockingRealtime.from_url("memory://")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(Closed, match="no thread could be started for it: can't start new thread"):
            rt.ping()
    assert rt.ping() >= 0
    rt.close()


def test_a_lost_connection_is_told_and_mended(rt: BlockingRealtime, transport: MemoryTransport) -> None:
    with rt.subscribe(room.a) as messages:
        rt.publish(room.a, 1)
        transport.faults.disconnect(refuse=2)
        rt.publish(room.a, 2)
        assert [messages.get(timeout=10).data for _ in range(2)] == [1, 2]
        assert rt.stats().connections == 2


def test_a_connection_that_is_given_up_is_told_to_all() -> None:
    transport = MemoryTransport()
    with BlockingRealtime(transport) as rt, rt.subscribe(room.a) as messages:
        waiting = in_thread(lambda: list(messages))
        until(waits(messages), "the other thread waits")
        engine = portal_of(rt).realtime._engine
        assert engine is not None
        portal_of(rt).post(lambda: engine._fail(Unavailable("given up")))
        with pytest.raises(Unavailable, match="given up"):
            finish(waiting)
        with pytest.raises(Unavailable, match="given up"):
            rt.publish(room.a, 1)


def test_a_job_that_comes_too_late_is_told() -> None:
    """Between the end of the loop and the end of the thread, and after both."""
    portal = Portal(BlockingRealtime.from_url("memory://")._realtime)
    portal.start()
    portal.opened()
    assert portal.running
    forgotten: Job[None] = Job(lambda _: pytest.fail("it was never begun"))
    portal._jobs.add(forgotten)
    portal.stop(1.0)
    assert portal.join(10)
    with pytest.raises(Closed):
        forgotten.wait(portal)
    until(lambda: not portal._thread.is_alive(), "the thread has ended")
    assert not portal.post(lambda: None)
    portal.over = None  # as if this thread had looked a moment earlier
    with pytest.raises(Closed):
        portal.call(lambda _: pytest.fail("there is no loop"))
    assert not portal._jobs
