"""What subscribe and history are asked for, checked and turned into an interest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .capabilities import Capabilities, HistoryForm, check_length
from .channels import ChannelLike, declared_topics
from .errors import DeclarationError, Unsupported
from .hub.log import Interest
from .messages import Start
from .names import check_channel_name, check_topic_name
from .outgoing import not_a_ref
from .schemas import Schema
from .topics import TopicRef

__all__ = ("check_channels", "check_start", "interest_of")

Wanted = dict[str, Mapping[str, Schema[Any]] | None]  # Any: topics of any payload

_FORMS: dict[str, HistoryForm] = {"earliest": "earliest", "last": "last_n", "after": "after_cursor", "since": "since_time"}


def check_channels(interest: Interest, capabilities: Capabilities, transport: str) -> None:
    """Refuse channel names that the transport does not carry.

    Raises:
        InvalidName: a name is longer than it declares.
    """
    for channel in interest.topics:
        check_length(channel, capabilities, transport)


def check_start(start: Start, capabilities: Capabilities, transport: str) -> None:
    """Refuse a start that the transport's history cannot serve.

    Raises:
        Unsupported: the transport does not declare that form of history.
    """
    form = _FORMS.get(start.kind)
    if form is not None and form not in capabilities.history:
        have = ", ".join(sorted(capabilities.history)) or "none"
        raise Unsupported(f"{start!r} needs history of the form {form!r}; the {transport} transport with these options has: {have}")


def interest_of(
    targets: tuple[TopicRef[Any] | ChannelLike | str, ...],  # Any: topics of any payload
    topics: Iterable[str] | None,
    *,
    buffer: int,
    buffer_bytes: int,
    where: str = "subscribe()",
) -> Interest:
    """Turn the arguments of a subscribe into an interest.

    Raises:
        DeclarationError: an argument is neither topic nor channel, or topics are named that the channel does not declare.
        InvalidName: a name given as a string may not exist.
        ValueError: one topic is wanted by two schemas, or a buffer is smaller than 1.
    """
    if buffer < 1 or buffer_bytes < 1:
        raise ValueError(f"{where}: buffer and buffer_bytes must be at least 1, got {buffer} and {buffer_bytes}")
    refs = [target for target in targets if isinstance(target, TopicRef)]
    if refs and len(refs) == len(targets):
        if topics is not None:
            raise DeclarationError(f"{where}: topics= chooses among a channel's topics; it does not go with topics such as {refs[0]!r}")
        wanted = _of_refs(refs, where)
    elif len(targets) == 1:
        wanted = _of_channel(targets[0], topics, where)
    else:
        odd = next((target for target in targets if not isinstance(target, TopicRef)), None)
        raise DeclarationError(not_a_ref(where, odd) if targets else f"{where} needs at least one topic, or a channel")
    return Interest(wanted, raw=False, buffer=buffer, buffer_bytes=buffer_bytes)


def _of_refs(refs: Iterable[TopicRef[Any]], where: str) -> Wanted:  # Any: topics of any payload
    wanted: dict[str, dict[str, Schema[Any]]] = {}
    for ref in refs:
        schemas = wanted.setdefault(ref.channel, {})
        if schemas.setdefault(ref.topic, ref.schema) is not ref.schema:
            raise ValueError(f"{where}: {ref!r} is given twice, with different schemas")
    return dict(wanted)


def _of_channel(target: object, topics: Iterable[str] | None, where: str) -> Wanted:
    if isinstance(topics, str):
        raise DeclarationError(f"{where}: topics= takes a collection of names: topics=[{topics!r}]")
    names = None if topics is None else [check_topic_name(name) for name in topics]
    if names is not None and not names:
        raise DeclarationError(f"{where}: topics= names no topic")
    if isinstance(target, str):
        channel = check_channel_name(target)
        return {channel: None if names is None else {name: TopicRef(channel, name).schema for name in names}}
    channel, declared = declared_topics(target)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # it refuses what is no channel
    unknown = [name for name in names or () if name not in declared]
    if unknown:
        raise DeclarationError(f"{where}: channel {channel!r} declares no topic {unknown[0]!r}; it has {', '.join(map(repr, declared))}")
    if not declared:
        raise DeclarationError(f"{where}: channel {channel!r} declares no topics; by name, as a string, all topics can be had")
    return {channel: {name: ref.schema for name, ref in declared.items() if names is None or name in names}}
