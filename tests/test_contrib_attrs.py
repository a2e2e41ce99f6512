"""The adapter of fanwire_schemas for attrs and cattrs."""

from __future__ import annotations

import enum
import json
import pickle
import subprocess
import sys
import traceback
from collections import deque
from dataclasses import dataclass
from datetime import UTC, date, datetime
from types import GenericAlias
from typing import Any, Generic, Literal, NewType, TypedDict, TypeVar
from uuid import UUID

import attrs
import cattrs
import pytest
from cattrs.preconf.json import make_converter as make_json_converter
from cattrs.strategies import configure_tagged_union
from hypothesis import given
from hypothesis import strategies as st

from fanwire import Realtime
from fanwire.channels import Channel, Schema, TopicRef, topic
from fanwire.errors import DeclarationError, FieldError, InvalidPayload
from fanwire.events import InvalidMessage
from fanwire.schemas import field_errors, is_schema, schema_of
from fanwire_schemas.attrs import AttrsSchema, make_converter

T = TypeVar("T")


@attrs.frozen
class Status:
    message: str
    level: int = attrs.field(default=0, validator=attrs.validators.ge(0))


@attrs.frozen
class Token:
    token: str


@attrs.frozen
class LooksLikeStatus:
    message: str
    level: int = 0


@attrs.frozen
class Node:
    name: str
    children: list[Node] = attrs.Factory(list)
    by_number: dict[int, Node] = attrs.Factory(dict)


@attrs.frozen
class Page(Generic[T]):
    items: list[T]
    total: int


@attrs.frozen
class Job:
    id: UUID
    parents: list[UUID] = attrs.Factory(list)


@attrs.frozen
class Strict:
    mode: str = attrs.field(validator=attrs.validators.in_(["slow", "fast"]))


@dataclass(frozen=True)
class Point:
    x: float
    y: float


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 1


class Word(enum.StrEnum):
    A = "a"


class Usage(TypedDict):
    tokens: int


UserId = NewType("UserId", str)


@attrs.frozen
class Everything:
    color: Color
    level: Level
    word: Word
    when: datetime
    day: date
    raw: bytes
    tags: frozenset[str]
    numbers: tuple[int, ...]
    mixed: tuple[int, str]
    waiting: deque[int]
    ratio: float
    maybe: int | None
    either: int | str
    letter: Literal["a", "b"]
    usage: Usage
    point: Point
    user: UserId
    by_number: dict[int, str]
    by_ratio: dict[float, str]
    by_flag: dict[bool, str]
    anything: Any


EVERYTHING = Everything(
    color=Color.RED,
    level=Level.HIGH,
    word=Word.A,
    when=datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
    day=date(2026, 1, 2),
    raw=b"\x00\xff",
    tags=frozenset({"x"}),
    numbers=(1, 2),
    mixed=(1, "a"),
    waiting=deque([3]),
    ratio=1,
    maybe=None,
    either="e",
    letter="b",
    usage={"tokens": 3},
    point=Point(1.5, 2),
    user=UserId("u"),
    by_number={1: "x"},
    by_ratio={0.5: "x"},
    by_flag={True: "t", False: "f"},
    anything=[None, {"a": 1}],
)


class AgentChat(Channel, name="attrs-chat:{thread_id}"):
    thread_id: str
    status = topic(AttrsSchema(Status))


def refusal(schema: Schema[Any], value: object) -> tuple[FieldError, ...]:
    """Return what is said of a value that must be refused when it is published."""
    with pytest.raises((ValueError, TypeError)) as refused:
        schema.validate(value)
    return field_errors(refused.value)


# ---------------------------------------------------------------- it is a schema


def test_it_is_a_schema_and_is_taken_as_it_is() -> None:
    schema: Schema[Status] = AttrsSchema(Status)
    assert is_schema(schema)
    assert schema_of(schema, validate=True) is schema


