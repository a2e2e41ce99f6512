"""Channels: the unit of order, of history and of authorisation, declared once and shared by publishers and subscribers.

This module and what it exports hold pure values and import no I/O, so declarations can be shared with anything. Everything here is also exported by ``fanwire``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Never, NoReturn, Self, TypeAlias, dataclass_transform, overload

from pydantic import BaseModel, Field, ValidationError

from .dynamic import ChannelFactory, DynamicChannel, channel
from .errors import DeclarationError, InvalidName
from .names import check_channel_name
from .params import NoParams, Param, faults_text, own_params, params_model, reads_back, texts_of
from .schemas import Schema, static_schema
from .templates import Template, parse_template
from .topics import Outgoing, Topic, TopicRef, topic

__all__ = (
    "Channel",
    "ChannelFactory",
    "ChannelLike",
    "DynamicChannel",
    "Outgoing",
    "Schema",
    "StaticChannel",
    "Topic",
    "TopicRef",
    "channel",
    "declared_topics",
    "static_schema",
    "topic",
)

# Topic[Any] and TopicRef[Any] below: the topics of one channel have different payloads, so their mappings have no better type.

_RESERVED = frozenset({"name", "template", "topics", "params", "parse"})


class _Name:
    """``name``: a str on channels and on StaticChannel classes. No overload for other classes, so that checkers report ``AgentChat.name``."""

    @overload
    def __get__(self, instance: None, owner: type[StaticChannel], /) -> str: ...
    @overload
    def __get__(self, instance: Channel, owner: type[Channel], /) -> str: ...
    def __get__(self, instance: Channel | None, owner: type[Channel], /) -> str:
        # A channel holds its name in its own dictionary, so access on one does not come here.
        if owner.template is None:
            raise AttributeError(f"{owner.__name__} is abstract: it has no name=")
        if not issubclass(owner, StaticChannel):
            raise AttributeError(  # noqa: TRY004 - what hasattr() and inspect expect of an attribute that is not there
                f"{owner.__name__} has a name once it is made: {_call_text(owner)}.name; the template is {owner.__name__}.template"
            )
        return owner.template

    if TYPE_CHECKING:
        # So that mypy refuses an assignment. At run time the name is a plain attribute of the channel.
        def __set__(self, instance: Channel, value: Never, /) -> None: ...


def _parse(cls: type[Channel], name: str) -> Template:
    try:
        return parse_template(name)
    except DeclarationError as error:
        raise DeclarationError(f"{cls.__name__}: {error}") from error


def _find_topics(cls: type[Channel]) -> Mapping[str, Topic[Any]]:
    """Bind the declared topics and return them and the inherited ones by their name on the wire."""
    by_attribute: dict[str, Topic[Any]] = {}
    for owner in reversed(cls.__mro__):
        for attribute, value in vars(owner).items():
            if isinstance(value, Topic):
                if attribute.startswith("_"):
                    raise DeclarationError(
                        f"{owner.__name__}.{attribute}: a topic cannot begin with an underscore; write topic(..., name={attribute!r})"
                    )
                value.bind(owner, attribute)
                by_attribute[attribute] = value
            else:
                by_attribute.pop(attribute, None)  # overridden by something else
    if shadowed := [name for name in cls.params.model_fields if name in by_attribute]:
        raise DeclarationError(f"{cls.__name__}.{shadowed[0]} is both a param and a topic; rename one of them")
    topics: dict[str, Topic[Any]] = {}
    attributes: dict[str, str] = {}
    for attribute, declared in by_attribute.items():
        if declared.name in topics:
            first = attributes[declared.name]
            raise DeclarationError(f"{cls.__name__}: {first} and {attribute} are both called {declared.name!r} on the wire; give one another name=")
        topics[declared.name] = declared
        attributes[declared.name] = attribute
    return MappingProxyType(topics)


def _check_params(cls: type[Channel], template: Template | None, params: Mapping[str, Param], *, static: bool) -> None:
    if static:
        if params or (template and template.fields):
            raise DeclarationError(f"{cls.__name__}: a StaticChannel has a fixed name and no params; subclass Channel to have params")
        return
    if template is None:
        return
    if undeclared := [name for name in template.fields if name not in params]:
        raise DeclarationError(
            f"{cls.__name__}: {{{undeclared[0]}}} of the template is no param; declare it in the class body, for instance {undeclared[0]}: str"
        )
    if unused := [name for name in params if name not in template.fields]:
        raise DeclarationError(
            f"{cls.__name__}: param {unused[0]!r} is not in the template {template.text!r}, so no name would tell it; add {{{unused[0]}}}"
        )


def _call_text(cls: type[Channel]) -> str:
    return f"{cls.__name__}({', '.join(f'{name}=...' for name in cls.params.model_fields)})"


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
class Channel:
    """A channel with typed topics and, if its name has placeholders, typed params.

    Subclass it with ``name=``. Annotated attributes are the params: keywords of the constructor, validated by pydantic. A subclass without ``name=`` is abstract
    and holds common topics and params for others to inherit. Channels are immutable values, equal if class and name are; they pickle by class and name.

    Params are written into the name as their JSON value. A value whose name would not be read back as the same value is refused, because names decide who
    may read what.

    Example::

        class AgentChat(Channel, name="agent-chat:{thread_id}"):
            thread_id: str
            status = topic(Status)


        chat = AgentChat(thread_id="thread_abc")
        chat.name  # "agent-chat:thread_abc"
        chat.status  # TopicRef[Status]

    Attributes:
        name: Name of the channel, on instances.
        template: The ``name=`` of the class, ``None`` on an abstract one.
        topics: The declared and inherited topics by their name on the wire.
        params: Pydantic model of the params.

    Raises:
        DeclarationError: At class definition, if the declaration cannot work; from the constructor, if params are missing, unknown or positional.
        InvalidName: From the constructor, if a param is not valid or cannot be part of a name.
    """

    name: _Name = _Name()
    template: ClassVar[str | None] = None
    topics: ClassVar[Mapping[str, Topic[Any]]] = MappingProxyType({})
    params: ClassVar[type[BaseModel]] = NoParams

    _template: ClassVar[Template | None] = None
    _own_params: ClassVar[Mapping[str, Param]] = MappingProxyType({})
    __signature__: ClassVar[inspect.Signature]
    # The references of a StaticChannel class. Looked up in the very class, never inherited: a subclass is another channel.
    _static_refs: ClassVar[dict[str, TopicRef[Any]] | None] = None

    def __init_subclass__(cls, *, name: str | None = None) -> None:
        super().__init_subclass__()
        if Generic in cls.__mro__:
            raise DeclarationError(f"{cls.__name__}: a channel cannot be generic, its topics would have no type; declare one class for each type")
        for attribute in (*vars(cls), *inspect.get_annotations(cls)):
            if attribute in _RESERVED:
                wire = f" and write topic(..., name={attribute!r})" if isinstance(vars(cls).get(attribute), Topic) else ""
                raise DeclarationError(f"{cls.__name__}.{attribute}: {attribute!r} is taken by Channel itself; give the attribute another name{wire}")
        inherited: dict[str, Param] = {}
        for base in reversed(cls.__mro__[1:]):
            inherited |= vars(base).get("_own_params", {})
        cls._own_params = own_params(cls, inherited)
        params = inherited | cls._own_params
        cls.params = params_model(cls, params)
        cls.topics = _find_topics(cls)
        template = cls._template = None if name is None else _parse(cls, name)
        cls.template = name
        _check_params(cls, template, params, static=cls._static_refs is not None)
        if cls._static_refs is not None:
            cls.template = None if template is None else template.fill({})  # as the name is: "{{" in a template is "{" in a name
            cls._static_refs = {}
        cls.__signature__ = inspect.signature(cls.params)

    def __init__(self, /, *args: object, **values: object) -> None:
        cls = type(self)
        template = cls._usable()
        if args:
            raise DeclarationError(f"{cls.__name__} takes its params as keywords: {_call_text(cls)}")
        fields = cls.params.model_fields
        if values.keys() != fields.keys():
            if unknown := [name for name in values if name not in fields]:
                raise DeclarationError(f"{cls.__name__} has no param {unknown[0]!r}; it is made by {_call_text(cls)}")
            if missing := [name for name, info in fields.items() if info.is_required() and name not in values]:
                raise DeclarationError(f"{cls.__name__} needs {', '.join(missing)}: {_call_text(cls)}")
        try:
            model = cls.params(**values)
            texts = texts_of(model)
            name = check_channel_name(template.fill(texts))
        except ValidationError as error:
            raise InvalidName(f"{cls.__name__}: {faults_text(error)}") from error
        except InvalidName as error:
            raise InvalidName(f"{cls.__name__}: {error}") from error
        if template.split(name) != texts:
            raise InvalidName(f"{cls.__name__}: {name!r} would be read back as other values, because one holds a separator of {template.text!r}")
        if not reads_back(model, texts):
            raise InvalidName(
                f"{cls.__name__}: {name!r} would not be read back as the values it was made of; give each param one type, whose text can be read"
            )
        self.__dict__.update(vars(model), name=name)

    @classmethod
    def _usable(cls) -> Template:
        """The template of a class that can have instances."""
        if cls._static_refs is not None:
            raise DeclarationError(
                f"{cls.__name__} is a StaticChannel, the class itself is the channel: use {cls.__name__}.name and {cls.__name__}.<topic>"
            )
        if cls._template is None:
            raise DeclarationError(f"{cls.__name__} is abstract: it has no name=; subclass it with one")
        return cls._template

    @classmethod
    def parse(cls, name: str, /) -> Self:
        """Return the channel of this class that has the given name.

        Only the canonical name is accepted, the one the channel itself has: ``n:7`` but not ``n:007``. So comparing names is comparing channels.

        Args:
            name: Name of a channel.

        Returns:
            The channel; its ``name`` is the one given.

        Raises:
            InvalidName: If it is not the name of a channel of this class.
            DeclarationError: If the class is abstract or a StaticChannel.
        """
        template = cls._usable()
        texts = template.split(check_channel_name(name))
        if texts is None:
            raise InvalidName(f"{name!r} is not the name of a {cls.__name__}: it is not of the form {template.text!r}")
        try:
            model = cls.params.model_validate_strings(texts)
        except ValidationError as error:
            raise InvalidName(f"{name!r} is not the name of a {cls.__name__}: {faults_text(error)}") from error
        if (canonical := texts_of(model)) != texts:
            raise InvalidName(f"{name!r} is not the name of a {cls.__name__}: the channel is called {template.fill(canonical)!r}")
        channel = cls.__new__(cls)
        channel.__dict__.update(vars(model), name=name)
        return channel

    if not TYPE_CHECKING:  # a checker that sees these takes any attribute to be assignable

        def __setattr__(self, name: str, value: object) -> NoReturn:
            raise AttributeError(f"a channel is immutable, {name!r} cannot be set; make another {type(self).__name__}")

        def __delattr__(self, name: str) -> NoReturn:
            raise AttributeError(f"a channel is immutable, {name!r} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Channel):
            return NotImplemented
        return type(other) is type(self) and other.name == self.name

    def __hash__(self) -> int:
        return hash((type(self), self.name))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{field}={self.__dict__[field]!r}' for field in type(self).params.model_fields)})"

    def __reduce__(self) -> tuple[object, ...]:
        return (_channel_of, (type(self), self.name))


class StaticChannel(Channel):
    """A channel with a fixed name. The class itself is the channel: it is never instantiated, and its topics are references at once.

    Example::

        class SystemAlerts(StaticChannel, name="system:alerts"):
            alert = topic(Alert)


        SystemAlerts.name  # "system:alerts"
        SystemAlerts.alert  # TopicRef[Alert]
    """

    _static_refs: ClassVar[dict[str, TopicRef[Any]] | None] = {}


def declared_topics(target: ChannelLike) -> tuple[str, Mapping[str, TopicRef[Any]]]:
    """Return the name of a channel and the references of its topics.

    Args:
        target: A channel: an instance, a StaticChannel class, or what ``channel()`` gave.

    Returns:
        Its name, and its references by the topics' names on the wire.

    Raises:
        DeclarationError: If it is no channel, for instance a class that has to be instantiated first.
    """
    if isinstance(target, Channel):
        cls = type(target)
        return target.name, {wire: declared.__get__(target, cls) for wire, declared in cls.topics.items()}
    if isinstance(target, DynamicChannel):
        return target.name, {wire: target[wire] for wire in target.topics}
    # What follows is unnecessary for a checker; callers may have none.
    if isinstance(target, type) and issubclass(target, StaticChannel) and target.template is not None:  # pyright: ignore[reportUnnecessaryIsInstance]
        return target.name, {wire: declared.__get__(None, target) for wire, declared in target.topics.items()}
    raise DeclarationError(_not_a_channel(target))


ChannelLike: TypeAlias = Channel | type[StaticChannel] | DynamicChannel
"""What is one channel: an instance, a StaticChannel class, or what ``channel()`` gave."""


def _not_a_channel(target: object) -> str:
    if isinstance(target, type) and issubclass(target, Channel):
        if target.template is None:
            return f"{target.__name__} is abstract: it has no name=; subclass it with one"
        return f"{target.__name__} is a class of channels; pass one of them: {_call_text(target)}"
    if isinstance(target, ChannelFactory):
        return f"{target} makes channels; call it and pass the channel it returns"
    return f"a channel is wanted, not {target!r:.80}: an instance of a Channel class, a StaticChannel class, or what channel() returns"


def _channel_of(cls: type[Channel], name: str) -> Channel:
    """Make a channel again from a pickle."""
    return cls.parse(name)
