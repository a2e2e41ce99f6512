"""Publishing through another process: nothing of a message changes on the way, and errors, retries and silence mean what they mean without it."""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

import anyio
import anyio.from_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanwire import Message, Realtime, TopicRef, errors
from fanwire.cli.relay import RelayTransport, error_of, lines, relayed, split_lines, terms_of
from fanwire.errors import ConnectionLost, FanwireError, Internal, PayloadTooLarge, PermissionDenied, Timeout, Unsupported
from fanwire.transport import TransportOptions
from fanwire_memory import MemoryOptions, MemoryTransport

TOPIC = TopicRef("chat:1", "tokens")


@asynccontextmanager
async def both_ends(transport: MemoryTransport, timeout: float = 10.0) -> AsyncGenerator[tuple[Realtime, Realtime]]:
    """Open the parent's Realtime and the child's, which are in one process here: the pipes are a call from a thread, as in the child."""

    def exchange(request: bytes) -> bytes:
        return anyio.from_thread.run(relayed, request, transport)

    async with Realtime(transport) as parent, Realtime(RelayTransport(exchange, terms_of(transport.capabilities)), timeout=timeout) as child:
        yield parent, child


@pytest.mark.anyio
async def test_a_message_arrives_as_the_child_sent_it() -> None:
    async with both_ends(MemoryTransport()) as (parent, child), parent.subscribe(TOPIC).raw() as messages:
        data = {"text": "déjà vu 漢字 🧵 \u2028 \x00", "number": 1.5e300, "deep": [None, {"a": []}]}
        receipt = await child.run("run-1").publish(TOPIC, data, key="key-1", headers={"näme": "välue"})
        again = await child.publish(TOPIC, data, key="key-1")
        await child.publish(TOPIC, "last")
        first, last = await anext(messages), await anext(messages)
    assert (first.data, first.run_id, first.key, first.headers) == (data, "run-1", "key-1", {"näme": "välue"})
    assert (receipt.id, receipt.cursor, receipt.duplicate) == (first.id, first.cursor, False)
    assert (again.cursor, again.duplicate) == (receipt.cursor, True)
    assert last.data == "last"


@pytest.mark.anyio
async def test_the_order_of_calls_holds_and_many_are_one_exchange() -> None:
    requests: list[bytes] = []
    transport = MemoryTransport()

    def exchange(request: bytes) -> bytes:
        requests.append(request)
        return anyio.from_thread.run(relayed, request, transport)

    async with (
        Realtime(transport) as parent,
        Realtime(RelayTransport(exchange, terms_of(transport.capabilities))) as child,
        parent.subscribe(TOPIC) as messages,
    ):
        await child.publish_many([TOPIC(number) for number in range(100)])
        assert len(requests) == 1
        async with anyio.create_task_group() as tasks:  # several channels at once: exchanges do not get mixed up
            for name in range(10):
                tasks.start_soon(child.publish, TopicRef(f"other:{name}", "tokens"), name)
        assert [(await anext(messages)).data for _ in range(100)] == list(range(100))


@pytest.mark.anyio
async def test_a_refusal_is_of_the_class_it_was() -> None:
    transport = MemoryTransport(options=MemoryOptions(max_payload=100_000))
    async with both_ends(transport) as (parent, child), parent.subscribe(TOPIC) as messages:
        transport.faults.refuse(PermissionDenied("the broker does not allow this"))
        with pytest.raises(PermissionDenied, match="the broker does not allow this"):
            await child.publish(TOPIC, 1)
        with pytest.raises(PayloadTooLarge) as caught:  # known to the child: nothing travels
            await child.publish(TOPIC, "x" * 100_000)
        assert caught.value.limit == 100_000
        await child.publish(TOPIC, 2)
        assert (await anext(messages)).data == 2


@pytest.mark.anyio
async def test_a_lost_answer_is_retried_under_its_id_where_that_repeats_nothing() -> None:
    transport = MemoryTransport()
    async with both_ends(transport) as (parent, child), parent.subscribe(TOPIC).with_gaps() as messages:
        transport.faults.lose_ack(1)
        receipt = await child.publish(TOPIC, "once")
        await child.publish(TOPIC, "then")
        found = [await anext(messages), await anext(messages)]
    assert [item.data for item in found if isinstance(item, Message)] == ["once", "then"]
    assert receipt.duplicate is False


