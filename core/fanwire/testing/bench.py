"""Measure a transport: ``python -m fanwire.testing.bench redis://localhost --subscribers 1,100 [--json]``.

Messages of 256 bytes, validated by pydantic, go through one Realtime: pipelined by ``publish_many``, awaited by 50 concurrent publishers, and one by one at a fixed rate, for
latency; see :mod:`~fanwire.testing.laps`. ``memory://`` takes turns with the transport in the same run: rates move with the machine, ratios within one run hardly do.

In place of a URL, ``package.module:MyHarness`` names a transport by its :class:`~fanwire.testing.harness.Harness`.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import secrets
import statistics
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple, final

import anyio

from ..channels import StaticChannel
from ..errors import FanwireError
from ..messages import Message
from ..realtime import Realtime
from ..registry import open_transport
from ..subscription import Subscription
from ..topics import topic
from ..transport import Transport
from .harness import Harness
from .laps import Lap, Sample, awaited, paced, pipelined

__all__ = ("FanwireSubject", "Figure", "main", "measure")


class _Bench(StaticChannel, name="bench"):
    sample = topic(Sample)


@final
class FanwireSubject:
    """A Realtime, used as its documentation shows: a :class:`~fanwire.testing.laps.Subject`."""

    def __init__(self, realtime: Realtime) -> None:
        self._realtime = realtime

    def subscribe(self) -> Subscription[Message[Sample]]:
        """One subscription to the one topic."""
        return self._realtime.subscribe(_Bench.sample)

    async def publish(self, sample: Sample, /) -> None:
        """Await one publish."""
        await self._realtime.publish(_Bench.sample, sample)

    async def publish_many(self, burst: Sequence[Sample], /) -> None:
        """Await one call for all."""
        ref = _Bench.sample
        await self._realtime.publish_many([ref(sample) for sample in burst])

    def index(self, received: Message[Sample], /) -> int:
        """Read the number of a message."""
        return received.data.index


@final
class Figure(NamedTuple):
    """One scenario with one number of subscribers. The ratio is the median of those of the rounds; of latency that of all samples."""

    scenario: str
    subscribers: int
    unit: str
    transport: float
    memory: float
    ratio: float
    published: int
    """Over all rounds."""

    dropped: int
    """Deliveries that are missing, over all rounds."""


Open = Callable[[], AbstractAsyncContextManager[Realtime]]
_Scenario = Callable[[FanwireSubject, int], Awaitable[Lap]]


def _realtime(transport: Transport) -> Realtime:
    """Make room: publishers that need not wait for a network run ahead of subscribers, and what is measured is not how that is met."""
    return Realtime(transport, buffer=2**16, buffer_bytes=2**26)


async def measure(opener: Open, subscribers: Sequence[int], messages: int, rounds: int, rate: float) -> list[Figure]:
    """Run every scenario, in turns with ``memory://``.

    Args:
        opener: Opens a Realtime on the transport, in a namespace that nothing else uses.
        subscribers: Numbers of subscribers.
        messages: Published in each round of each scenario; for latency over all rounds.
        rounds: How often each scenario is run.
        rate: Messages per second where latency is measured.

    Returns:
        A figure per scenario and number of subscribers; two for latency, in microseconds.
    """
    scenarios: dict[str, _Scenario] = {
        "pipelined": lambda subject, count: pipelined(subject, count, messages),
        "50 publishers": lambda subject, count: awaited(subject, count, messages),
        "latency": lambda subject, count: paced(subject, count, -(-messages // rounds), rate),
    }
    return [figure for count in subscribers for name in scenarios for figure in await _scenario(name, scenarios[name], opener, count, rounds)]


async def _scenario(name: str, scenario: _Scenario, opener: Open, subscribers: int, rounds: int) -> list[Figure]:
    ours: list[Lap] = []
    memory: list[Lap] = []
    for number in range(rounds):
        turns = [(opener, ours), (_memory, memory)]
        for opens, laps in turns if number % 2 else reversed(turns):
            async with opens() as realtime:
                laps.append(await scenario(FanwireSubject(realtime), subscribers))
    published, dropped = sum(lap.published for lap in ours), sum(lap.expected - lap.delivered for lap in ours)

    def figure(what: str, unit: str, here: float, there: float, ratio: float) -> Figure:
        return Figure(what, subscribers, unit, here, there, ratio, published, dropped)

    if name != "latency":
        rates = [statistics.median(lap.rate for lap in laps) for laps in (ours, memory)]
        ratio = statistics.median(lap.rate / other.rate if other.rate else 0.0 for lap, other in zip(ours, memory, strict=True))
        return [figure(name, "deliveries/s", rates[0], rates[1], ratio)]
    found: list[Figure] = []
    for label, share in (("p50", 0.5), ("p99", 0.99)):
        here, there = (_quantile([delay for lap in laps for delay in lap.delays], share) * 1e6 for laps in (ours, memory))
        found.append(figure(f"{name} {label}", "microseconds", here, there, here / there if there else 0.0))
    return found


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(share * len(values))] if values else 0.0


def _memory() -> Realtime:
    return _realtime(open_transport("memory://"))


# ------------------------------------------------------------------ the command


def _opener(target: str) -> Open:
    """Return what opens a Realtime on a URL's transport, or on a harness's, in a namespace of this run's own.

    Raises:
        FanwireError: the URL is wrong, or its transport is not installed.
        ValueError: there is no such harness.
    """
    namespace = f"bench-{secrets.token_hex(6)}"
    if "://" in target:
        open_transport(target, namespace=namespace)  # whatever is wrong with it, now
        return lambda: _realtime(open_transport(target, namespace=namespace))
    module, _, name = target.partition(":")
    try:
        harness: object = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{target!r} is neither a URL, such as redis://localhost, nor package.module:Harness ({error})") from error
    if not (isinstance(harness, type) and issubclass(harness, Harness)):
        raise ValueError(f"{target!r} is no subclass of fanwire.testing.harness.Harness")  # noqa: TRY004 - what was typed is wrong, no type
    return functools.partial(_by_harness, harness, namespace)


@asynccontextmanager
async def _by_harness(harness: type[Harness], namespace: str) -> AsyncGenerator[Realtime]:
    async with harness(namespace) as made, _realtime(made.transport()) as realtime:
        yield realtime


def _table(figures: Sequence[Figure]) -> str:
    rows = [["scenario", "subscribers", "unit", "transport", "memory://", "ratio", "published", "dropped"]]
    for each in figures:
        numbers = [f"{value:,.0f}" for value in (each.transport, each.memory)]
        rows.append([each.scenario, f"{each.subscribers:,}", each.unit, *numbers, f"{each.ratio:.3g}", f"{each.published:,}", f"{each.dropped:,}"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) if column in (0, 2) else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line.

    Args:
        arguments: Instead of those of the process.

    Returns:
        Exit status: 0; 1 if deliveries are missing; 2 if the transport cannot be used; 130 if interrupted.
    """
    parser = argparse.ArgumentParser(prog="python -m fanwire.testing.bench", description="Measure a transport, in turns with memory://.")
    parser.add_argument("target", help="URL of the transport, or package.module:Harness")
    parser.add_argument("--subscribers", default=[1, 100], metavar="N,...", type=_counts, help="numbers of subscribers (default 1,100)")
    parser.add_argument("--messages", default=2000, metavar="N", type=_positive, help="messages in each round of each scenario (default 2000)")
    parser.add_argument("--rounds", default=5, metavar="N", type=_positive, help="rounds (default 5)")
    parser.add_argument("--rate", default=200, metavar="N", type=_positive, help="messages per second where latency is measured (default 200)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    try:
        figures = anyio.run(measure, _opener(options.target), options.subscribers, options.messages, options.rounds, options.rate)
    except (FanwireError, ValueError, ExceptionGroup) as error:
        sys.stderr.write(f"error: {_innermost(error)}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    sys.stdout.write((json.dumps([figure._asdict() for figure in figures], indent=2) if options.json else _table(figures)) + "\n")
    return 1 if any(figure.dropped for figure in figures) else 0


def _innermost(error: Exception) -> Exception:
    """Return what a task group has wrapped; of several the first."""
    inner: Sequence[Exception] = getattr(error, "exceptions", ())
    return _innermost(inner[0]) if inner else error


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number of at least 1, got {text!r}")
    return int(text)


def _counts(text: str) -> list[int]:
    return [_positive(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
