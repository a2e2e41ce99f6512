"""``python -m fanwire.testing.model module:Harness --seeds N``: run the plans of N seeds, print each that fails, made as small as it gets."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import random
import sys

from ..harness import Harness
from .runner import ModelFailure
from .soak import Loop, run_seeds

__all__ = ("LOOPS", "main", "named_harness")

LOOPS = {"asyncio": Loop("asyncio", {"use_uvloop": False}), "uvloop": Loop("asyncio", {"use_uvloop": True}), "trio": Loop("trio")}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status: 1 if a plan failed, 2 if it could not begin."""
    parser = argparse.ArgumentParser(prog="python -m fanwire.testing.model", description="Run plans on a transport, and judge what is seen.")
    parser.add_argument("harness", help="a subclass of fanwire.testing.harness.Harness, as module:name")
    parser.add_argument("--seeds", type=int, default=1000, metavar="N", help="how many plans (1000)")
    parser.add_argument("--first", type=int, metavar="S", help="the first seed; drawn by default, and printed")
    parser.add_argument("--seconds", type=float, metavar="S", help="after which no further plan begins, on each loop")
    parser.add_argument("--loop", choices=[*LOOPS], action="append", help="event loop, may be given several times (asyncio)")
    parser.add_argument("--most", type=int, default=1, metavar="N", help="failures after which to stop (1)")
    parser.add_argument("--whole", action="store_true", help="do not make a plan that fails smaller")
    given = parser.parse_args(arguments)
    harness = named_harness(parser, given.harness)
    first = random.SystemRandom().randrange(10**9) if given.first is None else given.first
    failed = 0
    for name in given.loop or ["asyncio"]:
        if name != "asyncio" and importlib.util.find_spec(name) is None:
            parser.error(f"{name} is not installed")
        print(f"{given.harness} on {name}: seeds {first} to {first + given.seeds - 1}", flush=True)  # noqa: T201 - it is a command
        report = run_seeds(
            harness, range(first, first + given.seeds), loop=LOOPS[name], seconds=given.seconds, most=given.most, small=not given.whole, tell=_tell
        )
        failed += len(report.failed)
        print(f"{report.run} plans in {report.seconds:.0f} s, {len(report.failed)} failed", flush=True)  # noqa: T201 - as above
        for seed in report.failed:
            print(f"again: python -m fanwire.testing.model {given.harness} --first {seed} --seeds 1 --loop {name}", flush=True)  # noqa: T201 - as above
    return int(failed > 0)


def named_harness(parser: argparse.ArgumentParser, name: str) -> type[Harness]:
    """Return the harness that is named ``module:name`` on a command line."""
    module, _, attribute = name.partition(":")
    try:
        found: object = getattr(importlib.import_module(module), attribute or "Harness")
    except (ImportError, AttributeError, ValueError) as error:
        parser.error(f"{name}: {error}; give a harness as module:name, importable from here")
    if not isinstance(found, type) or not issubclass(found, Harness) or found is Harness:
        parser.error(f"{name} is no subclass of fanwire.testing.harness.Harness")
    return found


def _tell(_seed: int, failure: ModelFailure | None) -> None:
    if failure is not None:
        print(failure, flush=True)  # noqa: T201 - as above


if __name__ == "__main__":
    sys.exit(main())