def test_a_channel_takes_it() -> None:
    chat = AgentChat(thread_id="x")
    ref: TopicRef[Status] = chat.status
    assert AgentChat.status.type is Status
    assert AgentChat.status.validated
    valid = ref.schema.validate({"message": "hi"})
    assert valid == Status("hi")
    assert ref.schema.dump(valid) == b'{"message":"hi","level":0}'
    assert ref.schema.load(b'{"message":"hi"}') == valid
    assert pickle.loads(pickle.dumps(ref)).schema is ref.schema


@pytest.mark.anyio
async def test_what_is_published_arrives_and_what_is_wrong_is_told_at_both_ends() -> None:
    chat = AgentChat(thread_id="x")
    skipped: list[InvalidMessage] = []
    async with Realtime.from_url("memory://", on_invalid=skipped.append) as rt, rt.subscribe(chat.status) as messages:
        with pytest.raises(InvalidPayload) as refused:
            await rt.publish(chat.status, Status(message=3))  # type: ignore[arg-type]  # attrs lets it pass
        assert refused.value.errors == (FieldError("message", "expected str, got int"),)
        await rt.publish(TopicRef(chat.name, "status"), {"message": 3, "level": []})
        await rt.publish(chat.status, Status("hello", 2))
        assert (await anext(messages)).data == Status("hello", 2)
    assert [(one.topic, one.reason) for one in skipped] == [("status", "message: expected str, got int; level: expected int, got list")]


# ---------------------------------------------------------------- strict by default


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"message": 3}, {"message": "expected str, got int"}),
        ({"message": None, "level": []}, {"message": "expected str, got null", "level": "expected int, got list"}),
        ({}, {"message": "required field is missing"}),
        ([], {"": "expected Status, got list"}),
        (None, {"": "expected Status, got null"}),
        ("x", {"": "expected Status, got str"}),
        pytest.param(object(), {"": "expected Status, got object"}, id="an object"),
        ({"message": "x", "level": "1"}, {"level": "expected int, got str"}),
        ({"message": "x", "level": 1.0}, {"level": "expected int, got float"}),
        ({"message": "x", "level": True}, {"level": "expected int, got bool"}),
        ({"message": "x", "level": -1}, {"": "refused by a validator of Status (ValueError)"}),
    ],
    ids=str,
)
def test_invalid_data_is_a_value_error_with_an_entry_per_field(value: object, said: dict[str, str]) -> None:
    schema = AttrsSchema(Status)
    assert dict(refusal(schema, value)) == said
    if type(value) is not object:  # JSON has none
        with pytest.raises(ValueError) as at_receipt:
            schema.load(json.dumps(value).encode())
        assert dict(field_errors(at_receipt.value)) == said


def test_an_instance_is_checked_too_since_attrs_does_not() -> None:
    schema = AttrsSchema(Status)
    assert schema.validate(Status("x", 2)) == Status("x", 2)
    assert refusal(schema, Status(message=3)) == (FieldError("message", "expected str, got int"),)  # type: ignore[arg-type]  # attrs lets it pass
    nested = AttrsSchema(Node)
    assert refusal(nested, Node("a", [Node("b"), Node(4)])) == (FieldError("children.1.name", "expected str, got int"),)  # type: ignore[arg-type]
    assert refusal(nested, Node("a", 7)) == (FieldError("children", "expected list, got int"),)  # type: ignore[arg-type]


def test_an_instance_of_another_class_is_refused_however_alike() -> None:
    assert refusal(AttrsSchema(Status), LooksLikeStatus("x")) == (FieldError("", "expected Status, got LooksLikeStatus"),)
    either = AttrsSchema(Status | Token)
    assert either.validate(Token("x")) == Token("x")
    assert "got LooksLikeStatus" in refusal(either, LooksLikeStatus("x"))[0].message


@attrs.frozen
class Special(Status):
    more: str = ""


