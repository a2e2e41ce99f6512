"""What checkers must refuse. A line marked E must be reported by both, ``E: pyright`` or ``E: mypy`` by that one alone; no other line by any."""

from __future__ import annotations

from uuid import UUID

from declarations import (
    AgentChat,
    Alerts,
    Forms,
    Job,
    Lifecycle,
    Own,
    Params,
    Required,
    Status,
    Token,
    Usage,
    UserId,
    chat,
    dynamic,
    factory,
    forms,
    schema,
)
from pydantic import BaseModel

from fanwire import Channel, Message, Outgoing, RawMessage, Realtime, Schema, Start, TopicRef, channel, is_topic, topic
from fanwire.runs import StepStore

# ---------------------------------------------------------------- params

AgentChat(thread="x")  # E
AgentChat()  # E
AgentChat("x")  # E
AgentChat(thread_id=3)  # E
AgentChat(thread_id="x", other="y")  # E
Params(number="1", id=UUID(int=1), user=UserId("u"))  # E
Params(number=1, id="x", user=UserId("u"))  # E
Params(number=1, id=UUID(int=1), user="u")  # E
Params(number=1, id=UUID(int=1), user=UserId("u"), choice="z")  # E
Params(number=1, id=UUID(int=1), user=UserId("u"), color="red")  # E
Required()  # E
Job(job_id="x")  # E
AgentChat.parse(3)  # E
chat.thread_id = "y"  # E
chat.name = "y"  # E
chat.tool_call = chat.tool_call  # E
chat.other = "y"  # E
AgentChat.name  # E
Lifecycle.name  # E
chat.nothing  # E


class BadName(Channel, name="room:{name}"):
    name: str  # E: pyright


class BadTopic(Channel, name="x"):
    parse = topic(Status)  # E


class BadTopicName(Channel, name="x"):
    name = topic(Status)  # E


class BadTemplate(Channel, name=3):  # E
    pass


class BadKeyword(Channel, nam="x"):  # E
    pass


# ---------------------------------------------------------------- topics, references, schemas

topic(Status, nam="x")  # E
topic(Status, validate="no")  # E
topic(Own(), validate=False)  # E
topic(3)  # E
chat.status(Token(token="x"))  # E
chat.usage({"input_tokens": "x"})  # E
chat.usage({"nope": 1})  # E
chat.status(Status(message="x"), key=3)  # E
chat.status(Status(message="x"), headers={"a": 1})  # E
TopicRef("x")  # E
TopicRef("x", "y", Status)  # E
chat.status.channel = "x"  # E
chat.status.other = "x"  # E
chat.status(Status(message="x")).data = Status(message="y")  # E
invariant: TopicRef[BaseModel] = chat.status  # E
invariant_outgoing: Outgoing[BaseModel] = chat.status(Status(message="x"))  # E
other_schema: Schema[Token] = schema  # E
static_is_no_topic = Alerts.alert.validated  # E
factory(3)  # E
factory()  # E
channel(name=3, topics={})  # E
channel(name="x")  # E
dynamic.name = "x"  # E
dynamic.alert = chat.status  # E

# ---------------------------------------------------------------- messages


def messages(message: Message[Status], wide: Message[BaseModel], raw: RawMessage) -> None:
    narrower: Message[Status] = wide  # E
    other: Message[Token] = message  # E
    message.data = Status(message="x")  # E
    message.data.token  # E
    wrong: Token = raw.parse(chat.status)  # E
    is_topic(message, AgentChat.status)  # E
    is_topic(message, chat)  # E
    if is_topic(wide, chat.status):
        wide.data.token  # E


# ---------------------------------------------------------------- publish


async def publish(rt: Realtime) -> None:
    await rt.publish(chat.status, Token(token="a"))  # E
    await rt.publish(chat.status, {"message": "a"})  # E
    await rt.publish(chat.status, Status)  # E
    await rt.publish(chat.status, None)  # E
    await rt.publish(chat.status)  # E
    await rt.publish(chat.status, Status(message="a"), Status(message="b"))  # E
    await rt.publish(chat.usage, {"input_tokens": "x"})  # E
    await rt.publish(chat.usage, {"nope": 1})  # E
    await rt.publish(forms.numbers, ["a"])  # E
    await rt.publish(forms.literal, "z")  # E
    await rt.publish(forms.primitive, 1.5)  # E
    await rt.publish(forms.own, "text")  # E
    await rt.publish(AgentChat.status, Status(message=""))  # E
    await rt.publish(chat, Status(message=""))  # E
    await rt.publish("agent-chat:x", Status(message=""))  # E
    await rt.publish(chat.status, Status(message=""), key=b"k")  # E
    await rt.publish(chat.status, Status(message=""), id="x")  # E
    await rt.publish_many([(chat.status, Status(message=""))])  # E
    await rt.publish_many(chat.status(Status(message="")))  # E
    await rt.publish_many([chat.status(Token(token=""))])  # E
    # What mypy cannot infer, and how to write it: chat.usage({...}) is accepted by both, see must_pass.
    await rt.publish(chat.usage, {"input_tokens": 1})  # E: mypy
    await rt.publish(forms.floats, {"a": 1})  # E: mypy


# ---------------------------------------------------------------- subscribe


async def subscribe(rt: Realtime) -> None:
    rt.subscribe()  # E
    rt.subscribe(AgentChat.status)  # E
    rt.subscribe(AgentChat)  # E
    rt.subscribe(Lifecycle)  # E
    rt.subscribe(factory)  # E
    rt.subscribe([chat.status])  # E
    rt.subscribe(chat.status, "tokens")  # E
    rt.subscribe(chat.status, topics=["status"])  # E
    rt.subscribe(chat.status, start="earliest")  # E
    rt.subscribe(chat.status, start=Start.last("3"))  # E
    rt.subscribe(chat.status, on_gap="yield")  # E
    async with rt.subscribe(chat.status, chat.tokens) as items:
        async for item in items:
            item.data.message  # E
            wrong: Message[Status] = item  # E
        for item in items:  # E
            pass
    async with rt.subscribe(chat.status).with_gaps() as with_gaps:
        async for either in with_gaps:
            either.data  # E
    async with rt.subscribe(chat.status).raw() as raws:
        async for raw in raws:
            raw.message  # E
    async with rt.subscribe(chat.status) as plain:
        async for batch in plain.batches(max_size="x"):  # E
            batch.data  # E


usage: Usage = Forms.point  # E


# ---------------------------------------------------------------- runs


async def of_a_run(rt: Realtime, store: StepStore) -> None:
    rt.run()  # E
    rt.run(7)  # E
    rt.run("r", steps="steps.db")  # E
    run = rt.run("r", steps=store)
    await run.publish(chat.status)  # E
    await run.publish(chat.status, Token(token="x"))  # E
    await run.publish(AgentChat.status, Status(message="x"))  # E
    await run.step.publish(chat.status, Status(message="x"))  # E
    await run.step.publish("s", chat.status, Token(token="x"))  # E
    await run.step.publish("s", chat.status, Status(message="x"), key="k")  # E
    wrong: Token = await run.step.publish("s", chat.status, Status(message="x"))  # E
    await run.step.run("s", takes_a_number, "x")  # E
    await run.step.run("s", takes_a_number)  # E
    text: str = await run.step.run("s", takes_a_number, 1)  # E
    await run.step.run("s", len, "x")  # E


async def takes_a_number(number: int) -> int:
    return number
