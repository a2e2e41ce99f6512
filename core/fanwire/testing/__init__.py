"""Tools for testing what implements fanwire's protocols, and what uses fanwire.

* ``suite``: the conformance kit as a pytest class; ``harness``: what a transport's author writes for it; ``check``, ``checks``, ``tools``: what it consists of
* ``model``: drawn plans against an oracle; ``bugs``: defects planted on purpose, which the kit has to find; ``outage``, ``exchange``, ``through``: what checks are made of
* ``stress``: the kit several times at once on one server
* ``bench`` and ``laps``: throughput and latency of a transport beside ``memory://``, by ``python -m fanwire.testing.bench URL``
* ``proxy``: a TCP proxy that cuts, stalls, delays and truncates; ``leaks`` and ``cancelling``: what is left behind, also by what was cancelled at any point
* ``plugin`` and ``recording``: fixtures and assertions for applications
* ``step_stores``: what every :class:`fanwire.runs.StepStore` has to hold
"""

from __future__ import annotations

__all__ = ()
