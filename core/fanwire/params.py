"""Params of channels: from the annotations of a class to a pydantic model, and from values to the texts that stand in a name and back."""

from __future__ import annotations

import inspect
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from enum import Enum
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, NewType, Union, get_args, get_origin, get_type_hints, is_typeddict

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, create_model
from pydantic_core import PydanticSerializationError, to_jsonable_python
from typing_extensions import TypeAliasType

from .errors import DeclarationError, FieldError, InvalidName
from .schemas import field_errors
from .topics import Topic

__all__ = ("NoParams", "Param", "faults_text", "own_params", "params_model", "reads_back", "texts_of")

# What cannot stand in a name, or not exactly: 0.1 + 0.2 has many spellings, and a container has no one text.
_NO_TEXT: tuple[type[object], ...] = (float, complex, bytes, bytearray, memoryview, list, tuple, dict, set, frozenset, type(None), BaseModel)

_CLASS_VAR = re.compile(r"\s*(\w+\.)*ClassVar\b")  # also where the name is imported for type checkers only


_INTERNAL = frozenset({__name__, f"{__package__}.channels"})  # frames to look past


class Param(NamedTuple):
    """One param as declared."""

    form: Any
    """Its type. Any: type forms have no common type at run time."""

    default: Any  # Any: of the type above
    """Its default, a pydantic ``FieldInfo``, or ``...`` if it is required."""


