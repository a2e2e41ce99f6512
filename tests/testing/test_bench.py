"""The benchmark that any transport's author can run: what it counts, and its command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.streams.memory import MemoryObjectSendStream

from fanwire import Realtime
from fanwire.errors import ConnectionLost
from fanwire.testing import bench, laps
from fanwire.testing.laps import BURST, PUBLISHERS, Lap, Sample, Subject, awaited, paced, pipelined, samples

Fault = Callable[[Sequence[Sample]], Sequence[Sample]]


class Toy:
    """A fan-out by memory streams that does to messages what ``fault`` says."""

    def __init__(self, fault: Fault = lambda burst: burst) -> None:
        self._fault = fault
        self._streams: list[MemoryObjectSendStream[Sample]] = []

    @asynccontextmanager
    async def subscribe(self) -> AsyncGenerator[AsyncIterator[Sample]]:
        send, receive = anyio.create_memory_object_stream[Sample](100_000)
        self._streams.append(send)
        async with send, receive:
            yield receive

    async def publish(self, sample: Sample, /) -> None:
        await self.publish_many([sample])

    async def publish_many(self, burst: Sequence[Sample], /) -> None:
        for sample in self._fault(burst):
            for stream in self._streams:
                stream.send_nowait(sample)

    def index(self, received: Sample, /) -> int:
        return received.index


async def each_way(subject: Callable[[], Subject[Sample]]) -> list[Lap]:
    return [await pipelined(subject(), 3, 2 * BURST), await awaited(subject(), 3, 3 * PUBLISHERS), await paced(subject(), 3, 5, 1000)]


def test_a_message_has_256_bytes() -> None:
    assert {len(sample.model_dump_json()) for sample in samples(300)} == {256}


@pytest.mark.anyio
async def test_every_delivery_is_counted() -> None:
    found = await each_way(Toy)
    assert [lap.published for lap in found] == [2 * BURST, 3 * PUBLISHERS, 5]
    assert [lap.delivered for lap in found] == [lap.expected for lap in found] == [6 * BURST, 9 * PUBLISHERS, 15]
    assert all(lap.seconds > 0 and lap.rate > 0 for lap in found)
    assert len(found[2].delays) == 15
    assert all(0 < delay < 5 for delay in found[2].delays)


@pytest.mark.anyio
async def test_a_message_that_is_lost_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laps, "_STALLED", 0.5)  # many times what a burst takes here
    last = {100_000 + 3 * BURST - 1, 100_000 + 4 * PUBLISHERS - 1, 100_005}
    found = await each_way(lambda: Toy(lambda burst: [sample for sample in burst if sample.index not in last]))
    # Number 5 is in all three, and the pipelined one also holds the last of the awaited.
    assert [lap.expected - lap.delivered for lap in found] == [3 * 3, 3 * 2, 3]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda burst: [*burst, burst[-1]], id="twice"),
        pytest.param(lambda burst: [*burst[:-2], burst[-1], burst[-2]] if len(burst) > 1 else [burst[0], burst[0]], id="swapped"),
    ],
)
async def test_what_comes_twice_or_out_of_order_counts_for_nothing(fault: Fault) -> None:
    assert [lap.delivered for lap in await each_way(lambda: Toy(fault))] == [0, 0, 0]


@pytest.mark.anyio
async def test_a_realtime_can_be_measured() -> None:
    figures = await bench.measure(lambda: Realtime.from_url("memory://"), [1, 2], 20, 1, 2000)
    assert [(figure.scenario, figure.subscribers) for figure in figures] == [
        (scenario, count) for count in (1, 2) for scenario in ("pipelined", "50 publishers", "latency p50", "latency p99")
    ]
    assert all(figure.transport > 0 and figure.memory > 0 and figure.ratio > 0 for figure in figures)
    assert {figure.dropped for figure in figures} == {0}
    assert figures[0].published == BURST


# ------------------------------------------------------------------ the command

SMALL = ("--subscribers", "2", "--messages", "50", "--rounds", "1", "--rate", "2000")


@pytest.mark.parametrize("target", ["memory://", "tests.conformance.harnesses:MemoryHarness"])
def test_it_prints_a_table(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([target, *SMALL]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["scenario", "subscribers", "unit", "transport", "memory://", "ratio", "published", "dropped"]
    assert [row.split()[0] for row in rows] == ["pipelined", "50", "latency", "latency"]
    assert len({len(line) for line in (heading, *rows)}) == 1


def test_it_prints_json() -> None:
    command = [sys.executable, "-m", "fanwire.testing.bench", "memory://", *SMALL, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert [figure["scenario"] for figure in json.loads(done.stdout)] == ["pipelined", "50 publishers", "latency p50", "latency p99"]


def test_drops_end_it_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(laps, "_STALLED", 0.5)  # many times what a burst takes here
    monkeypatch.setattr(bench.FanwireSubject, "publish", _sometimes(bench.FanwireSubject.publish))
    assert bench.main(["memory://", *SMALL]) == 1
    dropped = [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]]
    assert dropped[0] == "0"
    assert int(dropped[1]) > 0


def _sometimes(
    publish: Callable[[bench.FanwireSubject, Sample], object],
) -> Callable[[bench.FanwireSubject, Sample], object]:
    async def lossy(self: bench.FanwireSubject, sample: Sample, /) -> None:
        if sample.index % 100 != 99:
            await publish(self, sample)  # type: ignore[misc]  # a coroutine function

    return lossy


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("nowhere://", "no transport"),
        ("memory://?history=many", "history"),
        ("no.such.module:Harness", "neither a URL"),
        ("fanwire.testing.harness:Missing", "neither a URL"),
        ("fanwire:Realtime", "is no subclass of fanwire.testing.harness.Harness"),
    ],
)
def test_a_wrong_target_is_told(target: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([target, *SMALL]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert text in told


def test_what_breaks_meanwhile_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    async def broken(*_: object) -> None:
        raise ConnectionLost("it went away")

    monkeypatch.setattr(bench.FanwireSubject, "publish_many", broken)
    assert bench.main(["memory://", *SMALL]) == 2
    assert capsys.readouterr().err == "error: it went away\n"


@pytest.mark.parametrize("arguments", [("--rounds", "0"), ("--subscribers", "1,x"), ("--subscribers", ""), ("--messages", "-1")])
def test_a_wrong_number_is_told(arguments: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(["memory://", *arguments])
    assert ended.value.code == 2
    assert "a number of at least 1" in capsys.readouterr().err
