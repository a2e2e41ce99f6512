"""The envelope: what is written reads back, the scan and the parser agree on every frame, and nothing a foreign publisher sends can do more than be reported."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from datetime import datetime
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic_core import from_json, to_json

from fanwire import Realtime
from fanwire.codec import ENVELOPE, Decoded, InvalidFrame
from fanwire.errors import InvalidName
from fanwire.events import InvalidMessage
from fanwire.messages import Message
from fanwire.names import check_channel_name, check_topic_name
from fanwire.schemas import PydanticSchema
from fanwire.topics import TopicRef
from fanwire_memory import MemoryBroker, MemoryTransport

Json = Any  # Any: a JSON value

STAMP = "2026-01-01T00:00:00.000Z"
REF = TopicRef("agent-chat:x", "status")
PLAIN = ENVELOPE.encode(REF, b'{"message":"hi"}', "pub.7", STAMP, None, None, None)
SIGNATURE = ENVELOPE.signature(REF.channel, REF.topic)


def valid(check: Callable[[str], str]) -> Callable[[str], bool]:
    def is_valid(name: str) -> bool:
        try:
            check(name)
        except InvalidName:
            return False
        return True

    return is_valid


unicode_text = st.text(st.characters(exclude_categories=["Cs"]))
names = st.one_of(
    st.from_regex(r"[a-z][a-z0-9:._/-]{0,20}", fullmatch=True), st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)
)
nfc = names.map(lambda name: unicodedata.normalize("NFC", name))
channels = nfc.filter(valid(check_channel_name))
topics = nfc.filter(valid(check_topic_name))
ids = st.tuples(st.from_regex(r"[0-9A-Za-z]{1,12}", fullmatch=True), st.integers(1, 10**12)).map(lambda pair: f"{pair[0]}.{pair[1]}")
payloads: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | unicode_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(unicode_text, inner, max_size=4),
    max_leaves=12,
)
keys = st.none() | unicode_text.filter(lambda key: 0 < len(key.encode()) <= 255)
headers = st.none() | st.dictionaries(unicode_text.filter(bool), unicode_text, max_size=4)
run_ids = st.none() | unicode_text


# ---------------------------------------------------------------- what is written reads back


@given(channel=channels, topic=topics, id=ids, key=keys, headers=headers, run_id=run_ids, payload=payloads)
def test_a_message_reads_back(
    channel: str, topic: str, id: str, key: str | None, headers: dict[str, str] | None, run_id: str | None, payload: Json
) -> None:
    ref = TopicRef(channel, topic)
    data = ref.schema.dump(payload)
    frame = ENVELOPE.encode(ref, data, id, STAMP, key, headers, run_id)
    decoded = ENVELOPE.decode(frame)
    assert decoded[:-1] == (id, topic, key, "data", channel, STAMP, run_id, headers)
    assert json.dumps(from_json(decoded.data)) == json.dumps(payload), "the same values of the same types"
    assert json.dumps(ref.schema.load(decoded.data)) == json.dumps(payload)


@given(channel=channels, topic=topics, id=ids, key=keys, headers=headers, run_id=run_ids, payload=payloads)
def test_an_envelope_is_one_json_object_of_the_documented_members_in_order(
    channel: str, topic: str, id: str, key: str | None, headers: dict[str, str] | None, run_id: str | None, payload: Json
) -> None:
    ref = TopicRef(channel, topic)
    frame = ENVELOPE.encode(ref, ref.schema.dump(payload), id, STAMP, key, headers, run_id)
    pairs = cast("list[tuple[str, Json]]", json.loads(frame, object_pairs_hook=list))
    order = ["id", "topic", "key", "kind", "channel", "created_at", "run_id", "headers", "data"]
    absent = {name for name, value in (("key", key), ("run_id", run_id), ("headers", headers)) if value is None}
    assert [name for name, _ in pairs] == [name for name in order if name not in absent]
    assert all(value is not None for name, value in pairs if name != "data"), "an absent field is left out, never null"
    assert b"\n" not in frame, "a frame is one line: SSE and logs may hold it as it is"


@given(channel=channels, topic=topics, id=ids, payload=payloads)
def test_a_plain_envelope_is_recognised_by_the_scan(channel: str, topic: str, id: str, payload: Json) -> None:
    ref = TopicRef(channel, topic)
    data = ref.schema.dump(payload)
    frame = ENVELOPE.encode(ref, data, id, STAMP, None, None, None)
    signature = ENVELOPE.signature(channel, topic)
    assert signature is not None
    assert ENVELOPE.scan(frame, signature) == (id, STAMP.encode(), data)


@given(channel=channels, topic=topics, other=channels, another=topics, id=ids)
def test_the_scan_takes_no_frame_of_another_topic_or_channel(channel: str, topic: str, other: str, another: str, id: str) -> None:
    signature = ENVELOPE.signature(other, another)
    assert signature is not None
    scanned = ENVELOPE.scan(ENVELOPE.encode(TopicRef(channel, topic), b"1", id, STAMP, None, None, None), signature)
    assert (scanned is not None) == ((channel, topic) == (other, another))


def test_constants_of_a_ref_are_built_once() -> None:
    ref = TopicRef("c", "t")
    first = ENVELOPE.encode(ref, b"1", "p.1", STAMP, None, None, None)
    kept = ref._envelope
    assert kept is not None
    assert ENVELOPE.encode(ref, b"1", "p.1", STAMP, None, None, None) == first
    assert ref._envelope is kept


# ---------------------------------------------------------------- scan and parser agree


def trusted(frame: bytes) -> tuple[str, bytes, bytes] | None:
    """Return what the scan makes of a frame where the hub relies on it: it parses the time stamp first."""
    assert SIGNATURE is not None
    scanned = ENVELOPE.scan(frame, SIGNATURE)
    if scanned is None:
        return None
    try:
        when = datetime.fromisoformat(scanned[1].decode())
    except (ValueError, UnicodeDecodeError):
        return None
    return scanned if when.tzinfo is not None else None


def members_of(data: str) -> list[tuple[str, str]]:
    return [("id", '"pub.7"'), ("topic", '"status"'), ("kind", '"data"'), ("channel", '"agent-chat:x"'), ("created_at", f'"{STAMP}"'), ("data", data)]


EXTRA = [
    ("topic", '"admin"'),
    ("channel", '"agent-chat:y"'),
    ("id", '"pub.8"'),
    ("kind", '"run"'),
    ("created_at", '"2020-01-01T00:00:00.000Z"'),
    ("data", '{"message":"other"}'),
    ("key", '"k"'),
    ("headers", '{"a":"b"}'),
    ("headers", '{"a":}'),
    ("headers", "{}"),
    ("run_id", '"r"'),
    ("other", "1"),
]


@st.composite
def rebuilt(draw: st.DrawFn) -> bytes:
    """A frame of well-formed members in any order, some twice, some more than there should be, some with escapes."""
    members = members_of(draw(st.sampled_from(['{"message":"hi"}', "1", "null", '"a\\"b"', '{"topic":"admin"}', '{"a":1},"topic":"admin"'])))
    members = draw(st.permutations(members)) if draw(st.booleans()) else members
    for extra in draw(st.lists(st.sampled_from(EXTRA), max_size=3)):
        members.insert(draw(st.integers(0, len(members))), extra)
    for index in draw(st.lists(st.integers(0, len(members) - 1), max_size=2, unique=True)):
        name, value = members[index]
        if draw(st.booleans()):
            name = f"\\u{ord(name[0]):04x}{name[1:]}"
        elif value.startswith('"') and len(value) > 2:
            value = f'"\\u{ord(value[1]):04x}{value[2:]}'
        members[index] = (name, value)
    gap = draw(st.sampled_from(["", "", " ", "\n"]))
    return ("{" + ",".join(f'"{name}":{gap}{value}' for name, value in members) + "}").encode()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A frame with bytes flipped, cut out, put in, or cut off."""
    frame = bytearray(draw(st.just(PLAIN) | rebuilt()))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(frame) - 1)))
        piece = draw(
            st.binary(min_size=1, max_size=3)
            | st.sampled_from([b'"', b"\\", b"{", b"}", b",", b"\x00", b"\n", b"\x1f", b"\x7f", b"\xff", b"\xc3\xa9"])
        )
        match draw(st.sampled_from(["flip", "cut", "put", "truncate", "trail"])):
            case "flip":
                frame[at : at + len(piece)] = piece
            case "cut":
                del frame[at : at + len(piece)]
            case "put":
                frame[at:at] = piece
            case "truncate":
                del frame[at:]
            case _:
                frame += piece
    return bytes(frame)


