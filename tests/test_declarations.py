"""Declarations that cannot work fail where they are written, and say what to write instead."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, ClassVar, Generic, Literal, NewType, TypeVar, cast

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypeAliasType

from fanwire.channels import Channel, StaticChannel, Topic, static_schema, topic
from fanwire.errors import DeclarationError

T = TypeVar("T")


class Status(BaseModel):
    message: str


class AgentChat(Channel, name="agent-chat:{thread_id}"):
    thread_id: str
    status = topic(Status)


class Lifecycle(Channel):
    started = topic(Status)


class Tenant(Channel):
    tenant: str
    region: Literal["eu", "us"] = "eu"


class Color2(Enum):
    ONE = 1
    TEXT = "1"


class Opaque:
    pass


class Ratio(Enum):
    HALF = 0.5


def define(body: str, base: str = "Channel", name: str | None = "x:{a}") -> type[Channel]:
    keyword = "" if name is None else f", name={name!r}"
    names = (Annotated, Channel, ClassVar, Field, Generic, Literal, NewType, StaticChannel, Topic, static_schema, topic)
    scope = globals() | {"names": names}
    # The declarations a checker would refuse are written as text; as modules have it, annotations are not evaluated by Python.
    exec(f"from __future__ import annotations\nclass X({base}{keyword}):\n" + "\n".join(f"    {line}" for line in body.split("\n")), scope)
    return cast("type[Channel]", scope["X"])


@pytest.mark.parametrize(
    ("body", "name", "says"),
    [
        ("a: str\nb: str", "x:{a}", r"X: param 'b' is not in the template 'x:\{a\}'"),
        ("pass", "x:{a}", r"X: \{a\} of the template is no param; .* for instance a: str"),
        ("a: str", "x", "X: param 'a' is not in the template 'x'"),
        ("a: str", "x:{a!r}", r"X: template 'x:\{a!r\}'"),
        ("a: str\nb: str", "{a}{b}", "X: template .* touch"),
        ("a: str", " x:{a}", "X: template .* begins with white space"),
        ("a: str", 3, "X: name= is a str, not int"),
        ("a: str\nname: str", "x:{a}:{name}", r"X\.name: 'name' is taken by Channel itself; give the attribute another name$"),
        ("a: str\nparse = topic(int)", "x:{a}", r"X\.parse: 'parse' is taken .* and write topic\(\.\.\., name='parse'\)"),
        ("a: str\ntopics = 3", "x:{a}", r"X\.topics: 'topics' is taken"),
        ("a: str\ndef params(self): ...", "x:{a}", r"X\.params: 'params' is taken"),
        ("a: str\ntemplate: ClassVar[str] = 'y'", "x:{a}", r"X\.template: 'template' is taken"),
        ("a: str\n_b: str", "x:{a}", r"X\._b: a param cannot begin with an underscore"),
        ("a: str\n_b = topic(int)", "x:{a}", r"X\._b: a topic cannot begin with an underscore; write topic\(\.\.\., name='_b'\)"),
        ("a: str\na = topic(int)", "x:{a}", r"X\.a: an annotated attribute is a param"),
        ("a: str\nb: Topic[int] = topic(int)", "x:{a}", r"X\.b: an annotated attribute is a param; .*ClassVar\[Topic"),
        ("a: str\nb = topic(int)\nc = topic(int, name='b')", "x:{a}", "X: b and c are both called 'b' on the wire"),
        ("a: str\nb = c = topic(int)", "x:{a}", r"X\.c: this topic is already X\.b; call topic\(\) once"),
        ("a: str\nb = AgentChat.status", "x:{a}", r"X\.b: this topic is already AgentChat\.status"),
        ("a: str\nb = topic(int, name='b\\n')", "x:{a}", r"X\.b: topic name .*U\+000A"),
        ("a: str\nb = topic(int, name='')", "x:{a}", r"X\.b: a topic name must not be empty"),
        ("a: str\nb = topic(int, name='x' * 129)", "x:{a}", r"X\.b: topic name .*at most 128 bytes"),
        ("a: str\nb = topic(object())", "x:{a}", r"X\.b: pydantic cannot validate <object"),
        ("a: str\nb = topic(static_schema(int), validate=False)", "x:{a}", r"X\.b: validate=False is for types"),
        ("a: Nowhere", "x:{a}", r"X: the annotation of a param cannot be evaluated: name 'Nowhere' is not defined"),
        ("a: OnlyForCheckers", "x:{a}", "X: .* 'OnlyForCheckers' is not defined; import what it names at run time too"),
        ("a: Opaque", "x:{a}", "X: pydantic cannot validate its params: Unable to generate"),
        ("a: str = Field(alias='b')", "x:{a}", r"X\.a: a param is known by its own name only"),
        ("model_dump: str", "x:{model_dump}", r"X\.model_dump: pydantic keeps 'model_dump' for itself"),
        ("model_config: str", "x:{model_config}", r"X\.model_config: pydantic keeps"),
        ("a: Color2", "x:{a}", r"X\.a: .*are both written '1' in a name"),
        ("a: Literal['1', 1]", "x:{a}", r"X\.a: '1' and 1 are both written '1' in a name"),
        ("a: Literal['x', None]", "x:{a}", r"X\.a: None: None cannot be part of a name"),
        ("a: Literal['']", "x:{a}", r"X\.a: '': an empty text"),
        ("a: Ratio", "x:{a}", r"X\.a: <Ratio\.HALF: 0\.5>: a float cannot be part of a name"),
    ],
)
def test_faulty_declarations_fail_at_definition(body: str, name: str, says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        define(body, name=name)


@pytest.mark.parametrize(
    "form",
    ["float", "int | float", "bytes", "list[str]", "dict[str, int]", "set[int]", "tuple[int, int]", "None", "str | None", "Status", "Annotated[float, 1]",
     "NewType('F', float)", "bytearray", "complex"],
)  # fmt: skip
def test_types_without_an_exact_text_fail_at_definition(form: str) -> None:
    with pytest.raises(DeclarationError, match=r"X\.a: .* has no exact text in a name; use str, int"):
        define(f"a: {form}")


def test_generic_channels_fail_at_definition() -> None:
    with pytest.raises(DeclarationError, match="X: a channel cannot be generic"):
        define("a: str\nb = topic(int)", base="Channel, Generic[T]")


def test_static_channels_have_no_params() -> None:
    for body, name in (("a: str", "x:{a}"), ("a: str", "x"), ("pass", "x:{a}")):
        with pytest.raises(DeclarationError, match="X: a StaticChannel has a fixed name and no params"):
            define(body, base="StaticChannel", name=name)
    with pytest.raises(DeclarationError, match="no params"):
        define("pass", base="Tenant, StaticChannel", name="x")


def test_names_clash_across_inheritance_too() -> None:
    with pytest.raises(DeclarationError, match=r"X\.started is both a param and a topic"):
        define("started: str", base="Lifecycle", name="x:{started}")
    with pytest.raises(DeclarationError, match=r"X\.tenant is both a param and a topic|X\.tenant hides a param"):
        define("tenant = topic(int)", base="Tenant", name="x:{tenant}:{region}")
    with pytest.raises(DeclarationError, match="started and begun are both called 'started'"):
        define("begun = topic(int, name='started')", base="Lifecycle", name="x")
    with pytest.raises(DeclarationError, match=r"X\.region hides a param of a base class; write region: <type> = \.\.\."):
        define("region = 'us'", base="Tenant", name="x:{tenant}:{region}")


def test_a_pydantic_hook_that_raises_is_a_declaration_error() -> None:
    class Hook:
        @classmethod
        def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
            raise RuntimeError("no schema today")

    with pytest.raises(DeclarationError, match="Hooked: pydantic cannot validate its params: no schema today"):

        class Hooked(Channel, name="x:{a}"):  # pyright: ignore[reportUnusedClass]
            a: Hook


def test_a_topic_set_on_a_finished_class_says_so() -> None:
    class Finished(Channel, name="finished"):
        pass

    Finished.late = topic(int)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(DeclarationError, match="set on the finished class"):
        Finished().late  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def test_the_error_names_the_class_of_a_mixin() -> None:
    with pytest.raises(DeclarationError, match=r"X\.b: pydantic cannot validate"):
        define("b = topic(object())", name=None)


def test_annotations_may_be_evaluated_or_text() -> None:
    """Each module says by ``from __future__ import annotations``; here both ways are taken from one source."""
    source = """
