"""Other ways to fan out in one process, each in its own short file, at its best documented setting.

All of them validate, encode and decode a message once, however many subscribers there are, and share the decoded object, as fanwire does.
"""

from __future__ import annotations

from .anyio_streams import ANYIO_DRAINED, ANYIO_STREAMS
from .broadcaster import BROADCASTER
from .queue_hub import QUEUE_HUB

__all__ = ("ANYIO_DRAINED", "ANYIO_STREAMS", "BROADCASTER", "PEERS", "QUEUE_HUB")

PEERS = (QUEUE_HUB, ANYIO_STREAMS, ANYIO_DRAINED, BROADCASTER)
"""Every peer."""