def test_an_instance_of_a_subclass_is_sent_as_what_was_declared() -> None:
    schema = AttrsSchema(Status)
    valid = schema.validate(Special("x", 1, "secret"))
    assert type(valid) is Status
    assert schema.dump(valid) == b'{"message":"x","level":1}'


@pytest.mark.parametrize("form", [list[str], tuple[str, ...], tuple[str, str], set[str], frozenset[str], deque[str]], ids=str)
@pytest.mark.parametrize("value", ["ab", {"a": 1, "b": 2}, 3, None], ids=repr)
def test_a_string_or_an_object_is_no_list(form: Any, value: object) -> None:
    (said,) = refusal(AttrsSchema(form), value)
    assert said.message.startswith("expected list, got ")


def test_a_tuple_has_its_length() -> None:
    schema = AttrsSchema(tuple[int, str])
    assert schema.load(b'[1,"a"]') == (1, "a")
    assert refusal(schema, [1]) == (FieldError("", "expected 2 items, got 1"),)
    assert refusal(schema, ["1", 2]) == (FieldError("0", "expected int, got str"), FieldError("1", "expected str, got int"))


def test_every_fault_is_told_where_it_is_and_no_value_is_quoted() -> None:
    wrong: dict[str, object] = {
        "color": "s3cret",
        "level": 77,
        "word": "s3cret",
        "when": "s3cret",
        "day": "s3cret",
        "raw": "s3cret\x00",
        "tags": "s3cret",
        "numbers": [1, "s3cret"],
        "mixed": ["s3cret"],
        "waiting": ["s3cret"],
        "ratio": "s3cret",
        "maybe": "s3cret",
        "either": ["s3cret"],
        "letter": "s3cret",
        "usage": {"tokens": "s3cret"},
        "point": {"x": "s3cret", "y": 1},
        "user": 3,
        "by_number": {"s3cret": "x"},
        "by_ratio": {"1": 3},
        "by_flag": {"yes": "x"},
        "anything": "s3cret",
    }
    said = refusal(AttrsSchema(Everything), wrong)
    assert {one.location.split(".")[0] for one in said} == set(wrong) - {"anything"}
    assert "point.x" in dict(said)
    assert dict(said)["numbers.1"] == "expected int, got str"
    assert [one for one in said if "s3cret" in one.message or "77" in one.message] == []
    assert [one.location for one in said if "s3cret" in one.location] == ["by_number.s3cret"]  # a key is a place


def test_attrs_own_validators_name_the_field_and_quote_nothing() -> None:
    schema = AttrsSchema(Strict)
    assert refusal(schema, {"mode": "s3cret"}) == (FieldError("mode", "refused by a validator of Strict (ValueError)"),)
    with pytest.raises(ValueError) as refused:
        schema.validate({"mode": "s3cret"})
    assert "s3cret" not in str(refused.value)
    assert "s3cret" in "".join(traceback.format_exception(refused.value)), "the cause has all details, for the publisher's own eyes"
    assert isinstance(refused.value.__cause__, cattrs.ClassValidationError)


def test_coercion_is_there_for_who_asks() -> None:
    lenient = AttrsSchema(Status, strict=False)
    assert lenient.validate({"message": 3, "level": "4"}) == Status("3", 4)
    assert lenient.load(b'{"message":3,"level":"4"}') == Status("3", 4)


def test_unknown_fields_are_ignored_or_refused() -> None:
    data = b'{"message":"x","more":1,"and":2}'
    assert AttrsSchema(Status).load(data) == Status("x")
    closed = AttrsSchema(Status, forbid_extra_keys=True)
    assert closed.validate(Status("x")) == Status("x")
    with pytest.raises(ValueError) as refused:
        closed.load(data)
    assert field_errors(refused.value) == (FieldError("", "unknown fields: and, more"),)


