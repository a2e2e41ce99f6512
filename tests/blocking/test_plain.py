"""What the blocking façade does where nothing goes wrong, and how it says what is wrong: the same as the asynchronous one."""

from __future__ import annotations

import gc
import inspect
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any

import pytest
import sniffio

from fanwire import BlockingRealtime, BlockingSubscription, Gap, GapReason, Message, RawMessage, Realtime, Run, Start, Subscription
from fanwire.blocking import BlockingRun, BlockingSteps
from fanwire.blocking.portal import Portal
from fanwire.errors import (
    Closed,
    ConfigError,
    ConnectFailed,
    DeclarationError,
    InvalidPayload,
    MessagesLost,
    StepConflict,
    Timeout,
    UnknownTransport,
    Unsupported,
)
from fanwire.events import ConnectionState, InvalidMessage
from fanwire.runs import MemoryStepStore, SQLiteStepStore, Steps
from fanwire_memory import Faults, MemoryOptions, MemoryTransport
from tests.blocking.support import Room, opened, portals, room, until


@pytest.fixture
def rt() -> Iterator[BlockingRealtime]:
    with BlockingRealtime(MemoryTransport()) as rt:
        yield rt
    until(lambda: not portals(), "the thread has ended")


def data(messages: BlockingSubscription[Message[int]], number: int) -> list[int]:
    return [messages.get(timeout=5).data for _ in range(number)]


# ---------------------------------------------------------------------- all of it is there


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("plain", "blocking", "renamed", "added"),
    [
        pytest.param(Realtime, BlockingRealtime, {"aclose": "close", "blocking": ""}, {"timeout", "connect_timeout"}, id="Realtime"),
        pytest.param(
            Subscription,
            BlockingSubscription,
            {"take_now": "", "owe": "", "give_back": "", "position": ""},
            {"get", "close", "next_batch"},
            id="Subscription",
        ),
        pytest.param(Run, BlockingRun, {}, set(), id="Run"),
        pytest.param(Steps, BlockingSteps, {}, set(), id="Steps"),
    ],
)
def test_everything_public_is_there(plain: type, blocking: type, renamed: dict[str, str], added: set[str]) -> None:
    """The attributes that only instances have are in ``added``."""
    expected = {renamed.get(name, name) for name in public(plain)} - {""}
    assert public(blocking) == expected | added


@pytest.mark.parametrize(
    ("plain", "blocking"), [(Realtime, BlockingRealtime), (Subscription, BlockingSubscription), (Run, BlockingRun), (Steps, BlockingSteps)]
)
def test_parameters_are_the_same(plain: type, blocking: type) -> None:
    for name in (public(plain) & public(blocking)) | ({"__init__"} if plain is Realtime else set()):
        one, other = getattr(plain, name), getattr(blocking, name)
        if callable(one):
            assert [(p.name, p.kind, p.default) for p in inspect.signature(one).parameters.values()] == [
                (p.name, p.kind, p.default) for p in inspect.signature(other).parameters.values()
            ]
            text = other.__doc__ or ""
            assert text or name == "__init__"
            assert "async" not in text.replace("``async`` one", "")
            assert "await " not in text


# ---------------------------------------------------------------------- opening and closing


def test_it_opens_at_first_use_and_closes_for_good() -> None:
    rt = BlockingRealtime.from_url("memory://")
    assert not opened(rt)
    assert rt.stats().state is ConnectionState.CLOSED
    assert rt.capabilities.confirmed_publish
    assert (rt.timeout, rt.connect_timeout) == (10.0, 10.0)
    assert repr(rt) == "<BlockingRealtime memory not open>"
    rt.subscribe(room.a)
    rt.run("r")
    assert not portals()
    rt.publish(room.a, 1)
    assert len(portals()) == 1
    assert portals()[0].daemon
    assert repr(rt) == "<BlockingRealtime memory connected>"
    rt.close()
    rt.close()
    until(lambda: not portals(), "the thread has ended")
    assert repr(rt) == "<BlockingRealtime memory closed>"
    assert rt.stats().published == 1
    for use in (lambda: rt.publish(room.a, 1), rt.__enter__, rt.ping, rt.subscribe(room.a).__enter__):
        with pytest.raises(Closed, match="this BlockingRealtime is closed: make another one"):
            use()


