"""A hub of anyio memory object streams: one stream for each subscriber.

At its best: streams without a bound, so that `send_nowait` never has to wait. Consumers iterate the receive stream itself, as its documentation shows; that
passes through the event loop for every item, whatever is buffered. A second row drains the stream by hand between waits, which avoids that.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import nullcontext, suppress

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from ..harness import contender
from ..model import Sample, recode

__all__ = ("ANYIO_DRAINED", "ANYIO_STREAMS", "DrainedSubscription", "StreamHub", "StreamSubscription")


class StreamSubscription:
    """One subscriber's stream, joined to the hub while entered."""

    __slots__ = ("_receive", "_send", "_streams")

    def __init__(self, streams: set[MemoryObjectSendStream[Sample]]) -> None:
        self._streams = streams
        self._send, self._receive = anyio.create_memory_object_stream[Sample](math.inf)

    async def __aenter__(self) -> AsyncIterable[Sample]:
        self._streams.add(self._send)
        return self._receive

    async def __aexit__(self, *exc: object) -> None:
        self._streams.discard(self._send)
        self._send.close()
        self._receive.close()


class DrainedSubscription(StreamSubscription):
    """The same, iterated by a generator that takes what is buffered before it waits again."""

    __slots__ = ()

    async def __aenter__(self) -> AsyncIterable[Sample]:
        await super().__aenter__()
        return self

    async def __aiter__(self) -> AsyncIterator[Sample]:
        receive_nowait = self._receive.receive_nowait
        while True:
            yield await self._receive.receive()
            with suppress(anyio.WouldBlock):
                while True:
                    yield receive_nowait()


class StreamHub:
    """Sends every message into every subscriber's stream."""

    def __init__(self, kind: type[StreamSubscription]) -> None:
        self._streams: set[MemoryObjectSendStream[Sample]] = set()
        self._kind = kind

    def subscribe(self) -> StreamSubscription:
        """A stream of one's own."""
        return self._kind(self._streams)

    async def send(self, burst: Sequence[Sample], /) -> None:
        """Fan the messages out without waiting."""
        for sample in burst:
            message = recode(sample)
            for stream in self._streams:
                stream.send_nowait(message)

    def dropped(self) -> int:
        """None: the streams have no bound."""
        return 0


def _index(sample: Sample) -> int:
    return sample.index


ANYIO_STREAMS = contender("anyio memory streams", lambda: nullcontext(StreamHub(StreamSubscription)), _index, share=0.3)
"""As a contender; an order of magnitude slower in bursts, so it runs fewer of them."""

ANYIO_DRAINED = contender("anyio memory streams, drained", lambda: nullcontext(StreamHub(DrainedSubscription)), _index, regimes=("burst",))
"""As a contender, drained by hand."""
