"""``python -m benchmarks redis``: runs the cases against a server of its own, prints the report and writes it."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from fanwire.testing.laps import BURST, samples

from ..progress import progress
from ..report import RESULTS
from ..results import environment
from .cases import CASES, Case, run_case, without_peers
from .fanout import encode
from .install import versions, with_peers
from .judge import CaseResult, Laps, Report, judge, row
from .redis_server import redis_server
from .report import markdown, write

__all__ = ("main", "run")

ROUNDS, QUICK_ROUNDS = 11, 3
_PACKAGES = ("fanwire", "redis", "hiredis", "pydantic", "anyio")
_TOPOLOGY = (
    "The server is one process, with nothing to persist, on loopback; publishers and subscribers of a contender share another process and its asyncio event loop. "
    "Neither is pinned to a CPU."
)


def run(cases: Sequence[Case], rounds: int) -> Report:
    """Run some cases.

    Args:
        cases: Which.
        rounds: Interleaved rounds of each.

    Returns:
        Figures and verdicts.

    Raises:
        BenchmarkError: If a contender drops, repeats or reorders a message.
        RuntimeError: If there is no server.
    """
    start = time.monotonic()
    found: list[tuple[Case, Laps]] = []
    with redis_server() as (port, server), progress(len(cases) * rounds) as display:
        for case in cases:
            display.stage(case.name)
            found.append((case, asyncio.run(run_case(case, port, rounds, display.advance))))
    machine = environment()
    peers = versions() if any(name in case.contenders for case in cases for name in versions()) else {}
    return Report(
        python=machine.python,
        platform=machine.platform,
        processor=machine.processor,
        cpus=machine.cpus,
        versions={"redis-server": server, **{("redis-py" if name == "redis" else name): version(name) for name in _PACKAGES}, **peers},
        topology=_TOPOLOGY,
        payload_bytes=len(encode(samples(1)[0])),
        burst=BURST,
        rounds=rounds,
        seconds=round(time.monotonic() - start, 1),
        cases=tuple(
            CaseResult(name=case.name, subscribers=case.subscribers, rows=tuple(row(name, laps) for name in case.contenders)) for case, laps in found
        ),
        verdicts=judge(found),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line.

    Args:
        arguments: Instead of those of the process.

    Returns:
        Exit status: 1 only if ``--check`` was given and a target is missed. A lost message ends the run with a traceback.
    """
    options = _parser().parse_args(arguments)
    cases = [case for case in CASES if not options.only or case.kind in options.only]
    if options.without_peers:
        cases = list(without_peers(cases))
    else:
        with_peers()
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    report = run(cases, rounds)
    print(report.model_dump_json(indent=2) if options.json else markdown(report))
    complete = not (options.only or options.quick or options.without_peers)
    if directory := options.out or (RESULTS if complete else None):
        for path in write(report, directory):
            print(f"written: {path.name}", file=sys.stderr)
    return 1 if options.check and not report.passed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks redis", description="Throughput and latency over Redis, beside peers and limits.")
    parser.add_argument("--only", nargs="+", choices=("pipelined", "awaited", "paced"), help="run these kinds of cases only")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"interleaved rounds (default {ROUNDS})")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds: a look, not a result")
    parser.add_argument("--without-peers", action="store_true", help="without the libraries that have to be installed")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the report there (a complete run writes benchmarks/results by default)")
    return parser
