"""attrs classes, and whatever else cattrs structures, as the schema of a topic. Needs the extra ``attrs``."""

from __future__ import annotations

from collections import abc, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import is_dataclass
from functools import partial
from itertools import repeat
from types import UnionType
from typing import TYPE_CHECKING, Any, Generic, NewType, NoReturn, TypeVar, Union, cast, final, get_args, get_origin, overload

from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError, from_json, to_json

from fanwire.errors import DeclarationError

try:
    import attrs
    import cattrs
    from cattrs.preconf.json import make_converter as make_json_converter
except ModuleNotFoundError as error:
    raise ImportError('fanwire_schemas.attrs needs attrs and cattrs; pip install "fanwire[attrs]"') from error

if TYPE_CHECKING:
    from cattrs.preconf.json import JsonConverter
    from typing_extensions import TypeForm

__all__ = ("AttrsSchema", "make_converter")

T = TypeVar("T")

# Any below: types as values, and the values cattrs makes of them. cattrs itself says no more.

Hook = Callable[[Any, Any], Any]
"""Makes a value of a type: takes what it is to be made of, and the type."""

Apart = Callable[[Any], Any]
"""Takes a value apart, to what JSON knows."""


@final
class AttrsSchema(Generic[T]):
    """What cattrs makes of a type: an attrs class, a dataclass, or anything else it structures.

    attrs does not look at the types of what an instance is made of; this does, at each publish: an instance is taken apart and put together again as the receiver will do
    it. The converters and validators of the class run then, too. A valid ``dict`` is accepted, an instance of another class is not.

    Values are not coerced, unknown fields are ignored. Field names are those of the class; other names, types that JSON does not know and unions that cattrs cannot tell
    apart by their fields take a converter with hooks for them::

        @attrs.frozen
        class Status:
            message: str
            job: UUID


        converter = make_converter()
        converter.register_unstructure_hook(UUID, str)
        converter.register_structure_hook(UUID, lambda value, _: UUID(value))


        class AgentChat(Channel, name="agent-chat:{thread_id}"):
            thread_id: str
            status = topic(AttrsSchema(Status, converter=converter))

    Args:
        form: The type of the data.
        strict: Whether ``"1"`` is refused where a number is wanted; ``False`` leaves coercion to cattrs, which calls the type: ``int("1")``, but also ``str([])``.
        forbid_extra_keys: Whether fields that the class does not have are refused.
        converter: A converter of your own, whose rules hold in place of these two. It has to unstructure to what JSON knows, as :func:`make_converter` and
            ``cattrs.preconf.json`` do. It is used as it is, and not copied: register its hooks before.

    Attributes:
        type: The type of the data.

    Raises:
        DeclarationError: If cattrs cannot structure that type, or ``converter`` is given together with a rule for another one.
    """

    @overload
    def __init__(
        self, form: type[T], /, *, strict: bool = True, forbid_extra_keys: bool = False, converter: cattrs.Converter | None = None
    ) -> None: ...
    @overload
    def __init__(
        self, form: TypeForm[T], /, *, strict: bool = True, forbid_extra_keys: bool = False, converter: cattrs.Converter | None = None
    ) -> None: ...
    def __init__(self, form: Any, /, *, strict: bool = True, forbid_extra_keys: bool = False, converter: cattrs.Converter | None = None) -> None:
        if converter is not None and (not strict or forbid_extra_keys):
            raise DeclarationError(
                "strict and forbid_extra_keys are for the converter made here: give them to make_converter(), or leave out converter="
            )
        self.type: TypeForm[T] = form
        self._rules = None if converter is not None else (strict, forbid_extra_keys)
        self._converter: cattrs.Converter = converter or make_converter(strict=strict, forbid_extra_keys=forbid_extra_keys)
        self._classes = _classes(form)
        try:
            self._structure: Hook = self._converter.get_structure_hook(form)
            self._unstructure: Apart = self._converter.get_unstructure_hook(form)
        except Exception as error:  # cattrs evaluates the annotations of the type, which may raise anything
            why = str(error).rstrip(".")
            raise DeclarationError(
                f"cattrs cannot structure {_name(form)}: {why}; hooks for more types go to a converter= of make_converter()"
            ) from error

    def validate(self, value: object, /) -> T:
        """Return the valid data for ``value``, made anew. Raises ``ValueError`` with an entry per faulty field if it is not valid."""
        if self._classes and attrs.has(type(value)) and not isinstance(value, self._classes):
            _refuse(self.type, [((), f"expected {_name(self.type)}, got {type(value).__qualname__}")], None)
        return self._load(self._plain(value))

    def dump(self, value: T, /) -> bytes:
        """Return the data as JSON. Raises ``ValueError`` or ``TypeError`` if it holds what JSON does not know."""
        return to_json(self._unstructure(value), inf_nan_mode="null")

    def load(self, data: bytes, /) -> T:
        """Return the valid data that ``data`` holds. Raises ``ValueError`` if it is not exactly one JSON value or not valid."""
        return self._load(from_json(data, allow_inf_nan=False))

    def _plain(self, value: Any) -> object:
        """Take a value apart as the type says; what does not look like that, such as a dict for an instance, as it says itself."""
        with suppress(Exception):
            return self._unstructure(value)
        try:
            return self._converter.unstructure(value)
        except Exception as error:  # noqa: BLE001 - a property or a hook of the user's may raise anything
            _refuse(self.type, [((), f"{type(value).__qualname__} cannot be taken apart ({type(error).__name__})")], error)

    def _load(self, plain: object) -> T:
        try:
            valid: T = self._structure(plain, self.type)
        except Exception as error:  # noqa: BLE001 - converters and validators of the class may raise anything
            _refuse(self.type, list(_faults(error, (), self.type)), error)
        return valid

    def __repr__(self) -> str:
        return f"AttrsSchema({_name(self.type)})"

    def __reduce__(self) -> tuple[object, ...]:
        if self._rules is None:
            raise TypeError(
                "an AttrsSchema with a converter of its own cannot be pickled; the topics of a channel class can, they are found by the class"
            )
        return (_attrs_schema, (self.type, *self._rules))


