"""The memory broker: which history it keeps and for how long, who shares it, and what a key suppresses."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count
from typing import Any

import anyio
import pytest

from fanwire import Channel, Cursor, Message, Realtime, Start, topic
from fanwire.errors import ConfigError, CursorExpired, Unsupported
from fanwire.transport import Earliest, HistoryPage
from fanwire_memory import MemoryBroker, MemoryOptions, MemoryTransport
from fanwire_memory.stream import Stream
from tests.clock import ManualClock
from tests.rules.support import sever, until

pytestmark = pytest.mark.anyio


class Room(Channel, name="room:{number}"):
    number: int
    a = topic(int)
    text = topic(str)


room, other, third = Room(number=1), Room(number=2), Room(number=3)

_names = count()


def unique() -> str:
    """Return a name that no other broker of this process has."""
    return f"broker-{next(_names)}"


def data(messages: Sequence[Message[Any]]) -> list[Any]:  # Any: whatever the topics carry
    return [message.data for message in messages]


async def page(transport: MemoryTransport, channel: str) -> HistoryPage:
    return await transport.history(channel, start=Earliest(), limit=10_000)


# ---------------------------------------------------------------------- how much is kept


async def test_history_keeps_the_newest_messages_of_each_channel() -> None:
    async with Realtime(MemoryTransport("", MemoryOptions(history=3))) as rt:
        for number in range(5):
            await rt.publish(room.a, number)
        await rt.publish(other.a, 100)
        assert data(await rt.history(room)) == [2, 3, 4]
        assert data(await rt.history(other)) == [100]
        assert data(await rt.history(room, start=Start.last(2))) == [3, 4]


async def test_publish_many_is_kept_as_single_publishes_are() -> None:
    async with Realtime(MemoryTransport("", MemoryOptions(history=3))) as rt:
        await rt.publish_many([room.a(number) for number in range(5)])
        assert data(await rt.history(room)) == [2, 3, 4]


async def test_without_history_nothing_is_kept_and_everything_is_delivered() -> None:
    transport = MemoryTransport("", MemoryOptions(history=0))
    async with Realtime(transport) as rt, rt.subscribe(room.a).with_gaps() as messages:
        for number in range(5):
            await rt.publish(room.a, number)
        with anyio.fail_after(10):
            assert [item.data for item in [await anext(messages) for _ in range(5)] if isinstance(item, Message)] == list(range(5))
        with pytest.raises(Unsupported, match=r"Start.EARLIEST needs history of the form 'earliest'; .*: none"):
            await rt.history(room)
        with pytest.raises(Unsupported):
            rt.subscribe(room.a, start=Start.last(1))
        kept = await page(transport, room.name)
        assert not kept.entries
        assert kept.head is not None
        assert kept.head.offset == 5
        assert transport.native(MemoryBroker)._bytes == 0


async def test_messages_older_than_ttl_are_gone() -> None:
    clock = ManualClock()
    async with Realtime(MemoryTransport("", MemoryOptions(ttl=10.0), clock=clock)) as rt:
        await rt.publish(room.a, 1)
        clock.advance(6.0)
        receipt = await rt.publish(room.a, 2)
        clock.advance(4.0)
        assert data(await rt.history(room)) == [1, 2]
        clock.advance(0.5)
        assert data(await rt.history(room)) == [2]
        clock.advance(6.0)
        assert data(await rt.history(room)) == []
        # The position survives: nothing was missed behind it.
        async with rt.subscribe(room.a, start=Start.after(_cursor(receipt.cursor))) as messages:
            await rt.publish(room.a, 3)
            with anyio.fail_after(10):
                assert (await anext(messages)).data == 3


async def test_a_channel_that_has_rested_for_ttl_is_forgotten_when_another_is_added() -> None:
    clock = ManualClock()
    transport = MemoryTransport("", MemoryOptions(ttl=10.0), clock=clock)
    broker = transport.native(MemoryBroker)
    async with Realtime(transport, linger=0.0) as rt, rt.subscribe(other.a):
        first = _cursor((await rt.publish(room.a, 1)).cursor)
        await rt.publish(other.a, 1)
        clock.advance(11.0)
        for number in range(10, 15):
            await rt.publish(Room(number=number).a, 1)
        # A channel that is subscribed keeps its position, however long it has rested.
        assert sorted(broker._streams) == sorted([other.name, *(f"room:{number}" for number in range(10, 15))])
        again = _cursor((await rt.publish(room.a, 2)).cursor)
        assert again.epoch != first.epoch
        with pytest.raises(CursorExpired):
            await rt.history(room, start=Start.after(first))


async def test_a_thousand_channels_that_nobody_uses_any_more_are_forgotten() -> None:
    clock = ManualClock()
    transport = MemoryTransport("", MemoryOptions(ttl=10.0), clock=clock)
    broker = transport.native(MemoryBroker)
    async with Realtime(transport) as rt:
        for number in range(1000):
            await rt.publish(Room(number=number).a, number)
        clock.advance(11.0)
        for number in range(1000, 1600):
            await rt.publish(Room(number=number).a, number)
        assert len(broker._streams) == 600
        kept = sum(len(stored[0]) for stream in broker._streams.values() for stored in stream.entries)
        assert broker._bytes == kept > 0


def _cursor(cursor: Cursor | None) -> Cursor:
    assert cursor is not None
    return cursor


# ---------------------------------------------------------------------- bytes


async def _bytes_of(rt: Realtime, transport: MemoryTransport) -> int:
    await rt.publish(room.text, "x" * 1000)
    (entry,) = (await page(transport, room.name)).entries
    return len(entry.frame)


async def test_max_bytes_takes_the_oldest_messages_of_the_channel_published_to_longest_ago() -> None:
    probe = MemoryTransport()
    async with Realtime(probe) as rt:
        size = await _bytes_of(rt, probe)
    transport = MemoryTransport("", MemoryOptions(max_bytes=6 * size + size // 2))
    broker = transport.native(MemoryBroker)

    async with Realtime(transport) as rt:

        async def put(target: Room, *letters: str) -> None:
            for letter in letters:
                await rt.publish(target.text, letter * 1000)

        async def kept(target: Room) -> str:
            return "".join(text[0] for text in data(await rt.history(target)))

        await put(room, "a", "b", "c")
        await put(other, "d", "e")
        await put(third, "f")
        assert [await kept(target) for target in (room, other, third)] == ["abc", "de", "f"]
        await put(third, "g")
        assert [await kept(target) for target in (room, other, third)] == ["bc", "de", "fg"]
        await put(room, "h")
        # The first is now the channel published to last: the second gives.
        assert [await kept(target) for target in (room, other, third)] == ["bch", "e", "fg"]
        await put(room, *"ijkl")
        assert [await kept(target) for target in (room, other, third)] == ["bchijkl"[-6:], "", ""]
        assert broker._bytes <= broker.limits.max_bytes
        assert broker._bytes == sum(len(stored[0]) for stream in broker._streams.values() for stored in stream.entries)


async def test_a_message_larger_than_max_bytes_is_delivered_and_not_kept() -> None:
    async with Realtime(MemoryTransport("", MemoryOptions(max_bytes=500))) as rt, rt.subscribe(room.text).with_gaps() as messages:
        await rt.publish(room.text, "small")
        await rt.publish(room.text, "x" * 1000)
        with anyio.fail_after(10):
            assert [item.data[:5] for item in [await anext(messages), await anext(messages)] if isinstance(item, Message)] == ["small", "xxxxx"]
        assert data(await rt.history(room)) == []
        await rt.publish(room.text, "small again")
        assert data(await rt.history(room)) == ["small again"]


async def test_a_cursor_behind_evicted_messages_has_expired() -> None:
    async with Realtime(MemoryTransport("", MemoryOptions(history=3))) as rt:
        cursors = [_cursor((await rt.publish(room.a, number)).cursor) for number in range(6)]
        assert data(await rt.history(room, start=Start.after(cursors[3]))) == [4, 5]
        with pytest.raises(CursorExpired):
            await rt.history(room, start=Start.after(cursors[1]))


# ---------------------------------------------------------------------- positions and history forms


async def test_positions_count_from_one_in_an_epoch_of_the_channels_own() -> None:
    async with Realtime(MemoryTransport()) as rt:
        cursors = [_cursor((await rt.publish(room.a, number)).cursor) for number in range(3)]
        elsewhere = _cursor((await rt.publish(other.a, 0)).cursor)
        assert [cursor.offset for cursor in cursors] == [1, 2, 3]
        assert len({cursor.epoch for cursor in cursors}) == 1
        assert elsewhere.offset == 1
        assert elsewhere.epoch != cursors[0].epoch
        assert [message.cursor for message in await rt.history(room)] == cursors


async def test_every_form_of_history_reads_what_it_says() -> None:
    clock = ManualClock(1_700_000_000.0)
    async with Realtime(MemoryTransport(clock=clock)) as rt:
        cursors: list[Cursor] = []
        for number in range(5):
            cursors.append(_cursor((await rt.publish(room.a, number)).cursor))
            clock.advance(1.0)
        for start, expected in (
            (Start.EARLIEST, [0, 1, 2, 3, 4]),
            (Start.last(2), [3, 4]),
            (Start.last(50), [0, 1, 2, 3, 4]),
            (Start.after(cursors[2]), [3, 4]),
            (Start.after(cursors[4]), []),
            (Start.since(datetime.fromtimestamp(1_700_000_003.0, UTC)), [3, 4]),
            (Start.since(datetime.fromtimestamp(1_700_000_002.5, UTC)), [3, 4]),
            (Start.since(datetime.fromtimestamp(0, UTC)), [0, 1, 2, 3, 4]),
            (Start.since(datetime.fromtimestamp(1_800_000_000.0, UTC)), []),
        ):
            assert data(await rt.history(room, start=start)) == expected, start


async def test_reading_a_channel_that_nobody_has_published_to_finds_nothing() -> None:
    async with Realtime(MemoryTransport()) as rt:
        assert data(await rt.history(room)) == []


# ---------------------------------------------------------------------- keys


async def test_a_repeat_under_a_key_is_the_message_that_was_there() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(room.a).with_gaps() as messages:
        first = await rt.publish(room.a, 1, key="k")
        repeat = await rt.publish(room.a, -1, key="k")
        assert (first.duplicate, repeat.duplicate) == (False, True)
        assert repeat.cursor == first.cursor
        elsewhere = await rt.publish(other.a, 2, key="k")
        assert not elsewhere.duplicate
        await rt.publish(room.a, 3, key="l")
        with anyio.fail_after(10):
            items = [await anext(messages), await anext(messages)]
        assert [(item.data, item.key) for item in items if isinstance(item, Message)] == [(1, "k"), (3, "l")]
        assert data(await rt.history(room)) == [1, 3]
        assert messages.stats().lag == 0


async def test_a_repeat_among_many_is_told_in_its_place() -> None:
    async with Realtime(MemoryTransport()) as rt:
        receipts = await rt.publish_many([room.a(1, key="k"), room.a(2), room.a(-1, key="k"), room.a(3)])
        assert [receipt.duplicate for receipt in receipts] == [False, False, True, False]
        assert receipts[2].cursor == receipts[0].cursor
        assert data(await rt.history(room)) == [1, 2, 3]


async def test_a_key_is_shared_by_all_that_use_the_broker() -> None:
    name = unique()
    async with Realtime(MemoryTransport(name)) as rt, Realtime(MemoryTransport(name)) as second, second.subscribe(room.a) as messages:
        await rt.publish(room.a, 1, key="k")
        assert (await second.publish(room.a, -1, key="k")).duplicate
        await second.publish(room.a, 2)
        with anyio.fail_after(10):
            assert [(await anext(messages)).data, (await anext(messages)).data] == [1, 2]


async def test_keys_are_remembered_in_a_bounded_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanwire_memory.stream._KEYS", 3)
    transport = MemoryTransport()
    async with Realtime(transport) as rt:
        for key in "abcd":
            assert not (await rt.publish(room.a, 1, key=key)).duplicate
        assert [(await rt.publish(room.a, 1, key=key)).duplicate for key in "dcb"] == [True, True, True]
        assert not (await rt.publish(room.a, 1, key="a")).duplicate
        assert len(transport.native(MemoryBroker)._streams[room.name].keys) == 3


def test_a_retry_is_known_by_its_id_and_a_first_attempt_is_not() -> None:
    stream = Stream(0.0)
    position = Cursor("e", 1)
    stream.entries.append((b"frame", position, stream.head, "p.1", 0.0))
    assert stream.repeated("p.1", None, retry=True) == position
    assert stream.repeated("p.1", None, retry=False) is None
    assert stream.repeated("p.2", None, retry=True) is None


# ---------------------------------------------------------------------- a name shares a broker


async def test_a_name_is_one_broker_and_no_name_is_a_broker_of_its_own() -> None:
    name = unique()
    shared = [MemoryTransport(name).native(MemoryBroker) for _ in range(1)]
    assert MemoryTransport(name).native(MemoryBroker) is shared[0]
    assert MemoryTransport(unique()).native(MemoryBroker) is not shared[0]
    assert MemoryTransport().native(MemoryBroker) is not MemoryTransport().native(MemoryBroker)


async def test_who_opens_a_name_later_reads_its_history_and_hears_what_follows() -> None:
    name = unique()
    async with Realtime(MemoryTransport(name)) as rt:
        await rt.publish(room.a, 1)
        async with Realtime(MemoryTransport(name)) as late, late.subscribe(room.a, start=Start.EARLIEST) as messages:
            await rt.publish(room.a, 2)
            with anyio.fail_after(10):
                assert [(await anext(messages)).data, (await anext(messages)).data] == [1, 2]


async def test_namespaces_share_nothing_under_one_name() -> None:
    name = unique()
    blue, green = (MemoryTransport(name, MemoryOptions(namespace=namespace)) for namespace in ("blue", "green"))
    async with Realtime(blue) as one, Realtime(green) as two, two.subscribe(room.a).with_gaps() as messages:
        await one.publish(room.a, 1, key="k")
        assert not (await two.publish(room.a, 2, key="k")).duplicate
        with anyio.fail_after(10):
            item = await anext(messages)
        assert isinstance(item, Message)
        assert item.data == 2
        assert messages.stats().lag == 0
        assert data(await one.history(room)) == [1]
        assert data(await two.history(room)) == [2]
        green.faults.disconnect()
        await until(lambda: two.stats().connections == 2, "green is back")
        assert one.stats().connections == 1


@pytest.mark.parametrize("options", [{"history": 5}, {"ttl": 5.0}, {"max_bytes": 5}])
async def test_a_name_that_is_open_with_other_limits_is_refused(options: dict[str, float]) -> None:
    name = unique()
    keep = MemoryTransport(name)
    with pytest.raises(ConfigError, match="give all openers the same options") as caught:
        MemoryTransport(name, MemoryOptions.model_validate(options))
    assert f"memory://{name}" in str(caught.value)
    (limit,) = options.items()
    assert f"{limit[0]}={limit[1]!r}" in str(caught.value)
    async with Realtime(keep) as rt:
        await rt.publish(room.a, 1)
        assert data(await rt.history(room)) == [1]


async def test_limits_of_a_connection_need_not_agree() -> None:
    """``max_payload`` binds who publishes, not what is kept."""
    name = unique()
    keep = MemoryTransport(name)
    assert MemoryTransport(name, MemoryOptions(max_payload=50_000)).native(MemoryBroker) is keep.native(MemoryBroker)


def test_a_name_is_free_again_once_nobody_has_it_any_more() -> None:
    name = unique()
    first = MemoryTransport(name, MemoryOptions(history=5))
    assert first.native(MemoryBroker).limits.history == 5
    del first
    gc.collect()
    assert MemoryTransport(name, MemoryOptions(history=6)).native(MemoryBroker).limits.history == 6


def test_a_name_is_free_again_at_once() -> None:
    """Whether it is must not depend on when the garbage collector happens to run."""
    name = unique()
    enabled = gc.isenabled()
    gc.disable()
    try:
        first = MemoryTransport(name, MemoryOptions(history=5))
        del first
        assert MemoryTransport(name, MemoryOptions(history=6)).native(MemoryBroker).limits.history == 6
    finally:
        if enabled:
            gc.enable()


# ---------------------------------------------------------------------- who is connected


async def test_closing_leaves_nothing_in_the_broker() -> None:
    name = unique()
    keep = MemoryTransport(name)
    broker = keep.native(MemoryBroker)
    async with Realtime(MemoryTransport(name)) as rt, rt.subscribe(room.a), rt.subscribe(other):
        assert sorted(broker._subscribers) == [room.name, other.name]
        assert len(broker._links) == 1
    assert not broker._subscribers
    assert not broker._links


async def test_leaving_the_last_subscription_stops_delivery() -> None:
    transport = MemoryTransport()
    broker = transport.native(MemoryBroker)
    async with Realtime(transport, linger=0.0) as rt:
        async with rt.subscribe(room.a), rt.subscribe(room.a):
            assert len(broker._subscribers[room.name]) == 1
        await until(lambda: not broker._subscribers, "the channel is unsubscribed")
        received = rt.stats().received
        await rt.publish(room.a, 1)
        assert rt.stats().received == received


async def test_a_connection_that_broke_is_forgotten() -> None:
    transport = MemoryTransport()
    broker = transport.native(MemoryBroker)
    async with Realtime(transport) as rt, rt.subscribe(room.a):
        (link,) = broker._links
        sever(transport)
        await until(lambda: rt.stats().connections == 2 and bool(broker._subscribers), "it is connected and subscribed again")
        assert link not in broker._links
        assert [*broker._subscribers[room.name]] == broker._links
