"""Durable publish: units of work that are retried, and whose recorded steps happen once.

* ``run``: :class:`Run` and its steps, what ``rt.run()`` returns
* ``store``: the protocol of what steps are recorded in
* ``memory``, ``sqlite``: two stores
"""

from __future__ import annotations

from .memory import MemoryStepStore as MemoryStepStore
from .run import Run as Run
from .run import Steps as Steps
from .sqlite import SQLiteStepStore as SQLiteStepStore
from .store import StepRecord as StepRecord
from .store import StepStore as StepStore

__all__ = ("MemoryStepStore", "Run", "SQLiteStepStore", "StepRecord", "StepStore", "Steps")
