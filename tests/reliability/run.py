"""One run: processes that publish and subscribe, a broker that is broken under them, and the account of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from tests.reliability.audit import GAP, Account, Id, audit, read
from tests.reliability.roles import Room, wanted

__all__ = ("Load", "run")

ROOT = Path(__file__).parents[2]


@final
@dataclass(frozen=True)
class Load:
    """How much is to be done."""

    subscriptions: int = 1000
    each: int = 5
    """Channels of a subscription that no other has; it has a fifth more of others'."""

    channels: int = 5000
    publishers: int = 10
    rate: int = 1500
    """Messages per second, of all publishers."""

    seconds: float = 60.0
    patience: float = 120.0
    """Seconds in which everybody has to be ready, and to be done."""


class Actor:
    """A role in a process."""

    def __init__(self, directory: Path, name: str, role: str, url: str, *arguments: object) -> None:
        self.file = directory / f"{name}.jsonl"
        self._log = directory / f"{name}.log"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, "-m", "tests.reliability.roles", role, url, str(self.file), *map(str, arguments)]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environment, cwd=directory)

    def ready(self) -> None:
        """Wait until it says that it is."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n", self._said()

    def done(self, patience: float) -> None:
        """Wait until it has ended."""
        try:
            code = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it was not done within {patience:g} s: {self._said()}") from None
        assert code == 0, self._said()

    def end(self) -> None:
        """Have it gone."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _said(self) -> str:
        return f"{self.file.stem}:\n{self._log.read_text(errors='replace')[-3000:]}"


def run(
    directory: Path, url: str, load: Load, breaks: Sequence[Callable[[], None]], stored: Callable[[list[str]], Mapping[str, Sequence[Id]]]
) -> Account:
    """Publish for ``load.seconds``, do all of ``breaks`` meanwhile, evenly spread, and compare.

    Args:
        directory: For what all write down.
        url: The broker, namespace included.
        load: How much.
        breaks: What to do to the broker.
        stored: Reads what the broker keeps, by a client that is not fanwire's.
    """
    names = [f"p{number}" for number in range(load.publishers)]
    half = load.subscriptions // 2
    with _acting() as begin:
        readers = [
            begin(Actor(directory, f"subscribe{first}", "subscribe", url, f"{first}-{last}", load.each, load.channels))
            for first, last in ((0, half), (half, load.subscriptions))
        ]
        for reader in readers:
            reader.ready()
        arguments = (load.channels, load.rate / 2, load.seconds)
        writers = [begin(Actor(directory, f"publish{odd}", "publish", url, ",".join(names[odd::2]), *arguments)) for odd in (0, 1)]
        for writer in writers:
            writer.ready()
        _break(breaks, load.seconds)
        for writer in writers:
            writer.done(load.seconds + load.patience)
        last = begin(Actor(directory, "finish", "finish", url, load.channels))
        last.done(load.patience)
        for reader in readers:
            reader.done(load.patience)
    published = [line for writer in writers for line in read(writer.file)]
    rooms = [Room(number=number).name for number in range(load.channels)]
    return audit(published, _came(readers, load), stored(rooms))


@contextmanager
def _acting() -> Generator[Callable[[Actor], Actor]]:
    actors: list[Actor] = []

    def begin(actor: Actor) -> Actor:
        actors.append(actor)
        return actor

    try:
        yield begin
    finally:
        for actor in actors:
            actor.end()


def _break(breaks: Sequence[Callable[[], None]], seconds: float) -> None:
    begin = time.monotonic()
    for number, break_ in enumerate(breaks, 1):
        time.sleep(max(0.0, begin + seconds * number / (len(breaks) + 1) - time.monotonic()))  # the load's own pace, nothing is waited for
        break_()


def _came(readers: Sequence[Actor], load: Load) -> dict[str, dict[str, list[Id | str]]]:
    found: dict[str, dict[str, list[Id | str]]] = {
        str(number): {Room(number=room).name: [] for room in wanted(number, load.each, load.channels)} for number in range(load.subscriptions)
    }
    for reader in readers:
        line: list[Any]  # Any: JSON
        for line in read(reader.file):
            channels = found[str(line[0])]
            if line[1] == "gap":
                for channel in channels if line[2] is None else (line[2],):
                    channels[channel].append(GAP)
            else:
                channels[line[2]].append(Id(line[3], int(line[4])))
    return found
