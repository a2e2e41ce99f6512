"""The in-memory transport: a real broker inside the process, for tests, demos and single-process applications.

URLs
    ``memory://`` is a broker of its own; ``memory://name`` is one broker shared by all that open that name in the process, across event loops and threads. Options:
    ``history`` (messages kept per channel, 1000; 0 keeps none), ``ttl`` (seconds, 300), ``max_bytes`` (of all histories, 64 MiB), ``max_payload`` (bytes, 1 MiB),
    ``namespace``. The settings of a shared broker's history are those of its first opener. A forked process shares nothing with its parent: its brokers begin empty.

Delivery
    Exactly once, in one order per channel for all subscribers. Messages take the same path as with any transport: they are encoded and parsed, never handed over as
    objects. A publish returns when every subscriber in the same event loop has it in its buffer. For another event loop at most 65,536 messages wait: one that
    stands still for longer loses its connection, connects again and reads from history what it has missed, or is told of the gap.

Names
    Taken as they are; the namespace keeps two applications on one broker apart.

Native
    ``native(MemoryBroker)`` gives the broker, ``native(Faults)`` the scripted faults.
"""

from __future__ import annotations

from .broker import MemoryBroker as MemoryBroker
from .faults import Faults as Faults
from .transport import MemoryOptions as MemoryOptions
from .transport import MemoryTransport as MemoryTransport

__all__ = ("Faults", "MemoryBroker", "MemoryOptions", "MemoryTransport")
