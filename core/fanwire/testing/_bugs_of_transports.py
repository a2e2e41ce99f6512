"""Planted bugs of transports: what a driver may get wrong. Each is a transport around a sound one; see :mod:`fanwire.testing.bugs`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import ClassVar, Final

import anyio

from ..errors import ConnectFailed, ConnectionLost, FanwireError, Unauthenticated, Unavailable
from ..messages import Cursor, Receipt
from ..transport import HistoryPage, HistoryStart, Outbound, Sink, Transport
from .through import ReconnectsItself, Through, ThroughSink

__all__ = ("BROKEN",)

EVERY: Final = 7
"""Which frame a bug befalls: each one whose count this divides."""

_MOMENT: Final = 0.02
"""Seconds after which a bug has no more patience."""


class BrokenSink(ThroughSink):
    """Counts frames; a bug overrides :meth:`broken`."""

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink)
        self.count = 0

    def deliver(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None, /) -> None:
        self.count += 1
        self.broken(channel, generation, frame, position, prev)

    def broken(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None) -> None:
        """Deliver, with the bug."""
        self.sink.deliver(channel, generation, frame, position, prev)


class SinkDropsOne(BrokenSink):
    def __init__(self, sink: Sink) -> None:
        super().__init__(sink)
        self.lost_after: dict[str, Cursor | None] = {}

    def broken(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None) -> None:
        if self.count % EVERY == 0:
            self.lost_after.setdefault(channel, prev)
            return
        self.sink.deliver(channel, generation, frame, position, self.lost_after.pop(channel, prev))


class SinkSwapsTwo(BrokenSink):
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


class SinkRepeatsOne(BrokenSink):
    def broken(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None) -> None:
        self.sink.deliver(channel, generation, frame, position, prev)
        if self.count % EVERY == 0:
            self.sink.deliver(channel, generation, frame, None, None)


class SinkMarksByPlace(BrokenSink):
    def broken(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None) -> None:
        self.sink.deliver(channel, generation, frame, _by_place(position), _by_place(prev))


def _by_place(cursor: Cursor | None) -> Cursor | None:
    return None if cursor is None else cursor._replace(mark=f"{cursor.offset:08x}")


class SinkKnowsNoPosition(ThroughSink):
    def subscribed(self, channel: str, generation: int, position: Cursor | None, /) -> None:
        del position
        self.sink.subscribed(channel, generation, None)


class BrokenDelivery(Through):
    """Delivers to a broken sink."""

    sink_type: ClassVar[type[ThroughSink]] = ThroughSink

    def around(self, sink: Sink) -> Sink:
        return self.sink_type(sink)


class DropOne(BrokenDelivery):
    """Loses a frame, and links its successor to its predecessor, so that nothing shows."""

    sink_type = SinkDropsOne


class SwapTwo(BrokenDelivery):
    """Exchanges the frames of two successive positions."""

    sink_type = SinkSwapsTwo


class RepeatOne(BrokenDelivery):
    """Delivers a frame twice, the second time as one without a position."""

    sink_type = SinkRepeatsOne


class MarkByPlace(BrokenDelivery):
    """Makes the marks of live frames of their places, so that they tell no message from another."""

    sink_type = SinkMarksByPlace


class SinkBeginsWithTheLast(ThroughSink):
    """See :class:`BeginWithTheLast`."""

    def __init__(self, sink: Sink, last: Mapping[str, bytes]) -> None:
        super().__init__(sink)
        self.last = last
        self.due: dict[str, bytes] = {}

    def subscribed(self, channel: str, generation: int, position: Cursor | None, /) -> None:
        self.sink.subscribed(channel, generation, position)
        if channel in self.last:
            self.due[channel] = self.last[channel]

    def deliver(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None, /) -> None:
        if (due := self.due.pop(channel, None)) is not None:
            self.sink.deliver(channel, generation, due, None, None)
        self.sink.deliver(channel, generation, frame, position, prev)


class BeginWithTheLast(Through):
    """Delivers to whoever subscribes the last message that it has published there, as a broker does that retains one."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self.last: dict[str, bytes] = {}

    def around(self, sink: Sink) -> Sink:
        return SinkBeginsWithTheLast(sink, self.last)

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        self.last.update((message.channel, message.frame) for message in batch)
        return await self.transport.publish(batch)


# ---------------------------------------------------------------- connecting


class SinkTakesHalfForWhole(BrokenSink):
    """See :class:`TakeHalfForWhole`."""

    last: tuple[str, int, bytes] | None = None

    def broken(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None) -> None:
        self.last = channel, generation, frame
        self.sink.deliver(channel, generation, frame, position, prev)


