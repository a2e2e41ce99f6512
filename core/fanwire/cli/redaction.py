"""Secrets stay out of everything that is printed: known ones by their value, and whatever looks like a URL by its form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import unquote, unquote_plus

from ..registry import redact

__all__ = ("forget", "hide", "scrub", "secrets_of")

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^\s'\"<>]+")
_SECRET_NAME = re.compile(r"pass|pwd|token|key|secret|auth|cred|jwt", re.IGNORECASE)
_SHORTEST = 3
"""Characters of the shortest secret that is looked for in texts: a shorter one would be found everywhere."""

_hidden: set[str] = set()


def hide(values: Iterable[str]) -> None:
    """Replace these values in every text that :func:`scrub` sees from now on. A client of a broker may quote a password in its error."""
    _hidden.update(value for value in values if len(value) >= _SHORTEST)


def forget() -> None:
    """Forget all hidden values: another command begins."""
    _hidden.clear()


def scrub(text: str) -> str:
    """Return ``text`` with hidden values replaced, and the credentials of whatever looks like a URL."""
    for value in sorted(_hidden, key=len, reverse=True):
        text = text.replace(value, "***")
    return _URL.sub(lambda match: redact(match[0]), text)


def secrets_of(url: str, options: Mapping[str, object]) -> Iterator[str]:
    """Yield the secrets that a URL and the options beside it hold, as they are written and as they are meant."""
    _, _, rest = url.partition("://")
    authority, _, query = rest.partition("?")
    credentials, at, _ = authority.rpartition("@")
    if at:
        password = credentials.partition(":")[2] or credentials
        yield from (password, unquote(password))
    for parameter in query.split("&"):
        name, _, value = parameter.partition("=")
        if _SECRET_NAME.search(unquote_plus(name)):
            yield from (value, unquote_plus(value))
    for name, option in options.items():
        if isinstance(option, str) and _SECRET_NAME.search(name):
            yield option
