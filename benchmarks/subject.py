"""fanwire itself, used as its README shows, with every setting at its default."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from fanwire import Message, Realtime, StaticChannel, Subscription, TopicRef, topic

from .harness import contender
from .model import Sample

__all__ = ("FANWIRE", "FANWIRE_MANY", "Bench", "FanwireHub", "FanwireManyHub", "open_realtime")

URL = "memory://"
"""The default transport with its default history, so every message is also stored for later readers."""


class Bench(StaticChannel, name="bench"):
    """The channel that everyone subscribes to."""

    sample = topic(Sample)


def open_realtime() -> Realtime:
    """A `Realtime` with a broker of its own."""
    return Realtime.from_url(URL)


class FanwireHub:
    """Publishes one message after the other."""

    def __init__(self, realtime: Realtime, ref: TopicRef[Sample] | None = None) -> None:
        self._realtime = realtime
        self._ref = Bench.sample if ref is None else ref
        self._subscriptions: list[Subscription[Message[Sample]]] = []

    def subscribe(self) -> Subscription[Message[Sample]]:
        """A subscription to the one topic."""
        subscription = self._realtime.subscribe(self._ref)
        self._subscriptions.append(subscription)
        return subscription

    async def send(self, burst: Sequence[Sample], /) -> None:
        """Await each publish."""
        publish, ref = self._realtime.publish, self._ref
        for sample in burst:
            await publish(ref, sample)

    def dropped(self) -> int:
        """What the subscriptions' own counters say was lost or refused."""
        stats = [subscription.stats() for subscription in self._subscriptions]
        return sum(each.lost + each.invalid for each in stats)


class FanwireManyHub(FanwireHub):
    """Publishes a burst in one call."""

    async def send(self, burst: Sequence[Sample], /) -> None:
        """Await one `publish_many`."""
        ref = self._ref
        await self._realtime.publish_many([ref(sample) for sample in burst])


@asynccontextmanager
async def _open_one_by_one() -> AsyncGenerator[FanwireHub]:
    async with open_realtime() as realtime:
        yield FanwireHub(realtime)


@asynccontextmanager
async def _open_many() -> AsyncGenerator[FanwireManyHub]:
    async with open_realtime() as realtime:
        yield FanwireManyHub(realtime)


def _index(message: Message[Sample]) -> int:
    return message.data.index


FANWIRE = contender("fanwire", _open_one_by_one, _index, kind="fanwire")
"""As a contender."""

FANWIRE_MANY = contender("fanwire, publish_many", _open_many, _index, kind="fanwire", regimes=("burst",))
"""The same with one call per burst."""
