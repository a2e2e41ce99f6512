"""Rule 2, ready means ready: entering a subscription returns once the broker has confirmed all its channels, all live at one instant; a publish made right after is seen."""

from __future__ import annotations

from collections.abc import Callable, Collection

import anyio
import pytest

from fanwire import Cursor, GapReason, Realtime, Start
from fanwire.errors import ConnectFailed, PermissionDenied, Timeout
from fanwire.hub.hub import Hub
from fanwire.transport import HistoryPage
from fanwire_memory import MemoryOptions, MemoryTransport
from tests.rules.support import (
    LOG,
    NO_LINKS,
    QUIET,
    Confirmations,
    Room,
    Toy,
    ToyWithHistory,
    engine_of,
    frame_of,
    left_behind,
    settle,
    take,
    told,
    until,
    upto,
)

pytestmark = pytest.mark.anyio

TRANSPORTS: dict[str, Callable[[], MemoryTransport | Toy]] = {
    "memory": MemoryTransport,
    "memory without history": lambda: MemoryTransport("", MemoryOptions(history=0)),
    "counters": Toy,
    "positions": lambda: Toy(LOG),
    "positions without links": lambda: Toy(NO_LINKS, positions=True),
}


async def _enter(rt: Realtime, *rooms: Room, entered: list[int], leave: anyio.Event) -> None:
    async with rt.subscribe(*(room.a for room in rooms)):
        entered.append(1)
        await leave.wait()


# ---------------------------------------------------------------------- a publish made right after is seen


@pytest.mark.parametrize("make", TRANSPORTS.values(), ids=TRANSPORTS.keys())
async def test_what_is_published_right_after_entering_is_seen(make: Callable[[], MemoryTransport | Toy]) -> None:
    """Two hundred times, a new channel each time, while the others linger or go."""
    async with Realtime(make(), linger=0.001) as rt:
        for number in range(200):
            room = Room(number=number)
            async with rt.subscribe(room.a, room.b) as messages:
                await rt.publish(room.b, number)
                assert told(await take(messages, 1)) == [number]


async def test_two_hundred_publishes_right_after_entering_are_seen_by_one_and_the_same_subscription() -> None:
    room = Room(number=1)
    async with Realtime(MemoryTransport()) as rt:
        for _ in range(5):
            async with rt.subscribe(room.a) as messages:
                for number in range(200):
                    await rt.publish(room.a, number)
                assert told(await take(messages, 200)) == list(range(200))


async def test_a_lingering_channel_is_ready_at_once_and_shows_nothing_from_before() -> None:
    room = Room(number=1)
    toy = Toy(LOG)
    async with Realtime(toy, linger=60.0) as rt:
        async with rt.subscribe(room.a) as messages:
            await rt.publish(room.a, 1)
            assert told(await take(messages, 1)) == [1]
        await rt.publish(room.a, 2)
        async with rt.subscribe(room.a).with_gaps() as again:
            await rt.publish(room.a, 3)
            assert await upto(again, 3) == [3]
        assert toy.subscribes == [(room.name,)]


async def test_a_channel_that_is_being_left_is_subscribed_again() -> None:
    """Who comes while the broker is told to stop waits for a confirmation of its own."""
    room = Room(number=1)
    toy = Toy(LOG)
    stop = anyio.Event()

    async def slowly(_: object) -> None:
        await stop.wait()

    toy.before_unsubscribe = slowly
    entered: list[int] = []
    async with Realtime(toy, linger=0.0) as rt, anyio.create_task_group() as tasks:
        async with rt.subscribe(room.a):
            pass
        await until(lambda: bool(toy.unsubscribes), "the broker is told")

        async def again() -> None:
            async with rt.subscribe(room.a) as messages:
                entered.append(1)
                await rt.publish(room.a, 7)
                assert told(await take(messages, 1)) == [7]

        tasks.start_soon(again)
        await settle()
        assert entered == []
        stop.set()
    assert toy.subscribes == [(room.name,), (room.name,)]


