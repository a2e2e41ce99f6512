"""Schemas of other validation libraries, for ``topic()``: one module per library, so that only the one in use is imported.

``fanwire_schemas.msgspec.MsgspecSchema`` is for msgspec Structs and whatever else msgspec reads.
"""

from __future__ import annotations

__all__ = ()
