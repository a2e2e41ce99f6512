"""A durable publish survives the death of its process at any moment: a real process is killed, another one goes on, and an independent subscriber counts once.

The broker and the subscriber are here, in the parent. The child publishes through its pipes, so that the broker outlives it as a server would.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from fanwire import Realtime
from fanwire.cli.relay import relayed
from fanwire_memory import MemoryOptions, MemoryTransport
from tests.runs.crashing import TOPIC

STEPS = 12
BROKERS = [
    pytest.param(MemoryOptions(), id="the-broker-suppresses"),
    pytest.param(MemoryOptions(history=0), id="the-receiving-hub-suppresses"),
]


def script(store: Path, *, steps: int = 3, doomed: str | None = None, moment: str = "", keyless: bool = False) -> list[str]:
    """Return the arguments of an attempt."""
    job = {"store": str(store), "run": "order-17", "steps": steps, "doomed": doomed, "moment": moment, "keyless": keyless}
    return [sys.executable, str(Path(__file__).with_name("crashing.py")), json.dumps(job)]


class Parent:
    """Starts attempts and publishes for them, on a broker of its own; counts what a subscriber sees."""

    def __init__(self, options: MemoryOptions) -> None:
        self.transport = MemoryTransport(options=options)
        self.published: Counter[int] = Counter()
        """By number, how often the child handed over its message."""
        self.seen: Counter[int] = Counter()
        """By number, how often a subscriber received it."""

    async def run(self, attempts: Sequence[Callable[[], int]]) -> list[int]:
        """Make attempts one after the other; return their exit codes."""
        async with Realtime(self.transport) as rt, rt.subscribe(TOPIC) as messages:
            codes = [await anyio.to_thread.run_sync(attempt) for attempt in attempts]
            # What was published is there: the broker delivers in order, and this message is the last one.
            await rt.publish(TOPIC, {"number": -1})
            async for message in messages:
                if message.data["number"] == -1:
                    return codes
                self.seen[message.data["number"]] += 1
        raise AssertionError("the subscription ended")

    def attempt(self, arguments: list[str], intervene: Callable[[subprocess.Popen[bytes], str], None] = lambda *_: None) -> Callable[[], int]:
        """Return what makes an attempt in a process. ``intervene`` is called before each message is published, after that, and after the child was told."""

        def make() -> int:
            with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                try:
                    for request in process.stdout:
                        intervene(process, "before")
                        if process.returncode is not None:
                            break
                        answer = self._publish(request)
                        intervene(process, "published")
                        tell(process.stdin.fileno(), answer)
                        intervene(process, "told")
                    return process.wait(20)
                finally:
                    process.kill()

        return make

    def _publish(self, request: bytes) -> bytes:
        for message in json.loads(request):
            self.published[json.loads(message["data"])["number"]] += 1
        return anyio.from_thread.run(relayed, request, self.transport)


def tell(stdin: int, answer: bytes) -> None:
    with suppress(BrokenPipeError):  # it may be dead
        os.write(stdin, answer)


def recorded(store: Path) -> int:
    """Count the steps on record, past fanwire."""
    with closing(sqlite3.connect(store)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM fanwire_steps").fetchone()
    assert isinstance(count, int)
    return count


@pytest.mark.parametrize("options", BROKERS)
def test_killed_between_publishing_and_recording_it_is_seen_once(tmp_path: Path, options: MemoryOptions) -> None:
    store, parent = tmp_path / "steps.db", Parent(options)
    doomed = script(store, doomed="notify:1", moment="before the record")
    codes = anyio.run(parent.run, [parent.attempt(doomed), parent.attempt(script(store))])
    assert codes == [-signal.SIGKILL, 0]
    assert parent.published == {0: 1, 1: 2, 2: 1}  # the second message went out twice ...
    assert parent.seen == {0: 1, 1: 1, 2: 1}  # ... and came once
    assert recorded(store) == 3


@pytest.mark.parametrize("options", BROKERS)
def test_killed_again_and_again_it_is_seen_once(tmp_path: Path, options: MemoryOptions) -> None:
    store, parent = tmp_path / "steps.db", Parent(options)
    doomed = [parent.attempt(script(store, doomed="notify:1", moment="before the record")) for _ in range(3)]
    codes = anyio.run(parent.run, [*doomed, parent.attempt(script(store))])
    assert codes == [-signal.SIGKILL] * 3 + [0]
    assert parent.published == {0: 1, 1: 4, 2: 1}
    assert parent.seen == {0: 1, 1: 1, 2: 1}


def test_killed_right_after_the_record_it_is_not_even_published_again(tmp_path: Path) -> None:
    store, parent = tmp_path / "steps.db", Parent(MemoryOptions())
    doomed = script(store, doomed="notify:1", moment="after the record")
    codes = anyio.run(parent.run, [parent.attempt(doomed), parent.attempt(script(store))])
    assert codes == [-signal.SIGKILL, 0]
    assert parent.published == parent.seen == {0: 1, 1: 1, 2: 1}


@pytest.mark.parametrize("options", BROKERS)
def test_without_its_key_it_would_be_seen_twice(tmp_path: Path, options: MemoryOptions) -> None:
    """The tests above can fail: it is the key that they prove."""
    store, parent = tmp_path / "steps.db", Parent(options)
    doomed = script(store, doomed="notify:1", moment="before the record", keyless=True)
    codes = anyio.run(parent.run, [parent.attempt(doomed), parent.attempt(script(store, keyless=True))])
    assert codes == [-signal.SIGKILL, 0]
    assert parent.seen == {0: 1, 1: 2, 2: 1}


@pytest.mark.parametrize("options", BROKERS)
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments_everything_is_seen_once(tmp_path: Path, seed: int, options: MemoryOptions) -> None:
    """The parent kills the child before, between and after its writes; told the answer, the child is killed wherever it then is."""
    store, parent, dice = tmp_path / "steps.db", Parent(options), random.Random(seed)

    def killer() -> Callable[[subprocess.Popen[bytes], str], None]:
        left, moment = dice.randint(1, 4), dice.choice(["before", "published", "told"])

        def intervene(process: subprocess.Popen[bytes], now: str) -> None:
            nonlocal left
            left -= now == "before"
            if not left and now == moment:
                process.kill()
                process.wait(20)
                left = -1

        return intervene

    attempts = [parent.attempt(script(store, steps=STEPS), killer()) for _ in range(3)]
    codes = anyio.run(parent.run, [*attempts, parent.attempt(script(store, steps=STEPS))])
    assert codes[-1] == 0
    assert -signal.SIGKILL in codes
    assert parent.seen == dict.fromkeys(range(STEPS), 1)
    assert recorded(store) == STEPS
