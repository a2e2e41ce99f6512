"""The task a Realtime lives in: entered in one task and left in another, stopped at any moment, and never left behind."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from fanwire import Realtime, TopicRef
from fanwire.errors import Closed
from fanwire.hub.host import Host
from fanwire_memory import MemoryTransport
from tests.hub.support import patience, until

pytestmark = pytest.mark.anyio

REF = TopicRef("c", "t")


async def test_it_runs_until_it_is_stopped() -> None:
    host = Host()
    seen: list[str] = []

    async def main() -> None:
        seen.append("begun")
        try:
            await anyio.sleep_forever()
        finally:
            seen.append("ended")

    host.start(main, "test")
    await until(lambda: seen)
    assert seen == ["begun"]
    await host.stop()
    assert seen == ["begun", "ended"]
    assert host.failure is None


async def test_it_may_be_stopped_before_it_began_and_more_than_once() -> None:
    host = Host()
    seen: list[str] = []

    async def main() -> None:
        seen.append("begun")
        await anyio.sleep_forever()

    host.start(main, "test")
    await host.stop()
    await host.stop()
    assert not seen


async def test_stopping_waits_for_what_has_to_be_finished() -> None:
    host = Host()
    seen: list[str] = []

    async def main() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(10):
                    await checkpoint()
            seen.append("released")

    host.start(main, "test")
    await patience(3)
    await host.stop()
    assert seen == ["released"]


async def test_what_it_raises_is_kept_and_brings_nothing_down() -> None:
    host = Host()

    async def main() -> None:
        await checkpoint()
        raise ValueError("oops")

    host.start(main, "test")
    await until(lambda: host.failure)
    assert isinstance(host.failure, ValueError)
    await host.stop()


async def test_one_that_ends_by_itself_has_ended() -> None:
    host = Host()

    async def main() -> None:
        await checkpoint()

    host.start(main, "test")
    await patience()
    await host.stop()
    assert host.failure is None


async def test_it_is_independent_of_the_task_that_started_it() -> None:
    """A cancelled opener or a fixture that has ended takes nothing with it; task groups of others are not entered or left in the wrong task."""
    host = Host()
    beats: list[int] = []

    async def main() -> None:
        while True:
            beats.append(1)
            await checkpoint()

    async def opener(scope: anyio.CancelScope) -> None:
        with scope:
            host.start(main, "test")
            scope.cancel()
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(opener, anyio.CancelScope())
    await until(lambda: len(beats) > 3)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.stop)
    before = len(beats)
    await patience(5)
    assert len(beats) == before


async def test_a_realtime_is_entered_in_one_task_and_left_in_another() -> None:
    rt = Realtime(MemoryTransport())

    async def enter() -> None:
        await rt.__aenter__()

    async def leave() -> None:
        await rt.__aexit__(None, None, None)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enter)
    async with rt.subscribe(REF) as messages:
        await rt.publish(REF, 1)
        assert (await anext(messages)).data == 1
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave)
    with pytest.raises(Closed):
        await rt.publish(REF, 2)


async def test_a_close_that_is_cancelled_still_releases_everything() -> None:
    """Whoever gives up waiting for the last messages must not leave the Realtime running, for nobody can close it again."""
    transport = MemoryTransport()
    rt = Realtime(transport)
    await rt.__aenter__()
    engine = rt._engine
    assert engine is not None
    errors: list[BaseException] = []

    async def publish() -> None:
        try:
            await rt.publish(REF, 1)
        except Closed as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        transport.faults.block()
        tasks.start_soon(publish)
        await until(lambda: rt.stats().publishing)
        with anyio.CancelScope() as scope:
            tasks.start_soon(cancel_when_closing, rt, scope)
            await rt.aclose(3600)
        assert scope.cancelled_caught
        with anyio.fail_after(5):
            await engine._host._ended.wait()
            await rt.aclose()
    assert len(errors) == 1, "the publisher was told"
    transport.faults.resume()


async def cancel_when_closing(rt: Realtime, scope: anyio.CancelScope) -> None:
    await until(lambda: rt._closing is not None)
    await patience(5)
    scope.cancel()
