"""An interrupt at each place of a call, one by one: before it is handed over, while it waits, and when its result is there already. See test_interrupt.py for real ones."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NoReturn

import pytest

from fanwire import BlockingRealtime, BlockingSubscription, Message
from fanwire.blocking import exits
from fanwire.blocking import portal as module
from fanwire.blocking.lifetime import Followed
from fanwire.blocking.portal import Job, Portal
from fanwire.errors import Closed, DeclarationError, WrongLoop
from fanwire.runs import MemoryStepStore
from fanwire_memory import Faults, MemoryTransport
from tests.blocking.support import finish, in_thread, portal_of, portals, room, until, waits


@pytest.fixture
def rt() -> Iterator[BlockingRealtime]:
    with BlockingRealtime(MemoryTransport()) as rt:
        yield rt
        until(lambda: not portal_of(rt)._jobs, "no call is left behind")


@pytest.fixture
def messages(rt: BlockingRealtime) -> Iterator[BlockingSubscription[Message[int]]]:
    with rt.subscribe(room.a) as messages:
        yield messages


Interrupting = Callable[[Callable[[], bool]], None]


@pytest.fixture
def interrupt_when(monkeypatch: pytest.MonkeyPatch) -> Interrupting:
    """Interrupt the next wait, once a fact holds."""

    def interrupt_when(fact: Callable[[], bool]) -> None:
        acquire = module._acquire

        def interrupted(_: threading.Lock) -> NoReturn:
            monkeypatch.setattr(module, "_acquire", acquire)
            until(fact, "it is to be interrupted")
            raise KeyboardInterrupt

        monkeypatch.setattr(module, "_acquire", interrupted)

    return interrupt_when


def test_while_it_waits(rt: BlockingRealtime, messages: BlockingSubscription[Message[int]], interrupt_when: Interrupting) -> None:
    for take in (messages.get, lambda: next(messages), lambda: next(messages.batches()), lambda: list(messages)):
        interrupt_when(waits(messages))
        with pytest.raises(KeyboardInterrupt):
            take()
    rt.publish(room.a, 1)
    assert messages.get(timeout=5).data == 1


def test_when_the_messages_are_there_already(
    rt: BlockingRealtime, messages: BlockingSubscription[Message[int]], interrupt_when: Interrupting
) -> None:
    rt.publish_many([room.a(n) for n in range(5)])
    interrupt_when(lambda: messages._held)
    with pytest.raises(KeyboardInterrupt):
        messages.get()
    assert messages.stats()[:4] == (0, 0, 0, 5)
    assert messages.get(timeout=5).data == 0
    assert [message.data for message in next(messages.batches(max_size=3))] == [1, 2, 3]
    assert messages.get(timeout=5).data == 4


def test_when_they_come_behind_the_next_call(rt: BlockingRealtime, messages: BlockingSubscription[Message[int]]) -> None:
    """The interrupted call fetched, and so would the next one: it must not put its own in their place."""
    rt.publish_many([room.a(n) for n in range(300)])  # more than a chunk
    portal = portal_of(rt)
    first, second = (Job(lambda job: messages._fetch(job, None)) for _ in range(2))
    for job in (first, second):
        portal._jobs.add(job)
        portal.post(lambda job=job: job.begin(portal))  # type: ignore[misc]  # a default binds it
    assert first.wait(portal)
    assert second.wait(portal)
    assert [messages.get(timeout=5).data for _ in range(300)] == list(range(300))


@pytest.mark.parametrize("then", ["batches", "get", "for", "closing"])
def test_when_a_batch_is_there_already(
    rt: BlockingRealtime, messages: BlockingSubscription[Message[int]], interrupt_when: Interrupting, then: str
) -> None:
    rt.publish_many([room.a(n) for n in range(5)])
    batches = messages.batches(max_size=3)
    interrupt_when(lambda: messages._batch is not None)
    with pytest.raises(KeyboardInterrupt):
        next(batches)
    assert messages.stats()[:4] == (0, 0, 0, 5)
    match then:
        case "batches":
            assert [[message.data for message in next(batches)] for _ in range(2)] == [[0, 1, 2], [3, 4]]
        case "get":
            assert [messages.get(timeout=5).data for _ in range(5)] == list(range(5))
        case "for":
            assert [message.data for _, message in zip(range(5), messages, strict=False)] == list(range(5))
        case _:
            rt.close()
            assert [[message.data for message in batch] for batch in batches] == [[0, 1, 2], [3, 4]]


def test_a_batch_that_is_there_is_not_collected_again(rt: BlockingRealtime, messages: BlockingSubscription[Message[int]]) -> None:
    """As for chunks: the interrupted call ends behind the beginning of the next one."""
    rt.publish_many([room.a(n) for n in range(5)])
    portal = portal_of(rt)
    for _ in range(2):
        assert portal.call(lambda job: messages._collect(job, 3, 0.0))
    assert portal.call(lambda job: messages._fetch(job, None))
    assert messages._collect_remains(3)
    assert messages._fetch_remains()
    assert [[message.data for message in next(messages.batches(max_size=3))] for _ in range(2)] == [[0, 1, 2], [3, 4]]


@pytest.mark.parametrize("half_way", [False, True])
def test_before_it_is_handed_over(
    rt: BlockingRealtime, messages: BlockingSubscription[Message[int]], monkeypatch: pytest.MonkeyPatch, half_way: bool
) -> None:
    """Also half way through handing over, when the loop has something to do and was not woken."""
    post = Portal.post

    def interrupted(self: Portal, callback: Callable[[], object], context: object = None) -> NoReturn:
        monkeypatch.setattr(Portal, "post", post)
        if half_way:
            loop: Any = self._loop  # Any: as call_soon_threadsafe begins, by what asyncio's loops have in common
            loop._ready.append(asyncio.Handle(callback, (), loop))
        raise KeyboardInterrupt

    monkeypatch.setattr(Portal, "post", interrupted)
    with pytest.raises(KeyboardInterrupt):
        messages.get()
    until(lambda: not portal_of(rt)._jobs, "it is forgotten")
    rt.publish(room.a, 1)
    assert messages.get(timeout=5).data == 1


def test_the_next_call_waits_until_an_abandoned_one_has_ended(rt: BlockingRealtime, messages: BlockingSubscription[Message[int]]) -> None:
    """One that takes its time to end, such as a transport that tidies up, is not taken for another thread."""
    abandoned: Job[bool] = Job(lambda job: messages._fetch(job, None))
    abandoned.abandoned = True
    messages._reader = abandoned
    waiting = in_thread(lambda: messages.get(timeout=20))
    rt.publish(room.a, 1)
    assert not waiting.done()
    messages._reader = None
    assert finish(waiting).data == 1


def test_while_it_subscribes(rt: BlockingRealtime, interrupt_when: Interrupting) -> None:
    for fact in (lambda: True, lambda: rt.stats().subscriptions == 1):
        messages = rt.subscribe(room.a)
        interrupt_when(fact)
        with pytest.raises(KeyboardInterrupt):
            messages.__enter__()
        until(lambda: rt.stats().subscriptions == 0, "it is not subscribed any more")
        with pytest.raises(RuntimeError, match="was entered before"):
            messages.__enter__()


def test_while_it_leaves(rt: BlockingRealtime, interrupt_when: Interrupting) -> None:
    for fact in (lambda: True, lambda: rt.stats().subscriptions == 0):
        messages = rt.subscribe(room.a).__enter__()
        interrupt_when(fact)
        with pytest.raises(KeyboardInterrupt):
            messages.close()
        until(lambda: rt.stats().subscriptions == 0, "it is not subscribed any more")


def test_while_it_follows_events(rt: BlockingRealtime, interrupt_when: Interrupting) -> None:
    with rt.events() as events:
        assert isinstance(events, Followed)
        interrupt_when(lambda: events._item is not None)
        with pytest.raises(KeyboardInterrupt):
            next(events)
        assert next(events).state == "connected"
        interrupt_when(lambda: bool(portal_of(rt)._waits))
        with pytest.raises(KeyboardInterrupt):
            next(events)
        rt.native(Faults).disconnect()
        assert next(events).state == "disconnected"


def test_while_it_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    rt = BlockingRealtime.from_url("memory://")
    rt.ping()
    portal = portal_of(rt)

    def interrupted(_: Portal) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Portal, "join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rt.close(60.0)
    assert portal._deadline == 0.0
    until(lambda: not portals(), "it closes all the same")
    with pytest.raises(Closed):
        rt.ping()


def test_in_the_body() -> None:
    """Then there is nothing to be polite for."""
    with pytest.raises(KeyboardInterrupt), BlockingRealtime.from_url("memory://") as rt:
        raise KeyboardInterrupt
    assert portal_of(rt)._deadline == 0.0


@pytest.mark.parametrize("runs", [False, True])
def test_while_it_opens(monkeypatch: pytest.MonkeyPatch, runs: bool) -> None:
    """The thread may run or not: if it does, it ends; and the next use opens another one."""
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> NoReturn:
        if runs:
            start(thread)
        raise KeyboardInterrupt

    rt = BlockingRealtime.from_url("memory://")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rt.ping()
    until(lambda: not portals() and not exits._open, "nothing runs")
    assert rt.ping() >= 0
    rt.close()


def test_in_a_function_that_a_step_runs(rt: BlockingRealtime) -> None:
    """It is the caller's own thread; neither an interrupt nor an exit reaches the loop."""

    def fail(error: BaseException) -> int:
        raise error

    step = rt.run("r", steps=MemoryStepStore()).step
    for error in (KeyboardInterrupt(), SystemExit(3)):
        with pytest.raises(type(error)):
            step.run("s", fail, error)
        until(lambda: not portal_of(rt)._jobs, "it has ended")
    assert step.run("s", int, "7") == 7