def _attrs_schema(form: TypeForm[T], strict: bool, forbid_extra_keys: bool) -> AttrsSchema[T]:
    return AttrsSchema(form, strict=strict, forbid_extra_keys=forbid_extra_keys)


def make_converter(*, strict: bool = True, forbid_extra_keys: bool = False) -> JsonConverter:
    """Return the converter that :class:`AttrsSchema` uses, to register hooks at: cattrs' converter for JSON, without coercion.

    Times are ISO 8601, bytes base85, sets lists. Strict means: a string is a string, ``True`` is no number, a string or an object no list; an integer is accepted for a
    ``float``, and a string of digits for a number that is the key of a mapping, since JSON has no other keys.

    Args:
        strict: Whether values of another type are refused rather than coerced.
        forbid_extra_keys: Whether fields that a class does not have are refused.
    """
    converter = make_json_converter(forbid_extra_keys=forbid_extra_keys)
    if strict:
        for kind, takes in ((str, str), (int, int), (bool, bool), (float, (int, float))):
            converter.register_structure_hook(kind, partial(_primitive, kind, takes))
        for key, read in _KEYS.values():
            converter.register_structure_hook(key, read)
        converter.register_structure_hook_factory(_is_class, _class)
        converter.register_structure_hook_factory(_is_collection, _collection)
        converter.register_structure_hook_factory(_has_numbers_for_keys, _with_string_keys)
        converter.register_unstructure_hook_factory(_is_class, _class_apart)
        converter.register_unstructure_hook_factory(_is_collection, _collection_apart)
    return converter


# ---------------------------------------------------------------- strict hooks


class _Unfit(ValueError):
    """Says, without the value, why it does not fit. Other exceptions' texts are not shown: they may quote it."""


def _unfit(wanted: str, value: object) -> NoReturn:
    raise _Unfit(f"expected {wanted}, got {'null' if value is None else type(value).__name__}")


def _primitive(kind: type, takes: Any, value: object, form: Any) -> object:
    if not isinstance(value, takes) or (isinstance(value, bool) and kind is not bool):
        _unfit(kind.__name__, value)
    return value if form is kind and kind is not float else form(value)  # a subclass, such as a str enum, is made of it