class Kinds(Channel, name="kinds:{kind}:{user}:{alias}:{maybe}"):
    count: ClassVar[int] = 3
    kind: Literal["a", 7]
    user: NewType("User", str)
    alias: TypeAliasType("Alias", Literal[1, 2])
    maybe: "int | bool" = 5
    status = topic(Status)
"""
    for future in ("", "from __future__ import annotations"):
        scope = globals() | {"TypeAliasType": TypeAliasType}
        exec(compile(future + source, "kinds", "exec", dont_inherit=True), scope)
        kinds = cast("type[Channel]", scope["Kinds"])
        made = cast("Any", kinds)(kind=7, user="u", alias=2)  # Any: a checker has not seen the class
        assert made.name == "kinds:7:u:2:5"
        assert kinds.parse(made.name) == made
        assert (made.kind, made.alias, made.count) == (7, 2, 3)
        assert list(kinds.params.model_fields) == ["kind", "user", "alias", "maybe"]


def test_none_itself_is_no_param() -> None:
    with pytest.raises(DeclarationError, match=r"X\.a: None has no exact text"):
        define("a: None")
    with pytest.raises(DeclarationError, match=r"X\.a: None has no exact text"):
        exec(compile('class X(Channel, name="x:{a}"):\n    a: None', "none", "exec", dont_inherit=True), dict(globals()))
