"""Publishing: order and ids through every outcome a transport can give, and what each caller is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace

import anyio
import pytest
from anyio.lowlevel import checkpoint

from fanwire import Receipt, TopicRef
from fanwire.capabilities import Capabilities
from fanwire.codec import ENVELOPE
from fanwire.errors import Closed, ConnectionLost, FanwireError, Internal, PermissionDenied, Timeout, Unauthenticated, Unavailable
from fanwire.hub.calls import Prepared
from fanwire.hub.lanes import Lanes
from fanwire.hub.waiter import waiter_factory
from fanwire.transport import Outbound
from tests.clock import ManualClock
from tests.hub.support import COUNTED, LINKED, ORDERED, STAMP, FakeTransport, accept, fail, leaves, patience, until

pytestmark = pytest.mark.anyio

A, B = TopicRef("a", "t"), TopicRef("b", "t")
DENIED = PermissionDenied("no")

_caller: ContextVar[str] = ContextVar("caller", default="nobody")


def prepared(ref: TopicRef[object], n: int, key: str | None = None) -> Prepared:
    return Prepared(ref, b"%d" % n, STAMP, key, None, None)


def many(ref: TopicRef[object], *numbers: int) -> list[Prepared]:
    return [prepared(ref, n) for n in numbers]


def numbers(batch: Sequence[Outbound]) -> list[int]:
    return [int(message.data) for message in batch]


class Publishing:
    """Lanes over a scripted transport, and calls that wait in tasks of their own."""

    def __init__(self, tasks: anyio.abc.TaskGroup, transport: FakeTransport) -> None:
        self.clock = ManualClock()
        self.transport = transport
        self.lanes = Lanes(transport, ENVELOPE, self.clock, waiter_factory())
        self.tasks = tasks

    @property
    def batches(self) -> list[list[int]]:
        """What the transport was given."""
        return [numbers(batch) for batch in self.transport.published]

    @property
    def ids(self) -> list[str]:
        """Ids of all that the transport was given."""
        return [message.id for batch in self.transport.published for message in batch]

    def call(self, *messages: Prepared, timeout: float = 60.0) -> Call:
        """Send in a task."""
        call = Call()
        self.tasks.start_soon(call.run, self.lanes, messages, timeout)
        return call

    async def together(self, *messages: Prepared) -> list[Call]:
        """Send each in a call of its own, in this order, so that all of them are there when the first is taken."""
        self.lanes.connected(False)
        calls: list[Call] = []
        for message in messages:
            waiting = self.lanes.waiting
            calls.append(self.call(message))
            await until(lambda waiting=waiting: self.lanes.waiting > waiting)  # type: ignore[misc]  # bound now
        self.lanes.connected(True)
        return calls

    async def repeated(self, times: int = 1) -> None:
        """Let the pause before a repeat pass."""
        for _ in range(times):
            await until(lambda: self.clock.sleepers)
            self.clock.advance(1)
            await until(lambda: not self.clock.sleepers)


class Call:
    """One publish_many, and how it ended."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.results: list[Receipt | FanwireError] | None = None
        self.error: BaseException | None = None
        self.over = False

    async def run(self, lanes: Lanes, messages: Sequence[Prepared], timeout: float) -> None:
        with self.scope:
            try:
                self.results = list(await lanes.send(messages, timeout))
            except FanwireError as error:
                self.error = error
        self.over = True

    async def done(self) -> list[Receipt | FanwireError]:
        await until(lambda: self.over)
        assert self.results is not None, f"it ended with {self.error!r}"
        return self.results


@asynccontextmanager
async def publishing(
    capabilities: Capabilities = LINKED, *, transport: FakeTransport | None = None, up: bool = True
) -> AsyncGenerator[Publishing, None]:
    async with anyio.create_task_group() as tasks, anyio.create_task_group() as callers:
        made = Publishing(callers, transport or FakeTransport(capabilities))
        tasks.start_soon(made.lanes.run, tasks)
        made.lanes.connected(up)
        yield made
        callers.cancel_scope.cancel()
        tasks.cancel_scope.cancel()


Outcome = Callable[[Sequence[Outbound]], Awaitable[Sequence[Receipt | FanwireError]]]


