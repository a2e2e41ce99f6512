"""What users write, with the types they get. Checked by mypy and pyright in their strict modes, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, assert_type
from uuid import UUID

from declarations import (
    AgentChat, Alerts, Color, Forms, Job, Lifecycle, Params, Point, Required, Status, Struct, Token, Usage, UserId,
    chat, dynamic, factory, forms, schema,
)  # fmt: skip
from pydantic import BaseModel, JsonValue

from fanwire import (
    Capabilities, Cursor, Gap, GapReason, Message, Outgoing, RawMessage, Realtime, Receipt, Run, Schema, Start, Subscription, Topic, TopicRef,
    errors, is_topic, runs, static_schema,
)  # fmt: skip
from fanwire.channels import Channel as SameChannel
from fanwire.channels import ChannelLike, DynamicChannel, declared_topics

# ---------------------------------------------------------------- channels

assert_type(chat.thread_id, str)
assert_type(chat.name, str)
assert_type(chat.template, str | None)
assert_type(AgentChat.template, str | None)
assert_type(AgentChat.parse("agent-chat:x"), AgentChat)
assert_type(Job.parse("job:1").job_id, int)
assert_type(AgentChat.params, type[BaseModel])
assert_type(AgentChat.topics["status"], Topic[Any])
assert_type(Alerts.name, str)
as_base: SameChannel = chat

Params(number=1, id=UUID(int=1), user=UserId("u"))
Params(number=1, id=UUID(int=1), user=UserId("u"), color=Color.RED, choice="y", word="w")
Required(word="abc")
assert_type(Params(number=1, id=UUID(int=1), user=UserId("u")).color, Color)

# ---------------------------------------------------------------- topics and references

assert_type(AgentChat.status, Topic[Status])
assert_type(AgentChat.status.schema, Schema[Status])
assert_type(AgentChat.status.name, str)
assert_type(chat.status, TopicRef[Status])
assert_type(chat.usage, TopicRef[Usage])
assert_type(chat.tool_call, TopicRef[Token])
assert_type(Lifecycle.started, Topic[Status])
assert_type(Job(job_id=1).started, TopicRef[Status])
assert_type(Job(job_id=1).output, TopicRef[Token])
assert_type(Alerts.alert, TopicRef[Status])
assert_type(Alerts.started, TopicRef[Status])

assert_type(forms.point, TopicRef[Point])
assert_type(forms.numbers, TopicRef[list[int]])
assert_type(forms.floats, TopicRef[dict[str, float]])
assert_type(forms.number, TopicRef[int])
assert_type(forms.user, TopicRef[UserId])
assert_type(forms.either, TopicRef[Status | Token])
assert_type(forms.primitive, TopicRef[int | str])
assert_type(forms.literal, TopicRef[Literal["a", "b"]])
assert_type(forms.positive, TopicRef[int])
assert_type(forms.json, TopicRef[JsonValue])
assert_type(forms.optional, TopicRef[int | None])
assert_type(forms.struct, TopicRef[Struct])
assert_type(forms.own, TopicRef[bytes])
assert_type(forms.static, TopicRef[Status])
assert_type(forms.static_union, TopicRef[int | str])
assert_type(forms.annotated, TopicRef[int | str])
assert_type(forms.type_only_struct, TopicRef[Struct])
assert_type(Forms.own, Topic[bytes])

assert_type(chat.status.channel, str)
assert_type(chat.status.schema, Schema[Status])
assert_type(TopicRef("chat:x", "status"), TopicRef[Any])
assert_type(TopicRef("chat:x", "status", schema), TopicRef[Status])
assert_type(static_schema(Status), Schema[Status])
assert_type(static_schema(list[int]), Schema[list[int]])
assert_type(chat.status(Status(message="x")), Outgoing[Status])
assert_type(chat.status(Status(message="x"), key="k", headers={"a": "b"}).data, Status)
assert_type(chat.usage({"input_tokens": 1}), Outgoing[Usage])

# ---------------------------------------------------------------- the functional form

assert_type(dynamic, DynamicChannel)
assert_type(dynamic.name, str)
assert_type(dynamic.alert, TopicRef[Any])
assert_type(dynamic["alert"], TopicRef[Any])
assert_type(factory("x"), DynamicChannel)
assert_type(factory(thread_id="x").status, TopicRef[Any])

for like in (chat, Alerts, dynamic):
    one: ChannelLike = like
    name, refs = declared_topics(one)
    assert_type(name, str)
    assert_type(refs["status"], TopicRef[Any])

# ---------------------------------------------------------------- messages


def widen(message: Message[Status]) -> Message[Status | Token]:
    """A Message is covariant."""
    return message


def widen_further(message: Message[Status | Token]) -> Message[BaseModel]:
    return message


def members(message: Message[Status], raw: RawMessage, gap: Gap, receipt: Receipt) -> None:
    assert_type(message.data, Status)
    assert_type(message.data.message, str)
    assert_type(message.id, str)
    assert_type(message.channel, str)
    assert_type(message.cursor, Cursor | None)
    assert_type(raw.data, Any)
    assert_type(raw.frame, bytes)
    assert_type(raw.parse(chat.status), Status)
    assert_type(gap.reason, GapReason)
    assert_type(gap.lost, int | None)
    assert_type(receipt.cursor, Cursor | None)
    assert_type(receipt.duplicate, bool)


def narrow(message: Message[Status | Token] | Gap) -> str:
    if is_topic(message, chat.status):
        assert_type(message, Message[Status])
        return message.data.message
    match message:
        case Gap(lost=lost):
            assert_type(lost, int | None)
            return "gap"
        case Message(data=Status(message=text)):
            return assert_type(text, str)
        case Message(data=Token(token=text)):
            return assert_type(text, str)
        case Message():
            assert_type(message, Message[Status | Token])
            return ""


def two_topics_of_one_type(message: Message[Status]) -> str:
    """A "no" of is_topic says nothing about the type: the branch below must stay reachable, and typed."""
    if is_topic(message, chat.status):
        return message.data.message
    assert_type(message, Message[Status])
    return message.data.message


def narrow_unknown(message: Message[Any]) -> Status | None:
    return message.data if is_topic(message, chat.status) else None


# ---------------------------------------------------------------- publish


async def publish(rt: Realtime) -> None:
    assert_type(await rt.publish(chat.status, Status(message="a")), Receipt)
    assert_type(await rt.publish(chat.status(Status(message="a"))), Receipt)
    assert_type(await rt.publish(chat.usage({"input_tokens": 1})), Receipt)
    await rt.publish(Alerts.alert, Status(message="a"), key="k", headers={"a": "b"}, timeout=1.5)
    await rt.publish(chat.usage, Usage(input_tokens=1))
    await rt.publish(forms.either, Status(message="a"))
    await rt.publish(forms.primitive, 3)
    await rt.publish(forms.literal, "a")
    await rt.publish(forms.json({"a": [1, None]}))
    await rt.publish(forms.floats({"a": 1}))
    await rt.publish(forms.optional, None)
    await rt.publish(forms.struct, Struct(x=1))
    await rt.publish(dynamic.alert, Status(message="a"))
    await rt.publish(dynamic.alert, {"message": "a"})
    many = [chat.status(Status(message="a")), chat.status(Status(message="b"))]
    assert_type(many, list[Outgoing[Status]])
    assert_type(await rt.publish_many(many), Sequence[Receipt])
    await rt.publish_many([chat.status(Status(message="a")), chat.usage({"input_tokens": 2}), Alerts.alert(Status(message="y"))])
    await rt.publish_many(chat.tokens(Token(token=word)) for word in "a b c".split())


# ---------------------------------------------------------------- subscribe


async def subscribe(rt: Realtime) -> None:
    assert_type(rt.subscribe(chat.status), Subscription[Message[Status]])
    assert_type(rt.subscribe(chat.status, chat.tokens), Subscription[Message[Status | Token]])
    async with rt.subscribe(chat.status, chat.tokens) as messages:
        assert_type(messages, Subscription[Message[Status | Token]])
        async for message in messages:
            assert_type(message, Message[Status | Token])
            match message.data:
                case Status(message=text):
                    assert_type(text, str)
                case Token(token=text):
                    assert_type(text, str)
        assert_type(await anext(messages), Message[Status | Token])


async def subscribe_many(rt: Realtime) -> None:
    async with rt.subscribe(chat.status, chat.tokens, chat.usage) as three:
        async for message in three:
            assert_type(message.data, Status | Token | Usage)
    async with rt.subscribe(chat.status, chat.tokens, chat.usage, forms.point) as four:
        async for message4 in four:
            assert_type(message4.data, Status | Token | Usage | Point)
    async with rt.subscribe(chat.status, chat.tokens, chat.usage, forms.point, forms.number, forms.numbers, forms.struct, Alerts.alert) as eight:
        async for message8 in eight:
            assert_type(message8.data, Status | Token | Usage | Point | int | list[int] | Struct)
    of_one_type = [chat.status, chat.more_status, Alerts.alert]
    assert_type(rt.subscribe(chat.status, *of_one_type), Subscription[Message[Status]])
    async with rt.subscribe(
        chat.status, chat.tokens, chat.usage, forms.point, forms.number, forms.numbers, forms.struct, Alerts.alert, forms.own
    ) as nine:
        async for message9 in nine:
            assert_type(message9, Message[Any])


async def subscribe_channels(rt: Realtime) -> None:
    assert_type(rt.subscribe(chat), Subscription[Message[Any]])
    assert_type(rt.subscribe(Alerts), Subscription[Message[Any]])
    assert_type(rt.subscribe(dynamic), Subscription[Message[Any]])
    assert_type(rt.subscribe(factory("x")), Subscription[Message[Any]])
    assert_type(rt.subscribe("agent-chat:x", topics=["status"]), Subscription[Message[Any]])
    async with rt.subscribe(chat, topics=["status"], start=Start.last(10), on_gap="raise") as messages:
        async for message in messages:
            assert_type(message, Message[Any])
            if is_topic(message, chat.status):
                assert_type(message.data, Status)


async def views(rt: Realtime) -> None:
    async with rt.subscribe(chat.status).with_gaps() as items:
        async for item in items:
            assert_type(item, Message[Status] | Gap)
            match item:
                case Gap():
                    assert_type(item.reason, GapReason)
                case Message():
                    assert_type(item.data, Status)
    async with rt.subscribe(chat.status, chat.tokens).raw() as raws:
        async for raw in raws:
            assert_type(raw, RawMessage)
            assert_type(raw.parse(chat.status), Status)
    async with rt.subscribe(chat.status, chat.tokens) as messages:
        batches: AsyncIterator[Sequence[Message[Status | Token]]] = messages.batches(max_size=10, max_wait=0.1)
        async for batch in batches:
            assert_type(batch[0].data, Status | Token)
    async with rt.subscribe(chat.status).with_gaps() as with_gaps:
        async for batch_of_items in with_gaps.batches():
            assert_type(batch_of_items[0], Message[Status] | Gap)


def starts(cursor: Cursor) -> list[Start]:
    return [Start.LIVE, Start.EARLIEST, Start.last(3), Start.after(cursor), Start.after({"agent-chat:x": cursor})]


# ---------------------------------------------------------------- the rest


async def opened() -> None:
    async with Realtime.from_url("memory://") as rt:
        assert_type(rt, Realtime)
        assert_type(rt.capabilities, Capabilities)
        try:
            await rt.publish(chat.status, Status(message="x"))
        except errors.InvalidPayload as error:
            assert_type(error.errors, tuple[errors.FieldError, ...])
        except errors.MessagesLost as error:
            assert_type(error.gap, Gap)


# ---------------------------------------------------------------- runs


async def count(word: str, times: int = 1) -> int:
    return len(word) * times


async def of_a_run(rt: Realtime) -> None:
    async with runs.SQLiteStepStore("steps.db") as store:
        run = rt.run("r", steps=store)
        assert_type(run, Run)
        assert_type(await run.publish(chat.status, Status(message="x")), Receipt)
        assert_type(await run.publish(chat.status(Status(message="x")), key="k"), Receipt)
        assert_type(await run.step.publish("s", chat.status, Status(message="x")), Status)
        assert_type(await run.step.publish("s", chat.status(Status(message="x"))), Status)
        assert_type(await run.step.run("s", count, "x"), int)
        assert_type(await run.step.run("s", count, "x", 2), int)
    memory: runs.StepStore = runs.MemoryStepStore()
    rt.run("r", steps=memory)
