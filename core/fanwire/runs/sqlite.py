"""Steps in an SQLite database: durable on one machine, without a server."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar, final

import anyio.to_thread

from ..errors import Closed, ConfigError, Unavailable
from .store import StepRecord

__all__ = ("SQLiteStepStore",)

T = TypeVar("T")

_VERSION: Final = 1

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS fanwire_steps (
    run_id TEXT NOT NULL,
    step_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    channel TEXT,
    topic TEXT,
    data BLOB NOT NULL,
    recorded_at REAL NOT NULL,
    PRIMARY KEY (run_id, step_id)
) WITHOUT ROWID
"""

_inherited: Final[list[sqlite3.Connection]] = []
"""Connections of a parent process. They are kept, for closing them here would drop the locks the parent holds (SQLite, "How To Corrupt", section 2.6)."""


@final
class SQLiteStepStore:
    """A :class:`StepStore` in a file, shared by all processes of one machine. What is recorded survives a crash of the process and of the machine.

    Opened at first use, in write-ahead mode; every call runs in a worker thread. Not for network file systems, on which SQLite's locks are unreliable::

        async with SQLiteStepStore("steps.db") as store:
            run = rt.run(order.id, steps=store)

    Args:
        path: The file; it is made if it is missing, its directory is not.
        timeout: Seconds to wait for another process that is writing.

    Raises:
        ConfigError: ``timeout`` is not positive.
    """

    def __init__(self, path: str | Path, /, *, timeout: float = 10.0) -> None:
        if not timeout > 0:
            raise ConfigError(f"timeout must be positive, got {timeout!r}")
        self.path: Path = Path(path)
        self._timeout = timeout
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._closed = False
        self._finalize: weakref.finalize[[], SQLiteStepStore] | None = None

    def __repr__(self) -> str:
        return f"<SQLiteStepStore {str(self.path)!r}>"

    async def __aenter__(self) -> Self:
        """Open the file.

        Raises:
            ConfigError: it is not a database, or one of a newer version.
            Unavailable: it cannot be opened.
        """
        await self._in_thread(lambda _: None)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Close it."""
        await self.aclose()

    async def load(self, run_id: str, step_id: str, /) -> StepRecord | None:
        """See :class:`StepStore`.

        Raises:
            Unavailable: the file cannot be read.
        """
        return await self._in_thread(lambda connection: _load(connection, run_id, step_id))

    async def record(self, run_id: str, step_id: str, record: StepRecord, /) -> StepRecord:
        """See :class:`StepStore`.

        Raises:
            Unavailable: the file cannot be written.
        """

        def write(connection: sqlite3.Connection) -> StepRecord:
            values = (run_id, step_id, *record, time.time())
            connection.execute(
                "INSERT OR IGNORE INTO fanwire_steps (run_id, step_id, kind, channel, topic, data, recorded_at) VALUES (?, ?, ?, ?, ?, ?, ?)", values
            )
            return _load(connection, run_id, step_id) or record  # gone again only if somebody forgot the run at this instant

        return await self._in_thread(write)

    async def forget(self, run_id: str, /) -> None:
        """See :class:`StepStore`.

        Raises:
            Unavailable: the file cannot be written.
        """
        await self._in_thread(lambda connection: connection.execute("DELETE FROM fanwire_steps WHERE run_id = ?", (run_id,)).rowcount)

    async def prune(self, older_than: timedelta, /) -> int:
        """Forget every run whose newest step was recorded longer ago than ``older_than``.

        Returns:
            How many steps were dropped.

        Raises:
            Unavailable: the file cannot be written.
        """
        before = time.time() - older_than.total_seconds()
        return await self._in_thread(
            lambda connection: (
                connection.execute(
                    "DELETE FROM fanwire_steps WHERE run_id IN (SELECT run_id FROM fanwire_steps GROUP BY run_id HAVING max(recorded_at) < ?)",
                    (before,),
                ).rowcount
            )
        )

    async def aclose(self) -> None:
        """Close the file. Idempotent; a closed store cannot be used again."""
        await anyio.to_thread.run_sync(self._close)

    def _close(self) -> None:
        with self._lock:
            self._closed = True
            if self._finalize is not None and self._pid == os.getpid():
                self._finalize()
            self._connection = None

    async def _in_thread(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await anyio.to_thread.run_sync(self._work, work)

    def _work(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            if self._closed:
                raise Closed(f"{self!r} is closed")
            try:
                return work(self._open())
            except sqlite3.OperationalError as error:
                raise Unavailable(f"the steps in {str(self.path)!r} cannot be reached: {error}") from error
            except sqlite3.DatabaseError as error:
                raise ConfigError(f"{str(self.path)!r} is not a database of steps: {error}") from error

    def _open(self) -> sqlite3.Connection:
        """Return this process's connection."""
        if self._connection is not None and self._pid != os.getpid():
            _inherited.append(self._connection)
            if self._finalize is not None:
                self._finalize.detach()
            self._connection = None
        if self._connection is None:
            # Transactions are SQLite's own: one statement each. The lock, not the thread, guards the connection.
            connection = sqlite3.connect(self.path, timeout=self._timeout, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            self._pid = os.getpid()
            self._finalize = weakref.finalize(self, connection.close)
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise ConfigError(
                f"{str(self.path)!r} was written by a newer fanwire (version {version} of its table, this one knows {_VERSION}): upgrade"
            )
        connection.execute(_TABLE)
        if version < _VERSION:
            connection.execute(f"PRAGMA user_version = {_VERSION}")


def _load(connection: sqlite3.Connection, run_id: str, step_id: str) -> StepRecord | None:
    row = connection.execute("SELECT kind, channel, topic, data FROM fanwire_steps WHERE run_id = ? AND step_id = ?", (run_id, step_id)).fetchone()
    return None if row is None else StepRecord(*row)
