"""The main job: a document streamed token by token as an AI chat's reply, to three typed subscribers, and verified.

One agent publishes a status, the tokens of the document and two more statuses on an ``AgentChat``. Three subscribers receive at the same time: one the statuses, one the tokens, one
both. At the end every message is accounted for, and what each subscriber put together must have the document's SHA-256.
"""

from __future__ import annotations

import hashlib
import math
import time
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, Literal, Protocol, final

import anyio
from pydantic import BaseModel, ConfigDict

from ..channels import Channel
from ..messages import Gap, Message
from ..realtime import Realtime
from ..subscription import Subscription
from ..topics import Topic, topic
from .document import Document, split_tokens

__all__ = ("AgentChat", "Conversation", "DemoResult", "Reader", "Row", "Status", "Token", "View", "run_demo")

_THINKING_TOKENS = 200
"""The agent thinks for as long as so many tokens take to stream; at full speed not at all."""


class Status(BaseModel):
    """What the agent is doing."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    number: int
    """0, 1, 2 in the order of publishing."""

    message: str
    tokens: int | None = None
    """With the last status: how many tokens there were."""

    sha256: str | None = None
    """With the last status: of all tokens joined."""

    last: bool = False


class Token(BaseModel):
    """A piece of the reply."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    number: int
    """0, 1, 2, ... in the order of publishing."""

    text: str
    last: bool = False


class AgentChat(Channel, name="agent-chat:{thread_id}"):
    """The conversation of one thread."""

    thread_id: str
    status: ClassVar[Topic[Status]] = topic(Status)
    tokens: ClassVar[Topic[Token]] = topic(Token)


TopicName = Literal["status", "tokens"]
_STATUS: TopicName = "status"
_TOKENS: TopicName = "tokens"


@final
class Row(BaseModel):
    """What became of one subscriber's messages."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    subscriber: str
    published: int
    """Messages published on its topics."""

    delivered: int
    """Messages it received, repeats included."""

    lost: int
    """Published messages it never received."""

    announced: int | None
    """Messages that gaps told it may be missing on the channel, in any topic; ``None`` if a gap could not tell how many."""

    p50_ms: float | None
    """Median time from the call of publish to receipt, in milliseconds; ``None`` if nothing was received."""

    p99_ms: float | None
    sha256: str | None
    """Of the tokens it received, joined in the order of receipt; ``None`` if it takes no tokens."""

    problems: tuple[str, ...]
    """What is wrong, one sentence each; empty if it received exactly what was published."""


@final
class DemoResult(BaseModel):
    """The outcome of the job."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    verdict: Literal["passed", "failed"]
    """``passed`` if every subscriber received exactly what was published, else ``failed``."""

    document: str
    bytes: int
    tokens: int
    sha256: str
    """Of the document."""

    channel: str
    seconds: float
    """From the first publish to the last receipt, or until waiting for it was given up."""

    rows: tuple[Row, ...]


class View(Protocol):
    """Shows the job. Called on the event loop; what takes time belongs elsewhere."""

    def watch(self, conversation: Conversation, /) -> AbstractContextManager[object]:
        """Show the conversation as it goes on, until the context is left."""
        ...

    def note(self, reader: Reader, text: str, /) -> None:
        """A subscriber received something worth a line."""
        ...


@final
class Conversation:
    """Everything the publisher and the subscribers share, and a view may read at any time, from any thread.

    Args:
        document: What is streamed.
        view: Where subscribers report to.

    Attributes:
        document: What is streamed.
        pieces: The tokens.
        chat: The channel.
        statuses: The statuses published so far.
        sent: By topic and number, when publish was called: nanoseconds of the performance counter.
        readers: The subscribers.
    """

    def __init__(self, document: Document, view: View) -> None:
        self.document = document
        self.pieces: Sequence[str] = split_tokens(document.text)
        self.chat: AgentChat = AgentChat(thread_id=uuid.uuid4().hex[:8])
        self.statuses: list[Status] = []
        self.sent: dict[TopicName, list[int]] = {_STATUS: [], _TOKENS: []}
        self.readers: tuple[Reader, Reader, Reader] = (
            Reader(self, view, "status", (_STATUS,)),
            Reader(self, view, "tokens", (_TOKENS,)),
            Reader(self, view, "both", (_STATUS, _TOKENS)),
        )

    def expected(self, topic: TopicName) -> int:
        """Return how many messages the topic will have had at the end."""
        return len(self.pieces) if topic == _TOKENS else 3


