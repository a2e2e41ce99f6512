"""The façade for code without an event loop. Generated from the asynchronous one, but for what lies between the two.

* generated: ``realtime``, ``subscription``, ``run`` (``scripts/generate_blocking.py``; ``make lint`` checks that they are up to date)
* written by hand: ``lifetime`` (when it is opened), ``feed`` (taking messages), ``portal`` (the thread and the way there and back), ``exits`` (the end of the process, and forks)
"""

from __future__ import annotations

from .realtime import BlockingRealtime as BlockingRealtime
from .run import BlockingRun as BlockingRun
from .run import BlockingSteps as BlockingSteps
from .subscription import BlockingSubscription as BlockingSubscription

__all__ = ("BlockingRealtime", "BlockingRun", "BlockingSteps", "BlockingSubscription")
