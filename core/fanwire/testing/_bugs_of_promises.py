"""Planted bugs of what is promised about payloads, names, lifetimes and the contract, in a driver or in core; see :mod:`fanwire.testing.bugs`."""

from __future__ import annotations

import json
import math
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any, Final, TypeVar, cast
from unittest.mock import patch

from .. import registry
from ..capabilities import Capabilities
from ..errors import ConfigError, FanwireError, PayloadTooLarge
from ..hub.engine import Engine
from ..hub.hub import Hub
from ..hub.log import InterestLog
from ..messages import Cursor, Receipt
from ..session import Session
from ..transport import HistoryPage, HistoryStart, Outbound, Sink, Transport
from .through import Through, ThroughSink

__all__ = ("BROKEN_PROMISES", "UNGUARDED")

T = TypeVar("T")

# ---------------------------------------------------------------- payloads and names


class SinkManglesText(ThroughSink):
    """See :class:`MangleText`."""

    def deliver(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None, /) -> None:
        self.sink.deliver(channel, generation, frame.decode("ascii", "replace").encode(), position, prev)


class MangleText(Through):
    """Takes every character beyond ASCII for damage."""

    def around(self, sink: Sink) -> Sink:
        return SinkManglesText(sink)


class SinkStopsAtPoison(ThroughSink):
    """See :class:`StopAtPoison`."""

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink)
        self.dead: bool = False

    def deliver(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None, /) -> None:
        self.dead = self.dead or not frame.startswith(b'{"id":"') or not _is_json(frame)
        if not self.dead:
            self.sink.deliver(channel, generation, frame, position, prev)


def _is_json(frame: bytes) -> bool:
    try:
        json.loads(frame)
    except (ValueError, RecursionError):
        return False
    return True


class StopAtPoison(Through):
    """Parses frames itself, and delivers nothing behind one that it does not understand."""

    def around(self, sink: Sink) -> Sink:
        return SinkStopsAtPoison(sink)


class SinkUnfolds(ThroughSink):
    """See :class:`FoldCase`."""

    def __init__(self, sink: Sink, names: Mapping[str, str]) -> None:
        super().__init__(sink)
        self.names = names

    def subscribed(self, channel: str, generation: int, position: Cursor | None, /) -> None:
        self.sink.subscribed(self.names[channel], generation, position)

    def deliver(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None, /) -> None:
        self.sink.deliver(self.names[channel], generation, frame, position, prev)


class FoldCase(Through):
    """Writes names in lower case on the server: of two that differ in nothing else, the one that was subscribed last receives what is meant for both."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self.names: dict[str, str] = {}

    def around(self, sink: Sink) -> Sink:
        return SinkUnfolds(sink, self.names)

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        return await self.transport.publish([message._replace(channel=message.channel.lower()) for message in batch])

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        answers: dict[str, Cursor | None | FanwireError] = {}
        for name, topics in wanted.items():
            self.names[name.lower()] = name
            answers[name] = (await self.transport.subscribe({name.lower(): topics}, generation))[name.lower()]
        return answers

    async def unsubscribe(self, channels: Collection[str], /) -> None:
        await self.transport.unsubscribe([name.lower() for name in channels])

    async def history(self, channel: str, /, *, start: HistoryStart, limit: int) -> HistoryPage:
        return await super().history(channel.lower(), start=start, limit=limit)


class CarryLess(Through):
    """Declares more bytes than it carries."""

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        limit = (self.capabilities.max_payload or 2**20) // 2
        for message in batch:
            if len(message.frame) > limit:
                return [PayloadTooLarge(each.channel, each.topic, len(message.frame), limit) for each in batch]
        return await self.transport.publish(batch)


class ForgetKeys(Through):
    """Claims to know idempotency keys, and tells the server none."""

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        return await self.transport.publish([message._replace(key=None) for message in batch])


class LoseTheLastBatch(Through):
    """Says of a batch of several that it was accepted, sends it when the next one comes, and forgets the last."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self.held: list[Outbound] = []

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        held, self.held = self.held, list(batch) if len(batch) > 1 else []
        if held:
            await self.transport.publish(held)
        if self.held:
            return [Receipt(message.id, message.channel, message.topic, None, duplicate=False) for message in batch]
        return await self.transport.publish(batch)


