"""Topics and their references: what a channel declares, and what every publish and subscribe is given."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Never, TypeVar, cast, final, overload

from .errors import DeclarationError, InvalidName
from .names import check_channel_name, check_topic_name
from .schemas import JsonSchema, Schema, schema_of

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from .channels import Channel, StaticChannel

__all__ = ("Outgoing", "Topic", "TopicRef", "make_ref", "topic")

T = TypeVar("T")

_set = object.__setattr__

_PASS_THROUGH: JsonSchema[Any] = JsonSchema(Any)  # Any: the data of a reference made by hand is whatever JSON holds


# A dataclass only to be frozen, for checkers as well as at run time; slots=True would make a second class, whose frozen __setattr__ fails.
@final
@dataclass(frozen=True, init=False, eq=False, repr=False, match_args=False)
class TopicRef(Generic[T]):
    """A topic of one channel: an immutable value, the first argument of every publish and subscribe.

    Channels make them (``chat.status``); tools and gateways may make one by hand. Two are equal if channel and topic are, whoever made them. One made by a
    channel class pickles by that class, so that its schema need not; one made by hand pickles with its schema.

    Calling it gives an :class:`Outgoing`: ``chat.status({"message": "Thinking..."})``.

    Args:
        channel: Name of the channel.
        topic: Name of the topic.
        schema: How data is checked, written and read; without it data is any JSON and is not validated.

    Attributes:
        channel: Name of the channel.
        topic: Name of the topic.
        schema: How data is checked, written and read.

    Raises:
        InvalidName: If a name breaks the naming rules.
    """

    __slots__ = ("_envelope", "_origin", "channel", "schema", "topic")

    channel: str
    topic: str
    schema: Schema[T]
    _origin: tuple[type[Channel], str] | None
    _envelope: bytes | None  # the codec's constants for this reference, filled at first use; no part of the value

    @overload
    def __init__(self: TopicRef[Any], channel: str, topic: str) -> None: ...  # Any: it carries whatever JSON holds
    @overload
    def __init__(self, channel: str, topic: str, schema: Schema[T]) -> None: ...
    def __init__(self, channel: str, topic: str, schema: Schema[Any] | None = None) -> None:  # Any: bound by the overloads
        _fill(self, check_channel_name(channel), check_topic_name(topic), _PASS_THROUGH if schema is None else schema, None)

    def __call__(self, data: T, /, *, key: str | None = None, headers: Mapping[str, str] | None = None) -> Outgoing[T]:
        """Return the data addressed to this topic, for ``publish`` and ``publish_many``.

        Args:
            data: The data. It is validated when it is published.
            key: Idempotency key: a repeat under the same key is suppressed. Readers of the channel see it.
            headers: Free text by name. Readers of the channel see it.

        Returns:
            What ``publish`` takes in place of a reference and data.
        """
        # As make_message() does: a frozen dataclass sets its fields at three times the cost, and publish_many() takes one of these per message.
        outgoing = _MutableOutgoing(self, data, key, headers)
        outgoing.__class__ = Outgoing  # type: ignore[assignment]  # the same slots, as CPython checks
        return outgoing  # type: ignore[return-value]  # pyright: ignore[reportReturnType]  # it is one now

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, TopicRef):
            return NotImplemented
        return self.channel == other.channel and self.topic == other.topic

    def __hash__(self) -> int:
        return hash((self.channel, self.topic))

    def __repr__(self) -> str:
        return f"TopicRef({self.channel!r}, {self.topic!r})"

    def __reduce__(self) -> tuple[object, ...]:
        if self._origin is None:
            return (TopicRef, (self.channel, self.topic, self.schema))
        # By class and name, not by channel object: a reference that held its channel would be a cycle for the collector.
        owner, attribute = self._origin
        return (_ref_of, (owner, self.channel, attribute))


@final
@dataclass(frozen=True, init=False, eq=False, repr=False, match_args=False)
class Outgoing(Generic[T]):
    """Data addressed to a topic: what ``publish`` and ``publish_many`` take. Immutable; checked when it is published.

    Args:
        ref: The topic of a channel.
        data: The data.
        key: Idempotency key: a repeat under the same key is suppressed. Readers of the channel see it.
        headers: Free text by name. Readers of the channel see it.

    Attributes:
        ref: The topic of a channel.
        data: The data.
        key: Idempotency key, or ``None``.
        headers: Free text by name, or ``None``.
    """

    __slots__ = ("data", "headers", "key", "ref")

    ref: TopicRef[T]
    data: T
    key: str | None
    headers: Mapping[str, str] | None

    def __init__(self, ref: TopicRef[T], data: T, /, *, key: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        _set(self, "ref", ref)
        _set(self, "data", data)
        _set(self, "key", key)
        _set(self, "headers", headers)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Outgoing):
            return NotImplemented
        other = cast("Outgoing[object]", other)  # an isinstance cannot tell the parameter
        return self.ref == other.ref and self.data == other.data and self.key == other.key and self.headers == other.headers

    # Data and headers are mostly not hashable, so that none of them is keeps surprises away.
    __hash__: ClassVar[None]  # type: ignore[assignment]  # not hashable, as the data model has it for a class with __eq__ alone

    def __repr__(self) -> str:
        key = f", key={self.key!r}" if self.key is not None else ""
        headers = f", headers={self.headers!r}" if self.headers is not None else ""
        return f"Outgoing({self.ref!r}, {self.data!r}{key}{headers})"

    def __reduce__(self) -> tuple[object, ...]:
        return (_outgoing, (self.ref, self.data, self.key, self.headers))


class _MutableOutgoing(Generic[T]):
    """Outgoing's fields, writable: see :meth:`TopicRef.__call__`."""

    __slots__ = ("data", "headers", "key", "ref")

    def __init__(self, ref: TopicRef[T], data: T, key: str | None, headers: Mapping[str, str] | None) -> None:
        self.ref = ref
        self.data = data
        self.key = key
        self.headers = headers


