"""What channels, keys and positions are called on the server.

Everything of a channel begins with ``{namespace:channel}``. The braces are a cluster's hash tag, so all of it lives in one slot, also where the channel's name has braces of its
own: the tag then ends at the first of them, and is never empty. A namespace has no colon, so no two pairs of namespace and channel have the same name.

Databases of one server have keys of their own, but what is published in one is heard in all: behind the brace stands the number of the database, if it is not 0.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import Final

from fanwire.errors import Internal
from fanwire.messages import Cursor

__all__ = ("Names", "fresh_epoch", "head_cursor", "split_frame", "stream_id")

_TOO_LARGE: Final = 2**64
_DIGITS: Final = 20


class Names:
    """Names within one namespace of one database."""

    __slots__ = ("_prefix", "_suffix")

    def __init__(self, namespace: str, db: int = 0) -> None:
        self._prefix: Final = f"{{{namespace}:".encode()
        self._suffix: Final = f"}}:{db}".encode() if db else b"}"

    def channel(self, channel: str) -> bytes:
        """Return what the channel's messages are published on."""
        return self._prefix + channel.encode() + self._suffix

    def stream(self, channel: str) -> bytes:
        """Return the key of its history."""
        return self._prefix + channel.encode() + b"}:s"

    def idempotency(self, channel: str, key: str) -> bytes:
        """Return the key under which an idempotency key is remembered. Of one length, whatever the key."""
        return self._prefix + channel.encode() + b"}:i:" + hashlib.blake2b(key.encode(), digest_size=16).hexdigest().encode()


def fresh_epoch() -> str:
    """Return an epoch for a stream that does not exist: the time in ms and 20 random bits, so that two never meet and later ones are greater."""
    return str((time.time_ns() // 1_000_000 << 20) | secrets.randbits(20))


def head_cursor(id: bytes, payload: bytes) -> Cursor:
    """Return the position ``id``, with the mark of the message that has it, if there is one."""
    epoch, _, seq = id.partition(b"-")
    try:
        return Cursor(epoch.decode(), int(seq), split_frame(payload)[0])
    except ValueError as error:
        raise Internal(f"redis: {id[:40]!r} is no id of a stream") from error


def split_frame(payload: bytes) -> tuple[str | None, bytes]:
    """Return the mark and the frame of what is stored and published. What a foreign client has stored has no mark."""
    if payload[8:9] == b" ":
        try:
            return payload[:8].decode("ascii"), payload[9:]
        except UnicodeDecodeError:
            pass
    return None, payload


def stream_id(cursor: Cursor) -> str:
    """Return the id of a stream's entry at ``cursor``; ``-``, which is before all, for a position of another broker."""
    epoch, offset, _ = cursor
    ours = epoch.isascii() and epoch.isdecimal() and len(epoch) <= _DIGITS and int(epoch) < _TOO_LARGE and 0 <= offset < _TOO_LARGE
    return f"{epoch}-{offset}" if ours else "-"
