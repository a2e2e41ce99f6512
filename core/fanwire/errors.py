"""Every error fanwire raises, by fault and by remedy.

The tree::

    FanwireError
    ├── ConfigError (ValueError)            a URL, option, file or environment variable is wrong
    │   ├── UnknownTransport                no transport of that scheme; says what exists
    │   └── MissingExtra                    the transport's client is not installed; says the pip command
    ├── DeclarationError (TypeError)        a channel or topic is declared or used wrongly
    ├── InvalidName (ValueError)            a channel or topic name that may not exist
    ├── InvalidPayload (ValueError)         data that its topic's schema refuses
    ├── PayloadTooLarge (ValueError)        larger than the transport carries
    ├── Unsupported                         the transport does not declare that ability
    ├── Closed                              used before it was opened or after it was closed
    │   └── WrongLoop                       used from another event loop or process
    ├── Unavailable (ConnectionError)       the broker cannot be reached right now
    │   ├── ConnectFailed                   no connection could be made
    │   └── ConnectionLost                  the connection broke; the outcome may be unknown
    ├── Timeout (TimeoutError)              it took longer than allowed
    ├── AuthError (PermissionError)
    │   ├── Unauthenticated                 the broker refused the credentials
    │   ├── PermissionDenied                known, but not allowed to do this
    │   └── TokenExpired                    a subscription token is past its time
    ├── CursorExpired                       the history no longer reaches back to that cursor
    ├── MessagesLost                        a subscription with ``on_gap="raise"`` met a gap
    ├── PartialPublish                      some messages of a ``publish_many`` were refused
    ├── StepConflict                        a recorded step id is used for something else
    └── Internal                            a defect of fanwire or of a transport

Act upon the class or ``code``, never upon the text. ``retryable`` says whether the same call may succeed later. A broker's own exception is kept in
``__cause__``. Cancellation is never wrapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:
    from .messages import Gap, Receipt

__all__ = (
    "AuthError",
    "Closed",
    "ConfigError",
    "ConnectFailed",
    "ConnectionLost",
    "CursorExpired",
    "DeclarationError",
    "FanwireError",
    "FieldError",
    "Internal",
    "InvalidName",
    "InvalidPayload",
    "MessagesLost",
    "MissingExtra",
    "PartialPublish",
    "PayloadTooLarge",
    "PermissionDenied",
    "StepConflict",
    "Timeout",
    "TokenExpired",
    "Unauthenticated",
    "Unavailable",
    "UnknownTransport",
    "Unsupported",
    "WrongLoop",
)


class FanwireError(Exception):
    """Base of every error fanwire raises on purpose."""

    code: ClassVar[str] = "error"
    """Stable, lower-case identifier of the class, for logs and ``--json``."""

    retryable: ClassVar[bool] = False
    """Whether the same call may succeed later without a change by the caller."""


class ConfigError(FanwireError, ValueError):
    """A URL, an option, a configuration file or an environment variable is wrong; the text names which."""

    code = "config"


class UnknownTransport(ConfigError):
    """No installed transport registers the URL's scheme."""

    code = "unknown_transport"


class MissingExtra(ConfigError):
    """A transport is known, but the client library it needs is not installed."""

    code = "missing_extra"


class DeclarationError(FanwireError, TypeError):
    """A channel or topic is declared in a way that cannot work, or something else is passed where one is needed."""

    code = "declaration"


class InvalidName(FanwireError, ValueError):
    """A channel or topic name breaks the naming rules, or would not parse back to the values it was made from."""

    code = "invalid_name"


class FieldError(NamedTuple):
    """What is wrong with one field of a payload; never holds the value itself."""

    location: str
    """Dotted path of the field, ``""`` for the payload as a whole."""

    message: str
    """What the schema says about it."""


