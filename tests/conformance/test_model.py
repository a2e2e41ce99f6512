"""The model: plans drawn at random, run on transports and judged by the oracle."""

from __future__ import annotations

import os
import random
import sys

import pytest
from hypothesis import HealthCheck, given, settings

from fanwire.testing.harness import Harness
from fanwire.testing.model import Plan, means_of, plan_of, plans, run_plan, run_seeds
from fanwire.testing.model.__main__ import LOOPS, main
from fanwire.testing.suite import loops
from tests.conformance.harnesses import MemoryHarness
from tests.conformance.model_toys import BestEffort, Counters, NoHistory, NoLinks
from tests.conformance.poor import PoorHarness
from tests.conformance.wire import WireHarness


class Brisk(MemoryHarness):
    """Nothing in memory takes long, and a plan that fails is run again and again until it is small."""

    patience = 3.0


MEANS = means_of(Brisk, Brisk.capabilities())

PLANS = 80
"""On each event loop."""

POOR: list[type[Harness]] = [NoHistory, NoLinks, Counters, BestEffort, PoorHarness]


@pytest.mark.parametrize("loop", LOOPS)
def test_plans_on_memory(loop: str) -> None:
    ran = 0

    @settings(max_examples=PLANS, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(plans(MEANS))
    def run(plan: Plan) -> None:
        nonlocal ran
        ran += 1
        run_plan(Brisk, plan, loop=LOOPS[loop])

    run()
    assert ran >= PLANS


@pytest.mark.parametrize("harness", POOR, ids=lambda harness: harness.__name__)
def test_seeds_on_transports_that_can_do_less(harness: type[Harness]) -> None:
    report = run_seeds(harness, range(25))
    assert report.run == 25
    assert not report.failed, "\n\n".join(map(str, report.failed.values()))


def test_a_seed_is_a_plan_and_a_plan_is_what_it_prints() -> None:
    from fanwire.testing.model import steps as module

    for seed in range(50):
        plan = plan_of(seed, MEANS)
        assert plan == plan_of(seed, MEANS)
        assert eval(str(plan), vars(module)) == plan
    assert plan_of(0, MEANS) != plan_of(1, MEANS)


def test_plans_hold_only_what_a_harness_and_its_transport_can_do() -> None:
    means = means_of(PoorHarness, PoorHarness.capabilities())
    kinds = {type(step).__name__ for seed in range(200) for step in plan_of(seed, means).steps}
    able = {type(step).__name__ for seed in range(200) for step in plan_of(seed, MEANS).steps}
    assert able - kinds >= {"Trim", "Recreate", "Failover"}
    starts = {step.start for seed in range(200) for step in plan_of(seed, means).steps if type(step).__name__ == "Join"}  # type: ignore[union-attr]  # a Join
    assert starts == {"live"}


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tests.conformance.harnesses:MemoryHarness", "--first", "1", "--seeds", "5"]) == 0
    printed = capsys.readouterr().out
    assert "seeds 1 to 5" in printed
    assert "5 plans in" in printed
    for wrong, what in (("tests.conformance.harnesses", "is no subclass"), ("nowhere:Harness", "No module named"), ("os:path", "is no subclass")):
        with pytest.raises(SystemExit) as caught:
            main([wrong])
        assert caught.value.code == 2
        assert what in capsys.readouterr().err


SECONDS = float(os.environ.get("FANWIRE_SOAK_SECONDS", "60"))
"""How long plans are run on memory in ``make soak``, on each event loop; on each of the others for a fifth of it."""


def patient(harness: type[Harness]) -> type[Harness]:
    """Return one that is not in a hurry: whether a machine that does other things is slow is not the question."""
    return type(harness.__name__, (harness,), {"patience": 10.0})


ALL: list[type[Harness]] = [Brisk, WireHarness, *POOR]
SOAKED = [(harness, loop) for harness in ALL for loop in LOOPS if loop in loops(harness.capabilities())]


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("harness", "loop"), SOAKED, ids=[f"{harness.__name__}-{loop}" for harness, loop in SOAKED])
def test_thousands_of_plans(harness: type[Harness], loop: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = random.SystemRandom().randrange(10**9)
    report = run_seeds(patient(harness), range(first, first + 10_000), seconds=SECONDS if harness is Brisk else SECONDS / 5, loop=LOOPS[loop])
    with capsys.disabled():
        sys.stdout.write(f"\n{harness.__name__} on {loop}: seeds {first} to {first + report.run - 1}, {report.run} plans in {report.seconds:.0f} s\n")
    assert not report.failed, "\n\n".join(map(str, report.failed.values()))
    assert report.run
