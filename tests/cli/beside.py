"""A second loop beside a command, in a thread of the same process: what other processes would do, over a named memory broker that both share.

In a process of its own: `python -m tests.cli.beside STORY fanwire-arguments...` tells the story on `memory://story` and runs the command.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

import anyio
import anyio.to_thread

from fanwire import Realtime, TopicRef
from fanwire.errors import Unauthenticated
from fanwire.events import ConnectionState
from fanwire_memory import MemoryOptions, MemoryTransport

__all__ = ("STORIES", "URL", "Story", "beside", "command", "publish", "subscribed")

URL: Final = "memory://story"

Story = Callable[[Realtime, MemoryTransport], Awaitable[None]]


async def subscribed(transport: MemoryTransport, channels: int = 1) -> None:
    """Wait until the command has subscribed."""
    while transport._broker.subscribed() < channels:  # noqa: ASYNC110 - the fact itself: the broker tells nobody
        await anyio.sleep(0.002)


async def publish(rt: Realtime, channel: str, topic: str, data: Any, **more: Any) -> None:  # Any: JSON, and what publish takes
    """Publish by name."""
    await rt.publish(TopicRef(channel, topic), data, **more)


@contextmanager
def beside(story: Story, url: str = URL) -> Generator[None]:
    """Tell a story while the body runs. What goes wrong in it is raised at the end."""
    name = url.removeprefix("memory://").partition("?")[0]
    failures: list[BaseException] = []
    over = threading.Event()

    async def tell() -> None:
        transport = MemoryTransport(name, MemoryOptions())
        async with Realtime(transport) as rt, anyio.create_task_group() as tasks:

            async def end() -> None:
                await anyio.to_thread.run_sync(over.wait)
                tasks.cancel_scope.cancel()

            tasks.start_soon(end)
            await story(rt, transport)

    def thread() -> None:
        try:
            anyio.run(tell)
        except BaseException as error:  # noqa: BLE001 - raised where the thread is waited for
            failures.append(error)

    worker = threading.Thread(target=thread, daemon=True)
    worker.start()
    try:
        yield
    finally:
        over.set()
        worker.join(10)
    if failures:
        raise failures[0]


# ---------------------------------------------------------------- stories for commands in a process of their own


async def three(rt: Realtime, transport: MemoryTransport) -> None:
    """Three messages for somebody who listens."""
    await subscribed(transport)
    for number in range(3):
        await publish(rt, "chat:1", "status", {"message": f"number {number}"})


async def troubles(rt: Realtime, transport: MemoryTransport) -> None:
    """A message, one that is lost for good, an invalid one, a broken connection, and a last message."""
    await subscribed(transport)
    await publish(rt, "chat:1", "status", {"message": "before"})
    transport.faults.drop(1, stored=False)
    await publish(rt, "chat:1", "status", {"message": "lost"})
    await publish(rt, "chat:1", "status", {"message": "behind the gap"})
    transport._broker.inject("chat:1", b"no envelope\x1b[2J")
    async with rt.events() as events:
        assert (await anext(events)).state is ConnectionState.CONNECTED
        transport.faults.disconnect()
        async for event in events:
            if event.state is ConnectionState.CONNECTED:
                break
    await publish(rt, "chat:1", "status", {"message": "the end \x1b]0;title\x07"})


async def flood(rt: Realtime, transport: MemoryTransport) -> None:
    """More messages than a terminal can show."""
    await subscribed(transport)
    ref: TopicRef[Any] = TopicRef("chat:1", "tokens")
    for start in range(0, 20_000, 100):
        await rt.publish_many([ref({"number": number}) for number in range(start, start + 100)])
    await publish(rt, "chat:1", "status", {"message": "the last one"})


async def refused(rt: Realtime, transport: MemoryTransport) -> None:
    """The credentials are taken away."""
    await subscribed(transport)
    transport.faults.deny("chat:1", Unauthenticated("the password has changed"))
    transport.faults.disconnect()


async def echo(rt: Realtime, transport: MemoryTransport) -> None:
    """Tells what it receives."""
    async with rt.subscribe("chat:1") as messages:
        async for message in messages:
            print(f"received {message.data!r}", flush=True)  # noqa: T201 - on the terminal of the command


async def silence(rt: Realtime, transport: MemoryTransport) -> None:
    """Nothing happens."""


STORIES: Final[dict[str, Story]] = {"three": three, "troubles": troubles, "flood": flood, "refused": refused, "echo": echo, "silence": silence}


def command(story: str, *arguments: object) -> list[str]:
    """Return the arguments that start a story and a command in one process."""
    return [sys.executable, "-m", "tests.cli.beside", story, *map(str, arguments)]


def main() -> None:
    """Run the command line beside the story that the first argument names."""
    from fanwire.cli import main as run

    story = STORIES[sys.argv.pop(1)]
    os.environ.setdefault("FANWIRE_URL", URL)
    with beside(story):
        run()


if __name__ == "__main__":
    main()
