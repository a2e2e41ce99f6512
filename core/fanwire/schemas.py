"""Schemas: how the data of a topic is checked, written and read.

A topic is declared with whatever pydantic's ``TypeAdapter`` accepts, or with an object of the :class:`Schema` protocol. The protocol is three methods, so
that other validation libraries need a few lines; ``fanwire_schemas`` holds ready adapters.

What is on the wire is always one JSON value. NaN and infinities have no place in JSON: they are written as ``null`` and refused on receipt.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ForwardRef,
    Generic,
    Literal,
    Protocol,
    TypeGuard,
    TypeVar,
    cast,
    final,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json

from .errors import DeclarationError, FieldError

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ("JsonSchema", "PydanticSchema", "Schema", "field_errors", "is_schema", "schema_of", "static_schema")

T = TypeVar("T")

# Schema[Any] below: what a function makes of a form it is given as a plain object.

_MAX_ERRORS = 50
_MAX_TEXT = 500


class Schema(Protocol[T]):
    """How the data of one topic is checked, written and read.

    Any object with these three methods can be given to ``topic()``. A ``ValueError`` or ``TypeError`` out of them means that the data is not valid. An
    optional method ``json_schema() -> dict`` describes the data to tools; an optional attribute ``type`` says what is checked. Methods must be safe to call
    from several threads.
    """

    def validate(self, value: object, /) -> T:
        """Return the valid data for ``value``, at publish time. Raises ``ValueError`` or ``TypeError`` if it is not valid."""
        ...

    def dump(self, value: T, /) -> bytes:
        """Return validated data as exactly one compact JSON value in UTF-8."""
        ...

    def load(self, data: bytes, /) -> T:
        """Return the valid data that ``data`` holds. Raises ``ValueError`` or ``TypeError`` if it is not exactly one JSON value or not valid."""
        ...


@final
class PydanticSchema(Generic[T]):
    """What pydantic makes of a type.

    The validator is built at once, so that a faulty type fails where it is declared. Only a type that mentions a class that does not exist yet is built at
    first use.

    Field aliases are written to the wire; aliases and field names are both read. An instance of a model is accepted as it is: one that was changed into an
    invalid one after it was made is not noticed when it is published, but when it is received.

    Args:
        form: Whatever ``pydantic.TypeAdapter`` accepts.
        module: Name of the module whose global names forward references in ``form`` mean.

    Attributes:
        type: The form.

    Raises:
        DeclarationError: If pydantic cannot build a validator for it.
    """

    def __init__(self, form: TypeForm[T], /, *, module: str | None = None) -> None:
        self.type: TypeForm[T] = form
        self._module = module
        self._adapter: TypeAdapter[T] | None = None
        # Attributes that hold pydantic's own compiled functions, not methods around them: half the cost per call.
        self.validate: Callable[[object], T] = self._first_validate
        self.dump: Callable[[T], bytes] = self._first_dump
        self.load: Callable[[bytes], T] = self._first_load
        self._build()

    def json_schema(self) -> dict[str, Any]:  # Any: JSON
        """Return the JSON Schema of the data as it is on the wire."""
        return self._ready().json_schema(by_alias=True, mode="serialization")

    def __repr__(self) -> str:
        return f"PydanticSchema({_form_text(self.type)})"

    def __reduce__(self) -> tuple[object, ...]:
        return (_pydantic_schema, (self.type, self._module))

    def _build(self) -> bool:
        """Bind the compiled functions. Returns ``False`` while a forward reference cannot be resolved."""
        form: Any = self.type  # Any: type forms have no common type at run time
        if _mentions_a_name(form):
            try:
                form = _resolved(form, self._module)
            except NameError:
                return False
        try:
            adapter: TypeAdapter[T] = _adapter(form)
        except Exception as error:  # pydantic calls hooks of the user's types, which may raise anything
            raise DeclarationError(_why_not(form, error)) from error
        if not adapter.pydantic_complete:
            return False
        validator, serializer = adapter.validator, adapter.serializer
        if _holds_alias(adapter.core_schema):
            self.validate = partial(validator.validate_python, by_alias=True, by_name=True)
            self.dump = partial(serializer.to_json, by_alias=True)
            self.load = _strict(partial(validator.validate_json, by_alias=True, by_name=True))
        else:
            self.validate = validator.validate_python
            self.dump = serializer.to_json
            self.load = _strict(validator.validate_json)
        self._adapter = adapter
        return True

    def _ready(self) -> TypeAdapter[T]:
        if self._adapter is None:
            self._build()
        if self._adapter is None:
            raise DeclarationError(
                f"{_form_text(self.type)} mentions a class that cannot be found"
                + (f" in module {self._module!r}" if self._module else "")
                + "; define it at the top level of that module, or pass the class itself"
            )
        return self._adapter

    def _first_validate(self, value: object, /) -> T:
        self._ready()
        return self.validate(value)

    def _first_dump(self, value: T, /) -> bytes:
        self._ready()
        return self.dump(value)

    def _first_load(self, data: bytes, /) -> T:
        self._ready()
        return self.load(data)


@final
class JsonSchema(Generic[T]):
    """Pass-through: data is typed for the checker and is JSON on the wire; nothing is validated, and no validator is ever built.

    What is received is what JSON knows: a published model arrives as a ``dict``. All pass-through schemas do the same and are therefore equal.

    Args:
        form: The type the data is said to have.

    Attributes:
        type: The form.
    """

    __slots__ = ("type",)

    type: TypeForm[T]

    def __init__(self, form: TypeForm[T], /) -> None:
        self.type = form

    def validate(self, value: object, /) -> T:
        """Return the value unchanged."""
        return cast("T", value)  # the caller vouched for the type: that is what type-only means

    def dump(self, value: T, /) -> bytes:
        """Return the value as JSON. Raises ``ValueError`` if pydantic does not know how to write it."""
        return to_json(value, inf_nan_mode="null")

    def load(self, data: bytes, /) -> T:
        """Return the JSON value. Raises ``ValueError`` if it is not exactly one."""
        return cast("T", from_json(data, allow_inf_nan=False))  # type-only, as above

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JsonSchema)

    def __hash__(self) -> int:
        return hash(JsonSchema)

    def __repr__(self) -> str:
        return f"static_schema({_form_text(self.type)})"

    def __reduce__(self) -> tuple[object, ...]:
        return (JsonSchema, (self.type,))


@overload
def static_schema(form: type[T], /) -> Schema[T]: ...
@overload
def static_schema(form: TypeForm[T], /) -> Schema[T]: ...
def static_schema(form: Any, /) -> Schema[Any]:  # Any: bound by the overloads
    """Return the schema that types data and validates nothing.

    ``topic(Usage, validate=False)`` is the same for a topic of a class; this form is for the topics of ``channel()`` and for ``TopicRef``.

    Args:
        form: The type of the data; it is not looked at.

    Returns:
        The pass-through schema.
    """
    return JsonSchema(form)


def is_schema(form: object, /) -> TypeGuard[Schema[Any]]:
    """Whether an object has the three methods of :class:`Schema`. A class has none: a model with fields called ``validate`` or ``load`` is a type."""
    # get_origin: a subscripted generic class hands out the methods of that class.
    return (
        not isinstance(form, type)
        and get_origin(form) is None
        and callable(getattr(form, "validate", None))
        and callable(getattr(form, "dump", None))
        and callable(getattr(form, "load", None))
    )


def schema_of(form: object, validate: bool, *, module: str | None = None) -> Schema[Any]:
    """Return the schema for what a topic is declared with.

    Args:
        form: A type in any form, or a Schema.
        validate: Whether data is validated; ``False`` gives the pass-through schema.
        module: Name of the module whose global names forward references in ``form`` mean.

    Returns:
        ``form`` itself if it is a Schema, else a :class:`PydanticSchema` or :class:`JsonSchema`.

    Raises:
        DeclarationError: If pydantic cannot build a validator, or a Schema is given with ``validate=False``.
    """
    if is_schema(form):
        if not validate:
            raise DeclarationError(f"validate=False is for types, {form!r} is a Schema and decides itself; pass the type to have no validation")
        return form
    declared = cast("TypeForm[Any]", form)  # a value that is no type is found by pydantic just below, or never looked at
    return PydanticSchema(declared, module=module) if validate else JsonSchema(declared)


def field_errors(error: Exception) -> tuple[FieldError, ...]:
    """Return what a schema's exception says, one entry per faulty field, without the faulty values, unless a validator of the user's own quotes them.

    Args:
        error: What ``validate``, ``dump`` or ``load`` raised.

    Returns:
        At least one entry, at most 51; each text has at most 500 characters.
    """
    if not isinstance(error, ValidationError):
        return (FieldError("", _clip(str(error) or type(error).__name__)),)
    faults = error.errors(include_url=False, include_input=False)
    found = [FieldError(_clip(".".join(map(str, fault["loc"]))), _clip(_text(fault))) for fault in faults[:_MAX_ERRORS]]
    if len(faults) > _MAX_ERRORS:
        found.append(FieldError("", f"and {len(faults) - _MAX_ERRORS} more"))
    return tuple(found)


def _text(fault: ErrorDetails) -> str:
    """Return what pydantic says of a field; of a tag that is none, which it quotes, only which there are."""
    if fault["type"] == "union_tag_invalid":
        context = fault.get("ctx", {})
        return f"Input tag found using {context.get('discriminator')} does not match any of the expected tags: {context.get('expected_tags')}"
    return fault["msg"]


def _clip(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"


def _strict(load: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """Refuse what pydantic's JSON reader takes beyond JSON: NaN, Infinity and -Infinity."""

    def load_json(data: bytes, /) -> T:
        # One memchr per letter (78 is N, 73 is I) settles nearly all messages; a search for bytes costs five times that.
        if (78 in data and b"NaN" in data) or (73 in data and b"Infinity" in data):
            from_json(data, allow_inf_nan=False)
        return load(data)

    return load_json


