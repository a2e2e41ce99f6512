"""Publishing from a child process over a transport that does not leave the parent's, such as ``memory://``: the child's messages travel through its pipes.

One JSON object a line: the child writes a batch to standard output, the parent publishes it and writes what came of it to the child's standard input.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, BinaryIO, ClassVar, Self, TypeVar, final

import anyio
import anyio.to_thread

from ..capabilities import Capabilities
from ..errors import ConnectionLost, FanwireError, Internal, Unsupported
from ..messages import Cursor, Receipt
from ..transport import Outbound, Sink, Transport, TransportOptions

__all__ = ("RelayTransport", "lines", "relay")

T = TypeVar("T")


@final
class RelayTransport:
    """The child's half: publishes through the parent and subscribes to nothing.

    Args:
        answers: Where the parent's answers are read.
        requests: Where batches are written.
    """

    name: ClassVar[str] = "relay"
    options_model: ClassVar[type[TransportOptions]] = TransportOptions

    def __init__(self, answers: BinaryIO, requests: BinaryIO) -> None:
        self._answers = answers
        self._requests = requests
        self._turn: anyio.Lock | None = None

    @classmethod
    def from_options(cls, options: TransportOptions, /) -> Self:  # noqa: ARG003 - the contract's
        """It has no URL."""
        raise Unsupported("a relay is made for a child process, not from a URL")

    @property
    def capabilities(self) -> Capabilities:
        """Publishing, as the parent's transport does it: the parent's own declaration holds for those who subscribe."""
        return Capabilities(
            delivery="at_most_once",
            ordering="channel",
            multi_process=True,
            confirmed_publish=True,
            confirmed_subscribe=False,
            async_backends=frozenset({"asyncio", "trio"}),
        )

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None]:
        """See :class:`fanwire.transport.Transport`. The pipes are there already."""
        self._turn = anyio.Lock()
        yield

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        """See :class:`fanwire.transport.Transport`."""
        request = json.dumps([_request(outbound) for outbound in batch]).encode() + b"\n"
        assert self._turn is not None
        async with self._turn:
            answer = await anyio.to_thread.run_sync(self._exchange, request)
        if not answer:
            raise ConnectionLost("relay: the parent process has gone")
        return [_result(outbound, result) for outbound, result in zip(batch, json.loads(answer), strict=True)]

    def _exchange(self, request: bytes) -> bytes:
        self._requests.write(request)
        self._requests.flush()
        return self._answers.readline()

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        """See :class:`fanwire.transport.Transport`."""
        return {channel: Unsupported("a relay only publishes") for channel in wanted}

    async def unsubscribe(self, channels: Collection[str], /) -> None:
        """See :class:`fanwire.transport.Transport`."""

    async def ping(self, /) -> None:
        """See :class:`fanwire.transport.Transport`."""

    def native(self, kind: type[T], /) -> T:
        """See :class:`fanwire.transport.Transport`."""
        raise Unsupported("a relay has no client")


async def relay(requests: AsyncIterable[bytes], answer: Callable[[bytes], Awaitable[None]], transport: Transport) -> None:
    """Publish what a child hands over, until it ends: the parent's half.

    Args:
        requests: Lines of the child's standard output; see :func:`lines`.
        answer: Writes a line to its standard input.
        transport: Publishes; connected.
    """
    async for request in requests:
        results = await transport.publish([_outbound(fields) for fields in json.loads(request)])
        try:
            await answer(json.dumps([_answer(result) for result in results]).encode() + b"\n")
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return  # it died while its messages were on their way


async def lines(chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """Split a stream into its whole lines; what a killed process left unfinished is dropped."""
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line


def _request(outbound: Outbound) -> dict[str, object]:
    # Payload and envelope are JSON texts in UTF-8.
    return {**outbound._asdict(), "data": outbound.data.decode(), "frame": outbound.frame.decode()}


def _outbound(fields: dict[str, Any]) -> Outbound:  # Any: JSON
    return Outbound(**{**fields, "data": fields["data"].encode(), "frame": fields["frame"].encode()})


def _answer(result: Receipt | FanwireError) -> dict[str, object]:
    if isinstance(result, FanwireError):
        return {"error": f"{result.code}: {result}"}
    return {"cursor": None if result.cursor is None else str(result.cursor), "duplicate": result.duplicate}


def _result(outbound: Outbound, answer: dict[str, Any]) -> Receipt | FanwireError:  # Any: JSON
    if "error" in answer:
        return Internal(f"relay: {answer['error']}")
    cursor = None if answer["cursor"] is None else Cursor.parse(answer["cursor"])
    return Receipt(outbound.id, outbound.channel, outbound.topic, cursor, answer["duplicate"])
