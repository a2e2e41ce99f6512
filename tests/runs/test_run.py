"""Publishing from work that is retried: what happens again, what happens once, and what a change between attempts leads to."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from fanwire import Channel, Message, Realtime, Receipt, Start, static_schema, topic
from fanwire.errors import ConfigError, DeclarationError, FanwireError, InvalidPayload, PayloadTooLarge, StepConflict, Unavailable
from fanwire.runs import MemoryStepStore, Run, StepRecord
from fanwire_memory import MemoryOptions, MemoryTransport

pytestmark = pytest.mark.anyio


class Status(BaseModel):
    message: str


class AgentChat(Channel, name="agent-chat:{thread_id}"):
    thread_id: str
    status = topic(Status)
    words = topic(list[str])
    usage = topic(Status, validate=False)


chat = AgentChat(thread_id="one")


async def seen(rt: Realtime) -> list[Message[Any]]:  # Any: messages of several topics
    return list(await rt.history(chat))


class Crash(Exception):
    pass


def crash_before_recording(store: MemoryStepStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def record(*_: object) -> StepRecord:
        raise Crash

    monkeypatch.setattr(store, "record", record)


# ---------------------------------------------------------------- publish


async def test_publish_fires_at_every_attempt_and_carries_the_run() -> None:
    async with Realtime(MemoryTransport()) as rt:
        for _ in range(2):
            run = rt.run("run_1")
            assert isinstance(run, Run)
            receipt = await run.publish(chat.status, Status(message="Thinking..."))
            assert isinstance(receipt, Receipt)
            await run.publish(chat.words(["a"]), headers={"trace": "1"})
            assert len(await run.publish_many([chat.words(["b"]), chat.status(Status(message="c"))])) == 2
        messages = await seen(rt)
    assert [message.topic for message in messages] == ["status", "words", "words", "status"] * 2
    assert {message.run_id for message in messages} == {"run_1"}
    assert messages[1].headers == {"trace": "1"}
    assert [message.key for message in messages] == [None] * 8


async def test_a_publish_outside_a_run_carries_none() -> None:
    async with Realtime(MemoryTransport()) as rt:
        await rt.publish(chat.words, [])
        assert [message.run_id for message in await seen(rt)] == [None]


async def test_a_key_given_to_publish_is_used() -> None:
    async with Realtime(MemoryTransport()) as rt:
        receipts = [await rt.run("r").publish(chat.words, [], key="k") for _ in range(2)]
        receipts.append(await rt.run("r").publish(chat.words([], key="k")))
        assert [receipt.duplicate for receipt in receipts] == [False, True, True]


async def test_order_holds_between_a_run_and_its_realtime() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(chat.words) as messages:
        run = rt.run("r", steps=MemoryStepStore())
        await rt.publish(chat.words, ["0"])
        await run.publish(chat.words, ["1"])
        await run.step.publish("s", chat.words, ["2"])
        await rt.publish(chat.words, ["3"])
        assert [(await anext(messages)).data for _ in range(4)] == [["0"], ["1"], ["2"], ["3"]]


# ---------------------------------------------------------------- step.publish


async def test_a_durable_publish_fires_once_and_returns_the_data() -> None:
    store = MemoryStepStore()
    async with Realtime(MemoryTransport()) as rt:
        for _ in range(3):
            data = await rt.run("r", steps=store).step.publish("done", chat.status, Status(message="Done"))
            assert data == Status(message="Done")
        (message,) = await seen(rt)
    assert (message.data, message.run_id) == (Status(message="Done"), "r")
    assert message.key is not None
    assert message.key.startswith("step:")


async def test_the_key_depends_on_run_and_step_alone() -> None:
    keys: list[str | None] = []
    for data in ("a", "b"):
        async with Realtime(MemoryTransport()) as rt:
            for run_id, step in (("r", "s"), ("r", "t"), ("q", "s"), ("1:r", "s"), ("1", ":rs")):
                await rt.run(run_id, steps=MemoryStepStore()).step.publish(step, chat.words, [data])
            keys += [message.key for message in await seen(rt)]
    assert keys[:5] == keys[5:]
    assert len(set(keys)) == 5


async def test_a_crash_before_the_record_repeats_it_under_the_same_key(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStepStore()
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(chat.words) as messages:
        with monkeypatch.context() as patch:
            crash_before_recording(store, patch)
            with pytest.raises(Crash):
                await rt.run("r", steps=store).step.publish("s", chat.words, ["once"])
        await rt.run("r", steps=store).step.publish("s", chat.words, ["once"])
        await rt.publish(chat.words, ["end"])
        assert [(await anext(messages)).data for _ in range(2)] == [["once"], ["end"]]
        assert await store.load("r", "s") == StepRecord("publish", "agent-chat:one", "words", b'["once"]')


async def test_without_suppression_the_same_crash_shows_it_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: the key is what makes it once."""
    monkeypatch.setattr("fanwire.runs.run._key", lambda *_: None)
    store = MemoryStepStore()
    async with Realtime(MemoryTransport()) as rt:
        with monkeypatch.context() as patch:
            crash_before_recording(store, patch)
            with pytest.raises(Crash):
                await rt.run("r", steps=store).step.publish("s", chat.words, ["twice"])
        await rt.run("r", steps=store).step.publish("s", chat.words, ["twice"])
        assert [message.data for message in await seen(rt)] == [["twice"], ["twice"]]


