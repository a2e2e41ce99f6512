"""msgspec as the schema of a topic. Needs the extra ``msgspec``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, final, overload

from fanwire.errors import DeclarationError

try:
    import msgspec
except ModuleNotFoundError as error:
    raise ImportError('fanwire_schemas.msgspec needs msgspec; pip install "fanwire[msgspec]"') from error

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ("MsgspecSchema",)

T = TypeVar("T")


@final
class MsgspecSchema(Generic[T]):
    """What msgspec makes of a type: a Struct, or anything else it reads.

    msgspec's own rules hold: field names as renamed by the Struct, values not coerced unless ``strict=False``. A Struct that is published is not looked into,
    as msgspec does not either; what was changed into an invalid one is noticed when it is received.

    Example::

        class Status(msgspec.Struct):
            message: str


        class AgentChat(Channel, name="agent-chat:{thread_id}"):
            thread_id: str
            status = topic(MsgspecSchema(Status))

    Args:
        form: The type of the data.
        strict: Whether ``"1"`` is refused where a number is wanted, as in ``msgspec.convert``.

    Attributes:
        type: The type of the data.

    Raises:
        DeclarationError: If msgspec cannot read that type.
    """

    @overload
    def __init__(self, form: type[T], /, *, strict: bool = True) -> None: ...
    @overload
    def __init__(self, form: TypeForm[T], /, *, strict: bool = True) -> None: ...
    def __init__(self, form: Any, /, *, strict: bool = True) -> None:  # Any: bound by the overloads
        self.type: TypeForm[T] = form
        self._strict = strict
        try:
            self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(form, strict=strict)
        except Exception as error:  # msgspec evaluates the annotations of the type, which may raise anything
            raise DeclarationError(f"msgspec cannot read {form!r}: {error}") from error
        self._encoder = msgspec.json.Encoder()

    def validate(self, value: object, /) -> T:
        """Return the valid data for ``value``. Raises ``ValueError`` if msgspec refuses it."""
        form: Any = self.type  # Any: msgspec's stubs know classes only
        try:
            valid: T = msgspec.convert(value, form, strict=self._strict)
        except msgspec.MsgspecError as error:  # no ValueError of its own accord
            raise ValueError(str(error)) from error
        return valid

    def dump(self, value: T, /) -> bytes:
        """Return the data as JSON. Raises ``TypeError`` if msgspec does not know how to write it."""
        return self._encoder.encode(value)

    def load(self, data: bytes, /) -> T:
        """Return the valid data that ``data`` holds. Raises ``ValueError`` if it is not exactly one JSON value or msgspec refuses it."""
        try:
            return self._decoder.decode(data)
        except msgspec.MsgspecError as error:
            raise ValueError(str(error)) from error

    def json_schema(self) -> dict[str, Any]:  # Any: JSON
        """Return the JSON Schema of the data as it is on the wire."""
        return msgspec.json.schema(self.type)

    def __repr__(self) -> str:
        return f"MsgspecSchema({getattr(self.type, '__qualname__', self.type)})"

    def __reduce__(self) -> tuple[object, ...]:
        return (_msgspec_schema, (self.type, self._strict))


def _msgspec_schema(form: TypeForm[T], strict: bool) -> MsgspecSchema[T]:
    return MsgspecSchema(form, strict=strict)
