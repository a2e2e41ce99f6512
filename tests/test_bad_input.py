"""Bad input, through the public interface: each gets a clear, typed error; nothing is lost for anybody else, and the Realtime goes on working."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint
from pydantic import BaseModel, Field

from fanwire import Channel, Gap, GapReason, Message, Outgoing, Realtime, Start, StaticChannel, Subscription, TopicRef, channel, topic
from fanwire.errors import Closed, DeclarationError, FieldError, InvalidName, InvalidPayload, WrongLoop
from fanwire.events import InvalidMessage, SubscriptionStats
from fanwire.transport import Transport
from fanwire_memory import MemoryTransport
from tests.rules.support import Toy

pytestmark = pytest.mark.anyio


class Status(BaseModel):
    message: str
    step: int = Field(default=0, ge=0)


class Usage(BaseModel):
    tokens: int


class Chat(Channel, name="chat:{thread_id}"):
    thread_id: str
    status = topic(Status)
    usage = topic(Usage, validate=False)


class Pair(Channel, name="pair:{left}:{right}"):
    left: str
    right: int
    status = topic(Status)


class Alerts(StaticChannel, name="alerts"):
    alert = topic(Status)


chat = Chat(thread_id="t1")

BROKERS: dict[str, Callable[[], Transport]] = {"positions": MemoryTransport, "counters": Toy}
"""With counters alone, a number that a refused message had taken would show as a hole."""


@pytest.fixture(params=BROKERS)
def transport(request: pytest.FixtureRequest) -> Transport:
    name: str = request.param
    return BROKERS[name]()


@asynccontextmanager
async def unharmed(transport: Transport, *between: str) -> AsyncGenerator[Realtime]:
    """Open a Realtime for the body to mistreat; a neighbour on the same channel must see what is published around it, and ``between``, and nothing else."""
    async with Realtime(transport) as rt, rt.subscribe(chat.status).with_gaps() as neighbour:
        await rt.publish(chat.status, Status(message="before"))
        yield rt
        await rt.publish(chat.status, Status(message="after"))
        expected = ["before", *between, "after"]
        assert await texts(neighbour, len(expected)) == expected
        assert neighbour.stats() == SubscriptionStats(received=len(expected), lost=0, gaps=0, lag=0, invalid=0)
        stats = rt.stats()
        assert (stats.publishing, stats.invalid, stats.gaps) == (0, 0, 0)


async def texts(items: Subscription[Message[Status] | Gap], number: int) -> list[str | Gap]:
    with anyio.fail_after(10):
        found = [await anext(items) for _ in range(number)]
    return [item if isinstance(item, Gap) else item.data.message for item in found]


# ---------------------------------------------------------------------- invalid payload

WRONG_STATUS: Any = {"step": -1}
"""Without a message, and with a step below 0; ``Any`` so that no checker refuses it."""

FAULTS = {"message": "Field required", "step": "Input should be greater than or equal to 0"}


def _names_everything(error: InvalidPayload) -> None:
    assert (error.channel, error.topic) == ("chat:t1", "status")
    assert {fault.location: fault.message for fault in error.errors} == FAULTS
    for part in ("'chat:t1'", "'status'", *(f"{field}: {text}" for field, text in FAULTS.items())):
        assert part in str(error)


async def test_an_invalid_payload_names_channel_topic_and_each_field(transport: Transport) -> None:
    async with unharmed(transport) as rt:
        with pytest.raises(InvalidPayload) as caught:
            await rt.publish(chat.status, WRONG_STATUS)
        _names_everything(caught.value)
        with pytest.raises(InvalidPayload) as caught:
            await rt.publish(chat.status(WRONG_STATUS))
        _names_everything(caught.value)


async def test_one_invalid_payload_among_many_sends_none(transport: Transport) -> None:
    async with unharmed(transport) as rt:
        with pytest.raises(InvalidPayload) as caught:
            await rt.publish_many([chat.status(Status(message="good")), chat.status(WRONG_STATUS), chat.status(Status(message="good too"))])
        _names_everything(caught.value)


async def test_an_invalid_payload_is_not_echoed() -> None:
    secret: Any = {"message": ["hunter2"]}
    async with unharmed(MemoryTransport()) as rt:
        with pytest.raises(InvalidPayload) as caught:
            await rt.publish(chat.status, secret)
    assert caught.value.errors == (FieldError("message", "Input should be a valid string"),)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value)


async def test_the_error_names_the_nested_field() -> None:
    class Tree(StaticChannel, name="tree"):
        leaves = topic(dict[str, list[Status]])

    wrong: Any = {"a": [{"message": "m"}, {"message": 1}]}
    async with unharmed(MemoryTransport()) as rt:
        with pytest.raises(InvalidPayload) as caught:
            await rt.publish(Tree.leaves, wrong)
    assert [fault.location for fault in caught.value.errors] == ["a.1.message"]


async def test_a_schema_that_raises_anything_refuses_the_payload() -> None:
    class Moody:
        def validate(self, value: object, /) -> int:
            raise ZeroDivisionError("moody")

        def dump(self, value: int, /) -> bytes:
            return b"0"

        def load(self, data: bytes, /) -> int:
            return 0

    async with unharmed(MemoryTransport()) as rt:
        with pytest.raises(InvalidPayload, match="topic 'x' of channel 'moody': moody") as caught:
            await rt.publish(TopicRef("moody", "x", Moody()), 1)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(("key", "headers", "field"), [("", None, "key"), ("k" * 256, None, "key"), (None, {"": "x"}, "headers")])
async def test_a_wrong_key_or_header_is_told_and_sends_nothing(
    transport: Transport, key: str | None, headers: dict[str, str] | None, field: str
) -> None:
    async with unharmed(transport) as rt:
        with pytest.raises(InvalidPayload) as caught:
            await rt.publish(chat.status, Status(message="never"), key=key, headers=headers)
        assert [fault.location for fault in caught.value.errors] == [field]
        with pytest.raises(InvalidPayload):
            await rt.publish_many([chat.status(Status(message="never"), key=key, headers=headers)])


async def test_an_invalid_payload_of_a_foreign_publisher_is_reported_and_skipped() -> None:
    """The receiving side of the same: another program publishes what the schema refuses."""
    reported: list[InvalidMessage] = []
    async with Realtime(MemoryTransport(), on_invalid=reported.append) as rt, rt.subscribe(chat.status).with_gaps() as messages:
        await rt.publish(chat.status, Status(message="before"))
        await rt.publish(TopicRef(chat.name, "status"), {"step": -1})
        await rt.publish(chat.status, Status(message="after"))
        assert await texts(messages, 2) == ["before", "after"]
        assert messages.stats() == SubscriptionStats(received=2, lost=0, gaps=0, lag=0, invalid=1)
    (message,) = reported
    assert (message.channel, message.topic) == ("chat:t1", "status")
    for field, text in FAULTS.items():
        assert f"{field}: {text}" in message.reason


# ---------------------------------------------------------------------- what JSON cannot hold, under a type-only topic


def _circle() -> list[object]:
    circle: list[object] = []
    circle.append(circle)
    return circle


def _deep() -> object:
    deep: object = 0
    for _ in range(100_000):
        deep = [deep]
    return deep


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


UNWRITABLE: dict[str, Callable[[], object]] = {
    "object": object,
    "function": lambda: len,
    "nested": lambda: {"a": [1, {"b": object()}]},
    "lone surrogate": lambda: "\ud800",
    "bytes that are no text": lambda: b"\xff",
    "key that is no text": lambda: {object(): 1},
    "circle": _circle,
    "too deep": _deep,
    "no repr": Hostile,
    "lock": threading.Lock,
}


@pytest.mark.parametrize("make", UNWRITABLE.values(), ids=UNWRITABLE.keys())
async def test_data_that_json_cannot_hold_is_refused_under_a_type_only_topic(make: Callable[[], object]) -> None:
    data: Any = make()
    for transport in (make_broker() for make_broker in BROKERS.values()):
        async with unharmed(transport) as rt:
            with pytest.raises(InvalidPayload) as caught:
                await rt.publish(chat.usage, data)
            assert (caught.value.channel, caught.value.topic) == ("chat:t1", "usage")
            assert "topic 'usage' of channel 'chat:t1'" in str(caught.value)
            with pytest.raises(InvalidPayload):
                await rt.publish_many([chat.status(Status(message="never")), chat.usage(data)])


async def test_a_type_only_topic_takes_whatever_json_holds() -> None:
    """The negative control: these are no errors."""
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(chat.usage) as messages:
        for data in ({"tokens": "many"}, None, [1, "x"], "é\n\u2028", 2**70):
            wrong: Any = data
            await rt.publish(chat.usage, wrong)
            with anyio.fail_after(10):
                received: object = (await anext(messages)).data
            assert received == data


# ---------------------------------------------------------------------- names

HOSTILE: dict[str, str] = {
    "empty": "",
    "line break": "a\r\nb",
    "nul": "a\0b",
    "escape": "a\x1b[2Jb",
    "bidi": "a\u202eb",
    "surrogate": "a\ud800b",
    "line separator": "a\u2028b",
    "leading space": " a",
    "trailing space": "a ",
    "not composed": "e\u0301",
    "256 bytes": "n" * 256,
    "256 bytes of two": "é" * 128,
    "megabytes": "n" * 5_000_000,
}


def _same(name: str) -> str:
    return name


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
async def test_hostile_and_over_long_names_are_refused(name: str) -> None:
    async with unharmed(MemoryTransport()) as rt:
        for call in (
            lambda: TopicRef(name, "status"),
            lambda: TopicRef("chat:t1", name),
            lambda: rt.subscribe(name),
            lambda: rt.subscribe("chat:t1", topics=[name]),
            lambda: rt.subscribe(chat, topics=["status", name]),
            lambda: channel(name=_same, topics={"status": Status})(name),
        ):
            with pytest.raises(InvalidName) as caught:
                call()
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 600
        with pytest.raises(InvalidName):
            await rt.history(name)


@pytest.mark.parametrize("thread_id", ["a\nb", "\u202e", "\ud800", "", "e\u0301", "n" * 251, "trailing "])
async def test_a_param_that_makes_a_hostile_name_is_refused(thread_id: str) -> None:
    async with unharmed(MemoryTransport()):
        with pytest.raises(InvalidName, match="^Chat: "):
            Chat(thread_id=thread_id)


@pytest.mark.parametrize("name", ["chat:*", "chat:>", 'say "hi"', "back\\slash", "{braces}", "../up", "a b", "日本語 🎈", "n" * 255, "é" * 127])
async def test_unusual_names_that_may_exist_carry_messages_and_meet_no_other(name: str) -> None:
    """The negative control; and a wildcard is nothing but a name."""
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(name) as odd, rt.subscribe(chat) as other:
        ref: TopicRef[int] = TopicRef(name, 'top"ic\\')
        await rt.publish(ref, 1)
        await rt.publish(chat.status, Status(message="m"))
        with anyio.fail_after(10):
            message, control = await anext(odd), await anext(other)
        assert (message.channel, message.topic, message.data) == (name, 'top"ic\\', 1)
        assert control.channel == "chat:t1"
        assert odd.stats().lag == other.stats().lag == 0


# ---------------------------------------------------------------------- params

UNCHECKED_CHAT: Any = Chat
"""``Any`` lets pass what a checker would not; so below."""
UNCHECKED_PAIR: Any = Pair

WRONG_PARAMS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "missing": (lambda: UNCHECKED_CHAT(), DeclarationError, "Chat needs thread_id"),
    "positional": (lambda: UNCHECKED_CHAT("t1"), DeclarationError, "Chat takes its params as keywords"),
    "unknown": (lambda: UNCHECKED_CHAT(thread_id="t1", thread="t1"), DeclarationError, "Chat has no param 'thread'"),
    "wrong type": (lambda: UNCHECKED_CHAT(thread_id=object()), InvalidName, "Chat: thread_id"),
    "not a number": (lambda: UNCHECKED_PAIR(left="a", right="b"), InvalidName, "Pair: right"),
    "separator": (lambda: Pair(left="a:b", right=1), InvalidName, "would be read back as other values"),
    "another channel's name": (lambda: Chat.parse("pair:a:1"), InvalidName, "is not the name of a Chat"),
    "not canonical": (lambda: Pair.parse("pair:a:01"), InvalidName, "the channel is called 'pair:a:1'"),
}


@pytest.mark.parametrize(("call", "kind", "says"), WRONG_PARAMS.values(), ids=WRONG_PARAMS.keys())
async def test_wrong_params_are_told_and_what_to_pass(call: Callable[[], object], kind: type[Exception], says: str) -> None:
    async with unharmed(MemoryTransport()):
        with pytest.raises(kind) as caught:
            call()
        assert says in str(caught.value)


# ---------------------------------------------------------------------- publish after close


async def test_whatever_is_asked_of_a_closed_realtime_is_refused_and_what_was_published_is_still_there() -> None:
    here, there = MemoryTransport("bad-input-closed"), MemoryTransport("bad-input-closed")
    async with unharmed(there, "in time") as other:
        async with Realtime(here) as rt:
            late = rt.subscribe(chat.status)
            async with rt.subscribe(chat.status) as queued:
                await rt.publish(chat.status, Status(message="in time"))
                await rt.aclose()
                assert [message.data.message async for message in queued] == ["in time"]
        for call in _every_call(rt):
            with pytest.raises(Closed, match="this Realtime is closed"):
                await call()
        with pytest.raises(Closed, match="this Realtime is closed"):
            await late.__aenter__()
        with pytest.raises(Closed, match="entered before"):
            await rt.__aenter__()
        await rt.aclose()
        assert other.stats().published == 1


async def test_whatever_is_asked_of_a_realtime_that_was_not_entered_says_how_to_enter_it() -> None:
    rt = Realtime(MemoryTransport())
    for call in _every_call(rt):
        with pytest.raises(Closed, match="async with Realtime"):
            await call()
    async with rt:
        assert (await rt.publish(chat.status, Status(message="now"))).channel == chat.name


def _every_call(rt: Realtime) -> list[Callable[[], Awaitable[object]]]:
    async def follow() -> None:
        async with rt.events():
            pytest.fail("it was opened")

    return [
        lambda: rt.publish(chat.status, Status(message="late")),
        lambda: rt.publish(chat.status(Status(message="late"))),
        lambda: rt.publish_many([chat.status(Status(message="late"))]),
        lambda: rt.publish_many([]),
        lambda: rt.history(chat.status),
        lambda: rt.subscribe(chat.status).__aenter__(),
        rt.ping,
        follow,
    ]


async def test_a_subscription_is_used_before_and_after_its_time() -> None:
    async with unharmed(MemoryTransport()) as rt:
        messages = rt.subscribe(chat.usage)
        with pytest.raises(RuntimeError, match="async with"):
            await anext(messages)
        with pytest.raises(RuntimeError, match="async with"):
            aiter(messages)
        async with messages:
            pass
        with pytest.raises(Closed, match="closed"):
            aiter(messages)
        with pytest.raises(StopAsyncIteration):
            await anext(messages)
        with pytest.raises(RuntimeError, match="entered before"):
            await messages.__aenter__()


# ---------------------------------------------------------------------- a foreign ref

REF_LIKE = SimpleNamespace(channel="chat:t1", topic="status", schema=chat.status.schema)

FOREIGN: dict[str, tuple[Any, str]] = {  # Any: nothing of this is a topic
    "a declaration": (Chat.status, "make an instance of its channel first"),
    "a channel": (chat, "is a channel: choose one of its topics"),
    "a channel class": (Chat, "is a channel: choose one of its topics"),
    "a static channel": (Alerts, "is a channel: choose one of its topics"),
    "a tuple": (("chat:t1", "status"), "got tuple"),
    "a name": ("chat:t1", "got str"),
    "nothing": (None, "got NoneType"),
    "what looks like one": (REF_LIKE, "got SimpleNamespace"),
    "the class of refs": (TopicRef, "got type"),
}


@pytest.mark.parametrize(("foreign", "says"), FOREIGN.values(), ids=FOREIGN.keys())
async def test_a_foreign_ref_is_refused_when_publishing(transport: Transport, foreign: Any, says: str) -> None:
    async with unharmed(transport) as rt:
        with pytest.raises(DeclarationError, match="publish.. takes a topic of a channel") as caught:
            await rt.publish(foreign, Status(message="m"))
        assert says in str(caught.value)
        with pytest.raises(DeclarationError, match="publish.. takes a topic of a channel") as caught:
            await rt.publish(foreign)
        assert says in str(caught.value)
        with pytest.raises(DeclarationError, match=r"publish_many.. takes messages made by calling a topic"):
            await rt.publish_many([chat.status(Status(message="never")), foreign])


@pytest.mark.parametrize(("foreign", "says"), FOREIGN.values(), ids=FOREIGN.keys())
async def test_a_foreign_ref_inside_an_outgoing_is_refused(foreign: Any, says: str) -> None:
    async with unharmed(MemoryTransport()) as rt:
        wrong: Outgoing[Any] = Outgoing(foreign, Status(message="m"))
        with pytest.raises(DeclarationError) as caught:
            await rt.publish(wrong)
        assert says in str(caught.value)
        for messages in ([wrong], [chat.status(Status(message="never")), wrong]):
            with pytest.raises(DeclarationError) as caught:
                await rt.publish_many(messages)
            assert says in str(caught.value)


@pytest.mark.parametrize(("foreign", "says"), FOREIGN.values(), ids=FOREIGN.keys())
async def test_a_foreign_ref_among_refs_is_refused_when_subscribing(foreign: Any, says: str) -> None:
    async with unharmed(MemoryTransport()) as rt:
        with pytest.raises(DeclarationError, match="subscribe.. takes a topic of a channel") as caught:
            rt.subscribe(chat.status, foreign)
        assert says in str(caught.value)


@pytest.mark.parametrize("name", ["a declaration", "a channel class", "a tuple", "nothing", "what looks like one", "the class of refs"])
async def test_what_is_neither_topic_nor_channel_is_refused_when_subscribing(name: str) -> None:
    """Some foreign refs are good here: a channel, a static channel, a name."""
    foreign = FOREIGN[name][0]
    async with unharmed(MemoryTransport()) as rt:
        with pytest.raises(DeclarationError):
            rt.subscribe(foreign)
        with pytest.raises(DeclarationError):
            await rt.history(foreign)


async def test_a_ref_without_data_and_pairs_in_place_of_outgoing_are_told() -> None:
    async with unharmed(MemoryTransport()) as rt:
        with pytest.raises(DeclarationError, match="no data was given for TopicRef"):
            await rt.publish(chat.status)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]  # that is what is tested
        pairs: Any = [(chat.status, Status(message="m"))]
        with pytest.raises(DeclarationError, match=r"ref\(data\) in place of \(ref, data\)"):
            await rt.publish_many(pairs)


# ---------------------------------------------------------------------- a second event loop


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_a_second_event_loop_is_refused(backend: str) -> None:
    async with unharmed(MemoryTransport()) as rt:

        async def misuse() -> list[str]:
            told: list[str] = []
            for call in (*_every_call(rt), rt.aclose):
                with pytest.raises(WrongLoop) as caught:
                    await call()
                told.append(str(caught.value))
            return told

        told = await to_thread.run_sync(lambda: anyio.run(misuse, backend=backend))
        assert len(told) == 9
        assert all("belongs to the event loop it was entered in" in text and "open one per event loop" in text for text in told)


async def test_no_event_loop_at_all_is_refused() -> None:
    """A coroutine driven by hand, as a synchronous program may try."""
    async with unharmed(MemoryTransport()) as rt:

        def drive() -> None:
            publishing = rt.publish(chat.status, Status(message="never"))
            try:
                publishing.send(None)
            finally:
                publishing.close()

        with pytest.raises(WrongLoop, match="no event loop runs here"):
            await to_thread.run_sync(drive)


# ---------------------------------------------------------------------- a start that is none


@pytest.mark.parametrize("cursor", [None, 3, 2.5, ["e:1:-"], {"chat:t1": None}], ids=repr)
async def test_a_start_after_what_is_no_cursor_is_refused(cursor: Any) -> None:
    """A message's cursor is ``None`` where the transport has no positions; going on after it must not begin somewhere else in silence."""
    async with unharmed(MemoryTransport()) as rt:
        with pytest.raises((ValueError, TypeError), match="cursor"):
            rt.subscribe(chat.status, start=Start.after(cursor))


