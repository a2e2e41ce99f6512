"""Channel classes: what they give, what they refuse, and when."""

from __future__ import annotations

import copy
import gc
import inspect
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NewType, TypeVar, cast
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, PlainSerializer, SecretStr, StringConstraints

import fanwire.channels
from fanwire.channels import Channel, StaticChannel, Topic, TopicRef, channel, declared_topics, static_schema, topic
from fanwire.errors import DeclarationError, InvalidName

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForCheckers

T = TypeVar("T")
UserId = NewType("UserId", str)


class Status(BaseModel):
    message: str


class Token(BaseModel):
    token: str


class Color(Enum):
    RED = "red"
    BLUE = 2


class AgentChat(Channel, name="agent-chat:{thread_id}"):
    thread_id: str
    status = topic(Status)
    tool_call = topic(Token, name="tool-call")
    usage = topic(dict[str, int], validate=False)


class Lifecycle(Channel):
    started = topic(Status)
    ended = topic(Status)


class Tenant(Channel):
    tenant: str
    region: Literal["eu", "us"] = "eu"


class Job(Lifecycle, Tenant, name="job:{region}:{tenant}:{job_id}"):
    job_id: int
    output = topic(Token)


class Alerts(Lifecycle, StaticChannel, name="system:alerts"):
    alert = topic(Status)


class Everything(Channel, name="e:{text}:{number}:{flag}:{id}:{color}:{choice}:{user}:{short}:{day}"):
    text: str
    number: int
    flag: bool
    id: UUID
    color: Color = Color.RED
    choice: Literal["x", 7] = "x"
    user: UserId
    short: Annotated[str, StringConstraints(max_length=3)] = "s"
    day: date = Field(default=date(2026, 1, 2))


def wrongly(cls: Any, *args: object, **params: object) -> object:  # Any: calls that a checker would refuse
    return cls(*args, **params)


# ---------------------------------------------------------------- what a channel gives


def test_a_channel_has_a_name_params_and_references() -> None:
    chat = AgentChat(thread_id="thread_abc")
    assert chat.name == "agent-chat:thread_abc"
    assert chat.thread_id == "thread_abc"
    assert chat.template == AgentChat.template == "agent-chat:{thread_id}"
    assert chat.status == TopicRef("agent-chat:thread_abc", "status")
    assert chat.tool_call.topic == "tool-call"
    assert chat.status.schema is AgentChat.status.schema
    assert repr(chat) == "AgentChat(thread_id='thread_abc')"


def test_a_reference_is_made_once() -> None:
    chat = AgentChat(thread_id="x")
    first = chat.status
    assert chat.status is first
    assert vars(chat)["status"] is first, "a plain dictionary entry, so that access costs nothing"
    assert AgentChat(thread_id="x").status is not first
    assert AgentChat(thread_id="x").status == first


def test_a_channel_and_its_references_are_freed_without_the_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for i in range(100):
            chat = AgentChat(thread_id=str(i))
            assert chat.status.channel == chat.name
        assert len(gc.get_objects()) - before < 50
    finally:
        gc.enable()


def test_the_class_holds_the_declarations() -> None:
    assert AgentChat.status.type is Status
    assert AgentChat.topics["status"] is AgentChat.status
    assert list(AgentChat.topics) == ["status", "tool-call", "usage"], "by name on the wire, in order"
    assert AgentChat.topics["status"].validated
    assert not AgentChat.topics["usage"].validated
    assert repr(AgentChat.tool_call) == "<Topic 'tool-call' of AgentChat>"
    assert issubclass(AgentChat.params, BaseModel)
    assert AgentChat.params.model_json_schema()["required"] == ["thread_id"]
    assert list(inspect.signature(AgentChat).parameters) == ["thread_id"]
    with pytest.raises(TypeError):
        cast("dict[str, object]", AgentChat.topics)["status"] = None


def test_a_class_of_channels_has_no_name_yet() -> None:
    with pytest.raises(AttributeError, match=r"AgentChat has a name once it is made: AgentChat\(thread_id=\.\.\.\)\.name; .* AgentChat\.template"):
        getattr(AgentChat, "name")  # noqa: B009 - a checker refuses the plain access
    with pytest.raises(AttributeError, match="Lifecycle is abstract"):
        getattr(Lifecycle, "name")  # noqa: B009


