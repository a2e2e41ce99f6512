"""Everything that is checked about a message before it may take a number and be handed over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .channels import Channel
from .codec import ENVELOPE
from .errors import DeclarationError, FieldError, InvalidPayload, PayloadTooLarge
from .schemas import field_errors
from .topics import Outgoing, Topic, TopicRef

__all__ = ("MARGIN", "MAX_HEADERS_BYTES", "MAX_KEY_BYTES", "check", "encode", "not_a_ref", "refused", "run_id_fault", "unpack")

MAX_KEY_BYTES = 255
MAX_HEADERS_BYTES = 8_192

MARGIN = 65_536
"""An envelope never adds more than this to the payload: names, key and headers are bounded."""


def unpack(first: object) -> Outgoing[Any]:  # Any: a payload of any topic
    """Return ``first``, the only argument of a publish, if it is an Outgoing; else say what would have been right.

    Raises:
        DeclarationError: it is not.
    """
    if isinstance(first, Outgoing):
        outgoing: Outgoing[Any] = first  # pyright: ignore[reportUnknownVariableType]  # Any: an isinstance cannot tell the parameter
        if outgoing.ref.__class__ is not TopicRef:
            raise DeclarationError(not_a_ref("an Outgoing", outgoing.ref))
        return outgoing
    raise DeclarationError(not_a_ref("publish()", first))


def not_a_ref(where: str, value: object) -> str:
    """Say why ``value`` is no TopicRef and what to pass instead."""
    kind = type(value).__name__
    wanted = f"{where} takes a topic of a channel, such as chat.status, and its data"
    if isinstance(value, TopicRef):
        return f"{wanted}: no data was given for {value!r}"
    if isinstance(value, Topic):
        return f"{wanted}; {value!r} is a declaration: make an instance of its channel first, such as AgentChat(thread_id=...).{value.name}"
    if isinstance(value, Channel) or (isinstance(value, type) and issubclass(value, Channel)):
        return f"{wanted}; {value!r} is a channel: choose one of its topics"
    return f"{wanted}; got {kind}"


def encode(
    ref: TopicRef[Any],  # Any: a payload of any topic
    value: object,
    key: str | None,
    headers: Mapping[str, str] | None,
    max_payload: int,
    run_id: str | None = None,
) -> bytes:
    """Validate a message and return its payload as JSON.

    Raises:
        InvalidPayload: the schema refuses the data, or it cannot be written as JSON, or key or headers are not allowed.
        PayloadTooLarge: the encoded message is larger than ``max_payload`` bytes.
    """
    try:
        data = ref.schema.dump(ref.schema.validate(value))
    except Exception as error:  # a schema may raise anything; whatever it is, the data did not pass
        raise refused(ref, error) from error
    if key is not None or headers is not None or len(data) > max_payload - MARGIN:
        check(ref, data, key, headers, max_payload, run_id)
    return data


def refused(ref: TopicRef[Any], error: Exception) -> InvalidPayload:  # Any: a payload of any topic
    """Make the error for data that the schema of ``ref`` does not let pass."""
    return InvalidPayload(ref.channel, ref.topic, field_errors(error))


def check(
    ref: TopicRef[Any],  # Any: encoded already
    data: bytes,
    key: str | None,
    headers: Mapping[str, str] | None,
    max_payload: int,
    run_id: str | None = None,
) -> None:
    """Check what goes along with a payload, and the size of all of it.

    Raises:
        InvalidPayload: key or headers are not allowed.
        PayloadTooLarge: the encoded message is larger than ``max_payload`` bytes.
    """
    faults = [*_key_faults(key), *_header_faults(headers)]
    if faults:
        raise InvalidPayload(ref.channel, ref.topic, faults)
    if len(data) > max_payload - MARGIN:
        # Close to the limit the envelope counts; id and time stand for the longest there will be.
        longest = "0123456789.9999999999", "2000-01-01T00:00:00.000Z"
        size = len(ENVELOPE.encode(ref, data, *longest, key, headers, run_id))
        if size > max_payload:
            raise PayloadTooLarge(ref.channel, ref.topic, size, max_payload)


def run_id_fault(id: object) -> str | None:
    """Say why ``id`` cannot be the id of a run or of a step, or return ``None``."""
    if not isinstance(id, str):
        return f"must be a string, got {type(id).__name__}"
    if not id or not 0 < (_utf8_bytes(id) or 0) <= MAX_KEY_BYTES or any(char < " " or char == "\x7f" for char in id):
        return f"must be 1 to {MAX_KEY_BYTES} bytes of valid UTF-8 without control characters, got {id[:40]!r}"
    return None


def _key_faults(key: object) -> list[FieldError]:
    if key is None:
        return []
    if not isinstance(key, str):
        return [FieldError("key", f"must be a string, got {type(key).__name__}")]
    if not key or _utf8_bytes(key) is None or (_utf8_bytes(key) or 0) > MAX_KEY_BYTES:
        return [FieldError("key", f"must be 1 to {MAX_KEY_BYTES} bytes of valid UTF-8")]
    return []


def _header_faults(headers: object) -> list[FieldError]:
    if headers is None:
        return []
    if not isinstance(headers, Mapping):
        return [FieldError("headers", f"must be a mapping of strings, got {type(headers).__name__}")]
    total = 0
    for name, text in headers.items():  # pyright: ignore[reportUnknownVariableType]  # checked here
        if not isinstance(name, str) or not isinstance(text, str):
            return [FieldError("headers", "names and values must be strings")]
        sizes = _utf8_bytes(name), _utf8_bytes(text)
        if not name or sizes[0] is None or sizes[1] is None:
            return [FieldError("headers", "names must not be empty, and all must be valid UTF-8")]
        total += sizes[0] + sizes[1]
    return [] if total <= MAX_HEADERS_BYTES else [FieldError("headers", f"{total:,} bytes in all, at most {MAX_HEADERS_BYTES:,} are allowed")]


def _utf8_bytes(text: str) -> int | None:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return None
