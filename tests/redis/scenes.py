"""What the tests on real Redis servers share: servers of a test's own, a publisher that keeps books, a subscriber that keeps everything, and an auditor that knows only Redis."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest
from redis.backoff import NoBackoff
from redis.retry import Retry

from fanwire import Channel, Gap, Message, Realtime, Receipt, Start, TopicRef, topic
from fanwire.errors import FanwireError
from tests.redis import harness
from tests.servers.redis import RedisServer, make_certificates, redis_server
from tests.untested import require

Client: TypeAlias = Any  # Any: redis-py types its commands for its blocking and its asynchronous client at once

__all__ = (
    "Account",
    "Audit",
    "Books",
    "Client",
    "Feed",
    "Watcher",
    "account",
    "audited",
    "beyond",
    "certificates_in",
    "connections_of",
    "fresh_namespace",
    "loops",
    "opened",
    "plain",
    "refused",
    "room",
    "running",
    "server",
    "stream_of",
    "until",
    "watching",
    "works",
)


class Feed(Channel, name="feed:{title}"):
    """The channel of these tests: numbers that count the messages, and texts of any length."""

    title: str
    n = topic(int)
    text = topic(str)


def room(title: str = "a") -> TopicRef[int]:
    """Return the numbers of a channel."""
    return Feed(title=title).n


def loops(*names: str) -> Any:  # Any: what pytest makes of a fixture
    """Return the fixture ``anyio_backend`` of a module; the transport is for asyncio only."""
    known = {"asyncio": ("asyncio", {"use_uvloop": False}), "asyncio+uvloop": ("asyncio", {"use_uvloop": True})}

    def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
        name: str = request.param
        require("uvloop", name == "asyncio" or find_spec("uvloop") is not None, "the tests on its event loop")
        return known[name]

    wanted = os.environ.get("FANWIRE_TEST_LOOPS", ",".join(names)).split(",")
    return pytest.fixture(scope="module", params=[name for name in names if name in wanted] or names[:1])(anyio_backend)


def fresh_namespace() -> str:
    """Return a namespace that nobody else uses."""
    return f"t{secrets.token_hex(5)}"


def server() -> RedisServer:
    """Return the server that all tests share which do not break it for others. One of somebody else's will not do: its configuration is changed."""
    redis_server()
    return harness.server()


@contextmanager
def running(*arguments: str, port: int | None = None, program: str | None = None) -> Generator[RedisServer]:
    """Run a server of the test's own, to do anything to."""
    directory = tempfile.mkdtemp(prefix="fw-")  # short: the path of a Unix socket may have 107 bytes
    made = RedisServer(*(argument.replace("DIRECTORY", directory) for argument in arguments), directory=directory, port=port, program=program)
    try:
        made.start()
        yield made
    finally:
        made.stop(signal.SIGKILL)  # a replica that writes its first file of changes refuses to end in order
        shutil.rmtree(Path(directory), ignore_errors=True)


def certificates_in(directory: Path) -> tuple[Path, Path, Path]:
    """Return the certificate of a new authority, and a certificate for 127.0.0.1 by it with its key."""
    require("openssl", shutil.which("openssl") is not None, "the tests of TLS")
    return make_certificates(directory)


# ---------------------------------------------------------------------- waiting on facts


