"""The model: plans drawn at random, run on transports and judged by the oracle."""

from __future__ import annotations

import random
import sys

import pytest
from hypothesis import HealthCheck, given, settings

from fanwire.testing.harness import Harness
from fanwire.testing.model import Plan, means_of, plan_of, plans, run_plan, run_seeds
from fanwire.testing.model.__main__ import LOOPS, main
from tests.conformance.harnesses import MemoryHarness
from tests.conformance.model_toys import BestEffort, Counters, NoHistory, NoLinks
from tests.conformance.poor import PoorHarness


class Brisk(MemoryHarness):
    """Nothing in memory takes long, and a plan that fails is run again and again until it is small."""

    patience = 3.0


MEANS = means_of(Brisk, Brisk("any").transport().capabilities)

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
    report = run_seeds(harness, range(40))
    assert report.run == 40
    assert not report.failed, "\n\n".join(map(str, report.failed.values()))


def test_a_seed_is_a_plan_and_a_plan_is_what_it_prints() -> None:
    from fanwire.testing.model import steps as module

    for seed in range(50):
        plan = plan_of(seed, MEANS)
        assert plan == plan_of(seed, MEANS)
        assert eval(str(plan), vars(module)) == plan
    assert plan_of(0, MEANS) != plan_of(1, MEANS)


def test_plans_hold_only_what_a_harness_and_its_transport_can_do() -> None:
    means = means_of(PoorHarness, PoorHarness("any").transport().capabilities)
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


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("harness", [Brisk, *POOR], ids=lambda harness: harness.__name__)
def test_thousands_of_plans(harness: type[Harness], loop: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = random.SystemRandom().randrange(10**9)
    count = 2000 if harness is Brisk else 500
    with capsys.disabled():
        sys.stdout.write(f"\n{harness.__name__} on {loop}: seeds {first} to {first + count - 1}\n")
    report = run_seeds(harness, range(first, first + count), loop=LOOPS[loop])
    assert not report.failed, "\n\n".join(map(str, report.failed.values()))
