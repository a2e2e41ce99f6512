"""The Redis transport passes the kit in each of its modes, on real servers."""

from __future__ import annotations

from fanwire.testing.suite import TransportSuite
from tests.redis.harness import ClusterHarness, Hybrid, Plain, SentinelHarness


class TestHybrid(TransportSuite):
    harness = Hybrid


class TestPlain(TransportSuite):
    harness = Plain


class TestCluster(TransportSuite):
    harness = ClusterHarness


class TestSentinel(TransportSuite):
    harness = SentinelHarness


del TransportSuite  # pytest would collect the base
