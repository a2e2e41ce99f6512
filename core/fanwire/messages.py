"""What travels and what is told about it: messages, gaps, cursors, receipts and where a subscription starts. Pure values, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeGuard, TypeVar, final
from zlib import crc32

from .errors import DeclarationError, InvalidPayload
from .schemas import field_errors
from .topics import TopicRef

__all__ = ("Cursor", "Gap", "GapReason", "Message", "MutableMessage", "RawMessage", "Receipt", "Start", "is_topic", "make_message", "mark_of")

T = TypeVar("T")
# A Message only ever hands its data out, so a Message[Dog] may stand where a Message[Animal] is wanted.
T_co = TypeVar("T_co", covariant=True)


class Cursor(NamedTuple):
    """A position in a channel. Opaque to users: keep it, hand it back, compare it for equality.

    ``str()`` and :meth:`parse` are the form to store or to send to a client. Offsets increase within an epoch and need not be contiguous; cursors of different
    epochs have no order.
    """

    epoch: str
    """Identity of the channel's history; another one after the broker lost or recreated it."""

    offset: int
    """Position within the epoch, 0 before the first message."""

    mark: str | None = None
    """8 hex digits of a hash of the message's ``key``, else its ``id``: tells a message from another that took its place. ``None`` where the entry is not at hand."""

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}:{self.mark or '-'}"

    @classmethod
    def parse(cls, text: str, /) -> Cursor:
        """Read back what ``str(cursor)`` wrote.

        Raises:
            ValueError: ``text`` is not a cursor.
        """
        epoch, offset, mark = (["", "", "", *text.rsplit(":", 2)])[-3:]
        digits = offset.isascii() and offset.isdigit() and len(offset) <= 20
        if not epoch or not digits or not (mark == "-" or (len(mark) == 8 and all(c in "0123456789abcdef" for c in mark))):
            raise ValueError(f"not a cursor: {text[:80]!r} (expected epoch:offset:mark, as str(cursor) gives it)")
        return cls(epoch, int(offset), None if mark == "-" else mark)


def mark_of(id: str, key: str | None) -> str:
    """Return the mark of a message: 8 hex digits of the CRC-32 of its ``key`` if it has one, else of its ``id``."""
    return "%08x" % crc32((id if key is None else key).encode())  # noqa: UP031 - half the cost of an f-string here, on every publish


class GapReason(StrEnum):
    """Why messages are missing."""

    LAGGED = "lagged"
    """This subscriber read too slowly; its buffer gave up the oldest."""

    DISCONNECTED = "disconnected"
    """The connection was down and the transport keeps no history."""

    HOLE = "hole"
    """The broker or the network lost them on the way."""

    TRIMMED = "trimmed"
    """The history discarded them before they could be read."""

    EXPIRED = "expired"
    """The history no longer shows whether anything was missed."""

    RESET = "reset"
    """The broker lost or recreated the channel's history."""


@final
@dataclass(frozen=True, slots=True)
class Gap:
    """Messages are missing at this very position of the stream."""

    channel: str | None
    """The channel, or ``None`` where a subscription over several channels lagged."""

    reason: GapReason

    lost: int | None
    """How many messages at most, or ``None`` where that cannot be known."""

    def __str__(self) -> str:
        count = "an unknown number of messages" if self.lost is None else f"{self.lost:,} message{'' if self.lost == 1 else 's'}"
        return f"{count} lost{'' if self.channel is None else f' on channel {self.channel!r}'} ({self.reason.value})"


@final
@dataclass(frozen=True, slots=True)
class Message(Generic[T_co]):
    """One message as a subscriber receives it: immutable, and shared by all local subscribers of the topic."""

    id: str
    """``<publisher>.<n>``, unique within its channel; ``""`` where a foreign publisher gave none."""

    channel: str
    topic: str

    data: T_co
    """The payload, parsed by the topic's schema."""

    kind: str
    """``data``, or another kind of the Inngest Realtime protocol."""

    created_at: datetime
    """When it was published, by the publisher's clock, in UTC."""

    cursor: Cursor | None = None
    """Its position in the channel, where the transport has positions."""

    run_id: str | None = None
    key: str | None = None
    """The idempotency key it was published under."""

    headers: Mapping[str, str] | None = None


@dataclass(slots=True)
class MutableMessage(Generic[T_co]):
    """Message's fields, writable: see :func:`make_message`."""

    id: str
    channel: str
    topic: str
    data: T_co
    kind: str
    created_at: datetime
    cursor: Cursor | None
    run_id: str | None
    key: str | None
    headers: Mapping[str, str] | None


