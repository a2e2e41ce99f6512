"""What the pages start with: those that go on from "Getting started" have its channels, an open Realtime and a conversation."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import anyio
import anyio.to_thread

from fanwire import Realtime
from fanwire.blocking import BlockingRealtime
from fanwire.runs import MemoryStepStore
from fanwire_memory import MemoryTransport
from tests.docs.code import compiled
from tests.docs.markdown import blocks
from tests.docs.runner import Names, Opener, Setup, nothing
from tests.sources import CHECKOUT

__all__ = ("opener_of",)

STANDALONE = frozenset({"index.md", "getting-started.md"})


def opener_of(page: str) -> Opener:
    """Return what a page starts with, by its path below ``docs``, or ``README.md``."""
    if page == "README.md":
        return _readme
    if page == "from-inngest.md":
        return _from_inngest
    if page == "blocking.md":
        return _blocking
    if page == "redis.md":
        return _redis
    return nothing if page in STANDALONE else _conversation


# Any: what a page has declared
async def _talk(rt: Realtime, chat: Any, names: Names) -> None:
    """Publish for a block that iterates without an end."""
    status: Any = names["Status"]
    token: Any = names["Token"]
    await rt.publish(chat.status, status(message="Thinking..."))
    await rt.publish(chat.tokens, token(token="Hello"))


def _declare(names: Names) -> None:
    """Give a page the channels of "Getting started"."""
    (block,) = (block for block in blocks(CHECKOUT / "docs" / "getting-started.md") if block.title == "channels.py")
    module = sys.modules["channels"] = ModuleType("channels")
    exec(compiled(block), module.__dict__)
    names.update({name: value for name, value in vars(module).items() if name in {"AgentChat", "Status", "Token", "SystemAlerts", "Alert"}})
    names["chat"] = module.AgentChat(thread_id="thread_abc")


@asynccontextmanager
async def _conversation(names: Names) -> AsyncGenerator[Setup]:
    """The names that "Getting started" promises for all other pages."""
    _declare(names)
    async with _realtimes(names) as setup:
        yield setup


@asynccontextmanager
async def _blocking(names: Names) -> AsyncGenerator[Setup]:
    """The same without ``rt``, which the page makes itself."""
    _declare(names)
    yield Setup()
    rt = names.get("rt")
    if isinstance(rt, BlockingRealtime):  # unless its block has failed
        await anyio.to_thread.run_sync(rt.close)


@asynccontextmanager
async def _redis(names: Names) -> AsyncGenerator[Setup]:
    """The same without ``rt``: each block opens one on a server."""
    _declare(names)
    yield Setup()


@asynccontextmanager
async def _readme(names: Names) -> AsyncGenerator[Setup]:
    """The README declares its channel itself, and leaves out what its fragments need beside it."""
    names.update(words=["Hello", "world"], store=MemoryStepStore(), BlockingRealtime=BlockingRealtime, MemoryTransport=MemoryTransport)
    os.environ["FANWIRE_URL"] = "memory://"  # the runner puts the environment back
    async with _realtimes(names) as setup:
        yield setup


@asynccontextmanager
async def _from_inngest(names: Names) -> AsyncGenerator[Setup]:
    """Side by side with TypeScript there is no room for what the reader has read elsewhere."""

    async def ask(question: str) -> str:
        return f"{question} 42."

    names.update(ask=ask, store=MemoryStepStore())
    async with _realtimes(names) as setup:
        yield setup


@asynccontextmanager
async def _realtimes(names: Names) -> AsyncGenerator[Setup]:
    """Keep ``rt`` an open Realtime and ``chat`` a conversation, whatever the blocks do to them."""
    # One broker for the page, kept by a Realtime that no block can close. The name is never used again: history must not outlast the page.
    url = f"memory://page-{secrets.token_hex(4)}"
    async with Realtime.from_url(url) as keeper:
        ours = [keeper]

        async def prepare(names: Names) -> None:
            if ours[-1] is keeper or names.get("rt") is not ours[-1] or not _is_open(ours[-1]):
                await ours[-1].aclose() if ours[-1] is not keeper else None
                ours.append(await Realtime.from_url(url).__aenter__())
            names["rt"] = ours[-1]
            if (declared := names.get("AgentChat")) is not None:
                names["chat"] = declared(thread_id="thread_abc")  # type: ignore[operator]  # pyright: ignore[reportCallIssue]  # a class of the page

        async def feed(rt: Realtime) -> None:
            await _talk(rt, names["chat"], names)

        yield Setup(prepare, feed)
        for rt in ours[1:]:
            await rt.aclose()


def _is_open(rt: Realtime) -> bool:
    return rt.stats().state.value != "closed"
