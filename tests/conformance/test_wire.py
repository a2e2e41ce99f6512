"""A transport over TCP passes the kit's checks of faults, with its connections broken by the fault proxy; and these find one that does not notice silence."""

from __future__ import annotations

import pytest

from fanwire.testing.check import Outcome
from fanwire.testing.checks.faults import half_open
from fanwire.testing.suite import TransportSuite
from tests.conformance.wire import AttentiveHarness, WireHarness, WireTransport


class TestWire(TransportSuite):
    harness = WireHarness

    @classmethod
    def report(cls) -> list[Outcome]:
        """Leave out what has nothing to do with connections: the in-memory broker has been tested, and so have slow readers."""
        return [outcome for outcome in super().report() if outcome.check.row[0] in "FGX" or outcome.check.row == "E5"]


@pytest.mark.anyio
async def test_silence_is_noticed() -> None:
    async with AttentiveHarness("attentive") as harness:
        await half_open(harness)


class Deaf(WireTransport):
    """Never asks whether anybody is there."""


class DeafHarness(AttentiveHarness):
    transport_type = Deaf


@pytest.mark.anyio
async def test_a_transport_that_does_not_notice_silence_is_found() -> None:
    with pytest.raises(AssertionError, match="until the silent connection is given up"):
        async with DeafHarness("deaf") as harness:
            await half_open(harness)