@pytest.mark.parametrize("n", [0, -1, 2.5, "3", None], ids=repr)
async def test_a_start_with_the_last_of_no_number_is_refused(n: Any) -> None:
    async with unharmed(MemoryTransport()) as rt:
        with pytest.raises((ValueError, TypeError)):
            rt.subscribe(chat.status, start=Start.last(n))


# ---------------------------------------------------------------------- subscribers that misbehave


async def test_a_subscriber_that_never_reads_costs_nobody_else_anything() -> None:
    async with (
        Realtime(MemoryTransport()) as rt,
        rt.subscribe(chat.status, buffer=10).with_gaps() as idle,
        rt.subscribe(chat.status).with_gaps() as busy,
    ):
        with anyio.fail_after(30):
            for number in range(5_000):
                await rt.publish(chat.status, Status(message=str(number)))
                assert await texts(busy, 1) == [str(number)]
        assert busy.stats() == SubscriptionStats(received=5_000, lost=0, gaps=0, lag=0, invalid=0)
        assert rt.stats().buffered_bytes < 200_000
        # What it has lost is told, and it can begin to read at last.
        assert await texts(idle, 11) == [Gap(chat.name, GapReason.LAGGED, 4_990), *map(str, range(4_990, 5_000))]
        await rt.publish(chat.status, Status(message="after"))
        assert await texts(idle, 1) == await texts(busy, 1) == ["after"]


