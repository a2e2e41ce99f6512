"""The model finds planted bugs: a model that stays green on a broken transport, or on a broken core, proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from unittest.mock import patch

import pytest

from fanwire import Cursor
from fanwire.hub import continuity
from fanwire.hub.hub import Hub
from fanwire.testing.bugs import plant
from fanwire.testing.harness import Harness
from fanwire.testing.model import ModelFailure, Plan, run_plan, run_seeds, shrink
from fanwire.testing.model.steps import Failover, Interest, Join, Publish, Turns
from tests.conformance.model_toys import BestEffort, Counters, NoHistory, Quick

SEEDS = 300
"""Within which each bug is to be found. Most are by the first few."""

PLANTED: list[tuple[str, type[Harness]]] = [
    ("drop one", Quick),
    ("drop one", NoHistory),
    ("swap two", Quick),
    ("repeat one", Quick),
    ("swallow gaps", Quick),
    ("swallow gaps", NoHistory),
    ("swallow gaps", Counters),
    ("forget a resubscribe", Quick),
    ("forget a resubscribe", BestEffort),
    ("reuse ids", Counters),
    ("ignore marks", Quick),
    ("no repair", Quick),
    ("trust any cursor", Quick),
    ("join too early", Quick),
]


@pytest.mark.parametrize(("bug", "harness"), PLANTED, ids=[f"{bug}-{harness.__name__}" for bug, harness in PLANTED])
def test_it_finds(bug: str, harness: type[Harness]) -> None:
    with plant(bug, harness) as broken:
        report = run_seeds(broken, range(SEEDS), small=False)
    assert report.failed, f"{report.run} plans did not find it"


# ---------------------------------------------------------------------- tails that are lost


@contextmanager
def regrown_is_the_same() -> Generator[None]:
    """A reconnect to the very offset counts as having missed nothing, whichever message is there now."""
    subscribed = Hub.subscribed

    def trusting(self: Hub, channel: str, generation: int, position: Cursor | None, /) -> None:
        record = self.channels.get(channel)
        if record is not None and record.position is not None and position is not None and record.position[:2] == position[:2]:
            record.position = position
        subscribed(self, channel, generation, position)

    with patch.object(Hub, "subscribed", trusting):
        yield


@contextmanager
def past_is_the_same() -> Generator[None]:
    """History that goes on behind an offset counts as going on behind the message that was there."""

    with patch.object(continuity, "_contradict", lambda _one, _other: False):
        yield


def _failover(back: int, regrow: int) -> Plan:
    """A reader has seen five messages; the broker loses some and grows others before the reader is back."""
    return Plan(
        (
            Join(0, 0, (Interest(0, "ab"),), "live", 1, 1024, "anext", None),
            Turns(20),
            Publish(1, 0, "a", 5, "one by one", wait=True, keyed=False),
            Turns(20),
            Failover(0, back, regrow, 1),
            Turns(20),
        )
    )


TAILS: list[tuple[Callable[[], AbstractContextManager[None]], Plan, int]] = [
    (regrown_is_the_same, _failover(2, 2), 120),  # one plan in eighty
    (past_is_the_same, _failover(2, 4), 0),
]
"""Each with the shortest plan that shows it, and with the seed to begin with."""


@pytest.mark.parametrize(("bug", "plan", "first"), TAILS, ids=[bug.__name__ for bug, _, _ in TAILS])
def test_it_finds_a_lost_tail(bug: Callable[[], AbstractContextManager[None]], plan: Plan, first: int) -> None:
    run_plan(Quick, plan)
    with bug():
        with pytest.raises(ModelFailure, match="neither delivered nor announced"):
            run_plan(Quick, plan)
        report = run_seeds(Quick, range(first, first + SEEDS), small=False)
    assert report.failed, f"{report.run} plans did not find it"


# ---------------------------------------------------------------------- what a failure says


def test_a_failure_tells_seed_reader_and_what_it_saw_and_has_a_small_plan() -> None:
    with plant("drop one", NoHistory) as broken:
        report = run_seeds(broken, range(SEEDS))
    ((seed, failure),) = report.failed.items()
    text = str(failure)
    assert text.startswith(f"seed {seed}, of which this is left,")
    assert "subscription 1 of reader" in text
    assert "is neither delivered nor announced" in text
    assert "what it saw: " in text
    steps = text.partition("the plan:\nPlan(")[2].splitlines()
    assert 2 <= len(steps) <= 10, text


def test_shrinking_leaves_what_is_needed() -> None:
    with plant("drop one", NoHistory) as broken:
        plan = Plan((*_failover(1, 1).steps[:2], *[Turns(1)] * 5, Publish(1, 0, "a", 8, "one by one", wait=True, keyed=False), *[Turns(1)] * 5))
        with pytest.raises(ModelFailure) as caught:
            run_plan(broken, plan)
        small, failure = shrink(broken, plan, caught.value)
    assert len(small.steps) <= 3
    assert "neither delivered nor announced" in str(failure)