class TakeHalfForWhole(Through):
    """Delivers the beginning of a frame, when its connection breaks there, as if it were a frame."""

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None]:
        self.connections += 1
        noting = SinkTakesHalfForWhole(sink)
        async with self.transport.run(noting):
            try:
                yield
            finally:
                if noting.last is not None:
                    channel, generation, frame = noting.last
                    sink.deliver(channel, generation, frame[: len(frame) // 2], None, None)


class ReconnectInSilence(ReconnectsItself):
    """Has a client that reconnects by itself, and tells nobody."""

    tells = False


class ClaimAConnection(Through):
    """Says it is connected although it could not connect, as a client does that connects on first use."""

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            with suppress(Unavailable):
                await stack.enter_async_context(self.transport.run(sink))
            yield


class MistakeARefusal(Through):
    """Takes refused credentials for a server that is not there."""

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None]:
        self.connections += 1
        try:
            async with self.transport.run(sink):
                yield
        except Unauthenticated as error:
            raise ConnectFailed(str(error)) from error


# ---------------------------------------------------------------- subscribing


class ForgetAResubscribe(Through):
    """Confirms everything behind a reconnect, but has left the first channel out."""

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        answers = dict(await self.transport.subscribe(wanted, generation))
        if self.connections > 1:
            await self.transport.unsubscribe([next(iter(wanted))])
        return answers


class HangInASubscribe(Through):
    """Goes on waiting for the answer to a subscribe when the connection is lost that was to bring it."""

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        try:
            return await self.transport.subscribe(wanted, generation)
        except ConnectionLost:
            await anyio.sleep_forever()
            raise


class ConfirmWithoutAPosition(BrokenDelivery):
    """Does not say where in its stream a channel became live."""

    sink_type = SinkKnowsNoPosition

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        answers = await self.transport.subscribe(wanted, generation)
        return {channel: answer if isinstance(answer, FanwireError) else None for channel, answer in answers.items()}


class ForgetToUnsubscribe(Through):
    """Never tells the server that a channel is not wanted any more."""

    async def unsubscribe(self, channels: Collection[str], /) -> None:
        del channels


class UnsubscribeAll(Through):
    """Ends the delivery of all channels with that of one."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self.wanted: set[str] = set()

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        self.wanted |= set(wanted)
        return await self.transport.subscribe(wanted, generation)

    async def unsubscribe(self, channels: Collection[str], /) -> None:
        await self.transport.unsubscribe({*channels, *self.wanted})


class ReadyTooEarly(Through):
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


# ---------------------------------------------------------------- publishing


class LeakChannels(Through):
    """Takes names for patterns: what is published on ``room:11`` reaches ``room:1`` too."""

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        leaked = [message._replace(channel=message.channel[:-1], frame=_renamed(message)) for message in batch if message.channel.endswith("11")]
        results = await self.transport.publish(batch)
        if leaked:
            await self.transport.publish(leaked)
        return results


def _renamed(message: Outbound) -> bytes:
    return message.frame.replace(f'"channel":"{message.channel}"'.encode(), f'"channel":"{message.channel[:-1]}"'.encode())


class PublishIntoAVoid(Through):
    """Says of a publish that takes long that it was accepted."""

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        with anyio.move_on_after(_MOMENT):
            return await self.transport.publish(batch)
        return _accepted(batch)


class ForgetAPublish(Through):
    """Loses the first batch that is published behind a reconnect, and says it was accepted."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self.last = 1

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        if self.last != self.connections:
            self.last = self.connections
            return _accepted(batch)
        return await self.transport.publish(batch)


def _accepted(batch: Sequence[Outbound]) -> list[Receipt | FanwireError]:
    return [Receipt(message.id, message.channel, message.topic, None, duplicate=False) for message in batch]


class RepeatARetry(Through):
    """Publishes what may have been accepted before as if it were new."""

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        return await self.transport.publish([message._replace(retry=False, key=None) for message in batch])


class ReverseABatch(Through):
    """Sends a batch from its end to its beginning."""

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        return list(reversed(await self.transport.publish(list(reversed(batch)))))


# ---------------------------------------------------------------- history


class HideTheNewest(Through):
    """Reads history without its newest entry, as from a replica that lags behind what it says."""

    async def history(self, channel: str, /, *, start: HistoryStart, limit: int) -> HistoryPage:
        page = await super().history(channel, start=start, limit=limit)
        hidden = bool(page.entries) and page.entries[-1].position == page.head
        return page._replace(entries=page.entries[:-1]) if hidden else page


class EndBehindAPage(Through):
    """Takes the end of a page for the end of the history."""

    async def history(self, channel: str, /, *, start: HistoryStart, limit: int) -> HistoryPage:
        page = await super().history(channel, start=start, limit=limit)
        if isinstance(start, Cursor) and len(page.entries) == limit:
            return page._replace(entries=page.entries[:1], head=page.entries[0].position)
        return page


BROKEN: Final[Mapping[str, type[Through]]] = {
    "begin with the last": BeginWithTheLast,
    "claim a connection": ClaimAConnection,
    "confirm without a position": ConfirmWithoutAPosition,
    "drop one": DropOne,
    "end behind a page": EndBehindAPage,
    "forget a publish": ForgetAPublish,
    "forget a resubscribe": ForgetAResubscribe,
    "forget to unsubscribe": ForgetToUnsubscribe,
    "hang in a subscribe": HangInASubscribe,
    "hide the newest": HideTheNewest,
    "leak channels": LeakChannels,
    "mark by place": MarkByPlace,
    "mistake a refusal": MistakeARefusal,
    "publish into a void": PublishIntoAVoid,
    "ready too early": ReadyTooEarly,
    "reconnect in silence": ReconnectInSilence,
    "repeat a retry": RepeatARetry,
    "repeat one": RepeatOne,
    "reverse a batch": ReverseABatch,
    "swap two": SwapTwo,
    "take half for whole": TakeHalfForWhole,
    "unsubscribe all": UnsubscribeAll,
}
"""By name."""
