"""Stress: the kit several times at once on one server, in random order and under random names; in how many turns a check is taken is up to the machine.

``python -m fanwire.testing.stress module:Harness --suites 10 --seconds 120``. Each suite has a thread and an event loop of its own, of all kinds that the transport claims. What
stops the server for everybody is left out (``--without``), and so are checks that look at the whole process.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import logging
import random
import secrets
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple, cast, final

import anyio

from .check import Check, gate
from .checks import CHECKS
from .harness import Harness
from .model.__main__ import named_harness
from .suite import loops

__all__ = ("SHARED", "StressReport", "main", "stress", "stressed")

SHARED: Final = frozenset({"half_open", "restart"})
"""What a harness of a server that others use at the same time cannot do: stop it, and be punctual."""

_PATIENCE: Final = 5
"""How much longer things may take than alone."""


@final
class StressReport(NamedTuple):
    """What became of the suites."""

    ran: Mapping[str, int]
    """By check: how many suites have run it."""

    failed: Sequence[str]
    """Each with its check, event loop and traceback."""

    seconds: float

    def __str__(self) -> str:
        return f"{sum(self.ran.values())} runs of {len(self.ran)} checks in {self.seconds:.0f} s, each at least {min(self.ran.values())} times, {len(self.failed)} failed"


def stressed(harness: type[Harness], without: Collection[str] = SHARED) -> type[Harness]:
    """Return a harness that can do less and has more patience.

    Args:
        harness: Whose.
        without: Names of what it is to leave alone, as in :data:`fanwire.testing.harness.ABILITIES`.
    """
    less = {ability: getattr(Harness, ability) for ability in without}
    # A class made at run time: no checker can follow that.
    return cast(
        "type[Harness]", type(harness.__name__, (harness,), {**less, "patience": _PATIENCE * harness.patience, "crowd": min(harness.crowd, 500)})
    )


def stress(
    harness: type[Harness], *, suites: int = 10, seconds: float = 120.0, seed: int = 0, without: Collection[str] = SHARED, only: Collection[str] = ()
) -> StressReport:
    """Run so many suites at once. Blocks; not to be called in an event loop.

    Args:
        harness: All harnesses it makes have to lead to one server, and it has to be usable from several threads at once.
        suites: How many.
        seconds: After which none begins a check that another one has begun: each is run by one suite at least, however long that takes.
        seed: Decides on the order of the checks.
        without: See :func:`stressed`.
        only: Rows of the checks to run; by default all that can be.
    """
    kind = stressed(harness, without)
    claims = kind.capabilities()
    checks = [check for check in CHECKS if not check.alone and gate(check, claims, kind) is None and (not only or check.row in only)]
    random.Random(seed).shuffle(checks)
    for loop in ("trio", "uvloop"):  # before there are threads: importing while others look at what is being imported is another matter
        if importlib.util.find_spec(loop) is not None:
            importlib.import_module(loop)
    report = StressReport(Counter(dict.fromkeys(map(str, checks), 0)), [], 0.0)
    begun: set[str] = set()
    begin = time.monotonic()
    threads = [
        threading.Thread(
            target=_suite, args=(kind, _from(checks, number * len(checks) // suites), loop, begin + seconds, begun, report), name=f"suite {number}"
        )
        for number, loop in zip(range(suites), itertools.cycle(loops(claims).items()), strict=False)
    ]
    with _quiet():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return report._replace(seconds=time.monotonic() - begin)


def _from(checks: list[Check], first: int) -> list[Check]:
    """Return the checks, from another one on for each suite: together they have soon begun all."""
    return checks[first:] + checks[:first]


def _suite(
    kind: type[Harness], checks: list[Check], loop: tuple[str, tuple[str, dict[str, object]]], end: float, begun: set[str], report: StressReport
) -> None:
    name, (backend, options) = loop
    for check in checks:
        if str(check) in begun and time.monotonic() > end:
            continue
        begun.add(str(check))
        try:
            anyio.run(_one, kind, check, backend=backend, backend_options=options)
        except Exception:  # noqa: BLE001 - whatever it is, it is a failure
            cast("list[str]", report.failed).append(f"{check} on {name}:\n{traceback.format_exc()}")  # ours; a reader gets it as a Sequence
        cast("Counter[str]", report.ran)[str(check)] += 1  # as above


async def _one(kind: type[Harness], check: Check) -> None:
    async with kind(f"s{secrets.token_hex(6)}") as entered:
        await check(entered)


@contextmanager
def _quiet() -> Generator[None]:
    """Keep the log free of what is broken on purpose."""
    logger = logging.getLogger("fanwire")
    level, logger.level = logger.level, logging.CRITICAL
    try:
        yield
    finally:
        logger.level = level


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status: 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="python -m fanwire.testing.stress", description="Run the kit several times at once on one server.")
    parser.add_argument("harness", help="a subclass of fanwire.testing.harness.Harness, as module:name")
    parser.add_argument("--suites", type=int, default=10, metavar="N", help="how many at once (10)")
    parser.add_argument("--seconds", type=float, default=120.0, metavar="S", help="after which a suite leaves out what another has begun (120)")
    parser.add_argument("--seed", type=int, metavar="S", help="of the order; drawn by default, and printed")
    parser.add_argument(
        "--without", nargs="*", default=sorted(SHARED), metavar="ABILITY", help=f"what the harness is to leave alone ({' '.join(sorted(SHARED))})"
    )
    parser.add_argument("--only", nargs="*", default=[], metavar="ROW", help="rows of the checks to run, such as A2 F5 (all that can be)")
    given = parser.parse_args(arguments)
    harness = named_harness(parser, given.harness)
    seed = random.SystemRandom().randrange(10**9) if given.seed is None else given.seed
    print(f"{given.harness}: {given.suites} suites at once, seed {seed}", flush=True)  # noqa: T201 - it is a command
    report = stress(harness, suites=given.suites, seconds=given.seconds, seed=seed, without=given.without, only=given.only)
    for failure in report.failed:
        print(failure)  # noqa: T201 - as above
    print(report)  # noqa: T201 - as above
    return int(bool(report.failed))


if __name__ == "__main__":
    sys.exit(main())