# ---------------------------------------------------------------------- the broker's confirmation


async def test_entering_waits_for_the_broker_to_confirm() -> None:
    room = Room(number=1)
    toy = Toy()
    confirm, leave = anyio.Event(), anyio.Event()

    async def wait(_: object) -> None:
        await confirm.wait()

    toy.before_subscribe = wait
    entered: list[int] = []
    async with Realtime(toy) as rt, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: _enter(rt, room, entered=entered, leave=leave))
        await until(lambda: bool(toy.subscribes), "the broker was asked")
        await settle()
        assert entered == []
        confirm.set()
        await until(lambda: bool(entered), "it is entered")
        leave.set()


async def test_all_channels_are_live_at_one_instant() -> None:
    """A channel that was live when another one still waited, and is lost before that is confirmed, is waited for again."""
    first, second = Room(number=1), Room(number=2)
    toy = Toy()
    gates = {first.name: anyio.Event(), second.name: anyio.Event()}
    gates[first.name].set()

    async def wait(channels: Collection[str]) -> None:
        for channel in channels:
            await gates[channel].wait()

    toy.before_subscribe = wait
    entered: list[int] = []
    leave = anyio.Event()
    async with Realtime(toy) as rt, rt.subscribe(first.b), anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: _enter(rt, first, second, entered=entered, leave=leave))
        await until(lambda: len(toy.subscribes) == 2, "the second channel was asked for")
        assert toy.subscribes[1] == (second.name,)
        gates[first.name] = anyio.Event()
        toy.lose([first.name], GapReason.DISCONNECTED, None)
        gates[second.name].set()
        await until(lambda: len(toy.subscribes) == 3, "the first channel was asked for again")
        await settle()
        assert entered == []
        gates[first.name].set()
        await until(lambda: bool(entered), "both are live")
        leave.set()


class _FramesAround(Toy):
    """The broker's answer travels beside the stream: frames older than its position come before it and after it, newer ones too."""

    def confirm(self, channel: str, generation: int) -> Cursor | None:
        room = Room.parse(channel)
        self.generations[channel] = generation
        for number in (1, 2):
            self.append(channel, frame_of(room.a, number, f"p.{number}"), f"{number:08x}")
        position = super().confirm(channel, generation)
        for number in (3, 4):
            self.append(channel, frame_of(room.a, number, f"p.{number}"), f"{number:08x}")
        for entry in self.streams[channel][:2]:
            self.deliver(channel, *entry)
        return position


@pytest.mark.parametrize("in_band", [True, False])
async def test_frames_around_the_confirmation_are_neither_lost_nor_shown_twice(in_band: bool) -> None:
    room = Room(number=1)
    toy = _FramesAround(LOG)
    toy.in_band = in_band
    async with Realtime(toy) as rt, rt.subscribe(room.a).with_gaps() as messages:
        await rt.publish(room.a, 5)
        # 3 and 4 were published when it was ready to the letter, though nobody could know: seen once and in order, or not at all.
        assert await upto(messages, 5) in ([3, 4, 5], [5])
        assert rt.stats().gaps == 0
        assert rt.stats().duplicates > 0


async def _in_flight_across_a_reconnect() -> None:
    """The driver, against the contract, completes a subscribe of the first connection when the second one stands."""
    room = Room(number=1)
    toy = Toy()
    gates = [anyio.Event(), anyio.Event()]
    entered: list[int] = []

    async def answer(channels: Collection[str], generation: int) -> Confirmations:
        await gates[len(toy.subscribes) - 1].wait()
        return dict.fromkeys(channels)

    toy.on_subscribe = answer
    async with Realtime(toy) as rt, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: _enter(rt, room, entered=entered, leave=anyio.Event()))
        await until(lambda: len(toy.subscribes) == 1, "the broker was asked")
        toy.disconnect()
        await until(lambda: rt.stats().connections == 2, "it is connected again")
        gates[0].set()
        await settle()
        try:
            assert entered == [], "the answer of the first connection was taken for one of the second"
            await until(lambda: len(toy.subscribes) == 2, "it was asked again")
            gates[1].set()
            await until(lambda: bool(entered), "it is entered")
        finally:
            tasks.cancel_scope.cancel()


