"""``python -m benchmarks`` runs the fan-out benchmark, ``python -m benchmarks redis`` the one over Redis: each prints its report and writes it."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import fanout, memory, publish
from .harness import Regime
from .model import PAYLOAD_BYTES
from .progress import progress
from .report import RESULTS, markdown, write
from .results import CaseResult, MemoryResult, PublishResult, Report, costs, environment
from .targets import judge

__all__ = ("main", "run")

SECTIONS = ("burst", "lockstep", "memory", "publish")
REGIMES: tuple[Regime, ...] = ("burst", "lockstep")
ROUNDS, QUICK_ROUNDS = 11, 3
QUICK_IDLE = 1_000


def run(sections: Sequence[str], subscribers: Sequence[int], rounds: int, idle: int) -> Report:
    """Run some sections.

    Args:
        sections: Any of ``burst``, ``lockstep``, ``memory``, ``publish``.
        subscribers: Numbers of subscribers for the first two.
        rounds: Interleaved rounds of each case.
        idle: Idle subscribers for ``memory``.

    Returns:
        Figures and verdicts.

    Raises:
        BenchmarkError: If a contender drops, repeats or reorders a message.
    """
    start = time.monotonic()
    todo = [fanout.case(regime, n) for regime in REGIMES if regime in sections for n in subscribers]
    steps = len(todo) * rounds + ("memory" in sections) * len(memory.PROBES) + ("publish" in sections) * rounds
    cases: list[CaseResult] = []
    held: tuple[MemoryResult, ...] = ()
    published: PublishResult | None = None
    gc.collect()
    gc.freeze()  # what is imported by now need not be walked before every lap
    with progress(steps) as display:
        for case in todo:
            display.stage(f"{case.regime}, {case.subscribers:,} subscriber{'s' if case.subscribers > 1 else ''}")
            cases.append(fanout.measure(case, rounds, display.advance))
        if "memory" in sections:
            display.stage(f"memory, {idle:,} idle subscribers")
            held = memory.measure(idle, display.advance)
        if "publish" in sections:
            display.stage("publish without a subscriber")
            published = publish.measure(rounds, display.advance)
    return Report(
        environment=environment(),
        payload_bytes=PAYLOAD_BYTES,
        rounds=rounds,
        seconds=round(time.monotonic() - start, 1),
        cases=tuple(cases),
        memory=held,
        publish=published,
        costs=costs(cases),
        verdicts=judge(tuple(cases), held, published),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line.

    Args:
        arguments: Instead of those of the process.

    Returns:
        Exit status: 1 only if ``--check`` was given and a target is missed. A lost message ends the run with a traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] == "redis":
        from .brokers.run import main as over_redis

        return over_redis(arguments[1:])
    options = _parser().parse_args(arguments)
    sections = tuple(options.only or SECTIONS)
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    report = run(sections, tuple(options.subscribers), rounds, QUICK_IDLE if options.quick else memory.SUBSCRIBERS)
    print(report.model_dump_json(indent=2) if options.json else markdown(report))
    complete = not (options.only or options.quick or options.subscribers != list(fanout.SUBSCRIBERS))
    if directory := options.out or (RESULTS if complete else None):
        for path in write(report, directory):
            print(f"written: {path.name}", file=sys.stderr)
    return 1 if options.check and not report.passed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Fan-out in one process, beside peers and limits.")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="run these sections only")
    parser.add_argument("--subscribers", nargs="+", type=int, default=list(fanout.SUBSCRIBERS), metavar="N", help="numbers of subscribers")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"interleaved rounds (default {ROUNDS})")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds and fewer idle subscribers: a look, not a result")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the report there (a complete run writes benchmarks/results by default)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