async def test_what_is_refused_is_neither_sent_nor_recorded() -> None:
    store = MemoryStepStore()
    async with Realtime(MemoryTransport(options=MemoryOptions(max_payload=1000))) as rt:
        step = rt.run("r", steps=store).step
        with pytest.raises(InvalidPayload):
            await step.publish("a", chat.status, {"message": 1})  # type: ignore[misc]  # callers without a checker
        with pytest.raises(PayloadTooLarge):
            await step.publish("b", chat.status, Status(message="x" * 900))
        assert await seen(rt) == []
    assert repr(store) == "<MemoryStepStore of 0 runs>"


async def test_the_envelope_with_run_and_key_counts_for_the_limit() -> None:
    """A payload that fits by itself and not with the run's id."""
    async with Realtime(MemoryTransport(options=MemoryOptions(max_payload=600))) as rt:
        status = Status(message="x" * 300)
        await rt.publish(chat.status, status)
        with pytest.raises(PayloadTooLarge):
            await rt.run("r" * 255).publish(chat.status, status)


async def test_a_publish_that_fails_is_not_recorded() -> None:
    store, transport = MemoryStepStore(), MemoryTransport()
    async with Realtime(transport, timeout=0.05) as rt:
        transport.faults.block()
        with pytest.raises(FanwireError):
            await rt.run("r", steps=store).step.publish("s", chat.words, ["a"])
        transport.faults.resume()
        assert await store.load("r", "s") is None
        assert await rt.run("r", steps=store).step.publish("s", chat.words, ["a"]) == ["a"]