async def test_a_subscribe_in_flight_across_a_reconnect_does_not_confirm() -> None:
    await _in_flight_across_a_reconnect()


async def test_the_check_notices_when_subscribes_in_flight_do_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hub, "lost", lambda *_: None)
    with pytest.raises(ExceptionGroup) as caught:
        await _in_flight_across_a_reconnect()
    assert caught.group_contains(AssertionError, match="the answer of the first connection")


# ---------------------------------------------------------------------- bounds


async def test_connect_timeout_bounds_the_wait() -> None:
    transport = MemoryTransport()
    async with Realtime(transport, connect_timeout=0.3) as rt:
        transport.faults.block()
        with pytest.raises(Timeout) as caught, anyio.fail_after(5):
            async with rt.subscribe(Room(number=1).a, Room(number=2).a):
                pytest.fail("nobody has confirmed")
        assert "0.3 s" in str(caught.value)
        assert "'room:1', 'room:2'" in str(caught.value)
        transport.faults.resume()
        await until(lambda: left_behind(rt) == QUIET, "the wait has left nothing")
        async with rt.subscribe(Room(number=1).a) as messages:
            await rt.publish(Room(number=1).a, 1)
            assert told(await take(messages, 1)) == [1]


async def test_connect_timeout_says_that_there_is_no_connection() -> None:
    toy = Toy()
    async with Realtime(toy, connect_timeout=0.3) as rt:
        toy.refusals += [ConnectFailed("toy: nobody listens")] * 1000
        toy.disconnect()
        await until(lambda: toy.attempts > 1, "it tries to connect")
        with pytest.raises(Timeout, match="there is no connection to the broker"):
            async with rt.subscribe(Room(number=1).a):
                pytest.fail("there is no broker")


async def test_connect_timeout_bounds_the_wait_for_the_first_page_of_history_too() -> None:
    room = Room(number=1)
    toy = ToyWithHistory()

    async def never(page: HistoryPage) -> HistoryPage:
        await anyio.sleep_forever()
        return page

    toy.on_history = never
    async with Realtime(toy, connect_timeout=0.05, linger=0.0) as rt:
        with pytest.raises(Timeout), anyio.fail_after(2):
            async with rt.subscribe(room.a, start=Start.EARLIEST):
                pytest.fail("history was not read")
        await until(lambda: left_behind(rt) == QUIET, "the wait has left nothing")


# ---------------------------------------------------------------------- refused channels


async def test_a_refused_channel_refuses_the_subscription_and_nobody_else() -> None:
    allowed, forbidden = Room(number=1), Room(number=2)
    transport = MemoryTransport()
    transport.faults.deny(forbidden.name, PermissionDenied("not yours"))
    async with Realtime(transport, linger=0.0) as rt:
        async with rt.subscribe(allowed.a) as messages:
            with pytest.raises(PermissionDenied, match="not yours"):
                async with rt.subscribe(allowed.a, forbidden.a):
                    pytest.fail("it is forbidden")
            await rt.publish(allowed.a, 1)
            assert told(await take(messages, 1)) == [1]
        transport.faults.deny(forbidden.name, None)
        async with rt.subscribe(allowed.a, forbidden.a) as both:
            await rt.publish(forbidden.a, 2)
            assert told(await take(both, 1)) == [2]
        await until(lambda: left_behind(rt) == QUIET, "all have gone")


async def test_subscriptions_wait_in_one_command() -> None:
    """Many who come together cost one round trip."""
    toy = Toy()
    async with Realtime(toy) as rt:
        assert engine_of(rt).hub.channels == {}
        async with rt.subscribe(*(Room(number=n).a for n in range(300))) as messages:
            assert len(toy.subscribes) == 1
            await rt.publish(Room(number=299).a, 1)
            assert told(await take(messages, 1)) == [1]
