"""Topics whose schemas attrs and cattrs make. Checked by mypy and pyright, never run; lines marked E are refused."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import attrs
import cattrs
from typing_extensions import assert_type

from fanwire import Channel, Message, Realtime, Schema, Subscription, TopicRef, channel, topic
from fanwire_schemas.attrs import AttrsSchema, make_converter

T = TypeVar("T")


@attrs.frozen
class Status:
    message: str


@attrs.frozen
class Token:
    token: str


@attrs.frozen
class Page(Generic[T]):
    items: list[T]


converter = make_converter()
of_class: Schema[Status] = AttrsSchema(Status)
of_union: AttrsSchema[Status | Token] = AttrsSchema(Status | Token)
with_rules = AttrsSchema(Status, strict=False, forbid_extra_keys=True)
with_converter = AttrsSchema(Status, converter=converter)
with_any_converter = AttrsSchema(Status, converter=cattrs.Converter())

assert_type(AttrsSchema(Status), AttrsSchema[Status])
assert_type(AttrsSchema(Page[int]), AttrsSchema[Page[int]])
assert_type(AttrsSchema(list[Status]), AttrsSchema[list[Status]])
assert_type(of_class.validate({"message": "x"}), Status)
assert_type(of_class.load(b""), Status)
assert_type(of_union.load(b""), Status | Token)


class AgentChat(Channel, name="agent-chat:{thread_id}"):
    thread_id: str
    status = topic(AttrsSchema(Status))
    page = topic(AttrsSchema(Page[Status]))
    either = topic(of_union)


chat = AgentChat(thread_id="x")
dynamic = channel(name="system:alerts", topics={"status": AttrsSchema(Status)})
assert_type(chat.status, TopicRef[Status])
assert_type(chat.page, TopicRef[Page[Status]])
assert_type(chat.either, TopicRef[Status | Token])


async def use(rt: Realtime) -> None:
    await rt.publish(chat.status, Status("x"))
    await rt.publish(chat.page(Page([Status("x")])))
    await rt.publish(chat.either, Token("x"))
    assert_type(rt.subscribe(chat.status, chat.page), Subscription[Message[Status | Page[Status]]])
    assert_type(rt.subscribe(chat), Subscription[Message[Any]])
    await rt.publish(chat.status, Token("x"))  # E
    await rt.publish(chat.page, Page([Token("x")]))  # E
    chat.status(3)  # E


wrong: Schema[Token] = AttrsSchema(Status)  # E
of_class.dump(Token("x"))  # E
AttrsSchema()  # E
AttrsSchema(form=Status)  # E
AttrsSchema(Status, strict="yes")  # E
AttrsSchema(Status, converter=make_converter)  # E
AttrsSchema(Status, True)  # E
make_converter(True)  # E