@final
class Reader:
    """One subscriber: receives, puts together and keeps account.

    Args:
        conversation: What it listens to.
        view: Where it reports to.
        name: Its name in the table.
        topics: What it is subscribed to.

    Attributes:
        name: Its name in the table.
        topics: What it is subscribed to.
        expected: Messages it will have received at the end.
        delivered: Messages it has received.
        statuses: Statuses received.
        parts: Tokens received, in the order of receipt.
        gaps: Gaps told.
        finished: Set when the last message of every topic is there.
    """

    def __init__(self, conversation: Conversation, view: View, name: str, topics: tuple[TopicName, ...]) -> None:
        self.name = name
        self.topics = topics
        self.expected: int = sum(conversation.expected(topic) for topic in topics)
        self.delivered: int = 0
        self.statuses: list[Status] = []
        self.parts: list[str] = []
        self.gaps: list[Gap] = []
        self.finished: anyio.Event = anyio.Event()
        self._conversation = conversation
        self._view = view
        self._open = set(topics)
        self._seen = {topic: bytearray(conversation.expected(topic)) for topic in topics}
        self._newest = dict.fromkeys(topics, -1)
        self._repeats = 0
        self._late = 0
        self._foreign = 0
        self._invalid = 0
        self._latencies: list[int] = []
        step = max(1, len(conversation.pieces) // 4)
        self._milestones = frozenset(range(step - 1, len(conversation.pieces) - step, step)) if topics == (_TOKENS,) else frozenset[int]()

    async def read(self, messages: Subscription[Message[Status | Token] | Gap]) -> None:
        """Receive until cancelled."""
        try:
            async for item in messages:
                now = time.perf_counter_ns()
                if isinstance(item, Gap):
                    self.gaps.append(item)
                    self._view.note(self, str(item))
                    continue
                match item.data:
                    case Status() as status:
                        self._count(_STATUS, status.number, status.last, now)
                        self.statuses.append(status)
                        self._view.note(self, status.message if status.sha256 is None else f"{status.message}, SHA-256 {status.sha256}")
                    case Token() as token:
                        self._count(_TOKENS, token.number, token.last, now)
                        self.parts.append(token.text)
                        if token.number in self._milestones:
                            self._view.note(self, f"{token.number + 1:,} of {len(self._conversation.pieces):,} tokens")
                if not self._open:
                    self.finished.set()
        finally:
            self._invalid = messages.stats().invalid

    def _count(self, topic: TopicName, number: int, last: bool, now: int) -> None:
        sent, seen = self._conversation.sent[topic], self._seen[topic]
        self.delivered += 1
        if not 0 <= number < min(len(sent), len(seen)):
            self._foreign += 1
            return
        self._latencies.append(now - sent[number])
        if seen[number]:
            self._repeats += 1
        elif number < self._newest[topic]:
            self._late += 1
        seen[number] = 1
        self._newest[topic] = max(self._newest[topic], number)
        if last:
            self._open.discard(topic)

    def row(self) -> Row:
        """Settle the account."""
        conversation = self._conversation
        sent = {topic: len(conversation.sent[topic]) for topic in self.topics}
        missing: dict[TopicName, list[int]] = {topic: [n for n in range(sent[topic]) if not self._seen[topic][n]] for topic in self.topics}
        lost = sum(map(len, missing.values()))
        counts = [gap.lost for gap in self.gaps]
        announced = None if None in counts else sum(count or 0 for count in counts)
        sha256 = hashlib.sha256("".join(self.parts).encode()).hexdigest() if _TOKENS in self.topics else None
        return Row(
            subscriber=self.name,
            published=sum(sent.values()),
            delivered=self.delivered,
            lost=lost,
            announced=announced,
            p50_ms=_quantile_ms(self._latencies, 0.5),
            p99_ms=_quantile_ms(self._latencies, 0.99),
            sha256=sha256,
            problems=tuple(self._problems(missing, lost, announced, sha256)),
        )

    def _problems(self, missing: dict[TopicName, list[int]], lost: int, announced: int | None, sha256: str | None) -> list[str]:
        document = self._conversation.document
        found = [
            f"{_messages(len(numbers))} of topic {topic!r} lost, the first is number {numbers[0]:,}" for topic, numbers in missing.items() if numbers
        ]
        if announced is not None and announced < lost:
            found.append(f"of {_messages(lost)} lost, gaps announced {announced:,}")
        counted = {
            "received twice": self._repeats,
            "out of order": self._late,
            "not of this conversation": self._foreign,
            "skipped because they could not be parsed": self._invalid,
        }
        found += [f"{_messages(count)} {what}" for what, count in counted.items() if count]
        if sha256 is not None and sha256 != document.sha256:
            found.append(f"SHA-256 of the tokens received is {sha256}, of the document {document.sha256}")
        if _STATUS in self.topics and not found and self.statuses != self._conversation.statuses:
            found.append("the statuses received are not those published")
        return found


async def run_demo(document: Document, rt: Realtime, view: View, *, rate: float = 0.0, timeout: float = 10.0) -> DemoResult:
    """Stream a document to three subscribers, and account for every message.

    Args:
        document: What is streamed.
        rt: An entered Realtime.
        view: Shows what happens.
        rate: Tokens per second; 0 is as fast as possible.
        timeout: Seconds to wait for the subscribers after the last publish. Whatever is not there then counts as lost.

    Returns:
        The account; ``verdict`` says whether all is well.

    Raises:
        FanwireError: publishing or subscribing failed.
    """
    conversation = Conversation(document, view)
    chat, readers = conversation.chat, conversation.readers
    failure: Exception | None = None
    begin = end = 0.0
    async with (
        rt.subscribe(chat.status).with_gaps() as status,
        rt.subscribe(chat.tokens).with_gaps() as tokens,
        rt.subscribe(chat.status, chat.tokens).with_gaps() as both,
    ):
        with view.watch(conversation):
            try:
                async with anyio.create_task_group() as group:
                    for reader, messages in zip(readers, (status, tokens, both), strict=True):
                        group.start_soon(reader.read, messages)
                    begin = time.perf_counter()
                    await _publish(conversation, rt, rate)
                    with anyio.move_on_after(timeout):
                        for reader in readers:
                            await reader.finished.wait()
                    end = time.perf_counter()
                    group.cancel_scope.cancel()
            except ExceptionGroup as errors:
                failure = errors.exceptions[0]
    if failure is not None:
        raise failure  # not within the handler: its own cause and context stay what they are
    rows = tuple(reader.row() for reader in readers)
    return DemoResult(
        verdict="failed" if any(row.problems for row in rows) else "passed",
        document=document.name,
        bytes=document.size,
        tokens=len(conversation.pieces),
        sha256=document.sha256,
        channel=chat.name,
        seconds=round(end - begin, 6),
        rows=rows,
    )


async def _publish(conversation: Conversation, rt: Realtime, rate: float) -> None:
    chat, pieces = conversation.chat, conversation.pieces
    sent = conversation.sent[_TOKENS]

    async def say(status: Status) -> None:
        conversation.statuses.append(status)
        conversation.sent[_STATUS].append(time.perf_counter_ns())
        await rt.publish(chat.status, status)

    await say(Status(number=0, message="Thinking..."))
    if rate:
        await anyio.sleep(_THINKING_TOKENS / rate)
    await say(Status(number=1, message="Answering..."))
    begin = anyio.current_time()
    for number, text in enumerate(pieces):
        if rate and (ahead := begin + number / rate - anyio.current_time()) > 0:
            await anyio.sleep(ahead)
        sent.append(time.perf_counter_ns())
        await rt.publish(chat.tokens, Token(number=number, text=text, last=number == len(pieces) - 1))
    sha256 = conversation.document.sha256
    await say(Status(number=2, message=f"Done: {len(pieces):,} tokens", tokens=len(pieces), sha256=sha256, last=True))


def _messages(count: int) -> str:
    return f"{count:,} message{'' if count == 1 else 's'}"


def _quantile_ms(latencies: Sequence[int], q: float) -> float | None:
    """Return the smallest latency that a share ``q`` of them does not exceed, from nanoseconds to milliseconds."""
    if not latencies:
        return None
    return round(sorted(latencies)[math.ceil(q * len(latencies)) - 1] / 1e6, 3)
