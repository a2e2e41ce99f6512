"""What is run over Redis, in turns, and what came of it.

Within a case every contender runs one lap in every round, each round begins with another one, and a ratio is the median of those of the rounds. A lap opens and subscribes
its contender afresh. A contender that drops a message ends the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from fanwire import Realtime
from fanwire.testing.bench import FanwireSubject
from fanwire.testing.laps import Lap, Subject, awaited, paced, pipelined

from ..harness import BenchmarkError
from . import redis_peers, redis_raw
from .install import PEERS

__all__ = ("CASES", "HYBRID", "LIMIT", "PLAIN", "RATE", "RAW", "Case", "run_case", "without_peers")

Kind = Literal["pipelined", "awaited", "paced"]
Open = Callable[[int], AbstractAsyncContextManager[Subject[Any]]]  # Any: each has messages of its own kind

RATE = 200.0
"""Messages per second where latency is measured."""


def _fanwire(query: str) -> Open:
    @asynccontextmanager
    async def fanwire(port: int) -> AsyncGenerator[FanwireSubject]:
        async with Realtime.from_url(f"redis://127.0.0.1:{port}{query}") as realtime:
            yield FanwireSubject(realtime)

    return fanwire


PLAIN, HYBRID, RAW, LIMIT = "fanwire, history=0", "fanwire, with history", "redis-py", "limit"

_OPEN: dict[str, Open] = {
    "limit, without codec": redis_raw.limit_without_codec,
    LIMIT: redis_raw.limit,
    RAW: redis_raw.raw,
    PLAIN: _fanwire("?history=0"),
    HYBRID: _fanwire(""),
    "broadcaster": redis_peers.broadcaster,
    "litestar": redis_peers.litestar,
    "faststream": redis_peers.faststream,
}


class Case(NamedTuple):
    """One scenario with one number of subscribers."""

    name: str
    kind: Kind
    subscribers: int
    messages: int
    """In each lap."""

    contenders: tuple[str, ...]
    slow: Mapping[str, int] = MappingProxyType({})
    """Messages of contenders so slow that a lap as long as the others' would take minutes: rates are compared."""


_ALONE = ("limit, without codec", LIMIT, RAW, PLAIN, HYBRID)
CASES = (
    Case("pipelined, 1 subscriber", "pipelined", 1, 8192, _ALONE),
    Case("pipelined, 100 subscribers", "pipelined", 100, 2560, _ALONE),
    Case("50 publishers, 1 subscriber", "awaited", 1, 4000, (RAW, PLAIN, HYBRID)),
    Case(
        "50 publishers, 100 subscribers",
        "awaited",
        100,
        1500,
        (RAW, PLAIN, HYBRID, "broadcaster", "litestar", "faststream"),
        {"broadcaster": 500, "litestar": 500, "faststream": 50},
    ),
    Case("latency, 1 subscriber", "paced", 1, 300, (RAW, PLAIN, HYBRID)),
)
"""Everything, in the order it is run."""


async def run_case(case: Case, port: int, rounds: int, advance: Callable[[], None]) -> dict[str, list[Lap]]:
    """Run a case.

    Args:
        case: Which.
        port: The server's.
        rounds: How many times each contender runs.
        advance: Called after every round.

    Returns:
        The laps of each contender.

    Raises:
        BenchmarkError: If a contender drops, repeats or reorders a message.
    """
    laps: dict[str, list[Lap]] = {name: [] for name in case.contenders}
    for number in range(rounds):
        first = number % len(case.contenders)
        for name in (*case.contenders[first:], *case.contenders[:first]):
            async with asyncio.timeout(60), _OPEN[name](port) as subject:
                lap = await _lap(case, subject, case.slow.get(name, case.messages))
            if lap.delivered != lap.expected:
                raise BenchmarkError(f"{name}: {case.name}: {lap.delivered:,} of {lap.expected:,} deliveries arrived, once and in order")
            laps[name].append(lap)
        advance()
    return laps


def _lap(case: Case, subject: Subject[Any], messages: int) -> Awaitable[Lap]:  # Any: as above
    match case.kind:
        case "pipelined":
            return pipelined(subject, case.subscribers, messages)
        case "awaited":
            return awaited(subject, case.subscribers, messages)
        case "paced":
            return paced(subject, case.subscribers, messages, RATE)


def without_peers(cases: Sequence[Case]) -> tuple[Case, ...]:
    """The same without the libraries that would have to be installed."""
    return tuple(case._replace(contenders=tuple(name for name in case.contenders if name not in PEERS)) for case in cases)
