"""Rule 11, unsupported: what is not declared is refused before any I/O, never silently ignored; ``require={...}`` fails at the start."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest

from fanwire import Capabilities, Channel, Cursor, Realtime, Receipt, Start, topic
from fanwire.capabilities import HistoryForm
from fanwire.errors import ConfigError, FanwireError, InvalidName, Unsupported
from fanwire.hub.waiter import on_trio
from fanwire.transport import HistoryPage, Outbound
from fanwire_memory import MemoryBroker, MemoryOptions, MemoryTransport
from fanwire_memory.faults import Faults
from tests.clock import ManualClock
from tests.rules.support import BEST_EFFORT, COUNTERS, KEPT_LOG, LOG, QUIET, Confirmations, Room, Toy, ToyWithHistory, left_behind, take, told

ROOM = Room(number=11)

FORMS: dict[HistoryForm, Start] = {
    "earliest": Start.EARLIEST,
    "last_n": Start.last(1),
    "after_cursor": Start.after(Cursor("e1", 1)),
    "since_time": Start.since(datetime(2024, 5, 1, tzinfo=UTC)),
}

each_form = pytest.mark.parametrize("form", FORMS)


def forgetful() -> MemoryTransport:
    """Make a transport that keeps nothing."""
    return MemoryTransport("", MemoryOptions(history=0))


def toy_with(*forms: HistoryForm) -> ToyWithHistory:
    """Make a transport that can read history, but declares only these forms of it."""
    return ToyWithHistory(replace(KEPT_LOG, history=frozenset(forms)))


# ---------------------------------------------------------------------- forms of history


@each_form
def test_a_start_without_history_is_refused_before_there_is_even_a_loop(form: HistoryForm) -> None:
    """By the call itself, not on entering: a wrong program fails on its first line."""
    for transport in (forgetful(), Toy(LOG), Toy()):
        rt = Realtime(transport)
        with pytest.raises(Unsupported) as caught:
            rt.subscribe(ROOM.a, start=FORMS[form])
        assert repr(FORMS[form]) in str(caught.value)
        assert f"{form!r}" in str(caught.value)
        assert f"the {transport.name} transport with these options has: none" in str(caught.value)
        assert (caught.value.code, caught.value.retryable) == ("unsupported", False)


@each_form
def test_a_start_without_history_is_refused_in_every_form_of_subscribe(form: HistoryForm) -> None:
    rt, start = Realtime(forgetful()), FORMS[form]
    calls: list[Callable[[], object]] = [
        lambda: rt.subscribe(ROOM, start=start),
        lambda: rt.subscribe(ROOM, topics=["a"], start=start),
        lambda: rt.subscribe(ROOM.name, start=start),
        lambda: rt.subscribe(ROOM.a, ROOM.b, start=start),
        lambda: rt.subscribe(ROOM.a, Room(number=12).a, start=start),
    ]
    for call in calls:
        with pytest.raises(Unsupported, match=form):
            call()


@pytest.mark.anyio
@each_form
async def test_nothing_reaches_the_transport_where_history_is_not_declared(form: HistoryForm) -> None:
    """Not though it could: what is not declared is not used."""
    others: list[HistoryForm] = [other for other in FORMS if other != form]
    toy = toy_with(*others)
    async with Realtime(toy) as rt:
        with pytest.raises(Unsupported, match=f"has: {', '.join(sorted(others))}"):
            rt.subscribe(ROOM.a, start=FORMS[form])
        with pytest.raises(Unsupported, match=form):
            await rt.history(ROOM.a, start=FORMS[form])
        assert (toy.subscribes, toy.reads) == ([], [])
        assert left_behind(rt) == QUIET


@pytest.mark.anyio
@each_form
async def test_each_form_works_where_it_alone_is_declared(form: HistoryForm) -> None:
    toy = toy_with(form)
    async with Realtime(toy) as rt:
        first = await rt.publish(ROOM.a, 1)
        await rt.publish(ROOM.a, 2)
        assert first.cursor is not None
        start = Start.after(first.cursor) if form == "after_cursor" else FORMS[form]
        expected = [1, 2] if form in ("earliest", "since_time") else [2]
        assert [message.data for message in await rt.history(ROOM.a, start=start)] == expected
        async with rt.subscribe(ROOM.a, start=start) as messages:
            await rt.publish(ROOM.a, 3)
            assert told(await take(messages, len(expected) + 1)) == [*expected, 3]
        for other in set(FORMS) - {form}:
            with pytest.raises(Unsupported):
                rt.subscribe(ROOM.a, start=FORMS[other])


@pytest.mark.anyio
@each_form
async def test_history_is_refused_before_the_realtime_is_even_open(form: HistoryForm) -> None:
    rt = Realtime(forgetful())
    with pytest.raises(Unsupported, match=form):
        await rt.history(ROOM.a, start=FORMS[form])


@pytest.mark.anyio
async def test_history_without_a_start_means_earliest_and_is_refused_too() -> None:
    async with Realtime(forgetful()) as rt:
        with pytest.raises(Unsupported, match="earliest"):
            await rt.history(ROOM.a)


@pytest.mark.anyio
async def test_what_needs_no_history_works_without_it() -> None:
    async with Realtime(forgetful()) as rt:
        await rt.publish(ROOM.a, 1)
        async with rt.subscribe(ROOM.a, start=Start.LIVE) as messages:
            await rt.publish(ROOM.a, 2)
            assert told(await take(messages, 1)) == [2]


@pytest.mark.anyio
async def test_a_cursor_of_a_transport_without_history_is_still_no_promise() -> None:
    """Its messages have positions, but nobody keeps what followed them."""
    async with Realtime(forgetful()) as rt:
        async with rt.subscribe(ROOM.a) as messages:
            await rt.publish(ROOM.a, 1)
            (message,) = await take(messages, 1)
        assert message.cursor is not None
        with pytest.raises(Unsupported, match="after_cursor"):
            rt.subscribe(ROOM.a, start=Start.after(message.cursor))


# ---------------------------------------------------------------------- require=

DECLARED: dict[str, tuple[Capabilities, set[str]]] = {
    "memory": (
        MemoryTransport().capabilities,
        {
            *("confirmed_publish", "confirmed_subscribe", "idempotent_publish", "links", "ordering.publisher", "ordering.channel"),
            *("delivery.at_least_once", "delivery.exactly_once"),
            *("history", "history.earliest", "history.last_n", "history.after_cursor", "history.since_time"),
        },
    ),
    "memory without history": (
        forgetful().capabilities,
        {"confirmed_publish", "confirmed_subscribe", "links", "ordering.publisher", "ordering.channel"},
    ),
    "counters": (COUNTERS, {"multi_process", "confirmed_publish", "confirmed_subscribe", "ordering.publisher"}),
    "best effort": (BEST_EFFORT, {"multi_process", "confirmed_publish", "confirmed_subscribe"}),
    "at least once": (
        replace(COUNTERS, delivery="at_least_once", confirmed_publish=False),
        {"multi_process", "confirmed_subscribe", "ordering.publisher", "delivery.at_least_once"},
    ),
    "history by count only": (
        replace(COUNTERS, history=frozenset({"last_n"})),
        {"multi_process", "confirmed_publish", "confirmed_subscribe", "ordering.publisher", "history", "history.last_n"},
    ),
}

NAMES = sorted({*DECLARED["memory"][1], "multi_process"})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("transport", DECLARED)
def test_a_required_capability_is_there_or_refused_at_the_start(transport: str, name: str) -> None:
    capabilities, declared = DECLARED[transport]
    toy = Toy(capabilities)
    assert capabilities.names() == declared
    if name in declared:
        assert Realtime(toy, require={name}).capabilities is capabilities
    else:
        with pytest.raises(Unsupported) as caught:
            Realtime(toy, require={name})
        assert str(caught.value) == f"the toy transport with these options does not declare: {name}"
    assert toy.attempts == 0


def test_all_that_is_missing_is_named_and_nothing_that_is_there() -> None:
    with pytest.raises(Unsupported) as caught:
        Realtime(forgetful(), require=["links", "history.last_n", "ordering.channel", "multi_process"])
    assert str(caught.value).endswith("does not declare: history.last_n, multi_process")


def test_options_decide_what_is_declared() -> None:
    assert Realtime.from_url("memory://", require={"history"}).capabilities.history
    with pytest.raises(Unsupported, match="history"):
        Realtime.from_url("memory://?history=0", require={"history"})
    with pytest.raises(Unsupported, match="multi_process"):
        Realtime.from_url("memory://named", require={"multi_process"})


def test_what_the_configuration_requires_is_required(tmp_path: Path) -> None:
    file = tmp_path / "fanwire.toml"
    file.write_text('url = "memory://?history=0"\nrequire = ["links", "history.since_time"]\n', encoding="utf-8")
    with pytest.raises(Unsupported, match=r"history\.since_time"):
        Realtime.from_config(file)
    file.write_text('url = "memory://"\nrequire = ["links", "history.since_time"]\n', encoding="utf-8")
    assert "since_time" in Realtime.from_config(file).capabilities.history


@pytest.mark.parametrize(
    ("name", "hint"), [("histroy", "did you mean 'history'?"), ("ordering.none", "ordering."), ("teleport", "known: confirmed_")]
)
def test_an_unknown_capability_is_a_mistake_and_not_merely_missing(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Realtime(MemoryTransport(), require={name})
    assert repr(name) in str(caught.value)
    assert hint in str(caught.value)


def test_nothing_is_required_by_default() -> None:
    assert Realtime(Toy(BEST_EFFORT)).capabilities is BEST_EFFORT


# ---------------------------------------------------------------------- the rest of what is declared


@pytest.mark.anyio
async def test_an_event_loop_that_is_not_declared_is_refused_before_connecting() -> None:
    """Its client would fail in its own words, or hang."""
    here, other = ("trio", "asyncio") if on_trio() else ("asyncio", "trio")
    forms: dict[str, Capabilities] = {
        "asyncio": replace(COUNTERS, async_backends=frozenset({"asyncio"})),
        "trio": replace(COUNTERS, async_backends=frozenset({"trio"})),
    }
    toy = Toy(forms[here])
    async with Realtime(toy) as rt:
        await rt.publish(ROOM.a, 1)
    toy = Toy(forms[other])
    with pytest.raises(Unsupported, match=here):
        async with Realtime(toy):
            pytest.fail(f"the transport declares {other} only")
    assert toy.attempts == 0


class Wide(Channel, name="w:{text}"):
    text: str
    a = topic(int)


@pytest.mark.anyio
async def test_a_channel_longer_than_declared_is_refused_before_any_io() -> None:
    """Channels may have 255 bytes; a transport that carries fewer says so."""
    toy = Toy(replace(COUNTERS, max_channel_bytes=20))
    fits, long = Wide(text="é" * 9), Wide(text="é" * 9 + "x")
    assert (len(fits.name.encode()), len(long.name.encode())) == (20, 21)
    async with Realtime(toy) as rt:
        async with rt.subscribe(fits.a) as messages:
            await rt.publish(fits.a, 1)
            assert told(await take(messages, 1)) == [1]
        toy.batches.clear()
        toy.subscribes.clear()
        with pytest.raises((InvalidName, Unsupported), match="20"):
            await rt.publish(long.a, 1)
        with pytest.raises((InvalidName, Unsupported), match="20"):
            await rt.publish_many([fits.a(1), long.a(1)])
        with pytest.raises((InvalidName, Unsupported), match="20"):
            async with rt.subscribe(fits.a, long.a):
                pytest.fail("it cannot be subscribed")
        assert (toy.batches, toy.subscribes) == ([], [])


@pytest.mark.anyio
async def test_a_native_object_that_there_is_not_is_refused_and_those_that_are_are_named() -> None:
    rt = Realtime(MemoryTransport())
    with pytest.raises(Unsupported, match="has no ManualClock; it has MemoryBroker and Faults"):
        rt.native(ManualClock)
    assert isinstance(rt.native(MemoryBroker), MemoryBroker)
    assert isinstance(rt.native(Faults), Faults)
    with pytest.raises(Unsupported, match="the toy transport has no MemoryBroker"):
        Realtime(Toy()).native(MemoryBroker)


# ---------------------------------------------------------------------- transports that find out themselves


@pytest.mark.anyio
async def test_a_broker_that_lacks_an_ability_ends_the_attempt_to_connect() -> None:
    """An old server, say: trying again cannot help."""
    toy = Toy()
    toy.refusals.append(Unsupported("toy: the server is too old"))
    with pytest.raises(Unsupported, match="too old"), anyio.fail_after(5):
        async with Realtime(toy):
            pytest.fail("it must not start")
    assert toy.attempts == 1


@pytest.mark.anyio
async def test_a_broker_that_lacks_an_ability_refuses_the_subscription_and_nobody_else() -> None:
    toy = Toy()

    async def answer(channels: Collection[str], generation: int) -> Confirmations:
        return {name: Unsupported("toy: no such channel here") if name == ROOM.name else toy.confirm(name, generation) for name in channels}

    toy.on_subscribe = answer
    async with Realtime(toy) as rt:
        with pytest.raises(Unsupported, match="no such channel"):
            async with rt.subscribe(ROOM.a):
                pytest.fail("it was refused")
        assert left_behind(rt) == QUIET
        other = Room(number=12)
        async with rt.subscribe(other.a) as messages:
            await rt.publish(other.a, 1)
            assert told(await take(messages, 1)) == [1]


@pytest.mark.anyio
async def test_a_broker_that_lacks_an_ability_refuses_the_publish_once() -> None:
    toy = Toy()

    async def refuse(batch: Sequence[Outbound]) -> Sequence[Receipt | FanwireError]:
        return [Unsupported("toy: no headers") if message.headers else toy.store(message) for message in batch]

    toy.on_publish = refuse
    async with Realtime(toy) as rt:
        with pytest.raises(Unsupported, match="no headers"):
            await rt.publish(ROOM.a, 1, headers={"h": "1"})
        assert len(toy.batches) == 1
        assert (await rt.publish(ROOM.a, 2)).channel == ROOM.name


@pytest.mark.anyio
async def test_a_history_that_the_broker_refuses_reaches_the_caller() -> None:
    toy = ToyWithHistory()

    async def refuse(_: HistoryPage) -> HistoryPage:
        raise Unsupported("toy: the server keeps no such thing")

    toy.on_history = refuse
    async with Realtime(toy) as rt:
        with pytest.raises(Unsupported, match="keeps no such thing"):
            await rt.history(ROOM.a)
        with pytest.raises(Unsupported, match="keeps no such thing"):
            async with rt.subscribe(ROOM.a, start=Start.EARLIEST):
                pytest.fail("there is no history")
        async with rt.subscribe(ROOM.a) as messages:
            await rt.publish(ROOM.a, 1)
            assert told(await take(messages, 1)) == [1]
