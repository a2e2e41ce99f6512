"""The memory transport as a transport: its URLs, what it declares, what lies beneath it, and the contract with a sink of our own in place of the hub."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Collection
from typing import Any

import anyio
import pytest

from fanwire import Cursor, GapReason, Realtime, Receipt, TopicRef
from fanwire.codec import ENVELOPE
from fanwire.errors import ConfigError, ConnectFailed, ConnectionLost, PayloadTooLarge, Timeout, Unsupported
from fanwire.registry import open_transport
from fanwire.transport import Earliest, Last, Outbound, SupportsHistory, SupportsImmediatePublish, Transport
from fanwire_memory import Faults, MemoryBroker, MemoryOptions, MemoryTransport

pytestmark = pytest.mark.anyio

NUMBER: TopicRef[Any] = TopicRef("room:1", "a")  # Any: it carries whatever JSON holds


def opened(url: str, **options: object) -> MemoryTransport:
    transport = open_transport(url, **options)
    assert isinstance(transport, MemoryTransport)
    return transport


def broker_of(transport: MemoryTransport) -> MemoryBroker:
    return transport.native(MemoryBroker)


# ---------------------------------------------------------------------- URLs


def test_a_url_without_a_name_is_a_broker_of_its_own() -> None:
    first, second = opened("memory://"), opened("memory://")
    assert broker_of(first) is not broker_of(second)
    assert not broker_of(first).shared


@pytest.mark.parametrize("url", ["memory://jobs-1", "memory://jobs-1/", "MEMORY://jobs-1", "memory://jobs%2D1", "memory://jobs-1?history=1000"])
def test_a_url_with_a_name_is_the_broker_of_that_name(url: str) -> None:
    named = MemoryTransport("jobs-1")
    assert broker_of(opened(url)) is broker_of(named)
    assert broker_of(named).shared


def test_names_are_told_apart_by_case_and_decoded() -> None:
    lower, upper, spaced = (opened(url) for url in ("memory://jobs-2", "memory://Jobs-2", "memory://jobs%202"))
    assert len({id(broker_of(transport)) for transport in (lower, upper, spaced)}) == 3
    assert broker_of(spaced) is broker_of(MemoryTransport("jobs 2"))


def test_the_query_sets_the_options() -> None:
    transport = opened("memory://?history=5&ttl=1.5&max_bytes=1000&max_payload=200&namespace=blue")
    assert broker_of(transport).limits == (5, 1.5, 1000)
    assert transport.capabilities.max_payload == 200
    assert "blue" in repr(transport)


def test_the_options_have_the_documented_defaults() -> None:
    transport = opened("memory://")
    assert broker_of(transport).limits == (1000, 300.0, 64 * 2**20)
    assert transport.capabilities.max_payload == 2**20
    assert MemoryOptions().namespace == "fanwire"


def test_an_argument_is_an_option_too() -> None:
    assert broker_of(opened("memory://?history=5", history=6)).limits.history == 6


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("memory://?history=-1", "history"),
        ("memory://?history=many", "history"),
        ("memory://?ttl=0", "ttl"),
        ("memory://?max_bytes=-1", "max_bytes"),
        ("memory://?max_payload=0", "max_payload"),
        ("memory://?histroy=1", "did you mean 'history'?"),
        ("memory://?namespace=a.b", "namespace"),
        ("memory://?namespace=", "namespace"),
        ("memory://?namespace=" + "n" * 65, "namespace"),
        ("memory://?url=x", "the URL is the first argument"),
        ("memory://jobs/path", "neither path nor user"),
        ("memory:///path", "neither path nor user"),
        ("memory://user@jobs", "neither path nor user"),
        ("memory://user:hunter2@jobs", "neither path nor user"),
        ("memory://:hunter2@", "neither path nor user"),
        ("memory://hunter2@jobs?history=5", "neither path nor user"),
        ("memory://[::1", "does not accept this URL"),
        ("memory://jobs#part", "fragment"),
        ("memory:jobs", "://"),
    ],
)
def test_what_is_no_memory_url_is_refused_without_repeating_a_secret(url: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_transport(url)
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None


def test_several_wrong_options_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        open_transport("memory://?history=-1&ttl=x")
    assert "history" in str(caught.value)
    assert "ttl" in str(caught.value)


async def test_a_realtime_opens_by_url() -> None:
    first, second = Realtime.from_url("memory://jobs-3?history=5"), Realtime.from_url("memory://jobs-3", options={"history": 5})
    async with first, second, second.subscribe(NUMBER) as messages:
        await first.publish(NUMBER, 1)
        with anyio.fail_after(10):
            assert (await anext(messages)).data == 1


async def test_a_namespace_may_be_given_to_from_url() -> None:
    async with Realtime.from_url("memory://jobs-4", namespace="blue") as rt, Realtime.from_url("memory://jobs-4?namespace=blue") as same:
        other = Realtime.from_url("memory://jobs-4")
        assert rt.native(MemoryBroker) is same.native(MemoryBroker)
        assert rt.native(MemoryBroker) is not other.native(MemoryBroker)


def test_the_repr_holds_options_and_no_name() -> None:
    """A name is part of the URL, and whoever mistakes it for a place for a secret must not find it in a log."""
    transport = MemoryTransport("s3cret-name", MemoryOptions(history=7, namespace="blue"))
    assert repr(transport) == "<MemoryTransport namespace='blue' history=7>"
    assert "s3cret" not in repr(Realtime(transport))


# ---------------------------------------------------------------------- capabilities


def test_it_declares_everything_but_other_processes() -> None:
    assert MemoryTransport().capabilities.names() == {
        "confirmed_publish", "confirmed_subscribe", "delivery.at_least_once", "delivery.exactly_once", "history", "history.after_cursor", "history.earliest",
        "history.last_n", "history.since_time", "idempotent_publish", "links", "ordering.channel", "ordering.publisher",
    }  # fmt: skip
    capabilities = MemoryTransport().capabilities
    assert not capabilities.multi_process
    assert capabilities.async_backends == {"asyncio", "trio"}
    assert capabilities == MemoryTransport().capabilities


def test_without_history_it_declares_less() -> None:
    full, none = MemoryTransport().capabilities.names(), MemoryTransport("", MemoryOptions(history=0)).capabilities.names()
    assert full - none == {
        "delivery.at_least_once", "delivery.exactly_once", "history", "history.after_cursor", "history.earliest", "history.last_n", "history.since_time",
        "idempotent_publish",
    }  # fmt: skip
    assert not none - full


def test_it_is_a_transport_with_both_optional_abilities() -> None:
    transport: Transport = MemoryTransport()
    assert isinstance(transport, SupportsHistory)
    assert isinstance(transport, SupportsImmediatePublish)
    assert transport.name == "memory"


# ---------------------------------------------------------------------- native


async def test_native_gives_broker_and_faults() -> None:
    transport = MemoryTransport()
    assert isinstance(transport.native(MemoryBroker), MemoryBroker)
    assert transport.native(Faults) is transport.faults
    async with Realtime(transport) as rt:
        assert rt.native(Faults) is transport.faults


@pytest.mark.parametrize("kind", [int, Realtime, MemoryTransport])
def test_native_says_what_there_is(kind: type[object]) -> None:
    with pytest.raises(Unsupported, match=f"no {kind.__name__}; it has MemoryBroker and Faults"):
        MemoryTransport().native(kind)


# ---------------------------------------------------------------------- payload


async def test_a_message_larger_than_max_payload_is_refused_and_one_at_the_limit_is_not() -> None:
    async with Realtime(MemoryTransport("", MemoryOptions(max_payload=1000))) as rt, rt.subscribe(NUMBER).with_gaps() as messages:
        errors: dict[int, PayloadTooLarge] = {}
        for size in range(700, 1000):
            try:
                await rt.publish(NUMBER, "x" * size)
            except PayloadTooLarge as error:
                errors[size] = error
        smallest = min(errors)
        assert list(errors) == list(range(smallest, 1000))
        assert 800 < smallest < 999
        assert {(error.channel, error.topic, error.limit) for error in errors.values()} == {("room:1", "a", 1000)}
        assert [error.size for error in errors.values()] == list(range(1001, 1001 + len(errors)))
        assert messages.stats().lag == smallest - 700
        assert all(len(entry.frame) <= 1000 for entry in (await _page(rt)).entries)


async def _page(rt: Realtime) -> Any:  # Any: what the transport's own method returns
    transport = rt._transport
    assert isinstance(transport, MemoryTransport)
    return await transport.history(NUMBER.channel, start=Earliest(), limit=10_000)


# ---------------------------------------------------------------------- the contract, with a sink of our own


class Recorder:
    """A sink that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def subscribed(self, channel: str, generation: int, position: Cursor | None, /) -> None:
        self.told.append(("subscribed", channel, generation, position and position.offset))

    def deliver(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None, /) -> None:
        self.told.append(("deliver", channel, generation, frame, position and position.offset, prev and prev.offset))

    def lost(self, channels: Collection[str] | None, reason: GapReason, lost: int | None, /) -> None:
        self.told.append(("lost", channels, reason, lost))


