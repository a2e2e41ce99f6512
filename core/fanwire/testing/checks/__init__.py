"""The checks, by the groups of the table.

* A: delivery and readiness
* B: order
* C: payloads and names
* D: lifetime, cancellation, leaks
* E: slow readers
* F: faults of the connection and of the server
* G: history and resume
* I: the contract itself
* X: what fanwire asks beyond publishing and subscribing: positions, links, order through failures
"""

from __future__ import annotations

from typing import Final

from ..check import Check, registered
from . import contract as contract
from . import delivery as delivery
from . import extensions as extensions
from . import faults as faults
from . import flow as flow
from . import history as history
from . import leaving as leaving
from . import lifetime as lifetime
from . import order as order
from . import payloads as payloads
from . import repairs as repairs

__all__ = ("CHECKS",)

CHECKS: Final[tuple[Check, ...]] = registered()
