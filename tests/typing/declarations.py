"""Declarations shared by must_pass.py and must_fail.py. Checked by mypy and pyright, never run."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NewType
from uuid import UUID

import msgspec
from pydantic import BaseModel, Field, JsonValue
from typing_extensions import TypedDict

from fanwire import Channel, Schema, StaticChannel, Topic, channel, static_schema, topic
from fanwire_schemas.msgspec import MsgspecSchema


class Status(BaseModel):
    message: str


class Token(BaseModel):
    token: str


class Usage(TypedDict):
    input_tokens: int


@dataclass
class Point:
    x: int


class Struct(msgspec.Struct):
    x: int


class Color(enum.Enum):
    RED = "red"


UserId = NewType("UserId", str)


class Own:
    """A Schema of somebody's own."""

    def validate(self, value: object, /) -> bytes:
        return b""

    def dump(self, value: bytes, /) -> bytes:
        return b""

    def load(self, data: bytes, /) -> bytes:
        return b""


class AgentChat(Channel, name="agent-chat:{thread_id}"):
    thread_id: str
    status = topic(Status)
    tokens = topic(Token)
    usage = topic(Usage, validate=False)
    tool_call = topic(Token, name="tool-call")
    more_status = topic(Status)


class Forms(Channel, name="forms"):
    point = topic(Point)
    numbers = topic(list[int])
    floats = topic(dict[str, float])
    number = topic(int)
    user = topic(UserId)
    either = topic(Status | Token)
    primitive = topic(int | str)
    literal = topic(Literal["a", "b"])
    positive = topic(Annotated[int, Field(gt=0)])
    json = topic(JsonValue)
    optional = topic(int | None)
    struct = topic(MsgspecSchema(Struct))
    own = topic(Own())
    static = topic(static_schema(Status))
    static_union = topic(static_schema(int | str))
    annotated: ClassVar[Topic[int | str]] = topic(int | str)
    type_only_struct = topic(Struct, validate=False)


class Params(Channel, name="p:{number}:{id}:{color}:{choice}:{word}:{user}"):
    number: int
    id: UUID
    user: UserId
    color: Color = Color.RED
    choice: Literal["x", "y"] = "x"
    word: str = Field(default="q", pattern="^[a-z]+$")


class Required(Channel, name="r:{word}"):
    word: str = Field(pattern="^[a-z]+$")


class Lifecycle(Channel):
    started = topic(Status)


class Job(Lifecycle, name="job:{job_id}"):
    job_id: int
    output = topic(Token)


class Alerts(Lifecycle, StaticChannel, name="system:alerts"):
    alert = topic(Status)


def by_thread(thread_id: str) -> str:
    return f"agent-chat:{thread_id}"


chat = AgentChat(thread_id="thread_abc")
forms = Forms()
factory = channel(name=by_thread, topics={"status": Status, "usage": static_schema(Usage), "own": Own()})
dynamic = channel(name="system:alerts", topics={"alert": Status, "number": int | str})
schema: Schema[Status] = static_schema(Status)
anything: Any = None