_IntKey = NewType("_IntKey", int)
_FloatKey = NewType("_FloatKey", float)
_BoolKey = NewType("_BoolKey", bool)


def _number_key(kind: type, value: object, _: Any) -> object:
    """Read a number as the key of a JSON object, or as Python's."""
    if isinstance(value, str):
        with suppress(ValueError):
            return kind(value)
    return _primitive(kind, (int, float) if kind is float else kind, value, kind)


def _bool_key(value: object, _: Any) -> object:
    return value == "true" if value in ("true", "false") else _primitive(bool, bool, value, bool)


_KEYS: dict[type, tuple[Any, Hook]] = {
    int: (_IntKey, partial(_number_key, int)),
    float: (_FloatKey, partial(_number_key, float)),
    bool: (_BoolKey, _bool_key),
}


def _has_numbers_for_keys(form: Any) -> bool:
    kind, args = get_origin(form), get_args(form)
    return isinstance(kind, type) and issubclass(kind, abc.Mapping) and bool(args) and args[0] in _KEYS


def _with_string_keys(form: Any, converter: cattrs.Converter) -> Hook:
    key, *rest = get_args(form)
    same: Any = get_origin(form)
    read: Any = same[(_KEYS[key][0], *rest)]
    return partial(_as, _hook(converter, read), read)


def _as(hook: Hook, form: Any, value: object, _: Any) -> object:
    return hook(value, form)


def _any(value: object, _: Any) -> object:
    return value


def _hook(converter: cattrs.Converter, form: Any) -> Hook:
    if form in (object, Any):
        return _any
    try:
        return converter.get_structure_hook(form)
    except RecursionError:  # of a class that holds itself; cattrs leaves it to later, too
        return converter.structure


def _hook_apart(converter: cattrs.Converter, form: Any) -> Apart:
    if form in (object, Any):
        return converter.unstructure
    try:
        return converter.get_unstructure_hook(form)
    except RecursionError:  # as above
        return partial(converter.unstructure, unstructure_as=form)


# Classes. Taking one apart never fails on what is not of the class: that is left as it is, for the structure hook to refuse it where it stands.


def _is_class(form: Any) -> bool:
    kind = get_origin(form) or form
    return isinstance(kind, type) and (attrs.has(kind) or is_dataclass(kind))


def _class(form: Any, converter: cattrs.Converter) -> Hook:
    """Make the hook for a class; cattrs' own would say that all fields of a string are wrong."""
    kind = get_origin(form) or form
    if attrs.has(kind):
        attrs.resolve_types(kind)  # also where only a part of an annotation is a string, such as list["Node"]
    structure: Hook = converter.gen_structure_attrs_fromdict(form)

    def put_together(value: object, _: Any) -> object:
        if not isinstance(value, abc.Mapping):
            _unfit(_name(form), value)
        return structure(value, form)  # pyright: ignore[reportUnknownArgumentType]  # a mapping of anything

    return put_together


def _class_apart(form: Any, converter: cattrs.Converter) -> Apart:
    kind: type = get_origin(form) or form
    unstructure: Apart = converter.gen_unstructure_attrs_fromdict(form)

    def take_apart(value: object) -> object:
        if isinstance(value, kind):
            return unstructure(value)
        return value if attrs.has(type(value)) else converter.unstructure(value)

    return take_apart


# Collections. cattrs' own hooks take anything that can be iterated, so a string for a list of strings.

_COLLECTIONS: dict[Any, Callable[[list[Any]], object]] = {
    list: list,
    abc.MutableSequence: list,
    tuple: tuple,
    abc.Sequence: tuple,
    set: set,
    abc.MutableSet: set,
    frozenset: frozenset,
    abc.Set: frozenset,
    deque: deque,
}


def _is_collection(form: Any) -> bool:
    return (get_origin(form) or form) in _COLLECTIONS


def _elements(form: Any) -> tuple[bool, tuple[Any, ...]]:
    """Return whether there may be any number of elements, and the type of all or of each."""
    args = get_args(form)
    many = (get_origin(form) or form) is not tuple or not args or args[-1] is Ellipsis
    return many, (args[:1] or (object,)) if many else args