@pytest.mark.anyio
async def test_a_lost_answer_is_an_unknown_outcome_where_a_retry_might_repeat() -> None:
    transport = MemoryTransport(options=MemoryOptions(history=0))
    async with both_ends(transport) as (_, child):
        transport.faults.lose_ack(1)
        with pytest.raises(ConnectionLost, match="outcome of this publish is unknown"):
            await child.publish(TOPIC, "once")


@pytest.mark.anyio
async def test_a_broken_connection_of_the_parent_is_waited_for() -> None:
    transport = MemoryTransport()
    async with both_ends(transport) as (parent, child), parent.subscribe(TOPIC) as messages:
        transport.faults.disconnect(refuse=1)
        await child.publish(TOPIC, "through")
        assert (await anext(messages)).data == "through"


@pytest.mark.anyio
async def test_a_parent_that_does_not_answer_is_waited_for_as_long_as_any_broker() -> None:
    released = threading.Event()

    def exchange(request: bytes) -> bytes:
        assert released.wait(20)
        return b"never read"

    try:
        with anyio.fail_after(10):
            async with Realtime(RelayTransport(exchange, terms_of(MemoryTransport().capabilities)), timeout=0.05) as child:
                with pytest.raises(Timeout, match="handed over, the outcome is unknown"):
                    await child.publish(TOPIC, 1)
                await child.aclose(0.05)
        assert not released.is_set()
    finally:
        released.set()


@pytest.mark.anyio
async def test_it_only_publishes() -> None:
    async with both_ends(MemoryTransport()) as (_, child):
        for name in ("multi_process", "confirmed_publish", "idempotent_publish"):
            assert name in child.capabilities.names()
        assert not {"confirmed_subscribe", "history"} & child.capabilities.names()
        with pytest.raises(Unsupported, match="a relay only publishes: subscribe in the parent process"):
            async with child.subscribe(TOPIC):
                pass
        with pytest.raises(Unsupported, match="a relay has no str"):
            child.native(str)
        await RelayTransport(lambda request: request, child.capabilities).ping()
    with pytest.raises(Unsupported, match="not from a URL"):
        RelayTransport.from_options(TransportOptions())


@pytest.mark.anyio
async def test_a_defect_of_the_transport_is_not_taken_for_an_answer() -> None:
    with pytest.raises(KeyError):  # in the parent, with its traceback
        await relayed(json.dumps([{"no": "message"}]).encode(), MemoryTransport())


# ---------------------------------------------------------------- errors and lines


def test_errors_are_made_anew_by_their_code() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, FanwireError)]
    assert len(kinds) > 20
    for kind in kinds:
        error = error_of(kind.code, "what it says")
        assert str(error) == "what it says"
        assert type(error) is (kind if "__init__" not in vars(kind) else FanwireError)
    assert type(error_of("internal", "x")) is Internal
    assert type(error_of("of the future", "x")) is FanwireError


def split(chunks: Sequence[bytes]) -> list[bytes]:
    splitter = split_lines()
    next(splitter)
    return [line for chunk in chunks for line in splitter.send(chunk)]


@given(text=st.lists(st.sampled_from([b"\n", b"a", b"bc", b"\r", b""])).map(b"".join), cuts=st.lists(st.integers(0, 30)))
def test_lines_are_the_same_however_the_stream_is_cut(text: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    chunks = [text[a:b] for a, b in pairwise(edges)]
    assert split(chunks) == text.split(b"\n")[:-1]


def test_a_long_line_costs_no_more_than_its_length() -> None:
    (line,) = split([b"x" * 65_536] * 1_000 + [b"\n"])  # joined anew with each chunk this would copy 32 GB
    assert len(line) == 65_536_000


@pytest.mark.anyio
async def test_what_a_killed_process_left_unfinished_is_dropped() -> None:
    async def chunks() -> AsyncGenerator[bytes]:
        yield b"one\ntw"
        yield b"o\nthr"

    assert [line async for line in lines(chunks())] == [b"one", b"two"]