# ---------------------------------------------------------------- what is left, what is said


class LeaveASocket(Through):
    """Opens a socket with each connection, and closes none."""

    left: Final[list[tuple[socket.socket, socket.socket]]] = []

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None]:
        self.left.append(socket.socketpair())
        async with super().run(sink):
            yield


class LeaveAThread(Through):
    """Starts a thread with each connection, and ends none."""

    over: Final = threading.Event()

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None]:
        threading.Thread(target=self.over.wait, daemon=True, name="left behind").start()
        async with super().run(sink):
            yield


class PromiseByTheDay(Through):
    """Declares once it is connected what it did not before."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(self.transport.capabilities, max_channel_bytes=self.transport.capabilities.max_channel_bytes - min(self.connections, 1))


class HandOutAnything(Through):
    """Returns the same object whatever type is asked for."""

    def native(self, kind: type[T], /) -> T:
        return cast("T", self.transport)  # which is the bug


class AnswerForTheServer(Through):
    """Answers pings itself."""

    async def ping(self, /) -> None:
        pass


BROKEN_PROMISES: Final[Mapping[str, type[Through]]] = {
    "answer for the server": AnswerForTheServer,
    "carry less": CarryLess,
    "fold case": FoldCase,
    "forget keys": ForgetKeys,
    "hand out anything": HandOutAnything,
    "leave a socket": LeaveASocket,
    "leave a thread": LeaveAThread,
    "lose the last batch": LoseTheLastBatch,
    "mangle text": MangleText,
    "promise by the day": PromiseByTheDay,
    "stop at poison": StopAtPoison,
}
"""Of drivers, by name."""

# ---------------------------------------------------------------- core, unguarded


@contextmanager
def close_in_haste() -> Generator[None]:
    """Closing throws away what subscribers have not read yet."""
    finish = InterestLog.finish

    def hasty(self: InterestLog, error: FanwireError | None) -> None:
        for cursor in self.cursors:
            cursor.position = self.end
        finish(self, error)

    with patch.object(InterestLog, "finish", hasty):
        yield


@contextmanager
def ignore_the_deadline() -> Generator[None]:
    """Closing waits for what is still to be sent for as long as that takes."""
    close = Engine.close

    async def patient(self: Engine, deadline: float) -> None:
        del deadline
        await close(self, math.inf)

    with patch.object(Engine, "close", patient):
        yield


@contextmanager
def never_let_go() -> Generator[None]:
    """A subscription that was left keeps its channels."""

    def detach(self: Hub, log: InterestLog) -> None:
        del self, log

    with patch.object(Hub, "detach", detach):
        yield


@contextmanager
def work_on_any_loop() -> Generator[None]:
    """Nobody looks at which event loop a Realtime is used from."""

    def stay(self: Session) -> None:
        del self

    with patch.object(Session, "_stay", stay):
        yield


@contextmanager
def start_anywhere() -> Generator[None]:
    """Nobody looks at whether the transport has the history that is asked for."""

    def check_start(start: object, capabilities: object, transport: object) -> None:
        del start, capabilities, transport

    with patch("fanwire.realtime.check_start", check_start):
        yield


@contextmanager
def tell_secrets() -> Generator[None]:
    """Errors quote the URL they are about."""
    open_with = registry.open_with

    def telling(url: str, options: Mapping[str, registry.Option], /, **settings: Any) -> Transport:  # Any: where it came from
        try:
            return open_with(url, options, **settings)
        except ConfigError as error:
            raise ConfigError(f"{error} in {url}") from error

    with patch.object(registry, "open_with", telling):
        yield


UNGUARDED: Final[Mapping[str, Callable[[], AbstractContextManager[None]]]] = {
    "close in haste": close_in_haste,
    "ignore the deadline": ignore_the_deadline,
    "never let go": never_let_go,
    "start anywhere": start_anywhere,
    "tell secrets": tell_secrets,
    "work on any loop": work_on_any_loop,
}
"""Of core, by name."""
