"""What goes into log records: nothing that a message holds or an option keeps secret, however a schema, a hook or a driver words its errors."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from types import TracebackType
from typing import Any, cast

from pydantic_core import from_json

from ..errors import FanwireError, Internal
from ..events import InvalidMessage

__all__ = ("Withheld", "log_invalid", "summary", "traced")

_logger = logging.getLogger("fanwire")

_SHORTEST = 4
"""Characters that a value has to have to be looked for in a text; what is shorter is no secret, and is in any text by chance."""

_PREFIX = 16
"""Characters of a value that are looked for: a text may have been cut short."""

_MOST = 64 * 1024
"""Bytes of a frame that are compared with a text; a longer one's is withheld."""


class Withheld(Exception):
    """Stands in a record for an exception whose own text may quote a message or a secret."""


def traced(error: Exception) -> tuple[type[Exception], Exception, TracebackType | None]:
    """Return what logs where an exception was raised, and its class, but not its text nor those of its causes: for ``exc_info=``."""
    stand_in = _stand_in(error)
    return type(stand_in), stand_in, error.__traceback__


def _stand_in(error: Exception) -> Exception:
    if isinstance(error, ExceptionGroup):
        group = cast("ExceptionGroup[Exception]", error)  # an isinstance cannot tell the parameter
        found: Exception = ExceptionGroup("several", [_stand_in(inner) for inner in group.exceptions])
    else:
        found = Withheld(f"{type(error).__qualname__}, whose text is withheld since it may quote what a message holds")
    return found.with_traceback(error.__traceback__)


def summary(error: FanwireError) -> str:
    """Return an error's text; of a defect, which quotes somebody else's exception, only what kind it is."""
    if not isinstance(error, Internal):
        return str(error)
    return "a defect" if error.__cause__ is None else f"a defect ({type(error.__cause__).__qualname__})"


def log_invalid(message: InvalidMessage) -> None:
    """Warn of a message that had to be skipped. Names of fields are told, values are not."""
    where = f"channel {message.channel!r}" if message.topic is None else f"topic {message.topic!r} of channel {message.channel!r}"
    reason = message.reason
    if message.topic is not None and _quotes(reason, message.frame):
        reason = "its schema refuses it, in words that may quote it: on_invalid= is told"
    _logger.warning("skipped an invalid message of %d bytes on %s: %s", len(message.frame), where, reason)


def _quotes(text: str, frame: bytes) -> bool:
    """Tell whether a text holds a value of the frame, or may do so."""
    if len(frame) > _MOST:
        return True
    folded = text.casefold()
    return any(value[:_PREFIX].casefold() in folded for value in _values(frame) if len(value) >= _SHORTEST)


def _values(frame: bytes) -> Iterator[str]:
    """Yield all values in a frame of JSON, or all words of any other; strings also as they look with escapes."""
    try:
        whole: Any = from_json(frame)  # Any: JSON
    except ValueError:
        yield from re.findall(r"\w+", frame.decode(errors="replace"))
        return
    # Of an envelope only what its publisher has put in; the names of channel and topic are no secrets, and may be names of fields, too.
    rest: list[Any] = [whole]  # Any: as above
    if isinstance(whole, dict) and "data" in whole:
        rest = [whole.get(name) for name in ("data", "key", "headers")]  # pyright: ignore[reportUnknownMemberType]  # JSON
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            rest += value.values()  # names are told as places
        elif isinstance(value, list):
            rest += value
        elif isinstance(value, str):
            yield value
            yield repr(value)[1:-1]
        elif not isinstance(value, bool | None):
            yield str(value)
