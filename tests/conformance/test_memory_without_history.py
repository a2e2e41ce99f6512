"""The in-memory transport passes the kit where it keeps nothing, too: a loss is then told rather than repaired."""

from __future__ import annotations

from fanwire.testing.suite import TransportSuite
from fanwire_memory import MemoryTransport
from tests.conformance.harnesses import MemoryHarness

__all__ = ("MemoryWithoutHistory", "TestMemoryWithoutHistory")


class MemoryWithoutHistory(MemoryHarness):
    """The in-memory transport, where it keeps nothing."""

    crowd = 2_000

    def transport(self, **options: object) -> MemoryTransport:
        return super().transport(**{"history": 0, **options})


class TestMemoryWithoutHistory(TransportSuite):
    harness = MemoryWithoutHistory

    @classmethod
    def loops(cls) -> dict[str, tuple[str, dict[str, object]]]:
        """Without uvloop: memory does no I/O that it could do in its own way."""
        return {name: loop for name, loop in super().loops().items() if name != "uvloop"}