@final
class Topic(Generic[T]):
    """A typed category of messages, declared in the body of a channel class by :func:`topic`.

    ``AgentChat.status`` is the Topic; ``AgentChat(thread_id="x").status`` is the :class:`TopicRef` of that channel. On a ``StaticChannel`` the class itself
    gives the reference.

    Attributes:
        name: Name on the wire.
        type: What was declared, for instance a model class; for a Schema its ``type`` attribute, or ``Any``.
        schema: How data is checked, written and read.
        validated: Whether data is validated.
    """

    __slots__ = ("_attribute", "_form", "_name", "_owner", "_schema", "_validate")

    def __init__(self, form: Schema[T] | TypeForm[T], /, *, name: str | None = None, validate: bool = True) -> None:
        self._form: object = form
        self._name: str | None = name
        self._validate: bool = validate
        self._schema: Schema[T] | None = None
        self._owner: builtins.type[object] | None = None
        self._attribute: str | None = None

    @property
    def name(self) -> str:
        """Name on the wire: ``name=``, else the name of the attribute."""
        return self._name if self._name is not None else self._attribute or ""

    @property
    def type(self) -> TypeForm[T]:
        """What was declared, for instance a model class; for a Schema its ``type`` attribute, or ``Any``."""
        schema = self.schema
        return getattr(schema, "type", Any)

    @property
    def schema(self) -> Schema[T]:
        """How data is checked, written and read."""
        if self._schema is None:
            self._schema = schema_of(self._form, self._validate, module=self._owner.__module__ if self._owner else None)
        return self._schema

    @property
    def validated(self) -> bool:
        """Whether data is validated; ``False`` for ``validate=False`` and ``static_schema()``."""
        return not isinstance(self.schema, JsonSchema)

    @overload
    def __get__(self, instance: None, owner: builtins.type[StaticChannel], /) -> TopicRef[T]: ...
    @overload
    def __get__(self, instance: None, owner: builtins.type[Channel], /) -> Topic[T]: ...
    @overload
    def __get__(self, instance: Channel, owner: builtins.type[Channel], /) -> TopicRef[T]: ...
    def __get__(self, instance: Channel | None, owner: builtins.type[Channel], /) -> TopicRef[T] | Topic[T]:
        attribute = self._attribute
        if attribute is None:
            raise DeclarationError(f"{owner.__name__}: a topic was set on the finished class; declare it in the class body")
        if instance is not None:
            # Kept in the instance under the topic's own name: this descriptor has no __set__, so from now on an access does not come here.
            if (known := instance.__dict__.get(attribute)) is not None:
                return cast("TopicRef[T]", known)  # put there just below
            ref = make_ref(instance.name, self.name, self.schema, (instance.__class__, attribute))
            found: TopicRef[T] = instance.__dict__.setdefault(attribute, ref)
            return found
        # Not a method of StaticChannel: a mixin that is no channel may hold topics too.
        refs: dict[str, TopicRef[T]] | None = owner.__dict__.get("_static_refs")
        if refs is None:
            return self
        kept = refs.get(attribute)
        if kept is None:
            # Only StaticChannel classes have the dictionary just read.
            kept = refs.setdefault(attribute, make_ref(cast("builtins.type[StaticChannel]", owner).name, self.name, self.schema, (owner, attribute)))
        return kept

    if TYPE_CHECKING:
        # So that mypy refuses an assignment. At run time there is none, or each access to a reference would come to __get__.
        def __set__(self, instance: Channel, value: Never, /) -> None: ...

    def bind(self, owner: builtins.type[object], attribute: str, /) -> None:
        """Tie the topic to the class and attribute it was declared under, and build its schema. Channel classes call it.

        Args:
            owner: The class whose body holds the topic.
            attribute: Name of the attribute.

        Raises:
            DeclarationError: If it is bound to another attribute already, or its name or schema cannot work.
        """
        where = f"{owner.__name__}.{attribute}"
        if self._owner is not None:
            if (self._owner, self._attribute) != (owner, attribute):
                raise DeclarationError(
                    f"{where}: this topic is already {self._owner.__name__}.{self._attribute}; call topic() once for each attribute"
                )
            return
        self._owner, self._attribute = owner, attribute
        try:
            check_topic_name(self.name)
            _ = self.schema
        except (DeclarationError, InvalidName) as error:
            raise DeclarationError(f"{where}: {error}") from error

    def __repr__(self) -> str:
        where = f" of {self._owner.__name__}" if self._owner else ""
        return f"<Topic {self.name!r}{where}>"