@pytest.mark.parametrize("data", [b"", b"1 2", b'{"message":"x"}x', b'{"message":"\xff"}', b"NaN", b"[1,]", b'{"message":"x","level":Infinity}'])
def test_only_exactly_one_json_value_is_read(data: bytes) -> None:
    for schema in (AttrsSchema(Status), AttrsSchema(Any)):
        with pytest.raises(ValueError):
            schema.load(data)


# ---------------------------------------------------------------- types


def test_everything_json_can_carry_comes_back_as_it_was() -> None:
    schema = AttrsSchema(Everything)
    valid = schema.validate(EVERYTHING)
    assert valid == EVERYTHING
    assert type(valid.ratio) is float
    assert schema.load(schema.dump(valid)) == EVERYTHING


def test_a_dict_may_hold_what_python_has_where_json_has_a_string() -> None:
    schema = AttrsSchema(Everything)
    assert schema.validate({name: getattr(EVERYTHING, name) for name in attrs.fields_dict(Everything)}) == EVERYTHING


def test_a_class_may_hold_itself() -> None:
    schema = AttrsSchema(Node)
    tree = Node("a", [Node("b", [], {3: Node("c")})])
    assert schema.validate(tree) == tree
    assert schema.load(schema.dump(tree)) == tree
    faults = refusal(schema, {"name": "a", "children": [{"name": "b", "children": "abc"}], "by_number": {"x": {"name": "y"}, "3": {"name": 3}}})
    assert dict(faults) == {
        "children.0.children": "expected list, got str",
        "by_number.x": "expected int, got str",
        "by_number.3.name": "expected str, got int",
    }


def test_generic_classes() -> None:
    schema = AttrsSchema(Page[Status])
    page = Page([Status("x")], 1)
    assert schema.load(schema.dump(schema.validate(page))) == page
    assert refusal(schema, {"items": [{"message": "x"}, {}], "total": 2}) == (FieldError("items.1.message", "required field is missing"),)


def test_unions_are_told_apart_by_their_fields_or_by_a_tag() -> None:
    schema = AttrsSchema(Status | Token)
    assert schema.load(b'{"token":"x"}') == Token("x")
    assert schema.load(b'{"message":"x"}') == Status("x")
    assert len(refusal(schema, {"neither": 1})) == 1
    with pytest.raises(DeclarationError, match="cattrs cannot structure .*disambiguate"):
        AttrsSchema(Status | LooksLikeStatus)
    converter = make_converter()
    configure_tagged_union(Status | LooksLikeStatus, converter)
    tagged = AttrsSchema(Status | LooksLikeStatus, converter=converter)
    assert tagged.dump(tagged.validate(LooksLikeStatus("x"))) == b'{"message":"x","level":0,"_type":"LooksLikeStatus"}'
    assert tagged.load(b'{"message":"x","_type":"LooksLikeStatus"}') == LooksLikeStatus("x")
    assert tagged.validate({"message": "x", "_type": "Status"}) == Status("x")
    several = AttrsSchema(list[Status | LooksLikeStatus], converter=converter)
    assert several.validate([LooksLikeStatus("x"), Status("y")]) == [LooksLikeStatus("x"), Status("y")]


def test_other_types_than_classes() -> None:
    assert AttrsSchema(list[Status]).validate([Status("a"), {"message": "b"}]) == [Status("a"), Status("b")]
    assert AttrsSchema(dict[str, Status]).validate({"a": Status("x")}) == {"a": Status("x")}
    assert AttrsSchema(list).validate((1, "a")) == [1, "a"]
    assert AttrsSchema(int | str).load(b'"x"') == "x"
    assert AttrsSchema(Point).validate({"x": 1, "y": 2}) == Point(1.0, 2.0)
    assert AttrsSchema(float).dump(float("nan")) == b"null"
    anything: Schema[Any] = AttrsSchema(Any)
    assert anything.load(b"[1]") == [1]


# ---------------------------------------------------------------- a converter of one's own


def uuid_converter() -> cattrs.Converter:
    converter = make_converter()
    converter.register_unstructure_hook(UUID, str)
    converter.register_structure_hook(UUID, lambda value, _: UUID(value))
    return converter


