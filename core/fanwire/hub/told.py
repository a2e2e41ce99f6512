"""Errors that are told more than once."""

from __future__ import annotations

import copy

from ..errors import FanwireError

__all__ = ("fresh",)


def fresh(error: FanwireError) -> FanwireError:
    """Return a copy of an error that several tasks are told: a raised exception collects the traceback of who raised it."""
    told = copy.copy(error)
    told.__cause__ = error
    return told