@st.composite
def restamped(draw: st.DrawFn) -> bytes:
    """A plain frame with one byte of its time stamp replaced: ISO 8601 leaves the separator of date and time open."""
    at = PLAIN.index(STAMP.encode()) + draw(st.sampled_from([4, 10, 10, 10, 10, 19, 23]))
    return PLAIN[:at] + bytes([draw(st.integers(0, 255))]) + PLAIN[at + 1 :]


def agree(frame: bytes) -> None:
    scanned = trusted(frame)
    if scanned is None:
        return
    id, stamp, data = scanned
    assert ENVELOPE.decode(frame) == Decoded(id, REF.topic, None, "data", REF.channel, stamp.decode(), None, None, data)


@given(rebuilt())
@example(PLAIN)
@settings(max_examples=300)
def test_scan_and_parser_agree_on_any_order_of_members(frame: bytes) -> None:
    agree(frame)


@given(mutated())
@settings(max_examples=500)
@example(PLAIN.replace(b"pub.7", b"pub\n7"))
@example(PLAIN.replace(b"pub.7", b"pub\\u002e7"))
@example(PLAIN.replace(b"pub.7", b"\x7f"))
@example(PLAIN.replace(b"pub.7", b""))
@example(PLAIN.replace(b"pub.7", b'pub.7","topic":"admin'))
@example(PLAIN + b"}")
@example(PLAIN[:-1] + b',"topic":"admin"}')
@example(PLAIN[:-1])
@example(b"")
def test_scan_and_parser_agree_on_damaged_frames(frame: bytes) -> None:
    agree(frame)


