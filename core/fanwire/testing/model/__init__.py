"""The model: plans of publishers, subscribers and misfortune, run on a transport and judged by an oracle.

From the command line, by seeds and without any test framework::

    python -m fanwire.testing.model mytests:MyHarness --seeds 1000

As a test, where hypothesis draws the plans and shrinks those that fail::

    MEANS = means_of(MyHarness, MyHarness.capabilities())


    @given(plans(MEANS))
    def test_the_model(plan: Plan) -> None:
        run_plan(MyHarness, plan)

``steps`` is what plans are made of, ``plan`` draws them, ``network`` and ``readers`` what carries them out, ``runner`` puts it together, ``oracle`` judges, and ``soak`` runs many seeds.
"""

from __future__ import annotations

from .plan import Means as Means
from .plan import means_of as means_of
from .plan import plan_of as plan_of
from .plan import plans as plans
from .runner import ModelFailure as ModelFailure
from .runner import check_plan as check_plan
from .soak import Report as Report
from .soak import run_plan as run_plan
from .soak import run_seeds as run_seeds
from .soak import shrink as shrink
from .steps import Plan as Plan

__all__ = ("Means", "ModelFailure", "Plan", "Report", "check_plan", "means_of", "plan_of", "plans", "run_plan", "run_seeds", "shrink")
