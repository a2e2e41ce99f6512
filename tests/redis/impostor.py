"""Servers that are not what they should be: too old, no Redis at all, or silent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import hiredis
from anyio.abc import SocketAttribute, SocketStream

__all__ = ("listening", "of_version", "says", "silent")

Serve = Callable[[SocketStream], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve) -> AsyncGenerator[int]:
    """Serve connections on a port of loopback, which it yields."""

    async def handle(stream: SocketStream) -> None:
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):  # the other side has gone
                await serve(stream)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    tasks = await anyio.create_task_group().__aenter__()
    tasks.start_soon(listener.serve, handle)
    try:
        yield listener.extra(SocketAttribute.local_port)
    finally:
        tasks.cancel_scope.cancel()
        await tasks.__aexit__(None, None, None)
        await listener.aclose()


async def silent(stream: SocketStream) -> None:
    """Read everything and answer nothing."""
    while True:
        await stream.receive()


def says(first: bytes = b"", answer: bytes = b"") -> Serve:
    """Greet, then answer the first bytes that come and hang up."""

    async def serve(stream: SocketStream) -> None:
        if first:
            await stream.send(first)
        await stream.receive()
        if answer:
            await stream.send(answer)

    return serve


def of_version(info: str) -> Serve:
    """Speak Redis as far as a greeting goes, and tell this about oneself."""
    text = info.encode()
    answers = {b"INFO": b"$%d\r\n%s\r\n" % (len(text), text), b"PING": b"+PONG\r\n", b"CLIENT ID": b":7\r\n", b"CLIENT": b"+OK\r\n"}

    async def serve(stream: SocketStream) -> None:
        reader = hiredis.Reader()
        while True:
            reader.feed(await stream.receive())
            while (command := reader.gets()) is not False:
                name = b" ".join(command[:2]).upper()
                answer = next((answer for begin, answer in answers.items() if name.startswith(begin)), b"-ERR unknown command\r\n")
                await stream.send(answer)

    return serve