@given(restamped())
@example(PLAIN.replace(b"T00:00", b" 00:00"))
def test_scan_and_parser_agree_on_odd_time_stamps(frame: bytes) -> None:
    agree(frame)


def test_the_property_has_teeth() -> None:
    """Most mutated frames are refused, so the ones above must be shown to reach the comparison."""
    assert trusted(PLAIN) is not None
    assert trusted(PLAIN[:-1] + b',"topic":"admin"}') is not None, "what stands behind data is the schema's to refuse"
    with pytest.raises(ValueError, match="trailing"):
        REF.schema.load(ENVELOPE.decode(PLAIN[:-1] + b',"topic":"admin"}').data)


@given(st.binary() | mutated() | rebuilt() | restamped())
@settings(max_examples=500)
def test_whatever_comes_is_decoded_or_an_invalid_frame(frame: bytes) -> None:
    try:
        decoded = ENVELOPE.decode(frame)
    except InvalidFrame:
        return
    assert isinstance(decoded.data, bytes)
    assert all(isinstance(text, str) for text in (decoded.id, decoded.topic, decoded.kind, decoded.channel))
    assert decoded.headers is None or all(isinstance(text, str) for pair in decoded.headers.items() for text in pair)


@given(rebuilt())
@settings(max_examples=300)
def test_a_frame_is_taken_apart_as_any_json_reader_does(frame: bytes) -> None:
    """The payload is cut out, not parsed: with it, the frame must say what a browser would read in it."""
    try:
        decoded = ENVELOPE.decode(frame)
        data = from_json(decoded.data)
    except ValueError:
        return
    said = json.loads(frame)
    assert said["data"] == data
    assert (said["id"], said["topic"], said["channel"], said["kind"]) == (decoded.id, decoded.topic, decoded.channel, decoded.kind)


# ---------------------------------------------------------------- what is refused, and how it is told


def build(*members: tuple[str, str]) -> bytes:
    return ("{" + ",".join(f'"{name}":{value}' for name, value in members) + "}").encode()


BASE = members_of('{"message":"bad"}')

