"""Rule 8, publish: returns when the broker accepted, with a receipt; one round trip for many; coalescing; timeouts; idempotency keys; all or a prefix."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import anyio
import pytest

from fanwire import Channel, Gap, Outgoing, Realtime, Receipt, static_schema, topic
from fanwire.errors import (
    DeclarationError,
    FanwireError,
    Internal,
    InvalidPayload,
    PartialPublish,
    PayloadTooLarge,
    PermissionDenied,
    Timeout,
    Unavailable,
)
from fanwire.hub import continuity
from fanwire.transport import Outbound
from fanwire_memory import MemoryOptions, MemoryTransport
from tests.rules.support import COUNTERS, LOG, QUIET, WRONG, Room, Toy, left_behind, settle, take, told, until, upto

pytestmark = pytest.mark.anyio

room = Room(number=1)
other = Room(number=2)

Answer = Callable[[Sequence[Outbound]], Awaitable[Sequence[Receipt | FanwireError]]]


def _numbers(toy: Toy) -> list[list[int]]:
    """Return the payloads of each batch that the transport was handed."""
    return [[int(message.data) for message in batch] for batch in toy.batches]


def _blocking(toy: Toy, *channels: str) -> anyio.Event:
    """Hold up every batch with one of ``channels`` until the event is set."""
    go = anyio.Event()

    async def publish(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        if any(message.channel in channels for message in batch):
            await go.wait()
        return await toy.accept(batch)

    toy.on_publish = publish
    return go


# ---------------------------------------------------------------------- returns when accepted, with a receipt


async def test_the_receipt_says_what_was_accepted_and_where_it_stands() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(room) as messages:
        receipt = await rt.publish(room.b, 7, key="k", headers={"trace": "x"})
        message = await anext(messages)
        assert receipt == Receipt(message.id, room.name, "b", message.cursor, False)
        assert receipt.cursor is not None
        assert (message.key, message.headers) == ("k", {"trace": "x"})
        following = await rt.publish(room.a(8))
        assert following.cursor is not None
        assert following.cursor.offset == receipt.cursor.offset + 1
    async with Realtime(Toy(COUNTERS)) as rt:
        assert (await rt.publish(room.a, 1)).cursor is None


async def test_it_returns_when_the_broker_has_accepted_and_not_before() -> None:
    toy = Toy()
    go = _blocking(toy, room.name)
    done: list[Receipt | Sequence[Receipt]] = []
    async with Realtime(toy) as rt, anyio.create_task_group() as tasks:

        async def one() -> None:
            done.append(await rt.publish(room.a, 1))

        async def many() -> None:
            done.append(await rt.publish_many([room.a(2), other.a(3)]))

        tasks.start_soon(one)
        tasks.start_soon(many)
        await until(lambda: bool(toy.batches), "it is handed over")
        await settle()
        assert done == []
        go.set()
    assert len(done) == 2


async def test_a_refusal_by_the_broker_is_raised_as_it_is() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt, rt.subscribe(room).with_gaps() as messages:
        transport.faults.refuse(PermissionDenied("read only"), 2)
        with pytest.raises(PermissionDenied, match="read only"):
            await rt.publish(room.a, -1)
        with pytest.raises(PermissionDenied, match="read only"):
            await rt.publish_many([room.a(-2)])
        await rt.publish(room.a, 1)
        assert await upto(messages, 1) == [1]


async def test_an_outgoing_is_a_publish_and_its_arguments_can_be_given_later() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(room) as messages:
        await rt.publish(room.a(1, key="inner", headers={"h": "inner"}))
        await rt.publish(room.a(2, key="inner", headers={"h": "inner"}), key="outer", headers={"h": "outer"})
        first, second = await take(messages, 2)
        assert (first.key, first.headers) == ("inner", {"h": "inner"})
        assert (second.key, second.headers) == ("outer", {"h": "outer"})


# ---------------------------------------------------------------------- one round trip; coalescing


async def test_publish_many_is_one_round_trip_over_all_channels() -> None:
    toy = Toy(LOG)
    rooms = [Room(number=number) for number in range(5)]
    async with Realtime(toy) as rt:
        receipts = await rt.publish_many(rooms[number % 5].a(number) for number in range(200))
        assert len(toy.batches) == 1
        # The lanes of a batch follow each other; each keeps its order.
        by_channel = [[int(message.data) for message in toy.batches[0] if message.channel == channel.name] for channel in rooms]
        assert by_channel == [list(range(number, 200, 5)) for number in range(5)]
        assert [(receipt.channel, receipt.cursor and receipt.cursor.offset) for receipt in receipts] == [
            (rooms[number % 5].name, number // 5 + 1) for number in range(200)
        ]
        assert await rt.publish_many([]) == []
        assert len(toy.batches) == 1


async def test_concurrent_publishes_coalesce_into_one_batch() -> None:
    toy = Toy()
    async with Realtime(toy) as rt:
        await settle()
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(rt.publish, (room if number % 2 else other).a, number)
        assert len(toy.batches) == 1
        assert sorted(_numbers(toy)[0]) == list(range(50))


async def test_what_is_published_while_a_batch_is_in_flight_goes_together_in_the_next() -> None:
    toy = Toy()
    go = _blocking(toy, room.name)
    async with Realtime(toy) as rt, anyio.create_task_group() as tasks:
        tasks.start_soon(rt.publish, room.a, 0)
        await until(lambda: len(toy.batches) == 1, "the first is in flight")
        for number in range(1, 30):
            tasks.start_soon(rt.publish, room.a, number)
            await settle(2)
        assert len(toy.batches) == 1
        go.set()
    assert _numbers(toy) == [[0], list(range(1, 30))]


async def test_coalescing_does_not_mix_up_who_gets_which_answer() -> None:
    toy = Toy(LOG)
    receipts: dict[int, Receipt] = {}
    errors: dict[int, FanwireError] = {}

    async def publish(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        return [PermissionDenied(f"no {message.data!r}") if int(message.data) % 10 == 3 else toy.store(message) for message in batch]

    toy.on_publish = publish
    async with Realtime(toy) as rt, anyio.create_task_group() as tasks:

        async def publisher(number: int) -> None:
            try:
                receipts[number] = await rt.publish(Room(number=number).a, number)
            except FanwireError as error:
                errors[number] = error

        for number in range(60):
            tasks.start_soon(publisher, number)
    assert {number: receipt.channel for number, receipt in receipts.items()} == {n: f"room:{n}" for n in range(60) if n % 10 != 3}
    assert {number: str(error) for number, error in errors.items()} == {n: f"no b'{n}'" for n in range(3, 60, 10)}


class _Suspensions:
    """Runs a coroutine and counts how often it lets go of the event loop."""

    def __init__(self, coroutine: Coroutine[object, object, object]) -> None:
        self.number = 0
        self._steps = coroutine.__await__()

    def __await__(self) -> Generator[object, object, None]:
        sent: object = None
        while True:
            try:
                step = self._steps.send(sent)
            except StopIteration:
                return
            self.number += 1
            sent = yield step


async def test_on_memory_a_lone_publish_does_not_suspend_but_for_fairness() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(room):
        at: list[int] = []
        for number in range(640):
            publish = _Suspensions(rt.publish(room.a, number))
            await publish
            if publish.number:
                at.append(number)
        assert len(at) == 10
        assert {later - earlier for earlier, later in pairwise(at)} == {64}


# ---------------------------------------------------------------------- timeouts


async def test_timeouts_are_ten_seconds_by_default() -> None:
    parameters = inspect.signature(Realtime).parameters
    assert (parameters["timeout"].default, parameters["connect_timeout"].default) == (10.0, 10.0)
    rt = Realtime(MemoryTransport())
    assert (rt.timeout, rt.connect_timeout) == (10.0, 10.0)


async def test_a_timeout_says_that_nothing_was_sent_where_nothing_was() -> None:
    toy = Toy()
    go = _blocking(toy, room.name)
    async with Realtime(toy, timeout=0.02) as rt, rt.subscribe(room).with_gaps() as messages, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: rt.publish(room.a, 1, timeout=10.0))
        await until(lambda: len(toy.batches) == 1, "the first is in flight")
        with pytest.raises(Timeout, match=r"publishing took longer than 0.02 s: it was not sent"):
            await rt.publish(room.a, -1)
        with pytest.raises(Timeout, match=r"0.01 s: it was not sent"):
            await rt.publish(room.a, -2, timeout=0.01)
        go.set()
        await until(lambda: left_behind(rt)["publishing"] == 0, "all is sent")
        await rt.publish(room.a, 2)
        assert await upto(messages, 2) == [1, 2]


async def test_a_timeout_says_that_the_outcome_is_unknown_where_it_was_sent() -> None:
    toy = Toy()
    go = _blocking(toy, room.name)
    async with Realtime(toy) as rt, rt.subscribe(room).with_gaps() as messages:
        with pytest.raises(Timeout, match=r"0.02 s: it was handed over, the outcome is unknown") as caught:
            await rt.publish(room.a, 1, timeout=0.02)
        assert caught.value.retryable
        go.set()
        await rt.publish(room.a, 2)
        assert await upto(messages, 2) == [1, 2]


async def test_a_timeout_does_not_claim_that_anything_was_sent_when_the_transport_said_it_was_not() -> None:
    """``Unavailable`` means that nothing of the batch was sent: it waits to be offered again, and is then taken back."""
    toy = Toy()

    async def unavailable(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        raise Unavailable("toy: busy")

    toy.on_publish = unavailable
    async with Realtime(toy) as rt, rt.subscribe(room).with_gaps() as messages:
        with pytest.raises(Timeout, match="it was not sent"):
            await rt.publish(room.a, -1, timeout=0.02)
        toy.on_publish = toy.accept
        await rt.publish(room.a, 1)
        assert await upto(messages, 1) == [1]


async def test_a_timeout_of_many_tells_each_ones_fate() -> None:
    """One was accepted, one is in flight, one waits behind it in its lane."""
    toy = Toy()
    stuck = Room(number=3)
    go = _blocking(toy, other.name)
    async with Realtime(toy) as rt, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: rt.publish(other.a, 1))
        await until(lambda: len(toy.batches) == 1, "the lane is busy")
        with pytest.raises(PartialPublish) as caught:
            await rt.publish_many([room.a(2), other.a(3), stuck.a(4)], timeout=0.05)
        accepted, waiting, also = caught.value.results
        assert isinstance(accepted, Receipt)
        assert isinstance(also, Receipt)
        assert isinstance(waiting, Timeout)
        assert "it was not sent" in str(waiting)
        with pytest.raises(Timeout, match="it was not sent"):  # all of them, for one reason
            await rt.publish_many([other.a(5), other.a(6)], timeout=0.02)
        go.set()
        await until(lambda: left_behind(rt) == QUIET, "all is sent")
        assert sorted(number for batch in _numbers(toy) for number in batch) == [1, 2, 4]


async def test_a_timeout_of_one_message_given_to_publish_many_is_raised_as_it_is() -> None:
    toy = Toy()
    go = _blocking(toy, room.name)
    async with Realtime(toy) as rt:
        with pytest.raises(Timeout, match="outcome is unknown"):
            await rt.publish_many([room.a(1)], timeout=0.02)
        go.set()


# ---------------------------------------------------------------------- idempotency keys


async def test_a_repeat_under_the_same_key_is_suppressed_by_the_broker_that_can() -> None:
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(room.a, room.b, other.a).with_gaps() as messages:
        first = await rt.publish(room.a, 1, key="k")
        again = await rt.publish(room.b, -1, key="k")
        assert again.duplicate
        assert not first.duplicate
        assert again.cursor == first.cursor
        elsewhere = await rt.publish(other.a, 2, key="k")
        assert not elsewhere.duplicate, "a key is a channel's"
        receipts = await rt.publish_many([room.a(-2, key="k"), room.a(3, key="l"), room.a(-3, key="l"), room.a(4)])
        assert [receipt.duplicate for receipt in receipts] == [True, False, True, False]
        assert await upto(messages, 4) == [1, 2, 3, 4]


@pytest.mark.parametrize("capabilities", [COUNTERS, replace(LOG, idempotent_publish=False)], ids=["counters", "positions"])
async def test_elsewhere_the_receiving_hub_suppresses_it_for_everybody(capabilities: Any) -> None:
    toy = Toy(capabilities)
    async with Realtime(toy) as rt, rt.subscribe(room).with_gaps() as messages, rt.subscribe(room.a, other.a) as both:
        for number, key in ((1, "k"), (-1, "k"), (2, None), (-1, "k"), (3, "l"), (-1, "l"), (4, None)):
            assert not (await rt.publish(room.a, number, key=key)).duplicate
        await rt.publish(other.a, 5, key="k")
        assert await upto(messages, 4) == [1, 2, 3, 4]
        assert told(await take(both, 5)) == [1, 2, 3, 4, 5]
        assert rt.stats().duplicates == 3
        assert rt.stats().gaps == 0


async def test_outside_the_window_a_repeat_appears(monkeypatch: pytest.MonkeyPatch) -> None:
    """The window is bounded; within it, even a repeat from long ago is known."""
    monkeypatch.setattr(continuity, "_WINDOW", 100)
    toy = Toy(COUNTERS)
    async with Realtime(toy) as rt, rt.subscribe(room).with_gaps() as messages:
        for number in range(100):
            await rt.publish(room.a, number, key=f"k{number}")
        await rt.publish(room.a, -1, key="k0")
        await rt.publish(room.a, 100, key="k100")
        await rt.publish(room.a, 101, key="k0")
        await rt.publish(room.a, -1, key="k50")
        await rt.publish(room.a, 102)
        assert await upto(messages, 102) == list(range(103))


async def test_a_message_with_a_key_keeps_an_id_of_its_own() -> None:
    toy = Toy()
    async with Realtime(toy) as rt:
        first, second = await rt.publish(room.a, 1, key="k"), await rt.publish(room.a, 2, key="k")
        assert first.id != second.id
        assert first.id.partition(".")[0] == second.id.partition(".")[0]
        assert (first.id.rpartition(".")[2], second.id.rpartition(".")[2]) == ("1", "2")


# ---------------------------------------------------------------------- all are checked before any is sent


class Strict(Channel, name="strict"):
    number = topic(int)
    anything = topic(object, validate=False)
    static = topic(static_schema(object))


HOSTILE: dict[str, tuple[Outgoing[Any], type[FanwireError], str]] = {
    "data": (room.a(WRONG), InvalidPayload, "topic 'a' of channel 'room:1'"),
    "not JSON": (Strict().anything({1, 2, object()}), InvalidPayload, "topic 'anything' of channel 'strict'"),
    "not JSON, static": (Strict().static(object()), InvalidPayload, "topic 'static' of channel 'strict'"),
    "too large": (Strict().anything("x" * 5000), PayloadTooLarge, "at most 4,000"),
    "too large with headers": (Strict().anything("x" * 3000, headers={"h": "y" * 1000}), PayloadTooLarge, "at most 4,000"),
    "empty key": (room.a(1, key=""), InvalidPayload, "key: must be 1 to 255 bytes"),
    "long key": (room.a(1, key="k" * 256), InvalidPayload, "key: must be 1 to 255 bytes"),
    "key that is no Unicode": (room.a(1, key="\ud800"), InvalidPayload, "key: must be 1 to 255 bytes of valid UTF-8"),
    "too many headers": (room.a(1, headers={str(n): "x" * 100 for n in range(100)}), InvalidPayload, "headers"),
    "no headers": (room.a(1, headers={"": "x"}), InvalidPayload, "names must not be empty"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize(
    "make", [lambda options: MemoryTransport("", options), lambda options: Toy(replace(LOG, max_payload=options.max_payload))], ids=["memory", "toy"]
)
async def test_nothing_is_sent_unless_all_may_be(case: str, make: Callable[[MemoryOptions], MemoryTransport | Toy]) -> None:
    bad, kind, text = HOSTILE[case]
    async with Realtime(make(MemoryOptions(max_payload=4000))) as rt, rt.subscribe(room).with_gaps() as messages:
        first = await rt.publish(room.a, 1)
        with pytest.raises(kind) as caught:
            await rt.publish_many([room.a(-1), other.a(-1), bad, room.a(-2)])
        assert text in str(caught.value)
        with pytest.raises(kind):
            await rt.publish(bad)
        second = await rt.publish(room.a, 2)
        assert await upto(messages, 2) == [1, 2]
        assert rt.stats().published == 2
        assert rt.stats().publishing == 0
        # What was refused took no number.
        assert second.id == first.id[:-1] + "2"


async def test_a_generator_that_raises_sends_nothing() -> None:
    def broken() -> Any:
        yield room.a(-1)
        raise LookupError("no more")

    toy = Toy()
    async with Realtime(toy) as rt:
        with pytest.raises(LookupError):
            await rt.publish_many(broken())
        assert toy.batches == []
        assert left_behind(rt) == QUIET


FOREIGN: dict[str, tuple[Any, str]] = {
    "a channel": (room, "choose one of its topics"),
    "a declaration": (Room.a, "make an instance of its channel first"),
    "a name": ("room:1", "got str"),
    "nothing": (None, "got NoneType"),
    "a ref without data": (room.a, "no data was given"),
}


@pytest.mark.parametrize("case", FOREIGN)
async def test_what_is_no_topic_is_refused_with_what_would_have_been_right(case: str) -> None:
    value, text = FOREIGN[case]
    async with Realtime(MemoryTransport()) as rt:
        with pytest.raises(DeclarationError, match="publish.. takes a topic of a channel, such as chat.status, and its data") as caught:
            await rt.publish(value)
        assert text in str(caught.value)
        if case != "a ref without data":
            with pytest.raises(DeclarationError):
                await rt.publish(value, 1)
        with pytest.raises(DeclarationError, match="publish_many"):
            await rt.publish_many([room.a(-1), value])
        with pytest.raises(DeclarationError, match=r"ref\(data\) in place of \(ref, data\)"):
            await rt.publish_many([(room.a, 1)])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]  # on purpose
        assert rt.stats().published == 0


# ---------------------------------------------------------------------- a partial refusal


async def test_a_partial_refusal_raises_the_results_and_a_prefix_of_the_channel_is_accepted() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt, rt.subscribe(room.a, room.b, other.a).with_gaps() as messages:
        transport.faults.refuse(PermissionDenied("quota"), skip=2, channel=room.name)
        with pytest.raises(PartialPublish, match="3 of 7 messages were not accepted: quota") as caught:
            await rt.publish_many([room.a(1), other.a(11), room.b(2), room.a(-1), other.a(12), room.a(-2), room.b(-3)])
        results = caught.value.results
        assert [type(result) for result in results] == [Receipt, Receipt, Receipt, PermissionDenied, Receipt, Unavailable, Unavailable]
        assert "an earlier message of the same call" in str(results[5])
        assert [result.topic for result in results if isinstance(result, Receipt)] == ["a", "a", "b", "a"]
        await rt.publish(room.a, 3)
        found = [item for item in await upto(messages, 3) if not isinstance(item, Gap)]
        assert [n for n in found if n < 10] == [1, 2, 3]
        assert [n for n in found if n > 10] == [11, 12]
        assert rt.stats().gaps == 0


async def test_when_all_are_refused_that_is_partial_too() -> None:
    transport = MemoryTransport()
    async with Realtime(transport) as rt:
        transport.faults.refuse(PermissionDenied("quota"))
        with pytest.raises(PartialPublish, match="2 of 2") as caught:
            await rt.publish_many([room.a(1), room.a(2)])
        assert [type(result) for result in caught.value.results] == [PermissionDenied, Unavailable]


async def test_behind_a_refusal_the_messages_of_other_callers_are_sent_again_in_order() -> None:
    """They were in the same batch by chance; whatever the transport answers for them, they were not sent."""
    toy = Toy(COUNTERS)
    go = _blocking(toy, room.name)
    answers: dict[int, type] = {}
    async with Realtime(toy) as rt, rt.subscribe(room).with_gaps() as messages:
        async with anyio.create_task_group() as tasks:

            async def publisher(*numbers: int) -> None:
                try:
                    for number, result in zip(numbers, await rt.publish_many([room.a(number) for number in numbers]), strict=True):
                        answers[number] = type(result)
                except PartialPublish as error:
                    answers.update({number: type(result) for number, result in zip(numbers, error.results, strict=True)})
                except FanwireError as error:
                    answers[numbers[0]] = type(error)

            tasks.start_soon(publisher, 0)
            await until(lambda: len(toy.batches) == 1, "the lane is busy")
            for numbers in ((1,), (2, 100, 3), (4,), (5, 6)):
                tasks.start_soon(publisher, *numbers)
                await settle(3)

            async def refuse_100(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
                results: list[Receipt | FanwireError] = []
                for message in batch:
                    refused = any(isinstance(result, FanwireError) for result in results)
                    results.append(PermissionDenied("quota") if refused or message.data == b"100" else toy.store(message))
                return results

            go.set()
            toy.on_publish = refuse_100
        await rt.publish(room.a, 7)
        assert await upto(messages, 7) == [0, 1, 2, 4, 5, 6, 7]
        assert answers == {**dict.fromkeys((0, 1, 2, 4, 5, 6), Receipt), 100: PermissionDenied, 3: Unavailable}
        assert rt.stats().gaps == 0


async def test_an_answer_that_does_not_fit_the_batch_leaves_nobody_waiting() -> None:
    """A defect of the transport: too few results, or an unexpected exception."""
    toy = Toy()

    async def too_few(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        return []

    async def broken(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        raise ZeroDivisionError("division by zero")

    async with Realtime(toy) as rt:
        toy.on_publish = broken
        with pytest.raises(Internal, match="unexpected ZeroDivisionError in publish"), anyio.fail_after(5):
            await rt.publish(room.a, 1)
        toy.on_publish = too_few
        with pytest.raises(FanwireError), anyio.fail_after(5):
            await rt.publish(room.a, 2)
        toy.on_publish = toy.accept
        assert (await rt.publish(room.a, 3)).channel == room.name
        assert left_behind(rt) == QUIET


async def test_the_check_notices_a_repeat_that_is_not_suppressed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuity, "_note", lambda *_: True)
    with pytest.raises(AssertionError):
        await test_elsewhere_the_receiving_hub_suppresses_it_for_everybody(COUNTERS)