def outbound(n: int, *, channel: str = "room:1", key: str | None = None, retry: bool = False) -> Outbound:
    ref: TopicRef[Any] = TopicRef(channel, "a")  # Any: as above
    data = str(n).encode()
    frame = ENVELOPE.encode(ref, data, f"p.{n}", "2024-05-01T12:00:00.000Z", key, None, None)
    return Outbound(channel, "a", f"p.{n}", key, None, None, data, frame, retry)


async def test_what_is_published_is_delivered_byte_for_byte_under_the_generation_of_its_subscribe() -> None:
    transport, sink = MemoryTransport(), Recorder()
    async with transport.run(sink):
        confirmed = await transport.subscribe({"room:1": None}, 7)
        messages = [outbound(1), outbound(2, channel="room:2"), outbound(3)]
        results = await transport.publish(messages)
        assert [isinstance(result, Receipt) and (result.id, result.cursor and result.cursor.offset) for result in results] == [
            ("p.1", 1),
            ("p.2", 1),
            ("p.3", 2),
        ]
        await transport.subscribe({"room:1": frozenset({"a"})}, 8)
        await transport.publish([outbound(4)])
        await transport.unsubscribe(["room:1", "unknown"])
        await transport.publish([outbound(5)])
    assert isinstance(confirmed["room:1"], Cursor)
    assert confirmed["room:1"].offset == 0
    assert sink.told == [
        ("subscribed", "room:1", 7, 0),
        ("deliver", "room:1", 7, messages[0].frame, 1, 0),
        ("deliver", "room:1", 7, messages[2].frame, 2, 1),
        ("subscribed", "room:1", 8, 2),
        ("deliver", "room:1", 8, outbound(4).frame, 3, 2),
    ]


