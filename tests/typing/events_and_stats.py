"""``rt.events()`` and the counters. Checked by mypy and pyright, never run; lines marked E are refused."""

from __future__ import annotations

from typing import Any

from typing_extensions import assert_type

from fanwire import Message, Realtime, Subscription
from fanwire.errors import FanwireError
from fanwire.events import ConnectionEvent, ConnectionState, InvalidMessage, RealtimeStats, SubscriptionStats


async def follow(rt: Realtime) -> ConnectionState:
    async with rt.events() as events:
        async for event in events:
            assert_type(event, ConnectionEvent)
            assert_type(event.state, ConnectionState)
            assert_type(event.at, float)
            assert_type(event.attempt, int)
            assert_type(event.error, FanwireError | None)
            match event.state:
                case ConnectionState.CONNECTED | ConnectionState.CONNECTING:
                    continue
                case ConnectionState.DISCONNECTED | ConnectionState.FAILED | ConnectionState.CLOSED:
                    break
        last = await anext(events)
        assert_type(last, ConnectionEvent)
    state, at, attempt, error = last
    assert_type(at, float)
    assert_type(attempt, int)
    assert_type(error, FanwireError | None)
    return state


def figures(rt: Realtime, messages: Subscription[Message[int]]) -> tuple[int, int]:
    stats = rt.stats()
    assert_type(stats, RealtimeStats)
    assert_type(stats.state, ConnectionState)
    assert_type(stats.buffered_bytes, int)
    mine = messages.stats()
    assert_type(mine, SubscriptionStats)
    stats.published = 3  # E
    mine.lag += 1  # E
    print(stats.publish)  # E
    print(mine.missed)  # E
    return stats.published, mine.lost


def on_invalid(message: InvalidMessage) -> None:
    assert_type(message.topic, str | None)
    assert_type(message.frame, bytes)


async def misused(rt: Realtime) -> Any:
    async for _ in rt.events():  # E
        pass
    with rt.events():  # E
        pass
    await rt.stats()  # E
    return Realtime.from_url("memory://", on_invalid=on_invalid)
