"""The contract between fanwire and a transport: opaque bytes on channel names.

A transport connects, publishes batches and delivers frames. Everything else lives in core, once: retries, reconnecting, buffering, validation, order, history joins,
repairs and gaps. A third party's transport is a class that satisfies :class:`Transport`, registered under the entry-point group ``fanwire.transports`` by its URL
scheme. Optional abilities are further protocols: :class:`SupportsHistory`, :class:`SupportsImmediatePublish`, :class:`SupportsCopy`.

Errors: a transport raises the classes of :mod:`fanwire.errors`, each made at the seam from the client's own (``raise ConnectionLost(...) from error``). Their texts are logged:
no secrets in them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import ClassVar, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from .capabilities import Capabilities
from .errors import FanwireError
from .messages import Cursor, GapReason, Receipt

__all__ = (
    "Earliest",
    "HistoryEntry",
    "HistoryPage",
    "HistoryStart",
    "Last",
    "Outbound",
    "Sink",
    "SupportsCopy",
    "SupportsHistory",
    "SupportsImmediatePublish",
    "Transport",
    "TransportOptions",
)

T = TypeVar("T")


class TransportOptions(BaseModel):
    """Base of every transport's options: what a URL's query or the configuration may set. Secrets are ``SecretStr``."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    url: SecretStr = Field(default=SecretStr(""), repr=False)
    """The URL without its query, for the transport to take apart."""

    namespace: str = Field(default="fanwire", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    """Prefix of everything on the broker; two namespaces never meet."""


class Outbound(NamedTuple):
    """One message on its way to the broker."""

    channel: str
    topic: str
    id: str
    key: str | None
    headers: Mapping[str, str] | None
    run_id: str | None
    data: bytes
    """The payload alone, one JSON value."""

    frame: bytes
    """The encoded envelope: what subscribers are to receive, byte for byte."""

    retry: bool
    """Whether an earlier attempt with this ``id`` may have been accepted."""


class Earliest(NamedTuple):
    """Read history from its oldest entry."""


class Last(NamedTuple):
    """Read the newest ``n`` entries of history."""

    n: int


HistoryStart = Cursor | datetime | Last | Earliest


class HistoryEntry(NamedTuple):
    """One stored frame and where it stands."""

    frame: bytes
    position: Cursor
    prev: Cursor | None
    """Position of the entry before it in the channel, stored or not; where ``links`` is declared."""


class HistoryPage(NamedTuple):
    """Entries in order, oldest first."""

    entries: Sequence[HistoryEntry]
    head: Cursor | None
    """Position of the channel's newest message when the page was read, or ``None`` where that cannot be known."""

    complete: bool
    """Whether the transport itself vouches that nothing between ``start`` and the first entry was discarded (used only where a mark or a link cannot show it)."""


class Sink(Protocol):
    """Where a transport delivers: the hub.

    Every method is O(1), never blocks and never raises. Call them on the event loop of ``run()`` only, and for one channel in the order of the stream.
    ``generation`` is the number given to the ``subscribe`` call that made the channel live; core drops what carries an older one.
    """

    def subscribed(self, channel: str, generation: int, position: Cursor | None, /) -> None:
        """Say that live delivery of ``channel`` is complete from behind ``position``. Before its first frame and before ``subscribe`` returns."""
        ...

    def deliver(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None, /) -> None:
        """Hand over one frame, unchanged; ``prev`` is the position of the message before it, where ``links`` is declared."""
        ...

    def lost(self, channels: Collection[str] | None, reason: GapReason, lost: int | None, /) -> None:
        """Say that the continuity of ``channels`` (``None``: all) ends here. Core subscribes again and repairs or announces the loss."""
        ...


class Transport(Protocol):
    """A driver for one broker. Made once, entered by core as often as the connection has to be made anew."""

    name: ClassVar[str]
    """Short name for messages and metrics, such as ``redis``."""

    options_model: ClassVar[type[TransportOptions]]

    @classmethod
    def from_options(cls, options: TransportOptions, /) -> Self:
        """Build it from an instance of its ``options_model``; no I/O."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do with its options; constant, known before it connects."""
        ...

    def run(self, sink: Sink, /) -> AbstractAsyncContextManager[None]:
        """One connection lifetime.

        Entering connects (or raises ``ConnectFailed``, ``Unauthenticated``); the body runs while the connection lives. When it breaks, the body is cancelled and
        leaving raises ``ConnectionLost``; core enters again, with backoff. A client that reconnects by itself reports ``sink.lost(None, ...)`` and never subscribes again
        on its own. Leaving releases everything, also under cancellation.
        """
        ...

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        """Send ``batch`` in order and return one result per entry once the broker accepted or refused it.

        Never retries. Of each channel a prefix is accepted: behind a refused entry the channel's rest is not sent, whatever stands in its place. May run concurrently,
        but no channel is in two calls. A batch may span channels.

        Raises:
            ConnectionLost: the outcome of the whole batch is unknown.
            Unavailable: nothing of it was sent.
        """
        ...

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        """Make channels live, replacing the topics wanted of each (``None``: the whole channel), and return once the broker has confirmed.

        Returns for each channel the position from which live delivery is complete, or why it was refused. Core makes one such call at a time.

        Raises:
            ConnectionLost: also where a connection made meanwhile would complete it.
        """
        ...

    async def unsubscribe(self, channels: Collection[str], /) -> None:
        """Stop delivery of ``channels``; frames under way may still arrive. Unknown names are ignored."""
        ...

    async def ping(self, /) -> None:
        """Make a round trip through the receive path. Raises ``ConnectionLost``."""
        ...

    def native(self, kind: type[T], /) -> T:
        """Return the client's own object of type ``kind``. Raises ``Unsupported`` naming the types there are."""
        ...


@runtime_checkable
class SupportsHistory(Protocol):
    """A transport that declares ``history``."""

    async def history(self, channel: str, /, *, start: HistoryStart, limit: int) -> HistoryPage:
        """Read at most ``limit`` entries from ``start``, inclusive.

        Every frame delivered before the call is in the page or newer than its ``head``. From a cursor that is no longer stored, begin at the oldest entry behind it:
        core sees the difference by the entry's position and mark.
        """
        ...


@runtime_checkable
class SupportsImmediatePublish(Protocol):
    """A transport that can publish without waiting for anything; core uses it where no earlier message of the channel is under way."""

    def publish_now(self, channel: str, topic: str, id: str, key: str | None, frame: bytes, /) -> Receipt | None:
        """Send one message at once and return its receipt; ``None`` where it would have to wait, and nothing was sent.

        The arguments are those fields of an :class:`Outbound` that such a transport needs; making one would cost more than sending.

        Raises:
            FanwireError: the broker refused it.
        """
        ...


@runtime_checkable
class SupportsCopy(Protocol):
    """A transport that can be made once more, for another event loop; ``rt.blocking()`` needs it. One that is made from its options alone does it in a line."""

    def copy(self, /) -> Transport:
        """Return another transport to the same broker, with the same options and no connection; no I/O.

        Called on the event loop that this one is used in, or before it is used; and again in the child of a fork.

        Raises:
            ConfigError: it was given a client's own objects, which belong to one event loop.
        """
        ...
