"""What a subscription says about itself, when its views may be chosen, how it is left, and how two ways of reading it go together."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from fanwire import Gap, GapReason, Message, Realtime, Start, Subscription, TopicRef
from fanwire.errors import Closed, MessagesLost, Unavailable
from fanwire.events import SubscriptionStats
from fanwire.transport import HistoryPage, HistoryStart
from tests.hub.support import FakeHistory, FakeTransport, HastyClock, entries, frame, patience, until

pytestmark = pytest.mark.anyio

C: TopicRef[Any] = TopicRef("c", "t")  # Any: payloads do not matter here


def refs(count: int) -> list[TopicRef[Any]]:  # Any: as above
    return [TopicRef(f"c{n}", topic) for n in range(count) for topic in ("a", "b")]


async def test_it_says_what_it_is_of_and_where_it_stands() -> None:
    async with Realtime(FakeTransport()) as rt:
        one = rt.subscribe(C)
        assert repr(one) == "<Subscription c[t] not entered>"
        async with one:
            assert repr(one) == "<Subscription c[t] open>"
        assert repr(one) == "<Subscription c[t] closed>"
        assert repr(rt.subscribe("c")) == "<Subscription c[*] not entered>"
        assert repr(rt.subscribe(*refs(3))) == "<Subscription c0[a, b], c1[a, b], c2[a, b] not entered>"
        assert repr(rt.subscribe(*refs(4))) == "<Subscription c0[a, b], c1[a, b], c2[a, b], ... not entered>"


async def test_a_view_is_chosen_before_entering() -> None:
    async with Realtime(FakeTransport()) as rt, rt.subscribe(C) as messages:
        for choose in (messages.with_gaps, messages.raw):
            with pytest.raises(RuntimeError, match="before the subscription is entered: async with"):
                choose()


async def test_views_may_be_combined_and_leave_the_first_alone() -> None:
    transport = FakeTransport()
    async with Realtime(transport) as rt:
        plain = rt.subscribe(C)
        async with plain.raw().with_gaps() as view, plain as messages:
            transport.deliver("c", frame("c", "p.1", 7))
            transport.deliver("c", frame("c", "p.3", 8))
            with anyio.fail_after(5):
                raw, gap, _ = [await anext(view) for _ in range(3)]
                assert (await anext(messages)).data == 7
            assert not isinstance(raw, Gap)
            assert raw.json == b"7"
            assert gap == Gap("c", GapReason.HOLE, 1)


async def test_figures_are_nothing_before_it_is_entered() -> None:
    async with Realtime(FakeTransport()) as rt:
        messages = rt.subscribe(C)
        assert messages.stats() == SubscriptionStats(received=0, lost=0, gaps=0, lag=0, invalid=0)


async def test_it_is_left_once_however_often() -> None:
    async with Realtime(FakeTransport()) as rt:
        messages = rt.subscribe(C)
        await messages.__aenter__()
        assert rt.stats().subscriptions == 1
        for _ in range(3):
            await messages.__aexit__(None, None, None)
            assert rt.stats().subscriptions == 0
        await rt.subscribe(C).__aexit__(None, None, None)  # one that was never entered
        assert rt.stats().subscriptions == 0
        with pytest.raises(Closed, match="this subscription is closed"):
            aiter(messages)
        with pytest.raises(RuntimeError, match="was entered before"):
            await messages.__aenter__()


async def test_an_iteration_goes_on_with_what_another_reader_has_left_of_the_chunk() -> None:
    """The waiting iterator was woken, but before its turn comes somebody else takes from the subscription."""
    transport = FakeTransport()
    found: list[int] = []
    async with Realtime(transport) as rt, rt.subscribe(C) as messages, anyio.create_task_group() as tasks:

        async def iterate() -> None:
            found.extend([message.data async for message in messages])

        tasks.start_soon(iterate)
        await until(lambda: messages._waiter is not None)
        for n in (1, 2, 3):
            transport.deliver("c", frame("c", f"p.{n}", n))
        assert (await anext(messages)).data == 1
        await until(lambda: len(found) == 0 and messages._waiter is not None)
        transport.deliver("c", frame("c", "p.4", 4))
        await patience()
        await rt.aclose()
    assert found == [2, 3, 4]


async def test_a_second_task_that_iterates_is_told_so() -> None:
    async with Realtime(FakeTransport()) as rt, rt.subscribe(C) as messages, anyio.create_task_group() as tasks:
        tasks.start_soon(anext, messages)
        await until(lambda: messages._waiter is not None)
        with pytest.raises(RuntimeError, match="another task is iterating this subscription"):
            await anext(messages)
        tasks.cancel_scope.cancel()


async def test_batches_end_before_a_hole_of_history_that_is_to_be_raised() -> None:
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, 3), *entries("c", 6, 7))
    async with Realtime(transport) as rt, rt.subscribe(C, start=Start.EARLIEST, on_gap="raise") as messages:
        batches = messages.batches()
        with anyio.fail_after(5):
            assert [message.data for message in await anext(batches)] == [1, 2, 3]
            with pytest.raises(MessagesLost) as lost:
                await anext(batches)
            assert lost.value.gap == Gap("c", GapReason.HOLE, 2)
            assert [message.data for message in await anext(batches)] == [6, 7]


async def test_batches_show_a_hole_of_history_where_it_is() -> None:
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, 3), *entries("c", 6, 7))
    async with Realtime(transport) as rt, rt.subscribe(C, start=Start.EARLIEST).with_gaps() as items:
        found: list[object] = []
        with anyio.fail_after(5):
            while len(found) < 6:
                found += [item if isinstance(item, Gap) else item.data for item in await anext(items.batches())]
        assert found == [1, 2, 3, Gap("c", GapReason.HOLE, 2), 6, 7]


class FailsAtTheEnd(FakeHistory):
    """Its second page fails at once, after everything has ended."""

    rt: Realtime

    async def history(self, channel: str, /, *, start: HistoryStart, limit: int) -> HistoryPage:
        if self.reads:
            engine = self.rt._engine
            assert engine is not None
            engine.hub.end(None)
            raise Unavailable("fake: too late")
        return await super().history(channel, start=start, limit=limit)


async def test_history_that_fails_when_all_has_ended_ends_the_iteration() -> None:
    transport = FailsAtTheEnd()
    transport.store("c", *entries("c", 1, 300))
    async with Realtime(transport, clock=HastyClock()) as rt:
        transport.rt = rt
        async with rt.subscribe(C, start=Start.EARLIEST) as messages:
            with anyio.fail_after(5):
                assert len([message async for message in messages]) == 256


async def test_lag_counts_what_waits_wherever_it_is() -> None:
    transport = FakeHistory()
    transport.store("c", *entries("c", 1, 3), *entries("c", 5, 6))
    async with Realtime(transport) as rt, rt.subscribe(C, start=Start.EARLIEST).with_gaps() as messages:
        assert messages.stats() == SubscriptionStats(received=0, lost=0, gaps=0, lag=5, invalid=0), "messages, not gaps"
        assert isinstance(await anext(messages), Message)
        assert messages.stats() == SubscriptionStats(received=1, lost=0, gaps=0, lag=4, invalid=0)
        for _ in range(3):
            await anext(messages)
        assert messages.stats() == SubscriptionStats(received=3, lost=1, gaps=1, lag=2, invalid=0)
        for _ in range(2):
            await anext(messages)
        assert messages.stats() == SubscriptionStats(received=5, lost=1, gaps=1, lag=0, invalid=0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anext, messages)
            await until(lambda: messages._waiter is not None)
            tasks.cancel_scope.cancel()
        transport.store("c", *entries("c", 7, 9), live=True)
        assert messages.stats() == SubscriptionStats(received=5, lost=1, gaps=1, lag=3, invalid=0)


def kind_of(subscription: Subscription[Message[int]]) -> type:
    """The views keep the class."""
    return type(subscription.with_gaps().raw())


async def test_a_view_is_a_subscription() -> None:
    async with Realtime(FakeTransport()) as rt:
        assert kind_of(rt.subscribe(TopicRef("c", "t"))) is Subscription