def test_one_that_was_never_opened_can_be_closed() -> None:
    rt = BlockingRealtime.from_url("memory://")
    rt.close()
    with pytest.raises(Closed), rt:
        pass
    assert not portals()


def test_entering_opens_and_leaving_closes() -> None:
    with BlockingRealtime.from_url("memory://") as rt:
        assert len(portals()) == 1
        with rt.subscribe(room.a):  # uses what is open
            assert len(portals()) == 1
        assert rt.stats().connections == 1
    until(lambda: not portals(), "the thread has ended")


def test_a_first_use_that_fails_may_be_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    transport = MemoryTransport()
    transport.faults.disconnect(refuse=10**9)
    rt = BlockingRealtime(transport, connect_timeout=0.05)
    for use in (lambda: rt.publish(room.a, 1), rt.subscribe(room.a).__enter__, rt.__enter__):
        with pytest.raises(ConnectFailed, match=r"no connection within 0\.05 s"):
            use()
        until(lambda: not portals(), "nothing is left of it")
    transport.native(Faults)._broker._refuse_connections = 0
    rt.publish(room.a, 1)
    rt.close()
    assert "connection attempt" in caplog.text


def test_settings_are_checked_where_they_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="timeout must be positive"):
        BlockingRealtime.from_url("memory://", timeout=0)
    with pytest.raises(UnknownTransport):
        BlockingRealtime.from_url("nothing://")
    with pytest.raises(Unsupported, match="multi_process"):
        BlockingRealtime(MemoryTransport(), require=["multi_process"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="url"):
        BlockingRealtime.from_config()
    assert not portals()


def test_from_config_takes_all_settings(tmp_path: Path) -> None:
    found: list[InvalidMessage] = []
    file = tmp_path / "fanwire.toml"
    file.write_text('url = "memory://?history=3"\ntimeout = 2.5\nbuffer = 7\n', encoding="utf-8")
    rt = BlockingRealtime.from_config(file, linger=0.25, on_invalid=found.append)
    same = Realtime.from_config(file, linger=0.25, on_invalid=found.append)
    ours, theirs = vars(rt._realtime), vars(same)
    plain = {"timeout", "connect_timeout", "_buffer", "_buffer_bytes", "_buffer_bytes_total", "_linger", "_on_invalid", "_codec", "_clock"}
    assert {name: ours[name] for name in plain} == {name: theirs[name] for name in plain}
    assert (ours["_buffer"], ours["_linger"]) == (7, 0.25)
    assert repr(ours["_transport"]) == repr(theirs["_transport"])
    rt.publish_many([room.a(n) for n in range(5)])
    assert len(rt.history(room.a)) == 3
    rt.close()


def test_one_that_is_forgotten_says_so_and_ends() -> None:
    rt = BlockingRealtime.from_url("memory://")
    rt.ping()
    with pytest.warns() as caught:
        del rt
    gc.collect()
    assert [(warning.category, str(warning.message)) for warning in caught] == [
        (ResourceWarning, "<BlockingRealtime memory connected> was not closed: use `with`, or call close()")
    ]
    until(lambda: not portals(), "the thread has ended")


# ---------------------------------------------------------------------- publishing


def test_publishing(rt: BlockingRealtime) -> None:
    with rt.subscribe(room.a, room.b) as messages:
        first = rt.publish(room.a, 1, key="k", headers={"h": "v"})
        assert (first.channel, first.topic, first.duplicate) == ("room:1", "a", False)
        assert rt.publish(room.a, 1, key="k").duplicate
        assert rt.publish(room.b(2)).topic == "b"
        assert [receipt.topic for receipt in rt.publish_many([room.a(3), room.b(4)])] == ["a", "b"]
        assert rt.publish_many([]) == []
        assert data(messages, 4) == [1, 2, 3, 4]
    assert (rt.history(room.a)[0].key, rt.history(room.a)[0].headers) == ("k", {"h": "v"})
    assert rt.stats().published == 5
    assert rt.ping() >= 0
    assert isinstance(rt.native(Faults), Faults)


def test_errors_are_those_of_the_realtime(rt: BlockingRealtime) -> None:
    with pytest.raises(InvalidPayload, match="topic 'a' of channel 'room:1'"):
        rt.publish(room.a, "x")  # type: ignore[misc]
    with pytest.raises(DeclarationError, match="is a declaration"):
        rt.publish(Room.a, 1)  # type: ignore[call-overload]
    with pytest.raises(DeclarationError, match="no data was given"):
        rt.publish(room.a)  # type: ignore[call-overload]
    with pytest.raises(DeclarationError, match="publish_many"):
        rt.publish_many([(room.a, 1)])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="history"):
        rt.history(room.a, limit=0)
    with pytest.raises(Unsupported, match="MemoryBroker"):
        rt.native(int)
    rt.native(Faults).block()
    with pytest.raises(Timeout, match=r"0\.05 s"):
        rt.publish(room.a, 1, timeout=0.05)
    rt.native(Faults).resume()
    with pytest.raises(DeclarationError), rt.subscribe():  # type: ignore[call-overload]
        pass
    # Raised in another thread, and still traced from the call to its cause.
    with pytest.raises(InvalidPayload) as caught:
        rt.publish(room.a, "x")  # type: ignore[misc]
    assert {"test_plain.py", "realtime.py", "portal.py"} <= {Path(str(entry.path)).name for entry in caught.traceback}


