"""`make soak`: the kit ten times at once on one server; and that the tool for it finds what is broken only then."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import pytest

from fanwire.testing.bugs import plant
from fanwire.testing.harness import Harness
from fanwire.testing.stress import SHARED, main, stress, stressed
from tests.conformance.harnesses import MemoryHarness
from tests.conformance.shared_wire import SharedWireHarness, serving
from tests.redis.harness import Hybrid, server, stop_all

SECONDS = float(os.environ.get("FANWIRE_SOAK_SECONDS", "60"))
"""A third of the time that each of the tests below may take: on a quick transport they are done before."""


class Stressed(NamedTuple):
    """A transport to be put under stress."""

    harness: type[Harness]
    server: Callable[[], AbstractContextManager[object]] = nullcontext
    """Runs the one server."""

    without: frozenset[str] = SHARED
    """What must not be done to it while others use it."""


class UnhurriedRedis(Hybrid):
    """A busy machine does not answer each probe in time, and that would be taken for a broken connection."""

    probe = 30.0


@contextmanager
def redis_serving() -> Generator[None]:
    """Start the server before threads ask for it, and stop it afterwards."""
    try:
        server()
        yield
    finally:
        stop_all()


STRESSED = {
    "memory": Stressed(MemoryHarness),
    "wire": Stressed(SharedWireHarness, serving),
    "redis": Stressed(UnhurriedRedis, redis_serving, SHARED | {"stall", "resume"}),
}
"""A transport joins by a line here."""


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", STRESSED)
def test_ten_suites_at_once_on_one_server(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    stressed, seed = STRESSED[name], random.SystemRandom().randrange(10**9)
    with stressed.server():
        report = stress(stressed.harness, seconds=3 * SECONDS, seed=seed, without=stressed.without)
    with capsys.disabled():
        sys.stdout.write(f"\n{name}, ten suites at once, order of seed {seed}: {report}\n")
    assert not report.failed, "\n".join(report.failed[:5])
    assert min(report.ran.values()) > 0


# ---------------------------------------------------------------------- the tool


def test_each_suite_runs_each_check() -> None:
    only = (
        "A7",
        "A11",
        "D11",
        "F1",
        "F2",
    )
    with serving():
        report = stress(SharedWireHarness, suites=4, only=only)
    assert report.failed == []
    assert report.ran == {"A7-several_topics_in_one_subscription": 4, "A11-self_delivery": 4, "F2-connection_killed": 4}, (
        "others look at the process, or stop the server"
    )


def test_what_fails_is_told_and_the_others_go_on() -> None:
    only = (
        "A1",
        "D4",
    )

    class Hasty(MemoryHarness):
        patience = 0.1

    with plant("drop one", Hasty) as broken:
        report = stress(broken, suites=3, only=only)
    assert report.ran == {"A1-publish_subscribe": 3, "D4-closing_again": 3}
    assert len(report.failed) == 3
    assert all(text.startswith("A1-publish_subscribe on ") and "AssertionError" in text for text in report.failed)
    assert {text.split()[2] for text in report.failed} == {"asyncio:", "uvloop:", "trio:"}
    assert "6 runs of 2 checks in " in str(report)
    assert ", each at least 3 times, 3 failed" in str(report)


def test_when_the_time_is_over_each_check_is_run_once() -> None:
    only = (
        "A7",
        "A11",
        "D4",
    )
    assert set(stress(MemoryHarness, suites=2, seconds=-1, only=only).ran.values()) == {1}


def test_what_is_left_alone_is_left_alone() -> None:
    kind = stressed(MemoryHarness, {"stall", "restart"})
    assert not kind.can("stall")
    assert not kind.can("restart")
    assert kind.can("cut")
    assert kind.patience > MemoryHarness.patience


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tests.conformance.harnesses:MemoryHarness", "--suites", "2", "--seed", "7", "--without", "--only", "A11"]) == 0
    printed = capsys.readouterr().out
    assert "2 suites at once, seed 7" in printed
    assert "2 runs of 1 checks" in printed
    with pytest.raises(SystemExit) as caught:
        main(["os:path"])
    assert caught.value.code == 2
    assert "is no subclass" in capsys.readouterr().err