@overload
def topic(schema: Schema[T], /, *, name: str | None = None) -> Topic[T]: ...
@overload
def topic(schema: type[T], /, *, name: str | None = None, validate: bool = True) -> Topic[T]: ...
@overload
def topic(schema: TypeForm[T], /, *, name: str | None = None, validate: bool = True) -> Topic[T]: ...
def topic(schema: Any, /, *, name: str | None = None, validate: bool = True) -> Topic[Any]:  # Any: bound by the overloads
    """Declare a topic in the body of a channel class.

    Example::

        class AgentChat(Channel, name="agent-chat:{thread_id}"):
            thread_id: str
            status = topic(Status)
            tool_call = topic(ToolCall, name="tool-call")
            usage = topic(Usage, validate=False)

    Args:
        schema: Type of the data in any form pydantic accepts, or an object of the :class:`~fanwire.Schema` protocol.
        name: Name on the wire where it is not the attribute's name.
        validate: ``False`` makes the topic type-only: typed for the checker, any JSON at run time, no validator is ever built. Not for a Schema.

    Returns:
        The declaration. Faults of the schema or the name are raised as ``DeclarationError`` when the class is defined.
    """
    return Topic(schema, name=name, validate=validate)


def make_ref(channel: str, topic: str, schema: Schema[T], origin: tuple[type[Channel], str] | None) -> TopicRef[T]:
    """Return a reference whose names are known to be good. For channels only.

    Args:
        channel: Checked name of the channel.
        topic: Checked name of the topic.
        schema: Schema of the topic.
        origin: The channel class and attribute by which the reference pickles, or ``None`` to pickle by its fields.

    Returns:
        The reference.
    """
    ref = cast("TopicRef[T]", object.__new__(TopicRef))  # a subscripted class cannot be given to __new__
    _fill(ref, channel, topic, schema, origin)
    return ref


# Any: the callers bind it.
def _fill(ref: TopicRef[Any], channel: str, topic: str, schema: Schema[Any], origin: tuple[type[Channel], str] | None) -> None:
    _set(ref, "channel", channel)
    _set(ref, "topic", topic)
    _set(ref, "schema", schema)
    _set(ref, "_origin", origin)
    _set(ref, "_envelope", None)


# Any: getattr knows no types, and neither does pickle.
def _ref_of(owner: type[Channel], channel: str, attribute: str) -> TopicRef[Any]:
    """Make a reference again from a pickle."""
    origin = owner if "_static_refs" in vars(owner) else owner.parse(channel)
    found: TopicRef[Any] = getattr(origin, attribute)
    return found


def _outgoing(ref: TopicRef[T], data: T, key: str | None, headers: Mapping[str, str] | None) -> Outgoing[T]:
    return Outgoing(ref, data, key=key, headers=headers)
