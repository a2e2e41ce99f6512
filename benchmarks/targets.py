"""What the figures must show, and whether they do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .anchors import ASYNC_FOR_FLOOR, WAKE_FLOOR
from .harness import Contender, Regime
from .peers import ANYIO_STREAMS, BROADCASTER, QUEUE_HUB
from .results import CaseResult, MemoryResult, PublishResult, Verdict
from .subject import FANWIRE

__all__ = ("IDLE_BYTES", "PUBLISH_RATIO", "RATIOS", "RatioTarget", "judge")


@dataclass(frozen=True, slots=True)
class RatioTarget:
    """fanwire's rate must be at least so many times that of another contender in the same rounds."""

    regime: Regime
    subscribers: int
    other: Contender
    bound: float


RATIOS = (
    RatioTarget("burst", 10, ASYNC_FOR_FLOOR, 0.10),
    RatioTarget("burst", 100, ASYNC_FOR_FLOOR, 0.35),
    RatioTarget("burst", 1000, ASYNC_FOR_FLOOR, 0.42),
    *(RatioTarget("burst", n, QUEUE_HUB, 2.5) for n in (100, 1000)),
    *(RatioTarget("burst", n, ANYIO_STREAMS, 12.0) for n in (100, 1000)),
    *(RatioTarget("burst", n, BROADCASTER, 3.5) for n in (100, 1000)),
    *(RatioTarget("lockstep", n, WAKE_FLOOR, 0.60) for n in (100, 1000)),
)
"""Targets on rates."""

IDLE_BYTES = 2_500.0
"""Most that one idle subscriber may hold, its task included."""

PUBLISH_RATIO = 4.0
"""Most that `publish` without a subscriber may cost, in bare validate-and-dump calls."""


def judge(cases: tuple[CaseResult, ...], memory: tuple[MemoryResult, ...], publish: PublishResult | None) -> tuple[Verdict, ...]:
    """Compare what was measured with the targets.

    Args:
        cases: Fan-out results; targets of cases that were not run are left out.
        memory: Memory results, possibly none.
        publish: Publish results, if measured.

    Returns:
        One verdict per target that could be judged.
    """
    return (*_ratios(cases), *_memory(memory), *_publish(publish))


def _ratios(cases: tuple[CaseResult, ...]) -> Iterator[Verdict]:
    measured = {(case.regime, case.subscribers, row.name): row for case in cases for row in case.rows}
    for target in RATIOS:
        row = measured.get((target.regime, target.subscribers, target.other.name))
        if row is not None:
            value = row.fanwire_over.median
            text = f"{target.regime}, {target.subscribers:,} subscribers: at least {target.bound:g}x {target.other.name}"
            yield Verdict(target=text, bound=target.bound, value=value, passed=value >= target.bound)


def _memory(memory: tuple[MemoryResult, ...]) -> Iterator[Verdict]:
    for result in memory:
        if result.name == FANWIRE.name:
            for how, value in (("traced", result.traced), ("resident", result.resident)):
                text = f"idle subscriber, its task included: at most {IDLE_BYTES:,.0f} bytes {how}"
                yield Verdict(target=text, bound=IDLE_BYTES, value=value, passed=value <= IDLE_BYTES)


def _publish(publish: PublishResult | None) -> Iterator[Verdict]:
    if publish is not None:
        value = publish.ratio.median
        text = f"publish without a subscriber: at most {PUBLISH_RATIO:g}x a bare validate-and-dump"
        yield Verdict(target=text, bound=PUBLISH_RATIO, value=value, passed=value <= PUBLISH_RATIO)
