"""A transport between the processes of one machine: a file that publishers append to and subscribers follow. A toy, for tests of what needs several processes.

Copied under the name ``spoolfan`` into a distribution that a test plants. Its password has no use but to be kept out of sight.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar, NoReturn, Self, TypeVar
from urllib.parse import urlsplit

import anyio
from pydantic import SecretStr

from fanwire.capabilities import Capabilities
from fanwire.errors import FanwireError, Unsupported
from fanwire.messages import Cursor, Receipt
from fanwire.transport import Outbound, Sink, TransportOptions

__all__ = ("SpoolOptions", "SpoolTransport")

T = TypeVar("T")


class SpoolOptions(TransportOptions):
    password: SecretStr


class SpoolTransport:
    name: ClassVar[str] = "spool"
    options_model: ClassVar[type[TransportOptions]] = SpoolOptions

    def __init__(self, path: Path, password: str) -> None:
        self._path = path
        self._live: dict[str, int] = {}
        with Path(f"{path}.openers").open("a", encoding="utf-8") as openers:
            openers.write(json.dumps({"pid": os.getpid(), "arguments": sys.orig_argv, "password": password}) + "\n")

    @classmethod
    def from_options(cls, options: TransportOptions, /) -> Self:
        assert isinstance(options, SpoolOptions)
        return cls(Path(urlsplit(options.url.get_secret_value()).path), options.password.get_secret_value())

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            delivery="at_most_once",
            ordering="channel",
            multi_process=True,
            confirmed_publish=True,
            confirmed_subscribe=True,
            async_backends=frozenset({"asyncio", "trio"}),
        )

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None]:
        self._path.touch()
        self._sink = sink
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._follow, sink, self._path.stat().st_size)
            yield
            tasks.cancel_scope.cancel()

    async def _follow(self, sink: Sink, position: int) -> None:
        while True:
            with self._path.open("rb") as file:
                file.seek(position)
                for line in file.readlines():  # whole ones: publishers hold a lock, as this does not need to
                    if line.endswith(b"\n"):
                        position += len(line)
                        channel, frame = json.loads(line)
                        if channel in self._live:
                            sink.deliver(channel, self._live[channel], frame.encode(), None, None)
            await anyio.sleep(0.002)

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        with self._path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(b"".join(json.dumps([message.channel, message.frame.decode()]).encode() + b"\n" for message in batch))
        return [Receipt(message.id, message.channel, message.topic, None, False) for message in batch]

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        for channel in wanted:
            self._live[channel] = generation
            self._sink.subscribed(channel, generation, None)
        return dict.fromkeys(wanted)

    async def unsubscribe(self, channels: Collection[str], /) -> None:
        for channel in channels:
            self._live.pop(channel, None)

    async def ping(self, /) -> None:
        pass

    def native(self, kind: type[T], /) -> NoReturn:
        raise Unsupported(f"the spool transport has no {kind.__name__}")
