"""Fixtures of the tests of the rules: how fast the world around them is."""

from __future__ import annotations

import random

import pytest

from fanwire.hub import connection
from fanwire.transport import HistoryPage, HistoryStart
from fanwire_memory import MemoryTransport
from tests.rules.support import tumble


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections come back without a wait."""
    monkeypatch.setattr(connection, "backoff", lambda _: 0.0)


@pytest.fixture
def slow_history(at_once: None, monkeypatch: pytest.MonkeyPatch) -> random.Random:
    """History takes its time, before and after it is read, in pages of random size; return the dice it throws."""
    dice = random.Random(0)
    read = MemoryTransport.history

    async def slowly(transport: MemoryTransport, channel: str, /, *, start: HistoryStart, limit: int) -> HistoryPage:
        await tumble(dice, 6)
        page = await read(transport, channel, start=start, limit=dice.choice((2, 3, 5, limit)))
        await tumble(dice, 6)
        return page

    monkeypatch.setattr(MemoryTransport, "history", slowly)
    return dice
