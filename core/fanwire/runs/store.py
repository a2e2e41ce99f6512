"""What a run remembers of its steps, and where."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, final

__all__ = ("StepRecord", "StepStore")


@final
class StepRecord(NamedTuple):
    """One step that has happened."""

    kind: Literal["publish", "run"]
    """Whether it published a message or ran a function."""

    channel: str | None
    """Where it published; ``None`` of a function."""

    topic: str | None
    """What it published; ``None`` of a function."""

    data: bytes
    """The payload, or what the function returned: one JSON value in UTF-8."""


class StepStore(Protocol):
    """Keeps what steps of runs returned. Shared by all attempts of a run, in whatever process.

    Any object with these three methods is one. Each must be safe to call from several tasks at once, and may raise :class:`fanwire.errors.Unavailable` where what it
    stands on cannot be reached. ``fanwire.testing.step_stores`` has the checks that every store has to pass.
    """

    async def load(self, run_id: str, step_id: str, /) -> StepRecord | None:
        """Return what is recorded of a step, or ``None``."""
        ...

    async def record(self, run_id: str, step_id: str, record: StepRecord, /) -> StepRecord:
        """Record a step unless it is recorded already; return what is recorded now.

        Atomic: of two attempts that record at once, one wins, and both are returned its record. When it returns, the record outlives the process.
        """
        ...

    async def forget(self, run_id: str, /) -> None:
        """Drop all records of a run that is over. Unknown runs are fine."""
        ...
