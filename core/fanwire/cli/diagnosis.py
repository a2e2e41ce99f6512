"""What an error most likely means, and what to do about it: one table for all commands.

An error is looked at with everything it was caused by, groups included. The first rule of :data:`RULES` that knows any of it decides. A rule for a broker's client names the
client's classes by their dotted names, as text, so that nothing has to be installed for the table to be read::

    RULES.insert(
        0,
        Rule(
            "busy",
            ("redis.exceptions.BusyLoadingError",),
            "the server is still loading its data: wait and try again",
        ),
    )
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from typing import Final, NamedTuple

from ..errors import (
    AuthError,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    CursorExpired,
    FanwireError,
    Internal,
    MissingExtra,
    PermissionDenied,
    Timeout,
    TokenExpired,
    Unavailable,
    UnknownTransport,
    Unsupported,
)

__all__ = ("RULES", "Diagnosis", "Rule", "causes", "diagnose")

_MOST = 64
"""Errors looked at: a chain may be long."""


class Diagnosis(NamedTuple):
    """What an error most likely means."""

    kind: str
    """Short and stable, such as ``refused`` or ``dns``; ``unknown`` where no rule fits."""

    remedy: str | None
    """What to do; ``None`` where the error's own text says it."""


class Rule(NamedTuple):
    """One line of the table."""

    kind: str
    classes: tuple[type[BaseException] | str, ...]
    """Classes of errors, subclasses included; as text the dotted name of a class that may not be installed."""

    remedy: str | None
    errnos: frozenset[int] = frozenset()
    """For system errors: only with one of these numbers."""

    def fits(self, error: BaseException) -> bool:
        """Tell whether the rule knows this very error, its causes aside."""
        if self.errnos and getattr(error, "errno", None) not in self.errnos:
            return False
        return any(_is(error, wanted) for wanted in self.classes)


def _is(error: BaseException, wanted: type[BaseException] | str) -> bool:
    if isinstance(wanted, str):
        return any(f"{kind.__module__}.{kind.__qualname__}" == wanted for kind in type(error).__mro__)
    # Our own errors derive from Python's (Timeout is a TimeoutError too); a rule for the system's means the system's.
    return isinstance(error, wanted) and (issubclass(wanted, FanwireError) or not isinstance(error, FanwireError))


_UNREACHABLE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL})

RULES: list[Rule] = [
    # What the caller wrote: the text says what is wrong.
    Rule("unknown_scheme", (UnknownTransport,), "see what there is with: fanwire transports"),
    Rule("missing_extra", (MissingExtra,), None),
    Rule("bad_option", (ConfigError,), None),
    Rule("unsupported", (Unsupported,), "see what it declares with: fanwire check"),
    # Who is asking.
    Rule("token_expired", (TokenExpired,), "get a new token"),
    Rule("permission", (PermissionDenied,), "the credentials are good, but must be granted this at the broker"),
    Rule("credentials", (AuthError,), "check user and password in the URL; in a password write @ : / ? # and % percent-encoded"),
    # What happened, whatever the system said to it.
    Rule("cursor_expired", (CursorExpired,), "begin at what is left, with --from earliest"),
    Rule("defect", (Internal,), "please report it, with the output of --debug"),
    # What the system says about the way there.
    Rule(
        "tls_certificate",
        (ssl.SSLCertVerificationError,),
        "the server's certificate is not trusted, or is another host's: use the host name it was made for, and the authority that signed it",
    ),
    Rule("tls", (ssl.SSLError,), "client and server do not speak TLS with each other: is the scheme right, with TLS or without, and the port?"),
    Rule("dns", (socket.gaierror,), "the host's name cannot be resolved: is it spelled right, and known from here?"),
    Rule("refused", (ConnectionRefusedError,), "nothing listens there: is the broker running, and are host and port right?"),
    Rule("unreachable", (OSError,), "there is no way to the host: is the network up, and the address right?", _UNREACHABLE),
    Rule(
        "closed",
        (ConnectionResetError, BrokenPipeError, EOFError, "anyio.EndOfStream"),
        "the server hung up: is it the right port, and with TLS or without?",
    ),
    Rule("no_socket", (FileNotFoundError,), "there is no such socket: is the broker running, and the path right?"),
    Rule("socket_permission", (PermissionError,), "the socket may not be opened by this user"),
    Rule("timeout", (TimeoutError,), "no answer came: is a firewall in between? A longer --timeout may help"),
    # What is left.
    Rule("timeout", (Timeout,), "a longer --timeout may help"),
    Rule(
        "no_connection",
        (ConnectFailed,),
        "is the broker running, and is the URL right: host, port, with TLS or without? If it is only slow, a longer --timeout helps",
    ),
    Rule("connection_lost", (ConnectionLost,), "try again; fanwire check shows whether the broker can be reached"),
    Rule("unavailable", (Unavailable,), "is the broker running, and is the URL right?"),
]
"""Asked from the top. Put a rule for a broker's client before those of the system."""


def diagnose(error: BaseException) -> Diagnosis:
    """Find the rule for an error or for what caused it."""
    known = list(causes(error))
    for rule in RULES:
        if any(rule.fits(each) for each in known):
            return Diagnosis(rule.kind, rule.remedy)
    return Diagnosis("unknown", None)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, then what caused it, nearest first, and the members of groups."""
    pending: list[BaseException] = [error]
    seen: set[int] = set()
    while pending and len(seen) < _MOST:
        current = pending.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if isinstance(current, BaseExceptionGroup):
            pending += current.exceptions  # pyright: ignore[reportUnknownMemberType]  # whatever the group holds
        if current.__cause__ is not None:
            pending.append(current.__cause__)
        elif current.__context__ is not None and not current.__suppress_context__:
            pending.append(current.__context__)
