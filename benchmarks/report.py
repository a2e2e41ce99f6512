"""Turns results into a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .results import CaseResult, Report, Row, Spread
from .subject import FANWIRE

__all__ = ("RESULTS", "markdown", "write")

RESULTS = Path(__file__).parent / "results"
"""Where a full run puts its report."""

REGIMES = {
    "burst": "Bursts of 64: the publisher sends 64 messages, then yields until every subscriber has them",
    "lockstep": "Lockstep: one message per wake-up",
}


def write(report: Report, directory: Path) -> tuple[Path, Path]:
    """Write a report as JSON and as Markdown.

    Args:
        report: The figures.
        directory: Made if missing.

    Returns:
        Both files, ``fanout.json`` and ``fanout.md``.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = directory / "fanout.json", directory / "fanout.md"
    files[0].write_text(report.model_dump_json(indent=2) + "\n")
    files[1].write_text(markdown(report))
    return files


def markdown(report: Report) -> str:
    """Render a report.

    Args:
        report: The figures.

    Returns:
        A page of Markdown.
    """
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    env = report.environment
    yield "# In-process fan-out\n"
    yield f"{env.python} on {env.platform}, {env.processor}, {env.cpus} CPUs; " + ", ".join(f"{k} {v}" for k, v in env.packages.items()) + "."
    yield f"A validated model of {report.payload_bytes} bytes of JSON; {report.rounds} interleaved rounds; {report.seconds:.0f} s in all. Drops: none"
    yield "(a run that drops, repeats or reorders a message fails). Rates move with the machine; the ratios, taken within each round, are what counts.\n"
    yield from _verdicts(report)
    for regime, title in REGIMES.items():
        cases = [case for case in report.cases if case.regime == regime]
        if cases:
            yield f"## {title}\n"
            for case in cases:
                yield from _case(case)
    yield from _costs(report)
    yield from _memory(report)
    yield from _publish(report)


def _verdicts(report: Report) -> Iterator[str]:
    if report.verdicts:
        yield "## Targets\n"
        yield "| target | bound | measured | |"
        yield "|---|--:|--:|---|"
        for verdict in report.verdicts:
            yield f"| {verdict.target} | {verdict.bound:,g} | {_number(verdict.value)} | {'PASS' if verdict.passed else '**FAIL**'} |"
        yield ""


def _case(case: CaseResult) -> Iterator[str]:
    yield f"{case.subscribers:,} subscriber{'s' if case.subscribers > 1 else ''}:\n"
    yield "| | M deliveries/s | p25-p75 | by CPU time | of the floor | fanwire is so many times | p25-p75 | by CPU time |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for row in case.rows:
        yield _row(row)
    yield ""


def _row(row: Row) -> str:
    wall, own = row.wall_rate, row.kind == "fanwire"
    name = f"**{row.name}**" if own else row.name
    over, by_cpu = row.fanwire_over, row.fanwire_over_cpu
    against = (f"{over.median:.2f}x", _range(over), f"{by_cpu.median:.2f}x") if row.name != FANWIRE.name else ("", "", "")
    cells = (name, f"{wall.median / 1e6:.2f}", _range(wall, 1e6), f"{row.cpu_rate.median / 1e6:.2f}", f"{row.of_floor.median:.2f}", *against)
    return "| " + " | ".join(cells) + " |"


def _costs(report: Report) -> Iterator[str]:
    if report.costs:
        yield "## What the time in bursts is made of\n"
        yield "CPU time per message whoever listens, and per further delivery, from the slope over the numbers of subscribers. These cases run one after"
        yield "another, so unlike the ratios these figures carry the drift of the machine.\n"
        yield "| | µs per message | ns per delivery |"
        yield "|---|--:|--:|"
        for cost in report.costs:
            yield f"| {cost.name} | {cost.message:.1f} | {cost.delivery:.0f} |"
        yield ""


def _memory(report: Report) -> Iterator[str]:
    if report.memory:
        yield f"## An idle subscriber, its task included ({report.memory[0].subscribers:,} on one channel)\n"
        yield "| | bytes traced | bytes resident |"
        yield "|---|--:|--:|"
        for result in report.memory:
            yield f"| {result.name} | {result.traced:,.0f} | {result.resident:,.0f} |"
        yield ""


def _publish(report: Report) -> Iterator[str]:
    if report.publish:
        result = report.publish
        yield "## `publish` without a subscriber\n"
        yield "| | µs per call | p25-p75 |"
        yield "|---|--:|--:|"
        for name, each in (("bare `TypeAdapter`: validate and dump", result.bare), ("**fanwire**: `await publish`", result.publish)):
            yield f"| {name} | {each.median / 1e3:.2f} | {_range(each, 1e3)} |"
        yield f"\nRatio {result.ratio.median:.2f} ({_range(result.ratio)}), by CPU time {result.ratio_cpu.median:.2f}.\n"


def _range(each: Spread, unit: float = 1.0) -> str:
    return f"{each.p25 / unit:.2f}-{each.p75 / unit:.2f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
