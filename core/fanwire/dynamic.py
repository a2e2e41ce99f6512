"""The functional form of channels: ``channel(name=..., topics={...})``, for those who come from the TypeScript client and for names made by code."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, cast, final, overload

from .errors import DeclarationError, InvalidName
from .names import check_channel_name, check_topic_name
from .schemas import PydanticSchema
from .templates import parse_template
from .topics import Topic, TopicRef, make_ref

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ("ChannelFactory", "DynamicChannel", "channel")

P = ParamSpec("P")

# Topic[Any] and TopicRef[Any] below: the types are values of a mapping, which checkers cannot follow.


@final
@dataclass(frozen=True, init=False, eq=False, repr=False, match_args=False)
class DynamicChannel:
    """A channel made by :func:`channel`. Its topics are attributes and items: ``alerts.alert`` and ``alerts["tool-call"]``.

    Immutable, equal to another if name and topics are the same. Data is validated as by a channel class, but its type is not known to checkers.

    Attributes:
        name: Name of the channel.
        topics: The declared topics by their name on the wire.
    """

    name: str
    topics: Mapping[str, Topic[Any]]
    _refs: dict[str, TopicRef[Any]]

    def __init__(self, name: str, topics: Mapping[str, Topic[Any]], /) -> None:
        self.__dict__.update(name=check_channel_name(name), topics=topics, _refs={})

    def __getitem__(self, topic: str, /) -> TopicRef[Any]:
        """Return the reference of a topic by its name on the wire. Raises ``KeyError`` if there is none."""
        try:
            return self._refs[topic]
        except KeyError:
            pass
        if (declared := self.topics.get(topic)) is None:
            raise KeyError(_no_topic(self.name, topic, self.topics))
        return self._refs.setdefault(topic, make_ref(self.name, topic, declared.schema, None))

    def __getattr__(self, topic: str, /) -> TopicRef[Any]:
        # Python asks for special methods here too, also of an object that is only just being made by pickle.
        if topic.startswith("__") or "topics" not in self.__dict__ or topic not in self.topics:
            raise AttributeError(_no_topic(self.__dict__.get("name", "?"), topic, self.__dict__.get("topics", {})))
        ref: TopicRef[Any] = self.__dict__.setdefault(topic, self[topic])
        return ref

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(topic for topic in self.topics if topic.isidentifier())})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DynamicChannel):
            return NotImplemented
        return self.name == other.name and _forms(self.topics) == _forms(other.topics)

    def __hash__(self) -> int:
        return hash((DynamicChannel, self.name))

    def __repr__(self) -> str:
        return f"channel(name={self.name!r}, topics={list(self.topics)})"

    def __reduce__(self) -> tuple[object, ...]:
        return (_channel_of, (self.name, _forms(self.topics)))


@final
class ChannelFactory(Generic[P]):
    """What :func:`channel` makes of a callable name: call it to get a channel. It has no template, so no ``parse`` and no ``params``, and does not pickle.

    Attributes:
        topics: The declared topics by their name on the wire.
    """

    def __init__(self, name: Callable[P, str], topics: Mapping[str, Topic[Any]], /) -> None:
        self._name = name
        self.topics: Mapping[str, Topic[Any]] = topics

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> DynamicChannel:
        """Return the channel whose name the callable makes of these arguments. Raises ``InvalidName`` if it is none."""
        return DynamicChannel(self._name(*args, **kwargs), self.topics)

    def __repr__(self) -> str:
        return f"channel(name={getattr(self._name, '__qualname__', self._name)}, topics={list(self.topics)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a channel made of a callable name does not pickle; declare a Channel class, or pickle the channels it makes")


@overload
def channel(*, name: str, topics: Mapping[str, object]) -> DynamicChannel: ...
@overload
def channel(*, name: Callable[P, str], topics: Mapping[str, object]) -> ChannelFactory[P]: ...
def channel(*, name: str | Callable[P, str], topics: Mapping[str, object]) -> DynamicChannel | ChannelFactory[P]:
    """Declare a channel without a class.

    It sends and receives the same messages as a class with the same names, but its references are ``TopicRef[Any]``: checkers do not know the types. Prefer
    a ``Channel`` class where you can.

    Example::

        alerts = channel(name="system:alerts", topics={"alert": Alert})
        agent_chat = channel(
            name=lambda thread_id: f"agent-chat:{thread_id}", topics={"status": Status, "usage": static_schema(Usage)}
        )
        agent_chat("thread_abc").status

    Args:
        name: The name, or a callable that makes it of its arguments. A name of text is taken as it is: it has no placeholders.
        topics: Type or Schema of each topic by its name on the wire; ``static_schema(T)`` for one that is not validated.

    Returns:
        The channel, or a factory of channels for a callable name.

    Raises:
        DeclarationError: If a name or a schema cannot work.
    """
    declared: dict[str, Topic[Any]] = {}
    for wire, form in topics.items():
        declared[wire] = _declare(wire, form)
    if isinstance(name, str):
        if fields := _placeholders(name):
            text = ", ".join(fields)
            raise DeclarationError(
                f"channel name {name!r} has placeholders; pass a callable, name=lambda {text}: f{name!r}, or declare a Channel class"
            )
        try:
            return DynamicChannel(name, MappingProxyType(declared))
        except InvalidName as error:
            raise DeclarationError(str(error)) from error
    if not callable(name):
        raise DeclarationError(f"name= is a str or a callable that returns one, not {type(name).__name__}")
    return ChannelFactory(name, MappingProxyType(declared))


def _declare(wire: str, form: object) -> Topic[Any]:
    if isinstance(form, Topic):
        raise DeclarationError(f"topic {wire!r}: topic() is for channel classes; pass the type itself, or static_schema(<type>) for no validation")
    try:
        declared: Topic[Any] = Topic(cast("TypeForm[Any]", form), name=check_topic_name(wire))  # if it is no type, pydantic says so
        _ = declared.schema  # faults are found now
    except (DeclarationError, InvalidName) as error:
        raise DeclarationError(f"topic {wire!r}: {error}") from error
    return declared


def _placeholders(name: str) -> tuple[str, ...]:
    try:
        return parse_template(name).fields
    except DeclarationError:
        return ()


def _no_topic(channel: str, topic: str, topics: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(topic, topics, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(map(repr, topics)) or 'none'}"
    return f"channel {channel!r} has no topic {topic!r}; {hint}"


def _forms(topics: Mapping[str, Topic[Any]]) -> dict[str, object]:
    """What the topics were declared with: the part of them that is a value."""
    return {wire: _form(declared.schema) for wire, declared in topics.items()}


def _form(schema: object) -> object:
    return cast("PydanticSchema[object]", schema).type if isinstance(schema, PydanticSchema) else schema


def _channel_of(name: str, forms: Mapping[str, object]) -> DynamicChannel:
    """Make a channel again from a pickle."""
    return DynamicChannel(name, MappingProxyType({wire: _declare(wire, form) for wire, form in forms.items()}))