async def test_publishing_at_once_is_publishing() -> None:
    transport, sink = MemoryTransport(), Recorder()
    message = outbound(1, key="k")
    assert transport.publish_now("room:1", "a", "p.1", "k", message.frame) is None
    async with transport.run(sink):
        await transport.subscribe({"room:1": None}, 1)
        receipt = transport.publish_now("room:1", "a", "p.1", "k", message.frame)
        assert receipt is not None
        assert not receipt.duplicate
        again = transport.publish_now("room:1", "a", "p.2", "k", message.frame)
        assert again is not None
        assert again.duplicate
        transport.faults.drop()
        assert transport.publish_now("room:1", "a", "p.3", None, message.frame) is None
        assert len(sink.told) == 2
        page = await transport.history("room:1", start=Last(5), limit=5)
        assert [entry.frame for entry in page.entries] == [message.frame]


async def test_a_retry_of_what_was_accepted_is_a_duplicate() -> None:
    transport = MemoryTransport()
    async with transport.run(Recorder()):
        (first,) = await transport.publish([outbound(1)])
        (again, new) = await transport.publish([outbound(1, retry=True), outbound(2, retry=True)])
        assert isinstance(first, Receipt)
        assert isinstance(again, Receipt)
        assert isinstance(new, Receipt)
        assert (again.duplicate, again.cursor) == (False, first.cursor)
        assert not new.duplicate


