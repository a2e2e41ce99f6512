"""Connecting and reconnecting: when it is tried again, when it is given up, how long it waits, and what listeners hear."""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from fanwire import Realtime, TopicRef
from fanwire.capabilities import Capabilities
from fanwire.codec import ENVELOPE
from fanwire.errors import (
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    FanwireError,
    Internal,
    PermissionDenied,
    Timeout,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from fanwire.events import ConnectionEvent, ConnectionState
from fanwire.hub.connection import Connection, EventQueue, _reason, backoff
from fanwire.hub.hub import Hub
from fanwire.hub.waiter import waiter_factory
from tests.clock import ManualClock
from tests.hub.support import ORDERED, FakeTransport, until

REF = TopicRef("c", "t")

CONNECTING, CONNECTED, DISCONNECTED, FAILED, CLOSED = ConnectionState


class Once:
    """A connection under a manual clock, run by a task, and all that it told."""

    def __init__(self, transport: FakeTransport, *, connect_timeout: float = 10.0) -> None:
        self.clock = ManualClock()
        self.hub = hub(self.clock)
        self.connection = Connection(self.hub, transport, self.clock, connect_timeout=connect_timeout)
        self.queue = EventQueue(waiter_factory())
        self.connection.listeners[self.queue] = None
        self.changes: list[bool] = []
        self.connection.on_change.append(self.changes.append)
        self.ended: FanwireError | None = None

    async def run(self) -> None:
        """Run it to its end."""
        self.ended = await self.connection.run()

    @property
    def states(self) -> list[ConnectionState]:
        """The states that were told."""
        return [event.state for event in self.queue._events]


def hub(clock: ManualClock, capabilities: Capabilities = ORDERED) -> Hub:
    return Hub(capabilities=capabilities, codec=ENVELOPE, clock=clock, budget=10**6, hold_bytes=10**6, linger=1.0, on_invalid=lambda _: None)


# ---------------------------------------------------------------- how long it waits


@given(st.integers(0, 10**6))
def test_backoff_is_exponential_with_full_jitter_and_bounded(attempt: int) -> None:
    most = backoff(attempt, max)
    assert backoff(attempt, min) == 0.0
    assert most == min(10.0, 0.05 * 2 ** min(attempt, 30))
    assert 0.0 <= backoff(attempt) <= most


def test_backoff_draws_anew_each_time() -> None:
    assert len({backoff(10) for _ in range(100)}) == 100


@pytest.mark.anyio
async def test_attempts_that_fail_are_spaced_further_and_further() -> None:
    transport = FakeTransport()
    transport.connects = [ConnectFailed("no") for _ in range(12)]
    once = Once(transport)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(once.run)
        for n in range(1, 13):
            await until(lambda: once.clock.sleepers)
            assert transport.runs == n
            assert len(once.clock.slept) == n
            assert once.clock.slept[-1] <= min(10.0, 0.05 * 2**n)
            once.clock.advance(10)
            await until(lambda n=n: transport.runs == n + 1)  # type: ignore[misc]  # bound now
        await until(lambda: once.changes)
        assert max(once.clock.slept[6:]) > 0.2, "full jitter: a draw from a wide range, hardly ever short six times running"
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_broker_that_accepts_and_drops_is_not_hammered() -> None:
    transport = FakeTransport()
    once = Once(transport)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(once.run)
        for n in range(1, 31):
            await until(lambda n=n: len(once.changes) == 2 * n - 1)  # type: ignore[misc]  # bound now
            transport.break_()
            await until(lambda: once.clock.sleepers)
            once.clock.advance(0.001)
            if once.clock.sleepers:
                once.clock.advance(10)
        assert sum(once.clock.slept[10:]) > 10, f"20 connections that did not last were made again within {sum(once.clock.slept[10:]):.2f} s"
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_after_a_connection_that_lasted_the_next_attempt_comes_soon() -> None:
    transport = FakeTransport()
    transport.connects = [ConnectFailed("no") for _ in range(10)]
    once = Once(transport)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(once.run)
        while not once.changes:
            once.clock.advance(10)
            await checkpoint()
        once.clock.advance(3600)
        transport.break_()
        await until(lambda: once.clock.sleepers)
        assert once.clock.slept[-1] <= 0.1
        tasks.cancel_scope.cancel()


# ---------------------------------------------------------------- when it is tried again


@pytest.mark.anyio
@pytest.mark.parametrize("error", [ConnectFailed("no"), Unavailable("busy"), ConnectionLost("gone"), Timeout("slow"), FanwireError("odd")], ids=repr)
async def test_what_may_pass_is_tried_again(error: FanwireError, anyio_backend: object) -> None:
    transport = FakeTransport()
    transport.connects = [error]
    once = Once(transport)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(once.run)
        await until(lambda: once.clock.sleepers)
        assert once.connection.error is error
        once.clock.advance(10)
        await until(lambda: once.changes)
        assert once.states == [CONNECTING, DISCONNECTED, CONNECTING, CONNECTED]
        assert [event.error for event in once.queue._events] == [None, error, None, None]
        assert [event.attempt for event in once.queue._events] == [1, 1, 2, 0]
        assert once.connection.error is None
        assert once.connection.connections == 1
        tasks.cancel_scope.cancel()


TERMINAL: list[FanwireError] = [Unauthenticated("who"), PermissionDenied("no"), ConfigError("what"), Unsupported("never"), Internal("oops")]


@pytest.mark.anyio
@pytest.mark.parametrize("error", TERMINAL, ids=repr)
@pytest.mark.parametrize(
    "wrap", [lambda error: error, lambda error: ExceptionGroup("driver", [error]), lambda error: ExceptionGroup("a", [ExceptionGroup("b", [error])])]
)
async def test_what_cannot_help_is_given_up(error: FanwireError, wrap: Callable[[Exception], Exception], anyio_backend: object) -> None:
    transport = FakeTransport()
    transport.connects = [wrap(error)]
    once = Once(transport)
    with anyio.fail_after(5):
        await once.run()
    assert once.ended is error is once.connection.error
    assert once.states == [CONNECTING, FAILED]
    assert transport.runs == 1
    assert not once.clock.slept


@pytest.mark.anyio
async def test_an_unexpected_exception_is_a_defect_of_the_transport(caplog: pytest.LogCaptureFixture) -> None:
    transport = FakeTransport()
    fault = KeyError("oops")
    transport.connects = [fault]
    once = Once(transport)
    with caplog.at_level(logging.ERROR, "fanwire"):
        await once.run()
    assert isinstance(once.ended, Internal)
    assert "fake: unexpected KeyError in the transport: 'oops'" in str(once.ended)
    assert once.ended.__cause__ is fault
    assert "unexpected error in the transport" in caplog.text


@pytest.mark.anyio
async def test_a_connection_that_breaks_is_made_again_and_everybody_is_told_in_order() -> None:
    transport = FakeTransport()
    once = Once(transport)
    broke = ConnectionLost("cable")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(once.run)
        await until(lambda: once.changes == [True])
        transport.break_(broke)
        await until(lambda: once.clock.sleepers)
        assert once.changes == [True, False]
        once.clock.advance(10)
        await until(lambda: len(once.changes) == 3)
        assert once.connection.connections == 2
        tasks.cancel_scope.cancel()
    assert once.states == [CONNECTING, CONNECTED, DISCONNECTED, CONNECTING, CONNECTED]
    assert once.queue._events[2].error is broke
    assert once.changes == [True, False, True, False], "cancelled, it is down too"


@pytest.mark.anyio
async def test_of_several_reasons_the_first_is_told() -> None:
    transport = FakeTransport()
    once = Once(transport)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(once.run)
        await until(lambda: once.changes == [True])
        transport.break_(ExceptionGroup("driver", [ConnectionLost("one"), ConnectionLost("two")]))
        await until(lambda: once.clock.sleepers)
        assert str(once.connection.error) == "one"
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_connecting_is_bounded_in_time() -> None:
    transport = FakeTransport()
    transport.hang = True
    once = Once(transport, connect_timeout=0.01)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(once.run)
        await until(lambda: once.clock.sleepers)
        assert isinstance(once.connection.error, ConnectFailed)
        assert str(once.connection.error) == "fake: no connection within 0.01 s"
        transport.hang = False
        once.clock.advance(10)
        await until(lambda: once.changes == [True])
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_transport_that_just_ends_has_lost_its_connection() -> None:
    transport = FakeTransport()
    transport.quiet = True
    once = Once(transport)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(once.run)
        await until(lambda: once.changes == [True])
        transport.break_()
        await until(lambda: once.clock.sleepers)
        assert isinstance(once.connection.error, ConnectionLost)
        assert str(once.connection.error) == "fake: the connection ended"
        tasks.cancel_scope.cancel()


# ---------------------------------------------------------------- errors in groups


def test_the_reason_is_picked_out_of_a_group() -> None:
    lost, denied = ConnectionLost("a"), PermissionDenied("b")
    assert _reason(lost) is lost
    assert _reason(ExceptionGroup("", [lost, denied])) is lost
    assert _reason(ExceptionGroup("", [ExceptionGroup("", [denied])])) is denied


@pytest.mark.parametrize(
    "errors", [[KeyError("x")], [ConnectionLost("a"), KeyError("x")], [ExceptionGroup("", [KeyError("x")]), ConnectionLost("a")]], ids=repr
)
def test_anything_else_in_a_group_is_a_defect(errors: list[Exception]) -> None:
    group = ExceptionGroup("driver", errors)
    reason = _reason(group)
    assert isinstance(reason, Internal)
    assert reason.__cause__ is group


# ---------------------------------------------------------------- what listeners hear


def told(n: int, state: ConnectionState = DISCONNECTED) -> ConnectionEvent:
    return ConnectionEvent(state, float(n), n, None)


@pytest.mark.anyio
async def test_events_wait_in_order_and_the_oldest_of_too_many_are_given_up() -> None:
    queue = EventQueue(waiter_factory())
    for n in range(300):
        queue.put(told(n))
    assert [(await anext(queue)).attempt for _ in range(256)] == list(range(44, 300))


@pytest.mark.anyio
async def test_a_cancelled_wait_loses_no_event() -> None:
    queue = EventQueue(waiter_factory())
    with anyio.move_on_after(0):
        await anext(queue)
    queue.put(told(1))
    assert (await anext(queue)).attempt == 1
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anext, queue)
        await until(lambda: queue._waiter is not None)
        tasks.cancel_scope.cancel()
    queue.put(told(2))
    queue.put(told(3))
    assert [(await anext(queue)).attempt for _ in range(2)] == [2, 3]


