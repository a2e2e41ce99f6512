"""Order, lifetime and cancellation on a driver of which each call takes several turns of the event loop, before the server has it and after: in memory alone there is little to cut."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint

from fanwire.errors import FanwireError
from fanwire.messages import Cursor, Receipt
from fanwire.testing import checks
from fanwire.testing.cancelling import cancelled_everywhere
from fanwire.testing.check import Outcome
from fanwire.testing.checks import leaving
from fanwire.testing.harness import Harness
from fanwire.testing.suite import TransportSuite
from fanwire.testing.through import Through
from fanwire.transport import HistoryPage, HistoryStart, Outbound, Sink
from tests.conformance.harnesses import MemoryHarness

__all__ = ()


async def _turns() -> None:
    for _ in range(3):
        await checkpoint()


class Slow(Through):
    """Takes its time for everything."""

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None]:
        await _turns()
        async with super().run(sink):
            await _turns()
            yield

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        await _turns()
        results = await super().publish(batch)
        await _turns()
        return results

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        await _turns()
        answers = await super().subscribe(wanted, generation)
        await _turns()
        return answers

    async def unsubscribe(self, channels: Collection[str], /) -> None:
        await _turns()
        await super().unsubscribe(channels)
        await _turns()

    async def history(self, channel: str, /, *, start: HistoryStart, limit: int) -> HistoryPage:
        await _turns()
        page = await super().history(channel, start=start, limit=limit)
        await _turns()
        return page

    async def ping(self, /) -> None:
        await _turns()
        await super().ping()


class SlowHarness(Harness):
    """In-memory transports, slow."""

    crowd = 2_000

    def __init__(self, namespace: str) -> None:
        super().__init__(namespace)
        self._memory = MemoryHarness(namespace)

    def transport(self, **options: object) -> Slow:
        return Slow(self._memory.transport(**options))

    async def cut(self) -> None:
        await self._memory.cut()

    async def stall(self) -> None:
        await self._memory.stall()

    async def resume(self) -> None:
        await self._memory.resume()

    async def subscriptions(self) -> int:
        return await self._memory.subscriptions()


class TestSlow(TransportSuite):
    harness = SlowHarness

    @classmethod
    def loops(cls) -> dict[str, tuple[str, dict[str, object]]]:
        """Without uvloop, which takes turns as asyncio does."""
        return {name: loop for name, loop in super().loops().items() if name != "uvloop"}

    @classmethod
    def report(cls) -> list[Outcome]:
        """Leave out what has nothing to do with time."""
        return [outcome for outcome in super().report() if outcome.check.row[0] in "BD"]


@pytest.mark.parametrize("row", ["D6", "D13", "D15", "D16", "D17"])
def test_there_is_something_to_cut(monkeypatch: pytest.MonkeyPatch, row: str) -> None:
    """Or the checks would have passed for want of await points."""
    found: list[int] = []

    async def counting(*arguments: object, **settings: object) -> int:
        found.append(await cancelled_everywhere(*arguments, **settings))  # type: ignore[arg-type]
        return found[-1]

    monkeypatch.setattr(leaving, "cancelled_everywhere", counting)
    check = next(check for check in checks.CHECKS if check.row == row)

    async def main() -> None:
        async with SlowHarness("points") as harness:
            await check(harness)

    anyio.run(main)
    assert found[0] >= 6, f"{row} was cancelled at {found[0]} points"
