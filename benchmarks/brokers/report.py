"""Turns the results over Redis into a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..results import Spread
from .cases import HYBRID, PLAIN
from .judge import CaseResult, Report

__all__ = ("markdown", "write")


def write(report: Report, directory: Path) -> tuple[Path, Path]:
    """Write a report as ``redis.json`` and ``redis.md``; the directory is made if missing."""
    directory.mkdir(parents=True, exist_ok=True)
    files = directory / "redis.json", directory / "redis.md"
    files[0].write_text(report.model_dump_json(indent=2) + "\n")
    files[1].write_text(markdown(report))
    return files


def markdown(report: Report) -> str:
    """Render a report."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield "# Over Redis\n"
    yield f"{report.python} on {report.platform}, {report.processor}, {report.cpus} CPUs; {', '.join(f'{k} {v}' for k, v in report.versions.items())}."
    yield f"{report.topology} A validated model of {report.payload_bytes} bytes of JSON; pipelines of {report.burst};"
    yield f"{report.rounds} interleaved rounds, medians with quartiles; {report.seconds:.0f} s in all. Drops: none (a run that drops, repeats or reorders a"
    yield "message fails). Rates move with the machine; the ratios, taken within each round, are what counts.\n"
    if report.verdicts:
        yield "## Targets\n"
        yield "| target | bound | measured | |"
        yield "|---|--:|--:|---|"
        for verdict in report.verdicts:
            yield f"| {verdict.target} | {verdict.bound:g} | {verdict.value:,.4g} | {'PASS' if verdict.passed else '**FAIL**'} |"
        yield ""
    for case in report.cases:
        yield from _case(case)


def _case(case: CaseResult) -> Iterator[str]:
    latency = case.rows[0].p50 is not None
    yield f"## {case.name[0].upper()}{case.name[1:]}\n"
    if latency:
        yield "| | p50 µs | p99 µs | samples |"
        yield "|---|--:|--:|--:|"
    else:
        yield "| | deliveries/s | p25-p75 | of redis-py | p25-p75 | by CPU time | CPU µs per message | delivered |"
        yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for row in case.rows:
        name = f"**{row.name}**" if row.name in {PLAIN, HYBRID} else row.name
        if latency:
            yield f"| {name} | {row.p50:,.0f} | {row.p99:,.0f} | {row.delivered:,} |"
        else:
            rates, over = row.rate, row.over_raw
            yield (
                f"| {name} | {rates.median:,.0f} | {rates.p25:,.0f}-{rates.p75:,.0f} | {over.median:.3g} | {_range(over)} | {row.over_raw_cpu.median:.3g} "
                f"| {row.cpu.median:,.1f} | {row.delivered:,} |"
            )
    yield ""


def _range(each: Spread) -> str:
    return f"{each.p25:.3g}-{each.p75:.3g}"
