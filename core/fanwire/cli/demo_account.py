"""The demo's account: what the worker announced, what each subscriber received, and whether the two agree."""

from __future__ import annotations

import hashlib
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, Final, Protocol, final

import anyio
from pydantic import BaseModel, ConfigDict

from ..errors import FanwireError
from ..messages import Gap, Message
from ..subscription import Subscription
from .demo_channel import ATTEMPTS, STATUS, TOKENS, AgentChat, Status, Token, TopicName, half_of, read_stamp, step_of
from .demo_worker import Announcement
from .document import Document, split_tokens

__all__ = ("WORKER", "Attempt", "Conversation", "Reader", "Row", "View", "WorkerFailed")

WORKER: Final = "worker"
"""Who notes about the worker are from."""


class WorkerFailed(FanwireError):
    """The demo's worker process could not be started, or ended otherwise than it should."""

    code = "worker_failed"


@final
class Row(BaseModel):
    """What became of one subscriber's messages."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    subscriber: str
    published: int
    """Messages published on its topics, as the worker announced them: tokens as often as they were published, a durable message once."""

    delivered: int
    """Messages it received, repeats included."""

    lost: int
    """Published messages it never received."""

    announced: int | None
    """Messages that gaps told it may be missing on the channel, in any topic; ``None`` if a gap could not tell how many."""

    repeats: int | None
    """Of the non-durable part, the tokens: how many it received beyond the first of each number. ``None`` if it takes none."""

    durable_repeats: int | None
    """The same of the durable part, the statuses: 0, unless something is wrong. ``None`` if it takes none."""

    p50_ms: float | None
    """Median time from the call of publish in the worker to receipt here, in milliseconds, by the system-wide performance counter; ``None`` if nothing was received."""

    p99_ms: float | None
    sha256: str | None
    """Of the tokens it received, each number once, joined in their order; ``None`` if it takes no tokens."""

    problems: tuple[str, ...]
    """What is wrong, one sentence each; empty if it received exactly what was published."""


class View(Protocol):
    """Shows the job. Called on the event loop; what takes time belongs elsewhere."""

    def watch(self, conversation: Conversation, /) -> AbstractContextManager[object]:
        """Show the conversation as it goes on, until the context is left."""
        ...

    def note(self, who: str, text: str, /) -> None:
        """Show a line about something notable that happened to a subscriber or to the worker."""
        ...


@final
class Attempt:
    """What the worker announced in one attempt.

    Attributes:
        number: 1, 2, ...
        tokens: Tokens published; numbered from 0.
        statuses: By number, the statuses it came to, whether they were published or on record.
        replayed: Steps that an earlier attempt had recorded, so that they were not done.
        recorded: Steps that were done and recorded.
        dying: Whether it was about to be killed as intended.
        returncode: Of its process, once that has ended.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.tokens: int = 0
        self.statuses: dict[int, Status] = {}
        self.replayed: list[str] = []
        self.recorded: list[str] = []
        self.dying: bool = False
        self.returncode: int | None = None

    @property
    def published(self) -> int:
        """Statuses it published: those it came to, but for what was on record."""
        return sum(step_of(number) not in self.replayed for number in self.statuses)

    def hear(self, announcement: Announcement) -> None:
        """Take down an announcement.

        Raises:
            WorkerFailed: the worker does not keep to the order of the tokens.
        """
        match announcement:
            case Announcement(kind="tokens", first=first, count=count):
                if first != self.tokens:
                    raise WorkerFailed(f"attempt {self.number} of the worker announced token {first:,} where {self.tokens:,} is next")
                self.tokens += count
            case Announcement(kind="status", status=Status() as status):
                self.statuses[status.number] = status
            case Announcement(kind="replayed", text=step):
                self.replayed.append(step)
            case Announcement(kind="recorded", text=step):
                self.recorded.append(step)
            case Announcement(kind="dying"):
                self.dying = True
            case _:
                pass


