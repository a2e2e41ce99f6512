"""The library `broadcaster` over its memory backend.

At its best: the memory backend passes whatever object it is given, so the message is decoded before it is published and the decoded object is shared. As a
user would write it, each subscriber would decode text of its own.

broadcaster 0.3.1 forgets one of two first subscribers of a channel that come at the same time (a backend call lies between its check and its assignment),
which is why the harness lets the first subscriber in alone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, cast

from broadcaster import Broadcast, Event

from ..harness import contender
from ..model import Sample, recode

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

__all__ = ("BROADCASTER", "BroadcasterHub")

CHANNEL = "bench"


class BroadcasterHub:
    """One channel of a connected `Broadcast`."""

    def __init__(self, broadcast: Broadcast) -> None:
        self._broadcast = broadcast

    def subscribe(self) -> AbstractAsyncContextManager[AsyncIterable[Event]]:
        """The library's own subscription."""
        # Its iterator is annotated as `AsyncGenerator[Event | None] | None`; it yields events and nothing else.
        return cast("AbstractAsyncContextManager[AsyncIterable[Event]]", self._broadcast.subscribe(CHANNEL))

    async def send(self, burst: Sequence[Sample], /) -> None:
        """Publish the messages one by one, which is all the library offers."""
        for sample in burst:
            await self._broadcast.publish(CHANNEL, recode(sample))

    def dropped(self) -> int:
        """None: the queues have no bound."""
        return 0


@asynccontextmanager
async def _open() -> AsyncGenerator[BroadcasterHub]:
    async with Broadcast("memory://") as broadcast:
        yield BroadcasterHub(broadcast)


def _index(event: Event) -> int:
    message = cast("object", event.message)  # annotated as str, but the memory backend passes any object
    assert isinstance(message, Sample)
    return message.index


BROADCASTER = contender("broadcaster (memory)", _open, _index)
"""As a contender."""
