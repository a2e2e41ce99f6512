"""How data is checked, written and read, and how faults are told."""

from __future__ import annotations

import math
import pickle
import sys
import typing
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from types import BuiltinMethodType, GenericAlias
from typing import Annotated, Any, ForwardRef, Literal, cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasGenerator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model, field_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticSerializationError, from_json
from typing_extensions import TypedDict

from fanwire.errors import DeclarationError, FieldError
from fanwire.schemas import JsonSchema, PydanticSchema, Schema, field_errors, is_schema, schema_of, static_schema


class Status(BaseModel):
    message: str
    level: int = 0


class Usage(TypedDict):
    input_tokens: int


@dataclass
class Point:
    x: int


class Upper:
    """A Schema of somebody's own."""

    def validate(self, value: object, /) -> str:
        if not isinstance(value, str):
            raise TypeError("text is wanted")
        return value.upper()

    def dump(self, value: str, /) -> bytes:
        return f'"{value}"'.encode()

    def load(self, data: bytes, /) -> str:
        return data.decode().strip('"')


BAD_JSON = [
    b"", b" ", b"1 2", b"{} {}", b'{"a":1}x', b"[1,]", b"{,}", b"'a'", b"01", b"1.", b"tru", b'"a', b'"\n"', b"[" * 100_000, b'"\xff"', b'"\\ud800"',
    b"\xef\xbb\xbf1", b"NaN", b"Infinity", b"-Infinity", b"[NaN]", b'{"a":NaN}', b'{"I":"N","x":[-Infinity]}', b"None",
]  # fmt: skip
"""What is not exactly one JSON value in UTF-8."""


# ---------------------------------------------------------------- pydantic


@pytest.mark.parametrize(
    ("form", "value", "wire"),
    [
        (Status, Status(message="x"), b'{"message":"x","level":0}'),
        (Usage, {"input_tokens": 1}, b'{"input_tokens":1}'),
        (Point, Point(1), b'{"x":1}'),
        (list[int], [1, 2], b"[1,2]"),
        (int | str, "x", b'"x"'),
        (Literal["a", "b"], "a", b'"a"'),
        (Annotated[int, Field(gt=0)], 3, b"3"),
        (UUID, UUID(int=1), b'"00000000-0000-0000-0000-000000000001"'),
        (datetime, datetime(2026, 1, 2, tzinfo=UTC), b'"2026-01-02T00:00:00Z"'),
        (None, None, b"null"),
        (Any, {"a": [1, None, "é"]}, '{"a":[1,null,"é"]}'.encode()),
    ],
)
def test_what_pydantic_accepts_goes_to_the_wire_and_back(form: Any, value: object, wire: bytes) -> None:
    schema = schema_of(form, validate=True)
    assert isinstance(schema, PydanticSchema)
    assert schema.validate(value) == value
    assert schema.dump(value) == wire
    assert schema.load(wire) == value


def test_a_valid_dict_becomes_the_model() -> None:
    schema = PydanticSchema(Status)
    assert schema.validate({"message": "x"}) == Status(message="x")
    assert schema.type is Status
    assert schema.json_schema()["required"] == ["message"]


def test_the_compiled_functions_are_called_without_a_python_frame_between() -> None:
    schema = PydanticSchema(Status)
    for function in (schema.validate, schema.dump):
        assert isinstance(function, BuiltinMethodType), "a method of pydantic's compiled validator, bound once"


def test_a_model_is_taken_as_it_is() -> None:
    """Documented: pydantic does not look into instances, so a model spoilt after it was made is found by the reader."""
    schema = PydanticSchema(Status)
    spoilt = Status(message="x")
    assert schema.validate(spoilt) is spoilt
    spoilt.message = cast("str", 5)
    assert schema.validate(spoilt) is spoilt
    with pytest.warns(UserWarning, match="Expected `str`"):
        wire = schema.dump(spoilt)
    with pytest.raises(ValidationError):
        schema.load(wire)


@pytest.mark.parametrize("form", [Any, Status, float, dict[str, Any]])
@pytest.mark.parametrize("data", BAD_JSON, ids=lambda data: repr(data[:12]))
def test_only_exactly_one_json_value_is_read(form: Any, data: bytes) -> None:
    for schema in (schema_of(form, validate=True), schema_of(form, validate=False)):
        with pytest.raises(ValueError) as caught:
            schema.load(data)
        assert field_errors(caught.value)[0].message


def test_words_that_json_refuses_are_fine_inside_text() -> None:
    wire = b'{"message":"I saw NaN and -Infinity","level":1}'
    assert PydanticSchema(Status).load(wire).message == "I saw NaN and -Infinity"
    assert JsonSchema(Status).load(wire)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_a_number_is_written_as_null(value: float) -> None:
    class Measure(BaseModel):
        value: float

    assert PydanticSchema(Measure).dump(Measure(value=value)) == b'{"value":null}'
    assert PydanticSchema(float).dump(value) == b"null"
    assert JsonSchema(Any).dump({"value": value}) == b'{"value":null}'


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False), lambda s: st.lists(s) | st.dictionaries(st.text(), s), max_leaves=12))  # fmt: skip
def test_any_json_value_round_trips(value: Any) -> None:
    for schema in (PydanticSchema(Any), static_schema(Any)):
        wire = schema.dump(schema.validate(value))
        assert b"\n" not in wire
        assert schema.load(wire) == value == from_json(wire)


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)
    input_tokens: int


