"""Harnesses of transports that can do less than memory does, for the model: what is not claimed must neither be demanded nor be missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from fanwire import Capabilities, Cursor, Receipt
from fanwire.errors import FanwireError
from fanwire.testing.through import Through, ThroughSink
from fanwire.transport import HistoryPage, HistoryStart, Outbound, Sink
from fanwire_memory import MemoryTransport
from tests.conformance.harnesses import MemoryHarness

__all__ = ("BestEffort", "Counters", "NoHistory", "NoLinks", "Quick")


class Quick(MemoryHarness):
    """Nothing in memory takes long: a plan that has to fail need not wait."""

    patience = 0.4


class NoHistory(Quick):
    """Positions that count, and nothing kept."""

    def transport(self, **options: object) -> MemoryTransport:
        return super().transport(**{"history": 0, **options})


class _Unplaced(ThroughSink):
    """Delivers without positions."""

    def deliver(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None, /) -> None:
        self.sink.deliver(channel, generation, frame, None, None)

    def subscribed(self, channel: str, generation: int, position: Cursor | None, /) -> None:
        self.sink.subscribed(channel, generation, None)


class _Unlinked(ThroughSink):
    """Delivers with positions, which do not tell of their predecessors."""

    def deliver(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None, /) -> None:
        self.sink.deliver(channel, generation, frame, position, None)


class _Poor(Through):
    """A broker that suppresses nothing, in front of memory's."""

    claims: ClassVar[Capabilities]
    sink_type: ClassVar[type[ThroughSink]]

    def around(self, sink: Sink) -> Sink:
        return self.sink_type(sink)

    @property
    def capabilities(self) -> Capabilities:
        return self.claims

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        results = await self.transport.publish([message._replace(key=None, retry=False) for message in batch])
        return [result._replace(cursor=self.placed(result.cursor)) if isinstance(result, Receipt) else result for result in results]

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        answers = await self.transport.subscribe(wanted, generation)
        return {channel: answer if isinstance(answer, FanwireError) else self.placed(answer) for channel, answer in answers.items()}

    def placed(self, cursor: Cursor | None) -> Cursor | None:
        return None


class _Counters(_Poor):
    """Such as NATS core."""

    sink_type = _Unplaced
    claims = Capabilities(
        delivery="at_most_once",
        ordering="publisher",
        multi_process=True,
        confirmed_publish=True,
        confirmed_subscribe=True,
        async_backends=frozenset({"asyncio", "trio"}),
    )


class _BestEffort(_Counters):
    claims = replace(_Counters.claims, ordering="none")


class _NoLinks(_Poor):
    """Such as Kafka, but that each key suppresses nothing and marks are of the id."""

    sink_type = _Unlinked
    claims = replace(
        _Counters.claims, delivery="at_least_once", ordering="channel", history=frozenset({"earliest", "last_n", "after_cursor", "since_time"})
    )

    def placed(self, cursor: Cursor | None) -> Cursor | None:
        return cursor

    async def history(self, channel: str, /, *, start: HistoryStart, limit: int) -> HistoryPage:
        page = await super().history(channel, start=start, limit=limit)
        return page._replace(entries=[entry._replace(prev=None) for entry in page.entries])


class _PoorHarness(Quick):
    """Memory, of which a poor transport stands in front."""

    poor: ClassVar[type[_Poor]]
    history: ClassVar[int]

    # Any: the method of the base promises memory's own transport, which is more than anybody here asks for
    def transport(self, **options: object) -> Any:
        return self.poor(super().transport(**{"history": self.history, **options}))


class Counters(_PoorHarness):
    """A broker that keeps nothing and knows no positions: holes show by the publishers' numbers only."""

    poor = _Counters
    history = 0


class BestEffort(Counters):
    """The same without order: holes do not show at all."""

    poor = _BestEffort


class NoLinks(_PoorHarness):
    """A log whose positions are not linked, and repeats."""

    poor = _NoLinks
    history = 1000