class InvalidPayload(FanwireError, ValueError):
    """A topic's schema refuses the data, or the data cannot be written as JSON.

    Attributes:
        channel: Name of the channel.
        topic: Name of the topic.
        errors: One entry per faulty field. Values are left out, but for what a validator of the user's own may quote.
    """

    code = "invalid_payload"

    def __init__(self, channel: str, topic: str, errors: Sequence[FieldError]) -> None:
        super().__init__(channel, topic, errors)
        self.channel = channel
        self.topic = topic
        self.errors: tuple[FieldError, ...] = tuple(errors)

    def __str__(self) -> str:
        faults = "; ".join(f"{e.location}: {e.message}" if e.location else e.message for e in self.errors)
        return f"topic {self.topic!r} of channel {self.channel!r}: {faults}"


class PayloadTooLarge(FanwireError, ValueError):
    """The encoded message is larger than the transport carries.

    Attributes:
        size: Bytes of the encoded message.
        limit: Bytes the transport accepts.
    """

    code = "payload_too_large"

    def __init__(self, channel: str, topic: str, size: int, limit: int) -> None:
        super().__init__(channel, topic, size, limit)
        self.channel = channel
        self.topic = topic
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return f"topic {self.topic!r} of channel {self.channel!r}: {self.size:,} bytes, the transport carries at most {self.limit:,}"


class Unsupported(FanwireError):
    """The transport does not declare the ability; its ``capabilities`` say what it declares."""

    code = "unsupported"


class Closed(FanwireError, RuntimeError):
    """It is not open: not entered yet, or already closed."""

    code = "closed"


class WrongLoop(Closed):
    """A Realtime belongs to the event loop and process it was entered in."""

    code = "wrong_loop"


class Unavailable(FanwireError, ConnectionError):
    """The broker cannot be reached or cannot serve at present."""

    code = "unavailable"
    retryable = True


class ConnectFailed(Unavailable):
    """No connection to the broker could be made."""

    code = "connect_failed"


class ConnectionLost(Unavailable):
    """The connection broke while a call was in flight; whether the broker acted on it may be unknown."""

    code = "connection_lost"


class Timeout(FanwireError, TimeoutError):
    """The call took longer than its ``timeout``; the text says whether anything was sent."""

    code = "timeout"
    retryable = True


class AuthError(FanwireError, PermissionError):
    """The broker or gateway refuses who is asking, or what is asked."""

    code = "auth"


class Unauthenticated(AuthError):
    """The credentials are missing or refused. Reconnecting does not try again."""

    code = "unauthenticated"


class PermissionDenied(AuthError):
    """The credentials are good, but do not allow this."""

    code = "permission_denied"


class TokenExpired(AuthError):
    """The subscription token is past its time."""

    code = "token_expired"


class CursorExpired(FanwireError):
    """The history no longer holds the message at the cursor, so what followed it may be incomplete."""

    code = "cursor_expired"


class MessagesLost(FanwireError):
    """Messages are missing at this position; iteration may go on behind it.

    Attributes:
        gap: What is known about them.
    """

    code = "messages_lost"

    def __init__(self, gap: Gap) -> None:
        super().__init__(gap)
        self.gap = gap

    def __str__(self) -> str:
        return str(self.gap)


class PartialPublish(FanwireError):
    """Some messages of a ``publish_many`` were accepted and some were not.

    Attributes:
        results: One entry per message, in the order given: its Receipt, or the error that kept it out.
    """

    code = "partial_publish"

    def __init__(self, results: Sequence[Receipt | FanwireError]) -> None:
        super().__init__(results)
        self.results: tuple[Receipt | FanwireError, ...] = tuple(results)

    def __str__(self) -> str:
        refused = [r for r in self.results if isinstance(r, FanwireError)]
        first = f": {refused[0]}" if refused else ""
        return f"{len(refused)} of {len(self.results)} messages were not accepted{first}"


class StepConflict(FanwireError):
    """A step id of this run was recorded for another channel or topic."""

    code = "step_conflict"


class Internal(FanwireError):
    """A defect of fanwire or of a transport, never of the caller; please report it."""

    code = "internal"
