"""The hub as a sink: frames before a confirmation, frames that are not what they seem, foreign frames, and hooks that fail. Nothing of it stops the stream."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from fanwire import Cursor, Gap, GapReason, Message, Realtime, TopicRef
from fanwire.codec import ENVELOPE, Codec, Decoded, InvalidFrame
from fanwire.errors import FanwireError
from fanwire.events import InvalidMessage
from fanwire.hub.decoding import parse_time
from fanwire.hub.hub import Hub
from fanwire.messages import mark_of
from fanwire.subscription import Subscription
from tests.hub.support import COUNTED, LINKED, ORDERED, STAMP, FakeHistory, FakeTransport, HastyClock, entries, entry, frame, patience, until

pytestmark = pytest.mark.anyio

C: TopicRef[Any] = TopicRef("c", "t")  # Any: payloads do not matter here
NUMBERS = TopicRef("c", "t")


def at(n: int, epoch: str = "e", publisher: str = "p") -> Cursor:
    """Where message ``n`` of :func:`entries` stands."""
    return Cursor(epoch, n, mark_of(f"{publisher}.{n}", None))


def hub_of(rt: Realtime) -> Hub:
    assert rt._engine is not None
    return rt._engine.hub


async def take(messages: Subscription[Any], count: int) -> list[object]:  # Any: as above
    """The next data, and the gaps among them."""
    with anyio.fail_after(10):
        items = [await anext(messages) for _ in range(count)]
    return [item.data if isinstance(item, Message) else item for item in items]


# ---------------------------------------------------------------- before the confirmation


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(FakeHistory, [31]), (FakeTransport, [Gap("c", GapReason.HOLE, 30), 31])],
    ids=["read from history", "announced without one"],
)
async def test_more_frames_before_the_confirmation_than_there_is_room_for(kind: type[FakeTransport], expected: list[object]) -> None:
    """Live delivery is complete from the confirmed position on, and those behind it that had to be given up are not forgotten."""
    transport = kind(LINKED if kind is FakeHistory else COUNTED)

    async def confirm(wanted: Mapping[str, frozenset[str] | None], generation: int) -> Mapping[str, Cursor | None | FanwireError]:
        assert transport.sink is not None
        transport.generations = dict.fromkeys(wanted, generation)
        start = Cursor("e", 0)
        for one in entries("c", 1, 30):
            if isinstance(transport, FakeHistory):
                transport.store("c", one)
            transport.push("c", one)
        assert hub_of(rt).channels["c"].overflowed
        transport.sink.subscribed("c", generation, start)
        return dict.fromkeys(wanted, start)

    transport.confirms = [confirm]
    async with Realtime(transport, clock=HastyClock(), buffer_bytes=500) as rt, rt.subscribe(C, buffer_bytes=10**6).with_gaps() as messages:
        assert not hub_of(rt).channels["c"].overflowed
        transport.push("c", entry("c", 31))
        assert await take(messages, len(expected)) == expected


# ---------------------------------------------------------------- frames that are not what they seem


def plain(n: int, stamp: str = STAMP) -> bytes:
    return frame("c", f"p.{n}", n).replace(STAMP.encode(), stamp.encode())


async def test_a_time_that_looks_like_one_and_is_none_is_invalid_on_the_fast_path_too() -> None:
    said: list[str] = []
    transport = FakeTransport(COUNTED)
    async with Realtime(transport, on_invalid=lambda message: said.append(message.reason)) as rt, rt.subscribe(C) as messages:
        for n, stamp in enumerate([STAMP, STAMP, "2026-13-45T00:00:00.000Z", "2026-01-01T25:00:00.000Z", STAMP], 1):
            transport.deliver("c", plain(n, stamp), at(n), at(n - 1) if n > 1 else None)
        assert await take(messages, 3) == [1, 2, 5]
        assert said == ["created_at is not an RFC 3339 time"] * 2
        assert messages.stats().invalid == 2
        assert rt.stats().invalid == 2


def test_a_time_without_a_zone_is_none() -> None:
    assert parse_time("2026-01-01T01:00:00+01:00").isoformat() == "2026-01-01T00:00:00+00:00"
    for text, said in (("2026-01-01T00:00:00", "has no time zone"), ("yesterday", "is not an RFC 3339 time")):
        with pytest.raises(InvalidFrame, match=said):
            parse_time(text)


async def test_a_live_tail_that_was_lost_and_regrown_is_a_reset() -> None:
    transport = FakeTransport(COUNTED)
    async with Realtime(transport) as rt, rt.subscribe(C).with_gaps() as messages:
        for one in (*entries("c", 1, 3), entry("c", 3, publisher="q"), entry("c", 4, publisher="q")):
            transport.push("c", one)
        assert await take(messages, 6) == [1, 2, 3, Gap("c", GapReason.RESET, None), 3, 4]
        assert rt.stats().duplicates == 0


async def test_another_kind_of_message_is_for_raw_readers_only() -> None:
    transport = FakeTransport(COUNTED)
    async with Realtime(transport) as rt, rt.subscribe(C) as typed, rt.subscribe("c").raw() as raw, rt.subscribe("c") as whole:
        for n, kind in enumerate(["data", "run", "data", "step", "data"], 1):
            transport.deliver(
                "c", frame("c", f"p.{n}", n).replace(b'"kind":"data"', f'"kind":"{kind}"'.encode()), at(n), at(n - 1) if n > 1 else None
            )
        assert await take(typed, 3) == [1, 3, 5]
        assert await take(whole, 3) == [1, 3, 5]
        with anyio.fail_after(5):
            assert [(await anext(raw)).kind for _ in range(5)] == ["data", "run", "data", "step", "data"]
        assert rt.stats().invalid == 0


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "the frame is not JSON"),
        (b"[]", "the frame is not a JSON object"),
        (
            b'{"id":"p.1","topic":"t","kind":"data","channel":"d","created_at":"2026-01-01T00:00:00.000Z","data":1}',
            "the frame says it is of channel 'd'",
        ),
        (b'{"channel":"c","topic":"\\ud800","data":1}', "the member 'topic' is not a string of Unicode characters"),
        (b'{"channel":"c","topic":"t","headers":{"a":"\\ud800"},"data":1}', "the member 'headers' holds something else than strings"),
        (b'{"channel":"c","topic":"t","data":1,"data":2}', "the frame has the member 'data' twice"),
        (b'{"channel":"c","topic":"t"}', "the frame has no data"),
        (b'{"topic":"t","data":1}', "the frame says it is of channel ''"),
    ],
    ids=lambda value: value.decode()[:30] if isinstance(value, bytes) else "",
)
async def test_a_frame_that_is_not_of_the_format_is_counted_reported_and_skipped(raw: bytes, reason: str) -> None:
    said: list[InvalidMessage] = []
    transport = FakeTransport(ORDERED)
    async with Realtime(transport, on_invalid=said.append) as rt, rt.subscribe(C) as one, rt.subscribe("c") as other:
        transport.deliver("c", raw)
        transport.deliver("c", frame("c", "p.1", 7))
        for messages in (one, other):
            assert await take(messages, 1) == [7]
            assert messages.stats().invalid == 1
        assert [(message.channel, message.topic, message.frame) for message in said] == [("c", None, raw)]
        assert said[0].reason.startswith(reason)
        assert rt.stats()[:2] == (rt.stats().state, 1)
        assert rt.stats().received == 2


# ---------------------------------------------------------------- hooks and codecs


async def test_a_hook_that_fails_is_logged_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: InvalidMessage) -> None:
        raise RuntimeError("the hook's own mistake")

    transport = FakeTransport(ORDERED)
    async with Realtime(transport, on_invalid=fail) as rt, rt.subscribe(C) as messages:
        with caplog.at_level(logging.CRITICAL, "fanwire"):
            transport.deliver("c", b"rubbish")
            transport.deliver("c", frame("c", "p.1", 7))
        assert await take(messages, 1) == [7]
        assert rt.stats().invalid == 1
    with caplog.at_level(logging.ERROR, "fanwire"):
        async with Realtime(again := FakeTransport(ORDERED), on_invalid=fail) as rt, rt.subscribe(C):
            again.deliver("c", b"rubbish")
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("fanwire.hub", "the on_invalid hook failed on channel 'c'")]


class Unrecognisable:
    """A codec whose frames have nothing in common."""

    name = "unrecognisable"
    asked = 0

    def encode(
        self,
        ref: TopicRef[Any],  # Any: encoded already
        data: bytes,
        id: str,
        created_at: str,
        key: str | None,
        headers: Mapping[str, str] | None,
        run_id: str | None,
        /,
    ) -> bytes:
        return ENVELOPE.encode(ref, data, id, created_at, key, headers, run_id)[::-1]

    def decode(self, frame: bytes, /) -> Decoded:
        return ENVELOPE.decode(frame[::-1])

    def signature(self, channel: str, topic: str, /) -> bytes | None:
        self.asked += 1
        return None

    def scan(self, frame: bytes, signature: bytes, /) -> tuple[str, bytes, bytes] | None:
        raise AssertionError("there is no signature to scan by")


async def test_a_codec_may_have_nothing_to_recognise_its_frames_by() -> None:
    codec = Unrecognisable()
    as_codec: Codec = codec
    async with Realtime.from_url("memory://", codec=as_codec) as rt, rt.subscribe(NUMBERS) as messages:
        for n in range(5):
            await rt.publish(NUMBERS, n)
        assert await take(messages, 5) == [0, 1, 2, 3, 4]
        assert codec.asked == 5


# ---------------------------------------------------------------- the budget


async def test_a_budget_that_one_log_exceeds_is_taken_from_the_largest() -> None:
    transport = FakeTransport(ORDERED)
    big = "x" * 40_000
    async with Realtime(transport, buffer_bytes_total=100_000) as rt, rt.subscribe(C).with_gaps() as slow, rt.subscribe(TopicRef("d", "t")) as small:
        for n in range(1, 9):
            transport.deliver("c", frame("c", f"p.{n}", big))
            transport.deliver("d", frame("d", f"p.{n}", n))
        assert rt.stats().buffered_bytes <= 100_000
        assert await take(small, 8) == list(range(1, 9))
        first = (await take(slow, 1))[0]
        assert isinstance(first, Gap)
        assert first.reason is GapReason.LAGGED
        assert first.lost is not None
        assert await take(slow, 8 - first.lost) == [big] * (8 - first.lost)


async def test_a_budget_that_nobody_uses_is_nobodys_to_give_up() -> None:
    async with Realtime(FakeTransport(ORDERED)) as rt, rt.subscribe(C):
        hub = hub_of(rt)
        hub.budget.used = hub.budget.limit + 1
        hub._shrink()  # ends, though nothing can be freed
        hub.logs.clear()
        hub._shrink()
        hub.budget.used = 0
        await patience(3)


async def test_a_realtime_tells_what_its_channels_are(caplog: pytest.LogCaptureFixture) -> None:
    transport = FakeTransport(COUNTED)
    transport.heads["c"] = at(3)
    async with Realtime(transport) as rt, rt.subscribe(C):
        await until(lambda: hub_of(rt).channels["c"].position is not None)
        assert repr(hub_of(rt).channels["c"]) == f"<channel 'c' live refs=1 generation=1 position={at(3)}>"
