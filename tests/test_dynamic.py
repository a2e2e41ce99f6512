"""The functional form: ``channel(name=..., topics={...})``."""

from __future__ import annotations

import copy
import pickle
from typing import Any, cast

import pytest
from pydantic import BaseModel

from fanwire.channels import Channel, ChannelFactory, DynamicChannel, StaticChannel, TopicRef, channel, static_schema, topic
from fanwire.errors import DeclarationError, InvalidName
from fanwire.schemas import JsonSchema, PydanticSchema


class Alert(BaseModel):
    text: str


class Alerts(StaticChannel, name="system:alerts"):
    alert = topic(Alert)
    tool_call = topic(Alert, name="tool-call")


class Chat(Channel, name="chat:{id}"):
    id: str
    status = topic(Alert)
    usage = topic(Alert, validate=False)


def by_id(id: str, *, prefix: str = "chat") -> str:
    return f"{prefix}:{id}"


ALERTS = channel(name="system:alerts", topics={"alert": Alert, "tool-call": Alert})
CHAT = channel(name=by_id, topics={"status": Alert, "usage": static_schema(Alert)})


def test_it_makes_the_same_references_as_a_class() -> None:
    assert ALERTS.name == Alerts.name
    assert ALERTS.alert == Alerts.alert
    assert ALERTS["alert"] is ALERTS.alert is ALERTS.alert
    assert ALERTS["tool-call"] == Alerts.tool_call
    assert CHAT("x").status == Chat(id="x").status
    assert CHAT(id="x", prefix="y").name == "y:x"
    value = Alert(text="hi")
    for dynamic, declared in ((ALERTS.alert, Alerts.alert), (CHAT("x").usage, Chat(id="x").usage)):
        assert dynamic.schema.dump(value) == declared.schema.dump(value)


def test_its_topics_are_told_as_those_of_a_class() -> None:
    assert {name: (declared.type, declared.validated) for name, declared in CHAT.topics.items()} == {"status": (Alert, True), "usage": (Alert, False)}
    assert CHAT("x").topics is CHAT("y").topics, "schemas are built once, not for each channel"
    assert isinstance(CHAT("x").status.schema, PydanticSchema)
    assert isinstance(CHAT("x").usage.schema, JsonSchema)
    assert repr(ALERTS) == "channel(name='system:alerts', topics=['alert', 'tool-call'])"
    assert repr(CHAT) == "channel(name=by_id, topics=['status', 'usage'])"
    assert {"alert", "name", "topics"} <= set(dir(ALERTS))
    assert "tool-call" not in dir(ALERTS)


def test_a_topic_called_as_an_attribute_is_an_item() -> None:
    odd = channel(name="odd", topics={"name": int, "topics": int, "_x": int, "class": int})
    assert odd.name == "odd"
    assert odd["name"] == TopicRef("odd", "name")
    assert odd["topics"].topic == "topics"
    assert odd._x.topic == "_x"  # pyright: ignore[reportPrivateUsage]
    assert odd["class"].topic == "class"


def test_an_unknown_topic_is_told_with_the_nearest() -> None:
    with pytest.raises(AttributeError, match="channel 'system:alerts' has no topic 'alrt'; did you mean 'alert'?"):
        ALERTS.alrt
    with pytest.raises(KeyError, match="did you mean 'tool-call'"):
        ALERTS["tool_call"]
    with pytest.raises(AttributeError, match="has no topic 'zzz'; it has 'alert', 'tool-call'"):
        ALERTS.zzz
    with pytest.raises(AttributeError, match="it has none"):
        channel(name="empty", topics={}).x
    assert not hasattr(ALERTS, "__deepcopy__")


def test_it_is_an_immutable_value() -> None:
    same = channel(name="system:alerts", topics={"alert": Alert, "tool-call": Alert})
    assert same == ALERTS
    assert hash(ALERTS) == hash(same)
    assert channel(name="system:alerts", topics={"alert": Alert}) != ALERTS
    assert channel(name="other", topics={"alert": Alert, "tool-call": Alert}) != ALERTS
    assert channel(name="system:alerts", topics={"alert": static_schema(Alert), "tool-call": Alert}) != ALERTS
    assert CHAT("x") == CHAT("x")
    assert cast("object", "system:alerts") != ALERTS
    with pytest.raises(AttributeError, match="cannot (assign to|delete) field"):
        setattr(ALERTS, "alert", 3)  # noqa: B010 - a checker refuses the plain assignment
    with pytest.raises(AttributeError, match="cannot (assign to|delete) field"):
        delattr(ALERTS, "alert")


def test_a_channel_pickles_and_a_callable_name_does_not() -> None:
    for made in (ALERTS, CHAT("x")):
        again = pickle.loads(pickle.dumps(made))
        assert again == made
        assert copy.deepcopy(made) == made
    ref = pickle.loads(pickle.dumps(ALERTS.alert))
    assert ref == ALERTS.alert
    assert ref.schema.load(b'{"text":"x"}') == Alert(text="x")
    with pytest.raises(TypeError, match="callable name does not pickle"):
        pickle.dumps(CHAT)
    assert not hasattr(CHAT, "parse")
    assert not hasattr(CHAT, "params")


@pytest.mark.parametrize(
    ("name", "topics", "says"),
    [
        ("x\n", {}, r"U\+000A"),
        ("", {}, "must not be empty"),
        (
            "chat:{id}",
            {},
            r"channel name 'chat:\{id\}' has placeholders; pass a callable, name=lambda id: f'chat:\{id\}', or declare a Channel class",
        ),
        (3, {}, "name= is a str or a callable that returns one, not int"),
        ("x", {"": int}, "topic '': a topic name must not be empty"),
        ("x", {"a\n": int}, r"topic 'a\\n': topic name .*U\+000A"),
        ("x", {3: int}, "topic 3: a topic name is a str, not int"),
        ("x", {"a": object()}, "topic 'a': pydantic cannot validate"),
        ("x", {"a": topic(int)}, r"topic 'a': topic\(\) is for channel classes"),
    ],
)
def test_faults_are_found_at_once(name: Any, topics: Any, says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        channel(name=name, topics=topics)


def test_braces_that_are_no_placeholders_are_part_of_the_name() -> None:
    assert channel(name="a{b", topics={}).name == "a{b"


@pytest.mark.parametrize("made", ["", "x\n", " x", "x" * 300, None, 3])
def test_what_a_callable_returns_is_checked(made: Any) -> None:
    factory = channel(name=lambda: made, topics={})
    assert isinstance(factory, ChannelFactory)
    with pytest.raises(InvalidName):
        factory()


def test_what_a_callable_raises_is_its_own() -> None:
    with pytest.raises(TypeError, match="by_id"):
        CHAT()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert isinstance(CHAT("x"), DynamicChannel)
