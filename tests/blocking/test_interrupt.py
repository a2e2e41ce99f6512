"""Ctrl-C in the main thread: prompt wherever it waits, nothing lost, and everything usable afterwards. The signals are real, in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.blocking.support import program, run_program

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no os.kill with SIGINT")

PROMPT = 2.0
"""Seconds within which an interrupt is to be seen; what is waited for would take for ever."""


def read(process: subprocess.Popen[str], line: str) -> None:
    """Wait for a line."""
    assert process.stdout is not None
    found = process.stdout.readline().strip()
    assert found == line, f"{found!r}: {process.stderr.read() if not found and process.stderr else ''}"


def ended(process: subprocess.Popen[str]) -> Iterator[str]:
    """Wait for the end, which must be a good one, and yield what stderr has."""
    assert process.stderr is not None
    assert process.wait(10) == 0, process.stderr.read()
    yield from process.stderr.read().splitlines()


WAITS = {
    "get": "messages.get()",
    "for": "list(messages)",
    "batches": "list(messages.batches(max_size=10, max_wait=60.0))",
    "events": "list(events)",
    "publish": "transport.faults.block(); rt.publish(room.a, 1, timeout=60)",
    "subscribe": "transport.faults.block(); rt.subscribe(Room(number=10 + turn).b).__enter__()",
    "step": 'rt.run("r", steps=MemoryStepStore()).step.run("s", threading.Event().wait)',
}


@pytest.mark.parametrize("wait", WAITS)
def test_it_is_prompt_and_all_goes_on(tmp_path: Path, wait: str) -> None:
    code = f"""
    from fanwire.runs import MemoryStepStore
    from fanwire_memory import MemoryTransport
    transport = MemoryTransport()
    with BlockingRealtime(transport, connect_timeout=60) as rt, rt.subscribe(room.a) as messages, rt.events() as events:
        next(events)
        for turn in range(3):
            try:
                say("waiting")
                {WAITS[wait]}
            except KeyboardInterrupt:
                say("interrupted")
            transport.faults.resume()
        rt.publish_many([room.a(2), room.a(3)])
        left = 3
        while left != 2:
            left = messages.get(timeout=5).data
        say(messages.get(timeout=5).data, rt.stats().subscriptions)
    say("closed")
    """
    with program(code, tmp_path) as process:
        for _ in range(3):
            read(process, "waiting")
            begin = time.monotonic()
            process.send_signal(signal.SIGINT)
            read(process, "interrupted")
            assert time.monotonic() - begin < PROMPT
        read(process, "3 1")
        read(process, "closed")
        assert list(ended(process)) == []


@pytest.mark.parametrize("where", ["opening", "first use", "closing"])
def test_it_ends_opening_and_closing(tmp_path: Path, where: str) -> None:
    wait = {"opening": "rt.__enter__()", "first use": "rt.publish(room.a, 1)", "closing": "rt.close(60)"}[where]
    closing = "True" if where == "closing" else "False"
    code = f"""
    import logging
    from fanwire_memory import MemoryTransport
    logging.disable()
    transport = MemoryTransport()
    rt = BlockingRealtime(transport, connect_timeout=60)
    if {closing}:
        rt.ping()
        transport.faults.block()
        def publish() -> None:
            try:
                rt.publish(room.a, 1, timeout=60)
            except errors.FanwireError as error:
                say(type(error).__name__)
        def tell() -> None:
            while rt._portal.over is None:
                time.sleep(0.001)
            say("waiting")
        threading.Thread(target=publish).start()
        while not rt.stats().publishing:
            time.sleep(0.001)
        threading.Thread(target=tell).start()
    else:
        transport.faults.disconnect(refuse=10**9)
    try:
        if not {closing}:
            say("waiting")
        {wait}
    except KeyboardInterrupt:
        say("interrupted")
    """
    with program(code, tmp_path) as process:
        read(process, "waiting")
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        if where == "closing":
            assert process.stdout is not None
            assert sorted(process.stdout.readline().strip() for _ in range(2)) == ["Closed", "interrupted"]
        else:
            read(process, "interrupted")
        assert time.monotonic() - begin < PROMPT
        assert list(ended(process)) == []
        assert time.monotonic() - begin < 2 * PROMPT


STORM = """
    import random

    armed = False

    def stop(number: int, frame: object) -> None:
        global armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    def publish() -> None:
        for n in range({count}):
            rt.publish(room.a, n)

    def iterate() -> None:
        global item
        for item in messages:
            got.append(item.data)
            if len(got) == {count}:
                break

    def get() -> None:
        global item
        item = messages.get(timeout=2.0)
        got.append(item.data)

    def batch() -> None:
        global item
        for item in messages.batches(max_size=7):
            got.extend([message.data for message in item])
            if len(got) == {count}:
                break

    def mixed() -> None:
        dice.choice([iterate, get, batch])()

    got: list[int] = []
    item: object = None
    interrupts = 0
    signal.signal(signal.SIGALRM, stop)
    dice = random.Random(1)
    with BlockingRealtime.from_url("memory://", buffer={count}) as rt, rt.subscribe(room.a) as messages:
        publisher = threading.Thread(target=publish)
        publisher.start()
        while len(got) < {count}:
            item = None
            try:
                armed = interrupts < {most}
                signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.00001, 0.002))
                {take}()
                armed = False
            except KeyboardInterrupt:
                interrupts += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            # Interrupted between receiving and noting: it is in the user's hands.
            for message in [] if item is None else item if isinstance(item, list) else [item]:
                if not got or got[-1] < message.data:
                    got.append(message.data)
        publisher.join()
        say(got == list(range({count})), interrupts >= {least}, messages.stats().received == {count}, rt.stats().subscriptions)
"""


@pytest.mark.slow
@pytest.mark.parametrize("take", ["iterate", "get", "batch", "mixed"])
def test_a_storm_of_interrupts_loses_nothing(tmp_path: Path, take: str) -> None:
    """A timer interrupts at any place whatever, hundreds of times; each message comes once, in order."""
    assert run_program(STORM.format(count=5000, least=20, most=400, take=take), tmp_path, 40) == ["True True True 1"]


@pytest.mark.slow
def test_a_storm_would_show_a_loss(tmp_path: Path) -> None:
    """Shows that the test above would notice: a call between taking an item and handing it out is enough."""
    spoil = """
    take = BlockingSubscription.get

    def careless(self: BlockingSubscription, timeout: float | None = None) -> object:
        found = take(self, timeout)
        for _ in range(300):
            repr(found)
        return found

    BlockingSubscription.get = careless
    """
    with pytest.raises(AssertionError, match="no message within"):
        run_program(spoil + STORM.format(count=3000, least=20, most=400, take="get"), tmp_path, 40)
