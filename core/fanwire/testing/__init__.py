"""Tools for testing what implements fanwire's protocols, and what uses fanwire.

* ``step_stores``: what every :class:`fanwire.runs.StepStore` has to hold
"""

from __future__ import annotations

__all__ = ()
