"""What raw clients and the limit have in common with fanwire: the codec, run once per message, and one local fan-out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from pydantic import TypeAdapter

from fanwire.testing.laps import Sample

__all__ = ("SharedLog", "decode", "encode")

T = TypeVar("T")

_ADAPTER = TypeAdapter(Sample)
_validate, _load = _ADAPTER.validator.validate_python, _ADAPTER.validator.validate_json
_dump = _ADAPTER.serializer.to_json


def encode(sample: Sample) -> bytes:
    """Validate and dump a message, by the quickest way pydantic has."""
    return _dump(_validate(sample))


def decode(data: bytes | str) -> Sample:
    """Parse and validate a message, by the quickest way pydantic has."""
    sample: Sample = _load(data)
    return sample


class SharedLog(Generic[T]):
    """The quickest fan-out known here: one list that only grows, a cursor per subscriber, and a future for each that waits.

    It has no bound and never frees anything, so it does less than a library has to.
    """

    def __init__(self) -> None:
        self.items: list[T] = []
        self._waiters: list[asyncio.Future[None]] = []

    def push(self, item: T) -> None:
        """Append one message and wake who waits."""
        self.items.append(item)
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    @asynccontextmanager
    async def subscribe(self) -> AsyncGenerator[AsyncIterator[T]]:
        """Iterate what is pushed from now on."""
        yield self._iterate(len(self.items))

    async def _iterate(self, position: int) -> AsyncIterator[T]:
        create_future = asyncio.get_running_loop().create_future
        items = self.items
        while True:
            if position == len(items):
                waiter = create_future()
                self._waiters.append(waiter)
                await waiter
            chunk = items[position:]
            position += len(chunk)
            for item in chunk:
                yield item
