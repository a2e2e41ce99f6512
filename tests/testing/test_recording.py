"""What an application publishes is recorded where the broker accepts it."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import assert_type

import anyio
import pytest
from pydantic import BaseModel

from fanwire import Channel, Message, Realtime, topic
from fanwire.errors import ConnectionLost, InvalidPayload, PermissionDenied
from fanwire.runs import MemoryStepStore
from fanwire.testing.recording import Published, recorded
from fanwire_memory import Faults, MemoryOptions, MemoryTransport

pytestmark = pytest.mark.anyio


class Status(BaseModel):
    message: str


class Chat(Channel, name="chat:{id}"):
    id: str
    status = topic(Status)
    tokens = topic(str)


CHAT, OTHER = Chat(id="1"), Chat(id="2")


@asynccontextmanager
async def recording(transport: MemoryTransport | None = None) -> AsyncGenerator[tuple[Realtime, Published]]:
    published = Published()
    async with Realtime(recorded(transport or MemoryTransport(), published)) as rt:
        published.attach(rt)
        yield rt, published


async def test_everything_that_was_accepted_is_there_with_its_type_and_in_order() -> None:
    async with recording() as (rt, published):
        await rt.publish(CHAT.status, Status(message="Thinking"), key="k", headers={"h": "1"})
        await rt.publish_many([CHAT.tokens(text) for text in "ab"])
        run = rt.run("run-1", steps=MemoryStepStore())
        await run.publish(CHAT.tokens, "c")
        await run.step.publish("done", CHAT.status, Status(message="Done"))
        await rt.publish(OTHER.tokens, "z")
    assert_type(published(CHAT.status), list[Status])
    assert published(CHAT.status) == [Status(message="Thinking"), Status(message="Done")]
    assert published(CHAT.tokens) == ["a", "b", "c"]
    assert published(OTHER.status) == []
    messages = published.messages(CHAT.status)
    assert_type(messages, list[Message[Status]])
    assert (messages[0].key, messages[0].headers, messages[0].run_id) == ("k", {"h": "1"}, None)
    assert messages[1].run_id == "run-1"
    assert messages[0].cursor is not None
    assert repr(published) == "<Published 6 messages>"
    published.clear()
    published.nothing()


async def test_what_was_not_accepted_is_not_there() -> None:
    async with recording() as (rt, published):
        faults = rt.native(Faults)
        faults.refuse(PermissionDenied("no"))
        with pytest.raises(PermissionDenied):
            await rt.publish(CHAT.tokens, "refused")
        with pytest.raises(InvalidPayload):
            await rt.publish(CHAT.status({"message": 1}))  # type: ignore[arg-type]  # invalid on purpose
        await rt.publish(CHAT.tokens, "first", key="k")
        await rt.publish(CHAT.tokens, "suppressed", key="k")
        assert published(CHAT.tokens) == ["first"]
        faults.lose_ack()
        await rt.publish(CHAT.tokens, "retried")
        assert published(CHAT.tokens) == ["first", "retried"]


async def test_an_unknown_outcome_is_not_recorded() -> None:
    async with recording(MemoryTransport("", MemoryOptions(history=0))) as (rt, published):
        rt.native(Faults).lose_ack()
        with pytest.raises(ConnectionLost):
            await rt.publish(CHAT.tokens, "unknown")
        published.nothing()


async def test_it_behaves_as_the_transport_does() -> None:
    transport = MemoryTransport()
    async with recording(transport) as (rt, _):
        assert repr(rt) == "<Realtime memory connected>"
        assert rt.capabilities == transport.capabilities
        await rt.publish(CHAT.tokens, "a")
        assert [message.data for message in await rt.history(CHAT.tokens)] == ["a"]


# ---------------------------------------------------------------------- waiting


async def test_waiting_for_what_comes_and_for_what_is_there() -> None:
    async with recording() as (rt, published), anyio.create_task_group() as tasks:
        got: list[object] = []

        async def wait() -> None:
            three = await published.wait_for(CHAT.tokens, 3)
            got.append(three)
            last = await published.wait_for(CHAT.tokens, lambda text: text == "d")
            got.append(last)

        tasks.start_soon(wait)
        for text in "abcd":
            await anyio.wait_all_tasks_blocked()
            assert len(got) == (text > "c")
            await rt.publish(CHAT.tokens, text)
        with anyio.fail_after(5):
            while len(got) < 2:
                await anyio.lowlevel.checkpoint()
        assert got == [["a", "b", "c"], "d"]
        assert_type(await published.wait_for(CHAT.status, 0), list[Status])
        found = await published.wait_for(CHAT.tokens, lambda text: text.isalpha())
        assert_type(found, str)


async def test_waiting_in_vain_tells_what_there_was() -> None:
    async with recording() as (rt, published):
        with pytest.raises(
            AssertionError, match=r"waited 0.01 s in vain for 1 messages on topic 'status' of channel 'chat:1'; nothing was published"
        ):
            await published.wait_for(CHAT.status, timeout=0.01)
        await rt.publish(CHAT.tokens, "a")
        with pytest.raises(AssertionError, match=r"(?s)a message of which isdigit holds .*this was published:\n    chat:1  tokens  \"a\""):
            await published.wait_for(CHAT.tokens, str.isdigit, timeout=0.01)


async def test_publishing_in_another_thread_wakes_who_waits() -> None:
    published = Published()
    async with Realtime(recorded(MemoryTransport(), published)) as rt:
        blocking = rt.blocking()

        def work() -> None:
            with blocking:
                blocking.publish(CHAT.tokens, "from a thread")

        thread = threading.Thread(target=work)
        thread.start()
        try:
            assert await published.wait_for(CHAT.tokens) == ["from a thread"]
        finally:
            await anyio.to_thread.run_sync(thread.join)


# ---------------------------------------------------------------------- sequences


async def test_a_sequence_across_topics_and_channels() -> None:
    async with recording() as (rt, published):
        await rt.publish(CHAT.status, Status(message="Thinking"))
        await rt.publish(OTHER.tokens, "x")
        await rt.publish(CHAT.tokens, "a")
    published.assert_sequence([CHAT.status(Status(message="Thinking")), OTHER.tokens("x"), CHAT.tokens])
    published.assert_sequence([CHAT.status, CHAT.tokens("a")], of=[CHAT])
    published.assert_sequence(
        [
            CHAT.tokens("a"),
        ],
        of=[CHAT.tokens],
    )
    published.assert_sequence([OTHER.tokens("x")], of=["chat:2", OTHER.status])
    published.nothing(OTHER.status)
    published.nothing(Chat(id="3"), "chat:4")
    with pytest.raises(AssertionError) as caught:
        published.assert_sequence([CHAT.status, CHAT.tokens("b"), CHAT.tokens("a"), CHAT.tokens], of=[CHAT])
    assert str(caught.value).splitlines() == [
        "another sequence was published (- expected, + published):",
        '    chat:1  status  {"message":"Thinking"}',
        '  - chat:1  tokens  "b"',
        '    chat:1  tokens  "a"',
        "  - chat:1  tokens  (any data)",
    ]
    with pytest.raises(AssertionError) as caught:
        published.assert_sequence([CHAT.tokens("a"), CHAT.status])
    assert str(caught.value).splitlines()[1:] == [
        '  - chat:1  tokens  "a"',
        '    chat:1  status  {"message":"Thinking"}',
        '  + chat:2  tokens  "x"',
        '  + chat:1  tokens  "a"',
    ]
    with pytest.raises(AssertionError, match='nothing was to be published, but this was published:\n    chat:1  tokens  "a"'):
        published.nothing(CHAT.tokens)
    with pytest.raises(TypeError, match="got tuple"):
        published.assert_sequence([(CHAT.tokens, "a")])  # type: ignore[list-item]  # wrong on purpose


# ---------------------------------------------------------------------- others


async def test_following_records_what_others_publish_each_once() -> None:
    transport = MemoryTransport()
    async with recording(transport) as (rt, published), Realtime(transport.copy()) as worker:
        await worker.publish(CHAT.tokens, "before")
        async with published.following(CHAT.tokens, CHAT.status):
            await rt.publish(CHAT.tokens, "own")
            await worker.publish(CHAT.tokens, "other's")
            assert await published.wait_for(CHAT.tokens, 2) == ["own", "other's"]
            await worker.publish(CHAT.status, Status(message="Done"))
            assert (await published.wait_for(CHAT.status, lambda status: status.message == "Done")).message == "Done"
        await worker.publish(CHAT.tokens, "after")
        await rt.publish(CHAT.tokens, "own again")
        assert published(CHAT.tokens) == ["own", "other's", "own again"]


async def test_a_recording_with_a_hole_says_so() -> None:
    transport = MemoryTransport("", MemoryOptions(history=0))
    async with recording(transport) as (rt, published), Realtime(transport.copy()) as worker, published.following(CHAT.tokens):
        rt.native(Faults).drop()
        await worker.publish(CHAT.tokens, "lost")
        await worker.publish(CHAT.tokens, "seen")
        with pytest.raises(AssertionError, match="the recording is not complete: 1 message lost on channel 'chat:1'"):
            await published.wait_for(CHAT.tokens, 2)
        published.clear()
        published.nothing()


async def test_following_needs_a_realtime() -> None:
    with pytest.raises(RuntimeError, match="add it to the test's arguments"):
        async with Published().following(CHAT.tokens):
            pass
