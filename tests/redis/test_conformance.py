"""The Redis transport passes the kit in each of its modes, on real servers; with history on a Valkey too."""

from __future__ import annotations

from fanwire.testing.suite import TransportSuite
from tests.redis.harness import ClusterHarness, Hybrid, Plain, PlainCluster, SentinelHarness, Valkey


class TestHybrid(TransportSuite):
    harness = Hybrid


class TestValkey(TransportSuite):
    harness = Valkey

    @classmethod
    def loops(cls) -> dict[str, tuple[str, dict[str, object]]]:
        return {"asyncio": super().loops()["asyncio"]}


class TestPlain(TransportSuite):
    harness = Plain


class TestCluster(TransportSuite):
    harness = ClusterHarness


class TestPlainCluster(TransportSuite):
    harness = PlainCluster

    @classmethod
    def loops(cls) -> dict[str, tuple[str, dict[str, object]]]:
        return {"asyncio": super().loops()["asyncio"]}


class TestSentinel(TransportSuite):
    harness = SentinelHarness


del TransportSuite  # pytest would collect the base
