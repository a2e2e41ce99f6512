"""Many plans, one after another, from seeds; and what remains of one that fails when everything is left out that can be."""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import NamedTuple, final

import anyio

from ..harness import Harness
from .plan import means_of, plan_of
from .runner import ModelFailure, check_plan
from .steps import Plan

__all__ = ("Loop", "Report", "run_plan", "run_seeds", "shrink")


@final
class Loop(NamedTuple):
    """An event loop, as anyio names it."""

    backend: str = "asyncio"
    options: Mapping[str, object] = {}


_ASYNCIO = Loop()


@final
class Report(NamedTuple):
    """What became of a range of seeds."""

    run: int
    """How many were run."""

    failed: Mapping[int, ModelFailure]
    """Those that failed, each with why: of the smallest plan that was found to fail, where that was looked for."""

    seconds: float


def run_plan(harness: type[Harness], plan: Plan, *, loop: Loop = _ASYNCIO, origin: str = "") -> None:
    """Run a plan in an event loop of its own, in a namespace of its own.

    Args:
        harness: The transport's.
        plan: What is going to happen.
        loop: Which event loop.
        origin: Where the plan comes from, for the text of the failure.

    Raises:
        ModelFailure: the run did not show what it had to.
    """

    async def run() -> None:
        async with harness(f"m{secrets.token_hex(6)}") as entered:
            await check_plan(plan, entered, origin)

    anyio.run(run, backend=loop.backend, backend_options=dict(loop.options))


def run_seeds(
    harness: type[Harness],
    seeds: Iterable[int],
    *,
    loop: Loop = _ASYNCIO,
    seconds: float | None = None,
    most: int = 1,
    small: bool = True,
    tell: Callable[[int, ModelFailure | None], None] | None = None,
) -> Report:
    """Run the plans of seeds.

    Args:
        harness: The transport's.
        seeds: Each stands for a plan.
        loop: Which event loop.
        seconds: After which no further plan begins.
        most: Failures after which to stop.
        small: Whether to look for the smallest part of a plan that still fails.
        tell: Called behind each seed.

    Returns:
        What became of them.
    """
    means = means_of(harness, harness.capabilities())
    begin = time.monotonic()
    failed: dict[int, ModelFailure] = {}
    count = 0
    for seed in seeds:
        if seconds is not None and time.monotonic() - begin > seconds:
            break
        count += 1
        random.seed(seed)  # what core draws: pauses between attempts to connect
        failure = _failure(harness, plan_of(seed, means), loop, f"seed {seed}")
        if failure is not None:
            if small:
                _, failure = shrink(harness, plan_of(seed, means), failure, loop=loop, origin=f"seed {seed}, of which this is left,")
            failed[seed] = failure
        if tell is not None:
            tell(seed, failure)
        if len(failed) >= most:
            break
    return Report(count, failed, time.monotonic() - begin)


def shrink(
    harness: type[Harness], plan: Plan, failure: ModelFailure, *, loop: Loop = _ASYNCIO, origin: str = "", tries: int = 3
) -> tuple[Plan, ModelFailure]:
    """Leave out of a plan that fails whatever it fails without. For those who do without hypothesis, which does it better.

    Args:
        harness: The transport's.
        plan: A plan.
        failure: What it showed.
        loop: Which event loop.
        origin: Where the plan comes from.
        tries: Times that a smaller plan is run: how tasks take turns is not part of it.

    Returns:
        A plan that fails, and how.
    """
    size = max(1, len(plan.steps) // 2)
    while True:
        begin = 0
        before = len(plan.steps)
        while begin < len(plan.steps):
            smaller = plan.without(begin, begin + size)
            found = next(filter(None, (_failure(harness, smaller, loop, origin) for _ in range(tries))), None)
            if found is None:
                begin += size
            else:
                plan, failure = smaller, found
        if size == 1 and len(plan.steps) == before:
            return plan, failure
        size = max(1, size // 2)


def _failure(harness: type[Harness], plan: Plan, loop: Loop, origin: str) -> ModelFailure | None:
    """Run a plan; return how it failed."""
    try:
        with _quiet():
            run_plan(harness, plan, loop=loop, origin=origin)
    except ModelFailure as failure:
        return failure
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a failure, to be told with its plan
        found = ModelFailure(f"{origin or 'a plan'} raises {error!r}; the plan:\n{plan}")
        found.__cause__ = error
        return found
    return None


@contextmanager
def _quiet() -> Generator[None]:
    """Keep the log free of what a plan breaks on purpose."""
    logger = logging.getLogger("fanwire")
    level, logger.level = logger.level, logging.CRITICAL
    try:
        yield
    finally:
        logger.level = level