@final
class Conversation:
    """Everything the worker's account and the subscribers share, and a view may read at any time, from any thread.

    Args:
        document: What is streamed.
        view: Where subscribers report to.

    Attributes:
        document: What is streamed.
        pieces: The tokens.
        chat: The channel.
        run_id: Names the work, in all attempts.
        attempts: What the worker announced in each attempt so far.
        news: What happened to the worker.
        readers: The subscribers.
    """

    def __init__(self, document: Document, view: View) -> None:
        self.document = document
        self.pieces: Sequence[str] = split_tokens(document.text)
        self.chat: AgentChat = AgentChat(thread_id=uuid.uuid4().hex[:8])
        self.run_id: str = f"demo-{self.chat.thread_id}"
        self.attempts: list[Attempt] = []
        self.news: list[str] = []
        self.readers: tuple[Reader, Reader, Reader] = (
            Reader(self, view, "status", (STATUS,)),
            Reader(self, view, "tokens", (TOKENS,)),
            Reader(self, view, "both", (STATUS, TOKENS)),
        )
        self._view = view

    def expected(self, topic: TopicName) -> int:
        """Return how many different messages the topic will have had at the end."""
        return len(self.pieces) if topic == TOKENS else 4

    def half(self) -> int:
        """Return how many tokens the first attempt streams."""
        return half_of(len(self.pieces))

    def tell(self, text: str) -> None:
        """Note something about the worker."""
        self.news.append(text)
        self._view.note(WORKER, text)

    def statuses(self) -> list[Status]:
        """Return the statuses published so far, each once, in order."""
        found = {number: status for attempt in self.attempts for number, status in attempt.statuses.items()}
        return [found[number] for number in sorted(found)]