def test_a_converter_brings_types_that_json_does_not_know() -> None:
    schema = AttrsSchema(Job, converter=uuid_converter())
    job = Job(UUID(int=1), [UUID(int=2)])
    assert schema.validate(job) == job
    assert schema.load(schema.dump(job)) == job
    assert refusal(schema, {"id": "s3cret", "parents": ["s3cret"]}) == (
        FieldError("id", "not a valid UUID (ValueError)"),
        FieldError("parents.0", "not a valid UUID (ValueError)"),
    )


def test_a_converters_own_rules_hold() -> None:
    lenient = AttrsSchema(Status, converter=make_json_converter())
    assert lenient.validate({"message": 3, "level": "4"}) == Status("3", 4)
    terse = AttrsSchema(Status, converter=make_json_converter(detailed_validation=False, forbid_extra_keys=True))
    assert refusal(terse, {}) == (FieldError("", "required field is missing"),)
    assert refusal(terse, {"message": "x", "more": 1}) == (FieldError("", "not a valid Status (ForbiddenExtraKeysError)"),)
    for wrong in ({"strict": False}, {"forbid_extra_keys": True}):
        with pytest.raises(DeclarationError, match="make_converter"):
            AttrsSchema(Status, converter=make_json_converter(), **wrong)


def test_what_json_does_not_know_is_refused_when_it_is_published() -> None:
    schema: Schema[Any] = AttrsSchema(Any)
    with pytest.raises(ValueError, match="Unable to serialize"):
        schema.dump(object())


@pytest.mark.parametrize(
    "form", [pytest.param(object(), id="an object"), "Nowhere", GenericAlias(list, ("Nowhere",)), 3, UUID, Job, list[UUID]], ids=str
)
def test_a_type_cattrs_cannot_structure_fails_where_it_is_declared(form: Any) -> None:
    with pytest.raises(DeclarationError, match="cattrs cannot structure .*make_converter"):
        AttrsSchema(form)


def test_it_pickles_unless_a_converter_is_in_the_way() -> None:
    again = pickle.loads(pickle.dumps(AttrsSchema(Status, strict=False, forbid_extra_keys=True)))
    assert repr(again) == "AttrsSchema(Status)"
    assert again.load(b'{"message":"x","level":"1"}') == Status("x", 1)
    with pytest.raises(ValueError):
        again.load(b'{"message":"x","more":1}')
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(AttrsSchema(Job, converter=uuid_converter()))


text = st.text(alphabet=st.characters(exclude_categories=["Cs"]))


@given(st.recursive(st.builds(Node, text), lambda inner: st.builds(Node, text, st.lists(inner), st.dictionaries(st.integers(), inner)), max_leaves=8))
def test_every_tree_round_trips(tree: Node) -> None:
    schema = AttrsSchema(Node)
    assert schema.load(schema.dump(schema.validate(tree))) == tree


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["name", "children", "by_number", "1"]) | text, inner),
    max_leaves=12,
)


@given(json_values)
def test_whatever_is_accepted_when_published_is_accepted_when_received(value: object) -> None:
    schema = AttrsSchema(Node)
    try:
        valid = schema.validate(value)
    except ValueError as error:
        said = field_errors(error)
        assert said
        return
    assert schema.load(schema.dump(valid)) == valid


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_package_imports_no_library_by_itself() -> None:
    result = run("import sys, fanwire_schemas; assert not {'attrs', 'attr', 'cattrs'} & set(sys.modules)")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("library", ["attrs", "cattrs"])
def test_without_the_libraries_the_command_to_install_them_is_told(library: str) -> None:
    result = run(f"import sys; sys.modules[{library!r}] = None; import fanwire_schemas.attrs")
    assert result.returncode == 1
    assert 'ImportError: fanwire_schemas.attrs needs attrs and cattrs; pip install "fanwire[attrs]"' in result.stderr