@pytest.mark.anyio
async def test_events_end_behind_closed() -> None:
    queue = EventQueue(waiter_factory())
    queue.put(told(1))
    queue.put(told(2, CLOSED))
    queue.put(told(3))
    assert [event.state async for event in queue] == [DISCONNECTED, CLOSED]
    with pytest.raises(StopAsyncIteration):
        await anext(queue)


@pytest.mark.anyio
async def test_closing_is_told_once_and_a_failure_stays_known() -> None:
    transport = FakeTransport()
    transport.connects = [Unauthenticated("who")]
    once = Once(transport)
    await once.run()
    once.connection.close()
    once.connection.close()
    assert once.states == [CONNECTING, FAILED, CLOSED]
    assert once.queue._events[-1].error is once.ended

    peaceful = Once(FakeTransport())
    peaceful.connection.close()
    assert [(event.state, event.error) for event in peaceful.queue._events] == [(CLOSED, None)]


@pytest.mark.anyio
async def test_listeners_of_a_realtime_begin_with_the_present_and_end_with_it() -> None:
    transport = FakeTransport()
    clock = ManualClock()
    heard: list[ConnectionState] = []
    rt = Realtime(transport, clock=clock)

    async def listen() -> None:
        async with rt.events() as events:
            async for event in events:
                heard.append(event.state)  # noqa: PERF401 - they are looked at meanwhile

    async with anyio.create_task_group() as tasks, rt:
        tasks.start_soon(listen)
        await until(lambda: heard == [CONNECTED])
        transport.break_()
        await until(lambda: clock.sleepers)
        clock.advance(10)
        await until(lambda: heard == [CONNECTED, DISCONNECTED, CONNECTING, CONNECTED])
    assert heard[-1] is CLOSED
    assert rt._engine is not None
    assert not rt._engine.connection.listeners


