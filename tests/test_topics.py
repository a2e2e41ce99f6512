"""References, data addressed to them, and the declarations they come from."""

from __future__ import annotations

import copy
import pickle
from types import GenericAlias
from typing import Any, cast

import pytest
from pydantic import BaseModel

from fanwire.channels import Channel, Outgoing, StaticChannel, TopicRef, static_schema, topic
from fanwire.errors import DeclarationError, InvalidName
from fanwire.schemas import JsonSchema, PydanticSchema


class Status(BaseModel):
    message: str


class Chat(Channel, name="chat:{id}"):
    id: str
    status = topic(Status)
    forward = topic(list["Later"])


class Alerts(StaticChannel, name="alerts"):
    alert = topic(Status)


class Later(BaseModel):
    x: int


# ---------------------------------------------------------------- references


def test_a_reference_made_by_hand() -> None:
    ref = TopicRef("chat:x", "status", PydanticSchema(Status))
    assert (ref.channel, ref.topic) == ("chat:x", "status")
    assert ref.schema.validate({"message": "hi"}) == Status(message="hi")
    assert repr(ref) == "TopicRef('chat:x', 'status')"
    anything = TopicRef("chat:x", "status")
    assert anything.schema.load(b'{"a":1}') == {"a": 1}
    assert anything.schema is TopicRef("other", "topic").schema


@pytest.mark.parametrize(
    ("channel", "name"), [("", "t"), ("c", ""), ("c\n", "t"), ("c", "t\u202e"), ("c" * 256, "t"), ("c", "t" * 129), (" c", "t"), (None, "t")]
)
def test_names_given_by_hand_are_checked(channel: Any, name: Any) -> None:
    with pytest.raises(InvalidName):
        TopicRef(channel, name)


def test_references_are_equal_by_channel_and_topic() -> None:
    made, by_hand = Chat(id="x").status, TopicRef("chat:x", "status")
    assert made == by_hand
    assert hash(made) == hash(by_hand)
    assert len({made, by_hand, Chat(id="x").status}) == 1
    assert made == Chat(id="x").status
    assert by_hand != TopicRef("chat:x", "other")
    assert by_hand != TopicRef("chat:y", "status")
    assert by_hand != cast("object", ("chat:x", "status"))


def test_references_are_immutable() -> None:
    ref = Chat(id="x").status
    for attribute in ("channel", "topic", "schema", "other"):
        with pytest.raises(AttributeError, match="cannot (assign to|delete) field"):
            setattr(ref, attribute, "y")
        with pytest.raises(AttributeError, match="cannot (assign to|delete) field"):
            delattr(ref, attribute)
    assert not hasattr(ref, "__dict__")


def test_the_codecs_constants_are_no_part_of_the_value() -> None:
    ref = Chat(id="x").status
    object.__setattr__(ref, "_envelope", b"constants")
    assert ref == Chat(id="x").status
    assert b"constants" not in pickle.dumps(ref)
    assert Chat(id="x").status._envelope is None


def test_a_reference_by_hand_pickles_with_its_schema() -> None:
    for ref in (TopicRef("chat:x", "status", PydanticSchema(Status)), TopicRef("chat:x", "status")):
        again = pickle.loads(pickle.dumps(ref))
        assert again == ref
        assert type(again.schema) is type(ref.schema)
        assert again.schema.load(b'{"message":"x"}') == ref.schema.load(b'{"message":"x"}')
    assert copy.copy(TopicRef("a", "b")) == TopicRef("a", "b")


def test_a_subscripted_reference_is_an_ordinary_one() -> None:
    assert TopicRef[Status]("chat:x", "status", static_schema(Status)) == TopicRef("chat:x", "status")


# ---------------------------------------------------------------- outgoing


def test_calling_a_reference_addresses_data() -> None:
    ref = Chat(id="x").status
    data = Status(message="hi")
    plain = ref(data)
    assert (plain.ref, plain.data, plain.key, plain.headers) == (ref, data, None, None)
    full = ref(data, key="k", headers={"a": "b"})
    assert (full.key, full.headers) == ("k", {"a": "b"})
    assert repr(plain) == "Outgoing(TopicRef('chat:x', 'status'), Status(message='hi'))"
    assert repr(full).endswith("key='k', headers={'a': 'b'})")


def test_outgoing_is_checked_only_when_it_is_published() -> None:
    wrong = cast("Status", {"nonsense": 1})
    assert Chat(id="x").status(wrong).data is wrong


def test_outgoing_is_a_value() -> None:
    ref = Chat(id="x").status
    first, same, other = ref(Status(message="a")), ref(Status(message="a")), ref(Status(message="b"))
    assert first == same
    assert first != other
    assert first != ref(Status(message="a"), key="k")
    assert first != cast("object", "x")
    assert pickle.loads(pickle.dumps(first)) == first
    with pytest.raises(TypeError, match="unhashable"):
        hash(first)
    for attribute in ("ref", "data", "key", "headers", "other"):
        with pytest.raises(AttributeError, match="cannot (assign to|delete) field"):
            setattr(first, attribute, None)
        with pytest.raises(AttributeError, match="cannot (assign to|delete) field"):
            delattr(first, attribute)
    assert first == Outgoing(ref, Status(message="a"))


# ---------------------------------------------------------------- declarations


def test_a_topic_before_it_has_a_class() -> None:
    declared = topic(Status, name="s")
    assert declared.name == "s"
    assert declared.type is Status
    assert declared.validated
    assert repr(declared) == "<Topic 's'>"
    assert topic(Status).name == ""


def test_what_was_declared_is_told() -> None:
    class Own:
        def validate(self, value: object, /) -> int:
            return 1

        def dump(self, value: int, /) -> bytes:
            return b"1"

        def load(self, data: bytes, /) -> int:
            return 1

    class Forms(Channel, name="forms"):
        union = topic(int | str)
        static = topic(static_schema(Status))
        type_only = topic(Status, validate=False)
        own = topic(Own())

    types = {name: (declared.type, declared.validated) for name, declared in Forms.topics.items()}
    assert types == {"union": (int | str, True), "static": (Status, False), "type_only": (Status, False), "own": (Any, True)}
    assert isinstance(Forms().static.schema, JsonSchema)


def test_a_forward_reference_means_a_class_of_the_channels_module() -> None:
    chat = Chat(id="x")
    assert chat.forward.schema.load(b'[{"x":1}]') == [Later(x=1)]


def test_a_forward_reference_that_means_nothing_is_told_at_use() -> None:
    nowhere: Any = GenericAlias(list, ("Nowhere",))  # Any: a type form no checker can know

    class Lost(Channel, name="lost"):
        x = topic(nowhere)

    with pytest.raises(DeclarationError, match=r"mentions a class that cannot be found in module '.*test_topics'"):
        Lost().x.schema.validate([])


def test_a_static_channels_reference_pickles_by_its_class() -> None:
    again = pickle.loads(pickle.dumps(Alerts.alert))
    assert again is Alerts.alert