async def test_a_changed_payload_returns_what_is_recorded_and_warns_without_telling_it(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStepStore()
    async with Realtime(MemoryTransport()) as rt:
        await rt.run("r", steps=store).step.publish("s", chat.status, Status(message="first secret"))
        with caplog.at_level(logging.WARNING):
            await rt.run("r", steps=store).step.publish("s", chat.status, Status(message="first secret"))
        assert caplog.records == []
        for changed in (Status(message="second secret"), {"message": 17}):
            with caplog.at_level(logging.WARNING):
                data = await rt.run("r", steps=store).step.publish("s", chat.status, changed)  # type: ignore[misc]  # as above
            assert data == Status(message="first secret")
        assert len(await seen(rt)) == 1
    assert [record.name for record in caplog.records] == ["fanwire.runs"] * 2
    assert "step 's' of run 'r' is recorded with other data" in caplog.text
    assert "secret" not in caplog.text


async def test_a_type_only_topic_returns_what_subscribers_get() -> None:
    store = MemoryStepStore()
    async with Realtime(MemoryTransport()) as rt:
        found = [await rt.run("r", steps=store).step.publish("s", chat.usage, Status(message="a")) for _ in range(2)]
    assert [*map(dict, found)] == [{"message": "a"}, {"message": "a"}]


async def test_a_durable_publish_has_no_other_key() -> None:
    async with Realtime(MemoryTransport()) as rt:
        with pytest.raises(DeclarationError, match="leave key= out"):
            await rt.run("r", steps=MemoryStepStore()).step.publish("s", chat.words([], key="mine"))


async def test_headers_travel_with_a_durable_publish() -> None:
    async with Realtime(MemoryTransport()) as rt:
        step = rt.run("r", steps=MemoryStepStore()).step
        await step.publish("a", chat.words([], headers={"a": "1"}))
        await step.publish("b", chat.words, [], headers={"b": "2"})
        assert [message.headers for message in await seen(rt)] == [{"a": "1"}, {"b": "2"}]


# ---------------------------------------------------------------- step.run


async def test_a_function_runs_once_and_its_result_is_typed() -> None:
    calls: list[int] = []

    async def double(number: int) -> Status:
        calls.append(number)
        return Status(message=str(2 * number))

    store = MemoryStepStore()
    async with Realtime(MemoryTransport()) as rt:
        for number in (2, 3):
            assert await rt.run("r", steps=store).step.run("double", double, number) == Status(message="4")
    assert calls == [2]


async def test_a_function_that_fails_is_run_again() -> None:
    failures = [Crash("no")]

    async def flaky() -> str:
        if failures:
            raise failures.pop()
        return "yes"

    store = MemoryStepStore()
    async with Realtime(MemoryTransport()) as rt:
        with pytest.raises(Crash):
            await rt.run("r", steps=store).step.run("s", flaky)
        assert [await rt.run("r", steps=store).step.run("s", flaky) for _ in range(2)] == ["yes", "yes"]


async def test_all_attempts_see_the_same_result() -> None:
    """A tuple becomes what its annotation makes of the record, or a list without one; the first attempt is told that too."""

    async def annotated() -> tuple[int, ...]:
        return (1, 2)

    async def bare():  # type: ignore[no-untyped-def]  # the point of it
        return (1, 2)

    async def nothing() -> None:
        pass

    store = MemoryStepStore()
    async with Realtime(MemoryTransport()) as rt:
        for _ in range(2):
            step = rt.run("r", steps=store).step
            assert await step.run("annotated", annotated) == (1, 2)
            assert await step.run("bare", bare) == [1, 2]
            assert await step.run("given", bare, schema=static_schema(object)) == [1, 2]
            assert await step.run("nothing", nothing) is None  # type: ignore[func-returns-value]  # what is asserted


async def test_results_that_cannot_be_recorded() -> None:
    async def socket() -> Any:  # Any: what a checker cannot know
        return object()

    async def wrong() -> int:
        return "x"  # type: ignore[return-value]  # callers without a checker

    def blocking() -> int:
        return 1

    async def unknown() -> Missing:  # type: ignore[name-defined]  # noqa: F821 - the point of it
        return None

    store = MemoryStepStore()
    async with Realtime(MemoryTransport()) as rt:
        step = rt.run("r", steps=store).step
        for function, text in (
            (socket, "cannot be recorded"),
            (wrong, "cannot be recorded"),
            (blocking, "takes an async function"),
            (unknown, "pass schema="),
        ):
            with pytest.raises(DeclarationError, match=text):
                await step.run("s", function)  # type: ignore[arg-type]  # as above
        assert await store.load("r", "s") is None


# ---------------------------------------------------------------- ids


async def test_a_repeated_id_stands_for_as_many_steps() -> None:
    store = MemoryStepStore()
    async with Realtime(MemoryTransport()) as rt:
        for _ in range(2):
            run = rt.run("r", steps=store)
            for word in "abc":
                await run.step.publish("word", chat.words, [word])
        assert [message.data for message in await seen(rt)] == [["a"], ["b"], ["c"]]
    assert [await store.load("r", step) is not None for step in ("word", "word:1", "word:2", "word:3")] == [True, True, True, False]


@pytest.mark.parametrize(
    ("ids", "recorded"),
    [
        (["a", "a:1", "a"], ["a", "a:1", "a:2"]),
        (["a", "a", "a:1"], ["a", "a:1", "a:1:1"]),
        (["a:1", "a", "a", "a"], ["a:1", "a", "a:2", "a:3"]),
    ],
)
async def test_an_id_that_looks_like_a_repeated_one_is_a_step_of_its_own(ids: list[str], recorded: list[str]) -> None:
    store = MemoryStepStore()

    async def number(value: int) -> int:
        return value

    async with Realtime(MemoryTransport()) as rt:
        for _ in range(2):
            step = rt.run("r", steps=store).step
            assert [await step.run(id, number, value) for value, id in enumerate(ids)] == list(range(len(ids)))
    assert [await store.load("r", id) for id in recorded] == [StepRecord("run", None, None, b"%d" % n) for n in range(len(ids))]


async def test_concurrent_steps_are_told_apart() -> None:
    store = MemoryStepStore()

    async def number(value: int) -> int:
        await anyio.lowlevel.checkpoint()
        return value

    async with Realtime(MemoryTransport()) as rt:
        step = rt.run("r", steps=store).step
        found: list[int] = []

        async def one(value: int) -> None:
            found.append(await step.run("s", number, value))

        async with anyio.create_task_group() as tasks:
            for value in range(5):
                tasks.start_soon(one, value)
    assert sorted(found) == list(range(5))


async def test_two_attempts_at_once_agree() -> None:
    store = MemoryStepStore()

    async def number(value: int) -> int:
        await anyio.lowlevel.checkpoint()
        return value

    found: set[int] = set()
    async with Realtime(MemoryTransport()) as rt, anyio.create_task_group() as tasks:

        async def attempt(value: int) -> None:
            step = rt.run("r", steps=store).step
            found.add(await step.run("s", number, value))
            await step.publish("p", chat.words, [str(value)])

        for value in range(3):
            tasks.start_soon(attempt, value)
    assert len(found) == 1


@pytest.mark.parametrize("bad", ["", "a\nb", "\x00", "x" * 256, "é" * 128, "\ud800", 7, None])
async def test_ids_that_are_refused(bad: Any) -> None:  # Any: callers without a checker
    rt = Realtime(MemoryTransport())
    with pytest.raises(ConfigError, match="a run's id must be"):
        rt.run(bad)
    with pytest.raises(ConfigError, match="a step's id must be"):
        await rt.run("r", steps=MemoryStepStore()).step.publish(bad, chat.words, [])


async def test_a_run_without_a_store_has_no_steps() -> None:
    run = Realtime(MemoryTransport()).run("r")
    assert repr(run) == "<Run 'r'>"
    with pytest.raises(ConfigError, match=r"pass one, as in rt\.run\('r', steps="):
        _ = run.step


# ---------------------------------------------------------------- conflicts


async def test_conflicts() -> None:
    store = MemoryStepStore()
    other = AgentChat(thread_id="two")

    async def number() -> int:
        return 1

    async with Realtime(MemoryTransport()) as rt:
        first = rt.run("r", steps=store).step
        await first.publish("p", chat.words, ["a"])
        await first.run("f", number)
        recorded = "is recorded as a publish of topic 'words' on channel 'agent-chat:one'"
        with pytest.raises(StepConflict, match=rf"step 'p' of run 'r' {recorded}, and cannot publish topic 'status' on channel 'agent-chat:one'"):
            await rt.run("r", steps=store).step.publish("p", chat.status, Status(message="a"))
        with pytest.raises(StepConflict, match=rf"{recorded}, and cannot publish topic 'words' on channel 'agent-chat:two'"):
            await rt.run("r", steps=store).step.publish("p", other.words, ["a"])
        with pytest.raises(StepConflict, match=rf"{recorded}, and cannot run a function"):
            await rt.run("r", steps=store).step.run("p", number)
        with pytest.raises(StepConflict, match="is recorded as a function, and cannot publish"):
            await rt.run("r", steps=store).step.publish("f", chat.words, ["a"])
        assert len(await seen(rt)) == 1


async def test_a_record_that_no_longer_fits() -> None:
    store = MemoryStepStore()
    await store.record("r", "p", StepRecord("publish", "agent-chat:one", "status", b'{"text":"an older declaration"}'))
    async with Realtime(MemoryTransport()) as rt:
        with pytest.raises(StepConflict, match="no longer passes its schema: rename the step, or forget the run") as caught:
            await rt.run("r", steps=store).step.publish("p", chat.status, Status(message="a"))
    assert caught.value.__cause__ is not None
    assert "older declaration" not in str(caught.value)


async def test_a_store_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStepStore()

    async def load(*_: object) -> None:
        raise Unavailable("the disk is gone")

    monkeypatch.setattr(store, "load", load)
    async with Realtime(MemoryTransport()) as rt:
        with pytest.raises(Unavailable, match="the disk is gone"):
            await rt.run("r", steps=store).step.publish("s", chat.words, [])
        assert await seen(rt) == []


async def test_a_late_subscriber_reads_it_once_too() -> None:
    store = MemoryStepStore()
    async with Realtime(MemoryTransport()) as rt:
        for _ in range(3):
            await rt.run("r", steps=store).step.publish("s", chat.words, ["a"])
            await store.forget("r")
        await rt.publish(chat.words, ["end"])
        async with rt.subscribe(chat.words, start=Start.EARLIEST) as messages:
            assert [(await anext(messages)).data for _ in range(2)] == [["a"], ["end"]]
