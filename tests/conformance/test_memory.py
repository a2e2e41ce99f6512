"""The in-memory transport passes the kit."""

from __future__ import annotations

from fanwire.testing.suite import TransportSuite
from tests.conformance.harnesses import MemoryHarness


class TestMemory(TransportSuite):
    harness = MemoryHarness
