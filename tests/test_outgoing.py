"""Everything that is checked about a message before it takes a number: what is wrong is said, and nothing is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from fanwire import Channel, Outgoing, StaticChannel, TopicRef, topic
from fanwire.codec import ENVELOPE
from fanwire.errors import DeclarationError, InvalidPayload, PayloadTooLarge
from fanwire.outgoing import MARGIN, MAX_HEADERS_BYTES, MAX_KEY_BYTES, check, encode, not_a_ref, unpack
from fanwire.schemas import PydanticSchema

LIMIT = 2**20


class Status(BaseModel):
    message: str
    progress: float = 0.0


class Chat(Channel, name="chat:{id}"):
    id: str
    status = topic(Status)
    usage = topic(dict[str, int], validate=False)


class Alerts(StaticChannel, name="alerts"):
    alert = topic(Status)


CHAT = Chat(id="x")


def test_a_valid_message_is_the_validated_value_as_json() -> None:
    assert encode(CHAT.status, Status(message="hi"), None, None, LIMIT) == b'{"message":"hi","progress":0.0}'
    assert encode(CHAT.status, {"message": "hi", "progress": "1"}, "k", {"a": "b"}, LIMIT) == b'{"message":"hi","progress":1.0}'


@pytest.mark.parametrize(
    ("data", "errors"),
    [
        ({}, [("message", "Field required")]),
        ({"message": 1, "progress": "x"}, [("message", "valid string"), ("progress", "valid number")]),
        ("hi", [("", "valid dictionary")]),
        (None, [("", "valid dictionary")]),
    ],
)
def test_each_faulty_field_is_named_and_no_value_is_told(data: object, errors: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidPayload) as caught:
        encode(CHAT.status, data, None, None, LIMIT)
    assert (caught.value.channel, caught.value.topic) == ("chat:x", "status")
    assert [error.location for error in caught.value.errors] == [location for location, _ in errors]
    for error, (_, says) in zip(caught.value.errors, errors, strict=True):
        assert says in error.message
    assert "topic 'status' of channel 'chat:x'" in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_secret_in_a_faulty_payload_is_not_repeated() -> None:
    with pytest.raises(InvalidPayload) as caught:
        encode(CHAT.status, {"message": {"password": "hunter2"}}, None, None, LIMIT)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value)


def loop() -> list[object]:
    found: list[object] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    "data", [object(), loop(), "\ud800", lambda: None, {"a": object()}], ids=["object", "loop", "surrogate", "function", "nested"]
)
def test_what_cannot_be_written_under_a_type_only_topic_is_refused(data: object) -> None:
    with pytest.raises(InvalidPayload, match="topic 'usage' of channel 'chat:x': "):
        encode(CHAT.usage, data, None, None, LIMIT)


def test_type_only_data_is_not_validated() -> None:
    assert encode(CHAT.usage, [1, "x"], None, None, LIMIT) == b'[1,"x"]'


@pytest.mark.parametrize("error", [ValueError("no"), TypeError("no"), ZeroDivisionError("no"), KeyError("no"), RecursionError("no")])
@pytest.mark.parametrize("method", ["validate", "dump"])
def test_a_schema_may_raise_anything(error: Exception, method: str) -> None:
    class Broken:
        def validate(self, value: object, /) -> object:
            if method == "validate":
                raise error
            return value

        def dump(self, value: object, /) -> bytes:
            raise error

        def load(self, data: bytes, /) -> object:
            raise error

    with pytest.raises(InvalidPayload, match="no") as caught:
        encode(TopicRef("c", "t", Broken()), 1, None, None, LIMIT)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_only_errors_are_taken_for_a_refusal(error: type[BaseException]) -> None:
    class Stops:
        def validate(self, value: object, /) -> object:
            raise error

        def dump(self, value: object, /) -> bytes:
            raise error

        def load(self, data: bytes, /) -> object:
            raise error

    with pytest.raises(error):
        encode(TopicRef("c", "t", Stops()), 1, None, None, LIMIT)


# ---------------------------------------------------------------- key and headers


@pytest.mark.parametrize("key", ["k", "k" * MAX_KEY_BYTES, "é" * (MAX_KEY_BYTES // 2), "a\nb", " ", '"\\'])
def test_keys_that_may_be(key: str) -> None:
    check(CHAT.status, b"1", key, None, LIMIT)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("", "key: must be 1 to 255 bytes of valid UTF-8"),
        ("k" * 256, "key: must be 1 to 255 bytes"),
        ("é" * 128, "key: must be 1 to 255 bytes"),
        ("\ud800", "key: must be 1 to 255 bytes of valid UTF-8"),
        (b"k", "key: must be a string, got bytes"),
        (7, "key: must be a string, got int"),
    ],
)
def test_keys_that_may_not(key: Any, says: str) -> None:  # Any: callers without a type checker
    with pytest.raises(InvalidPayload, match=says):
        encode(CHAT.status, {"message": "hi"}, key, None, LIMIT)


@pytest.mark.parametrize("headers", [{}, {"a": ""}, {"a": "x" * (MAX_HEADERS_BYTES - 1)}, {"é" * 3: "ü" * 3}, {"a\n": "b\r\n"}])
def test_headers_that_may_be(headers: Mapping[str, str]) -> None:
    check(CHAT.status, b"1", None, headers, LIMIT)


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"": "x"}, "headers: names must not be empty"),
        ({"a": 1}, "headers: names and values must be strings"),
        ({1: "a"}, "headers: names and values must be strings"),
        ({"a": None}, "headers: names and values must be strings"),
        ({"a": "\ud800"}, "headers: .*all must be valid UTF-8"),
        ({"\ud800": "a"}, "headers: .*all must be valid UTF-8"),
        ({"a": "x" * MAX_HEADERS_BYTES}, "headers: 8,193 bytes in all, at most 8,192 are allowed"),
        ({str(n): "ü" * 50 for n in range(90)}, "headers: 9,.* bytes in all"),
        ([("a", "b")], "headers: must be a mapping of strings, got list"),
        ("a=b", "headers: must be a mapping of strings, got str"),
    ],
)
def test_headers_that_may_not(headers: Any, says: str) -> None:  # Any: as above
    with pytest.raises(InvalidPayload, match=says):
        encode(CHAT.status, {"message": "hi"}, None, headers, LIMIT)


def test_all_that_is_wrong_beside_the_data_is_said_at_once() -> None:
    with pytest.raises(InvalidPayload) as caught:
        check(CHAT.status, b"1", "", {"": ""}, LIMIT)
    assert [error.location for error in caught.value.errors] == ["key", "headers"]


# ---------------------------------------------------------------- size


@given(
    st.integers(MARGIN, 100_000),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60),
    st.none()
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.text(st.characters(exclude_categories=["Cs"])), max_size=3),
    st.integers(-40, 40),
)
def test_the_whole_envelope_counts(limit: int, key: str, headers: Mapping[str, str] | None, off: int) -> None:
    """At the limit it passes and a byte more is refused, whatever goes along; id and time count as the longest there will be."""
    longest = "0123456789.9999999999", "2000-01-01T00:00:00.000Z"
    rest = len(ENVELOPE.encode(CHAT.usage, b"", *longest, key, headers, None))
    data = b"1" * max(1, limit - rest + off)
    size = rest + len(data)
    if size > limit:
        with pytest.raises(PayloadTooLarge) as caught:
            check(CHAT.usage, data, key, headers, limit)
        assert (caught.value.size, caught.value.limit, caught.value.channel, caught.value.topic) == (size, limit, "chat:x", "usage")
    else:
        check(CHAT.usage, data, key, headers, limit)


def test_the_margin_covers_everything_but_the_payload() -> None:
    """Only because of it may a payload that is smaller by the margin go unmeasured."""
    worst = "\x01"  # six bytes as JSON
    ref = TopicRef("é" * 127, "é" * 64)
    frame = ENVELOPE.encode(
        ref, b"", "0123456789." + "9" * 20, "2000-01-01T00:00:00.000Z", "k" * MAX_KEY_BYTES, {"a": "x" * (MAX_HEADERS_BYTES - 1)}, "r" * 100
    )
    assert len(frame) < MARGIN
    hostile = ENVELOPE.encode(ref, b"", "p.1", "2000-01-01T00:00:00.000Z", worst * MAX_KEY_BYTES, {"a": worst * (MAX_HEADERS_BYTES - 1)}, None)
    data = b"1" * (100_000 - len(hostile) + 1)
    with pytest.raises(PayloadTooLarge):
        check(ref, data, worst * MAX_KEY_BYTES, {"a": worst * (MAX_HEADERS_BYTES - 1)}, 100_000)


def test_too_large_says_how_much() -> None:
    with pytest.raises(PayloadTooLarge, match="topic 'usage' of channel 'chat:x': 1,1.. bytes, the transport carries at most 1,000"):
        encode(CHAT.usage, "x" * 1000, None, None, 1000)


# ---------------------------------------------------------------- what is not a message at all


def test_an_outgoing_is_unpacked() -> None:
    outgoing = CHAT.status(Status(message="hi"), key="k")
    assert unpack(outgoing) is outgoing


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (CHAT.status, r"no data was given for TopicRef\('chat:x', 'status'\)"),
        (Chat.status, r"is a declaration: make an instance of its channel first, such as AgentChat\(thread_id=...\).status"),
        (CHAT, r"is a channel: choose one of its topics"),
        (Chat, r"is a channel: choose one of its topics"),
        (Alerts, r"is a channel: choose one of its topics"),
        (Status(message="hi"), "got Status"),
        ("chat:x", "got str"),
        (None, "got NoneType"),
        (("chat:x", "status"), "got tuple"),
    ],
    ids=str,
)
def test_what_is_no_message_is_said_with_what_to_pass(value: object, says: str) -> None:
    with pytest.raises(DeclarationError, match=rf"publish\(\) takes a topic of a channel, such as chat.status, and its data.*{says}"):
        unpack(value)
    assert not_a_ref("publish_many()", value).startswith("publish_many() takes a topic of a channel")


def test_an_outgoing_of_a_model_topic_is_checked_when_it_is_published() -> None:
    outgoing: Outgoing[Any] = Outgoing(TopicRef("c", "t", PydanticSchema(Status)), {"message": 7})  # Any: wrong on purpose
    assert outgoing.data == {"message": 7}
    with pytest.raises(InvalidPayload):
        encode(outgoing.ref, outgoing.data, outgoing.key, outgoing.headers, LIMIT)
