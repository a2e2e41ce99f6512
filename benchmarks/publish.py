"""What `publish` costs when nobody listens, beside a bare `TypeAdapter` that validates and dumps the same model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from .harness import Stopwatch
from .model import ADAPTER, Sample, samples
from .results import PublishResult, spread
from .subject import Bench, open_realtime

__all__ = ("CALLS", "measure")

CALLS = 5_000
"""Calls per lap."""

BARE_FACTOR = 4
"""So many times more bare calls per lap, so that both laps take about as long."""


def measure(rounds: int, advance: Callable[[], None]) -> PublishResult:
    """Time both in turns.

    Args:
        rounds: How many times each runs.
        advance: Called after every round.

    Returns:
        Nanoseconds per call, and the per-round ratio.
    """
    return asyncio.run(_measure(rounds, advance))


async def _measure(rounds: int, advance: Callable[[], None]) -> PublishResult:
    messages = samples(CALLS)
    bare: list[Stopwatch] = []
    published: list[Stopwatch] = []
    async with open_realtime() as realtime:
        publish, ref = realtime.publish, Bench.sample
        for message in messages:
            await publish(ref, message)
        for round_number in range(rounds):
            if round_number % 2:
                bare.append(_bare(messages))
            with Stopwatch() as watch:
                for message in messages:
                    await publish(ref, message)
            published.append(watch)
            if not round_number % 2:
                bare.append(_bare(messages))
            advance()
    each = 1e9 / CALLS
    return PublishResult(
        bare=spread(watch.wall * each / BARE_FACTOR for watch in bare),
        publish=spread(watch.wall * each for watch in published),
        ratio=spread(BARE_FACTOR * ours.wall / floor.wall for ours, floor in zip(published, bare, strict=True)),
        ratio_cpu=spread(BARE_FACTOR * ours.cpu / floor.cpu for ours, floor in zip(published, bare, strict=True)),
    )


def _bare(messages: Sequence[Sample]) -> Stopwatch:
    validate, dump = ADAPTER.validate_python, ADAPTER.dump_json
    with Stopwatch() as watch:
        for _ in range(BARE_FACTOR):
            for message in messages:
                dump(validate(message))
    return watch
