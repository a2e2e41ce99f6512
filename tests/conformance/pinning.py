"""What the kit says about each transport of ours, as it is kept in ``pinned/``: its claims, and which checks apply. ``scripts/generate_capabilities.py`` writes them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Final, NamedTuple, final

from fanwire.testing.suite import TransportSuite
from tests.conformance.test_memory import TestMemory
from tests.conformance.test_memory_without_history import TestMemoryWithoutHistory
from tests.conformance.test_poor import TestPoor
from tests.redis.test_conformance import TestCluster, TestHybrid, TestPlain, TestSentinel

__all__ = ("DIRECTORY", "PINNED", "Pinned", "outline", "render", "stored")

DIRECTORY: Final = Path(__file__).with_name("pinned")


@final
class Pinned(NamedTuple):
    """A transport whose report is kept."""

    suite: type[TransportSuite]
    heading: str | None
    """What the documentation calls it; ``None`` for one that is none of its business."""


PINNED: Final[dict[str, Pinned]] = {
    "memory": Pinned(TestMemory, "`memory://`"),
    "memory-without-history": Pinned(TestMemoryWithoutHistory, "`memory://?history=0`"),
    "redis": Pinned(TestHybrid, "`redis://`"),
    "redis-without-history": Pinned(TestPlain, "`redis://?history=0`"),
    "redis-cluster": Pinned(TestCluster, "`redis+cluster://`"),
    "redis-sentinel": Pinned(TestSentinel, "`redis+sentinel://`"),
    "poor": Pinned(TestPoor, None),
}
"""By the name of its file. No server has to run: what is claimed depends on options alone."""


def outline(suite: type[TransportSuite]) -> dict[str, dict[str, object]]:
    """Return what is kept of a transport: its claims, and of each check whether it applies and why not."""
    claims = suite.capabilities()
    fields: dict[str, object] = {**asdict(claims), "history": sorted(claims.history), "async_backends": sorted(claims.async_backends)}
    rows: dict[str, object] = {str(outcome.check): outcome.reason or outcome.state for outcome in suite.report()}
    return {"claims": fields, "rows": rows}


def render(found: dict[str, dict[str, object]]) -> str:
    """Return it as it is kept."""
    return json.dumps(found, indent=2) + "\n"


def stored(name: str) -> str:
    """Return what is kept, or nothing."""
    path = DIRECTORY / f"{name}.json"
    return path.read_text(encoding="utf-8") if path.is_file() else ""
