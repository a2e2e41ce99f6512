"""``python -m benchmarks.profile``: where the time of a contender goes, to explain a figure or a limit.

Prints what a message and a delivery cost without a profiler, then the functions that take most of the timed part under cProfile. cProfile charges every call,
and every resumption of a coroutine, about as much as a small function costs: trust the counts and the order, not the shares.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import io
import pstats
import statistics
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from . import fanout, publish
from .harness import Case, Contender, Stopwatch
from .subject import FANWIRE

__all__ = ("main", "profile_lap", "profile_publish")

LAPS = 5


async def _laps(contender: Contender, case: Case, laps: int) -> float:
    """Median processor seconds of a lap."""
    return statistics.median([(await contender.lap(case)).cpu for _ in range(laps)])


def profile_lap(contender: Contender, case: Case, top: int, order: str) -> str:
    """Profile the fan-out of one contender.

    Args:
        contender: Which.
        case: What it does.
        top: Number of functions to list.
        order: Column to sort by, as `pstats` names it.

    Returns:
        The text to print.
    """
    plain = asyncio.run(_laps(contender, case, LAPS))
    with _profiling() as profiler:
        asyncio.run(_laps(contender, case, LAPS))
    messages = case.burst * case.bursts
    head = f"{contender.name}, {case.regime}, {case.subscribers:,} subscribers, without profiler (CPU time): "
    return f"{head}{plain / messages * 1e6:.2f} µs per message, {plain / case.deliveries * 1e9:.0f} ns per delivery\n{_table(profiler, top, order)}"


def profile_publish(top: int, order: str) -> str:
    """Profile `publish` without a subscriber.

    Args:
        top: Number of functions to list.
        order: Column to sort by, as `pstats` names it.

    Returns:
        The text to print.
    """
    plain = publish.measure(LAPS, _nothing)
    with _profiling() as profiler:
        publish.measure(LAPS, _nothing)
    head = f"publish without a subscriber, without profiler: {plain.publish.median / 1e3:.2f} µs, bare {plain.bare.median / 1e3:.2f} µs"
    return f"{head}\n{_table(profiler, top, order)}"


@contextmanager
def _profiling() -> Generator[cProfile.Profile]:
    """Profile every timed part within the block."""
    profiler = Stopwatch.profiler = cProfile.Profile()
    try:
        yield profiler
    finally:
        Stopwatch.profiler = None


def _nothing() -> None:
    pass


def _table(profiler: cProfile.Profile, top: int, order: str) -> str:
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats(order).print_stats(top)
    return text.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line.

    Args:
        arguments: Instead of those of the process.
    """
    named = {each.name: each for each in fanout.CONTENDERS}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description="Profile the hot path of one contender.")
    parser.add_argument("what", nargs="?", choices=("burst", "lockstep", "publish"), default="burst")
    parser.add_argument("--subscribers", type=int, default=100, metavar="N")
    parser.add_argument("--contender", choices=sorted(named), default=FANWIRE.name, metavar="NAME", help="one of: " + ", ".join(named))
    parser.add_argument("--top", type=int, default=25, metavar="N", help="functions to list")
    parser.add_argument("--sort", choices=("tottime", "cumtime", "ncalls"), default="tottime")
    options = parser.parse_args(arguments)
    gc.freeze()
    if options.what == "publish":
        print(profile_publish(options.top, options.sort))
    else:
        print(profile_lap(named[options.contender], fanout.case(options.what, options.subscribers), options.top, options.sort))


if __name__ == "__main__":
    main()
