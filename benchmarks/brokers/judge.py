"""The figures of a run, and what they must show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fanwire.testing.laps import Lap

from ..results import Frozen, Spread, Verdict, spread
from .cases import HYBRID, LIMIT, PLAIN, RAW, Case

__all__ = ("CaseResult", "Report", "Row", "judge", "row")

Laps = Mapping[str, Sequence[Lap]]


class Row(Frozen):
    """One contender in one case. Ratios are those of the same round, summarised over the rounds."""

    name: str
    rate: Spread
    """Deliveries per second."""
    cpu: Spread
    """Microseconds of this process's processor time per message published."""
    over_raw: Spread
    """This contender's rate over that of redis-py."""
    over_raw_cpu: Spread
    """The same of deliveries per second of processor time."""
    published: int
    delivered: int
    """By the subscribers' own count, over all rounds: published times subscribers."""
    p50: float | None = None
    """Microseconds from the call to the receipt, over all samples; only where latency is measured."""
    p99: float | None = None


class CaseResult(Frozen):
    """One case."""

    name: str
    subscribers: int
    rows: tuple[Row, ...]


class Report(Frozen):
    """Everything that one run found."""

    python: str
    platform: str
    processor: str
    cpus: int
    versions: dict[str, str]
    topology: str
    payload_bytes: int
    burst: int
    rounds: int
    seconds: float
    cases: tuple[CaseResult, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        """Whether every target that was measured is met."""
        return all(verdict.passed for verdict in self.verdicts)


def row(name: str, laps: Laps) -> Row:
    """Summarise the laps of one contender."""
    own, raw = laps[name], laps[RAW]
    delays = sorted(delay for lap in own for delay in lap.delays)
    return Row(
        name=name,
        rate=spread(lap.rate for lap in own),
        cpu=spread(lap.cpu / lap.published * 1e6 for lap in own),
        over_raw=spread(lap.rate / other.rate for lap, other in zip(own, raw, strict=True)),
        over_raw_cpu=spread(lap.delivered / lap.cpu * other.cpu / other.delivered for lap, other in zip(own, raw, strict=True)),
        published=sum(lap.published for lap in own),
        delivered=sum(lap.delivered for lap in own),
        p50=_quantile(delays, 0.5),
        p99=_quantile(delays, 0.99),
    )


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[int(share * len(ordered))] * 1e6 if ordered else None


def judge(found: Sequence[tuple[Case, Laps]]) -> tuple[Verdict, ...]:
    """Compare what was measured with the targets; those that need a case or a contender that was not run are left out.

    Args:
        found: Each case with its laps.

    Returns:
        One verdict per target.
    """
    return tuple(verdict for case, laps in found for verdict in (_latency(case, laps) if case.kind == "paced" else _rates(case, laps)))


RATIOS: dict[tuple[str, int], tuple[tuple[str, str, float], ...]] = {
    ("pipelined", 1): ((PLAIN, RAW, 2.0), (PLAIN, LIMIT, 0.2), (HYBRID, PLAIN, 0.4)),
    ("pipelined", 100): ((PLAIN, RAW, 1.2), (PLAIN, LIMIT, 0.5), (HYBRID, PLAIN, 0.4)),
    ("awaited", 1): ((PLAIN, RAW, 3.0),),
    ("awaited", 100): tuple(
        (mode, peer, bound) for mode in (PLAIN, HYBRID) for peer, bound in (("broadcaster", 3.0), ("litestar", 3.0), ("faststream", 50.0))
    ),
}
"""By kind and subscribers: at least so many times the rate of the other, in the same round."""


def _rates(case: Case, laps: Laps) -> Iterator[Verdict]:
    for ours, other, bound in RATIOS.get((case.kind, case.subscribers), ()):
        if ours in laps and other in laps:
            value = spread(lap.rate / its.rate for lap, its in zip(laps[ours], laps[other], strict=True)).median
            yield Verdict(target=f"{case.name}: {ours}: at least {bound:g}x {other}", bound=bound, value=value, passed=value >= bound)


def _latency(case: Case, laps: Laps) -> Iterator[Verdict]:
    raw = row(RAW, laps)
    for name in (PLAIN, HYBRID):
        ours = row(name, laps)
        if raw.p50 is not None and raw.p99 is not None and ours.p50 is not None and ours.p99 is not None:
            for what, value, bound, text in (
                ("p50", ours.p50, 1.25 * raw.p50 + 50, "1.25x redis-py + 50 µs"),
                ("p99", ours.p99, 1.5 * raw.p99, "1.5x redis-py"),
            ):
                yield Verdict(target=f"{case.name}: {name}: {what} at most {text}, in µs", bound=round(bound, 1), value=value, passed=value <= bound)
