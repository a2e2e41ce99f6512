"""C: what is carried, and under which names."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from pydantic_core import to_json

from ...errors import InvalidName, InvalidPayload, PayloadTooLarge
from ...events import InvalidMessage
from ...messages import Start
from ...names import MAX_TOPIC_BYTES
from ...realtime import Realtime
from ...topics import TopicRef
from ..check import check
from ..exchange import Exchange, up_to_the_end, works
from ..harness import Harness
from ..tools import Room, confirmed, expect, open_realtime, take, told
from ..weird import illegal_names, legal_names

__all__ = ()

# ---------------------------------------------------------------------- payloads

_STRINGS = (
    "",
    "".join(map(chr, range(256))),
    "".join(map(chr, (0x2028, 0x2029, 0xFEFF, 0xFFFD, 0xFFFE, 0xFFFF, 0x10000, 0x10FFFF))),
    " \t\r\n leading, trailing, and in between \r\n\t ",
    'a "quoted" \\ back\\slashed \\u0000 \\"escape\\" /slash/ </script> \x1b[31m',
    '"}',
    '{"id":"x.1","topic":"b","channel":"room:2","data":1}',
    "漢字 é e\u0301 ﬁ ß İ \u0131 \u202eright to left\u202c 👩\u200d👩\u200d👧 🧵",
    "%00 %0d%0a %s {0} {name} ${var} $(id) `id` '; --",
    "x" * 65_536,
    "🧵" * 5_000,
)
"""What a driver may cut, escape, normalise, translate or take for something else."""

_NUMBERS = (0, -1, 1, 2**31, 2**53 + 1, -(2**63), 2**64, 0.1, -0.5, 1e-300, 1e300)

_PAYLOADS: tuple[Any, ...] = (  # Any: whatever JSON holds
    *_STRINGS,
    *_NUMBERS,
    None,
    True,
    False,
    [],
    {},
    [[], {}, [None], ""],
    {"": {"": [{"": None}]}, "id": 1, "topic": "b", "data": [1.5, "two", False], "é": "ключ"},
    [[[[[[[[[["deep"]]]]]]]]]],
    list(range(2_000)),
)


@check("C1", finds={"mangle text"})
async def payloads_round_trip(harness: Harness) -> None:
    """Any JSON value arrives as it was published: every character, empty and large, of the same types, and as a copy."""
    ref = TopicRef[Any]("room:1", "any")  # Any: as above
    async with open_realtime(harness) as rt, rt.subscribe(ref) as messages:
        line = Exchange(harness, rt, messages)
        for payload in _PAYLOADS:
            message = await line.say(ref, payload)
            expect(repr(message.data), repr(payload), "the payload")  # 1, 1.0 and True are equal, but not the same
            confirmed(not isinstance(payload, list | dict) or message.data is not payload, "the publisher's own object was handed over")
            age = datetime.now(UTC) - message.created_at
            confirmed(abs(age) < timedelta(seconds=harness.patience), f"created_at is {message.created_at}, {age} ago")


@check("C1b", finds={"mangle text"})
async def bytes_round_trip(harness: Harness) -> None:
    """The bytes of a payload arrive unchanged, whatever they are, at subscribers that want them raw."""
    ref = TopicRef[Any]("room:1", "any")  # Any: as above
    async with open_realtime(harness) as rt, rt.subscribe(ref).raw() as messages:
        line = Exchange(harness, rt, messages)
        for payload in _PAYLOADS:
            message = await line.say(ref, payload)
            expect(message.json, to_json(payload), "the bytes of the payload")
            confirmed(message.frame.endswith(message.json + b"}"), "the frame is not what was published")


# ---------------------------------------------------------------------- names


async def _each_reaches_its_own(harness: Harness, rt: Realtime, refs: Sequence[TopicRef[Any]]) -> None:  # Any: any JSON
    """Publish on each of many topics, all of them subscribed at once."""
    async with rt.subscribe(*refs, buffer=4 * len(refs)) as messages:
        line = Exchange(harness, rt, messages)
        for ref in refs:
            message = await line.say(ref, [ref.channel, ref.topic])
            expect((message.channel, message.topic), (ref.channel, ref.topic), "where it was heard")
            expect(message.data, [ref.channel, ref.topic], "what was heard there")


@check("C2", finds={"fold case", "leak channels"})
async def weird_channel_names(harness: Harness) -> None:
    """Every legal channel name, however it looks like a wildcard, path, escape or another name, is a channel of its own."""
    invalid: list[InvalidMessage] = []
    async with open_realtime(harness, on_invalid=invalid.append) as rt:
        names = legal_names(rt.capabilities.max_channel_bytes)
        await _each_reaches_its_own(harness, rt, [TopicRef(name, "t") for name in names])
    expect([(message.channel, message.reason) for message in invalid], [], "messages that reached a channel which is not theirs")


@check("C2b", finds={"mangle text"})
async def weird_topic_names(harness: Harness) -> None:
    """Every legal topic name is a topic of its own within its channel."""
    async with open_realtime(harness) as rt:
        await _each_reaches_its_own(harness, rt, [TopicRef("room:1", name) for name in legal_names(MAX_TOPIC_BYTES)])


@check("C2c", needs={"history.earliest"}, finds={"fold case"})
async def weird_names_in_history(harness: Harness) -> None:
    """The histories of channels with the weirdest names are kept apart."""
    invalid: list[InvalidMessage] = []
    async with open_realtime(harness, on_invalid=invalid.append) as rt:
        names = legal_names(rt.capabilities.max_channel_bytes)
        await rt.publish_many([TopicRef[Any](name, "t")(name) for name in names])  # Any: as above
        for name in names:
            expect([message.data for message in await rt.history(name)], [name], f"the history of {name!r}")
    expect([(message.channel, message.reason) for message in invalid], [], "messages in the history of a channel which is not theirs")


@check("C2e")
async def namespaces_are_apart(harness: Harness) -> None:
    """The same channel in two namespaces, one of which begins like the other, is two channels."""
    room = Room(number=1)
    async with (
        type(harness)(f"{harness.namespace}-b") as other,
        open_realtime(harness) as rt,
        open_realtime(other) as there,
        rt.subscribe(room) as here_sees,
        there.subscribe(room) as there_sees,
    ):
        lines = Exchange(harness, rt, here_sees), Exchange(other, there, there_sees)
        ids: tuple[set[str], set[str]] = (set(), set())
        for number in range(20):
            for line, known in zip(lines, ids, strict=True):
                known.add((await line.say(room.a, number)).id)
        for where, messages, foreign in ((rt, here_sees, ids[1]), (there, there_sees, ids[0])):
            found = await up_to_the_end(harness, where, room, messages)
            expect([message.data for message in found if message.id in foreign], [], "messages of the other namespace")


async def _is_refused(what: str, name: str, call: Callable[[], object]) -> None:
    try:
        result = call()
        if isinstance(result, Awaitable):
            await result
    except InvalidName:
        return
    raise AssertionError(f"{what} takes the channel name {name[:50]!r} ({len(name)} characters), which is not legal")


async def _publish(rt: Realtime, name: str) -> None:
    await rt.publish(TopicRef(name, "t"), 1)


async def _publish_many(rt: Realtime, name: str) -> None:
    await rt.publish_many([Room(number=1).a(1), TopicRef(name, "t")(1)])


async def _subscribe(rt: Realtime, name: str) -> None:
    rt.subscribe(TopicRef(name, "t"))


@check("C2d")
async def illegal_names_are_refused(harness: Harness) -> None:
    """A name that is not legal, or longer than the transport carries, is InvalidName before anything is sent."""
    async with open_realtime(harness) as rt:
        limit = rt.capabilities.max_channel_bytes
        for name in illegal_names():
            await _is_refused("TopicRef", name, partial(TopicRef, name, "t"))
            await _is_refused("TopicRef, for its topic,", name, partial(TopicRef, "room:1", name))
            await _is_refused("subscribe", name, partial(rt.subscribe, name))
        for name in ("x" * (limit + 1), "é" * (limit // 2 + 1)):
            # Of more than 255 bytes no ref can be made; below that it is the transport's own limit that refuses.
            await _is_refused("publish", name, partial(_publish, rt, name))
            await _is_refused("publish_many", name, partial(_publish_many, rt, name))
            await _is_refused("subscribe", name, partial(_subscribe, rt, name))
            await _is_refused("subscribe by name", name, partial(rt.subscribe, name))
        expect((rt.stats().published, rt.stats().channels), (0, 0), "messages published and channels subscribed")
        await works(harness, rt, Room(number=1))


# ---------------------------------------------------------------------- what goes along

_TEXTS = (
    *(text for text in _STRINGS if len(text) < 400),
    "a\r\nInjected: yes\r\n\r\nbody",
    "a: b",
    "Nats-Msg-Id",
    "traceparent",
    "=?utf-8?q?x?=",
)


@check("C3", finds={"mangle text"})
async def weird_headers(harness: Harness) -> None:
    """Headers arrive as they were given: names and values with any character, none of which ends a header or begins another."""
    room = Room(number=1)
    headers = {f"{n}{text}": text for n, text in enumerate(_TEXTS)} | {text: "name" for text in _TEXTS if text}
    async with open_realtime(harness) as rt, rt.subscribe(room.a) as messages:
        line = Exchange(harness, rt, messages)
        for n, (name, value) in enumerate(headers.items()):
            expect((await line.say(room.a, n, headers={name: value})).headers, {name: value}, "the header")
        expect((await line.say(room.a, -1, headers=headers)).headers, headers, "all headers at once")
        expect((await line.say(room.a, -2, headers={})).headers or {}, {}, "no headers")
        large = {"large": "x" * 8_000}
        expect((await line.say(room.a, -3, headers=large)).headers, large, "8 KB of headers")
        for wrong in ({"": "no name"}, {"large": "x" * 8_192}, {"surrogate": "\ud800"}):
            await _is_invalid(rt, room, headers=wrong)
        await line.say(room.a, -4)


@check("C3b", finds={"mangle text"})
async def weird_keys_and_runs(harness: Harness) -> None:
    """Idempotency keys and run ids arrive as they were given, whatever characters they have."""
    room = Room(number=1)
    async with open_realtime(harness) as rt, rt.subscribe(room.a) as messages:
        line = Exchange(harness, rt, messages)
        for n, key in enumerate([*(text for text in _TEXTS if 0 < len(text.encode()) <= 255), "k" * 255, *legal_names(40)]):
            message = await line.say(room.a, n, key=key)
            expect((message.data, message.key), (n, key), "the number and its key")
        for wrong in ("", "k" * 256, "\ud800"):
            await _is_invalid(rt, room, key=wrong)
        await line.say(room.a, -1)


async def _is_invalid(rt: Realtime, room: Room, **wrong: Any) -> None:  # Any: arguments of publish
    try:
        await rt.publish(room.a, 0, **wrong)
    except InvalidPayload:
        return
    raise AssertionError(f"{str(wrong)[:100]} was published")


# ---------------------------------------------------------------------- sizes

_LARGEST = 4 * 2**20
"""Bytes up to which it is tried that a payload which is not too large is carried."""


@check("C4", finds={"carry less"})
async def payload_too_large(harness: Harness) -> None:
    """A message of exactly as many bytes as are declared arrives; one byte more is PayloadTooLarge, before or from the broker, and the connection goes on."""
    room = Room(number=1)
    async with open_realtime(harness) as rt, rt.subscribe(room.text) as messages:
        line = Exchange(harness, rt, messages)
        limit = rt.capabilities.max_payload
        if limit is None:
            expect(len((await line.say(room.text, "x" * _LARGEST)).data), _LARGEST, "the length of a large text, where nothing is too large")
            return
        error = await _too_large(rt, room, "x" * limit)
        fits = limit - (error.size - error.limit)
        expect((error.limit, error.retryable), (limit, False), "the limit that the error names, and whether trying again helps")
        await _too_large(rt, room, "x" * (fits + 1))
        published = rt.stats().published
        try:
            await rt.publish_many([room.text("small"), room.text("x" * limit), room.text("small")])
        except PayloadTooLarge:
            expect(rt.stats().published, published, "messages published though one of them is too large")
        else:
            raise AssertionError("publish_many sent a message that is too large")
        expect((await line.say(room.text, "still here")).data, "still here", "what is published on the same connection")
        if limit <= _LARGEST:
            try:
                heard = await line.say(room.text, "x" * fits)
            except PayloadTooLarge as error:
                raise AssertionError(f"{limit:,} bytes are declared, and fewer are carried: {error}") from error
            confirmed(heard.data == "x" * fits, "a message of the largest size arrives as another one")
        expect(rt.stats().connections, 1, "connections")


async def _too_large(rt: Realtime, room: Room, text: str) -> PayloadTooLarge:
    try:
        await rt.publish(room.text, text)
    except PayloadTooLarge as error:
        return error
    raise AssertionError(f"a payload of {len(text):,} bytes was accepted, of {rt.capabilities.max_payload:,} declared")


# ---------------------------------------------------------------------- foreign frames


def _frame(room: Room, data: object, **members: object) -> bytes:
    """Write a frame as a client that is not fanwire might."""
    frame = {"topic": "a", "kind": "data", "channel": room.name, "created_at": "2024-05-01T12:00:00+02:00", "data": data}
    return json.dumps({name: value for name, value in {**frame, **members}.items() if value is not ...}).encode()


def _foreign(room: Room, publisher: str) -> list[bytes]:
    """Return frames that are unusual and valid; their data are the numbers from 0 on."""
    time, name = "2024-05-01T12:00:00+02:00", room.name
    return [
        _frame(room, 0, id=f"{publisher}0.1", version=99, trace={"a": [1, {"b": None}]}, newer_field=True),
        json.dumps({"data": 1, "channel": name, "kind": "data", "topic": "a", "id": f"{publisher}1.1", "created_at": time}, indent=4).encode(),
        _frame(room, 2, id=f"{publisher}2.1", created_at=...),
        _frame(room, 3),
        _frame(room, 4, id=f"{publisher}4.1", kind=...),
        f'{{"id":"{publisher}5.1","topic":"\\u0061","kind":"data","channel":"\\u0072{name[1:]}","data":5}}'.encode(),
        _frame(room, 6, id=f"{publisher}é漢字\x00 \r\n", headers={"h\r\n": "\x00"}, key=publisher + "k" * 1_000, run_id="r" * 1_000),
    ]


@check("C5", uses={"inject"}, finds={"stop at poison"})
async def foreign_envelopes(harness: Harness) -> None:
    """Frames of other clients and later versions are understood: other members, another order, spaces, escapes, what is optional left out; raw, byte for byte."""
    room = Room(number=1)
    invalid: list[InvalidMessage] = []
    async with open_realtime(harness, on_invalid=invalid.append) as rt:
        async with rt.subscribe(room.a) as messages:
            line = Exchange(harness, rt, messages)
            await line.say(room.a, -1)
            for number, frame in enumerate(_foreign(room, "p")):
                message = await line.overhear(room.name, frame, number)
                expect((message.channel, message.topic, message.data), (room.name, "a", number), "the foreign message")
        async with rt.subscribe(room.a).raw() as unparsed:
            rawline = Exchange(harness, rt, unparsed)
            await rawline.say(room.a, -1)
            for number, frame in enumerate(_foreign(room, "q")):
                raw = await rawline.overhear(room.name, frame, number)
                expect((raw.frame, raw.json), (frame, str(number).encode()), "the frame and its payload")
        expect(invalid, [], "messages that were not understood")
        await works(harness, rt, room)


def _poison(room: Room) -> dict[str, bytes]:
    """Return frames that nobody can understand."""
    good = _frame(room, 1, id="poison.1")
    return {
        "empty": b"",
        "zero bytes": b"\x00" * 64,
        "every byte": bytes(range(256)),
        "no UTF-8": good.replace(b"poison", b"\xff\xfe\xed\xa0\x80"),
        "text": b"hello",
        "a line break": b"\r\n",
        "null": b"null",
        "a list": b"[1]",
        "an empty object": b"{}",
        "no data": _frame(room, ...),
        "half of it": good[: len(good) // 2],
        "something behind it": good + b"}",
        "a member twice": good[:-1] + b',"data":2}',
        "the channel twice": good[:-1] + b',"channel":"room:2"}',
        "of another channel": _frame(Room(number=2), 1),
        "a topic that is no string": _frame(room, 1, topic=7),
        "headers that are no strings": _frame(room, 1, headers={"a": 1}),
        "a time that is none": _frame(room, 1, created_at="yesterday"),
        "a time beyond time": _frame(room, 1, created_at="9999-99-99T99:99:99Z"),
        "a lone surrogate": _frame(room, 1, run_id="\ud800"),
        "no number": _frame(room, "one"),
        "NaN": _frame(room, float("nan")),
        "too deep": _frame(room, 0).replace(b'"data": 0', b'"data": ' + b"[" * 100_000 + b"]" * 100_000),
        "deep and open": b'{"data":' + b'{"a":' * 50_000,
        "a huge number": _frame(room, 0).replace(b'"data": 0', b'"data": ' + b"9" * 5_000 + b".5"),
        "large": b"x" * 200_000,
    }


def _is_reported(invalid: Sequence[InvalidMessage], frame: bytes) -> bool:
    return any(message.frame == frame for message in invalid)


@check("C6", uses={"inject"}, finds={"stop at poison"})
async def poison_is_isolated(harness: Harness) -> None:
    """A frame that nobody can understand is reported, counted and skipped; the messages behind it arrive, and no loss is told."""
    room = Room(number=1)
    invalid: list[InvalidMessage] = []
    async with open_realtime(harness, on_invalid=invalid.append) as rt, rt.subscribe(room.a) as messages, rt.subscribe(room.b) as other:
        line, otherline = Exchange(harness, rt, messages), Exchange(harness, rt, other)
        await line.say(room.a, -1)
        await otherline.say(room.b, -1)
        for number, (what, frame) in enumerate(_poison(room).items()):
            known = len(invalid)
            await line.inject(room.name, frame, partial(_is_reported, invalid, frame), f"it is reported: {what}")
            report = invalid[known]
            expect((report.channel, report.topic in (None, "a")), (room.name, True), f"where the frame came is told: {what}")
            confirmed(bool(report.reason) and len(report.reason) < 1_000, f"the reason is told, in a few words: {what}")
            expect((await line.say(room.a, number)).data, number, f"what is published behind the frame: {what}")
        expect(rt.stats().invalid, len(invalid), "frames counted, against frames reported")
        confirmed(messages.stats().invalid >= len(_poison(room)), f"the subscription counted {messages.stats().invalid} of them")
        expect((rt.stats().gaps, messages.stats().gaps, rt.stats().connections), (0, 0, 1), "gaps, and connections")
        await otherline.say(room.b, -2)


@check("C6b", needs={"history.earliest"}, uses={"inject"}, finds={"stop at poison"})
async def poison_in_history(harness: Harness) -> None:
    """A frame that nobody can understand is left out of history, and reported; a subscription that begins with history goes on behind it."""
    room = Room(number=1)
    invalid: list[InvalidMessage] = []
    poison = list(_poison(room).values())
    async with open_realtime(harness, on_invalid=invalid.append) as rt:
        for number, frame in enumerate(poison):
            await rt.publish(room.a, number)
            await harness.inject(room.name, frame)
        await rt.publish(room.a, len(poison))
        wanted = list(range(len(poison) + 1))
        expect([message.data for message in await rt.history(room.a)], wanted, "the history")
        expect([found.frame for found in invalid], poison, "the frames that are reported")
        async with rt.subscribe(room.a, start=Start.EARLIEST).with_gaps() as messages:
            expect(told(await take(messages, len(wanted), harness.patience)), wanted, "what a subscription to the history yields")
            await harness.inject(room.name, b"and one behind the history")
            await rt.publish(room.a, -1)
            expect(told(await take(messages, 1, harness.patience)), [-1], "and then")