def test_an_iterable_is_read_in_the_callers_thread(rt: BlockingRealtime) -> None:
    """Its items may come from anywhere: a database, or another subscription of the same façade."""
    threads: list[threading.Thread] = []
    with rt.subscribe(room.a) as source, rt.subscribe(room.b) as sink:
        rt.publish_many([room.a(n) for n in range(3)])

        def items() -> Iterator[object]:
            for _ in range(3):
                threads.append(threading.current_thread())
                yield room.b(source.get(timeout=5).data + 10)

        rt.publish_many(items())  # type: ignore[arg-type]
        assert data(sink, 3) == [10, 11, 12]
        rt.publish_many([room.a(n) for n in range(3)])
        rt.run("r").publish_many(items())  # type: ignore[arg-type]
        assert [sink.get(timeout=5).run_id for _ in range(3)] == ["r"] * 3
    assert set(threads) == {threading.current_thread()}


def test_the_context_of_the_caller_goes_along(rt: BlockingRealtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for tracing. A context that was copied from a task of another kind of loop does no harm."""
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    seen: list[str] = []

    async def spy(_: MemoryTransport) -> None:
        seen.append(variable.get())

    def ping() -> None:
        variable.set("mine")
        sniffio.current_async_library_cvar.set("trio")
        rt.ping()
        with rt.subscribe(room.a) as messages, pytest.raises(Timeout):
            messages.get(timeout=0.01)

    monkeypatch.setattr(MemoryTransport, "ping", spy)
    rt.ping()
    copy_context().run(ping)
    rt.ping()
    assert seen == ["unset", "mine", "unset"]


# ---------------------------------------------------------------------- subscribing


def test_a_subscription_from_entering_to_leaving(rt: BlockingRealtime) -> None:
    messages = rt.subscribe(room.a)
    assert repr(messages) == "<BlockingSubscription room:1[a] not entered>"
    for use in (messages.get, lambda: next(messages), lambda: iter(messages), lambda: next(messages.batches())):
        with pytest.raises(RuntimeError, match="was not entered: use `with rt.subscribe"):
            use()
    assert messages.stats() == (0, 0, 0, 0, 0)
    with messages as entered:
        assert entered is messages
        assert repr(messages) == "<BlockingSubscription room:1[a] open>"
        assert rt.stats().subscriptions == 1
        with pytest.raises(RuntimeError, match="was entered before"):
            messages.__enter__()
        with pytest.raises(RuntimeError, match="a view is chosen before"):
            messages.with_gaps()
        with pytest.raises(RuntimeError, match="a view is chosen before"):
            messages.raw()
        rt.publish(room.a, 1)
        assert next(messages).data == 1
        rt.publish_many([room.a(2), room.a(3)])
        assert messages.get().data == 2
    assert repr(messages) == "<BlockingSubscription room:1[a] closed>"
    assert rt.stats().subscriptions == 0
    assert messages.get().data == 3, "what was in hand is not taken away"
    with pytest.raises(Closed, match="is closed: call rt.subscribe"):
        iter(messages)
    with pytest.raises(Closed, match="all its messages were taken"):
        messages.get()
    with pytest.raises(StopIteration):
        next(messages)
    with pytest.raises(StopIteration):
        next(messages.batches())
    with pytest.raises(RuntimeError, match="was entered before"), messages:
        pass
    messages.close()
    assert messages.stats().received == 3


def test_one_that_is_closed_before_it_is_entered() -> None:
    messages = BlockingRealtime.from_url("memory://").subscribe(room.a)
    messages.close()
    with pytest.raises(RuntimeError, match="was entered before"), messages:
        pass
    assert not portals()


def test_what_subscribing_refuses_is_told_where_it_is_asked_for() -> None:
    rt = BlockingRealtime(MemoryTransport(options=MemoryOptions(history=0)))
    with pytest.raises(Unsupported, match="needs history"):
        rt.subscribe(room.a, start=Start.EARLIEST)
    with pytest.raises(ValueError, match="on_gap"):
        rt.subscribe(room.a, on_gap="yield")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="max_size"):
        rt.subscribe(room.a).batches(max_size=0)
    assert not portals()


def test_a_subscription_that_the_broker_refuses_leaves_nothing(rt: BlockingRealtime) -> None:
    rt.native(Faults).deny(room.name, Unsupported("no"))
    messages = rt.subscribe(room.a)
    with pytest.raises(Unsupported, match="no"):
        messages.__enter__()
    until(lambda: rt.stats().subscriptions == 0, "it has gone")
    assert repr(messages) == "<BlockingSubscription room:1[a] closed>"


def test_every_way_to_ask_for_messages(rt: BlockingRealtime) -> None:
    other = Room(number=2)
    with rt.subscribe(room) as all_topics, rt.subscribe("room:2", topics=["b"]) as by_name, rt.subscribe(room.a, other.a) as two_channels:
        rt.publish_many([room.a(1), room.b(2), other.a(3), other.b(4)])
        assert data(all_topics, 2) == [1, 2]
        assert data(by_name, 1) == [4]
        assert data(two_channels, 2) == [1, 3]
    with rt.subscribe(room.a, room.b, start=Start.last(1)) as last:
        assert data(last, 1) == [2]
    with rt.subscribe(room.a, room.b, start=Start.EARLIEST) as earliest:
        assert data(earliest, 2) == [1, 2]
        rt.publish(room.a, 5)
        assert data(earliest, 1) == [5]
    with rt.subscribe(room.a).raw() as raw:
        rt.publish(room.a, 6)
        message = raw.get(timeout=5)
        assert isinstance(message, RawMessage)
        assert message.parse(room.a) == 6


def test_timeouts_lose_nothing(rt: BlockingRealtime) -> None:
    with rt.subscribe(room.a) as messages:
        with pytest.raises(Timeout, match=r"no message within 0\.01 s"):
            messages.get(timeout=0.01)
        with pytest.raises(TimeoutError, match="no message within 0 s"):
            messages.get(timeout=0)
        rt.publish_many([room.a(1), room.a(2)])
        assert messages.get(timeout=0).data == 1
        assert messages.get(0).data == 2
        for wrong in (-1.0, float("nan")):
            with pytest.raises(ValueError, match="timeout >= 0"):
                messages.get(timeout=wrong)
        assert messages.stats()[:4] == (2, 0, 0, 0)


def test_a_break_loses_nothing(rt: BlockingRealtime) -> None:
    with rt.subscribe(room.a) as messages:
        rt.publish_many([room.a(n) for n in range(10)])
        for message in messages:
            if message.data == 3:
                break
        assert messages.stats()[:4] == (4, 0, 0, 6)
        for message in messages:
            if message.data == 5:
                break
        assert next(messages).data == 6
        assert [message.data for message in next(messages.batches())] == [7, 8, 9]


def test_batches(rt: BlockingRealtime) -> None:
    with rt.subscribe(room.a) as messages:
        rt.publish_many([room.a(n) for n in range(10)])
        batches = messages.batches(max_size=4)
        assert iter(batches) is batches
        assert [message.data for message in next(batches)] == [0, 1, 2, 3]
        assert messages.get().data == 4, "by the way"
        assert [message.data for message in next(batches)] == [5, 6, 7, 8]
        threading.Timer(0.05, lambda: rt.publish(room.a, 10)).start()
        assert [message.data for message in next(messages.batches(max_size=2, max_wait=10.0))] == [9, 10]
        assert messages.stats()[:4] == (11, 0, 0, 0)


def test_gaps_are_yielded_raised_or_logged(rt: BlockingRealtime, caplog: pytest.LogCaptureFixture) -> None:
    with (
        rt.subscribe(room.a, buffer=4).with_gaps() as told,
        rt.subscribe(room.a, buffer=4, on_gap="raise") as raised,
        rt.subscribe(room.a, buffer=4) as logged,
    ):
        rt.publish_many([room.a(n) for n in range(10)])
        gap = told.get(timeout=5)
        assert isinstance(gap, Gap)
        assert (gap.reason, gap.lost) == (GapReason.LAGGED, 6)
        rest = [told.get(timeout=5) for _ in range(4)]
        assert [message.data for message in rest if isinstance(message, Message)] == [6, 7, 8, 9]
        with pytest.raises(MessagesLost) as caught:
            for _ in raised:
                pytest.fail("a gap comes first")
        assert caught.value.gap.lost == 6
        assert data(raised, 4) == [6, 7, 8, 9]
        assert data(logged, 4) == [6, 7, 8, 9]
        assert "6" in caplog.text
        assert (told.stats().lost, told.stats().gaps, told.stats().received) == (6, 1, 4)


@pytest.mark.parametrize("on_gap", ["log", "raise"])
def test_what_was_queued_when_it_was_closed_can_still_be_read(on_gap: str) -> None:
    """ "Iterators end behind what is queued" holds for threads, too, though the event loop has gone."""
    with BlockingRealtime.from_url("memory://") as rt:
        iterated = rt.subscribe(room.a, buffer=4, on_gap="raise" if on_gap == "raise" else "log").__enter__()
        batched = rt.subscribe(room.a).__enter__()
        got = rt.subscribe(room.a).__enter__()
        never = rt.subscribe(room.b).__enter__()
        rt.publish_many([room.a(n) for n in range(10)])
        assert got.get().data == 0
    if on_gap == "raise":
        with pytest.raises(MessagesLost):
            list(iterated)
    assert [message.data for message in iterated] == [6, 7, 8, 9]
    assert [[message.data for message in batch] for batch in batched.batches(max_size=6)] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]]
    assert data(got, 9) == list(range(1, 10))
    with pytest.raises(Closed):
        got.get(timeout=5)
    assert list(never) == []
    assert list(never.batches()) == []
    for messages in (iterated, batched, got, never):
        messages.close()


def test_chunks_cost_one_hop_each(rt: BlockingRealtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand messages that are queued come by forty hops between threads, not by ten thousand."""
    count = 10_000
    with rt.subscribe(room.a, buffer=count) as messages:
        rt.publish_many([room.a(n) for n in range(count)])
        hops: list[object] = []
        call = Portal.call

        def counted(self: Portal, start: Any) -> object:
            hops.append(start)
            return call(self, start)

        monkeypatch.setattr(Portal, "call", counted)
        assert [message.data for _, message in zip(range(count), messages, strict=False)] == list(range(count))
        assert len(hops) == 40


# ---------------------------------------------------------------------- events, runs


def test_events_from_beginning_to_end() -> None:
    transport = MemoryTransport()
    with BlockingRealtime(transport) as rt, rt.events() as events:
        first = next(events)
        assert first.state is ConnectionState.CONNECTED
        assert first.at <= time.time()
        transport.faults.disconnect()
        assert [next(events).state for _ in range(3)] == ["disconnected", "connecting", "connected"]
        following = iter(events)
        rt.close()
        assert [event.state for event in following] == []
    assert list(events) == []


def test_a_run_and_its_steps(rt: BlockingRealtime, tmp_path: Path) -> None:
    calls: list[str] = []

    def work(word: str) -> list[str]:
        calls.append(threading.current_thread().name)
        rt.publish(room.b, 1)  # a step may use the façade itself
        return [word]

    store = SQLiteStepStore(tmp_path / "steps.db")
    with rt.subscribe(room.a, room.b) as messages:
        for attempt in range(2):
            run = rt.run("order-17", steps=store)
            assert (run.id, run.step.store) == ("order-17", store)
            assert repr(run).startswith("<BlockingRun 'order-17'")
            assert repr(run.step).startswith("<BlockingSteps of run 'order-17'")
            assert run.publish(room.a, attempt).topic == "a"
            assert run.publish(room.a(attempt)).topic == "a"
            assert run.step.publish("done", room.a, 10 + attempt) == 10
            assert run.step.publish("more", room.a(20)) == 20
            assert [run.step.run("work", work, word) for word in ("x", "y")] == [["x"], ["y"]]
        assert calls == ["MainThread"] * 2
        assert data(messages, 8) == [0, 0, 10, 20, 1, 1, 1, 1]
        assert messages.stats().lag == 0
    with pytest.raises(StepConflict):
        rt.run("order-17", steps=store).step.publish("work", room.a, 1)


def test_what_goes_wrong_in_a_step(rt: BlockingRealtime) -> None:
    store = MemoryStepStore()
    step = rt.run("r", steps=store).step

    def fails() -> int:
        raise LookupError("of my own")

    async def asynchronous() -> int:
        return 1

    def unresolved() -> Nowhere:  # type: ignore[name-defined]  # noqa: F821
        return 1

    with pytest.raises(LookupError, match="of my own") as caught:
        step.run("s", fails)
    assert caught.traceback[-1].name == "fails"
    with pytest.raises(DeclarationError, match="is an async function, and this is the blocking interface: pass a plain one"):
        _ = step.run("s", asynchronous)
    with pytest.raises(DeclarationError, match="cannot be resolved"):
        step.run("s", unresolved)
    with pytest.raises(DeclarationError, match="cannot be recorded"):
        step.run("s", object)
    with pytest.raises(RuntimeError, match="StopIteration"):  # as an async function has it, and a generator
        step.run("s", lambda: next(iter(())))
    with pytest.raises(ConfigError, match="no store"):
        rt.run("r").step
    with pytest.raises(ConfigError, match="id"):
        rt.run("")


def test_any_plain_callable_is_a_step(rt: BlockingRealtime) -> None:
    from functools import partial

    class Callable:
        def __call__(self, x: int) -> int:
            return x + 1

        def method(self, x: int) -> tuple[int, int]:
            return x, x

    step = rt.run("r", steps=MemoryStepStore()).step
    assert step.run("builtin", int, "7") == 7
    assert step.run("lambda", lambda: {"a": 1}) == {"a": 1}
    assert step.run("partial", partial(Callable().method, 3)) == (3, 3)
    assert step.run("object", Callable(), 1) == 2
    assert step.run("method", Callable().method, 2) == (2, 2)
