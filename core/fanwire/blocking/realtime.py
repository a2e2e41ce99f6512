"""BlockingRealtime: what users without an event loop hold.

Generated from core/fanwire/realtime.py by scripts/generate_blocking.py: change that file, and run ``make generate``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, final, overload

from ..capabilities import Capabilities
from ..channels import ChannelLike
from ..clock import SYSTEM_CLOCK, Clock
from ..codec import ENVELOPE, Codec
from ..events import ConnectionEvent, InvalidMessage, RealtimeStats
from ..messages import Message, Receipt, Start
from ..realtime import (
    _NO_DATA,  # pyright: ignore[reportPrivateUsage]  # a default, by identity
    Realtime,
)
from ..subscription import OnGap
from ..topics import Outgoing, TopicRef
from ..transport import Transport
from .lifetime import Lifetime, configured, copied, unchecked
from .run import BlockingRun
from .subscription import BlockingSubscription

if TYPE_CHECKING:
    from ..runs import StepStore

__all__ = ("BlockingRealtime",)

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
G = TypeVar("G")
H = TypeVar("H")


@final
class BlockingRealtime(Lifetime):
    """Typed realtime channels for code without an event loop: Django, Flask, Celery, scripts.

    It has what :class:`~fanwire.Realtime` has, without ``async`` and ``await``::

        with BlockingRealtime.from_url("redis://localhost:6379") as rt:
            with rt.subscribe(chat.status) as messages:
                rt.publish(chat.status, Status(message="Thinking..."))
                print(messages.get(timeout=5.0).data)

    Or make one per process, as a global, and use it: it connects at first use, in a thread of its own, and is closed when the interpreter exits::

        rt = BlockingRealtime.from_url("redis://localhost:6379")  # no I/O, no thread


        @app.post("/say")
        def say() -> str:
            return rt.publish(chat.status, Status(message=request.form["text"])).id

    Servers and task queues that fork their workers (gunicorn, uWSGI, Celery) may fork before or after that: each child opens a connection of its own at its first use. A
    subscription, a run and what ``events()`` gives belong to the process they were made in. A first use may fail like entering does, with ``ConnectFailed`` and its kin; the next one
    tries again.

    All methods may be called from any number of threads at once, though not in one that runs an event loop, which they would block: that is a ``WrongLoop`` error. An interrupt, as by
    Ctrl-C, ends a call at once. Schemas and ``on_invalid`` are called in the thread of the connection. At the interpreter's exit waits for messages end as soon as the main thread
    has ended, so that threads can be joined; publishing goes on until :mod:`atexit` closes it, for five seconds at most.

    Args:
        transport: Carries the messages; a copy of it is opened, so it may be in use elsewhere. :meth:`from_url` makes one.
        timeout: Seconds that a publish may take, unless it says otherwise.
        connect_timeout: Seconds that connecting, and subscribing, may take.
        buffer: Messages that one subscription may have waiting; beyond them the oldest are given up, announced as a gap.
        buffer_bytes: Bytes of frames that one subscription may have waiting.
        buffer_bytes_total: Bytes of frames that all subscriptions together may have waiting.
        linger: Seconds that a channel stays subscribed at the broker after its last subscription has gone.
        require: Capabilities without which it must not start, by the names of :meth:`Capabilities.names`.
        on_invalid: Called with each message that had to be skipped, in place of a log line. Must not block.
        codec: The wire format.
        clock: Where time comes from; for tests.

    Raises:
        ConfigError: a setting is out of range, an unknown capability is required, or the transport cannot be copied, as when it was given a client's own objects.
        Unsupported: the transport does not declare a required capability.
    """

    def __init__(
        self,
        transport: Transport,
        /,
        *,
        timeout: float = 10.0,
        connect_timeout: float = 10.0,
        buffer: int = 1024,
        buffer_bytes: int = 8 * 2**20,
        buffer_bytes_total: int = 256 * 2**20,
        linger: float = 1.0,
        require: Collection[str] = (),
        on_invalid: Callable[[InvalidMessage], None] | None = None,
        codec: Codec = ENVELOPE,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        make = copied(transport)
        super().__init__(
            lambda: Realtime(
                make(),
                timeout=timeout,
                connect_timeout=connect_timeout,
                buffer=buffer,
                buffer_bytes=buffer_bytes,
                buffer_bytes_total=buffer_bytes_total,
                linger=linger,
                require=require,
                on_invalid=on_invalid,
                codec=codec,
                clock=clock,
            )
        )

    @classmethod
    def from_url(cls, url: str, /, *, options: Mapping[str, object] | None = None, **settings: Any) -> Self:  # Any: checked by the constructor
        """Make one for a URL such as ``memory://`` or ``redis://localhost:6379``.

        Args:
            url: Its scheme chooses the transport, its query sets the transport's options.
            options: More options of the transport; these win over the URL's.
            **settings: As for the constructor; ``namespace`` is an option of the transport and may be given here too.

        Raises:
            UnknownTransport: no transport has the scheme; the text lists what is installed.
            MissingExtra: the transport's client is not installed; the text has the pip command.
            ConfigError: the URL or an option is wrong.
        """
        made = cls.__new__(cls)
        Lifetime.__init__(made, lambda: Realtime.from_url(url, options=options, **settings))
        return made

    @classmethod
    def from_config(cls, path: str | Path | None = None, **settings: Any) -> Self:  # Any: checked by the configuration
        """Make one from, in order of precedence: ``settings``, the environment (``FANWIRE_URL`` ...), ``fanwire.toml``, ``[tool.fanwire]`` of ``pyproject.toml``.

        Args:
            path: A configuration file to read in place of the one found in the working directory.
            **settings: Settings that win over all others; ``on_invalid``, ``codec`` and ``clock`` as for the constructor.

        Raises:
            ConfigError: a setting is missing or wrong; the text says where it came from.
        """
        made = cls.__new__(cls)
        Lifetime.__init__(made, configured(path, settings))
        return made

    @overload
    def publish(
        self, ref: TopicRef[T], data: T, /, *, key: str | None = None, headers: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> Receipt: ...
    @overload
    def publish(
        self, outgoing: Outgoing[T], /, *, key: str | None = None, headers: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> Receipt: ...
    def publish(
        self,
        ref: Any,  # Any: a TopicRef or an Outgoing, bound by the overloads; to tell a checker which would cost a call below
        data: object = _NO_DATA,
        /,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Receipt:
        """Publish one message, and return once the broker has accepted it.

        Messages of one Realtime on one channel arrive in the order of the calls, across topics.

        Args:
            ref: A topic of a channel; or, as the only argument, ``ref(data)``.
            data: What the topic's schema accepts. The validated value is sent.
            key: Idempotency key of at most 255 bytes: a repeat under the same key is suppressed, within a bounded window. Readers of the channel see it.
            headers: Strings that travel along, 8 KiB at most in all. Readers of the channel see them.
            timeout: Seconds to wait; by default the BlockingRealtime's.

        Returns:
            The broker's acknowledgement.

        Raises:
            InvalidPayload: the schema refuses the data; nothing was sent.
            PayloadTooLarge: it is larger than the transport carries; nothing was sent.
            Timeout: it took too long; the text says whether it was sent.
            ConnectionLost: the connection broke and the outcome is unknown. Retried by itself where a repeat would be suppressed.
            Closed: this BlockingRealtime is closed.
        """
        return self._call(lambda realtime: unchecked(realtime.publish)(ref, data, key=key, headers=headers, timeout=timeout))

    # Any: messages of several topics
    def publish_many(self, messages: Iterable[Outgoing[Any]], /, *, timeout: float | None = None) -> Sequence[Receipt]:
        """Publish several messages in one round trip, in order.

        All of them are validated before any is sent.

        Args:
            messages: ``ref(data)`` each, of any topics and channels; an empty iterable is fine.
            timeout: Seconds to wait for all of them; by default the BlockingRealtime's.

        Returns:
            One acknowledgement per message, in the order given.

        Raises:
            InvalidPayload: a schema refuses its data; nothing was sent.
            PayloadTooLarge: a message is larger than the transport carries; nothing was sent.
            PartialPublish: some were accepted and some not. Behind the first that was refused, none of its channel is sent.
            Timeout: it took too long, and none was accepted.
            Closed: this BlockingRealtime is closed.
        """
        messages = tuple(messages)
        return self._call(lambda realtime: realtime.publish_many(messages, timeout=timeout))

    def run(self, run_id: str, /, *, steps: StepStore | None = None) -> BlockingRun:
        """Begin an attempt of a unit of work that is retried until it succeeds. No I/O.

        Args:
            run_id: Names the work, the same at every attempt: 255 bytes at most. Readers of what it publishes see it.
            steps: Where its steps are recorded, so that they happen once; without it the run has no ``step``.

        Returns:
            ``run.publish`` publishes again on every attempt, ``run.step.publish`` once.

        Raises:
            ConfigError: the id is not allowed.
        """
        return BlockingRun(self, self._realtime.run(run_id, steps=steps), lambda realtime: realtime.run(run_id, steps=steps))

    # One argument a line, as the formatter has it, would make each of these eleven overloads as long as a method.
    # fmt: off
    @overload
    def subscribe(
        self, a: TopicRef[A], /, *,
        start: Start = ..., on_gap: OnGap = ..., buffer: int | None = ..., buffer_bytes: int | None = ...,
    ) -> BlockingSubscription[Message[A]]: ...
    @overload
    def subscribe(
        self, a: TopicRef[A], b: TopicRef[B], /, *,
        start: Start = ..., on_gap: OnGap = ..., buffer: int | None = ..., buffer_bytes: int | None = ...,
    ) -> BlockingSubscription[Message[A | B]]: ...
    @overload
    def subscribe(
        self, a: TopicRef[A], b: TopicRef[B], c: TopicRef[C], /, *,
        start: Start = ..., on_gap: OnGap = ..., buffer: int | None = ..., buffer_bytes: int | None = ...,
    ) -> BlockingSubscription[Message[A | B | C]]: ...
    @overload
    def subscribe(
        self, a: TopicRef[A], b: TopicRef[B], c: TopicRef[C], d: TopicRef[D], /, *,
        start: Start = ..., on_gap: OnGap = ..., buffer: int | None = ..., buffer_bytes: int | None = ...,
    ) -> BlockingSubscription[Message[A | B | C | D]]: ...
    @overload
    def subscribe(
        self, a: TopicRef[A], b: TopicRef[B], c: TopicRef[C], d: TopicRef[D], e: TopicRef[E], /, *,
        start: Start = ..., on_gap: OnGap = ..., buffer: int | None = ..., buffer_bytes: int | None = ...,
    ) -> BlockingSubscription[Message[A | B | C | D | E]]: ...
    @overload
    def subscribe(
        self, a: TopicRef[A], b: TopicRef[B], c: TopicRef[C], d: TopicRef[D], e: TopicRef[E], f: TopicRef[F], /, *,
        start: Start = ..., on_gap: OnGap = ..., buffer: int | None = ..., buffer_bytes: int | None = ...,
    ) -> BlockingSubscription[Message[A | B | C | D | E | F]]: ...
    @overload
    def subscribe(
        self, a: TopicRef[A], b: TopicRef[B], c: TopicRef[C], d: TopicRef[D], e: TopicRef[E], f: TopicRef[F], g: TopicRef[G], /, *,
        start: Start = ..., on_gap: OnGap = ..., buffer: int | None = ..., buffer_bytes: int | None = ...,
    ) -> BlockingSubscription[Message[A | B | C | D | E | F | G]]: ...
    @overload
    def subscribe(
        self, a: TopicRef[A], b: TopicRef[B], c: TopicRef[C], d: TopicRef[D], e: TopicRef[E], f: TopicRef[F], g: TopicRef[G], h: TopicRef[H], /, *,
        start: Start = ..., on_gap: OnGap = ..., buffer: int | None = ..., buffer_bytes: int | None = ...,
    ) -> BlockingSubscription[Message[A | B | C | D | E | F | G | H]]: ...
    @overload
    def subscribe(
        self, first: TopicRef[T], /, *refs: TopicRef[T],
        start: Start = ..., on_gap: OnGap = ..., buffer: int | None = ..., buffer_bytes: int | None = ...,
    ) -> BlockingSubscription[Message[T]]: ...
    @overload
    def subscribe(  # Any: more than eight topics of different payloads
        self, first: TopicRef[Any], /, *refs: TopicRef[Any],
        start: Start = ..., on_gap: OnGap = ..., buffer: int | None = ..., buffer_bytes: int | None = ...,
    ) -> BlockingSubscription[Message[Any]]: ...
    @overload
    def subscribe(  # Any: a channel's topics are of several payloads
        self, channel: ChannelLike | str, /, *, topics: Iterable[str] | None = ...,
        start: Start = ..., on_gap: OnGap = ..., buffer: int | None = ..., buffer_bytes: int | None = ...,
    ) -> BlockingSubscription[Message[Any]]: ...
    # fmt: on
    def subscribe(
        self,
        *targets: TopicRef[Any] | ChannelLike | str,  # Any: bound by the overloads
        topics: Iterable[str] | None = None,
        start: Start = Start.LIVE,
        on_gap: OnGap = "log",
        buffer: int | None = None,
        buffer_bytes: int | None = None,
    ) -> BlockingSubscription[Any]:
        """Prepare a subscription; ``with`` subscribes.

        Args:
            *targets: Topics, of one channel or of several; or one channel for all topics it declares; or a channel's name for all there are, unchecked.
            topics: With a channel: only the topics of these names.
            start: Where to begin; see :class:`~fanwire.Start`.
            on_gap: ``"log"`` warns and counts where messages are missing; ``"raise"`` raises ``MessagesLost`` there, and iterating goes on behind it. The view
                ``with_gaps()`` yields them instead.
            buffer: Messages that may wait for the consumer; by default the BlockingRealtime's.
            buffer_bytes: Bytes of frames that may wait for the consumer; by default the BlockingRealtime's.

        Returns:
            A context manager and iterator of messages.

        Raises:
            DeclarationError: an argument is neither topic nor channel.
            Unsupported: the transport has no history for ``start``.
            ValueError: ``start`` or ``on_gap`` does not fit, or a buffer is smaller than 1.
        """
        return BlockingSubscription(
            self, unchecked(self._realtime.subscribe)(*targets, topics=topics, start=start, on_gap=on_gap, buffer=buffer, buffer_bytes=buffer_bytes)
        )

    @overload
    def history(self, first: TopicRef[T], /, *refs: TopicRef[T], start: Start = ..., limit: int = ...) -> Sequence[Message[T]]: ...
    @overload
    def history(  # Any: topics of different payloads
        self, first: TopicRef[Any], /, *refs: TopicRef[Any], start: Start = ..., limit: int = ...
    ) -> Sequence[Message[Any]]: ...
    @overload
    def history(  # Any: a channel's topics are of several payloads
        self, channel: ChannelLike | str, /, *, topics: Iterable[str] | None = ..., start: Start = ..., limit: int = ...
    ) -> Sequence[Message[Any]]: ...
    def history(
        self,
        *targets: TopicRef[Any] | ChannelLike | str,  # Any: bound by the overloads
        topics: Iterable[str] | None = None,
        start: Start = Start.EARLIEST,
        limit: int = 1000,
    ) -> Sequence[Message[Any]]:
        """Read what the broker has kept of one channel, without subscribing.

        Args:
            *targets: Topics of one channel, or a channel, or its name.
            topics: With a channel: only the topics of these names.
            start: Where to begin; not ``Start.LIVE``.
            limit: Messages at most. ``Start.after(messages[-1].cursor)`` reads on.

        Returns:
            Messages, oldest first. Invalid ones are reported and left out.

        Raises:
            Unsupported: the transport has no history of that form.
            CursorExpired: the history no longer holds the cursor to start behind.
            MessagesLost: messages were discarded between two pages; read again.
            Unavailable: there is no connection.
        """
        return self._call(lambda realtime: unchecked(realtime.history)(*targets, topics=topics, start=start, limit=limit))

    @contextmanager
    def events(self) -> Generator[Iterator[ConnectionEvent]]:
        """Follow the connection: ``with rt.events() as events: for event in events``.

        Begins with the present state, ends behind ``closed``. Of more than 256 events that were not taken the oldest are given up.
        """
        with self._follow(lambda realtime: realtime.events()) as items:
            yield items

    def stats(self) -> RealtimeStats:
        """Return this BlockingRealtime's counters since it was opened; all 0 before."""
        return self._realtime.stats()

    def ping(self) -> float:
        """Make a round trip to the broker, through the path that messages take; return its seconds.

        Raises:
            Timeout: it took more than ``timeout`` seconds.
            Unavailable: there is no connection.
        """
        return self._call(lambda realtime: realtime.ping())

    @property
    def timeout(self) -> float:
        """Seconds that a publish may take, unless it says otherwise."""
        return self._realtime.timeout

    @property
    def connect_timeout(self) -> float:
        """Seconds that connecting, and subscribing, may take."""
        return self._realtime.connect_timeout

    @property
    def capabilities(self) -> Capabilities:
        """What the transport declares with its options."""
        return self._realtime.capabilities

    def native(self, kind: type[T], /) -> T:
        """Return the transport client's own object of type ``kind``, for what fanwire does not cover.

        Raises:
            Unsupported: there is none of that type; the text names those there are.
        """
        return self._realtime.native(kind)
