"""What the demo's worker says on its channel. Used by both processes: nothing here needs typer or rich."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict

from ..channels import Channel
from ..topics import Topic, topic
from .document import Document

__all__ = ("ATTEMPTS", "STATUS", "TOKENS", "AgentChat", "Status", "Token", "TopicName", "half_of", "read_stamp", "script_of", "stamp", "step_of")

ATTEMPTS: Final = 2
"""The first one is killed half way, the second one is to finish."""


class Status(BaseModel):
    """What the agent is doing. Published durably: subscribers see it once, however often the work is retried."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    number: int
    """0, 1, 2, 3 in the order of publishing."""

    message: str
    tokens: int | None = None
    """With the last status: how many tokens there were."""

    sha256: str | None = None
    """With the last status: of all tokens joined."""

    last: bool = False


class Token(BaseModel):
    """A piece of the reply. Not durable: an attempt that is retried publishes it again."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    number: int
    """0, 1, 2, ... in the order of the document."""

    text: str
    last: bool = False


class AgentChat(Channel, name="agent-chat:{thread_id}"):
    """The conversation of one thread."""

    thread_id: str
    status: ClassVar[Topic[Status]] = topic(Status)
    tokens: ClassVar[Topic[Token]] = topic(Token)


TopicName = Literal["status", "tokens"]
STATUS: Final[TopicName] = "status"
TOKENS: Final[TopicName] = "tokens"


def script_of(document: Document, tokens: int) -> Sequence[Status]:
    """Return the statuses of a conversation about a document that is cut into so many tokens."""
    return (
        Status(number=0, message="Thinking..."),
        Status(number=1, message="Answering..."),
        Status(number=2, message=f"Half way: {half_of(tokens):,} tokens"),
        Status(number=3, message=f"Done: {tokens:,} tokens", tokens=tokens, sha256=document.sha256, last=True),
    )


def step_of(number: int) -> str:
    """Return the id of the step that publishes the status of a number."""
    return f"status-{number}"


def half_of(tokens: int) -> int:
    """Return after how many tokens the worker says that it is half way, and is killed the first time: at least one."""
    return (tokens + 1) // 2


def stamp(attempt: int) -> Mapping[str, str]:
    """Return the headers of a message that is about to be published.

    They are no part of the payload, for what a step records must be the same at every attempt. The time is that of the performance counter, in nanoseconds: Python promises
    that it is system-wide (``time.perf_counter``), so processes of one machine can compare it, and nobody sets it back, unlike the wall clock.
    """
    return {"attempt": str(attempt), "sent": str(time.perf_counter_ns())}


def read_stamp(headers: Mapping[str, str] | None) -> tuple[int, int] | None:
    """Return the attempt and the time from a message's headers; ``None`` if they are not ours."""
    match headers:
        case {"attempt": str(attempt), "sent": str(sent)} if attempt.isdecimal() and sent.isdecimal():
            return int(attempt), int(sent)
        case _:
            return None
