"""What a transport declares it can do: one frozen value that the runtime obeys and the conformance kit proves."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, final

from .errors import ConfigError, InvalidName

__all__ = ("Capabilities", "HistoryForm", "check_length")

HistoryForm = Literal["earliest", "last_n", "after_cursor", "since_time"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The abilities of one transport with its options. What is not declared is refused with ``Unsupported``."""

    delivery: Literal["at_most_once", "at_least_once", "exactly_once"]
    """From the broker to this process, within the history where there is one."""

    ordering: Literal["channel", "publisher", "none"]
    """``channel``: all subscribers see one order. ``publisher``: the messages of one publisher keep theirs."""

    history: frozenset[HistoryForm] = frozenset()
    """How the past can be read; empty without history."""

    multi_process: bool
    """Whether other processes take part."""

    confirmed_publish: bool
    """Whether ``publish`` returns only once the broker has accepted."""

    confirmed_subscribe: bool
    """Whether entering a subscription returns only once the broker has confirmed."""

    idempotent_publish: bool = False
    """Whether the broker itself drops a message whose ``key`` (or retried ``id``) it has seen."""

    links: Literal["none", "previous", "contiguous"] = "none"
    """What a live message tells about its predecessor: nothing, its position, or its position by offsets that count up by one (losses can then be counted)."""

    max_payload: int | None = None
    """Bytes of one encoded message, or ``None`` where nothing limits it."""

    max_channel_bytes: int = 255
    """Bytes of a channel's name in UTF-8."""

    async_backends: frozenset[Literal["asyncio", "trio"]] = frozenset({"asyncio"})
    """The event loops the transport's client works under."""

    def names(self) -> frozenset[str]:
        """Return what is declared as names, the vocabulary of ``Realtime(require=...)``.

        The names are ``history`` (any form), ``history.<form>``, ``ordering.publisher``, ``ordering.channel`` (implies the former), ``delivery.at_least_once``,
        ``delivery.exactly_once`` (implies the former), ``links`` and the boolean fields.
        """
        found = {name for name in _FLAGS if getattr(self, name)}
        found |= {f"history.{form}" for form in self.history} | ({"history"} if self.history else set())
        found |= {f"ordering.{o}" for o in ("publisher", "channel")[: ("none", "publisher", "channel").index(self.ordering)]}
        found |= {f"delivery.{d}" for d in _DELIVERIES[1 : _DELIVERIES.index(self.delivery) + 1]}
        return frozenset(found | ({"links"} if self.links != "none" else set()))

    def missing(self, required: Collection[str]) -> list[str]:
        """Return those of ``required`` that are not declared, in order.

        Raises:
            ConfigError: a name is not in the vocabulary of :meth:`names`.
        """
        for name in required:
            if name not in _VOCABULARY:
                close = difflib.get_close_matches(name, _VOCABULARY, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(_VOCABULARY))}"
                raise ConfigError(f"unknown capability {name!r}; {hint}")
        declared = self.names()
        return [name for name in required if name not in declared]


def check_length(channel: str, capabilities: Capabilities, transport: str) -> None:
    """Refuse a channel name that is longer than a transport carries.

    Raises:
        InvalidName: it is.
    """
    if len(channel.encode()) > capabilities.max_channel_bytes:
        raise InvalidName(
            f"the {transport} transport carries channel names of at most {capabilities.max_channel_bytes} bytes; {channel[:40]!r} has {len(channel.encode())}"
        )


_FLAGS = ("multi_process", "confirmed_publish", "confirmed_subscribe", "idempotent_publish")
_DELIVERIES = ("at_most_once", "at_least_once", "exactly_once")
_VOCABULARY = frozenset(
    {*_FLAGS, "links", "history", "ordering.publisher", "ordering.channel", "delivery.at_least_once", "delivery.exactly_once"}
    | {f"history.{form}" for form in ("earliest", "last_n", "after_cursor", "since_time")}
)
