"""The in-memory transport passes the kit where it keeps nothing, too: a loss is then told rather than repaired."""

from __future__ import annotations

from fanwire.testing.suite import TransportSuite
from tests.conformance.pinning import MemoryWithoutHistory


class TestMemoryWithoutHistory(TransportSuite):
    harness = MemoryWithoutHistory