class ReadOnly(BaseModel):
    model_config = ConfigDict(alias_generator=AliasGenerator(validation_alias=to_camel))
    input_tokens: int


@pytest.mark.parametrize(("model", "wire"), [(Camel, b'{"inputTokens":1}'), (ReadOnly, b'{"input_tokens":1}')])
def test_aliases_are_written_and_both_are_read(model: Any, wire: bytes) -> None:
    plain, nested = schema_of(model, validate=True), schema_of(GenericAlias(list, (model,)), validate=True)
    value = model(inputTokens=1)
    assert plain.validate({"inputTokens": 1}) == plain.validate({"input_tokens": 1}) == value
    assert nested.validate([{"inputTokens": 1}]) == nested.validate([{"input_tokens": 1}]) == [value]
    assert plain.dump(value) == wire
    assert plain.load(wire) == value
    assert nested.load(nested.dump([value])) == [value]


def test_a_field_called_like_pydantics_own_alias_key_is_a_field() -> None:
    class Odd(BaseModel):
        validation_alias: int
        metadata: str

    schema = PydanticSchema(Odd)
    value = Odd(validation_alias=1, metadata="x")
    assert schema.load(schema.dump(value)) == value


# ---------------------------------------------------------------- faults at definition


@pytest.mark.parametrize("form", [pytest.param(object(), id="an object"), 3, Status(message="x"), Upper, open, dict[Upper, int]], ids=str)
def test_what_pydantic_cannot_validate_fails_where_it_is_declared(form: object) -> None:
    with pytest.raises(DeclarationError, match=r"pydantic cannot validate .*with a Schema .*or with validate=False") as caught:
        schema_of(form, validate=True)
    assert caught.value.__cause__ is not None
    assert len(str(caught.value)) < 900


def test_a_type_whose_hook_raises_fails_where_it_is_declared() -> None:
    class Hook:
        @classmethod
        def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
            raise RuntimeError("no schema today")

    with pytest.raises(DeclarationError, match="no schema today"):
        PydanticSchema(Hook)


class OldUsage(typing.TypedDict):
    input_tokens: int


@pytest.mark.parametrize("form", [OldUsage, dict[str, OldUsage]])
def test_the_typed_dict_of_typing_is_explained(form: Any) -> None:
    if sys.version_info >= (3, 12):  # pydantic takes it from here on
        assert schema_of(form, validate=True)
        return
    with pytest.raises(DeclarationError, match="import TypedDict from typing_extensions"):
        schema_of(form, validate=True)


def test_a_type_only_topic_takes_any_type_at_all() -> None:
    for form in (OldUsage, Upper, object(), "Nowhere"):
        schema = schema_of(form, validate=False)
        assert isinstance(schema, JsonSchema)
        assert schema.load(schema.dump(schema.validate({"input_tokens": 1}))) == {"input_tokens": 1}


# ---------------------------------------------------------------- forward references


class Tree(BaseModel):
    left: Leaf | None = None


FORWARD: PydanticSchema[Tree] = PydanticSchema(Tree)
BY_NAME = schema_of(list["Leaf"], validate=True, module=__name__)
CAPTURED = BY_NAME.validate


class Leaf(BaseModel):
    x: int


def test_a_class_that_does_not_exist_yet_is_found_at_first_use() -> None:
    assert FORWARD.validate({"left": {"x": 1}}) == Tree(left=Leaf(x=1))
    assert FORWARD.load(FORWARD.dump(Tree(left=Leaf(x=1)))) == Tree(left=Leaf(x=1))
    assert CAPTURED([{"x": 1}]) == [Leaf(x=1)], "also by a function taken before"
    assert BY_NAME.dump([Leaf(x=1)]) == b'[{"x":1}]'


