"""BlockingSubscription: a context manager and iterator of messages.

Generated from core/fanwire/subscription.py by scripts/generate_blocking.py: change that file, and run ``make generate``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar, final

from ..hub.log import CHUNK
from ..messages import Gap, RawMessage
from .feed import BlockingBatches, Feed

__all__ = ("BlockingSubscription",)

Item_co = TypeVar("Item_co", covariant=True)


@final
class BlockingSubscription(Feed[Item_co]):
    """Messages of one or more channels, from the moment it is entered, for a thread.

    Made by ``BlockingRealtime.subscribe``; nothing happens before ``with``. Entering returns once the broker has confirmed: a publish made right after is seen. It is its own iterator, and
    :meth:`get` waits for as long as it is told; a timeout, a ``break``, Ctrl-C or an exception in the consumer loses nothing, and going on goes on with the next message::

        with rt.subscribe(chat.status) as messages:
            for message in messages:
                ...
            while True:
                try:
                    message = messages.get(timeout=15.0)
                except fanwire.errors.Timeout:
                    ...  # nothing for 15 s

    One thread iterates at a time; another one may :meth:`close` it, which ends the iteration. Messages come to the thread by chunks of what is queued, 256 at most, so that a hop
    between threads is paid once for all of them.
    """

    __slots__ = ()

    def with_gaps(self) -> BlockingSubscription[Item_co | Gap]:
        """Return a subscription that yields every :class:`~fanwire.Gap` at its position, instead of logging it. Before entering only.

        Raises:
            RuntimeError: it was entered already.
        """
        return BlockingSubscription(self._owner, self._view().with_gaps())

    def raw(self) -> BlockingSubscription[RawMessage]:
        """Return a subscription that yields :class:`~fanwire.RawMessage`: no schema is applied, and all kinds of messages are shown. Before entering only.

        Raises:
            RuntimeError: it was entered already.
        """
        return BlockingSubscription(self._owner, self._view().raw())

    def batches(self, *, max_size: int = CHUNK, max_wait: float = 0.0) -> Iterator[Sequence[Item_co]]:
        """Return an iterator over batches: as they are queued where messages come in bursts.

        Args:
            max_size: Items in one batch at most.
            max_wait: Seconds to wait for more after the first item; 0 takes only what is there.

        Raises:
            ValueError: ``max_size`` is less than 1 or ``max_wait`` negative.
        """
        self._plan.batches(max_size=max_size, max_wait=max_wait)  # refuses what is out of range
        return BlockingBatches(self, max_size, max_wait)
