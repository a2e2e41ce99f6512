"""The checks, by the groups of the table.

* A: delivery and readiness
* B: order
* C: payloads and names
* D: lifetime, cancellation, leaks
* E: slow readers
* F: faults of the connection and of the server
* G: history and resume
* I: the contract itself
"""

from __future__ import annotations

from typing import Final

from ..check import Check, registered
from . import delivery as delivery

__all__ = ("CHECKS",)

CHECKS: Final[tuple[Check, ...]] = registered()