def _adapter(_form: Any) -> TypeAdapter[Any]:  # Any: a type form of unknown parameter
    # A function of its own: pydantic looks forward references up in the frame that calls it, and this one holds nothing they could mean.
    return TypeAdapter(_form)


def _pydantic_schema(form: TypeForm[T], module: str | None) -> PydanticSchema[T]:
    return PydanticSchema(form, module=module)


def _mentions_a_name(form: object) -> bool:
    """Whether a type form holds the name of a class as text."""
    if isinstance(form, str | ForwardRef):
        return True
    origin = get_origin(form)
    if origin is Literal:
        return False
    args = get_args(form)
    return any(map(_mentions_a_name, args[:1] if origin is Annotated else args))


def _resolved(form: Any, module: str | None) -> Any:  # Any: type forms, as in typing.get_type_hints itself
    names = vars(sys.modules[module]) if module in sys.modules else {}
    return get_type_hints(SimpleNamespace(__annotations__={"form": form}), globalns=dict(names), include_extras=True)["form"]


def _holds_alias(core_schema: object) -> bool:
    """Whether any field has an alias. Without one, pydantic's functions are called bare, which is measurably faster."""
    pending = [core_schema]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            members = cast("dict[str, object]", node)  # core schemas are dictionaries with str keys
            if members.get("validation_alias") is not None or members.get("serialization_alias") is not None:
                return True
            # A field may have any name, so the metadata, which is pydantic's and the user's own, is the one member left out.
            pending.extend(value for key, value in members.items() if key != "metadata")
        elif isinstance(node, list | tuple):
            pending.extend(cast("list[object]", node))  # choices, arguments
    return False


def _form_text(form: object) -> str:
    return form.__qualname__ if isinstance(form, type) and get_origin(form) is None else repr(form)


def _why_not(form: object, error: Exception) -> str:
    if isinstance(error, PydanticUserError) and error.code == "typed-dict-version":
        return "pydantic needs the TypedDict of typing_extensions before Python 3.12: import TypedDict from typing_extensions, or declare the topic with validate=False"
    reason = _clip(str(error).partition("\n\n")[0].rstrip("."))  # what follows is for people who extend pydantic
    return (
        f"pydantic cannot validate {_clip(_form_text(form))}: {reason}. Declare the topic with a type that pydantic knows, with a Schema (fanwire_schemas has "
        "adapters), or with validate=False"
    )
