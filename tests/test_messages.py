"""Messages, cursors, gaps and starts: pure values that store, compare and travel well."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from fanwire import Cursor, Gap, GapReason, Message, RawMessage, Receipt, Start, TopicRef, is_topic
from fanwire.errors import DeclarationError, InvalidPayload
from fanwire.messages import make_message, mark_of
from fanwire.schemas import PydanticSchema

WHEN = datetime(2026, 1, 1, 12, tzinfo=UTC)
CURSOR = Cursor("e", 3, "0123abcd")


class Status(BaseModel):
    message: str


STATUS = TopicRef("chat:x", "status", PydanticSchema(Status))
OTHER = TopicRef("chat:x", "other", STATUS.schema)


def message(data: Any = "hi", **change: Any) -> Message[Any]:  # Any: any payload
    values: dict[str, Any] = {
        "id": "p.1",
        "channel": "chat:x",
        "topic": "status",
        "data": data,
        "kind": "data",
        "created_at": WHEN,
        "cursor": CURSOR,
        "run_id": "r",
        "key": "k",
        "headers": {"a": "b"},
    }
    return Message(**(values | change))


def raw(json: bytes = b'{"message":"hi"}', data: object = None) -> RawMessage:
    return RawMessage("p.1", "chat:x", "status", json, "data", WHEN, CURSOR, None, None, None, b"{}", data)


# ---------------------------------------------------------------- cursors

epochs = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
marks = st.none() | st.from_regex(r"[0-9a-f]{8}", fullmatch=True)
cursors = st.builds(Cursor, epochs, st.integers(0, 10**20 - 1), marks)


@given(cursors)
def test_a_cursor_reads_back(cursor: Cursor) -> None:
    assert Cursor.parse(str(cursor)) == cursor
    assert type(Cursor.parse(str(cursor))) is Cursor
    assert pickle.loads(pickle.dumps(cursor)) == cursor


@given(cursors, cursors)
def test_different_cursors_are_written_differently(one: Cursor, other: Cursor) -> None:
    assert (str(one) == str(other)) == (one == other)


@given(st.text() | st.from_regex(r"[^:]{0,3}:[^:]{0,6}:[^:]{0,9}"))
def test_text_is_the_cursor_that_writes_it_or_refused(text: str) -> None:
    try:
        cursor = Cursor.parse(text)
    except ValueError:
        return
    epoch, offset, mark = text.rsplit(":", 2)
    assert (cursor.epoch, cursor.offset, cursor.mark or "-") == (epoch, int(offset), mark)


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "::", "e", "e:1", ":1:-", "e::-", "e:1:", "e:x:-", "e:-1:-", "e:+1:-", "e: 1:-", "e:1.0:-", "e:1_0:-", "e:\u0661:-", "e:\u00b2:-", "e:" + "1" * 21 + ":-",
        "e:1:0123ABCD", "e:1:0123abc", "e:1:0123abcde", "e:1:0123abcg", "e:1:--", "e:1:- ", "e:1:\u0660\u0661\u0662\u06630123",
    ],
)  # fmt: skip
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a cursor: .*expected epoch:offset:mark"):
        Cursor.parse(text)


def test_an_epoch_may_hold_the_separator() -> None:
    assert Cursor.parse("1767-0:a:7:-") == Cursor("1767-0:a", 7, None)


def test_a_faulty_cursor_is_repeated_in_part_only() -> None:
    with pytest.raises(ValueError, match="not a cursor") as caught:
        Cursor.parse("x" * 10_000)
    assert len(str(caught.value)) < 200


@given(st.text(st.characters(exclude_categories=["Cs"])), st.none() | st.text(st.characters(exclude_categories=["Cs"])))
def test_a_mark_is_eight_hex_digits_of_the_key_or_else_the_id(id: str, key: str | None) -> None:
    mark = mark_of(id, key)
    assert len(mark) == 8
    assert set(mark) <= set("0123456789abcdef")
    assert mark == mark_of("another", key) if key is not None else mark == mark_of(id, None)
    assert Cursor.parse(str(Cursor("e", 1, mark))).mark == mark


def test_marks_tell_messages_apart() -> None:
    assert len({mark_of(f"publisher.{n}", None) for n in range(1000)}) == 1000
    assert mark_of("", None) == "00000000"
    assert mark_of("p.1", None) == "%08x" % __import__("zlib").crc32(b"p.1")  # noqa: UP031 - as it is documented


# ---------------------------------------------------------------- messages


def test_a_message_made_the_fast_way_is_the_same_value() -> None:
    made = make_message("p.1", "chat:x", "status", "hi", "data", WHEN, CURSOR, "r", "k", {"a": "b"})
    assert type(made) is Message
    assert made == message()
    assert message() == made
    assert repr(made) == repr(message())
    assert [getattr(made, field.name) for field in dataclasses.fields(made)] == [
        getattr(message(), field.name) for field in dataclasses.fields(Message)
    ]
    assert hash(dataclasses.replace(made, headers=None)) == hash(message(headers=None))


MADE: list[Callable[[], Message[Any]]] = [  # Any: any payload
    message,
    lambda: make_message("p.1", "chat:x", "status", "hi", "data", WHEN, CURSOR, "r", "k", {"a": "b"}),
]


@pytest.mark.parametrize("make", MADE)
def test_a_message_is_immutable(make: Callable[[], Message[Any]]) -> None:
    made = make()
    for name in (*(field.name for field in dataclasses.fields(Message)), "other"):
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
            setattr(made, name, "changed")
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
            delattr(made, name)
    assert made == message()
    assert not hasattr(made, "__dict__")


@pytest.mark.parametrize("make", MADE)
def test_a_message_can_be_copied_and_pickled(make: Callable[[], Message[Any]]) -> None:
    for again in (copy.copy(make()), copy.deepcopy(make()), pickle.loads(pickle.dumps(make()))):
        assert again == make()
        assert type(again) is Message


@pytest.mark.parametrize("make", MADE)
def test_messages_differ_by_every_field(make: Callable[[], Message[Any]]) -> None:
    changes: dict[str, Any] = {  # Any: of each field's own type
        "id": "p.2", "channel": "c", "topic": "t", "data": 1, "kind": "run", "created_at": WHEN + timedelta(1), "cursor": None, "run_id": None, "key": None,
        "headers": None,
    }  # fmt: skip
    assert set(changes) == {field.name for field in dataclasses.fields(Message)}
    for name, value in changes.items():
        assert dataclasses.replace(make(), **{name: value}) != make()
    assert make() != cast("object", "hi")


def test_a_message_matches_by_keyword() -> None:
    match message(Status(message="hi")):
        case Message(topic="status", data=Status(message=text)):
            assert text == "hi"
        case other:
            pytest.fail(f"{other} did not match")


@pytest.mark.parametrize(
    ("item", "ref", "is_it"),
    [
        (message(), STATUS, True),
        (message(topic="other"), STATUS, False),
        (message(topic="other"), OTHER, True),
        (message(channel="chat:y"), STATUS, False),
        (Gap("chat:x", GapReason.HOLE, 1), STATUS, False),
    ],
)
def test_is_topic(item: Message[Any] | Gap, ref: TopicRef[Status], is_it: bool) -> None:
    assert is_topic(item, ref) is is_it


# ---------------------------------------------------------------- raw messages


def test_a_raw_message_is_parsed_by_the_topics_schema() -> None:
    assert raw().parse(STATUS) == Status(message="hi")


def test_a_raw_message_says_what_the_schema_refuses() -> None:
    with pytest.raises(InvalidPayload, match="message: Input should be a valid string") as caught:
        raw(b'{"message":1}').parse(STATUS)
    assert (caught.value.channel, caught.value.topic) == ("chat:x", "status")
    assert caught.value.errors[0].location == "message"
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("ref", [OTHER, TopicRef("chat:y", "status", STATUS.schema)])
def test_a_raw_message_is_not_parsed_as_another_topic(ref: TopicRef[Status]) -> None:
    with pytest.raises(DeclarationError, match=r"this message is of topic 'status' on 'chat:x'.*is_topic"):
        raw().parse(ref)


def test_a_schema_may_raise_anything() -> None:
    class Broken:
        def validate(self, value: object, /) -> int:
            raise ZeroDivisionError

        def dump(self, value: int, /) -> bytes:
            raise ZeroDivisionError

        def load(self, data: bytes, /) -> int:
            raise ZeroDivisionError("oops")

    with pytest.raises(InvalidPayload, match="oops"):
        raw().parse(TopicRef("chat:x", "status", Broken()))


def test_a_raw_message_is_immutable_and_pickles() -> None:
    made = raw(data={"message": "hi"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.json = b""  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # that is the test
    assert pickle.loads(pickle.dumps(made)) == made


# ---------------------------------------------------------------- gaps


@pytest.mark.parametrize(
    ("gap", "text"),
    [
        (Gap("c", GapReason.LAGGED, 1), "1 message lost on channel 'c' (lagged)"),
        (Gap("c", GapReason.HOLE, 1234), "1,234 messages lost on channel 'c' (hole)"),
        (Gap(None, GapReason.LAGGED, 0), "0 messages lost (lagged)"),
        (Gap("c", GapReason.EXPIRED, None), "an unknown number of messages lost on channel 'c' (expired)"),
    ],
)
def test_a_gap_says_what_is_missing(gap: Gap, text: str) -> None:
    assert str(gap) == text
    assert pickle.loads(pickle.dumps(gap)) == gap
    assert hash(gap) == hash(copy.copy(gap))


def test_reasons_are_words() -> None:
    assert [reason.value for reason in GapReason] == ["lagged", "disconnected", "hole", "trimmed", "expired", "reset"]


def test_a_receipt_is_a_value() -> None:
    receipt = Receipt("p.1", "c", "t", CURSOR, False)
    assert pickle.loads(pickle.dumps(receipt)) == receipt
    assert Receipt._fields == ("id", "channel", "topic", "cursor", "duplicate")


# ---------------------------------------------------------------- starts


def test_starts_are_values() -> None:
    since = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    starts = [Start.LIVE, Start.EARLIEST, Start.last(1), Start.last(2), Start.after(CURSOR), Start.since(since)]
    assert len(set(starts)) == len(starts)
    for start in starts:
        assert pickle.loads(pickle.dumps(start)) == start
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
            start.kind = "live"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # that is the test


@pytest.mark.parametrize(
    ("start", "text"),
    [
        (Start.LIVE, "Start.LIVE"),
        (Start.EARLIEST, "Start.EARLIEST"),
        (Start.last(3), "Start.last(3)"),
        (Start.after(Cursor("e", 3)), "Start.after(Cursor(epoch='e', offset=3, mark=None))"),
    ],
)
def test_a_start_says_what_it_is(start: Start, text: str) -> None:
    assert repr(start) == text


def test_a_start_after_reads_cursors_stored_as_text() -> None:
    assert Start.after(str(CURSOR)) == Start.after(CURSOR)
    assert Start.after({"a": str(CURSOR), "b": CURSOR}).value == {"a": CURSOR, "b": CURSOR}
    for wrong in ("", "e:1", "x"):
        with pytest.raises(ValueError, match="not a cursor"):
            Start.after(wrong)
        with pytest.raises(ValueError, match="not a cursor"):
            Start.after({"a": wrong})


def test_a_start_does_not_change_with_the_mapping_it_was_made_of() -> None:
    cursors = {"a": CURSOR}
    start = Start.after(cursors)
    cursors["b"] = CURSOR
    assert start.value == {"a": CURSOR}


@pytest.mark.parametrize("n", [0, -1])
def test_the_last_none_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match=r"Start.last\(n\) takes n >= 1, got .*Start.LIVE"):
        Start.last(n)


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a datetime with a time zone"):
        Start.since(datetime(2026, 1, 1))  # noqa: DTZ001 - that is the test
