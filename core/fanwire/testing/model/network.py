"""The way between a Realtime and its transport, as a plan wants it: slow, broken, closed for a while, losing frames. Works with any transport, and needs nothing of the server."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar, Final, TypeVar, final

import anyio
from anyio.lowlevel import checkpoint

from ...errors import ConnectionLost, FanwireError
from ...messages import Cursor, GapReason, Receipt
from ...transport import HistoryPage, HistoryStart, Outbound, Sink, SupportsImmediatePublish, Transport
from ..through import Through, ThroughSink

__all__ = ("HurriedClock", "Network", "network")

T = TypeVar("T")

_HURRY: Final = 200.0


@final
class HurriedClock:
    """A clock whose seconds are short: nobody is kept waiting by a backoff, however often a plan breaks the connection."""

    def time(self) -> float:
        """Return seconds since 1970-01-01 UTC, as they are."""
        return time.time()

    def monotonic(self) -> float:
        """Return short seconds."""
        return time.monotonic() * _HURRY

    async def sleep(self, seconds: float, /) -> None:
        """Wait so many short seconds."""
        await anyio.sleep(seconds / _HURRY)


async def _turns(count: int) -> None:
    for _ in range(count):
        await checkpoint()


class Network(Through):
    """A transport, as it is seen through a network.

    Args:
        transport: What is at the other end.
        latency: Turns that a call takes, each way.
        lag: Turns that a frame is under way.
    """

    name: ClassVar[str] = "network"

    def __init__(self, transport: Transport, latency: int, lag: int) -> None:
        super().__init__(transport)
        self.on_end: Callable[[], None] = lambda: None
        """Called when a connection has ended, or the transport said that it was."""
        self.up: bool = False
        """Whether there is a connection."""
        self.lost: int = 0
        """Frames that did not arrive though the connection stood."""
        self.to_lose: deque[int] = deque()
        """For each fault, how many frames it lets pass first, and how many it loses: as many ones behind as many zeros."""
        self._latency = latency
        self._lag = lag
        self._under_way: deque[Callable[[], None]] = deque()
        self._came = anyio.Event()
        self._broken = anyio.Event()
        self._open = anyio.Event()
        self._open.set()

    # ------------------------------------------------------------------ what plans do

    @property
    def held(self) -> bool:
        """Whether no connection can be made."""
        return not self._open.is_set()

    def hold(self) -> None:
        """Break the connection, and allow no other one before :meth:`release`."""
        if not self.held:
            self._open = anyio.Event()
        self.up = False
        self._broken.set()

    def release(self) -> None:
        """Let a connection be made."""
        self._open.set()

    def lose(self, count: int, skip: int) -> None:
        """Lose the next ``count`` live frames behind the next ``skip``."""
        self.to_lose.extend([0] * skip + [1] * count)

    # ------------------------------------------------------------------ the transport

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None]:
        """See :class:`fanwire.transport.Transport`."""
        while self.held:
            await self._open.wait()
        broken = self._broken = anyio.Event()
        self._under_way.clear()
        try:
            async with super().run(_Delayed(self, broken, sink)), anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, broken, tasks.cancel_scope)
                tasks.start_soon(self._bring)
                self.up = not broken.is_set()
                yield
                tasks.cancel_scope.cancel()
        finally:
            was_broken = broken.is_set()
            broken.set()
            self.up = False
            self.on_end()
            self._under_way.clear()
        if was_broken:
            raise ConnectionLost("the model's network: the connection was broken")

    async def _watch(self, broken: anyio.Event, scope: anyio.CancelScope) -> None:
        await broken.wait()
        scope.cancel()

    async def _bring(self) -> None:
        """Deliver what is under way, each time a while after it came."""
        while True:
            await self._came.wait()
            self._came = anyio.Event()
            await _turns(self._lag)
            self.arrive()

    def arrive(self) -> None:
        """Deliver all that is under way."""
        while self._under_way:
            self._under_way.popleft()()

    def send(self, call: Callable[[], None]) -> None:
        """Bring a call of the transport to the hub."""
        if not self._lag:
            call()
            return
        self._under_way.append(call)
        self._came.set()

    async def _through(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call that takes its time both ways, and fails if the connection breaks meanwhile."""
        broken = self._broken
        await _turns(self._latency)
        if not broken.is_set():
            answer = await call()
            await _turns(self._latency)
            if not broken.is_set():
                return answer
        raise ConnectionLost("the model's network: the connection broke during a call")

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        """See :class:`fanwire.transport.Transport`."""
        return await self._through(lambda: super(Network, self).publish(batch))

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        """See :class:`fanwire.transport.Transport`."""
        answers = await self._through(lambda: super(Network, self).subscribe(wanted, generation))
        self.arrive()
        return answers

    async def unsubscribe(self, channels: Collection[str], /) -> None:
        """See :class:`fanwire.transport.Transport`."""
        await self._through(lambda: super(Network, self).unsubscribe(channels))

    async def ping(self, /) -> None:
        """See :class:`fanwire.transport.Transport`."""
        await self._through(super().ping)

    async def history(self, channel: str, /, *, start: HistoryStart, limit: int) -> HistoryPage:
        """See :class:`fanwire.transport.SupportsHistory`. What was delivered before the page was read arrives before it."""
        await checkpoint()  # a reader that reads without end is to be noticed, not waited for
        return await self._through(lambda: super(Network, self).history(channel, start=start, limit=limit))


class _Immediate(Network):
    """For a transport that publishes without suspending."""

    def publish_now(self, channel: str, topic: str, id: str, key: str | None, frame: bytes, /) -> Receipt | None:
        """See :class:`fanwire.transport.SupportsImmediatePublish`."""
        assert isinstance(self.transport, SupportsImmediatePublish)
        return None if self._broken.is_set() else self.transport.publish_now(channel, topic, id, key, frame)


def network(transport: Transport, *, latency: int, lag: int, immediate: bool) -> Network:
    """Return a network with a transport at its other end."""
    kind = _Immediate if immediate and isinstance(transport, SupportsImmediatePublish) else Network
    return kind(transport, latency, lag)


class _Delayed(ThroughSink):
    """What the transport of one connection delivers to."""

    def __init__(self, network: Network, broken: anyio.Event, sink: Sink) -> None:
        super().__init__(sink)
        self._network = network
        self._broken = broken

    def subscribed(self, channel: str, generation: int, position: Cursor | None, /) -> None:
        """See :class:`fanwire.transport.Sink`."""
        if not self._broken.is_set():
            self._network.send(lambda: self.sink.subscribed(channel, generation, position))

    def deliver(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None, /) -> None:
        """See :class:`fanwire.transport.Sink`."""
        network = self._network
        if self._broken.is_set():
            return
        if network.to_lose and network.to_lose.popleft():
            network.lost += 1
            return
        network.send(lambda: self.sink.deliver(channel, generation, frame, position, prev))

    def lost(self, channels: Collection[str] | None, reason: GapReason, lost: int | None, /) -> None:
        """See :class:`fanwire.transport.Sink`."""
        if not self._broken.is_set():
            self._network.on_end()
            self._network.send(lambda: self.sink.lost(channels, reason, lost))