def make_message(
    id: str,
    channel: str,
    topic: str,
    data: T,
    kind: str,
    created_at: datetime,
    cursor: Cursor | None,
    run_id: str | None,
    key: str | None,
    headers: Mapping[str, str] | None,
) -> Message[T]:
    """Build a Message at a fifth of the cost of its constructor, which sets each field of a frozen dataclass through ``object.__setattr__``."""
    message = MutableMessage(id, channel, topic, data, kind, created_at, cursor, run_id, key, headers)
    message.__class__ = Message  # type: ignore[assignment]  # the same slots, as CPython checks
    return message  # type: ignore[return-value]  # pyright: ignore[reportReturnType]  # it is one now


@final
@dataclass(frozen=True, slots=True)
class RawMessage:
    """A message whose payload no schema has seen: what the view ``subscription.raw()`` yields."""

    id: str
    channel: str
    topic: str

    json: bytes
    """The payload as it travelled: one JSON value."""

    kind: str
    created_at: datetime
    cursor: Cursor | None
    run_id: str | None
    key: str | None
    headers: Mapping[str, str] | None

    frame: bytes
    """The whole message as the broker carried it."""

    data: Any
    """The payload as plain Python values. ``Any`` because nothing has checked it."""

    def parse(self, ref: TopicRef[T], /) -> T:
        """Parse the payload by the schema of ``ref``.

        Raises:
            DeclarationError: ``ref`` is another topic than this message's.
            InvalidPayload: the schema refuses the payload.
        """
        if (ref.channel, ref.topic) != (self.channel, self.topic):
            this = f"topic {self.topic!r} on {self.channel!r}"
            raise DeclarationError(f"this message is of {this}, not of {ref!r}: compare with is_topic(message, ref) first")
        try:
            return ref.schema.load(self.json)
        except Exception as error:  # a schema may raise anything
            raise InvalidPayload(self.channel, self.topic, field_errors(error)) from error


class Receipt(NamedTuple):
    """The broker's acknowledgement of one message."""

    id: str
    channel: str
    topic: str
    cursor: Cursor | None
    """Where it stands in the channel, where the transport has positions."""

    duplicate: bool
    """Whether a message with the same ``key`` was there before, so that this one was dropped."""


_StartKind = Literal["live", "earliest", "last", "after", "since"]


@final
@dataclass(frozen=True, slots=True)
class Start:
    """Where a subscription begins: ``Start.LIVE``, ``Start.EARLIEST``, ``Start.last(n)``, ``Start.after(cursor)`` or ``Start.since(when)``."""

    kind: _StartKind
    value: int | datetime | Cursor | Mapping[str, Cursor] | None = None

    LIVE: ClassVar[Start]
    """Messages published after the subscription is ready. The default."""

    EARLIEST: ClassVar[Start]
    """Everything the history still holds, then live."""

    @classmethod
    def last(cls, n: int, /) -> Start:
        """Begin with the newest ``n`` messages of each channel (before any choice of topics), then live.

        Raises:
            ValueError: ``n`` is less than 1.
        """
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a checker
            raise ValueError(f"Start.last(n) takes n >= 1, got {n}; Start.LIVE starts without history")
        return cls("last", n)

    @classmethod
    def after(cls, cursor: Cursor | str | Mapping[str, Cursor | str], /) -> Start:
        """Begin behind ``cursor``, then live; for several channels give a mapping of channel name to cursor.

        Raises:
            ValueError: a string is not a cursor.
        """
        if isinstance(cursor, Mapping):
            return cls("after", {name: _cursor(c) for name, c in cursor.items()})
        return cls("after", _cursor(cursor))

    @classmethod
    def since(cls, when: datetime, /) -> Start:
        """Begin with the first message published at or after ``when``, then live.

        Raises:
            ValueError: ``when`` has no time zone.
        """
        if when.tzinfo is None:
            raise ValueError("Start.since() needs a datetime with a time zone, such as datetime.now(timezone.utc)")
        return cls("since", when)

    def __repr__(self) -> str:
        return f"Start.{self.kind.upper()}" if self.value is None else f"Start.{self.kind}({self.value!r})"


Start.LIVE = Start("live")
Start.EARLIEST = Start("earliest")


def _cursor(value: Cursor | str) -> Cursor:
    if isinstance(value, str):
        return Cursor.parse(value)
    if not isinstance(value, Cursor):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a checker
        raise TypeError(
            f"Start.after() takes a cursor, such as a message has, its text, or a mapping of channel names to cursors; got {type(value).__name__}"
        )
    return value


def is_topic(message: Message[Any] | Gap, ref: TopicRef[T], /) -> TypeGuard[Message[T]]:
    """Tell whether ``message`` is of ``ref``'s channel and topic, and narrow its type to that topic's payload.

    ``Message[Any]`` because any message may be asked about. A ``TypeGuard``, not a ``TypeIs``: two topics may share a payload type, so a "no" says nothing about the
    type.
    """
    return isinstance(message, Message) and message.topic == ref.topic and message.channel == ref.channel
