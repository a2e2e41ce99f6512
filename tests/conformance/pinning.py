"""What the kit says about each transport of ours, as it is kept in ``pinned/``: its claims, and which checks apply. ``scripts/generate_capabilities.py`` writes them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Final, NamedTuple, final

from fanwire.testing.check import report
from fanwire.testing.checks import CHECKS
from fanwire.testing.harness import Harness
from fanwire_memory import MemoryTransport
from tests.conformance.harnesses import MemoryHarness
from tests.conformance.poor import PoorHarness

__all__ = ("DIRECTORY", "PINNED", "MemoryWithoutHistory", "Pinned", "outline", "render", "stored")

DIRECTORY: Final = Path(__file__).with_name("pinned")


class MemoryWithoutHistory(MemoryHarness):
    """The in-memory transport, where it keeps nothing."""

    def transport(self, **options: object) -> MemoryTransport:
        return super().transport(**{"history": 0, **options})


@final
class Pinned(NamedTuple):
    """A transport whose report is kept."""

    harness: type[Harness]
    heading: str | None
    """What the documentation calls it; ``None`` for one that is none of its business."""


PINNED: Final[dict[str, Pinned]] = {
    "memory": Pinned(MemoryHarness, "`memory://`"),
    "memory-without-history": Pinned(MemoryWithoutHistory, "`memory://?history=0`"),
    "poor": Pinned(PoorHarness, None),
}
"""By the name of its file."""


def outline(harness: type[Harness]) -> dict[str, dict[str, object]]:
    """Return what is kept of a transport: its claims, and of each check whether it applies and why not."""
    claims = harness("outline").transport().capabilities
    fields: dict[str, object] = {**asdict(claims), "history": sorted(claims.history), "async_backends": sorted(claims.async_backends)}
    rows: dict[str, object] = {str(outcome.check): outcome.reason or outcome.state for outcome in report(CHECKS, claims, harness)}
    return {"claims": fields, "rows": rows}


def render(found: dict[str, dict[str, object]]) -> str:
    """Return it as it is kept."""
    return json.dumps(found, indent=2) + "\n"


def stored(name: str) -> str:
    """Return what is kept, or nothing."""
    path = DIRECTORY / f"{name}.json"
    return path.read_text(encoding="utf-8") if path.is_file() else ""
