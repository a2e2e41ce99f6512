"""What an idle subscriber holds: 10,000 tasks wait in ``async for`` on one channel.

Each figure comes from a process of its own, so that what others left behind cannot serve it. `tracemalloc` and the resident set are measured in separate
processes, since tracing itself takes memory.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from .harness import BenchmarkError, Hub, Tally, settle
from .model import samples
from .peers import ANYIO_STREAMS, BROADCASTER, QUEUE_HUB
from .results import MemoryResult
from .subject import FANWIRE

__all__ = ("BARE_TASK", "PROBES", "SUBSCRIBERS", "main", "measure")

BARE_TASK = "bare task"
"""The floor: a task that waits for one future."""

_HUBS = {each.name: each for each in (QUEUE_HUB, ANYIO_STREAMS, BROADCASTER, FANWIRE)}

PROBES = (BARE_TASK, *_HUBS)
"""Names of everything that can be measured."""

SUBSCRIBERS = 10_000
"""How many are held at once."""

WARM = 100
"""Subscribers that come before the first reading, so that what is made once is not counted."""

GROUP = 100
"""So many subscribe at a time, so that the figure is what they hold and not the peak of a stampede."""

LIMIT = 100.0
"""Seconds after which a probe is given up."""

Start = Callable[[Tally[object]], Coroutine[object, object, None]]


def measure(subscribers: int, advance: Callable[[], None]) -> tuple[MemoryResult, ...]:
    """Measure every contender, each in fresh processes.

    Args:
        subscribers: How many to hold at once.
        advance: Called after every contender.

    Returns:
        One result for each.

    Raises:
        BenchmarkError: If a probe fails; the text has what it printed.
    """
    found: list[MemoryResult] = []
    for name in PROBES:
        traced, resident = _spawn(name, subscribers, "traced"), _spawn(name, subscribers, "resident")
        found.append(MemoryResult(name=name, subscribers=subscribers, traced=traced, resident=resident))
        advance()
    return tuple(found)


def _spawn(name: str, subscribers: int, how: str) -> float:
    command = [sys.executable, "-m", "benchmarks.memory", name, how, str(subscribers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise BenchmarkError(f"the memory probe of {name} failed:\n{done.stderr}")
    return float(done.stdout)


async def _idle(subscription: AbstractAsyncContextManager[AsyncIterable[object]], tally: Tally[object]) -> None:
    """An idle subscriber, as short as one can be written."""
    async with subscription as messages:
        tally.ready += 1
        async for _ in messages:
            tally.pending -= 1


async def _park(tally: Tally[object]) -> None:
    """A task that waits for one future."""
    tally.ready += 1
    await asyncio.get_running_loop().create_future()


async def _fill(group: asyncio.TaskGroup, start: Start, tally: Tally[object], count: int) -> list[asyncio.Task[None]]:
    """Start that many tasks, a group at a time, and let all of them come to rest."""
    tasks: list[asyncio.Task[None]] = []
    while len(tasks) < count:
        wanted = tally.ready + min(GROUP, count - len(tasks))
        # The very first goes alone: broadcaster forgets one of two that come first at the same time.
        wanted = wanted if tally.ready else 1
        tasks += [group.create_task(start(tally)) for _ in range(wanted - tally.ready)]
        while tally.ready < wanted:
            await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    return tasks


async def _held(start: Start, read: Callable[[], int], count: int, hub: Hub[object] | None) -> float:
    """Bytes that each of so many tasks adds."""
    tally: Tally[object] = Tally()
    async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as group:
        tasks = await _fill(group, start, tally, WARM)
        before = read()
        tasks += await _fill(group, start, tally, count)
        after = read()
        if hub is not None:  # every one of them must really be subscribed
            tally.pending = len(tasks)
            await hub.send(samples(1))
            await settle(tally)
        for task in tasks:
            task.cancel()
    return (after - before) / count


async def _probe(name: str, read: Callable[[], int], count: int) -> float:
    """Open what is to be measured, and measure it."""
    opener = _HUBS[name].open_hub if name in _HUBS else None
    if opener is None:
        return await _held(_park, read, count, None)
    async with opener() as hub:
        return await _held(lambda tally: _idle(hub.subscribe(), tally), read, count, hub)


def _traced_bytes() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _resident_bytes() -> int:
    gc.collect()
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # elsewhere: the peak, which these probes reach at their end
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Measure one contender in this process and print bytes per subscriber."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=main.__doc__)
    parser.add_argument("name", choices=PROBES)
    parser.add_argument("how", choices=("traced", "resident"))
    parser.add_argument("subscribers", type=int, nargs="?", default=SUBSCRIBERS)
    options = parser.parse_args()
    traced = options.how == "traced"
    if traced:
        tracemalloc.start()
    print(asyncio.run(_probe(options.name, _traced_bytes if traced else _resident_bytes, options.subscribers)))


if __name__ == "__main__":
    main()
