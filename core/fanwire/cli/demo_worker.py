"""The demo's worker: the process that publishes, and is killed half way the first time.

``python -m fanwire.cli.demo_worker`` reads a :class:`Job` from standard input and writes :class:`Announcement` lines to standard output. The job may hold a broker's password,
which would be there for all to see among a process's arguments.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import BinaryIO, ClassVar, Final, Literal, NoReturn, final

import anyio
from pydantic import BaseModel, ConfigDict, Field

from ..capabilities import Capabilities
from ..errors import FanwireError, PartialPublish
from ..realtime import Realtime
from ..runs import Run, SQLiteStepStore, StepRecord, StepStore
from ..topics import Outgoing
from .demo_channel import TOKENS, AgentChat, Status, Token, half_of, script_of, stamp, step_of
from .document import make_document, split_tokens
from .relay import RelayTransport, split_lines

__all__ = ("KILL", "KILLED", "Announcement", "Job", "Pipe", "Say", "die", "main", "work")

KILL: Final[signal.Signals] = getattr(signal, "SIGKILL", signal.SIGTERM)
"""Ends a process at once, without any handler or ``finally`` having its say: on Windows, where there is no SIGKILL, any signal but two does."""

KILLED: Final = KILL if os.name == "nt" else -KILL
"""The return code of a process that was ended so."""

_HALF_WAY: Final = 2
"""Number of the status after which the first attempt dies."""
_BATCH: Final = 64
"""Tokens published in one round trip at most, where more than one is due."""
_THINKING_TOKENS: Final = 200
"""The agent thinks for as long as so many tokens take to stream; at full speed not at all."""
_FAILED: Final = 1
_ORPHANED: Final = 3


@final
class Job(BaseModel):
    """One attempt of the work."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    attempt: int
    """1, 2, ..."""

    run_id: str
    """The same at every attempt."""

    steps: str
    """Path of the database in which the steps are recorded; the same at every attempt."""

    thread_id: str
    """Of the channel to publish on."""

    document: str
    """The document's name."""

    text: str = Field(repr=False)
    """What to stream."""

    rate: float
    """Tokens per second; 0 is as fast as possible."""

    timeout: float
    """Seconds to wait for the broker."""

    fatal: bool
    """Whether to die half way."""

    url: str | None = Field(default=None, repr=False)
    """The broker; ``None`` publishes through the parent process."""

    terms: Capabilities | None = None
    """Without a URL: what the parent's transport promises; see :func:`fanwire.cli.relay.terms_of`."""


@final
class Announcement(BaseModel):
    """What the worker is about to do, or has done: one line on its standard output."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    kind: Literal["started", "tokens", "status", "replayed", "recorded", "dying", "done", "failed"]
    """``tokens`` and ``status`` come before the publish they announce, ``dying`` before the end, ``replayed`` and ``recorded`` after the fact."""

    first: int = 0
    """With ``tokens``: number of the first one."""

    count: int = 0
    """With ``tokens``: how many."""

    status: Status | None = None
    """With ``status``: what is published."""

    text: str = ""
    """With ``replayed`` and ``recorded``: the step. With ``failed``: what the error says."""

    code: str = ""
    """With ``failed``: the error's code."""

    pid: int = 0
    """With ``started``: of the process."""


Say = Callable[[Announcement], None]


# ---------------------------------------------------------------- the work


async def work(job: Job, rt: Realtime, steps: StepStore, say: Say, die: Callable[[], NoReturn]) -> None:
    """Make one attempt: statuses are published durably, tokens are not.

    Args:
        job: What to do.
        rt: Where to publish; entered.
        steps: Where steps are recorded.
        say: Told of each publish before it is made.
        die: Ends the process, if the job is fatal: after the status ``Half way`` was published and before that is recorded. No moment is worse: the broker has the message,
            and the next attempt does not know.

    Raises:
        FanwireError: the broker or the store failed.
    """
    document = make_document(job.document, job.text.encode())
    pieces = split_tokens(document.text)
    half = half_of(len(pieces))
    script = script_of(document, len(pieces))
    chat = AgentChat(thread_id=job.thread_id)
    run = rt.run(job.run_id, steps=_WatchedStore(steps, say, step_of(_HALF_WAY) if job.fatal else None, die))

    async def tell(number: int) -> None:
        say(Announcement(kind="status", status=script[number]))
        await run.step.publish(step_of(number), chat.status, script[number], headers=stamp(job.attempt))

    async def think() -> None:
        if job.rate:
            await anyio.sleep(_THINKING_TOKENS / job.rate)

    async def stream(numbers: range) -> None:
        begin, first = anyio.current_time(), numbers.start
        while first < numbers.stop:
            due = _BATCH
            if job.rate:
                await anyio.sleep_until(begin + (first - numbers.start) / job.rate)
                due = int((anyio.current_time() - begin) * job.rate) + 1 - (first - numbers.start)
            batch = range(first, min(first + max(1, min(due, _BATCH)), numbers.stop))
            say(Announcement(kind=TOKENS, first=batch.start, count=len(batch)))
            tokens = [Token(number=n, text=pieces[n], last=n == len(pieces) - 1) for n in batch]
            await _publish(run, [chat.tokens(token, headers=stamp(job.attempt)) for token in tokens])
            first = batch.stop

    await tell(0)
    await run.step.run("think", think)
    await tell(1)
    await stream(range(half))
    await tell(_HALF_WAY)
    await stream(range(half, len(pieces)))
    await tell(3)


