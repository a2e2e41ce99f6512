"""Steps in this process's memory."""

from __future__ import annotations

from typing import final

from .store import StepRecord

__all__ = ("MemoryStepStore",)


@final
class MemoryStepStore:
    """A :class:`StepStore` that lasts as long as it is referred to: for tests, and for retries within one process. Nothing survives a crash."""

    def __init__(self) -> None:
        self._runs: dict[str, dict[str, StepRecord]] = {}

    def __repr__(self) -> str:
        return f"<MemoryStepStore of {len(self._runs)} runs>"

    async def load(self, run_id: str, step_id: str, /) -> StepRecord | None:
        """See :class:`StepStore`."""
        return self._runs.get(run_id, {}).get(step_id)

    async def record(self, run_id: str, step_id: str, record: StepRecord, /) -> StepRecord:
        """See :class:`StepStore`."""
        return self._runs.setdefault(run_id, {}).setdefault(step_id, record)

    async def forget(self, run_id: str, /) -> None:
        """See :class:`StepStore`."""
        self._runs.pop(run_id, None)