def test_a_static_channel_is_its_class() -> None:
    assert Alerts.name == Alerts.template == "system:alerts"
    assert Alerts.alert == TopicRef("system:alerts", "alert")
    assert Alerts.alert is Alerts.alert
    assert Alerts.started == TopicRef("system:alerts", "started")
    assert list(Alerts.topics) == ["started", "ended", "alert"]
    assert Alerts.topics["alert"].type is Status
    for use in (partial(wrongly, Alerts), partial(Alerts.parse, "system:alerts")):
        with pytest.raises(
            DeclarationError, match=r"Alerts is a StaticChannel, the class itself is the channel: use Alerts\.name and Alerts\.<topic>"
        ):
            use()


def test_a_static_channel_of_a_static_channel_is_another_channel() -> None:
    class Base(StaticChannel):
        alert = topic(Status)

    class One(Base, name="one"):
        pass

    class Two(One, name="two"):
        pass

    assert One.alert.channel == "one"
    assert Two.alert.channel == "two"
    assert One.alert.channel == "one"
    with pytest.raises(AttributeError, match="Base is abstract"):
        Base.alert


def test_braces_can_be_written() -> None:
    class Braces(StaticChannel, name="a{{b}}"):
        x = topic(int)

    class More(Channel, name="{{{x}}}"):
        x: str

    assert Braces.name == Braces.x.channel == "a{b}"
    assert More(x="1").name == "{1}"
    assert More.parse("{1}") == More(x="1")


def test_a_channel_without_params_is_instantiated_all_the_same() -> None:
    class Fixed(Channel, name="fixed"):
        x = topic(int)

    assert Fixed().name == "fixed"
    assert Fixed.parse("fixed") == Fixed()
    assert repr(Fixed()) == "Fixed()"
    with pytest.raises(InvalidName):
        Fixed.parse("other")


# ---------------------------------------------------------------- params


EVERYTHING: dict[str, Any] = {"text": "t", "number": -5, "flag": True, "id": UUID(int=1), "user": UserId("u")}


def changed(**changes: Any) -> dict[str, Any]:  # Any: also values that a checker would refuse
    return EVERYTHING | changes


def test_params_are_written_as_json_values() -> None:
    every = Everything(**EVERYTHING)
    assert every.name == "e:t:-5:true:00000000-0000-0000-0000-000000000001:red:x:u:s:2026-01-02"
    assert Everything.parse(every.name) == every
    again = Everything.parse(every.name.replace(":red:x:", ":2:7:").replace("true", "false"))
    assert (again.color, again.choice, again.flag, again.day) == (Color.BLUE, 7, False, date(2026, 1, 2))
    assert Everything(**changed(color=Color.BLUE, choice=7, flag=False)) == again


def test_params_are_validated_as_pydantic_does() -> None:
    every = Everything(**changed(number="12", id=str(UUID(int=2)), color="red"))
    assert every.number == 12
    assert every.id == UUID(int=2)
    assert every.color is Color.RED


def test_each_faulty_param_is_named() -> None:
    with pytest.raises(InvalidName) as caught:
        Everything(**changed(number="x", short="long!", color="green"))
    for expected in ("Everything: ", "number: Input should be a valid integer", "short: String should have at most 3", "color: Input should be"):
        assert expected in str(caught.value)
    assert type(caught.value.__cause__).__name__ == "ValidationError"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (partial(wrongly, AgentChat), r"AgentChat needs thread_id: AgentChat\(thread_id=\.\.\.\)"),
        (partial(wrongly, AgentChat, "x"), r"AgentChat takes its params as keywords: AgentChat\(thread_id=\.\.\.\)"),
        (partial(wrongly, AgentChat, thread_id="x", tread_id="y"), "AgentChat has no param 'tread_id'"),
        (partial(wrongly, Job, tenant="x"), "Job needs job_id"),
        (partial(wrongly, Lifecycle), "Lifecycle is abstract: it has no name=; subclass it with one"),
        (partial(Lifecycle.parse, "x"), "Lifecycle is abstract"),
        (partial(wrongly, Channel), "Channel is abstract"),
        (partial(wrongly, StaticChannel), "StaticChannel is a StaticChannel"),
    ],
)
def test_wrong_calls_are_declaration_errors(call: Callable[[], object], says: str) -> None:
    with pytest.raises(DeclarationError, match=says) as caught:
        call()
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "None cannot be part of a name"),
        ("", "an empty text cannot be part of a name"),
        (1.5, "a float cannot be part of a name"),
        ([1], "a list cannot be part of a name"),
        ({"a": 1}, "a dict cannot be part of a name"),
        (7, "would not be read back as the values it was made of"),
        (object(), "Unable to serialize"),
        ("a\nb", r"U\+000A at position 3"),
        ("\u202e", r"U\+202E"),
        ("\ud800", "surrogate|surrogates"),
        ("a ", "ends with white space"),
        ("e\u0301", "NFC"),
        ("x" * 300, "at most 255 bytes"),
    ],
)
def test_values_that_cannot_be_in_a_name(value: object, says: str) -> None:
    class Loose(Channel, name="l:{x}"):
        x: Any

    with pytest.raises(InvalidName, match=f"Loose: .*({says})"):
        Loose(x=value)
    assert Loose(x="7").name == "l:7"


