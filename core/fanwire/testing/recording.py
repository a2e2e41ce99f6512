"""What an application publishes, recorded where the broker accepts it, and assertions about it.

The recording is made at the transport of a Realtime: a message is in it once the broker has said that it has it, whichever way it was published (``publish``,
``publish_many``, a run and its steps, ``rt.blocking()``). What was refused, suppressed by its key or never acknowledged is not. Messages of publishers elsewhere are
recorded by :meth:`Published.following`, as they arrive.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast, final, overload

import anyio
from pydantic_core import from_json

from ..channels import ChannelLike, declared_topics
from ..codec import ENVELOPE, Decoded
from ..errors import FanwireError
from ..hub.decoding import parse_time
from ..hub.waiter import current_loop, on_trio
from ..messages import Cursor, Gap, Message, RawMessage, Receipt
from ..topics import Outgoing, TopicRef
from ..transport import Outbound, SupportsCopy, Transport
from .through import Through

if TYPE_CHECKING:
    from ..realtime import Realtime

__all__ = ("Published", "recorded")

T = TypeVar("T")


class _Record(NamedTuple):
    """One message that the broker has accepted."""

    decoded: Decoded
    cursor: Cursor | None

    def is_of(self, channel: str, topic: str | None) -> bool:
        return self.decoded.channel == channel and (topic is None or self.decoded.topic == topic)

    def __str__(self) -> str:
        return _line(self.decoded.channel, self.decoded.topic, self.decoded.data)


class _Expected(NamedTuple):
    """One message of an expected sequence."""

    channel: str
    topic: str
    data: bytes | None
    """``None``: any."""

    def fits(self, record: _Record) -> bool:
        if not record.is_of(self.channel, self.topic):
            return False
        return self.data is None or bool(from_json(self.data) == from_json(record.decoded.data))

    def __str__(self) -> str:
        return _line(self.channel, self.topic, self.data)


@final
class Published:
    """What was published, in the order in which the broker accepted it; with more than one publisher, in the order it was heard of.

    The fixture ``published``::

        await answer(realtime, chat, "why?")
        assert published(chat.status) == [Status(message="Thinking..."), Status(message="Done")]
    """

    def __init__(self) -> None:
        self._records: list[_Record] = []
        self._known: set[tuple[str, str]] = set()
        """Channel and id of each."""
        self._lost: list[Gap] = []
        self._lock = threading.Lock()
        """Applications may publish in threads of their own."""
        self._waiting: list[Callable[[], object]] = []
        self._realtime: Realtime | None = None

    def __repr__(self) -> str:
        return f"<Published {len(self._records)} messages>"

    # ------------------------------------------------------------------ what there is

    def __call__(self, ref: TopicRef[T], /) -> list[T]:
        """Return the data of all messages on a topic, parsed by its schema.

        Raises:
            AssertionError: messages may be missing in the recording.
        """
        return [ref.schema.load(record.decoded.data) for record in self._of(ref.channel, ref.topic)]

    def messages(self, ref: TopicRef[T], /) -> list[Message[T]]:
        """Return all messages on a topic, for a look at key, headers, run and time.

        Raises:
            AssertionError: messages may be missing in the recording.
        """
        return [_message(ref, record) for record in self._of(ref.channel, ref.topic)]

    def clear(self) -> None:
        """Forget what was recorded so far."""
        with self._lock:
            self._records.clear()
            self._lost.clear()

    def _of(self, channel: str, topic: str | None) -> list[_Record]:
        self._complete()
        with self._lock:
            return [record for record in self._records if record.is_of(channel, topic)]

    def _complete(self) -> None:
        if self._lost:
            raise AssertionError(f"the recording is not complete: {'; '.join(map(str, self._lost))}")

    # ------------------------------------------------------------------ assertions

    @overload
    async def wait_for(self, ref: TopicRef[T], until: int = 1, /, *, timeout: float = 5.0) -> list[T]: ...
    @overload
    async def wait_for(self, ref: TopicRef[T], until: Callable[[T], bool], /, *, timeout: float = 5.0) -> T: ...
    async def wait_for(self, ref: TopicRef[T], until: int | Callable[[T], bool] = 1, /, *, timeout: float = 5.0) -> list[T] | T:
        """Wait until there are so many messages on a topic, or one of which ``until`` holds; no longer than that takes.

        Args:
            ref: A topic of a channel.
            until: How many messages, those recorded before included; or what the data of one has to fulfil.
            timeout: Seconds to wait.

        Returns:
            The data of all messages on the topic; of the first that fulfils ``until``, where that is a function.

        Raises:
            AssertionError: it did not happen; the text has what was published.
        """
        with anyio.move_on_after(timeout):
            while True:
                recorded = self._soon()  # before looking: what comes meanwhile sets it
                data = self(ref)
                if isinstance(until, int):
                    if len(data) >= until:
                        return data
                else:
                    for one in data:
                        if until(one):
                            return one
                await recorded.wait()
        what = f"{until} messages" if isinstance(until, int) else f"a message of which {getattr(until, '__name__', until)} holds"
        raise AssertionError(
            f"waited {timeout:g} s in vain for {what} on topic {ref.topic!r} of channel {ref.channel!r}; {self._summary(self._records)}"
        )

    def assert_sequence(
        self,
        expected: Iterable[Outgoing[Any] | TopicRef[Any]],
        /,
        *,
        of: Iterable[TopicRef[Any] | ChannelLike | str] = (),  # Any: of any topics
    ) -> None:
        """Assert that exactly these messages were published, in this order, across topics.

        Args:
            expected: ``chat.status(data)`` for a message with that data, ``chat.status`` for one with any.
            of: Topics and channels to look at; by default all there are.

        Raises:
            AssertionError: it was another sequence; the text shows where they differ.
        """
        __tracebackhide__ = True
        wanted = [_expected(one) for one in expected]
        found = self._among(of)
        if len(wanted) == len(found) and all(one.fits(record) for one, record in zip(wanted, found, strict=True)):
            return
        lines = "\n".join(_difference(wanted, found))
        raise AssertionError(f"another sequence was published (- expected, + published):\n{lines}")

    def nothing(self, *of: TopicRef[Any] | ChannelLike | str) -> None:  # Any: of any topics
        """Assert that nothing was published: on these topics and channels, or with no argument at all.

        Raises:
            AssertionError: something was.
        """
        __tracebackhide__ = True
        found = self._among(of)
        if found:
            raise AssertionError(f"nothing was to be published, but {self._summary(found)}")

    def _among(self, of: Iterable[TopicRef[Any] | ChannelLike | str]) -> list[_Record]:  # Any: of any topics
        places = [_place(one) for one in of]
        self._complete()
        with self._lock:
            return [record for record in self._records if not places or any(record.is_of(*place) for place in places)]

    def _summary(self, records: Sequence[_Record]) -> str:
        if not records:
            return "nothing was published"
        shown = [f"    {record}" for record in records[-20:]]
        more = [f"    ... {len(records) - 20} earlier ones"] if len(records) > 20 else []
        return "\n".join(["this was published:", *more, *shown])

    # ------------------------------------------------------------------ recording

    def attach(self, realtime: Realtime) -> None:
        """Name the Realtime that :meth:`following` subscribes with. For the fixture."""
        self._realtime = realtime

    def add(self, frame: bytes, cursor: Cursor | None) -> None:
        """Record a frame that the broker has accepted; on any thread."""
        decoded = ENVELOPE.decode(frame)
        name = (decoded.channel, decoded.id)
        with self._lock:
            if decoded.id and name in self._known:
                return
            self._known.add(name)
            self._records.append(_Record(decoded, cursor))
        self._wake()

    @asynccontextmanager
    async def following(self, *refs: TopicRef[Any]) -> AsyncGenerator[None]:  # Any: topics of any payloads
        """Record within the block what others publish on these topics too: workers of their own processes, or a Realtime that the application makes itself.

        Args:
            *refs: Topics, of one channel or of several.

        Raises:
            RuntimeError: the test does not use the fixture ``realtime``, which it subscribes with.
        """
        if self._realtime is None:
            raise RuntimeError("published.following() subscribes with the fixture `realtime`: add it to the test's arguments")
        async with self._realtime.subscribe(*refs).raw().with_gaps() as items, anyio.create_task_group() as tasks:

            async def read() -> None:
                async for item in items:
                    self._follow(item)

            tasks.start_soon(read)
            yield
            tasks.cancel_scope.cancel()

    def _follow(self, item: RawMessage | Gap) -> None:
        if isinstance(item, RawMessage):
            self.add(item.frame, item.cursor)
        else:
            self._lost.append(item)
            self._wake()

    def _soon(self) -> anyio.Event:
        """Return an event of this event loop that is set when something is recorded, on whichever thread."""
        event = anyio.Event()
        thread, call = threading.get_ident(), _caller()
        with self._lock:
            self._waiting.append(lambda: event.set() if threading.get_ident() == thread else call(event.set))
        return event

    def _wake(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()


def _caller() -> Callable[[Callable[[], None]], object]:
    """Return what runs a function soon on the running event loop, from any thread."""
    loop: Any = current_loop()()  # Any: asyncio's loop or trio's token
    call: Callable[[Callable[[], None]], object] = loop.run_sync_soon if on_trio() else loop.call_soon_threadsafe
    return call


# ---------------------------------------------------------------- the transport


class _Recording(Through):
    """A transport that tells what was accepted."""

    published: Published

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        """See :class:`fanwire.transport.Transport`."""
        results = await super().publish(batch)
        for message, result in zip(batch, results, strict=False):
            if isinstance(result, Receipt) and not result.duplicate:
                self.published.add(message.frame, result.cursor)
        return results


class _Copyable(_Recording):
    """One that ``rt.blocking()`` can be made of."""

    def copy(self, /) -> Transport:
        """See :class:`fanwire.transport.SupportsCopy`."""
        assert isinstance(self.transport, SupportsCopy)
        return recorded(self.transport.copy(), self.published)


def recorded(transport: Transport, published: Published, /) -> Transport:
    """Return a transport that does what another one does, and records what is published through it.

    Args:
        transport: Not entered yet.
        published: The recording.

    Returns:
        A transport for one Realtime.
    """
    base = _Copyable if isinstance(transport, SupportsCopy) else _Recording
    # A class of its own, made at run time: a transport's name belongs to its class, and stands in every error.
    made = cast("type[_Recording]", type(base.__name__, (base,), {"name": transport.name, "options_model": transport.options_model}))(transport)
    made.published = published
    return made


# ---------------------------------------------------------------- what is shown and compared


def _message(ref: TopicRef[T], record: _Record) -> Message[T]:
    decoded = record.decoded
    return Message(
        id=decoded.id,
        channel=decoded.channel,
        topic=decoded.topic,
        data=ref.schema.load(decoded.data),
        kind=decoded.kind,
        created_at=parse_time(decoded.created_at or "1970-01-01T00:00:00Z"),
        cursor=record.cursor,
        run_id=decoded.run_id,
        key=decoded.key,
        headers=decoded.headers,
    )


def _expected(one: Outgoing[Any] | TopicRef[Any]) -> _Expected:  # Any: of any topic
    if isinstance(one, Outgoing):
        return _Expected(one.ref.channel, one.ref.topic, one.ref.schema.dump(one.ref.schema.validate(one.data)))
    if isinstance(one, TopicRef):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a checker
        return _Expected(one.channel, one.topic, None)
    raise TypeError(f"a sequence is made of messages such as chat.status(data), or of topics such as chat.status; got {type(one).__name__}")


def _place(one: TopicRef[Any] | ChannelLike | str) -> tuple[str, str | None]:  # Any: of any topic
    if isinstance(one, TopicRef):
        return one.channel, one.topic
    return (one, None) if isinstance(one, str) else (declared_topics(one)[0], None)


def _line(channel: str, topic: str, data: bytes | None) -> str:
    text = "(any data)" if data is None else data.decode(errors="replace")
    return f"{channel}  {topic}  {text if len(text) <= 200 else f'{text[:190]}... ({len(text):,} characters)'}"


def _difference(wanted: Sequence[_Expected], found: Sequence[_Record]) -> list[str]:
    """Return both sequences as one, lines of which only one has marked by - and +: those on which both agree are as many as can be."""
    agree = [[0] * (len(found) + 1) for _ in range(len(wanted) + 1)]
    for i in range(len(wanted) - 1, -1, -1):
        for j in range(len(found) - 1, -1, -1):
            agree[i][j] = agree[i + 1][j + 1] + 1 if wanted[i].fits(found[j]) else max(agree[i + 1][j], agree[i][j + 1])
    lines: list[str] = []
    i = j = 0
    while i < len(wanted) or j < len(found):
        if i < len(wanted) and j < len(found) and wanted[i].fits(found[j]) and agree[i][j] == agree[i + 1][j + 1] + 1:
            lines.append(f"    {found[j]}")
            i, j = i + 1, j + 1
        elif i < len(wanted) and (j == len(found) or agree[i + 1][j] >= agree[i][j + 1]):
            lines.append(f"  - {wanted[i]}")
            i += 1
        else:
            lines.append(f"  + {found[j]}")
            j += 1
    return lines