async def test_history_pages_from_the_cursor_inclusive() -> None:
    transport = MemoryTransport()
    async with transport.run(Recorder()):
        await transport.publish([outbound(n) for n in range(1, 8)])
        page = await transport.history("room:1", start=Earliest(), limit=3)
        assert [entry.position.offset for entry in page.entries] == [1, 2, 3]
        assert page.head is not None
        assert page.head.offset == 7
        assert page.complete
        page = await transport.history("room:1", start=page.entries[-1].position, limit=3)
        assert [entry.position.offset for entry in page.entries] == [3, 4, 5]
        assert [entry.prev and entry.prev.offset for entry in page.entries] == [2, 3, 4]
        transport.faults.trim("room:1", 2)
        trimmed = await transport.history("room:1", start=page.entries[-1].position, limit=3)
        assert [entry.position.offset for entry in trimmed.entries] == [6, 7]
        assert not trimmed.complete


async def test_without_a_connection_everything_is_lost() -> None:
    transport = MemoryTransport()

    async def refused() -> None:
        with pytest.raises(ConnectionLost):
            await transport.publish([outbound(1)])
        with pytest.raises(ConnectionLost):
            await transport.subscribe({"room:1": None}, 1)
        with pytest.raises(ConnectionLost):
            await transport.unsubscribe(["room:1"])
        with pytest.raises(ConnectionLost):
            await transport.history("room:1", start=Earliest(), limit=1)
        with pytest.raises(ConnectionLost):
            await transport.ping()
        assert transport.publish_now("room:1", "a", "p.1", None, b"") is None

    await refused()
    with pytest.raises(ConnectionLost, match="broken by a scripted fault"):
        async with transport.run(Recorder()):
            transport.faults.disconnect()
            await refused()
            await anyio.sleep_forever()


async def test_after_a_connection_has_ended_nothing_can_be_done_with_it() -> None:
    transport, sink = MemoryTransport(), Recorder()
    async with transport.run(sink):
        await transport.subscribe({"room:1": None}, 1)
    with pytest.raises(ConnectionLost):
        await transport.publish([outbound(1)])
    with pytest.raises(ConnectionLost):
        await transport.subscribe({"room:1": None}, 2)
    assert not transport.native(MemoryBroker)._subscribers
    assert len(sink.told) == 1


async def test_a_body_that_raises_or_is_cancelled_leaves_no_connection() -> None:
    transport = MemoryTransport()
    broker = transport.native(MemoryBroker)
    with pytest.raises((ZeroDivisionError, ExceptionGroup)):
        async with transport.run(Recorder()):
            await transport.subscribe({"room:1": None}, 1)
            raise ZeroDivisionError
    with anyio.CancelScope() as scope:
        async with transport.run(Recorder()):
            await transport.subscribe({"room:1": None}, 2)
            scope.cancel()
            await anyio.sleep_forever()
    assert not broker._links
    assert not broker._subscribers


async def test_a_refused_connection_is_told() -> None:
    transport = MemoryTransport()
    transport.faults.disconnect(refuse=1)
    with pytest.raises(ConnectFailed):
        async with transport.run(Recorder()):
            pytest.fail("it was connected")
    async with transport.run(Recorder()):
        await transport.ping()


# ---------------------------------------------------------------------- through a Realtime


async def test_ping_makes_a_round_trip() -> None:
    transport = MemoryTransport()
    async with Realtime(transport, timeout=0.01) as rt:
        assert 0 <= await rt.ping() < 5
        transport.faults.block()
        with pytest.raises(Timeout, match="no answer to a ping"):
            await rt.ping()
        transport.faults.resume()
        assert await rt.ping() >= 0


async def test_the_publishers_object_is_never_handed_over() -> None:
    payload = {"list": [1]}
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(NUMBER) as messages:
        await rt.publish(NUMBER, payload)
        payload["list"].append(2)
        with anyio.fail_after(10):
            received = (await anext(messages)).data
        assert received == {"list": [1]}
        assert (await rt.history(NUMBER))[0].data == {"list": [1]}


async def test_a_realtime_that_was_closed_is_freed() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt, rt.subscribe(NUMBER):
        await rt.publish(NUMBER, 1)
    gone = weakref.ref(rt)
    transport._link = None  # the transport may be kept, and then so is its last connection
    del rt
    gc.collect()
    assert gone() is None
