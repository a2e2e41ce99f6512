"""Realtime: what users hold. Publish, subscribe, read history; everything below it runs in the engine."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeVar, final, overload

import anyio

from .channels import ChannelLike
from .clock import SYSTEM_CLOCK, Clock
from .codec import ENVELOPE, Codec
from .errors import ConfigError, DeclarationError, FanwireError, Timeout, Unavailable, Unsupported
from .events import ConnectionEvent, ConnectionState, InvalidMessage, RealtimeStats
from .hub.calls import Prepared
from .hub.join import history_starts, read_history
from .hub.records import log_invalid
from .hub.told import fresh
from .hub.waiter import checkpoint
from .messages import Message, Receipt, Start
from .outgoing import MARGIN, check, not_a_ref, refused, unpack
from .publishing import Sender, send_many
from .requests import check_channels, check_start, interest_of
from .session import Session
from .subscription import OnGap, Request, Subscription
from .topics import Outgoing, TopicRef
from .transport import Transport

if TYPE_CHECKING:
    from .blocking import BlockingRealtime
    from .runs import Run, StepStore

__all__ = ("Realtime",)

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
G = TypeVar("G")
H = TypeVar("H")

_FAIR = 64
"""Publishes that did not suspend after which other tasks get a turn."""

_NO_DATA: Final = object()


@final
class Realtime(Session):
    """Typed realtime channels over one transport.

    Enter it once per process and event loop, and share it::

        async with Realtime.from_url("memory://") as rt:
            async with rt.subscribe(chat.status) as messages:
                await rt.publish(chat.status, Status(message="Thinking..."))
                print((await anext(messages)).data)

    It may be entered in one task and left in another. All methods belong to the event loop it was entered in.

    Args:
        transport: Carries the messages; :meth:`from_url` makes one.
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
        ConfigError: a setting is out of range, or an unknown capability is required.
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
        for name, value, least in (("timeout", timeout, 0.0), ("connect_timeout", connect_timeout, 0.0), ("linger", linger, -1e-9)):
            if not value > least:
                raise ConfigError(f"{name} must be {'positive' if least == 0.0 else 'at least 0'}, got {value!r}")
        for name, count in (("buffer", buffer), ("buffer_bytes", buffer_bytes), ("buffer_bytes_total", buffer_bytes_total)):
            if count < 1:
                raise ConfigError(f"{name} must be at least 1, got {count!r}")
        missing = transport.capabilities.missing(require)
        if missing:
            raise Unsupported(f"the {transport.name} transport with these options does not declare: {', '.join(missing)}")
        super().__init__(
            transport,
            timeout=timeout,
            connect_timeout=connect_timeout,
            buffer_bytes=buffer_bytes,
            buffer_bytes_total=buffer_bytes_total,
            linger=linger,
            on_invalid=on_invalid or log_invalid,
            codec=codec,
            clock=clock,
        )
        self._buffer = buffer
        self._max_payload = transport.capabilities.max_payload or sys.maxsize
        self._roomy = self._max_payload - MARGIN
        self._turn = 0

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
        from .registry import open_transport

        merged = dict(options or {})
        if "namespace" in settings:
            merged["namespace"] = settings.pop("namespace")
        return cls(open_transport(url, **merged), **settings)

    @classmethod
    def from_config(cls, path: str | Path | None = None, **settings: Any) -> Self:  # Any: checked by the configuration
        """Make one from, in order of precedence: ``settings``, the environment (``FANWIRE_URL`` ...), ``fanwire.toml``, ``[tool.fanwire]`` of ``pyproject.toml``.

        Args:
            path: A configuration file to read in place of the one found in the working directory.
            **settings: Settings that win over all others; ``on_invalid``, ``codec`` and ``clock`` as for the constructor.

        Raises:
            ConfigError: a setting is missing or wrong; the text says where it came from.
        """
        from .config import load_settings

        objects = {name: settings.pop(name) for name in ("on_invalid", "codec", "clock") if name in settings}
        loaded = load_settings(path=path, **settings)
        return cls(
            loaded.open_transport(),
            timeout=loaded.timeout,
            connect_timeout=loaded.connect_timeout,
            buffer=loaded.buffer,
            buffer_bytes=loaded.buffer_bytes,
            buffer_bytes_total=loaded.buffer_bytes_total,
            linger=loaded.linger,
            require=loaded.require,
            **objects,
        )

    # ------------------------------------------------------------------ publishing

    @overload
    async def publish(
        self, ref: TopicRef[T], data: T, /, *, key: str | None = None, headers: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> Receipt: ...
    @overload
    async def publish(
        self, outgoing: Outgoing[T], /, *, key: str | None = None, headers: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> Receipt: ...
    async def publish(
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
            timeout: Seconds to wait; by default the Realtime's.

        Returns:
            The broker's acknowledgement.

        Raises:
            InvalidPayload: the schema refuses the data; nothing was sent.
            PayloadTooLarge: it is larger than the transport carries; nothing was sent.
            Timeout: it took too long; the text says whether it was sent.
            ConnectionLost: the connection broke and the outcome is unknown. Retried by itself where a repeat would be suppressed.
            Closed: this Realtime is not open.
        """
        if data is _NO_DATA or ref.__class__ is not TopicRef:
            outgoing = unpack(ref) if data is _NO_DATA else _not_a_ref(ref)
            ref, data = outgoing.ref, outgoing.data
            key = outgoing.key if key is None else key
            headers = outgoing.headers if headers is None else headers
        try:
            here = self._current_loop()
        except RuntimeError:
            here = None
        if here is not self._loop:
            self._usable()
        lanes = self._lanes
        # What follows stands here rather than in functions of its own: this is the hottest path there is.
        schema = ref.schema
        try:
            encoded = schema.dump(schema.validate(data))
        except Exception as error:
            raise refused(ref, error) from error
        if key is not None or headers is not None or len(encoded) > self._roomy:
            check(ref, encoded, key, headers, self._max_payload)
        receipt = lanes.now(ref, encoded, key, headers)
        if receipt is None:
            fields = (ref, encoded, lanes.stamp(), key, headers, None)
            message = tuple.__new__(Prepared, fields)  # pyright: ignore[reportUnknownMemberType]  # half the cost of calling the class
            (result,) = await lanes.send((message,), self.timeout if timeout is None else timeout)
            if isinstance(result, FanwireError):
                raise fresh(result)
            return result
        self._turn += 1
        if self._turn >= _FAIR:
            self._turn = 0
            await checkpoint()
        return receipt

    # Any: messages of several topics
    async def publish_many(self, messages: Iterable[Outgoing[Any]], /, *, timeout: float | None = None) -> Sequence[Receipt]:
        """Publish several messages in one round trip, in order.

        All of them are validated before any is sent.

        Args:
            messages: ``ref(data)`` each, of any topics and channels; an empty iterable is fine.
            timeout: Seconds to wait for all of them; by default the Realtime's.

        Returns:
            One acknowledgement per message, in the order given.

        Raises:
            InvalidPayload: a schema refuses its data; nothing was sent.
            PayloadTooLarge: a message is larger than the transport carries; nothing was sent.
            PartialPublish: some were accepted and some not. Behind the first that was refused, none of its channel is sent.
            Timeout: it took too long, and none was accepted.
            Closed: this Realtime is not open.
        """
        return await send_many(self._usable().lanes, messages, self._max_payload, None, self.timeout if timeout is None else timeout)

    def run(self, run_id: str, /, *, steps: StepStore | None = None) -> Run:
        """Begin an attempt of a unit of work that is retried until it succeeds. No I/O.

        Args:
            run_id: Names the work, the same at every attempt: 255 bytes at most. Readers of what it publishes see it.
            steps: Where its steps are recorded, so that they happen once; without it the run has no ``step``.

        Returns:
            ``run.publish`` publishes again on every attempt, ``run.step.publish`` once.

        Raises:
            ConfigError: the id is not allowed.
        """
        from .runs.run import Run

        return Run(Sender(self._usable, self._max_payload, self.timeout, run_id), steps)

    # ------------------------------------------------------------------ subscribing

    # One argument a line, as the formatter has it, would make each of these eleven overloads as long as a method.
    # fmt: off
    @overload
    def subscribe(
        self, a: TopicRef[A], /, *,
        start: Start = ..., on_gap: OnGap = ..., buffer: int | None = ..., buffer_bytes: int | None = ...,
    ) -> Subscription[Message[A]]: ...
    @overload
    def subscribe(
        self, a: TopicRef[A], b: TopicRef[B], /, *,
        start: Start = ..., on_gap: OnGap = ..., buffer: int | None = ..., buffer_bytes: int | None = ...,
    ) -> Subscription[Message[A | B]]: ...
    @overload
    def subscribe(
        self, a: TopicRef[A], b: TopicRef[B], c: TopicRef[C], /, *,
        start: Start = ..., on_gap: OnGap = ..., buffer: int | None = ..., buffer_bytes: int | None = ...,
    ) -> Subscription[Message[A | B | C]]: ...
    @overload
    def subscribe(
        self, a: TopicRef[A], b: TopicRef[B], c: TopicRef[C], d: TopicRef[D], /, *,
        start: Start = ..., on_gap: OnGap = ..., buffer: int | None = ..., buffer_bytes: int | None = ...,
    ) -> Subscription[Message[A | B | C | D]]: ...
    @overload
    def subscribe(
        self, a: TopicRef[A], b: TopicRef[B], c: TopicRef[C], d: TopicRef[D], e: TopicRef[E], /, *,
        start: Start = ..., on_gap: OnGap = ..., buffer: int | None = ..., buffer_bytes: int | None = ...,
    ) -> Subscription[Message[A | B | C | D | E]]: ...
    @overload
    def subscribe(
        self, a: TopicRef[A], b: TopicRef[B], c: TopicRef[C], d: TopicRef[D], e: TopicRef[E], f: TopicRef[F], /, *,
        start: Start = ..., on_gap: OnGap = ..., buffer: int | None = ..., buffer_bytes: int | None = ...,
    ) -> Subscription[Message[A | B | C | D | E | F]]: ...
    @overload
    def subscribe(
        self, a: TopicRef[A], b: TopicRef[B], c: TopicRef[C], d: TopicRef[D], e: TopicRef[E], f: TopicRef[F], g: TopicRef[G], /, *,
        start: Start = ..., on_gap: OnGap = ..., buffer: int | None = ..., buffer_bytes: int | None = ...,
    ) -> Subscription[Message[A | B | C | D | E | F | G]]: ...
    @overload
    def subscribe(
        self, a: TopicRef[A], b: TopicRef[B], c: TopicRef[C], d: TopicRef[D], e: TopicRef[E], f: TopicRef[F], g: TopicRef[G], h: TopicRef[H], /, *,
        start: Start = ..., on_gap: OnGap = ..., buffer: int | None = ..., buffer_bytes: int | None = ...,
    ) -> Subscription[Message[A | B | C | D | E | F | G | H]]: ...
    @overload
    def subscribe(
        self, first: TopicRef[T], /, *refs: TopicRef[T],
        start: Start = ..., on_gap: OnGap = ..., buffer: int | None = ..., buffer_bytes: int | None = ...,
    ) -> Subscription[Message[T]]: ...
    @overload
    def subscribe(  # Any: more than eight topics of different payloads
        self, first: TopicRef[Any], /, *refs: TopicRef[Any],
        start: Start = ..., on_gap: OnGap = ..., buffer: int | None = ..., buffer_bytes: int | None = ...,
    ) -> Subscription[Message[Any]]: ...
    @overload
    def subscribe(  # Any: a channel's topics are of several payloads
        self, channel: ChannelLike | str, /, *, topics: Iterable[str] | None = ...,
        start: Start = ..., on_gap: OnGap = ..., buffer: int | None = ..., buffer_bytes: int | None = ...,
    ) -> Subscription[Message[Any]]: ...
    # fmt: on
    def subscribe(
        self,
        *targets: TopicRef[Any] | ChannelLike | str,  # Any: bound by the overloads
        topics: Iterable[str] | None = None,
        start: Start = Start.LIVE,
        on_gap: OnGap = "log",
        buffer: int | None = None,
        buffer_bytes: int | None = None,
    ) -> Subscription[Any]:
        """Prepare a subscription; ``async with`` subscribes.

        Args:
            *targets: Topics, of one channel or of several; or one channel for all topics it declares; or a channel's name for all there are, unchecked.
            topics: With a channel: only the topics of these names.
            start: Where to begin; see :class:`~fanwire.Start`.
            on_gap: ``"log"`` warns and counts where messages are missing; ``"raise"`` raises ``MessagesLost`` there, and iterating goes on behind it. The view
                ``with_gaps()`` yields them instead.
            buffer: Messages that may wait for the consumer; by default the Realtime's.
            buffer_bytes: Bytes of frames that may wait for the consumer; by default the Realtime's.

        Returns:
            An asynchronous context manager and iterator of messages.

        Raises:
            DeclarationError: an argument is neither topic nor channel.
            Unsupported: the transport has no history for ``start``.
            ValueError: ``start`` or ``on_gap`` does not fit, or a buffer is smaller than 1.
        """
        if on_gap not in ("log", "raise"):
            raise ValueError(f'on_gap is "log" or "raise", got {on_gap!r}; subscribe(...).with_gaps() yields gaps')
        interest = interest_of(
            targets,
            topics,
            buffer=self._buffer if buffer is None else buffer,
            buffer_bytes=self._buffer_bytes if buffer_bytes is None else buffer_bytes,
        )
        check_channels(interest, self.capabilities, self._transport.name)
        check_start(start, self.capabilities, self._transport.name)
        if start.kind != "live":
            history_starts(start, tuple(interest.topics))
        return Subscription(self, Request(interest, start, on_gap))

    @overload
    async def history(self, first: TopicRef[T], /, *refs: TopicRef[T], start: Start = ..., limit: int = ...) -> Sequence[Message[T]]: ...
    @overload
    async def history(  # Any: topics of different payloads
        self, first: TopicRef[Any], /, *refs: TopicRef[Any], start: Start = ..., limit: int = ...
    ) -> Sequence[Message[Any]]: ...
    @overload
    async def history(  # Any: a channel's topics are of several payloads
        self, channel: ChannelLike | str, /, *, topics: Iterable[str] | None = ..., start: Start = ..., limit: int = ...
    ) -> Sequence[Message[Any]]: ...
    async def history(
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
        if start.kind == "live" or limit < 1:
            raise ValueError(f"history() takes a start other than Start.LIVE and a limit of at least 1, got {start!r} and {limit}")
        interest = interest_of(targets, topics, buffer=1, buffer_bytes=1, where="history()")
        if len(interest.topics) > 1:
            raise ValueError(f"history() reads one channel, got {len(interest.topics)}")
        check_channels(interest, self.capabilities, self._transport.name)
        check_start(start, self.capabilities, self._transport.name)
        engine = self._usable()
        await checkpoint()
        return await read_history(engine, interest, start, limit)

    def blocking(self) -> BlockingRealtime:
        """Return the same for code without an event loop: another connection with these settings, made at its first use. An unnamed memory broker is shared.

        Raises:
            ConfigError: the transport cannot be opened twice, as when it was given a client's own objects.
            WrongLoop: this Realtime is open in another event loop.
        """
        from .blocking.lifetime import blocking

        return blocking(self)

    # ------------------------------------------------------------------ figures

    @asynccontextmanager
    async def events(self) -> AsyncGenerator[AsyncIterator[ConnectionEvent]]:
        """Follow the connection: ``async with rt.events() as events: async for event in events``.

        Begins with the present state, ends behind ``closed``. Of more than 256 events that were not taken the oldest are given up.
        """
        with self._usable().events() as events:
            yield events

    def stats(self) -> RealtimeStats:
        """Return this Realtime's counters since it was entered; all 0 before."""
        engine = self._engine
        return RealtimeStats(ConnectionState.CLOSED, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) if engine is None else engine.stats()

    async def ping(self) -> float:
        """Make a round trip to the broker, through the path that messages take; return its seconds.

        Raises:
            Timeout: it took more than ``timeout`` seconds.
            Unavailable: there is no connection.
        """
        engine = self._usable()
        if engine.connection.state is not ConnectionState.CONNECTED:
            raise Unavailable(f"{self._transport.name}: there is no connection") from engine.connection.error
        await checkpoint()
        begin = self._clock.monotonic()
        with anyio.move_on_after(self.timeout):
            await self._transport.ping()
            return self._clock.monotonic() - begin
        raise Timeout(f"{self._transport.name}: no answer to a ping within {self.timeout:g} s")


def _not_a_ref(value: object) -> NoReturn:
    raise DeclarationError(not_a_ref("publish()", value))
