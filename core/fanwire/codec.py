"""The codec seam, and the default wire format: the envelope.

The envelope is one compact JSON object of Inngest Realtime's shape plus ``id`` and ``key``, its members in this order, so that routing is a scan of its start::

    {"id":"<publisher>.<n>","topic":…[,"key":…],"kind":"data","channel":…,"created_at":RFC3339 Z[,"run_id":…][,"headers":{…}],"data":…}

The scan accepts only this prefix without a backslash; everything else takes the JSON parser. Both refuse a frame with duplicate top-level members, since a browser would
read the last of them and a scan the first: what a grant allows and what is shown could then differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn, Protocol, final

from pydantic_core import from_json, to_json

from .topics import TopicRef

__all__ = ("ENVELOPE", "Codec", "Decoded", "EnvelopeCodec", "InvalidFrame")


class InvalidFrame(ValueError):
    """A frame that is not of the codec's format. Never reaches users as an exception: it is reported and skipped."""


class Decoded(NamedTuple):
    """What a frame says about itself, and its payload as one JSON value that may not be checked yet."""

    id: str
    topic: str
    key: str | None
    kind: str
    channel: str
    created_at: str | None
    run_id: str | None
    headers: Mapping[str, str] | None
    data: bytes


class Codec(Protocol):
    """How a message becomes the bytes of a frame and back."""

    name: str

    def encode(
        self,
        ref: TopicRef[Any],  # Any: the payload is encoded already
        data: bytes,
        id: str,
        created_at: str,
        key: str | None,
        headers: Mapping[str, str] | None,
        run_id: str | None,
        /,
    ) -> bytes:
        """Return the frame. ``data`` is one JSON value; ``created_at`` is RFC 3339 in UTC."""
        ...

    def decode(self, frame: bytes, /) -> Decoded:
        """Take a frame apart.

        Raises:
            InvalidFrame: it is not of this format.
        """
        ...

    def signature(self, channel: str, topic: str, /) -> bytes | None:
        """Return what plain frames of a topic (without key, headers, run id) have in common, for :meth:`scan`; ``None`` if that is nothing."""
        ...

    def scan(self, frame: bytes, signature: bytes, /) -> tuple[str, bytes, bytes] | None:
        """Recognise a plain frame by its signature: return its id, time stamp and payload; ``None`` if it is not one."""
        ...


# A JSON string without escapes. Control characters must be escaped in JSON, so a frame that holds one is left to the parser to refuse.
_STRING = r'"([^"\\\x00-\x1f]*)"'
_PREFIX = re.compile(
    rf'\{{"id":{_STRING},"topic":{_STRING}(?:,"key":{_STRING})?,"kind":{_STRING},"channel":{_STRING},"created_at":{_STRING}'
    rf'(?:,"run_id":{_STRING})?(?:,"headers":(\{{[^{{}}\\\x00-\x1f]*\}}))?,"data":'
)


@final
class EnvelopeCodec:
    """The default codec; see the module's docstring for the format."""

    name = "envelope"

    def __init__(self) -> None:
        self._stamp: bytes = b""
        """The last time stamp that was found well-formed: those of one burst are the same."""
        self._seen: tuple[bytes, bytes, bytes] = b"", b"", b""
        """Signature of the last frame that was recognised, all that stood between its id and its payload, and its time stamp: most likely the next one's, too."""

    def encode(
        self,
        ref: TopicRef[Any],  # Any: the payload is encoded already
        data: bytes,
        id: str,
        created_at: str,
        key: str | None,
        headers: Mapping[str, str] | None,
        run_id: str | None,
        /,
    ) -> bytes:
        """Return the envelope of one message."""
        if key is None and headers is None and run_id is None:
            constants = ref._envelope  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # the ref keeps it for us
            if constants is None:
                constants = _constants(ref)
            return b"".join((b'{"id":"', id.encode(), constants, created_at.encode(), b'","data":', data, b"}"))
        optional = b"" if run_id is None else b',"run_id":' + to_json(run_id)
        if headers is not None:
            optional += b',"headers":' + to_json(dict(headers))
        return b'{"id":"%b","topic":%b%b,"kind":"data","channel":%b,"created_at":"%b"%b,"data":%b}' % (
            id.encode(),
            to_json(ref.topic),
            b"" if key is None else b',"key":' + to_json(key),
            to_json(ref.channel),
            created_at.encode(),
            optional,
            data,
        )

    def signature(self, channel: str, topic: str, /) -> bytes | None:
        """Return what stands between the id and the time stamp of a plain envelope."""
        return b'","topic":%b,"kind":"data","channel":%b,"created_at":"' % (to_json(topic), to_json(channel))

    def scan(self, frame: bytes, signature: bytes, /) -> tuple[str, bytes, bytes] | None:
        """Recognise a plain envelope by comparing all between id and time stamp at once: topic and channel are then known to be right."""
        quote = frame.find(34, 7)  # 34 is "
        seen, middle, stamp = self._seen  # at once: loops of several threads share this codec
        if seen is signature and frame.startswith(middle, quote) and frame[:7] == _ID and frame[-1] == 125 and frame.isascii():  # 125 is }
            id = frame[7:quote].decode()
            return (id, stamp, frame[quote + len(middle) : -1]) if "\\" not in id and id.isprintable() else None
        time = quote + len(signature)
        if frame[quote:time] != signature or frame[time + 24 : time + 33] != _DATA or frame[:7] != _ID or frame[-1] != 125:  # 125 is }
            return None
        stamp = frame[time : time + 24]
        if stamp != self._stamp:
            if _STAMP.fullmatch(stamp) is None:
                return None
            self._stamp = stamp
        self._seen = signature, signature + stamp + _DATA, stamp
        if not frame.isascii() and not _is_utf8(frame):
            return None
        id = frame[7:quote].decode()
        return (id, stamp, frame[time + 33 : -1]) if "\\" not in id and id.isprintable() else None

    def decode(self, frame: bytes, /) -> Decoded:
        """Take an envelope apart; the payload of one in the usual order is cut out, not parsed."""
        try:
            text = frame.decode()
        except UnicodeDecodeError as error:
            raise InvalidFrame("the frame is not UTF-8") from error
        match = _PREFIX.match(text)
        if match is None or text[-1] != "}":
            return _parse(text)
        id, topic, key, kind, channel, created_at, run_id, headers = match.groups()
        data = frame[match.end() : -1] if len(frame) == len(text) else text[match.end() : -1].encode()
        fields = (id, topic, key, kind, channel, _time(created_at), run_id, None if headers is None else _header_object(headers), data)
        return tuple.__new__(Decoded, fields)  # pyright: ignore[reportUnknownMemberType]  # half the cost of calling the class, on every frame


_STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _time(text: str) -> str:
    if _RFC_3339.fullmatch(text) is None:
        raise InvalidFrame("created_at is not an RFC 3339 time")
    return text


def _is_utf8(frame: bytes) -> bool:
    try:
        frame.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_unicode(text: str) -> bool:
    """Tell whether a string holds no lone surrogate, which JSON can write as an escape."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _header_object(text: str) -> Mapping[str, str]:
    try:
        return _headers(from_json(text))
    except ValueError as error:
        raise InvalidFrame(f"the member 'headers' is not JSON: {error}"[:200]) from error


_ID = b'{"id":"'
_DATA = b'","data":'  # behind a time stamp of 24 bytes, which is what encode() is given

ENVELOPE = EnvelopeCodec()


def _constants(ref: TopicRef[Any]) -> bytes:  # Any: a topic of any payload
    """Build, once per ref, what stands between the id and the time stamp."""
    constants = b'","topic":%b,"kind":"data","channel":%b,"created_at":"' % (to_json(ref.topic), to_json(ref.channel))
    object.__setattr__(ref, "_envelope", constants)
    return constants


class _Members(dict[str, object]):
    """A JSON object that remembers whether a member came twice."""

    repeated: str | None = None


def _members(pairs: list[tuple[str, object]]) -> _Members:
    members = _Members(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        members.repeated = next(name for name in names if names.count(name) > 1)
    return members


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


_parser = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_refuse_constant)


def _parse(text: str) -> Decoded:
    """Read a frame in another member order, with escapes, or by a foreign publisher."""
    try:
        members: object = _parser.decode(text)
    except (ValueError, RecursionError) as error:
        raise InvalidFrame(f"the frame is not JSON: {error}"[:200]) from error
    if not isinstance(members, _Members):
        raise InvalidFrame("the frame is not a JSON object")
    if members.repeated is not None:
        raise InvalidFrame(f"the frame has the member {members.repeated[:80]!r} twice")
    if "data" not in members:
        raise InvalidFrame("the frame has no data")
    return Decoded(
        id=_text(members, "id") or "",
        topic=_text(members, "topic") or "",
        key=_text(members, "key"),
        kind="data" if "kind" not in members else _text(members, "kind") or "",
        channel=_text(members, "channel") or "",
        created_at=_time(_text(members, "created_at") or "") if "created_at" in members else None,
        run_id=_text(members, "run_id"),
        headers=_headers(members["headers"]) if "headers" in members else None,
        data=_dump(members["data"]),
    )


def _dump(value: object) -> bytes:
    try:
        return to_json(value)
    except ValueError as error:  # a lone surrogate, written as an escape
        raise InvalidFrame(f"the payload is not Unicode: {error}"[:200]) from error


def _text(members: _Members, name: str) -> str | None:
    if name not in members:
        return None
    value = members[name]
    if not isinstance(value, str) or not _is_unicode(value):
        raise InvalidFrame(f"the member {name!r} is not a string of Unicode characters")
    return value


def _headers(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise InvalidFrame("the member 'headers' is not an object")
    for name, text in value.items():  # pyright: ignore[reportUnknownVariableType]  # checked here
        if not isinstance(name, str) or not isinstance(text, str) or not _is_unicode(name) or not _is_unicode(text):
            raise InvalidFrame("the member 'headers' holds something else than strings")
    return value  # pyright: ignore[reportUnknownVariableType]  # checked above