REFUSED: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"hello",
    "not an object": b"[1,2]",
    "null": b"null",
    "not UTF-8": PLAIN.replace(b"hi", b"\xff\xfe"),
    "an overlong encoding": PLAIN.replace(b"hi", b"\xc0\xaf"),
    "a byte order mark": b"\xef\xbb\xbf" + PLAIN,
    "UTF-16": PLAIN.decode().encode("utf-16"),
    "topic twice in front": build(BASE[0], ("topic", '"admin"'), *BASE[1:]),
    "topic twice in the middle": build(*BASE[:4], ("topic", '"admin"'), *BASE[4:]),
    "topic twice behind data": build(*BASE, ("topic", '"admin"')),
    "topic twice, once escaped": build(*BASE[:2], ("\\u0074opic", '"admin"'), *BASE[2:]),
    "channel twice behind data": build(*BASE, ("channel", '"agent-chat:y"')),
    "data twice": build(*BASE, ("data", '{"message":"other"}')),
    "an unknown member twice": build(("x", "1"), *BASE, ("x", "1")),
    "another channel": build(*BASE[:3], ("channel", '"agent-chat:y"'), *BASE[4:]),
    "another channel, other order": build(("channel", '"agent-chat:y"'), *BASE[:3], *BASE[4:]),
    "no channel": build(*BASE[:3], *BASE[4:]),
    "no data": build(*BASE[:5]),
    "topic is no string": build(BASE[0], ("topic", "7"), *BASE[2:]),
    "id is null": build(("id", "null"), *BASE[1:]),
    "key is a number": build(*BASE[:2], ("key", "1"), *BASE[2:]),
    "headers are no object": build(*BASE[:5], ("headers", '"x"'), BASE[5]),
    "headers hold a number": build(*BASE[:5], ("headers", '{"a":1}'), BASE[5]),
    "headers hold an object": build(*BASE[:5], ("headers", '{"a":{}}'), BASE[5]),
    "headers are broken": build(*BASE[:5], ("headers", '{"a":}'), BASE[5]),
    "headers are broken differently": build(*BASE[:5], ("headers", '{"a" "b"}'), BASE[5]),
    "headers with a lone comma": build(*BASE[:5], ("headers", "{,}"), BASE[5]),
    "time is no time": build(*BASE[:4], ("created_at", '"yesterday at noon-ish.."'), BASE[5]),
    "time without zone": build(*BASE[:4], ("created_at", '"2026-01-01T00:00:00.0000"'), BASE[5]),
    "time with a quote in it": PLAIN.replace(b"01T00", b'01"00'),
    "time with a backslash in it": PLAIN.replace(b"01T00", b"01\\00"),
    "time with a line break in it": PLAIN.replace(b"01T00", b"01\n00"),
    "a control character in the id": PLAIN.replace(b"pub.7", b"pub\x017"),
    "a line break in the id": PLAIN.replace(b"pub.7", b"pub\n7"),
    "a bad escape in the id": PLAIN.replace(b"pub.7", b"pub\\x7"),
    "payload does not fit": build(*BASE[:5], ("data", '{"message":7}')),
    "payload cut off": PLAIN[:-2],
    "payload empty": PLAIN.replace(b'{"message":"hi"}', b""),
    "payload NaN": build(*BASE[:5], ("data", "NaN")),
    "payload NaN, other order": build(("data", "NaN"), *BASE[:5]),
    "payload infinite, other order": build(("data", "-Infinity"), *BASE[:5]),
    "payload too deep": build(*BASE[:5], ("data", "[" * 5000 + "]" * 5000)),
    "payload too deep, other order": build(("data", "[" * 5000 + "]" * 5000), *BASE[:5]),
    "payload rather deep, other order": build(("data", "[" * 500 + "]" * 500), *BASE[:5]),
    "payload a lone surrogate": build(*BASE[:5], ("data", '{"message":"\\ud800"}')),
    "payload a lone surrogate, other order": build(("data", '{"message":"\\ud800"}'), *BASE[:5]),
    "a huge number, other order": build(("data", "1" + "0" * 5000), *BASE[:5]),
    "trailing garbage": PLAIN + b"x",
    "a second frame": PLAIN + PLAIN,
    "a comment": PLAIN.replace(b'"data":', b'/**/"data":'),
    "a trailing comma": PLAIN[:-1] + b",}",
    "single quotes": PLAIN.replace(b'"', b"'"),
}


@pytest.mark.parametrize("frame", REFUSED.values(), ids=REFUSED)
def test_a_bad_frame_is_an_invalid_frame_or_the_schemas_to_refuse(frame: bytes) -> None:
    """Decoding raises InvalidFrame or nothing; what it lets pass, the hub's checks or the schema refuse (next test)."""
    said = "a good frame"
    try:
        ENVELOPE.decode(frame)
    except InvalidFrame as error:
        said = str(error)
    assert 0 < len(said) <= 300


