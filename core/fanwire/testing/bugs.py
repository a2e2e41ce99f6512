"""Planted bugs: defects a transport or the core might have, made on purpose, to show that the kit finds them.

Every fault check and the model are run against those of these that they have to find. A kit that stays green on a broken transport proves nothing::

    with plant("forget a resubscribe", MyHarness) as broken:
        async with broken(namespace) as harness:
            await check(harness)  # has to raise

Some wrap the transport; others switch a mechanism of the core off for as long as the context lasts, in this process.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from typing import Any, ClassVar, Final, NamedTuple, Self, TypeAlias, TypeVar, final
from unittest.mock import patch

from ..capabilities import Capabilities
from ..errors import FanwireError
from ..hub import continuity
from ..hub.continuity import Verdict
from ..hub.hub import Hub
from ..hub.states import Event
from ..messages import Cursor, GapReason, Receipt
from ..transport import HistoryPage, HistoryStart, Outbound, Sink, SupportsHistory, Transport, TransportOptions
from .harness import Harness

__all__ = ("BUGS", "Bug", "plant")

T = TypeVar("T")

EVERY: Final = 7
"""Which frame a bug befalls: each one whose count this divides."""

Deliver: TypeAlias = Callable[[str, int, bytes, Cursor | None, Cursor | None], None]


class BrokenSink:
    """Passes everything on to the hub; a bug overrides one method."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.count = 0

    def subscribed(self, channel: str, generation: int, position: Cursor | None, /) -> None:
        self.sink.subscribed(channel, generation, position)

    def deliver(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None, /) -> None:
        self.count += 1
        self.broken(channel, generation, frame, position, prev)

    def broken(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None) -> None:
        """Deliver, with the bug."""
        self.sink.deliver(channel, generation, frame, position, prev)

    def lost(self, channels: Collection[str] | None, reason: GapReason, lost: int | None, /) -> None:
        self.sink.lost(channels, reason, lost)


class DropOne(BrokenSink):
    """Loses a frame, and links its successor to its predecessor, so that nothing shows."""

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink)
        self.lost_after: dict[str, Cursor | None] = {}

    def broken(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None) -> None:
        if self.count % EVERY == 0:
            self.lost_after.setdefault(channel, prev)
            return
        self.sink.deliver(channel, generation, frame, position, self.lost_after.pop(channel, prev))


class SwapTwo(BrokenSink):
    """Exchanges the frames of two successive positions."""

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink)
        self.waiting: tuple[str, int, bytes, Cursor | None, Cursor | None] | None = None

    def broken(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None) -> None:
        first, self.waiting = self.waiting, None
        if first is not None and first[0] == channel:
            self.sink.deliver(channel, generation, frame, first[3], first[4])
            self.sink.deliver(channel, generation, first[2], position, prev)
            return
        if first is not None:
            self.sink.deliver(*first)
        if self.count % EVERY == 0:
            self.waiting = (channel, generation, frame, position, prev)
        else:
            self.sink.deliver(channel, generation, frame, position, prev)


class RepeatOne(BrokenSink):
    """Delivers a frame twice, the second time as one without a position."""

    def broken(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None) -> None:
        self.sink.deliver(channel, generation, frame, position, prev)
        if self.count % EVERY == 0:
            self.sink.deliver(channel, generation, frame, None, None)


class SwallowLoss(BrokenSink):
    """Says of a loss that the transport noticed: nothing."""

    def lost(self, channels: Collection[str] | None, reason: GapReason, lost: int | None, /) -> None:
        del channels, reason, lost


class Broken:
    """A transport that passes everything on to another one; a bug overrides one method."""

    name: ClassVar[str] = "broken"
    options_model: ClassVar[type[TransportOptions]] = TransportOptions
    sink_type: ClassVar[type[BrokenSink]] = BrokenSink

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.connections = 0

    @classmethod
    def from_options(cls, options: TransportOptions, /) -> Self:
        raise NotImplementedError(options)

    @property
    def capabilities(self) -> Capabilities:
        return self.transport.capabilities

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None]:
        self.connections += 1
        async with self.transport.run(self.sink_type(sink)):
            yield

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        return await self.transport.publish(batch)

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        return await self.transport.subscribe(wanted, generation)

    async def unsubscribe(self, channels: Collection[str], /) -> None:
        await self.transport.unsubscribe(channels)

    async def ping(self, /) -> None:
        await self.transport.ping()

    async def history(self, channel: str, /, *, start: HistoryStart, limit: int) -> HistoryPage:
        assert isinstance(self.transport, SupportsHistory)
        return await self.transport.history(channel, start=start, limit=limit)

    def native(self, kind: type[T], /) -> T:
        return self.transport.native(kind)


class ForgetAResubscribe(Broken):
    """Confirms everything behind a reconnect, but has left the first channel out."""

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        answers = dict(await self.transport.subscribe(wanted, generation))
        if self.connections > 1:
            await self.transport.unsubscribe([next(iter(wanted))])
        return answers


class ForgetToUnsubscribe(Broken):
    """Never tells the server that a channel is not wanted any more."""

    async def unsubscribe(self, channels: Collection[str], /) -> None:
        del channels


