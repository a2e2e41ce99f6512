"""The hub that people write first: one `asyncio.Queue` for each subscriber.

At its best: queues without a bound, so that `put_nowait` never has to wait, and a consumer that drains what is there by `get_nowait` before it waits again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import nullcontext

from ..harness import contender
from ..model import Sample, recode

__all__ = ("QUEUE_HUB", "QueueHub", "QueueSubscription")


class QueueSubscription:
    """One subscriber's queue, joined to the hub while entered."""

    __slots__ = ("_queue", "_queues")

    def __init__(self, queues: set[asyncio.Queue[Sample]]) -> None:
        self._queues = queues
        self._queue: asyncio.Queue[Sample] = asyncio.Queue()

    async def __aenter__(self) -> AsyncIterable[Sample]:
        self._queues.add(self._queue)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._queues.discard(self._queue)

    async def __aiter__(self) -> AsyncIterator[Sample]:
        queue = self._queue
        while True:
            yield await queue.get()
            while not queue.empty():
                yield queue.get_nowait()


class QueueHub:
    """Puts every message into every subscriber's queue."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[Sample]] = set()

    def subscribe(self) -> QueueSubscription:
        """A queue of one's own."""
        return QueueSubscription(self._queues)

    async def send(self, burst: Sequence[Sample], /) -> None:
        """Fan the messages out without waiting."""
        for sample in burst:
            message = recode(sample)
            for queue in self._queues:
                queue.put_nowait(message)

    def dropped(self) -> int:
        """None: the queues have no bound."""
        return 0


QUEUE_HUB = contender("asyncio.Queue hub", lambda: nullcontext(QueueHub()), lambda sample: sample.index)
"""As a contender."""
