"""Iterating a subscription by batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Self, TypeVar, final

import anyio

from .errors import FanwireError
from .subscription import Subscription

__all__ = ("Batches",)

Item = TypeVar("Item")


@final
class Batches(Generic[Item]):
    """What ``subscription.batches()`` returns. A cancelled wait gives what it has collected back to the subscription."""

    def __init__(self, subscription: Subscription[Item], max_size: int, max_wait: float) -> None:
        if max_size < 1 or max_wait < 0:
            raise ValueError(f"batches() takes max_size >= 1 and max_wait >= 0, got {max_size} and {max_wait}")
        self._subscription = subscription
        self._max_size = max_size
        self._max_wait = max_wait

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Item]:
        batch = [await anext(self._subscription)]
        try:
            batch += self._subscription.take_now(self._max_size - len(batch))
            if self._max_wait and len(batch) < self._max_size:
                await self._wait_for_more(batch)
        except BaseException:
            self._subscription.give_back(batch)
            raise
        return batch

    async def _wait_for_more(self, batch: list[Item]) -> None:
        with anyio.move_on_after(self._max_wait):
            while len(batch) < self._max_size:
                try:
                    batch.append(await anext(self._subscription))
                except FanwireError as error:
                    # Behind what is in the batch; told when the next one is asked for.
                    self._subscription.owe(error)
                    return
                except StopAsyncIteration:
                    return
                else:
                    batch += self._subscription.take_now(self._max_size - len(batch))