def test_values_whose_text_cannot_be_read_are_refused() -> None:
    class Written(Channel, name="w:{x}"):
        x: Annotated[int, PlainSerializer(lambda value: f"n{value}")]

    class Secret(Channel, name="s:{x}"):
        x: SecretStr

    with pytest.raises(InvalidName, match="'w:n1' would not be read back"):
        Written(x=1)
    with pytest.raises(InvalidName, match="would not be read back") as caught:
        Secret(x=SecretStr("hunter2"))
    assert "hunter2" not in str(caught.value)


def test_a_number_too_long_to_write_is_refused() -> None:
    class Numbered(Channel, name="n:{n}"):
        n: int

    with pytest.raises(InvalidName, match=r"Numbered: .*n: "):
        Numbered(n=10**5000)
    with pytest.raises(InvalidName):
        Numbered.parse("n:" + "9" * 5000)


def test_bytes_are_text_where_text_is_wanted() -> None:
    """Pydantic's own rule for str; what is written is text."""
    assert AgentChat(thread_id=cast("str", b"x")) == AgentChat(thread_id="x")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("n:007", "the channel is called 'n:7'"),
        ("n:+7", "the channel is called 'n:7'"),
        ("n: 7", "the channel is called 'n:7'"),
        ("n:7.0", "the channel is called 'n:7'"),
        ("n:\u0667", "the channel is called 'n:7'|valid integer"),
        ("n:x", "n: Input should be a valid integer"),
        ("n:", "not of the form 'n:{n}'"),
        ("m:7", "not of the form 'n:{n}'"),
        ("", "must not be empty"),
        ("n:7\n", r"U\+000A"),
        ("n:7 ", "ends with white space"),
        (cast("str", None), "is a str, not NoneType"),
    ],
)
def test_only_the_canonical_name_is_read(name: str, says: str) -> None:
    class N(Channel, name="n:{n}"):
        n: int

    assert N.parse("n:7").n == 7
    with pytest.raises(InvalidName, match=says.replace("{", r"\{").replace("}", r"\}")):
        N.parse(name)


def test_a_validator_that_normalises_decides_the_name() -> None:
    class Room(Channel, name="room:{room}"):
        room: Annotated[str, StringConstraints(to_lower=True, strip_whitespace=True)]

    assert Room(room=" Lobby ").name == "room:lobby"
    with pytest.raises(InvalidName, match="the channel is called 'room:lobby'"):
        Room.parse("room:Lobby")


def test_names_that_python_or_pydantic_use_are_fine_for_params() -> None:
    class Odd(Channel, name="{self}:{cls}:{copy}:{schema}:{model_id}:{values}:{args}"):
        self: str
        cls: str
        copy: str
        schema: str
        model_id: str
        values: str
        args: str

    odd = Odd(**dict.fromkeys(("self", "cls", "copy", "schema", "model_id", "values", "args"), "x"))
    assert odd.name == "x:x:x:x:x:x:x"
    assert Odd.parse(odd.name) == odd
    assert odd.copy == "x"


def test_types_are_found_where_they_are_written() -> None:
    class Size(Enum):
        SMALL = "s"

    class Shirt(Channel, name="shirt:{size}:{cut}"):
        class Cut(Enum):
            WIDE = "w"

        size: Size
        cut: Cut
        kinds: ClassVar[dict[str, OnlyForCheckers]] = {}  # not evaluated

    assert Shirt(size=Size.SMALL, cut=Shirt.Cut.WIDE).name == "shirt:s:w"
    assert Shirt.kinds == {}


# ---------------------------------------------------------------- inheritance


def test_topics_and_params_are_inherited() -> None:
    job = Job(tenant="acme", job_id=7)
    assert job.name == "job:eu:acme:7"
    assert job.started == TopicRef("job:eu:acme:7", "started")
    assert list(Job.topics) == ["started", "ended", "output"]
    assert list(Job.params.model_fields) == ["tenant", "region", "job_id"]
    assert Job.parse("job:us:acme:7").region == "us"
    assert repr(Lifecycle.started) == "<Topic 'started' of Lifecycle>"