@final
class Reader:
    """One subscriber: receives, puts together and keeps account, on its own.

    Args:
        conversation: What it listens to.
        view: Where it reports to.
        name: Its name in the table.
        topics: What it is subscribed to.

    Attributes:
        name: Its name in the table.
        topics: What it is subscribed to.
        expected: Different messages it will have received at the end.
        delivered: Messages it has received.
        repeats: Of those, how many were tokens it had before.
        statuses: Statuses received.
        parts: Tokens received from the newest attempt, in the order of receipt.
        since: When the first of them came, in seconds of the performance counter.
        gaps: Gaps told.
        finished: Set when the last message of every topic is there.
    """

    def __init__(self, conversation: Conversation, view: View, name: str, topics: tuple[TopicName, ...]) -> None:
        self.name = name
        self.topics = topics
        self.expected: int = sum(conversation.expected(topic) for topic in topics)
        self.delivered: int = 0
        self.repeats: int = 0
        self.statuses: list[Status] = []
        self.parts: list[str] = []
        self.since: float = 0.0
        self.gaps: list[Gap] = []
        self.finished: anyio.Event = anyio.Event()
        self._conversation = conversation
        self._view = view
        self._open = set(topics)
        self._texts: list[str | None] = [None] * (len(conversation.pieces) if TOKENS in topics else 0)
        """Tokens by their numbers, as received first."""
        self._seen = {number: bytearray(len(self._texts)) for number in range(1, ATTEMPTS + 1)}
        """By attempt: which tokens were received."""
        self._attempt = 0
        self._newest = {STATUS: -1, TOKENS: -1}
        self._twice = 0
        self._changed = 0
        self._durable_repeats = 0
        self._late = 0
        self._foreign = 0
        self._invalid = 0
        self._latencies: list[int] = []
        step = max(1, len(conversation.pieces) // 4)
        self._milestones = frozenset(range(step - 1, len(conversation.pieces) - step, step)) if topics == (TOKENS,) else frozenset[int]()

    @property
    def progress(self) -> int:
        """Messages received, as far as they bring the newest attempt on: a retry begins with what is durable, and without what is not."""
        return len(self.statuses) - self._durable_repeats + len(self.parts)

    async def read(self, messages: Subscription[Message[Status | Token] | Gap]) -> None:
        """Receive until cancelled."""
        try:
            async for item in messages:
                now = time.perf_counter_ns()
                if isinstance(item, Gap):
                    self.gaps.append(item)
                    self._view.note(self.name, str(item))
                    continue
                self.delivered += 1
                known = read_stamp(item.headers)
                if known is None or not 1 <= known[0] <= ATTEMPTS or item.run_id != self._conversation.run_id:
                    self._foreign += 1
                    continue
                self._latencies.append(now - known[1])
                match item.data:
                    case Status() as status:
                        self._take_status(status)
                    case Token() as token:
                        self._take_token(known[0], token)
                if not self._open:
                    self.finished.set()
        finally:
            self._invalid = messages.stats().invalid

    def _take_status(self, status: Status) -> None:
        if any(status.number == other.number for other in self.statuses):
            self._durable_repeats += 1
        else:
            self._note_order(STATUS, status.number)
        self.statuses.append(status)
        if status.last:
            self._open.discard(STATUS)
        self._view.note(self.name, status.message if status.sha256 is None else f"{status.message}, SHA-256 {status.sha256}")

    def _take_token(self, attempt: int, token: Token) -> None:
        number, seen = token.number, self._seen[attempt]
        if not 0 <= number < len(seen):
            self._foreign += 1
            return
        if attempt > self._attempt:  # the reply begins anew
            self._attempt, self._newest[TOKENS], self.parts, self.since = attempt, -1, [], time.perf_counter()
        text = self._texts[number]
        if text is None:
            self._texts[number] = token.text
        else:
            self.repeats += 1
            self._changed += text != token.text
        if seen[number]:
            self._twice += 1
        else:
            self._note_order(TOKENS, number)
            self.parts.append(token.text)
        seen[number] = 1
        if token.last and attempt == ATTEMPTS:
            self._open.discard(TOKENS)
        if number in self._milestones:
            self._view.note(self.name, f"{number + 1:,} of {len(seen):,} tokens{'' if attempt == 1 else f', attempt {attempt}'}")

    def _note_order(self, topic: TopicName, number: int) -> None:
        self._late += number < self._newest[topic]
        self._newest[topic] = max(self._newest[topic], number)

    # ------------------------------------------------------------------ in the end

    def row(self) -> Row:
        """Settle the account."""
        attempts, published = self._conversation.attempts, 0
        missing: dict[str, list[int]] = {}
        if STATUS in self.topics:
            numbers = [status.number for status in self._conversation.statuses()]
            published += len(numbers)
            missing[""] = sorted({*numbers} - {status.number for status in self.statuses})
        for attempt in attempts if TOKENS in self.topics else ():
            published += attempt.tokens
            missing[f" of attempt {attempt.number}"] = [n for n in range(attempt.tokens) if not self._seen[attempt.number][n]]
        counts = [gap.lost for gap in self.gaps]
        announced = None if None in counts else sum(count or 0 for count in counts)
        sha256 = hashlib.sha256("".join(text or "" for text in self._texts).encode()).hexdigest() if TOKENS in self.topics else None
        return Row(
            subscriber=self.name,
            published=published,
            delivered=self.delivered,
            lost=sum(map(len, missing.values())),
            announced=announced,
            repeats=self.repeats if TOKENS in self.topics else None,
            durable_repeats=self._durable_repeats if STATUS in self.topics else None,
            p50_ms=_quantile_ms(self._latencies, 0.5),
            p99_ms=_quantile_ms(self._latencies, 0.99),
            sha256=sha256,
            problems=tuple(self._problems(missing, announced, sha256)),
        )

    def _problems(self, missing: Mapping[str, Sequence[int]], announced: int | None, sha256: str | None) -> list[str]:
        # That there are as many repeats of tokens as were published again needs no look of its own: it follows where nothing is lost, twice or unannounced.
        document, attempts = self._conversation.document, self._conversation.attempts
        found = [
            f"{_messages(len(numbers))} of topic {TOKENS if where else STATUS!r} lost, the first is number {numbers[0]:,}{where}"
            for where, numbers in missing.items()
            if numbers
        ]
        lost = sum(map(len, missing.values()))
        if announced is not None and announced < lost:
            found.append(f"of {_messages(lost)} lost, gaps announced {announced:,}")
        beyond = sum(sum(self._seen[attempt.number][attempt.tokens :]) for attempt in attempts) if TOKENS in self.topics else 0
        counted = {
            "of the durable part received again": self._durable_repeats,
            "received twice from one attempt": self._twice,
            "received again with another text": self._changed,
            "out of order": self._late,
            "not of this conversation": self._foreign + beyond,
            "skipped because they could not be parsed": self._invalid,
        }
        found += [f"{_messages(count)} {what}" for what, count in counted.items() if count]
        if sha256 is not None and sha256 != document.sha256:
            found.append(f"SHA-256 of the tokens received is {sha256}, of the document {document.sha256}")
        if STATUS in self.topics and not found and self.statuses != self._conversation.statuses():
            found.append("the statuses received are not those published")
        return found


def _messages(count: int) -> str:
    return f"{count:,} message{'' if count == 1 else 's'}"


def _quantile_ms(latencies: Sequence[int], q: float) -> float | None:
    """Return the smallest latency that a share ``q`` of them does not exceed, from nanoseconds to milliseconds."""
    if not latencies:
        return None
    return round(sorted(latencies)[math.ceil(q * len(latencies)) - 1] / 1e6, 3)
