"""The fan-out benchmark: which cases there are, and rounds in which all contenders take turns.

Absolute rates move with the machine; ratios within one round do not. Therefore every contender runs one lap in every round, each round starts with another
contender, and what is reported is the median of the per-round ratios with its quartiles.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from .anchors import ASYNC_FOR_FLOOR, FLOORS, WAKE_FLOOR
from .harness import Case, Contender, Lap, Regime
from .peers import PEERS
from .results import CaseResult, Row, spread
from .subject import FANWIRE, FANWIRE_MANY

__all__ = ("BURST", "CONTENDERS", "SUBSCRIBERS", "case", "measure")

BURST = 64
"""Messages per burst."""

SUBSCRIBERS = (1, 10, 100, 1000)
"""Numbers of subscribers."""

CONTENDERS: tuple[Contender, ...] = (*FLOORS, *PEERS, FANWIRE, FANWIRE_MANY)
"""Everyone, in the order of the tables."""

_BURSTS: dict[Regime, dict[int, int]] = {
    "burst": {1: 120, 10: 60, 100: 20, 1000: 4},
    "lockstep": {1: 4000, 10: 1500, 100: 300, 1000: 40},
}
"""Timed bursts per lap: enough for laps of 20 to 200 milliseconds."""

_FLOOR: dict[Regime, Contender] = {"burst": ASYNC_FOR_FLOOR, "lockstep": WAKE_FLOOR}


SUBJECTS: Mapping[Regime, Contender] = {"burst": FANWIRE_MANY, "lockstep": FANWIRE}
"""Which row of fanwire is compared: like every peer, fanwire sends a burst in the way its documentation advises. The other way has a row of its own."""


def case(regime: Regime, subscribers: int) -> Case:
    """The case of that regime and number.

    Args:
        regime: ``burst`` or ``lockstep``.
        subscribers: One of `SUBSCRIBERS`, or another number, which gets as many bursts as the next larger one.

    Returns:
        The case.
    """
    bursts = _BURSTS[regime]
    nearest = next((n for n in bursts if n >= subscribers), SUBSCRIBERS[-1])
    return Case(regime, subscribers, BURST if regime == "burst" else 1, bursts[nearest])


def measure(what: Case, rounds: int, advance: Callable[[], None]) -> CaseResult:
    """Run one case.

    Args:
        what: The case.
        rounds: How many times each contender runs.
        advance: Called after every round.

    Returns:
        Rates and ratios of every contender of that regime.

    Raises:
        BenchmarkError: If a contender drops, repeats or reorders a message.
    """
    contenders = [each for each in CONTENDERS if what.regime in each.regimes]
    laps = asyncio.run(_rounds(contenders, what, rounds, advance))
    floor, subject = laps[_FLOOR[what.regime].name], laps[SUBJECTS[what.regime].name]
    rows = tuple(
        Row(
            name=each.name,
            kind=each.kind,
            wall_rate=spread(lap.wall_rate for lap in laps[each.name]),
            cpu_rate=spread(lap.cpu_rate for lap in laps[each.name]),
            of_floor=spread(own.wall_rate / top.wall_rate for own, top in zip(laps[each.name], floor, strict=True)),
            fanwire_over=spread(ours.wall_rate / own.wall_rate for ours, own in zip(subject, laps[each.name], strict=True)),
            fanwire_over_cpu=spread(ours.cpu_rate / own.cpu_rate for ours, own in zip(subject, laps[each.name], strict=True)),
        )
        for each in contenders
    )
    return CaseResult(regime=what.regime, subscribers=what.subscribers, burst=what.burst, bursts=what.bursts, rows=rows)


async def _rounds(contenders: Sequence[Contender], what: Case, rounds: int, advance: Callable[[], None]) -> dict[str, list[Lap]]:
    laps: dict[str, list[Lap]] = {each.name: [] for each in contenders}
    for round_number in range(rounds):
        first = round_number % len(contenders)
        for each in (*contenders[first:], *contenders[:first]):
            laps[each.name].append(await each.lap(what.scaled(each.share)))
        advance()
    return laps
