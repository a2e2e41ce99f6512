"""The main job: a document streamed token by token as an AI chat's reply, to three typed subscribers, by a worker that is killed half way and retried; and verified.

A worker process publishes the tokens of the document and four statuses on an ``AgentChat``. The statuses are durable, the tokens are not. The first attempt is killed right
after a status was published and before that was recorded; the second one, a new process, repeats the tokens and no status. Three subscribers receive at the same time: one
the statuses, one the tokens, one both. At the end every message is accounted for, and what each subscriber put together must have the document's SHA-256.
"""

from __future__ import annotations

import math
import time
from tempfile import TemporaryDirectory
from typing import ClassVar, Literal, final

import anyio
from pydantic import BaseModel, ConfigDict

from ..realtime import Realtime
from .demo_account import Attempt, Conversation, Reader, Row, View, WorkerFailed
from .demo_channel import ATTEMPTS, AgentChat, Status, Token
from .demo_process import Worker, WorkerProcess, ending_of
from .demo_worker import KILLED, Announcement, Job
from .document import Document

__all__ = (
    "AgentChat",
    "AttemptRow",
    "Conversation",
    "DemoResult",
    "Reader",
    "Row",
    "Status",
    "Token",
    "View",
    "Worker",
    "WorkerFailed",
    "WorkerProcess",
    "run_demo",
)


@final
class AttemptRow(BaseModel):
    """What one attempt of the worker did."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    attempt: int
    tokens: int
    """Tokens it published."""

    statuses: int
    """Statuses it published."""

    replayed: int
    """Steps that were on record, so that they were not done again."""

    returncode: int
    """Of its process: 0, or on POSIX the negative number of the signal that killed it."""


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
    """From the start of the first attempt to the last receipt, or until waiting for it was given up."""

    attempts: tuple[AttemptRow, ...]
    suppressed: int
    """Statuses that were published by both attempts, under the same key, because the first one was killed before it could record them."""

    rows: tuple[Row, ...]


async def run_demo(document: Document, rt: Realtime, view: View, worker: Worker, *, rate: float = 0.0, timeout: float = 10.0) -> DemoResult:
    """Have a document streamed to three subscribers, and account for every message.

    Args:
        document: What is streamed.
        rt: An entered Realtime.
        view: Shows what happens.
        worker: Publishes.
        rate: Tokens per second; 0 is as fast as possible.
        timeout: Seconds for the worker to start and for the broker to answer it; and to wait for the subscribers after the last publish. Whatever is not there then counts
            as lost.

    Returns:
        The account; ``verdict`` says whether all is well.

    Raises:
        WorkerFailed: the worker cannot be started, or did not end as intended.
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
                    await _make_attempts(conversation, rt, worker, rate, timeout)
                    with anyio.move_on_after(timeout):
                        for reader in readers:
                            await reader.finished.wait()
                    end = time.perf_counter()
                    group.cancel_scope.cancel()
            except ExceptionGroup as errors:
                failure = _first(errors)
    if failure is not None:
        raise failure  # not within the handler: its own cause and context stay what they are
    return _result(conversation, end - begin)


async def _make_attempts(conversation: Conversation, rt: Realtime, worker: Worker, rate: float, timeout: float) -> None:
    with TemporaryDirectory(prefix="fanwire-demo-") as directory:
        for number in range(1, ATTEMPTS + 1):
            attempt = Attempt(number)
            conversation.attempts.append(attempt)
            job = Job(
                attempt=number,
                run_id=conversation.run_id,
                steps=f"{directory}/steps.db",
                thread_id=conversation.chat.thread_id,
                document=conversation.document.name,
                text=conversation.document.text,
                rate=rate if math.isfinite(rate) else 0.0,
                timeout=timeout,
                fatal=number < ATTEMPTS,
            )

            def hear(announcement: Announcement, attempt: Attempt = attempt) -> None:
                attempt.hear(announcement)
                if announcement.kind == "started":
                    conversation.tell(f"attempt {attempt.number} runs in process {announcement.pid}")

            attempt.returncode = await worker.attempt(job, rt, hear)
            _settle(conversation, attempt)


def _settle(conversation: Conversation, attempt: Attempt) -> None:
    """Say how an attempt ended.

    Raises:
        WorkerFailed: not as it should.
    """
    name, code = f"attempt {attempt.number}", attempt.returncode or 0
    last = attempt.number == ATTEMPTS
    tokens = f"after {attempt.tokens:,} token{'' if attempt.tokens == 1 else 's'}"
    if not last and code == KILLED and attempt.dying and attempt.tokens == conversation.half():
        conversation.tell(f"{name} was killed {tokens}, retrying")
    elif last and code == 0:
        again = _suppressed(conversation)
        conversation.tell(
            f"{name} finished: {len(attempt.replayed)} recorded steps skipped, {again} status{'' if again == 1 else 'es'} repeated under its key"
        )
    elif last:
        raise WorkerFailed(f"{name} of the worker {ending_of(code)} {tokens}, as if the first one had not been enough; there is no other")
    else:
        raise WorkerFailed(f"{name} of the worker {ending_of(code)} {tokens}; it was to be killed half way, after {conversation.half():,}")


def _suppressed(conversation: Conversation) -> int:
    return sum(attempt.published for attempt in conversation.attempts) - len(conversation.statuses())


def _result(conversation: Conversation, seconds: float) -> DemoResult:
    rows = tuple(reader.row() for reader in conversation.readers)
    document = conversation.document
    return DemoResult(
        verdict="failed" if any(row.problems for row in rows) else "passed",
        document=document.name,
        bytes=document.size,
        tokens=len(conversation.pieces),
        sha256=document.sha256,
        channel=conversation.chat.name,
        seconds=round(seconds, 6),
        attempts=tuple(
            AttemptRow(
                attempt=attempt.number,
                tokens=attempt.tokens,
                statuses=attempt.published,
                replayed=len(attempt.replayed),
                returncode=attempt.returncode or 0,
            )
            for attempt in conversation.attempts
        ),
        suppressed=_suppressed(conversation),
        rows=rows,
    )


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    """Return the first error of a group, and of the groups in it."""
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first  # pyright: ignore[reportUnknownArgumentType]  # an isinstance cannot tell the parameter
