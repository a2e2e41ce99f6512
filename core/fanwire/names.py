"""What a channel and a topic may be called. One home for the rules, so that every layer refuses the same names."""

from __future__ import annotations

import unicodedata

from .errors import InvalidName

__all__ = ("MAX_CHANNEL_BYTES", "MAX_TOPIC_BYTES", "check_channel_name", "check_topic_name")

MAX_CHANNEL_BYTES = 255
"""Longest channel name, in bytes of UTF-8."""

MAX_TOPIC_BYTES = 128
"""Longest topic name, in bytes of UTF-8."""

# Unicode's explicit bidirectional formatting characters: they make a name display as another one.
_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

# Control characters, surrogates, and the two separators that end a line in log files and in JavaScript.
_REFUSED_CATEGORIES = {"Cc": "control character", "Cs": "surrogate", "Zl": "line separator", "Zp": "paragraph separator"}

_ECHOED = 48  # characters of a faulty name that are repeated in the error: enough to find it, too few to flood a log


def check_channel_name(name: str) -> str:
    """Return a channel name unchanged if it may exist.

    Args:
        name: The name. At most 255 bytes of UTF-8 in Unicode NFC, not empty, without control, bidirectional-control and surrogate characters, line
            and paragraph separators, and without white space at either end.

    Returns:
        The same string.

    Raises:
        InvalidName: If it breaks one of these rules; the text says which and at which character.
    """
    # The common case, in four C calls: printable ASCII keeps every rule but length and outer spaces.
    if isinstance(name, str) and name.isascii() and name.isprintable() and 0 < len(name) <= MAX_CHANNEL_BYTES and name[0] != " " != name[-1]:  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        return name
    return _check(name, "channel", MAX_CHANNEL_BYTES)


def check_topic_name(name: str) -> str:
    """Return a topic name unchanged if it may exist.

    Args:
        name: The name. At most 128 bytes of UTF-8; otherwise the rules of :func:`check_channel_name`.

    Returns:
        The same string.

    Raises:
        InvalidName: If it breaks one of these rules; the text says which and at which character.
    """
    return _check(name, "topic", MAX_TOPIC_BYTES)


def _check(name: object, what: str, limit: int) -> str:
    if not isinstance(name, str):
        raise InvalidName(f"a {what} name is a str, not {type(name).__name__}")
    if not name:
        raise InvalidName(f"a {what} name must not be empty")
    # Characters first: a name with more of them than bytes allowed is too long without being encoded.
    if len(name) > limit:
        raise InvalidName(_too_long(name, what, limit))
    for index, char in enumerate(name):
        if (fault := _fault(char)) is not None:
            raise InvalidName(f"{what} name {_echo(name)}: U+{ord(char):04X} at position {index} is a {fault}, which a name must not hold")
    for place, char in (("begins", name[0]), ("ends", name[-1])):
        if char.isspace():
            raise InvalidName(f"{what} name {_echo(name)} {place} with white space (U+{ord(char):04X}); strip it")
    if len(name.encode()) > limit:
        raise InvalidName(_too_long(name, what, limit))
    if not unicodedata.is_normalized("NFC", name):
        composed = unicodedata.normalize("NFC", name)
        at = next((i for i, (a, b) in enumerate(zip(name, composed, strict=False)) if a != b), len(composed) - 1)
        where = f"U+{ord(name[at]):04X} at position {at}"
        raise InvalidName(f'{what} name {_echo(name)} is not in Unicode NFC from {where} on; pass unicodedata.normalize("NFC", name)')
    return name


def _fault(char: str) -> str | None:
    if char in _BIDI_CONTROLS:
        return "bidirectional control character"
    return _REFUSED_CATEGORIES.get(unicodedata.category(char))


def _too_long(name: str, what: str, limit: int) -> str:
    # A name may be megabytes of somebody else's input: only its beginning is looked at.
    size = f"{len(name.encode(errors='replace')):,} bytes" if len(name) <= limit else f"{len(name):,} characters"
    return f"{what} name {_echo(name)} has {size}; at most {limit} bytes of UTF-8 are allowed"


def _echo(name: str) -> str:
    """The name for an error text: ``repr`` escapes whatever does not print."""
    return repr(name) if len(name) <= _ECHOED else f"{name[:_ECHOED]!r}…"