def test_a_subclass_may_override() -> None:
    class Asia(Job, name="asia:{tenant}:{job_id}:{region}"):
        region: Literal["jp", "kr"] = "jp"  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleVariableOverride]
        started = topic(Token)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
        ended = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

    assert Asia(tenant="a", job_id=1).name == "asia:a:1:jp"
    assert {name: declared.type for name, declared in Asia.topics.items()} == {"started": Token, "output": Token}
    assert Job.topics["started"].type is Status
    assert Asia(tenant="a", job_id=1) != Job(tenant="a", job_id=1)


def test_a_subclass_without_a_name_is_abstract() -> None:
    class Extended(AgentChat):
        extra = topic(Token)

    assert Extended.template is None
    with pytest.raises(DeclarationError, match="Extended is abstract"):
        Extended(thread_id="x")


def test_a_mixin_need_not_be_a_channel() -> None:
    class Mixin:
        beat = topic(int)

        def shout(self) -> str:
            return "!"

    class Mixed(Mixin, Channel, name="mixed:{x}"):
        x: str

    mixed = Mixed(x="1")
    assert getattr(mixed, "beat") == declared_topics(mixed)[1]["beat"] == TopicRef("mixed:1", "beat")  # noqa: B009 - a checker wants a channel
    assert isinstance(vars(Mixin)["beat"], Topic)
    assert mixed.shout() == "!"


# ---------------------------------------------------------------- values


def test_channels_are_immutable_values() -> None:
    chat = AgentChat(thread_id="x")
    for attribute in ("thread_id", "name", "status", "other"):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(chat, attribute, "y")
        with pytest.raises(AttributeError, match="immutable"):
            delattr(chat, attribute)
    assert chat == AgentChat(thread_id="x")
    assert chat != AgentChat(thread_id="y")
    assert chat != cast("object", "agent-chat:x")
    assert len({chat, AgentChat(thread_id="x"), AgentChat(thread_id="y")}) == 2


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_channels_and_references_pickle(protocol: int) -> None:
    chat = AgentChat(thread_id="x")
    for value in (chat, chat.status, chat.tool_call, Alerts.alert, Alerts.started, Job(tenant="a", job_id=1).started):
        again = pickle.loads(pickle.dumps(value, protocol))
        assert again == value
        assert hash(again) == hash(value)
    assert pickle.loads(pickle.dumps(chat.status)).schema is chat.status.schema, "by its class: the schema is not sent"
    assert len(pickle.dumps(chat.status)) < 200


def test_channels_copy() -> None:
    chat = AgentChat(thread_id="x")
    assert copy.copy(chat) == copy.deepcopy(chat) == chat
    assert copy.deepcopy({"ref": chat.status})["ref"] == chat.status


# ---------------------------------------------------------------- as the hub sees them


def test_declared_topics_of_each_form() -> None:
    chat = AgentChat(thread_id="x")
    name, refs = declared_topics(chat)
    assert name == "agent-chat:x"
    assert refs == {"status": chat.status, "tool-call": chat.tool_call, "usage": chat.usage}
    assert refs["status"] is chat.status
    assert declared_topics(Alerts) == ("system:alerts", {"started": Alerts.started, "ended": Alerts.ended, "alert": Alerts.alert})
    dynamic = channel(name="d", topics={"tool-call": int})
    assert declared_topics(dynamic) == ("d", {"tool-call": dynamic["tool-call"]})


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (AgentChat, r"AgentChat is a class of channels; pass one of them: AgentChat\(thread_id=\.\.\.\)"),
        (Lifecycle, "Lifecycle is abstract"),
        (StaticChannel, "StaticChannel is abstract"),
        (channel(name=str, topics={}), "makes channels; call it"),
        ("agent-chat:x", "a channel is wanted, not 'agent-chat:x'"),
        (int, "a channel is wanted, not <class 'int'>"),
        ("x" * 1000, "^.{0,250}$"),
    ],
)
def test_what_is_no_channel(target: Any, says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        declared_topics(target)


def test_every_export_is_there() -> None:
    assert {"Channel", "StaticChannel", "channel", "topic", "static_schema", "Topic", "TopicRef", "Outgoing", "Schema"} <= set(
        fanwire.channels.__all__
    )
    assert Topic is not None
    assert static_schema(int)


def test_declarations_import_no_io() -> None:
    code = (
        "import sys, types, importlib.util\n"
        # Without the façade of fanwire/__init__.py, which is allowed to load more.
        "spec = importlib.util.find_spec('fanwire'); package = types.ModuleType('fanwire')\n"
        "package.__path__ = list(spec.submodule_search_locations); sys.modules['fanwire'] = package\n"
        "import fanwire.channels\n"
        "print(sorted({'anyio', 'trio', 'uvloop', 'msgspec', 'pydantic_settings', 'sqlite3'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=dict(os.environ))
    assert result.stdout.strip() == "[]", result.stderr