@pytest.mark.parametrize("first", ["validate", "dump", "load", "json_schema"])
def test_each_first_use_builds(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.delitem(globals(), "Leaf")  # as it is while the module is still being read
        schema = cast("PydanticSchema[list[Leaf]]", schema_of(list["Leaf"], validate=True, module=__name__))
    match first:
        case "validate":
            assert schema.validate([]) == []
        case "dump":
            assert schema.dump([]) == b"[]"
        case "load":
            assert schema.load(b"[]") == []
        case _:
            assert schema.json_schema()["type"] == "array"


def list_of(name: str) -> Any:  # Any: a type form no checker can know
    return GenericAlias(list, (name,))


@pytest.mark.parametrize("form", ["Nowhere", list_of("Nowhere"), ForwardRef("Nowhere"), GenericAlias(dict, (str, list_of("Nowhere")))])
def test_a_class_that_never_appears_is_a_declaration_error_at_use(form: Any) -> None:
    schema = schema_of(form, validate=True, module=__name__)
    for use in (lambda: schema.validate(1), lambda: schema.dump(1), lambda: schema.load(b"1")):
        with pytest.raises(DeclarationError, match=r"mentions a class that cannot be found in module .*test_schemas"):
            use()


def test_a_name_is_never_looked_up_among_ours() -> None:
    """A class called as one of ours must not be mistaken for it."""
    for name in ("JsonSchema", "partial", "self", "_form"):
        with pytest.raises(DeclarationError, match="cannot be found"):
            schema_of(list_of(name), validate=True).validate([])


def test_text_in_a_literal_is_no_name() -> None:
    assert schema_of(Literal["Nowhere"], validate=True).validate("Nowhere") == "Nowhere"
    assert schema_of(Annotated[int, "Nowhere"], validate=True).validate(3) == 3


# ---------------------------------------------------------------- schemas of one's own


def test_a_schema_is_taken_as_it_is() -> None:
    upper = Upper()
    assert schema_of(upper, validate=True) is upper
    with pytest.raises(DeclarationError, match="is a Schema and decides itself"):
        schema_of(upper, validate=False)


def test_a_class_is_never_a_schema() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic's own advice against such a name
        lookalike = create_model("Lookalike", validate=(int, ...), dump=(int, ...), load=(int, ...))
    assert not is_schema(lookalike)
    assert not is_schema(Upper)
    assert not is_schema(PydanticSchema[int])  # a subscripted class hands its methods out
    assert not is_schema(TypeAdapter(int))
    assert is_schema(Upper())
    schema = schema_of(lookalike, validate=True)
    assert schema.validate({"validate": 1, "dump": 2, "load": 3}) is not None


# ---------------------------------------------------------------- pass-through


def test_static_schema_types_and_validates_nothing() -> None:
    schema: Schema[Usage] = static_schema(Usage)
    wrong: Any = {"input_tokens": "many"}
    assert schema.validate(wrong) is wrong
    assert schema.load(schema.dump(wrong)) == wrong
    assert isinstance(schema, JsonSchema)
    assert schema.type is Usage


def test_pass_through_schemas_are_equal() -> None:
    schemas: list[object] = [static_schema(Usage), static_schema(Status), JsonSchema(Any)]
    assert schemas[0] == schemas[1] == schemas[2]
    assert len(set(schemas)) == 1
    assert schemas[0] != PydanticSchema(Usage)


@pytest.mark.parametrize("value", [object(), {"x": object()}, "\ud800", b"\xff"])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(PydanticSerializationError) as caught:
        static_schema(object).dump(value)
    assert field_errors(caught.value)[0].message


def test_schemas_pickle() -> None:
    for schema in (PydanticSchema(Status), static_schema(Usage)):
        again = pickle.loads(pickle.dumps(schema))
        assert type(again) is type(schema)
        assert repr(again) == repr(schema)
        assert again.load(b'{"message":"x","input_tokens":1}')


# ---------------------------------------------------------------- faults told


def caught(form: Any, value: object) -> Exception:
    with pytest.raises(ValueError) as caught:
        schema_of(form, validate=True).validate(value)
    return caught.value


def test_each_faulty_field_has_an_entry_and_no_value_is_told() -> None:
    class Order(BaseModel):
        items: list[Point]
        note: str

    faults = field_errors(caught(Order, {"items": [{"x": 1}, {"x": "s3cret"}], "note": 5, "password": "s3cret"}))
    assert [fault.location for fault in faults] == ["items.1.x", "note"]
    assert "integer" in faults[0].message
    assert "s3cret" not in str(faults)


def test_a_tag_that_is_none_is_not_told_but_what_tags_there_are() -> None:
    class Cat(BaseModel):
        kind: Literal["cat"]

    class Dog(BaseModel):
        kind: Literal["dog"]

    tagged = Annotated[Cat | Dog, Field(discriminator="kind")]
    expected = "Input tag found using 'kind' does not match any of the expected tags: 'cat', 'dog'"
    assert field_errors(caught(tagged, {"kind": "s3cret"})) == (FieldError("", expected),)


def test_the_whole_payload_has_no_location() -> None:
    assert field_errors(caught(int, "x"))[0].location == ""
    assert field_errors(ValueError("too odd")) == (FieldError("", "too odd"),)
    assert field_errors(TypeError()) == (FieldError("", "TypeError"),)


def test_faults_are_bounded() -> None:
    class Talkative(BaseModel):
        x: int

        @field_validator("x")
        @classmethod
        def talk(cls, value: int) -> int:
            raise ValueError(str(value) * 10_000)

    assert len(field_errors(ValueError("x" * 10_000))[0].message) == 500
    assert len(field_errors(caught(Talkative, {"x": 1}))[0].message) == 500
    faults = field_errors(caught(list[int], ["x"] * 1000))
    assert len(faults) == 51
    assert faults[-1] == FieldError("", "and 950 more")
    assert len(field_errors(caught(dict[str, int], {"k" * 10_000: "x"}))[0].location) == 500