# ---------------------------------------------------------------- a Realtime that cannot go on


@pytest.mark.anyio
async def test_given_up_everything_ends_with_the_reason_and_each_caller_gets_its_own() -> None:
    transport = FakeTransport()
    clock = ManualClock()
    async with Realtime(transport, clock=clock) as rt, rt.subscribe(REF) as messages:
        transport.connects = [Unauthenticated("expired")]
        transport.break_()
        await until(lambda: clock.sleepers)
        clock.advance(10)
        errors: list[BaseException] = []
        with pytest.raises(Unauthenticated) as caught:
            await anext(messages)
        errors.append(caught.value)
        for _ in range(2):
            with pytest.raises(Unauthenticated) as caught:
                await rt.publish(REF, 1)
            errors.append(caught.value)
            with pytest.raises(Unauthenticated) as caught:
                await rt.publish_many([REF(1)])
            errors.append(caught.value)
            with pytest.raises(Unauthenticated) as caught:
                async with rt.subscribe(REF):
                    pass
            errors.append(caught.value)
        assert len({id(error) for error in errors}) == len(errors), "an exception collects the traceback of who raised it"
        assert rt.stats().state is FAILED


@pytest.mark.anyio
async def test_the_first_connection_fails_with_why() -> None:
    transport = FakeTransport()
    transport.connects = [ConnectFailed(f"attempt {n}") for n in range(10_000)]
    with pytest.raises(ConnectFailed, match=r"fake: no connection within 0.05 s: attempt \d+") as caught:
        async with Realtime(transport, connect_timeout=0.05):
            pytest.fail("there is no connection")
    assert isinstance(caught.value.__cause__, ConnectFailed)
