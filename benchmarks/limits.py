"""``python -m benchmarks.limits``: what bounds fanwire where subscribers are few, shown by taking one cost after the other away.

With ten subscribers a message's fixed cost (validate, encode, store, route, parse) weighs more than its ten deliveries. Each variant runs in the same rounds as the
async-for floor:

* as it is;
* without pydantic: the topic's schema neither validates nor parses, it hands out bytes and objects that were made before;
* without history: nothing is stored.

The difference between rows is what the part that is missing costs.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from fanwire import Realtime, TopicRef

from . import fanout
from .anchors import ASYNC_FOR_FLOOR, COUNTING_FLOOR
from .harness import Contender, Lap, contender
from .model import ADAPTER, DISTINCT, Sample, samples
from .subject import FANWIRE_MANY, Bench, FanwireManyHub

__all__ = ("main",)

_RESULTS = Path(__file__).parent / "results" / "limits.md"


class _Made:
    """A schema without work: bytes and objects are looked up by each other."""

    def __init__(self) -> None:
        self._dumped = {sample.index: ADAPTER.dump_json(sample) for sample in samples(DISTINCT)}
        self._loaded = {data: sample for sample, data in zip(samples(DISTINCT), self._dumped.values(), strict=True)}

    def validate(self, value: object, /) -> Sample:
        """Believe it."""
        assert isinstance(value, Sample)
        return value

    def dump(self, value: Sample, /) -> bytes:
        """Look the bytes up."""
        return self._dumped[value.index]

    def load(self, data: bytes, /) -> Sample:
        """Look the object up."""
        return self._loaded[data]


def _hub(url: str, ref: TopicRef[Sample]) -> Callable[[], AbstractAsyncContextManager[FanwireManyHub]]:
    @asynccontextmanager
    async def hub() -> AsyncGenerator[FanwireManyHub]:
        async with Realtime.from_url(url) as realtime:
            yield FanwireManyHub(realtime, ref)

    return hub


def _variants() -> Sequence[Contender]:
    made = TopicRef("bench", "sample", _Made())
    variants = {
        "fanwire, as it is": _hub("memory://", Bench.sample),
        "without pydantic": _hub("memory://", made),
        "without pydantic and history": _hub("memory://?history=0", made),
    }
    return [contender(name, hub, lambda message: message.data.index, kind="fanwire") for name, hub in variants.items()]


async def _rounds(contenders: Sequence[Contender], subscribers: int, rounds: int) -> dict[str, list[Lap]]:
    what = fanout.case("burst", subscribers)
    laps: dict[str, list[Lap]] = {each.name: [] for each in contenders}
    for _ in range(rounds):
        for each in contenders:
            laps[each.name].append(await each.lap(what.scaled(each.share)))
    return laps


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line.

    Args:
        arguments: Instead of those of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description="Take the costs of a message away, one after the other.")
    parser.add_argument("--subscribers", type=int, default=10, metavar="N")
    parser.add_argument("--rounds", type=int, default=9, metavar="N")
    options = parser.parse_args(arguments)
    laps = asyncio.run(_rounds([ASYNC_FOR_FLOOR, COUNTING_FLOOR, *_variants()], options.subscribers, options.rounds))
    lines = [
        f"# What bounds a burst to {options.subscribers} subscribers",
        "",
        f"{options.rounds} interleaved rounds, medians of per-round ratios; compared as `{FANWIRE_MANY.name}`.",
        "",
        "| | µs per message | of the async-for floor | of the same, counting |",
        "|---|--:|--:|--:|",
    ]
    for name, own in laps.items():
        cost = statistics.median(options.subscribers / lap.wall_rate * 1e6 for lap in own)
        shares = [
            statistics.median(mine.wall_rate / top.wall_rate for mine, top in zip(own, laps[floor.name], strict=True))
            for floor in (ASYNC_FOR_FLOOR, COUNTING_FLOOR)
        ]
        lines.append(f"| {name} | {cost:.2f} | {shares[0]:.3f} | {shares[1]:.3f} |")
    _RESULTS.parent.mkdir(exist_ok=True)
    _RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
