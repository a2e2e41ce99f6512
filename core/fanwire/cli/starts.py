"""``--from``: where reading begins."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from ..errors import ConfigError
from ..messages import Cursor, Start

__all__ = ("FORMS", "parse_start")

FORMS: Final = "live, earliest, a number or last:N, an age such as 90s, 5m, 2h30m or 1d, an ISO 8601 time, or a cursor"
"""What it may be."""

_UNITS: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_AGE = re.compile(r"(?=\d)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?", re.ASCII)
_LAST = re.compile(r"(?:last:)?(\d{1,18})", re.ASCII)


def parse_start(text: str, *, now: datetime | None = None) -> Start:
    """Read where to begin.

    Args:
        text: One of :data:`FORMS`. A time without a zone is local.
        now: What an age is counted from; by default the present.

    Raises:
        ConfigError: it is none of them.
    """
    given = text.strip()
    word = given.lower()
    if word in {"live", "now"}:
        return Start.LIVE
    if word in {"earliest", "beginning"}:
        return Start.EARLIEST
    try:
        if match := _LAST.fullmatch(word):
            return Start.last(int(match[1]))
        if match := _AGE.fullmatch(word):
            age = sum(float(count) * seconds for count, seconds in zip(match.groups(), _UNITS.values(), strict=True) if count)
            return Start.since((now or datetime.now(UTC)) - timedelta(seconds=age))
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"--from {given!r}: {error}") from error
    try:
        return Start.after(Cursor.parse(given))
    except ValueError:
        pass  # no cursor, but perhaps a time
    try:
        return Start.since(datetime.fromisoformat(given).astimezone())
    except (ValueError, OverflowError, OSError) as error:
        raise ConfigError(f"--from {given!r} is no start: write {FORMS}") from error
