"""One message at a time, there and back: for checks of any transport, also of one that confirms no subscription and vouches for no message."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar, final

import anyio

from ..messages import Message, RawMessage
from ..realtime import Realtime
from ..subscription import Subscription
from ..topics import TopicRef
from .harness import Harness
from .tools import Room, confirmed, expect, until

__all__ = ("Exchange", "faithful", "up_to_the_end", "works")

T = TypeVar("T")
M = TypeVar("M", bound=Message[Any] | RawMessage)  # Any: any payload

_FIRST = 1 / 5_000
"""Share of the harness's patience that a message is waited for where it may have got lost; twice as long the next time, and so on."""


def faithful(rt: Realtime) -> bool:
    """Tell whether a message that was accepted arrives while nothing breaks: whether the transport claims an order, so that a hole would be told."""
    return "ordering.publisher" in rt.capabilities.names()


@final
class Exchange(Generic[M]):
    """Publishes, and hears what it has published on a subscription that was entered.

    Where the transport is faithful, each message is published once and has to be the next to arrive. Where it is not, or its subscription may not be live yet, it is published
    again until it is heard.

    Args:
        harness: Has the patience.
        rt: Publishes.
        messages: An entered subscription to whatever is published.
        alone: Nobody else publishes there. Otherwise what others publish is passed over.
    """

    def __init__(self, harness: Harness, rt: Realtime, messages: AsyncIterator[M], *, alone: bool = True) -> None:
        self._harness = harness
        self._rt = rt
        self._messages = messages
        self._alone = alone
        self._sure = faithful(rt) and "confirmed_subscribe" in rt.capabilities.names()

    async def say(self, ref: TopicRef[T], data: T, *, key: str | None = None, headers: Mapping[str, str] | None = None) -> M:
        """Publish and return what was heard of it."""
        what = f"what was published on topic {ref.topic!r} of {ref.channel!r}"
        mine: set[str] = set()

        async def publish() -> None:
            mine.add((await self._rt.publish(ref, data, key=key, headers=headers)).id)

        return await self._until(publish, lambda message: message.channel == ref.channel and message.id in mine, what)

    async def overhear(self, channel: str, frame: bytes, data: object) -> M:
        """Publish ``frame`` as a foreign client would, and return the message with this ``data`` that is heard."""

        async def inject() -> None:
            await self._harness.inject(channel, frame)

        return await self._until(inject, lambda message: message.data == data, f"a foreign message with the data {data!r}")

    async def inject(self, channel: str, frame: bytes, fact: Callable[[], bool], what: str) -> None:
        """Publish ``frame`` as a foreign client would, and let time pass until ``fact`` holds."""
        for seconds in self._waits():
            await self._harness.inject(channel, frame)
            with anyio.move_on_after(seconds):
                await until(fact, what, self._harness.patience)
                return
        raise AssertionError(f"injected a frame of {len(frame)} bytes, and waited {self._harness.patience:g} s in vain until {what}")

    async def _until(self, publish: Callable[[], Awaitable[None]], mine: Callable[[M], bool], what: str) -> M:
        """Publish until a message of one's own is heard."""
        for seconds in self._waits():
            await publish()
            with anyio.move_on_after(seconds):
                while True:
                    message = await anext(self._messages)
                    if mine(message):
                        self._sure = faithful(self._rt)
                        return message
                    confirmed(not (self._sure and self._alone), f"{message} came in place of {what}")
        raise AssertionError(f"{what} was not heard within {self._harness.patience:g} s")

    def _waits(self) -> Iterator[float]:
        return _waits(self._harness.patience, once=self._sure)


def _waits(patience: float, *, once: bool) -> Iterator[float]:
    """Yield how long to wait behind each attempt: as long as there is patience, or a little at first."""
    end = time.monotonic() + patience
    seconds = patience if once else patience * _FIRST
    while time.monotonic() < end:
        yield seconds
        if once:
            return
        seconds = min(2 * seconds, patience / 4)


async def works(harness: Harness, rt: Realtime, room: Room) -> None:
    """Assert that a Realtime still publishes and subscribes, on ``room``."""
    async with rt.subscribe(room.a) as messages:
        expect((await Exchange(harness, rt, messages).say(room.a, -1)).data, -1, "what was published to see whether all still works")


async def up_to_the_end(harness: Harness, rt: Realtime, room: Room, messages: Subscription[Message[Any]]) -> list[Message[Any]]:  # Any: text too
    """Publish an end until it is heard, and return everything that came before."""
    found: list[Message[Any]] = []
    for seconds in _waits(harness.patience, once=False):
        end = (await rt.publish(room.text, "end")).id
        with anyio.move_on_after(seconds):
            while True:
                found.append(await anext(messages))
                if found[-1].id == end and found[-1].channel == room.name:
                    return found
    raise AssertionError(f"no end came within {harness.patience:g} s; the last of {len(found)} items was {found[-1:]}")
