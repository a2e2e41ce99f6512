"""Throughput and latency over real brokers, beside raw clients, other libraries and the limit: ``python -m benchmarks redis``."""

from __future__ import annotations

__all__ = ()
