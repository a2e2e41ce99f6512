"""Name templates, and the promise that stands on them: one name has one reading."""

from __future__ import annotations

import string
import time
import types
from datetime import date
from enum import Enum, IntEnum
from typing import Any, Literal, cast
from uuid import UUID

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fanwire.channels import Channel
from fanwire.errors import DeclarationError, InvalidName
from fanwire.templates import Template, parse_template


class Color(Enum):
    RED = "red"
    DEEP = "dark-red"


class Level(IntEnum):
    LOW = 1
    HIGH = 12


TYPES: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=12) | st.text(alphabet="ab:-/.{}", max_size=6),
    int: st.integers() | st.integers(-20, 20),
    bool: st.booleans(),
    UUID: st.uuids(),
    date: st.dates(),
    Color: st.sampled_from(Color),
    Level: st.sampled_from(Level),
    Literal[1, 11, "x"]: st.sampled_from([1, 11, "x"]),
    int | bool: st.integers(-2, 2) | st.booleans(),
}
SEPARATORS = st.text(alphabet=":-/.{} ae1", min_size=1, max_size=3)


def escaped(literal: str) -> str:
    return literal.replace("{", "{{").replace("}", "}}")


@st.composite
def channel_classes(draw: st.DrawFn) -> type[Channel]:
    """Channel classes of one to four params."""
    forms = draw(st.lists(st.sampled_from(list(TYPES)), min_size=1, max_size=4))
    fields = dict(zip(string.ascii_lowercase, forms, strict=False))
    template = draw(st.just("") | SEPARATORS)
    for field in fields:
        template += escaped(draw(SEPARATORS)) if template.endswith("}") else ""
        template += f"{{{field}}}"
    template += escaped(draw(st.just("") | SEPARATORS))
    try:
        return declare(fields, template)
    except DeclarationError:
        assume(False)
        raise


def declare(fields: dict[str, Any], template: str) -> type[Channel]:
    return types.new_class("C", (Channel,), {"name": template}, lambda body: body.update(__annotations__=fields, __module__=__name__))


def values_of(channel: Channel) -> dict[str, tuple[type, object]]:
    """The params with their types, so that 1 is not True."""
    values = {field: getattr(channel, field) for field in type(channel).params.model_fields}
    return {field: (type(value), value) for field, value in values.items()}


@given(data=st.data(), cls=channel_classes())
def test_a_name_is_read_back_as_the_values_it_was_made_of(data: st.DataObject, cls: type[Channel]) -> None:
    values = {field: data.draw(TYPES[info.annotation], label=field) for field, info in cls.params.model_fields.items()}
    try:
        made = cls(**values)
    except InvalidName:
        return
    again = cls.parse(made.name)
    assert again == made
    assert again.name == made.name
    assert values_of(again) == values_of(made) == {field: (type(value), value) for field, value in values.items()}


@given(data=st.data(), cls=channel_classes())
def test_two_channels_never_share_a_name(data: st.DataObject, cls: type[Channel]) -> None:
    made: dict[str, dict[str, tuple[type, object]]] = {}
    for _ in range(4):
        values = {field: data.draw(TYPES[info.annotation], label=field) for field, info in cls.params.model_fields.items()}
        try:
            channel = cls(**values)
        except InvalidName:
            continue
        assert made.setdefault(channel.name, values_of(channel)) == values_of(channel)


@given(data=st.data(), cls=channel_classes())
def test_a_name_that_is_read_is_the_channels_own(data: st.DataObject, cls: type[Channel]) -> None:
    assert cls.template is not None
    pieces = st.sampled_from(["a", "1", "0", "01", "-1", "true", "True", "red", "12", "2026-01-02", str(UUID(int=7)), ":", "é", "e\u0301", " ", "x"])
    parts: list[str] = []
    for literal, field, _, _ in string.Formatter().parse(cls.template):
        parts.append(literal)
        if field is not None:
            parts += data.draw(st.lists(pieces, min_size=1, max_size=3))
    name = "".join(parts)
    try:
        channel = cls.parse(name)
    except InvalidName:
        return
    assert channel.name == name
    assert cls(**{field: value for field, (_, value) in values_of(channel).items()}) == channel


@given(name=st.text(max_size=300))
@example(name="ab:x:y")
def test_any_text_is_read_or_is_an_invalid_name(name: str) -> None:
    try:
        channel = AB.parse(name)
    except InvalidName:
        return
    assert channel.name == name


class AB(Channel, name="ab:{a}:{b}"):
    a: str
    b: str