def test_a_step_that_closes_what_it_runs_in() -> None:
    rt = BlockingRealtime.from_url("memory://")
    with pytest.raises(Closed):
        rt.run("r", steps=MemoryStepStore()).step.run("s", rt.close)
    until(lambda: not portals(), "it is closed")


def test_a_step_that_returns_something_to_be_awaited(rt: BlockingRealtime) -> None:
    class Later:
        def __await__(self) -> Iterator[None]:
            return iter(())

    step = rt.run("r", steps=MemoryStepStore()).step
    with pytest.raises(DeclarationError, match="pass a plain one"):
        _ = step.run("s", Later)


def test_what_tidies_up_does_so_wherever_it_is_called(rt: BlockingRealtime, monkeypatch: pytest.MonkeyPatch) -> None:
    portal, done = portal_of(rt), list[str]()

    def tidy(word: str) -> Callable[[Job[object]], Awaitable[object]]:
        async def work(_: Job[object]) -> None:
            done.append(word)

        return work

    portal.leave(tidy("here"))
    assert done == ["here"]
    portal.post(lambda: portal.leave(tidy("on the loop")))
    until(lambda: len(done) == 2, "it is done later")

    def closed(*_: object) -> NoReturn:
        raise Closed("meanwhile")

    with monkeypatch.context() as patch:
        patch.setattr(Portal, "call", closed)
        portal.leave(tidy("never"))
    rt.close()
    portal.leave(tidy("never"))
    portal.spawn(tidy("never"))
    assert done == ["here", "on the loop"]
    assert not portal._jobs
    assert issubclass(WrongLoop, Closed)
