"""What the tests of the command line share: a document, a view that keeps what it is told, the program."""

from __future__ import annotations

import hashlib
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NoReturn

from fanwire import Realtime
from fanwire.cli.demo import Conversation
from fanwire.cli.demo_worker import KILLED, Job, Say, work
from fanwire.cli.document import split_tokens
from fanwire.runs import SQLiteStepStore

__all__ = ("ESCAPE", "HALF", "SHA256", "TEXT", "TOKENS", "InProcess", "Killed", "Notes", "program")

TEXT = (
    """# fanwire

Typed realtime channels for Python, over the message broker you already run: déjà vu, 漢字, 🧵.

| transport | history |
|---|---|
| `memory://` | per channel |
"""
    * 20
)
TOKENS = len(split_tokens(TEXT))
HALF = (TOKENS + 1) // 2
SHA256 = hashlib.sha256(TEXT.encode()).hexdigest()
ESCAPE = "\x1b"


class Notes:
    """A view that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []

    def watch(self, conversation: Conversation, /) -> AbstractContextManager[object]:
        return nullcontext()

    def note(self, who: str, text: str, /) -> None:
        self.notes.append((who, text))


def program(*arguments: str | Path) -> list[str]:
    """Return the arguments that start the command line in a process of its own."""
    return [sys.executable, "-m", "fanwire.cli", *map(str, arguments)]


class Killed(BaseException):
    """Stands for the end of a process."""


class InProcess:
    """The demo's worker without a process: for tests of everything else, many times as fast. What it is killed by unwinds its stack, which a real signal does not."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    async def attempt(self, job: Job, rt: Realtime, hear: Say, /) -> int:
        self.jobs.append(job)
        try:
            async with SQLiteStepStore(job.steps) as steps:
                await work(job, rt, steps, hear, self.die)
        except Killed:
            return KILLED
        return 0

    def die(self) -> NoReturn:
        raise Killed