class NoParams(BaseModel):
    """The params of a channel without params."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)


def own_params(cls: type[object], inherited: Mapping[str, Param]) -> dict[str, Param]:
    """Return the params that the body of a class declares, and take their defaults off the class.

    Args:
        cls: A class that has just been made, so that the frame of its ``class`` statement is still running.
        inherited: The params of its bases.

    Returns:
        The params by name, in order.

    Raises:
        DeclarationError: If an annotation cannot be resolved or a param cannot be one.
    """
    written = {name: form for name, form in inspect.get_annotations(cls).items() if not (isinstance(form, str) and _CLASS_VAR.match(form))}
    params: dict[str, Param] = {}
    for name, form in _resolve(cls, written).items():
        if get_origin(form) is ClassVar or form is ClassVar:
            continue
        default: object = vars(cls).get(name, ...)
        if isinstance(default, Topic):
            raise DeclarationError(
                f"{cls.__name__}.{name}: an annotated attribute is a param; leave the annotation of a topic out, or write ClassVar[Topic[...]]"
            )
        if name.startswith("_"):
            raise DeclarationError(f"{cls.__name__}.{name}: a param cannot begin with an underscore")
        if name.startswith("model_") and hasattr(BaseModel, name):
            raise DeclarationError(f"{cls.__name__}.{name}: pydantic keeps {name!r} for itself; give the param another name")
        try:
            params[name] = Param(_readable(form), default)
        except DeclarationError as error:
            raise DeclarationError(f"{cls.__name__}.{name}: {error}") from error
        if name in vars(cls):
            delattr(cls, name)
    if bare := [name for name in inherited if name in vars(cls)]:
        raise DeclarationError(f"{cls.__name__}.{bare[0]} hides a param of a base class; write {bare[0]}: <type> = ... to give it another default")
    return params


def params_model(cls: type[object], params: Mapping[str, Param]) -> type[BaseModel]:
    """Return the pydantic model of a class's params.

    Args:
        cls: The channel class.
        params: All its params, inherited ones included.

    Returns:
        A frozen model that takes these fields and no others.

    Raises:
        DeclarationError: If pydantic cannot validate one of them, or one has an alias.
    """
    if not params:
        return NoParams
    fields: dict[str, Any] = dict(params)  # Any: what create_model asks for
    config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())
    try:
        with warnings.catch_warnings():
            # A param called "copy" or "schema" hides a deprecated method of BaseModel, which nothing here calls.
            warnings.filterwarnings("ignore", message=".*shadows an attribute in parent", category=UserWarning)
            model: type[BaseModel] = create_model(
                f"{cls.__name__}Params", __config__=config, __module__=cls.__module__, __doc__=f"Params of {cls.__name__}.", **fields
            )
    except Exception as error:  # pydantic calls hooks of the user's types, which may raise anything
        reason = str(error).partition("\n\n")[0]  # what follows is for people who extend pydantic
        raise DeclarationError(f"{cls.__name__}: pydantic cannot validate its params: {reason}") from error
    for name, info in model.model_fields.items():
        if info.alias is not None or info.validation_alias is not None:
            raise DeclarationError(f"{cls.__name__}.{name}: a param is known by its own name only; leave the alias out")
    return model


def texts_of(model: BaseModel) -> dict[str, str]:
    """Return the text each param has in the name.

    Args:
        model: Valid params.

    Returns:
        The texts by param.

    Raises:
        InvalidName: If a value has no text; lists each param that has none.
    """
    try:
        values = model.model_dump(mode="json", warnings=False)
    except PydanticSerializationError as error:
        raise InvalidName(str(error)) from error
    texts: dict[str, str] = {}
    faults: list[FieldError] = []
    for name, value in values.items():
        try:
            texts[name] = _text_of(value)
        except ValueError as error:
            faults.append(FieldError(name, str(error)))
    if faults:
        raise InvalidName(_joined(faults))
    return texts


def reads_back(model: BaseModel, texts: Mapping[str, str]) -> bool:
    """Whether these texts are read as the values they were made from: ``"5"`` in an ``int | str`` is not."""
    try:
        return vars(type(model).model_validate_strings(texts)) == vars(model)
    except ValidationError:
        return False


def faults_text(error: ValidationError) -> str:
    """Return what pydantic found, param by param."""
    return _joined(field_errors(error))


def _joined(faults: Sequence[FieldError]) -> str:
    return "; ".join(f"{fault.location}: {fault.message}" if fault.location else fault.message for fault in faults)


def _resolve(cls: type[object], written: dict[str, Any]) -> dict[str, Any]:  # Any: annotations, as in typing.get_type_hints
    """Evaluate annotations that are text, in the scope they were written in: class body, enclosing function, module."""
    if not any(isinstance(form, str) for form in written.values()):
        return written
    frame = inspect.currentframe()
    while frame is not None and (frame.f_globals.get("__name__") in _INTERNAL or frame.f_code.co_name in ("__init_subclass__", "__new__")):
        frame = frame.f_back
    scope = dict(frame.f_locals) if frame is not None else {}
    scope.update((name, value) for name, value in vars(cls).items() if name not in written)
    # typing evaluates ClassVar and the like for classes only.
    stand_in = type("Params", (), {"__annotations__": written, "__module__": cls.__module__})
    module = sys.modules.get(cls.__module__)
    try:
        return get_type_hints(stand_in, globalns=dict(vars(module)) if module else {}, localns=scope, include_extras=True)
    except Exception as error:  # an annotation is an expression: evaluating it may raise anything
        raise DeclarationError(
            f"{cls.__name__}: the annotation of a param cannot be evaluated: {error}; import what it names at run time too"
        ) from error


def _text_of(value: object) -> str:
    """Return the text a value has in a name: that of its JSON value.

    Args:
        value: A value that is JSON already: text, a whole number or a truth value.

    Returns:
        The text, ``true`` and ``false`` for truth values.

    Raises:
        ValueError: If it is empty, or of a type that has no one exact text.
    """
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str() if value:
            return value
        case str():
            raise ValueError("an empty text cannot be part of a name")
        case None:
            raise ValueError("None cannot be part of a name")
        case _:
            raise ValueError(f"a {type(value).__name__} cannot be part of a name")


def _readable(form: Any) -> Any:  # Any: type forms, which have no common type at run time
    """Return the type to validate a param with.

    Args:
        form: The param's annotation.

    Returns:
        The same; for an Enum or ``Literal`` one that also reads each choice from its text, which pydantic itself does for text choices only.

    Raises:
        DeclarationError: If values of that type have no exact text, or two choices have the same.
    """
    _check_has_text(form)
    plain = _plain(form)
    choices: list[object]
    if isinstance(plain, type) and issubclass(plain, Enum):
        choices = list(plain)
    elif get_origin(plain) is Literal:
        choices = list(get_args(plain))
    else:
        return form
    by_text: dict[str, object] = {}
    for choice in choices:
        try:
            text = _text_of(to_jsonable_python(choice))
        except (ValueError, PydanticSerializationError) as error:
            raise DeclarationError(f"{choice!r}: {error}") from error
        if by_text.setdefault(text, choice) is not choice:
            raise DeclarationError(f"{by_text[text]!r} and {choice!r} are both written {text!r} in a name")

    def choice_of(value: object) -> object:
        return by_text.get(value, value) if isinstance(value, str) else value

    return Annotated[form, BeforeValidator(choice_of)]


def _plain(form: Any) -> Any:  # Any: as in _readable
    """A type form without Annotated, NewType and ``type`` statements around it."""
    while True:
        if get_origin(form) is Annotated:
            form = get_args(form)[0]
        elif isinstance(form, NewType):
            form = form.__supertype__
        elif isinstance(form, TypeAliasType):
            form = form.__value__
        else:
            return form


def _check_has_text(form: Any) -> None:  # Any: as in _readable
    plain = _plain(form)
    origin = get_origin(plain)
    if plain is None:
        plain = type(None)
    if origin is Literal:
        return  # its choices are looked at one by one
    kind: object = origin if isinstance(origin, type) else plain
    if is_typeddict(kind) or (isinstance(kind, type) and issubclass(kind, _NO_TEXT) and not issubclass(kind, Enum)):
        name = "None" if kind is type(None) else getattr(kind, "__name__", kind)
        raise DeclarationError(f"{name} has no exact text in a name; use str, int, bool, UUID, date, an Enum or a Literal")
    if origin is Union or origin is UnionType:
        for member in get_args(plain):
            _check_has_text(member)