class ReadyTooEarly(Broken):
    """Confirms each first subscription to a channel without having asked; asks when the next command comes."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self.asked = 0

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        answers = await self.transport.subscribe(wanted, generation)
        self.asked += 1
        if self.asked % 10 == 0:
            await self.transport.unsubscribe(list(wanted))
        return answers


class LeakChannels(Broken):
    """Takes names for patterns: what is published on ``room:11`` reaches ``room:1`` too."""

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        leaked = [message._replace(channel=message.channel[:-1], frame=_renamed(message)) for message in batch if message.channel.endswith("11")]
        results = await self.transport.publish(batch)
        if leaked:
            await self.transport.publish(leaked)
        return results


def _renamed(message: Outbound) -> bytes:
    return message.frame.replace(f'"channel":"{message.channel}"'.encode(), f'"channel":"{message.channel[:-1]}"'.encode())


def _broken(sink: type[BrokenSink]) -> type[Broken]:
    class WithSink(Broken):
        sink_type = sink

    return WithSink


# ---------------------------------------------------------------- mechanisms of the core, switched off


@contextmanager
def _no_repair() -> Generator[None]:
    """History is never read to close a hole, and nothing is said about it."""

    async def repair(hub: Hub, transport: SupportsHistory, clock: object, record: Any) -> None:  # Any: the hub's record
        del transport, clock
        record.loss, record.position = None, record.target
        hub.go_live(record, Event.REPAIRED)

    with patch("fanwire.hub.reconciler.repair", repair):
        yield


@contextmanager
def _swallow_gaps() -> Generator[None]:
    """Losses are noticed, counted and not told."""

    def announce(self: Hub, record: Any, reason: GapReason, lost: int | None) -> None:  # Any: the hub's record
        del reason, lost
        record.loss = None
        self.gaps += 1

    with patch.object(Hub, "announce", announce):
        yield


@contextmanager
def _ignore_marks() -> Generator[None]:
    """Positions are compared by epoch and offset alone."""
    judge = continuity.judge

    def unmarked(cursor: Cursor | None) -> Cursor | None:
        return None if cursor is None else cursor._replace(mark=None)

    def judge_unmarked(last: Cursor | None, position: Cursor, prev: Cursor | None, links: continuity.Links) -> Verdict:
        return judge(unmarked(last), position._replace(mark=None), unmarked(prev), links)

    with ExitStack() as patches:
        patches.enter_context(patch.object(continuity, "_contradict", _never))
        for module in ("hub", "history", "continuity"):
            patches.enter_context(patch(f"fanwire.hub.{module}.judge", judge_unmarked))
        patches.enter_context(patch.object(Hub, "subscribed", _subscribed_unmarked))
        yield


def _never(_one: Cursor, _other: Cursor) -> bool:
    return False


_subscribed = Hub.subscribed


def _subscribed_unmarked(self: Hub, channel: str, generation: int, position: Cursor | None, /) -> None:
    record = self.channels.get(channel)
    if record is not None and record.position is not None and position is not None and record.position[:2] == position[:2]:
        record.position = position  # whatever is there now counts as what was there before
    _subscribed(self, channel, generation, position)


@contextmanager
def _reuse_ids() -> Generator[None]:
    """Every publisher of the process has one name, as those of forked processes that did not draw anew."""
    with patch("fanwire.hub.publishers._draw", lambda: "reused"):
        yield


# ---------------------------------------------------------------- the list


@final
class Bug(NamedTuple):
    """A planted bug."""

    what: str
    wrap: Callable[[Transport], Transport] | None
    patch: Callable[[], AbstractContextManager[None]] | None


def _wrapping(transport: type[Broken]) -> Bug:
    return Bug((transport.__doc__ or "").partition("\n")[0], transport, None)


def _sinking(sink: type[BrokenSink]) -> Bug:
    return Bug((sink.__doc__ or "").partition("\n")[0], _broken(sink), None)


def _patching(patch: Callable[[], AbstractContextManager[None]]) -> Bug:
    return Bug((patch.__doc__ or "").partition("\n")[0], None, patch)


BUGS: Final[Mapping[str, Bug]] = {
    "drop one": _sinking(DropOne),
    "swap two": _sinking(SwapTwo),
    "repeat one": _sinking(RepeatOne),
    "swallow a loss": _sinking(SwallowLoss),
    "forget a resubscribe": _wrapping(ForgetAResubscribe),
    "forget to unsubscribe": _wrapping(ForgetToUnsubscribe),
    "ready too early": _wrapping(ReadyTooEarly),
    "leak channels": _wrapping(LeakChannels),
    "no repair": _patching(_no_repair),
    "swallow gaps": _patching(_swallow_gaps),
    "ignore marks": _patching(_ignore_marks),
    "reuse ids": _patching(_reuse_ids),
}
"""By name."""


@contextmanager
def plant(name: str, harness: type[Harness]) -> Generator[type[Harness]]:
    """Return a harness like ``harness``, of which each transport has the bug; for as long as the context lasts."""
    bug = BUGS[name]

    class Planted(harness):  # type: ignore[valid-type, misc]  # a class made at run time
        def transport(self, **options: object) -> Transport:
            sound = super().transport(**options)
            return sound if bug.wrap is None else bug.wrap(sound)

    with ExitStack() as stack:
        if bug.patch is not None:
            stack.enter_context(bug.patch())
        yield Planted