def test_a_value_cannot_reach_into_its_neighbour() -> None:
    """The aliasing that would let one reader be granted another's channel."""
    assert AB.parse("ab:x:y:z") == AB(a="x", b="y:z")
    with pytest.raises(InvalidName, match=r"would be read back as other values, because one holds a separator of 'ab:\{a\}:\{b\}'"):
        AB(a="x:y", b="z")


@given(st.lists(st.sampled_from(["", "-", ":", "é", "ab"]), min_size=3, max_size=3), st.text(min_size=1, max_size=5), st.text(min_size=1, max_size=5))
def test_fill_then_split_gives_the_texts_or_others_that_fill_the_same(literals: list[str], a: str, b: str) -> None:
    assume(literals[1])
    template = Template("", ("a", "b"), tuple(literals))
    name = template.fill({"a": a, "b": b})
    texts = template.split(name)
    if literals[1] not in a + literals[1][:-1]:
        assert texts == {"a": a, "b": b}
    if texts is not None:
        assert template.fill(texts) == name


@pytest.mark.parametrize(
    ("text", "name", "texts"),
    [
        ("x", "x", {}),
        ("x", "y", None),
        ("x", "xx", None),
        ("{a}", "anything at all", {"a": "anything at all"}),
        ("{a}", "", None),
        ("x:{a}", "x:", None),
        ("x:{a}", "y:z", None),
        ("{a}-{b}", "1-2-3", {"a": "1", "b": "2-3"}),
        ("{a}-{b}", "--", None),
        ("{a}-{b}", "abc", None),
        ("{a}-{b}", "ab-", None),
        ("{a}-{b}", "---", {"a": "-", "b": "-"}),
        ("{a}-end", "-end", None),
        ("{a}-end", "x-end-end", {"a": "x-end"}),
        ("aba{a}aba", "aba", None),
        ("aba{a}aba", "ababa", None),
        ("aba{a}aba", "abaxaba", {"a": "x"}),
        ("{a}--{b}", "x---y", {"a": "x", "b": "-y"}),
        ("{{{a}}}", "{x}", {"a": "x"}),
        ("é{a}", "éx", {"a": "x"}),
    ],
)
def test_split(text: str, name: str, texts: dict[str, str] | None) -> None:
    assert parse_template(text).split(name) == texts


def test_reading_is_linear_in_the_name() -> None:
    """A regular expression of lazy groups would take the age of the universe here: a stranger's name must not."""
    template = parse_template(":".join(f"{{p{i}}}" for i in range(40)) + "!")
    hostile = ":" * 250
    began = time.perf_counter()
    for _ in range(100):
        assert template.split(hostile) is None
    assert time.perf_counter() - began < 5  # measured: 1 ms; the bound only tells linear from exponential


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x:{a!r}", "formats its value"),
        ("x:{a!s}", "formats its value"),
        ("x:{a:>3}", "formats its value"),
        ("x:{a:{b}}", "formats its value"),
        ("x:{a.b}", "not the name of a param"),
        ("x:{a[0]}", "not the name of a param"),
        ("x:{}", "not the name of a param"),
        ("x:{0}", "not the name of a param"),
        ("x:{class}", "not the name of a param"),
        ("x:{ a}", "not the name of a param"),
        ("{a}{b}", "touch"),
        ("x:{a}{b}:y", "touch"),
        ("{a}:{a}", "appears twice"),
        ("x:{a", "write a brace itself as {{ or }}"),
        ("x:a}", "write a brace itself as {{ or }}"),
        ("", "must not be empty"),
        (" x:{a}", "begins with white space"),
        ("x:{a} ", "ends with white space"),
        ("x\n{a}", r"U\+000A"),
        ("\u202ex{a}", r"U\+202E"),
        ("e\u0301{a}", "NFC"),
        ("x" * 255 + "{a}", "at most 255 bytes"),
        ("\ud800", r"U\+D800"),
    ],
)
def test_a_template_that_cannot_work(text: str, says: str) -> None:
    with pytest.raises(DeclarationError, match=says.replace("{", r"\{").replace("}", r"\}")) as caught:
        parse_template(text)
    assert str(caught.value).startswith("template ")


def test_a_name_is_text() -> None:
    with pytest.raises(DeclarationError, match="name= is a str, not int"):
        parse_template(cast("str", 3))


def test_parts_of_a_template() -> None:
    assert parse_template("a:{x}:{{b}}:{y}") == Template("a:{x}:{{b}}:{y}", ("x", "y"), ("a:", ":{b}:", ""))
