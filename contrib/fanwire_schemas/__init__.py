"""Schemas of other validation libraries, for ``topic()``: one module per library, so that only the one in use is imported.

``fanwire_schemas.msgspec.MsgspecSchema`` is for msgspec Structs and whatever else msgspec reads, ``fanwire_schemas.attrs.AttrsSchema`` for attrs classes and whatever else
cattrs structures.
"""

from __future__ import annotations

__all__ = ()