async def _publish(run: Run, tokens: list[Outgoing[Token]]) -> None:
    if len(tokens) == 1:
        await run.publish(tokens[0])
        return
    try:
        await run.publish_many(tokens)
    except PartialPublish as partial:
        raise next(result for result in partial.results if isinstance(result, FanwireError)) from partial


@final
class _WatchedStore:
    """A step store that says what it is asked, and ends the process when it is to record one step: the message has gone out, and nobody will know."""

    def __init__(self, steps: StepStore, say: Say, fatal: str | None, die: Callable[[], NoReturn]) -> None:
        self._steps = steps
        self._say = say
        self._fatal = fatal
        self._die = die

    async def load(self, run_id: str, step_id: str, /) -> StepRecord | None:
        """See :class:`fanwire.runs.StepStore`."""
        record = await self._steps.load(run_id, step_id)
        if record is not None:
            self._say(Announcement(kind="replayed", text=step_id))
        return record

    async def record(self, run_id: str, step_id: str, record: StepRecord, /) -> StepRecord:
        """See :class:`fanwire.runs.StepStore`."""
        if step_id == self._fatal:
            self._say(Announcement(kind="dying"))
            self._die()
        result = await self._steps.record(run_id, step_id, record)
        self._say(Announcement(kind="recorded", text=step_id))
        return result

    async def forget(self, run_id: str, /) -> None:
        """See :class:`fanwire.runs.StepStore`."""
        await self._steps.forget(run_id)


# ---------------------------------------------------------------- the process


@final
class Pipe:
    """The worker's ends of the pipes to its parent.

    A thread reads: when the parent has gone, so must the worker, whatever it is doing.

    Args:
        reading: File descriptor that the parent writes to.
        writing: Takes lines to the parent.
        orphaned: Called when the parent has closed its end.
    """

    def __init__(self, reading: int, writing: BinaryIO, orphaned: Callable[[], object]) -> None:
        self._reading = reading
        self._writing = writing
        self._orphaned = orphaned
        self._lock = threading.Lock()
        self._received: SimpleQueue[bytes] = SimpleQueue()
        threading.Thread(target=self._read, name="fanwire demo pipe", daemon=True).start()

    def _read(self) -> None:
        splitter = split_lines()
        next(splitter)
        # By the descriptor: an interpreter that exits must not find the lock of a buffered reader taken.
        while chunk := os.read(self._reading, 65536):
            for line in splitter.send(chunk):
                self._received.put(line)
        self._orphaned()

    def receive(self) -> bytes:
        """Wait for a line from the parent."""
        return self._received.get()

    def say(self, announcement: Announcement) -> None:
        """Write an announcement; it is on its way when this returns."""
        self._write(announcement.model_dump_json(exclude_defaults=True).encode() + b"\n")

    def exchange(self, request: bytes) -> bytes:
        """Write a line and wait for the answer."""
        self._write(request)
        return self.receive()

    def _write(self, line: bytes) -> None:
        with self._lock:
            self._writing.write(line)
            self._writing.flush()


def die() -> NoReturn:
    """End this process as if the machine had lost its power: no ``finally``, no ``atexit``, no flush."""
    os.kill(os.getpid(), KILL)
    while True:
        time.sleep(1)  # not reached where the signal is delivered at once, as systems promise


def main() -> None:
    """Do the job that comes through standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides, and ends this one
    logging.getLogger("fanwire").addHandler(logging.NullHandler())  # what matters is told in the end; standard error is for defects
    writing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a stray print must not be taken for an announcement
    pipe = Pipe(os.dup(0), writing, lambda: os._exit(_ORPHANED))
    if not attempt(pipe):
        sys.exit(_FAILED)


def attempt(pipe: Pipe) -> bool:
    """Do the job that comes through a pipe; return whether that succeeded. Errors that are no defects are announced."""
    job = Job.model_validate_json(pipe.receive())
    pipe.say(Announcement(kind="started", pid=os.getpid()))
    try:
        failure = anyio.run(_attempt, job, pipe)
    except FanwireError as error:
        failure = _failed(error)
    pipe.say(Announcement(kind="done") if failure is None else failure)
    return failure is None


async def _attempt(job: Job, pipe: Pipe) -> Announcement | None:
    """Return what is to be said of a failure."""
    async with _realtime(job, pipe) as rt, SQLiteStepStore(job.steps) as steps:
        try:
            await work(job, rt, steps, pipe.say, die)
        except FanwireError as error:
            await rt.aclose(0.0)  # what was handed over has failed: there is nothing to wait for
            return _failed(error)
    return None


def _failed(error: FanwireError) -> Announcement:
    return Announcement(kind="failed", code=error.code, text=str(error))


def _realtime(job: Job, pipe: Pipe) -> Realtime:
    if job.terms is not None:
        return Realtime(RelayTransport(pipe.exchange, job.terms), timeout=job.timeout, connect_timeout=job.timeout)
    return Realtime.from_url(job.url or "", timeout=job.timeout, connect_timeout=job.timeout)


if __name__ == "__main__":
    main()