def held(gate: anyio.Event, outcome: Outcome = accept) -> Outcome:
    """Answer only once the gate is open."""

    async def wait(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        await gate.wait()
        return await outcome(batch)

    return wait


def refuse(*wrong: int, error: FanwireError = DENIED) -> Outcome:
    """Refuse messages by their number; behind the first of a channel nothing of it is sent."""

    async def outcome(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        refused: set[str] = set()
        results: list[Receipt | FanwireError] = []
        for message in batch:
            if message.channel in refused:
                results.append(ConnectionLost("not sent"))
            elif int(message.data) in wrong:
                refused.add(message.channel)
                results.append(error)
            else:
                results += await accept([message])
        return results

    return outcome


def publishers(ids: Sequence[str]) -> list[str]:
    return [id.partition(".")[0] for id in ids]


def counts(ids: Sequence[str]) -> list[int]:
    return [int(id.rpartition(".")[2]) for id in ids]


# ---------------------------------------------------------------- accepted


async def test_accepted_in_order_with_ids_that_count() -> None:
    async with publishing() as p:
        results = await p.call(*many(A, 1, 2, 3)).done()
        assert p.batches == [[1, 2, 3]]
        assert [isinstance(result, Receipt) and (result.id, result.channel, result.topic) for result in results] == [(id, "a", "t") for id in p.ids]
        assert counts(p.ids) == [1, 2, 3]
        assert len(set(publishers(p.ids))) == 1
        assert p.lanes.published == 3
        assert p.lanes.waiting == 0
        assert not p.lanes._lanes
        assert not p.lanes._ready


async def test_a_frame_is_what_the_codec_makes_of_it() -> None:
    async with publishing() as p:
        await p.call(Prepared(A, b'{"n":1}', STAMP, "k", {"h": "x"}, "r")).done()
        ((message,),) = p.transport.published
        assert message == Outbound("a", "t", message.id, "k", {"h": "x"}, "r", b'{"n":1}', message.frame, False)
        assert ENVELOPE.decode(message.frame)[:-1] == (message.id, "t", "k", "data", "a", STAMP, "r", {"h": "x"})


async def test_what_is_published_in_one_turn_goes_out_together() -> None:
    async with publishing() as p:
        calls = await p.together(*many(A, *range(50)))
        for call in calls:
            await call.done()
        assert p.batches == [list(range(50))]


async def test_one_batch_of_a_channel_is_in_flight_and_channels_do_not_wait_for_each_other() -> None:
    gate = anyio.Event()
    async with publishing() as p:
        p.transport.outcomes = [held(gate)]
        first = p.call(prepared(A, 1))
        await until(lambda: p.batches)
        second, third = await p.together(*many(A, 2, 3))
        other = p.call(prepared(B, 9))
        await other.done()
        await patience()
        assert p.batches == [[1], [9]]
        assert p.lanes.waiting == 3
        gate.set()
        for call in (first, second, third):
            await call.done()
        assert p.batches == [[1], [9], [2, 3]]


async def test_large_batches_are_cut_by_number_and_by_bytes() -> None:
    async with publishing() as p:
        await p.call(*many(A, *range(1300))).done()
        assert [n for batch in p.batches for n in batch] == list(range(1300))
        assert max(len(batch) for batch in p.batches) <= 256
    async with publishing() as p:
        big = [Prepared(A, b'"%b"' % (b"x" * 2**20), STAMP, None, None, None) for _ in range(20)]
        await p.call(*big).done()
        sizes = [sum(len(message.frame) for message in batch) for batch in p.transport.published]
        assert max(sizes) <= 5 * 2**20 + 1000
        assert sum(len(batch) for batch in p.transport.published) == 20


async def test_a_burst_over_many_channels_keeps_each_order_and_bounds_what_is_in_flight() -> None:
    refs = [TopicRef(f"c{n}", "t") for n in range(40)]
    gate = anyio.Event()
    async with publishing() as p:
        p.transport.outcomes = [held(gate) for _ in range(100)]
        call = p.call(*(prepared(refs[n % 40], n) for n in range(10_000)))
        await until(lambda: len(p.batches) >= 16)
        await patience()
        assert 4096 <= sum(map(len, p.batches)) < 4096 + 256
        gate.set()
        await call.done()
        for ref in refs:
            sent = [message for batch in p.transport.published for message in batch if message.channel == ref.channel]
            assert numbers(sent) == sorted(numbers(sent))
            assert counts([message.id for message in sent]) == list(range(1, 251))


# ---------------------------------------------------------------- refused


async def test_a_refusal_in_the_middle_stops_the_channels_rest_of_the_call_only() -> None:
    async with publishing() as p:
        p.transport.outcomes = [refuse(2)]
        results = await p.call(*many(A, 1, 2, 3), *many(B, 7, 8)).done()
        kinds = [type(result).__name__ for result in results]
        assert kinds == ["Receipt", "PermissionDenied", "Unavailable", "Receipt", "Receipt"]
        assert results[1] is DENIED
        assert "an earlier message of the same call on channel 'a' was refused" in str(results[2])
        assert p.lanes.published == 3


async def test_other_calls_behind_a_refusal_are_sent_under_new_ids() -> None:
    """Ids 2 and 3 will never be seen: what follows must not look like a loss."""
    async with publishing() as p:
        p.transport.outcomes = [refuse(2)]
        calls = await p.together(*many(A, 1, 2, 3))
        assert await calls[1].done() == [DENIED]
        (result,) = await calls[2].done()
        assert isinstance(result, Receipt)
        assert p.batches == [[1, 2, 3], [3]]
        assert counts(p.ids) == [1, 2, 3, 1]
        assert publishers(p.ids)[3] not in publishers(p.ids)[:3]
        assert result.id == p.ids[3]


async def test_behind_a_refusal_calls_keep_their_order() -> None:
    gate = anyio.Event()
    async with publishing() as p:
        p.transport.outcomes = [held(gate, refuse(1)), refuse(3)]
        calls = await p.together(*many(A, 1, 2))
        await until(lambda: p.batches)
        calls += await p.together(*many(A, 3, 4))
        await patience()
        gate.set()
        for call in calls:
            await call.done()
        assert p.batches == [[1, 2], [2, 3, 4], [4]]


async def test_the_rest_of_a_refused_call_that_is_still_queued_is_not_sent() -> None:
    async with publishing() as p:
        p.transport.outcomes = [refuse(3)]
        results = await p.call(*many(A, *range(700))).done()
        assert p.batches == [list(range(256))]
        assert [type(result).__name__ for result in results[:5]] == ["Receipt", "Receipt", "Receipt", "PermissionDenied", "Unavailable"]
        assert all(isinstance(result, Unavailable) for result in results[4:])
        assert not p.lanes._lanes


# ---------------------------------------------------------------- the connection


async def test_without_a_connection_publishes_wait() -> None:
    async with publishing(up=False) as p:
        call = p.call(prepared(A, 1))
        await patience()
        assert not p.batches
        p.lanes.connected(True)
        await call.done()
        assert p.batches == [[1]]


@pytest.mark.parametrize("capabilities", [LINKED, ORDERED], ids=["suppressed by the broker", "suppressed by the hubs"])
async def test_an_unknown_outcome_is_tried_again_under_the_same_id_where_a_repeat_is_suppressed(
    capabilities: Capabilities, anyio_backend: object
) -> None:
    async with publishing(capabilities) as p:
        p.transport.outcomes = [fail(ConnectionLost("cable")), fail(ConnectionLost("again"))]
        call, behind = p.call(*many(A, 1, 2)), None
        await until(lambda: p.batches)
        behind = p.call(prepared(A, 3))
        while not call.over:
            p.clock.advance(1)  # what comes meanwhile does not wait for the pause, so there may be one or two
            await checkpoint()
        await behind.done()
        # What is queued may come along as soon as it is there, but never in front.
        order = [n for batch in p.batches[2:] for n in batch]
        assert order == [1, 2, 3]
        assert [[message.retry for message in batch][:2] for batch in p.transport.published[:3]] == [[False, False], [True, True], [True, True]]
        sent = {n: {message.id for batch in p.transport.published for message in batch if int(message.data) == n} for n in (1, 2, 3)}
        assert all(len(ids) == 1 for ids in sent.values())
        assert counts([*sent[1], *sent[2], *sent[3]]) == [1, 2, 3]


async def test_an_unknown_outcome_is_told_where_a_repeat_would_show() -> None:
    async with publishing(COUNTED_WITHOUT_SUPPRESSION) as p:
        p.transport.outcomes = [fail(ConnectionLost("cable"))]
        results = await p.call(*many(A, 1, 2), prepared(B, 3)).done()
        assert p.batches == [[1, 2, 3]]
        assert all(isinstance(result, ConnectionLost) and "cable (the outcome of this publish is unknown)" in str(result) for result in results)
        await p.call(prepared(A, 4)).done()
        await p.call(prepared(B, 5)).done()
        assert counts(p.ids) == [1, 2, 1, 1, 1]
        assert len({publishers(p.ids)[0], *publishers(p.ids)[3:]}) == 3, "each channel goes on under a publisher of its own"


COUNTED_WITHOUT_SUPPRESSION = replace(COUNTED, idempotent_publish=False)


async def test_what_certainly_was_not_sent_is_offered_again_unchanged() -> None:
    async with publishing(COUNTED_WITHOUT_SUPPRESSION) as p:
        p.transport.outcomes = [fail(Unavailable("busy"))]
        call = p.call(prepared(A, 1))
        await p.repeated()
        await call.done()
        assert p.batches == [[1], [1]]
        first, second = (batch[0] for batch in p.transport.published)
        assert first == second
        assert not second.retry


async def test_a_refused_retry_tells_that_the_first_attempt_may_have_been_accepted() -> None:
    async with publishing() as p:
        p.transport.outcomes = [fail(ConnectionLost("cable")), refuse(1)]
        call = p.call(prepared(A, 1))
        await p.repeated()
        (result,) = await call.done()
        assert isinstance(result, ConnectionLost)
        assert "may have been accepted" in str(result)
        assert result.__cause__ is DENIED


async def test_a_duplicate_leaves_no_hole_behind() -> None:
    """The broker had the key already: the number of this message will never be seen."""

    async def known(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        return [Receipt(message.id, message.channel, message.topic, None, True) for message in batch]

    async with publishing() as p:
        await p.call(prepared(A, 1)).done()
        p.transport.outcomes = [known]
        (result,) = await p.call(prepared(A, 2, "k")).done()
        assert isinstance(result, Receipt)
        assert result.duplicate
        await p.call(prepared(A, 3)).done()
        assert counts(p.ids) == [1, 2, 1]


# ---------------------------------------------------------------- a transport with defects


@pytest.mark.parametrize("error", [KeyError("oops"), ExceptionGroup("g", [ValueError("x")])], ids=repr)
async def test_an_unexpected_exception_is_a_defect_of_the_transport(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async with publishing() as p:
        with caplog.at_level(logging.CRITICAL, "fanwire"):
            p.transport.outcomes = [fail(error)]
            (result,) = await p.call(prepared(A, 1)).done()
        assert isinstance(result, Internal)
        assert f"fake: unexpected {type(error).__name__} in publish" in str(result)
        assert isinstance((await p.call(prepared(A, 2)).done())[0], Receipt), "the lane goes on"
        assert counts(p.ids) == [1, 1]
        assert publishers(p.ids)[0] != publishers(p.ids)[1]


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_wrong_number_of_results_is_a_defect_of_the_transport(count: int, anyio_backend: object) -> None:
    async def wrong(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        return (list(await accept(batch)) * 2)[:count]

    async with publishing() as p:
        p.transport.outcomes = [wrong]
        results = await p.call(*many(A, 1, 2)).done()
        assert [type(result) for result in results] == [Internal, Internal], "nothing was closed: the driver broke the contract"
        assert isinstance((await p.call(prepared(A, 3)).done())[0], Receipt)


# ---------------------------------------------------------------- giving up


async def test_cancelled_before_hand_over_it_is_absent_and_leaves_no_trace() -> None:
    gate = anyio.Event()
    async with publishing() as p:
        p.transport.outcomes = [held(gate)]
        first = p.call(prepared(A, 1))
        await until(lambda: p.batches)
        second, third = await p.together(*many(A, 2, 3))
        second.scope.cancel()
        await until(lambda: second.over)
        gate.set()
        await first.done()
        await third.done()
        assert p.batches == [[1], [3]]
        assert counts(p.ids) == [1, 2], "it had no number yet"


def test_cancelled_in_the_turn_before_hand_over_it_is_absent() -> None:
    """The sender was woken before the caller was cancelled, and has its turn before the caller learns of it. On asyncio, where tasks take turns in order."""

    async def cancelled_in_time() -> None:
        async with publishing() as p:
            first, second = p.call(prepared(A, 1)), p.call(prepared(A, 2))
            while not p.lanes.waiting:
                await checkpoint()
            assert not p.batches
            first.scope.cancel()
            await second.done()
            assert first.over
            assert first.results is None
            assert p.batches == [[2]]
            assert counts(p.ids) == [1]

    asyncio.run(cancelled_in_time())


async def test_who_wakes_a_sender_lends_it_no_context() -> None:
    """It goes on to send what others publish."""
    seen: list[str] = []

    async def look(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        seen.append(_caller.get())
        return await accept(batch)

    gate = anyio.Event()
    async with publishing() as p:
        p.transport.outcomes = [held(gate), look]
        first = p.call(prepared(A, 1))
        await until(lambda: p.batches)
        token = _caller.set("bob")
        second = p.call(prepared(B, 2))
        _caller.reset(token)
        await second.done()
        assert seen == ["nobody"]
        gate.set()
        await first.done()


async def test_behind_a_refusal_the_outcome_of_what_is_tried_again_is_unknown() -> None:
    gate = anyio.Event()
    async with publishing() as p:
        p.transport.outcomes = [held(gate, fail(ConnectionLost("cable"))), refuse(0)]
        call = p.call(*many(A, *range(256)))
        await until(lambda: p.batches)
        p.lanes.connected(False)
        other = p.call(*many(B, *range(1000, 1100)))
        await until(lambda: p.lanes.waiting == 356)
        gate.set()
        await until(lambda: p.lanes._ready.keys() == {"a", "b"})
        p.lanes.connected(True)
        await other.done()
        results = await call.done()
        assert p.batches[1] == [*range(1000, 1100), *range(156)]
        assert len(p.batches) == 2
        assert {type(result) for result in results} == {ConnectionLost}
        assert all("may have been accepted" in str(result) for result in results)


async def test_a_retry_that_fails_for_good_has_an_unknown_outcome() -> None:
    async with publishing() as p:
        p.transport.outcomes = [fail(ConnectionLost("cable")), fail(DENIED)]
        call = p.call(prepared(A, 1))
        await p.repeated()
        (result,) = await call.done()
        assert isinstance(result, ConnectionLost)
        assert result.__cause__ is DENIED


async def test_at_the_end_the_outcome_of_what_is_tried_again_is_unknown() -> None:
    async with publishing() as p:
        p.transport.outcomes = [fail(ConnectionLost("cable"))]
        call, new = p.call(prepared(A, 1)), None
        await until(lambda: p.clock.sleepers)
        p.lanes.connected(False)
        new = p.call(prepared(B, 2))
        await until(lambda: p.lanes.waiting == 2)
        p.lanes.fail(Closed("the end"))
        ((unknown,), (unsent,)) = (await call.done(), await new.done())
        assert isinstance(unknown, ConnectionLost)
        assert isinstance(unsent, Closed)


async def test_a_number_that_will_not_be_seen_leaves_no_hole_behind_it() -> None:
    async with publishing(COUNTED) as p:
        p.transport.outcomes = [fail(Unavailable("not now"))]
        calls = await p.together(*many(A, 1, 2, 3))
        await until(lambda: p.clock.sleepers)
        calls[1].scope.cancel()
        await until(lambda: calls[1].over)
        await p.repeated()
        await calls[0].done()
        await calls[2].done()
        assert p.batches == [[1, 2, 3], [1, 3]]
        seen = p.transport.published[1]
        assert publishers([seen[0].id]) != publishers([seen[1].id]) or counts([seen[0].id, seen[1].id]) == [1, 2]
        assert seen[1].id.endswith((".1", ".2"))
        await p.call(prepared(A, 4)).done()
        assert counts([p.ids[-1]]) == [counts([seen[1].id])[0] + 1]


async def test_cancelled_after_hand_over_the_outcome_is_unknown_and_others_go_on() -> None:
    gate = anyio.Event()
    async with publishing() as p:
        p.transport.outcomes = [held(gate)]
        calls = await p.together(*many(A, 1, 2, 3))
        await until(lambda: p.batches)
        calls[1].scope.cancel()
        await until(lambda: calls[1].over)
        behind = p.call(prepared(A, 4))
        gate.set()
        for call in (calls[0], calls[2], behind):
            assert isinstance((await call.done())[0], Receipt)
        assert p.batches == [[1, 2, 3], [4]]
        assert p.lanes.published == 4
        assert p.lanes.waiting == 0


async def test_one_given_up_while_its_retry_waits_goes_out_again_with_what_follows() -> None:
    """Its outcome is unknown to its caller either way; without it there would be a hole in the numbers."""
    async with publishing() as p:
        p.transport.outcomes = [fail(ConnectionLost("cable"))]
        call = p.call(prepared(A, 1))
        await until(lambda: p.clock.sleepers)
        call.scope.cancel()
        await until(lambda: call.over)
        behind = p.call(prepared(A, 2))
        await until(lambda: p.lanes.waiting == 2 or len(p.batches) == 2)
        await p.repeated()
        assert isinstance((await behind.done())[0], Receipt)
        assert p.batches == [[1], [1, 2]]
        assert counts(p.ids) == [1, 1, 2]
        assert len(set(publishers(p.ids))) == 1
        assert [message.retry for message in p.transport.published[1]] == [True, False]


async def test_a_timeout_says_what_was_sent() -> None:
    gate = anyio.Event()
    async with publishing() as p:
        p.transport.outcomes = [held(gate)]
        sent = p.call(*many(A, 1, 2), timeout=0.01)
        await until(lambda: p.batches)
        queued = p.call(prepared(A, 3), timeout=0.01)
        for call, says in ((sent, "it was handed over, the outcome is unknown"), (queued, "it was not sent")):
            for result in await call.done():
                assert isinstance(result, Timeout)
                assert str(result) == f"publishing took longer than 0.01 s: {says}"
        gate.set()
        await p.call(prepared(A, 4)).done()
        assert p.batches == [[1, 2], [4]]


async def test_a_timeout_without_a_connection_says_so() -> None:
    async with publishing(up=False) as p:
        (result,) = await p.call(prepared(A, 1), timeout=0.01).done()
        assert str(result) == "publishing took longer than 0.01 s without a connection to the broker: it was not sent"
        assert not p.lanes._lanes
        p.lanes.connected(True)
        await patience()
        assert not p.batches


async def test_one_offered_in_vain_and_given_up_was_not_sent() -> None:
    async with publishing() as p:
        p.transport.outcomes = [fail(Unavailable("busy"))]
        call = p.call(prepared(A, 1), timeout=0.05)
        (result,) = await call.done()
        assert "it was not sent" in str(result)
        await p.repeated()
        await p.call(prepared(A, 2)).done()
        assert p.batches == [[1], [2]]
        assert publishers(p.ids)[0] != publishers(p.ids)[1], "number 1 will never be seen"


async def test_some_done_and_some_not_within_the_time() -> None:
    gate = anyio.Event()
    async with publishing() as p:
        p.transport.outcomes = [accept, held(gate)]
        call = p.call(*many(A, *range(600)), timeout=0.2)
        results = await call.done()
        assert [type(result) for result in results] == [Receipt] * 256 + [Timeout] * 344
        gate.set()


# ---------------------------------------------------------------- the end


async def test_flush_waits_until_all_is_sent() -> None:
    gate = anyio.Event()
    async with publishing() as p:
        with anyio.fail_after(5):
            await p.lanes.flush()
        p.transport.outcomes = [held(gate), held(gate)]
        calls = [p.call(prepared(A, 1)), p.call(prepared(B, 2))]
        await until(lambda: p.lanes.waiting == 2 and p.batches)
        flushed: list[bool] = []

        async def flush() -> None:
            await p.lanes.flush()
            flushed.append(True)

        p.tasks.start_soon(flush)
        await patience()
        assert not flushed
        calls.append(p.call(prepared(A, 3)))
        await until(lambda: p.lanes.waiting == 3)
        gate.set()
        await until(lambda: flushed)
        for call in calls:
            await call.done()
        assert p.lanes.waiting == 0


async def test_after_a_failure_whatever_waits_and_comes_fails_with_it() -> None:
    gate = anyio.Event()
    async with publishing() as p:
        p.transport.outcomes = [held(gate)]
        flight = p.call(prepared(A, 1))
        await until(lambda: p.batches)
        queued = p.call(prepared(A, 2))
        await until(lambda: p.lanes.waiting == 2)
        failure = Unauthenticated("expired")
        p.lanes.fail(failure)
        assert await queued.done() == [failure]
        later = p.call(prepared(A, 3))
        await until(lambda: later.over)
        assert isinstance(later.error, Unauthenticated)
        gate.set()
        assert isinstance((await flight.done())[0], Receipt), "what was in flight is told its real outcome"
        assert p.lanes.waiting == 0
        assert not p.lanes._lanes


async def test_a_failure_ends_a_flush() -> None:
    async with publishing(up=False) as p:
        call = p.call(prepared(A, 1))
        await until(lambda: p.lanes.waiting)
        flushed: list[bool] = []

        async def flush() -> None:
            await p.lanes.flush()
            flushed.append(True)

        p.tasks.start_soon(flush)
        await patience()
        p.lanes.fail(Unauthenticated("expired"))
        await call.done()
        await until(lambda: flushed)


async def test_an_error_is_raised_to_each_caller_as_its_own() -> None:
    async with publishing() as p:
        p.lanes.fail(Unauthenticated("expired"))
        calls = [p.call(prepared(A, 1)) for _ in range(3)]
        for call in calls:
            await until(lambda call=call: call.over)  # type: ignore[misc]  # bound now
        assert len({id(call.error) for call in calls}) == 3, "an exception collects the traceback of who raised it"


async def test_sending_that_is_cancelled_leaves_nobody_waiting() -> None:
    transport = FakeTransport()
    transport.outcomes = [held(anyio.Event())]
    lanes = Lanes(transport, ENVELOPE, ManualClock(), waiter_factory())
    call = Call()
    async with anyio.create_task_group() as callers:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lanes.run, tasks)
            lanes.connected(True)
            callers.start_soon(call.run, lanes, many(A, 1), 60.0)
            await until(lambda: transport.published)
            tasks.cancel_scope.cancel()
        (result,) = await call.done()
        assert isinstance(result, Closed)
        assert "its outcome is unknown" in str(result)
    assert lanes.waiting == 0


async def test_a_lost_connection_while_cancelled_answers_nobody_twice() -> None:
    gate = anyio.Event()
    async with publishing() as p:
        p.transport.outcomes = [held(gate, fail(ConnectionLost("cable")))]
        calls = await p.together(*many(A, 1, 2))
        await until(lambda: p.batches)
        calls[0].scope.cancel()
        await until(lambda: calls[0].over)
        gate.set()
        await p.repeated()
        assert isinstance((await calls[1].done())[0], Receipt)
        assert p.batches == [[1, 2], [1, 2]]
        assert all(message.retry for message in p.transport.published[1])
        assert p.ids[:2] == p.ids[2:]
        assert p.lanes.waiting == 0


# ---------------------------------------------------------------- publishing at once


class Immediate(FakeTransport):
    """Publishes without suspending, as far as the script says."""

    def __init__(self, capabilities: Capabilities = LINKED) -> None:
        super().__init__(capabilities)
        self.now: list[str] = []
        self.script: list[BaseException | None | bool] = []
        """``None``: it would have to wait; ``True``: a duplicate; an exception is raised. Behind the last all are accepted."""

    def publish_now(self, channel: str, topic: str, id: str, key: str | None, frame: bytes, /) -> Receipt | None:
        step = self.script.pop(0) if self.script else False
        if step is None:
            return None
        if isinstance(step, BaseException):
            raise step
        self.now.append(id)
        return Receipt(id, channel, topic, None, step)


def at_once(p: Publishing, ref: TopicRef[object], n: int) -> Receipt | None:
    return p.lanes.now(ref, b"%d" % n, None, None)


async def test_at_once_takes_a_number_only_when_it_is_used() -> None:
    transport = Immediate()
    async with publishing(transport=transport) as p:
        assert at_once(p, A, 1) is not None
        transport.script = [None]
        assert at_once(p, A, 2) is None
        receipt = at_once(p, A, 2)
        assert receipt is not None
        assert counts(transport.now) == [1, 2]
        assert receipt.id == transport.now[1]
        assert p.lanes.published == 2


async def test_at_once_is_for_an_empty_lane_with_a_connection_only() -> None:
    gate = anyio.Event()
    transport = Immediate()
    transport.outcomes = [held(gate)]
    async with publishing(transport=transport) as p:
        call = p.call(prepared(A, 1))
        await until(lambda: p.batches)
        assert at_once(p, A, 2) is None, "it would overtake"
        assert at_once(p, B, 3) is not None
        gate.set()
        await call.done()
        assert at_once(p, A, 4) is not None
        p.lanes.connected(False)
        assert at_once(p, A, 5) is None
        p.lanes.connected(True)
        assert at_once(p, A, 5) is not None
        p.lanes.fail(Closed("closed"))
        assert at_once(p, A, 6) is None
        assert counts([id for id in [*p.ids, *transport.now] if id]) == [1, 1, 2, 3]


@pytest.mark.parametrize("error", [DENIED, KeyError("oops")], ids=repr)
async def test_at_once_an_error_costs_the_publisher_its_name(error: Exception, anyio_backend: object) -> None:
    transport = Immediate()
    async with publishing(transport=transport) as p:
        assert at_once(p, A, 1) is not None
        transport.script = [error]
        with pytest.raises((PermissionDenied, Internal, KeyError)) as caught:
            at_once(p, A, 2)
        assert at_once(p, A, 3) is not None
        assert counts(transport.now) == [1, 1]
        assert publishers(transport.now)[0] != publishers(transport.now)[1]
        assert isinstance(caught.value, FanwireError), f"a defect of the transport is told as Internal, not as {leaves(caught.value)}"


async def test_several_at_once_and_the_rest_queued() -> None:
    transport = Immediate()
    async with publishing(transport=transport) as p:
        transport.script = [False, False, None]
        results = await p.lanes.send_many(many(A, 1, 2, 3, 4), 60.0)
        assert [isinstance(result, Receipt) for result in results] == [True] * 4
        assert len(transport.now) == 2
        assert p.batches == [[3, 4]]
        assert counts([*transport.now, *p.ids]) == [1, 2, 3, 4]


async def test_behind_a_refusal_at_once_nothing_of_the_channel_is_sent() -> None:
    transport = Immediate()
    async with publishing(transport=transport) as p:
        transport.script = [False, DENIED, False, None]
        results = await p.lanes.send_many([*many(A, 1, 2), *many(B, 7), *many(A, 3), *many(B, 8), *many(A, 4)], 60.0)
        assert [type(result).__name__ for result in results] == ["Receipt", "PermissionDenied", "Receipt", "Unavailable", "Receipt", "Unavailable"]
        assert p.batches == [[8]]


async def test_several_at_once_with_a_defect_of_the_transport() -> None:
    """What was accepted must be told, and the number that may have been seen is not used again as a hole."""
    transport = Immediate()
    async with publishing(transport=transport) as p:
        transport.script = [False, KeyError("oops")]
        results: Sequence[object] = ()
        try:
            results = await p.lanes.send_many(many(A, 1, 2), 60.0)
        except KeyError as error:
            results = [error]
        assert at_once(p, A, 3) is not None
        assert counts(transport.now) == [1, 1]
        assert [type(result) for result in results] == [Receipt, Internal]


async def test_several_at_once_with_a_duplicate() -> None:
    transport = Immediate()
    async with publishing(transport=transport) as p:
        transport.script = [False, True, False]
        results = await p.lanes.send_many(many(A, 1, 2, 3), 60.0)
        assert [isinstance(result, Receipt) and result.duplicate for result in results] == [False, True, False]
        assert counts(transport.now) == [1, 2, 1]
