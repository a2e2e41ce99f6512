"""What a Realtime tells about itself: connection states, counters, and frames it had to skip. Typed values for ``rt.events()``, ``stats()`` and ``on_invalid``."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from .errors import FanwireError

__all__ = ("ConnectionEvent", "ConnectionState", "InvalidMessage", "RealtimeStats", "SubscriptionStats")


class ConnectionState(StrEnum):
    """Where the connection to the broker stands."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    """Broken or refused; another attempt follows."""

    FAILED = "failed"
    """Given up, because trying again cannot help (refused credentials, a defect)."""

    CLOSED = "closed"


class ConnectionEvent(NamedTuple):
    """One change of the connection's state."""

    state: ConnectionState
    at: float
    """Seconds since 1970-01-01 UTC."""

    attempt: int
    """Attempts since the connection was last up; 0 once it is."""

    error: FanwireError | None
    """Why it broke or could not be made."""


class InvalidMessage(NamedTuple):
    """A frame that could not be handed out: of another format, of another channel, or refused by its topic's schema."""

    channel: str
    topic: str | None
    """``None`` where the frame does not tell."""

    reason: str
    """What is wrong with it; holds no payload."""

    frame: bytes


class SubscriptionStats(NamedTuple):
    """Counters of one subscription since it was entered."""

    received: int
    """Messages handed to the consumer."""

    lost: int
    """Messages known to be missing; gaps of unknown size are in ``gaps`` only."""

    gaps: int
    lag: int
    """Messages waiting for the consumer."""

    invalid: int
    """Messages skipped because they could not be parsed."""


class RealtimeStats(NamedTuple):
    """Counters of one Realtime since it was entered."""

    state: ConnectionState
    connections: int
    """Connections made, so 1 without any reconnect."""

    channels: int
    """Channels subscribed at the broker, lingering ones included."""

    subscriptions: int
    logs: int
    """Distinct interests, each with one buffer."""

    published: int
    """Messages the broker accepted."""

    publishing: int
    """Messages waiting to be sent or acknowledged."""

    received: int
    """Frames taken from the broker."""

    duplicates: int
    """Frames dropped because they were there before."""

    invalid: int
    gaps: int
    buffered_bytes: int
    """Bytes of frames waiting for consumers."""
