"""Publishing from a child process over a transport that does not leave the parent's, such as ``memory://``: the child's messages travel through its pipes.

One JSON text a line: the child writes a batch to the parent, which publishes it and writes back what came of it. Ids, keys, run ids and frames stay the child's own, and so
do retries: to fanwire in the child this is a transport like any other.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection, Generator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Final, Self, TypeVar, final

import anyio
import anyio.to_thread

from .. import errors
from ..capabilities import Capabilities
from ..errors import FanwireError, Unsupported
from ..messages import Cursor, Receipt
from ..transport import Outbound, Sink, Transport, TransportOptions

__all__ = ("RelayTransport", "error_of", "lines", "relayed", "split_lines", "terms_of")

T = TypeVar("T")


@final
class RelayTransport:
    """The child's half: publishes through the parent and subscribes to nothing.

    Args:
        exchange: Writes one line to the parent and returns its answer. It may block, and is called by one thread at a time.
        terms: What the parent's transport promises to publishers; see :func:`terms_of`.
    """

    name: ClassVar[str] = "relay"
    options_model: ClassVar[type[TransportOptions]] = TransportOptions

    def __init__(self, exchange: Callable[[bytes], bytes], terms: Capabilities) -> None:
        self._exchange = exchange
        self._terms = terms
        self._turn = anyio.Lock()

    @classmethod
    def from_options(cls, options: TransportOptions, /) -> Self:  # noqa: ARG003 - the contract's
        """It has no URL."""
        raise Unsupported("a relay is made for a child process, not from a URL")

    @property
    def capabilities(self) -> Capabilities:
        """Those of the parent's transport that concern publishers."""
        return self._terms

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None]:
        """See :class:`fanwire.transport.Transport`. The pipes are there already."""
        yield

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        """See :class:`fanwire.transport.Transport`."""
        request = json.dumps([_request(outbound) for outbound in batch]).encode() + b"\n"
        async with self._turn:
            # Abandoned when this Realtime is closed: a parent that does not answer must not keep it open.
            answer: Any = json.loads(await anyio.to_thread.run_sync(self._exchange, request, abandon_on_cancel=True))  # Any: JSON
        if answer["raised"] is not None:
            raise error_of(*answer["raised"])
        return [_result(outbound, result) for outbound, result in zip(batch, answer["results"], strict=True)]

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        """See :class:`fanwire.transport.Transport`."""
        return {channel: Unsupported("a relay only publishes: subscribe in the parent process") for channel in wanted}

    async def unsubscribe(self, channels: Collection[str], /) -> None:
        """See :class:`fanwire.transport.Transport`."""

    async def ping(self, /) -> None:
        """See :class:`fanwire.transport.Transport`."""

    def native(self, kind: type[T], /) -> T:
        """See :class:`fanwire.transport.Transport`."""
        raise Unsupported(f"a relay has no {kind.__name__}; it has no client at all")


def terms_of(capabilities: Capabilities) -> Capabilities:
    """Return what a relay declares that leads to a transport with these capabilities: the same for publishers, nothing for subscribers."""
    return dataclasses.replace(
        capabilities, history=frozenset(), multi_process=True, confirmed_subscribe=False, async_backends=frozenset({"asyncio", "trio"})
    )


async def relayed(request: bytes, transport: Transport) -> bytes:
    """Publish what a child hands over: the parent's half.

    Args:
        request: A line the child wrote.
        transport: Publishes; connected.

    Returns:
        The line to answer with.
    """
    batch = [_outbound(fields) for fields in json.loads(request)]
    results: list[object] = []
    raised: tuple[str, str] | None = None
    try:
        results = [_answer(result) for result in await transport.publish(batch)]
    except FanwireError as error:
        raised = error.code, str(error)
    return json.dumps({"results": results, "raised": raised}).encode() + b"\n"


def split_lines() -> Generator[list[bytes], bytes, None]:
    """Cut what comes through a pipe into lines: a generator to send chunks to. What comes before a line's end waits, however long the line is."""
    parts: list[bytes] = []
    whole: list[bytes] = []
    while True:
        first, *rest = (yield whole).split(b"\n")
        parts.append(first)
        whole = []
        for part in rest:
            whole.append(b"".join(parts))
            parts = [part]


async def lines(chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """Cut a stream into its whole lines; what a killed process left unfinished is dropped."""
    splitter = split_lines()
    next(splitter)
    async for chunk in chunks:
        for line in splitter.send(chunk):
            yield line


def error_of(code: str, text: str) -> FanwireError:
    """Make an error anew that was raised in another process.

    Args:
        code: Its class's code. A class that takes more than a text, or is not known here, becomes a plain ``FanwireError``.
        text: What it says.
    """
    return _PLAIN.get(code, FanwireError)(text)


_PLAIN: Final[Mapping[str, type[FanwireError]]] = {
    kind.code: kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, FanwireError) and "__init__" not in vars(kind)
}


def _request(outbound: Outbound) -> dict[str, object]:
    # Payload and envelope are JSON texts in UTF-8.
    return {**outbound._asdict(), "data": outbound.data.decode(), "frame": outbound.frame.decode()}


def _outbound(fields: dict[str, Any]) -> Outbound:  # Any: JSON
    return Outbound(**{**fields, "data": fields["data"].encode(), "frame": fields["frame"].encode()})


def _answer(result: Receipt | FanwireError) -> dict[str, object]:
    if isinstance(result, FanwireError):
        return {"error": [result.code, str(result)]}
    return {"cursor": None if result.cursor is None else str(result.cursor), "duplicate": result.duplicate}


def _result(outbound: Outbound, answer: dict[str, Any]) -> Receipt | FanwireError:  # Any: JSON
    if "error" in answer:
        return error_of(*answer["error"])
    cursor = None if answer["cursor"] is None else Cursor.parse(answer["cursor"])
    return Receipt(outbound.id, outbound.channel, outbound.topic, cursor, answer["duplicate"])
