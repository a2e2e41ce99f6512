"""From a decoded frame to the values users see."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic_core import from_json

from ..codec import Decoded, InvalidFrame
from ..messages import Cursor, RawMessage

__all__ = ("parse_time", "raw_message")


def parse_time(text: str) -> datetime:
    """Return an RFC 3339 time in UTC.

    Raises:
        InvalidFrame: it is none.
    """
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidFrame("created_at is not an RFC 3339 time") from error
    if when.tzinfo is None:
        raise InvalidFrame("created_at has no time zone")
    return when if when.tzinfo is UTC else when.astimezone(UTC)


def raw_message(decoded: Decoded, created_at: datetime, position: Cursor | None, frame: bytes) -> RawMessage:
    """Return a message whose payload no schema has seen.

    Raises:
        ValueError: the payload is not exactly one JSON value.
    """
    return RawMessage(
        id=decoded.id,
        channel=decoded.channel,
        topic=decoded.topic,
        json=decoded.data,
        kind=decoded.kind,
        created_at=created_at,
        cursor=position,
        run_id=decoded.run_id,
        key=decoded.key,
        headers=decoded.headers,
        frame=frame,
        data=from_json(decoded.data, allow_inf_nan=False),
    )