class Status(BaseModel):
    message: str


@pytest.mark.anyio
@pytest.mark.parametrize("frame", REFUSED.values(), ids=REFUSED)
async def test_a_bad_frame_is_reported_and_counted_and_the_rest_flows(frame: bytes, anyio_backend: object) -> None:
    ref = TopicRef("agent-chat:x", "status", PydanticSchema(Status))
    reported: list[InvalidMessage] = []
    transport = MemoryTransport()
    async with Realtime(transport, on_invalid=reported.append) as rt, rt.subscribe(ref) as typed, rt.subscribe(ref).raw() as raw:
        await rt.publish(ref, Status(message="before"))
        broker = transport.native(MemoryBroker)
        with broker.lock:
            broker.accept(ref.channel, ref.topic, "evil.1", None, frame, broker.now())
        await rt.publish(ref, Status(message="after"))
        assert [(await anext(typed)).data.message for _ in range(2)] == ["before", "after"]
        seen = [await anext(raw)]
        while b"after" not in seen[-1].json:
            seen.append(await anext(raw))
        assert reported, "nothing was reported"
        assert {report.channel for report in reported} == {ref.channel}
        assert all(report.frame == frame and report.reason and len(report.reason) <= 1000 for report in reported)
        assert typed.stats().invalid == 1
        assert (typed.stats().received, typed.stats().lost, typed.stats().gaps) == (2, 0, 0)
        assert rt.stats().invalid == len(reported)
        # Whoever takes messages unparsed may see what only the schema refuses, but never what is not JSON of this channel and topic.
        for message in seen:
            assert json.loads(message.frame)["topic"] == message.topic == ref.topic


# ---------------------------------------------------------------- what is accepted from others


@pytest.mark.parametrize(
    ("frame", "decoded"),
    [
        (b'{"data":1}', Decoded("", "", None, "data", "", None, None, None, b"1")),
        (b'{"channel":"c","topic":"t","data":{"a":[1,2]},"unknown":true}', Decoded("", "t", None, "data", "c", None, None, None, b'{"a":[1,2]}')),
        (b' {"kind":"run","data":null} \n', Decoded("", "", None, "run", "", None, None, None, b"null")),
        (b'{"data":"\\ud83d\\ude00"}', Decoded("", "", None, "data", "", None, None, None, '"😀"'.encode())),
        (b'{"data":{"a":1,"a":2}}', Decoded("", "", None, "data", "", None, None, None, b'{"a":2}')),
        (b'{"headers":{"a":"1"},"data":0}', Decoded("", "", None, "data", "", None, None, {"a": "1"}, b"0")),
    ],
)
def test_frames_of_foreign_publishers_are_read(frame: bytes, decoded: Decoded) -> None:
    assert ENVELOPE.decode(frame) == decoded


@pytest.mark.parametrize("name", ["id", "topic", "key", "kind", "channel", "created_at", "run_id"])
@pytest.mark.parametrize("value", [None, 1, True, [], {}])
def test_a_member_of_another_type_is_refused(name: str, value: Json) -> None:
    with pytest.raises(InvalidFrame, match=f"the member '{name}' is not a string"):
        ENVELOPE.decode(to_json({"data": 1, name: value}))


def test_the_member_that_came_twice_is_named_and_clipped() -> None:
    with pytest.raises(InvalidFrame, match="has the member 'x{80}' twice"):
        ENVELOPE.decode(b'{"%b":1,"%b":1,"data":1}' % (b"x" * 999, b"x" * 999))


@pytest.mark.anyio
async def test_a_foreign_frame_reaches_subscribers_as_far_as_it_goes(anyio_backend: object) -> None:
    """Without id and time stamp, in another order: it has no id, and the time is when it came."""
    transport = MemoryTransport()
    async with Realtime(transport) as rt, rt.subscribe("c") as messages:
        broker = transport.native(MemoryBroker)
        with broker.lock:
            broker.accept("c", "t", "x", None, b'{"data":{"n":1},"topic":"t","channel":"c"}', broker.now())
        message = await anext(messages)
        assert isinstance(message, Message)
        assert (message.id, message.topic, message.data, message.key, message.headers) == ("", "t", {"n": 1}, None, None)
        assert message.created_at.utcoffset() is not None
