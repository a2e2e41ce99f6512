"""The broker: streams, and links to the event loops that subscribe. One lock guards it, since a named broker is shared across threads."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from threading import get_ident
from typing import NamedTuple, final

from fanwire.clock import SYSTEM_CLOCK, Clock
from fanwire.errors import ConfigError, ConnectFailed, ConnectionLost, FanwireError
from fanwire.messages import Cursor, Receipt, mark_of
from fanwire.transport import HistoryPage, HistoryStart, Outbound, Sink

from .faults import Faults, Script
from .link import Link
from .stream import Stream

__all__ = ("Limits", "MemoryBroker", "shared_broker")


class Limits(NamedTuple):
    """How much history a broker keeps."""

    history: int
    """Messages per channel."""

    ttl: float
    """Seconds."""

    max_bytes: int
    """Bytes of all channels together."""


@final
class MemoryBroker:
    """Channels by name, their histories, and who is connected."""

    def __init__(self, limits: Limits, *, shared: bool, clock: Clock = SYSTEM_CLOCK) -> None:
        self.shared = shared
        """Whether several threads may use it."""
        self.clock = clock
        self.limits = limits
        self._history = limits.history
        self.now = clock.time
        """Seconds since 1970, by the broker's clock."""
        self.begin()

    def share(self) -> None:
        """Allow other threads to use it from now on. Called where it is used, or before."""
        self.shared = True
        _unnamed.add(self)

    def begin(self) -> None:
        """Start with nothing: no channels, no connections, no faults."""
        self.lock = threading.RLock()
        """Held while anything below is read or changed, and while sinks are called."""
        self.scripts: list[Script] = []
        """Faults that wait for their messages."""
        self._streams: OrderedDict[str, Stream] = OrderedDict()
        """By the time of the last publish, longest ago first."""
        self._newest: Stream | None = None
        self._bytes = 0
        self._links: list[Link] = []
        self._subscribers: dict[str, dict[Link, int]] = {}
        """Channel to link to the generation of its subscribe."""
        self._denied: dict[str, FanwireError] = {}
        self._refuse_connections = 0
        self._stalled = False
        self._until: float | None = None
        """When the stall ends by itself, by the monotonic clock."""
        self.blocked = False
        """Publishes and subscribes have to wait."""
        self.hindered = False
        """Whether a fault has to have its say before a message is accepted."""

    @property
    def faults(self) -> Faults:
        """Its scripted faults. Made when asked for: held, it would be a cycle, and a named broker would stay open until the garbage collector finds it."""
        return Faults(self)

    # ------------------------------------------------------------------ connections

    def connect(self, sink: Sink) -> Link:
        """Open a link for the running event loop.

        Raises:
            ConnectFailed: a scripted fault refuses it.
        """
        with self.lock:
            if self._refuse_connections:
                self._refuse_connections -= 1
                raise ConnectFailed("memory: the connection was refused by a scripted fault")
            self.end_delay()
            self._forget_the_dead([link for link in self._links if link.thread == get_ident() and link.gone()])
            link = Link(sink, self.lock, stalled=self._stalled, until=self._until)
            self._links.append(link)
            return link

    def disconnect_link(self, link: Link) -> None:
        """Forget a link and its subscriptions."""
        with self.lock:
            if link in self._links:
                self._links.remove(link)
            for channel in link.channels:
                self._drop_subscriber(channel, link)
            link.channels.clear()

    def _forget_the_dead(self, links: Iterable[Link]) -> None:
        """Forget those of these links that are broken."""
        for link in [link for link in links if link.broken]:
            self.disconnect_link(link)

    def subscribe(self, link: Link, channels: Collection[str], generation: int) -> Mapping[str, Cursor | None | FanwireError]:
        """Make channels live on ``link``; its sink is told the positions before any frame."""
        answers: dict[str, Cursor | None | FanwireError] = {}
        with self.lock:
            self._check(link)
            for channel in channels:
                if channel in self._denied:
                    answers[channel] = self._denied[channel]
                    continue
                self._subscribers.setdefault(channel, {})[link] = generation
                link.channels.add(channel)
                answers[channel] = position = self._stream(channel).head
                link.subscribed(channel, generation, position)
        return answers

    def unsubscribe(self, link: Link, channels: Collection[str]) -> None:
        """Stop delivery of channels to ``link``."""
        with self.lock:
            self._check(link)
            for channel in channels:
                link.channels.discard(channel)
                self._drop_subscriber(channel, link)

    def _drop_subscriber(self, channel: str, link: Link) -> None:
        links = self._subscribers.get(channel)
        if links is not None:
            links.pop(link, None)
            if not links:
                del self._subscribers[channel]

    def _check(self, link: Link) -> None:
        if link.broken:
            raise link.lost()

    # ------------------------------------------------------------------ messages

    def publish(self, link: Link, batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        """Accept a batch: give positions, store, and deliver.

        Raises:
            ConnectionLost: the link is broken, or a scripted fault loses the answer.
        """
        with self.lock:
            self._check(link)
            if self.hindered:
                return self._publish_faulty(batch)
            now = self.clock.time()
            return [self._take(message, now) for message in batch]

    def accept(  # noqa: C901, PLR0912  # a call costs more than a branch: see below
        self, channel: str, topic: str, id: str, key: str | None, frame: bytes, now: float, *, retry: bool = False, times: int = 1, keep: bool = True
    ) -> Receipt:
        """Take one message, with the lock held: position, history, delivery."""
        stream = self._streams.get(channel)
        if stream is None:
            stream = self._stream(channel)
        if key is not None or retry:
            known = stream.repeated(id, key, retry)
            if known is not None:
                return Receipt(id, channel, topic, known, stream.is_anothers(id, key))
        # Written out, without calls that could be saved. tuple.__new__ has half the cost of calling the class.
        prev = stream.head
        epoch, offset, _ = prev
        position = stream.head = tuple.__new__(Cursor, (epoch, offset + 1, mark_of(id, key)))  # pyright: ignore[reportUnknownMemberType]  # see above
        entries = stream.entries
        entries.append((frame, position, prev, id, now))
        if key is not None:
            stream.remember(key, position, id)
        if stream is not self._newest:
            self._newest = stream
            self._streams.move_to_end(channel)
        if len(entries) > self._history:
            self._bytes += len(frame) - len(entries.popleft()[0])
        else:
            self._bytes += len(frame)
        if not keep and entries:
            self._bytes -= len(entries.pop()[0])
        if self._bytes > self.limits.max_bytes:
            self._evict()
        # What is older than ttl is discarded when somebody reads, and when the channel has rested for as long.
        subscribers = self._subscribers.get(channel)
        if subscribers is not None:
            here, dead = get_ident(), False
            for link, generation in subscribers.items() if times == 1 else [*subscribers.items()] * times:
                try:
                    if link.direct and link.thread == here:
                        link.sink.deliver(channel, generation, frame, position, prev)
                    else:
                        link.deliver(channel, generation, frame, position, prev)
                        dead |= link.broken
                except RuntimeError:
                    # What a sink runs into that wakes somebody on an event loop that was closed; the publisher has no part in it.
                    if not link.gone():
                        raise
                    dead = True
            if dead:
                self._forget_the_dead(subscribers)
        return tuple.__new__(Receipt, (id, channel, topic, position, False))  # pyright: ignore[reportUnknownMemberType]  # see above

    def _take(self, message: Outbound, now: float, *, times: int = 1, keep: bool = True) -> Receipt:
        channel, topic, id, key, _, _, _, frame, retry = message
        return self.accept(channel, topic, id, key, frame, now, retry=retry, times=times, keep=keep)

    def _publish_faulty(self, batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        now = self.clock.time()
        results: list[Receipt | FanwireError] = []
        ack_lost = False
        refused: set[str] = set()
        for message in batch:
            fault = self.faults.take(message.channel) if message.channel not in refused else None
            if message.channel in refused or (fault is not None and fault.kind == "refuse" and fault.error is not None):
                refused.add(message.channel)
                told = None if fault is None else fault.error
                results.append(told or ConnectionLost("memory: not sent behind a refused message"))
            elif fault is None or fault.kind == "lose_ack":
                ack_lost |= fault is not None
                results.append(self._take(message, now))
            elif fault.kind == "duplicate":
                results.append(self._take(message, now, times=2))
            else:
                results.append(self._take(message, now, times=0, keep=fault.stored))
        if ack_lost:
            raise ConnectionLost("memory: the answer was lost by a scripted fault")
        return results

    def history(self, link: Link, channel: str, start: HistoryStart, limit: int) -> HistoryPage:
        """Read a page of a channel's history."""
        with self.lock:
            self._check(link)
            stream = self._stream(channel)
            self._bytes -= stream.trim(self.limits.history, self.clock.time() - self.limits.ttl)
            return stream.page(start, limit)

    def _stream(self, channel: str) -> Stream:
        stream = self._streams.get(channel)
        if stream is None:
            self._expire()
            stream = self._streams[channel] = Stream(self.clock.time())
        return stream

    def _expire(self) -> None:
        """Forget, while a channel is added, up to two that nobody has published to for ``ttl`` and nobody subscribes."""
        oldest = self.clock.time() - self.limits.ttl
        for channel in [name for name, _ in zip(self._streams, range(2), strict=False)]:
            stream = self._streams[channel]
            if (stream.entries[-1][4] if stream.entries else stream.at) >= oldest:
                return
            if channel in self._subscribers:
                stream.at = self.clock.time()
                self._streams.move_to_end(channel)
            else:
                self._bytes -= stream.trim(0, 0.0)
                del self._streams[channel]
            self._newest = None

    def _evict(self) -> None:
        """Empty the histories that were published to longest ago, until the rest fits."""
        for stream in self._streams.values():
            if self._bytes <= self.limits.max_bytes:
                return
            # The last one standing keeps what fits.
            while stream.entries and self._bytes > self.limits.max_bytes:
                self._bytes -= stream.trim(len(stream.entries) - 1, 0.0)

    # ------------------------------------------------------------------ what tests look at

    def subscribed(self) -> int:
        """Return how many channels are delivered to anybody."""
        with self.lock:
            return len(self._subscribers)

    def stored(self, channel: str) -> int:
        """Return how many messages of a channel are kept."""
        with self.lock:
            stream = self._streams.get(channel)
            return 0 if stream is None else len(stream.entries)

    def inject(self, channel: str, frame: bytes) -> None:
        """Take a frame as it is, as from a client that is not fanwire."""
        with self.lock:
            self.accept(channel, "", "", None, frame, self.clock.time())

    # ------------------------------------------------------------------ what faults do

    def disconnect(self, refuse: int) -> None:
        """See :class:`Faults`."""
        with self.lock:
            self._refuse_connections += refuse
            for link in list(self._links):
                self.disconnect_link(link)
                link.break_()

    def look_for_faults(self) -> None:
        """Note whether any fault concerns the next publish."""
        self.hindered = self.blocked or bool(self.scripts)

    def deny(self, channel: str, error: FanwireError | None) -> None:
        """See :class:`Faults`."""
        with self.lock:
            if error is None:
                self._denied.pop(channel, None)
            else:
                self._denied[channel] = error

    def stall(self, seconds: float | None) -> None:
        """See :class:`Faults`."""
        with self.lock:
            self._stalled = True
            self._until = None if seconds is None else self.clock.monotonic() + seconds
            for link in self._links:
                link.stall(self._until)
            self._forget_the_dead(self._links)

    def block(self) -> None:
        """See :class:`Faults`."""
        with self.lock:
            self.blocked = True
            self.look_for_faults()

    def resume(self) -> None:
        """See :class:`Faults`."""
        with self.lock:
            self.blocked = False
            self.look_for_faults()
            self._go_on()

    def end_delay(self) -> None:
        """End a stall whose time has come, for all links."""
        with self.lock:
            if self._until is not None and self.clock.monotonic() >= self._until:
                self._go_on()

    def _go_on(self) -> None:
        self._stalled = False
        self._until = None
        for link in self._links:
            link.resume()
        self._forget_the_dead(self._links)

    def trim(self, channel: str, keep: int) -> None:
        """See :class:`Faults`."""
        with self.lock:
            self._bytes -= self._stream(channel).trim(keep, 0.0)

    def new_epoch(self, channel: str) -> None:
        """See :class:`Faults`."""
        with self.lock:
            self._bytes -= self._stream(channel).trim(0, 0.0)
            self._streams[channel] = Stream(self.clock.time())

    def forget(self) -> None:
        """See :class:`Faults`."""
        with self.lock:
            for channel in self._streams:
                self.new_epoch(channel)

    def fork(self, channel: str, back: int) -> None:
        """See :class:`Faults`."""
        with self.lock:
            self._bytes -= self._stream(channel).cut(back)


_shared: weakref.WeakValueDictionary[tuple[str, str], MemoryBroker] = weakref.WeakValueDictionary()
_unnamed: weakref.WeakSet[MemoryBroker] = weakref.WeakSet()
"""Brokers that came to be shared by a copy of their transport."""
_shared_lock = threading.Lock()


def shared_broker(name: str, namespace: str, limits: Limits) -> MemoryBroker:
    """Return the process's broker of that name and namespace; namespaces do not even share one.

    Raises:
        ConfigError: it is open already with other limits.
    """
    with _shared_lock:
        broker = _shared.get((name, namespace))
        if broker is None:
            broker = _shared[name, namespace] = MemoryBroker(limits, shared=True)
        elif broker.limits != limits:
            kept = broker.limits
            raise ConfigError(f"memory://{name} is open in this process with {kept}, now asked for with {limits}: give all openers the same options")
        return broker


def _forked() -> None:
    """In the child of a fork: nobody there will ever release a lock that another thread of the parent held, nor end what it had half done.

    Its brokers are those it had, since transports may hold them, but they begin anew: another process shares nothing. The parent's links are never woken here, since
    their event loops' pipes are shared with the parent.
    """
    global _shared, _shared_lock  # noqa: PLW0603  # they are the process's
    _shared_lock = threading.Lock()
    _shared = weakref.WeakValueDictionary(_shared.items())
    for broker in {*_shared.values(), *_unnamed}:
        broker.begin()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forked)
