"""The benchmark over Redis: a small run on a real server, and what its targets make of figures."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from benchmarks.brokers import cases
from benchmarks.brokers.cases import CASES, HYBRID, LIMIT, PLAIN, RAW, Case, run_case, without_peers
from benchmarks.brokers.fanout import SharedLog
from benchmarks.brokers.judge import Report, judge
from benchmarks.brokers.redis_raw import RawSubject
from benchmarks.brokers.report import markdown
from benchmarks.brokers.run import run
from benchmarks.harness import BenchmarkError
from fanwire.testing.laps import Lap, Sample, Subject
from tests.untested import require

pytestmark = pytest.mark.checkout


@pytest.fixture(scope="module")
def report() -> Report:
    """All cases, as small as they can be."""
    small = [case._replace(messages=20, subscribers=min(case.subscribers, 3)) for case in without_peers(CASES)]
    require("redis-server", shutil.which("redis-server") is not None, "apt install redis-server, or anything that puts it on the PATH")
    return run(small, rounds=1)


def test_everybody_runs_and_every_delivery_is_counted(report: Report) -> None:
    assert [case.name for case in report.cases] == [case.name for case in CASES]
    assert [row.name for row in report.cases[0].rows] == ["limit, without codec", LIMIT, RAW, PLAIN, HYBRID]
    assert all(row.delivered == row.published * case.subscribers for case in report.cases for row in case.rows)
    assert report.payload_bytes == 256


def test_the_report_says_what_ran_where(report: Report) -> None:
    text = markdown(report)
    for needed in ("redis-server", "hiredis", "CPUs", "one process", "asyncio event loop", "**fanwire, history=0**", "p99"):
        assert needed in text


def lap(rate: float, *, delay: float = 0.0) -> Lap:
    return Lap(1000, 1000, 1000, 1000 / rate, 500 / rate, (delay,) * 100 if delay else ())


def verdicts(case: Case, laps: Mapping[str, Sequence[Lap]]) -> dict[str, bool]:
    return {verdict.target.removeprefix(f"{case.name}: "): verdict.passed for verdict in judge([(case, laps)])}


def test_rates_are_judged_by_the_median_of_the_rounds_ratios() -> None:
    one = next(case for case in CASES if (case.kind, case.subscribers) == ("pipelined", 1))
    raw = [lap(100), lap(10), lap(1000)]  # the machine was not equally busy
    found = verdicts(one, {RAW: raw, PLAIN: [lap(200), lap(25), lap(1900)], HYBRID: [lap(70), lap(10), lap(800)], LIMIT: [lap(1001)] * 3})
    assert found == {
        f"{PLAIN}: at least 2x {RAW}": True,
        f"{PLAIN}: at least 0.2x {LIMIT}": False,
        f"{HYBRID}: at least 0.4x {PLAIN}": True,
    }
    assert verdicts(one, {RAW: raw, PLAIN: [lap(199), lap(25), lap(1900)]}) == {f"{PLAIN}: at least 2x {RAW}": False}


def test_latency_is_judged_over_all_samples() -> None:
    paced = next(case for case in CASES if case.kind == "paced")
    raw = [lap(200, delay=200e-6)]
    assert list(verdicts(paced, {RAW: raw, PLAIN: [lap(200, delay=299e-6)], HYBRID: [lap(200, delay=301e-6)]}).values()) == [True, True, False, False]


def test_a_contender_that_drops_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lossy(*_: object) -> Lap:
        return Lap(100, 100, 99, 1.0, 1.0)

    @asynccontextmanager
    async def opened(_: int) -> AsyncGenerator[Subject[Sample]]:
        yield RawSubject(None, SharedLog())  # never used

    monkeypatch.setattr(cases, "pipelined", lossy)
    monkeypatch.setitem(cases._OPEN, RAW, opened)
    with pytest.raises(BenchmarkError, match="99 of 100"):
        asyncio.run(run_case(Case("tiny", "pipelined", 1, 1, (RAW,)), 0, 1, lambda: None))