async def test_a_subscriber_that_never_reads_is_closed_like_any_other() -> None:
    with anyio.fail_after(10):
        async with Realtime(MemoryTransport(), linger=0.0) as rt:
            async with rt.subscribe(chat.status):
                for number in range(100):
                    await rt.publish(chat.status, Status(message=str(number)))
            stats = rt.stats()
            assert (stats.subscriptions, stats.logs, stats.buffered_bytes) == (0, 0, 0)


async def test_a_subscriber_that_raises_leaves_the_others_and_goes_on() -> None:
    async with unharmed(MemoryTransport(), *map(str, range(4))) as rt, rt.subscribe(chat.status).with_gaps() as messages:
        for number in range(4):
            await rt.publish(chat.status, Status(message=str(number)))
        seen: list[str] = []
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                async for message in messages:
                    assert isinstance(message, Message)
                    seen.append(message.data.message)
                    if int(message.data.message) % 2 == 1:
                        raise ZeroDivisionError
        assert seen == ["0", "1", "2", "3"]


async def test_a_subscriber_task_that_raises_takes_its_subscription_along_and_nothing_else() -> None:
    async with unharmed(MemoryTransport(), "boom") as rt:
        before = rt.stats().subscriptions

        async def fragile() -> None:
            async with rt.subscribe(chat.status) as messages:
                await rt.publish(chat.status, Status(message="boom"))
                async for message in messages:
                    raise ZeroDivisionError(message.data.message)

        with pytest.raises(ExceptionGroup) as caught:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fragile)
        assert caught.group_contains(ZeroDivisionError, match="boom")
        assert rt.stats().subscriptions == before


