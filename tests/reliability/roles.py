"""What takes part, each in a process of its own: ``python -m tests.reliability.roles ROLE URL FILE ...``. What it does goes to FILE, line by line; ``ready`` to standard output.

* ``publish URL FILE NAMES CHANNELS RATE SECONDS``: publishers of these names, messages per second in all.
* ``subscribe URL FILE NUMBERS PER CHANNELS``: subscriptions of these numbers, to so many channels each, until the end has come on all of them.
* ``finish URL FILE CHANNELS``: the last message of each channel.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from typing import TextIO

import anyio

from fanwire import Channel, Gap, Realtime, topic
from fanwire.errors import FanwireError

__all__ = ("END", "Room", "wanted")

END = "end"


class Room(Channel, name="room:{number}"):
    """One of many."""

    number: int
    said = topic(str)
    """``<publisher>:<n>``"""


def wanted(subscription: int, each: int, channels: int) -> list[int]:
    """Return the channels of a subscription: all channels are wanted, some by several."""
    drawn = random.Random(subscription).sample(range(channels), each // 5)
    own = ((subscription * each + index) % channels for index in range(each))
    return sorted({*drawn, *own})


def _write(file: TextIO, *what: object) -> None:
    file.write(json.dumps(what) + "\n")


def _ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


async def publish(url: str, file: TextIO, names: str, channels: str, rate: str, seconds: str) -> None:
    """See the module."""
    publishers = names.split(",")

    async def one(rt: Realtime, name: str, counts: dict[int, int], number: int) -> None:
        counts[number] = n = counts.get(number, 0) + 1
        room = Room(number=number)
        _write(file, "tries", room.name, name, n)
        try:
            await rt.publish(room.said, f"{name}:{n}", timeout=30)
        except FanwireError as error:
            _write(file, "failed", room.name, name, n, f"{type(error).__name__}: {error}")
            return
        _write(file, "accepted", room.name, name, n)

    async def run(name: str) -> None:
        draw = random.Random(name)
        counts: dict[int, int] = {}
        pause = 10 * len(publishers) / float(rate)
        async with Realtime.from_url(url) as rt, anyio.create_task_group() as tasks:
            end = anyio.current_time() + float(seconds)
            while anyio.current_time() < end:
                for number in draw.sample(range(int(channels)), 10):
                    tasks.start_soon(one, rt, name, counts, number)
                await anyio.sleep(pause)

    async with anyio.create_task_group() as tasks:
        for name in publishers:
            tasks.start_soon(run, name)
        _ready()


async def subscribe(url: str, file: TextIO, numbers: str, each: str, channels: str) -> None:
    """See the module."""
    first, _, last = numbers.partition("-")
    chosen = range(int(first), int(last))
    missing = anyio.Event()
    left = len(chosen)

    async def one(rt: Realtime, subscription: int) -> None:
        nonlocal left
        rooms = [Room(number=number) for number in wanted(subscription, int(each), int(channels))]
        open_ = {room.name for room in rooms}
        async with rt.subscribe(*(room.said for room in rooms), buffer=10_000).with_gaps() as items:
            left -= 1
            if not left:
                missing.set()
            async for item in items:
                if isinstance(item, Gap):
                    _write(file, subscription, "gap", item.channel, item.reason.value)
                elif item.data == END:
                    open_.discard(item.channel)
                    if not open_:
                        return
                else:
                    _write(file, subscription, "came", item.channel, *item.data.split(":"))

    async with Realtime.from_url(url) as rt, anyio.create_task_group() as tasks:
        for subscription in chosen:
            tasks.start_soon(one, rt, subscription)
        await missing.wait()
        _ready()


async def finish(url: str, file: TextIO, channels: str) -> None:
    """See the module."""
    async with Realtime.from_url(url) as rt:
        for begin in range(0, int(channels), 500):
            rooms = [Room(number=number) for number in range(begin, min(begin + 500, int(channels)))]
            await rt.publish_many([room.said(END) for room in rooms], timeout=30)
    _write(file, "finished")


ROLES: dict[str, Callable[..., object]] = {"publish": publish, "subscribe": subscribe, "finish": finish}

if __name__ == "__main__":
    role, url, path, *rest = sys.argv[1:]
    with open(path, "w", encoding="utf-8") as out:  # noqa: PTH123 - a path as it was given
        anyio.run(ROLES[role], url, out, *rest)  # type: ignore[arg-type]  # each takes what its line says