def _items(value: object) -> abc.Collection[object] | None:
    fits = isinstance(value, (abc.Sequence, abc.Set, deque)) and not isinstance(value, (str, bytes))
    return cast("abc.Collection[object]", value) if fits else None  # an isinstance cannot tell of what


def _collection(form: Any, converter: cattrs.Converter) -> Hook:
    many, elements = _elements(form)
    hooks = [partial(_as, _hook(converter, element), element) for element in elements]
    finish = _COLLECTIONS[get_origin(form) or form]

    def put_together(value: object, _: Any) -> object:
        given = _items(value)
        if given is None:
            _unfit("list", value)
        if not many and len(given) != len(hooks):
            raise _Unfit(f"expected {len(hooks)} items, got {len(given)}")
        items: list[object] = []
        faults: list[Exception] = []
        for index, item in enumerate(given):
            place = 0 if many else index
            try:
                items.append(hooks[place](item, None))
            except Exception as error:  # noqa: BLE001 - hooks of the user's may raise anything
                error.add_note(cattrs.IterableValidationNote(f"at item {index}", index, elements[place]))
                faults.append(error)
        if faults:
            raise cattrs.IterableValidationError(f"in {form!r}", faults, form)  # pyright: ignore[reportCallIssue]  # its __new__ takes three
        return finish(items)

    return put_together


def _collection_apart(form: Any, converter: cattrs.Converter) -> Apart:
    many, elements = _elements(form)
    hooks = [_hook_apart(converter, element) for element in elements]

    def take_apart(value: object) -> object:
        given = _items(value)
        if given is None or not (many or len(given) == len(hooks)):
            return value
        return [hook(item) for hook, item in zip(repeat(hooks[0]) if many else hooks, given, strict=False)]

    return take_apart


# ---------------------------------------------------------------- errors

_Path = tuple[str | int, ...]


def _refuse(form: Any, faults: list[tuple[_Path, str]], cause: Exception | None) -> NoReturn:
    """Raise pydantic's error, which is a ``ValueError`` and has a place for each faulty field; fanwire shows all of them."""
    found = [InitErrorDetails(type=PydanticCustomError("cattrs", "{text}", {"text": text}), loc=path, input=None) for path, text in faults]
    raise ValidationError.from_exception_data(_name(form), found, hide_input=True) from cause


def _faults(error: Exception, path: _Path, form: Any) -> Iterator[tuple[_Path, str]]:
    """Walk through cattrs' groups of exceptions: where each fault is, and what it is, without the value."""
    if isinstance(error, (cattrs.ClassValidationError, cattrs.IterableValidationError)):
        noted, others = error.group_exceptions()
        for inner, note in noted:
            step: object = note.name if isinstance(note, cattrs.AttributeValidationNote) else note.index
            yield from _faults(inner, (*path, step if isinstance(step, int) else str(step)), note.type)
        for inner in others:
            if isinstance(inner, cattrs.ForbiddenExtraKeysError):
                yield path, f"unknown fields: {', '.join(sorted(inner.extra_fields))}"
            else:
                # The class was called. attrs' own validators say which attribute they refuse.
                attribute = next((arg.name for arg in inner.args if isinstance(arg, attrs.Attribute)), None)
                yield path if attribute is None else (*path, attribute), f"refused by a validator of {_name(error.cl)} ({type(inner).__name__})"
    elif isinstance(error, _Unfit):
        yield path, str(error)
    else:
        yield path, "required field is missing" if isinstance(error, KeyError) else f"not a valid {_name(form)} ({type(error).__name__})"


def _classes(form: Any) -> tuple[type, ...]:
    """Return the attrs classes of which an instance may be given, if there is nothing else."""
    members = get_args(form) if get_origin(form) in (Union, UnionType) else (form,)
    found = tuple(kind for member in members if isinstance(kind := get_origin(member) or member, type))
    return found if len(found) == len(members) and any(attrs.has(kind) for kind in found) else ()


def _name(form: Any) -> str:
    return form.__qualname__ if isinstance(form, type) and not get_args(form) else str(form)
