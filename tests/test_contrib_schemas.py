"""The adapters of fanwire_schemas."""

from __future__ import annotations

import pickle
import subprocess
import sys
from types import GenericAlias
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanwire.channels import Channel, Schema, TopicRef, topic
from fanwire.errors import DeclarationError
from fanwire.schemas import field_errors, is_schema, schema_of
from fanwire_schemas.msgspec import MsgspecSchema


class Status(msgspec.Struct, frozen=True):
    message: str
    level: int = 0


class Renamed(msgspec.Struct, rename="camel"):
    input_tokens: int


class AgentChat(Channel, name="msgspec-chat:{thread_id}"):
    thread_id: str
    status = topic(MsgspecSchema(Status))
    untyped = topic(Status, validate=False)


def test_it_is_a_schema_and_is_taken_as_it_is() -> None:
    schema: Schema[Status] = MsgspecSchema(Status)
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


@pytest.mark.parametrize("value", [{"message": 3}, {}, [], None, "x", {"message": "x", "level": "1"}])
def test_invalid_data_is_a_value_error_that_says_where(value: object) -> None:
    schema = MsgspecSchema(Status)
    with pytest.raises(ValueError, match=r"Expected|missing") as at_publish:
        schema.validate(value)
    with pytest.raises(ValueError) as at_receipt:
        schema.load(msgspec.json.encode(value))
    assert field_errors(at_publish.value) == field_errors(at_receipt.value)
    assert isinstance(at_publish.value.__cause__, msgspec.ValidationError)


def test_the_faulty_field_is_named() -> None:
    with pytest.raises(ValueError, match=r"Expected `int`, got `str` - at `\$\.level`"):
        MsgspecSchema(Status).validate({"message": "x", "level": "1"})
    assert MsgspecSchema(Status, strict=False).validate({"message": "x", "level": "1"}) == Status("x", 1)
    assert MsgspecSchema(Status, strict=False).load(b'{"message":"x","level":"1"}') == Status("x", 1)


@pytest.mark.parametrize("data", [b"", b"1 2", b'{"message":"x"}x', b'{"message":"\xff"}', b"NaN", b"[1,]"])
def test_only_exactly_one_json_value_is_read(data: bytes) -> None:
    for schema in (MsgspecSchema(Status), MsgspecSchema(Any)):
        with pytest.raises(ValueError):
            schema.load(data)


def test_names_on_the_wire_are_the_structs() -> None:
    schema = MsgspecSchema(Renamed)
    assert schema.dump(Renamed(1)) == b'{"inputTokens":1}'
    assert schema.load(b'{"inputTokens":1}') == Renamed(1)
    assert schema.json_schema()["$defs"]["Renamed"]["required"] == ["inputTokens"]


def test_other_types_than_structs() -> None:
    assert MsgspecSchema(list[int]).validate((1, 2)) == [1, 2]
    assert MsgspecSchema(int | str).load(b'"x"') == "x"
    assert MsgspecSchema(float).dump(float("nan")) == b"null"


def test_what_cannot_be_written_is_refused() -> None:
    schema: Schema[object] = MsgspecSchema(object)
    with pytest.raises(TypeError, match="unsupported"):
        schema.dump(object())


@pytest.mark.parametrize("form", [pytest.param(object(), id="an object"), "Nowhere", GenericAlias(list, ("Nowhere",)), 3], ids=str)
def test_a_type_msgspec_cannot_read_fails_where_it_is_declared(form: Any) -> None:
    with pytest.raises(DeclarationError, match="msgspec cannot read"):
        MsgspecSchema(form)


def test_it_pickles() -> None:
    again = pickle.loads(pickle.dumps(MsgspecSchema(Status, strict=False)))
    assert repr(again) == "MsgspecSchema(Status)"
    assert again.load(b'{"message":"x","level":"1"}') == Status("x", 1)


@given(st.builds(Status, message=st.text(), level=st.integers(-(2**63), 2**63 - 1)))
def test_every_struct_round_trips(value: Status) -> None:
    schema = MsgspecSchema(Status)
    assert schema.load(schema.dump(schema.validate(value))) == value


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_package_imports_no_library_by_itself() -> None:
    result = run("import sys, fanwire_schemas; assert 'msgspec' not in sys.modules")
    assert result.returncode == 0, result.stderr


def test_without_msgspec_the_command_to_install_it_is_told() -> None:
    result = run("import sys; sys.modules['msgspec'] = None; import fanwire_schemas.msgspec")
    assert result.returncode == 1
    assert 'ImportError: fanwire_schemas.msgspec needs msgspec; pip install "fanwire[msgspec]"' in result.stderr