async def until(fact: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    """Let other tasks run until ``fact`` holds."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain until {what}"
        await anyio.sleep(0.002)


async def beyond(number: Callable[[], float], than: float, what: str, seconds: float = 10.0) -> None:
    """Wait until a number has grown."""
    await until(lambda: number() > than, what, seconds)


# ---------------------------------------------------------------------- who takes part


def opened(
    url: str, namespace: str = "", *, timeout: float = 10.0, connect_timeout: float = 10.0, on_invalid: Any = None, **options: object
) -> Realtime:  # Any: its signature is the constructor's
    """Return a Realtime whose connections the server lists under the namespace; it finds a half-open connection within two seconds."""
    namespace = namespace or fresh_namespace()
    merged = {"namespace": namespace, "client_name": namespace, "probe": 1.0, **options}
    return Realtime.from_url(url, options=merged, timeout=timeout, connect_timeout=connect_timeout, on_invalid=on_invalid)


class Watcher:
    """A subscriber that keeps everything it is given."""

    def __init__(self) -> None:
        self.items: list[Message[int] | Gap] = []
        self.last = 0
        """The number that came last."""
        self.error: FanwireError | None = None

    @property
    def told(self) -> list[int | Gap]:
        """What came: the numbers, and the gaps in their places."""
        return [item if isinstance(item, Gap) else item.data for item in self.items]

    @property
    def numbers(self) -> list[int]:
        """The numbers that came."""
        return [item.data for item in self.items if isinstance(item, Message)]

    @property
    def ids(self) -> list[str]:
        """The ids of the messages that came."""
        return [item.id for item in self.items if isinstance(item, Message)]

    @property
    def gaps(self) -> list[Gap]:
        """The gaps that came."""
        return [item for item in self.items if isinstance(item, Gap)]

    async def reach(self, number: int, seconds: float = 10.0) -> None:
        """Wait until ``number`` has come."""
        await until(lambda: self.last >= number, f"{number} has come", seconds)


@asynccontextmanager
async def watching(rt: Realtime, *refs: TopicRef[int], start: Start = Start.LIVE) -> AsyncGenerator[Watcher]:
    """Subscribe, and collect in the background."""
    watcher = Watcher()
    first, *more = refs
    async with rt.subscribe(first, *more, start=start, buffer=100_000).with_gaps() as items:

        async def collect() -> None:
            try:
                async for item in items:
                    watcher.items.append(item)
                    watcher.last = watcher.last if isinstance(item, Gap) else item.data
            except FanwireError as error:
                watcher.error = error

        tasks = await anyio.create_task_group().__aenter__()
        tasks.start_soon(collect)
        try:
            yield watcher
        finally:
            tasks.cancel_scope.cancel()
            await tasks.__aexit__(None, None, None)  # the test's own exception is none of the tasks' business: told of it, the group would wrap it


class Books:
    """A publisher that writes down each number before it publishes it, and what it was told."""

    def __init__(self, rt: Realtime, ref: TopicRef[int]) -> None:
        self.rt = rt
        self.ref = ref
        self.tried = 0
        self.accepted: dict[int, Receipt] = {}
        self.refused: dict[int, FanwireError] = {}

    async def publish(self, count: int = 1) -> None:
        """Publish the next numbers, one after the other."""
        for _ in range(count):
            await self.one(self._next())

    async def burst(self, count: int) -> None:
        """Publish the next numbers side by side: they travel in batches, in this order."""
        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(self.one, self._next())

    async def go_on(self, stop: anyio.Event, pause: float = 0.001) -> None:
        """Publish until told to stop."""
        while not stop.is_set():
            await self.publish()
            await anyio.sleep(pause)

    def _next(self) -> int:
        self.tried += 1
        return self.tried

    async def one(self, number: int) -> None:
        """Publish a number."""
        try:
            self.accepted[number] = await self.rt.publish(self.ref, number)
        except FanwireError as error:
            self.refused[number] = error


class Account:
    """The outcome of :func:`account`."""

    def __init__(self, gaps: int, missing: Sequence[int]) -> None:
        self.gaps = gaps
        self.missing = missing


def account(items: Sequence[int | Gap], accepted: Collection[int]) -> Account:
    """Assert that nothing came twice or out of order, and that a gap stands wherever something accepted did not come."""
    last, gap, gaps = 0, False, 0
    missing: list[int] = []
    due, place = sorted(accepted), 0
    for item in [*items, None]:
        if isinstance(item, Gap):
            gap, gaps = True, gaps + 1
            continue
        assert item is None or item > last, f"{item} came behind {last}: twice, or out of order"
        lost = []
        while place < len(due) and (item is None or due[place] <= item):
            if due[place] != item:
                lost.append(due[place])
            place += 1
        assert gap or not lost, f"silently lost: {lost[:20]} ({len(lost)}) behind {last}"
        missing += lost
        last, gap = item or last, False
    return Account(gaps, missing)


# ---------------------------------------------------------------------- who only knows Redis


@contextmanager
def plain(server: RedisServer, **settings: object) -> Generator[Client]:
    """Return a plain client of a server."""
    # Tried again once, for a sentinel cuts the clients of a server that it promotes; not longer, for it blocks the event loop.
    with server.client(retry=Retry(NoBackoff(), 1), **settings) as client:
        yield client


class Audit:
    """A channel's stream as a plain client of Redis reads it."""

    def __init__(self, entries: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> None:
        self.positions = [id.decode() for id, _ in entries]
        messages = [json.loads(fields[b"d"][9:]) for _, fields in entries]
        self.ids: list[str] = [message["id"] for message in messages]
        self.numbers: list[int] = [message["data"] for message in messages]

    def check(self) -> None:
        """Assert that the positions count, and that no message is there twice."""
        epochs = {position.partition("-")[0] for position in self.positions}
        assert len(epochs) <= 1, f"several epochs in one stream: {epochs}"
        counted = [int(position.partition("-")[2]) for position in self.positions]
        assert counted == list(range(counted[0], counted[0] + len(counted))) if counted else True, f"positions do not count: {counted[:50]}"
        twice = [id for id, count in Counter(self.ids).items() if count > 1]
        assert not twice, f"twice in the stream: {twice[:10]} ({len(twice)})"
        assert self.numbers == sorted(set(self.numbers)), "numbers twice, or out of order"


def stream_of(namespace: str, channel: str) -> str:
    """Return the key of a channel's history."""
    return f"{{{namespace}:{channel}}}:s"


def audited(client: Client, namespace: str, channel: str) -> Audit:
    """Read a channel's stream, whole."""
    return Audit(client.xrange(stream_of(namespace, channel)))


def connections_of(client: Client, namespace: str, *, publishing: bool | None = None) -> list[str]:
    """Return the ids of a Realtime's connections: all, those that publish, or those for subscriptions."""
    found = [each for each in client.client_list() if each["name"] == namespace]
    return [each["id"] for each in found if publishing is None or publishing == (int(each["sub"]) + int(each.get("ssub", 0)) == 0)]


async def works(rt: Realtime, title: str = "a") -> None:
    """Assert that what is published comes, and is stored if anything is."""
    ref = room(title)
    async with watching(rt, ref) as watcher:
        receipts = [await rt.publish(ref, number) for number in (1, 2)]
        receipts += await rt.publish_many([ref(number) for number in range(3, 101)])
        await watcher.reach(100)
        assert watcher.told == list(range(1, 101))
        assert watcher.ids == [receipt.id for receipt in receipts]
    if rt.capabilities.history:
        assert [message.data for message in await rt.history(ref, start=Start.last(5))] == [96, 97, 98, 99, 100]


async def refused(url: str, kind: type[FanwireError], *words: str, seconds: float = 2.0, history: int = 1000, probe: float = 0.5) -> None:
    """Assert that no connection is made, that this is known in time, and that the error has these words."""
    with anyio.fail_after(seconds + 1.5), pytest.raises(kind) as raised:
        async with opened(url, connect_timeout=seconds, history=history, probe=probe):
            pass
    for word in words:
        assert word in str(raised.value), f"{word!r} is not in: {raised.value}"