async def test_a_subscriber_that_times_out_goes_on_without_a_loss() -> None:
    numbers = [str(number) for number in range(6)]
    async with unharmed(MemoryTransport(), *numbers) as rt, rt.subscribe(chat.status).with_gaps() as messages:
        seen: list[str] = []
        for number in numbers:
            with anyio.move_on_after(0.001) as by_anext:
                await anext(messages)
            with anyio.move_on_after(0.001) as by_loop:
                async for _ in messages:
                    pytest.fail("nothing was published")
            assert by_anext.cancelled_caught
            assert by_loop.cancelled_caught
            await rt.publish(chat.status, Status(message=number))
            seen += [text for text in await texts(messages, 1) if isinstance(text, str)]
        assert seen == numbers
        assert messages.stats() == SubscriptionStats(received=6, lost=0, gaps=0, lag=0, invalid=0)


async def test_a_subscriber_that_times_out_while_messages_come_goes_on_without_a_loss() -> None:
    """Cancelled at every turn, often right when a message has come for it."""
    numbers = [str(number) for number in range(300)]
    async with unharmed(MemoryTransport(), *numbers) as rt, rt.subscribe(chat.status).with_gaps() as messages:
        seen: list[str] = []

        async def read() -> None:
            while len(seen) < len(numbers):
                with anyio.move_on_after(0.0002):
                    async for message in messages:
                        assert isinstance(message, Message)
                        seen.append(message.data.message)
                        if len(seen) == len(numbers):
                            break

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                for number in numbers:
                    await rt.publish(chat.status, Status(message=number))
                    await checkpoint()
        assert seen == numbers


async def test_batches_that_time_out_give_gaps_back_too() -> None:
    """What is handed back to the subscription is neither lost nor counted as handed out."""
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(chat.status, buffer=2).with_gaps() as messages:
        for number in range(5):
            await rt.publish(chat.status, Status(message=str(number)))
        gap = Gap(chat.name, GapReason.LAGGED, 3)
        with anyio.move_on_after(0.001) as scope:
            await anext(messages.batches(max_size=10, max_wait=60.0))
        assert scope.cancelled_caught
        assert messages.stats() == SubscriptionStats(received=0, lost=3, gaps=1, lag=2, invalid=0)
        assert await texts(messages, 3) == [gap, "3", "4"]
        assert messages.stats() == SubscriptionStats(received=2, lost=3, gaps=1, lag=0, invalid=0)
