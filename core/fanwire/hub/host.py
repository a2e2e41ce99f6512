"""The task a Realtime lives in. Its task group is entered and left there, so that the Realtime itself may be entered in one task and left in another (test fixtures do)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import final

import anyio

from .waiter import on_trio

__all__ = ("Host",)


@final
class Host:
    """Runs one coroutine function in a task of its own until it ends or is stopped."""

    def __init__(self) -> None:
        self._scope: anyio.CancelScope | None = None
        self._ended = anyio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self.failure: BaseException | None = None
        """What the coroutine raised."""

    def start(self, main: Callable[[], Awaitable[None]], name: str) -> None:
        """Start the task; ``main`` runs with cancellation under this host's control."""
        if on_trio():
            from trio import lowlevel

            lowlevel.spawn_system_task(self._run, main, name=name)
        else:
            # Kept in an attribute and awaited through ``_ended``; the one task that no task group owns, because it owns one.
            self._task = asyncio.get_running_loop().create_task(self._run(main), name=name)

    async def stop(self) -> None:
        """Cancel the coroutine and wait for its end."""
        self._stopping = True
        if self._scope is not None:
            self._scope.cancel()
        await self._ended.wait()

    async def _run(self, main: Callable[[], Awaitable[None]]) -> None:
        try:
            with anyio.CancelScope() as self._scope:
                if not self._stopping:
                    await main()
        except Exception as error:  # noqa: BLE001 - kept for the owner, who is in another task
            self.failure = error
        finally:
            self._ended.set()
