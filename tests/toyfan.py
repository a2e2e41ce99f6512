"""A third party's transport, as small as one can be: a loop back to the subscriptions of the same connection.

Tests copy it under the name ``toyfan`` into a distribution they plant, so it stands for code that fanwire has never seen.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar, Literal, NoReturn, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from fanwire.capabilities import Capabilities
from fanwire.errors import ConfigError, FanwireError, Unsupported
from fanwire.messages import Cursor, Receipt
from fanwire.transport import Outbound, Sink, TransportOptions

__all__ = ("ToyOptions", "ToyTransport")

T = TypeVar("T")


class ToyOptions(TransportOptions):
    """One option of each kind; the validators quote what they refuse, as a careless author's may."""

    history: int = Field(default=10, ge=0)
    mode: Literal["fast", "safe"] = "fast"
    fast_start: bool = False
    topics: dict[str, str] = Field(default_factory=dict)
    password: SecretStr | None = None
    passphrase: str = Field(default="", max_length=32)
    dsn: SecretStr | None = None

    @field_validator("passphrase")
    @classmethod
    def _no_spaces(cls, value: str) -> str:
        if " " in value:
            raise ValueError(f"{value.upper()} has a space")
        return value

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if self.password is not None and self.dsn is not None:
            raise ValueError(f"give password={self.password.get_secret_value()} or dsn={self.dsn.get_secret_value()}, not both")
        return self


class ToyTransport:
    """Satisfies the contract by its shape: derives from nothing of fanwire."""

    name: ClassVar[str] = "toy"
    options_model: ClassVar[type[TransportOptions]] = ToyOptions

    def __init__(self, options: ToyOptions) -> None:
        self.options = options
        self._sink: Sink | None = None
        self._generations: dict[str, int] = {}

    @classmethod
    def from_options(cls, options: TransportOptions, /) -> Self:
        """Refuse a host called ``refused``, and say so well; stumble over a port that is none, and say so badly."""
        assert isinstance(options, ToyOptions)
        parts = urlsplit(options.url.get_secret_value())
        if parts.hostname == "refused":
            raise ConfigError("the toy transport serves any host but that one")
        assert parts.port is None or parts.port >= 0
        return cls(options)

    @property
    def capabilities(self) -> Capabilities:
        """What a loop back can promise."""
        return Capabilities(
            delivery="at_most_once",
            ordering="channel",
            multi_process=False,
            confirmed_publish=True,
            confirmed_subscribe=True,
            async_backends=frozenset({"asyncio", "trio"}),
        )

    @asynccontextmanager
    async def run(self, sink: Sink, /) -> AsyncGenerator[None]:
        """Connect to nothing."""
        self._sink = sink
        try:
            yield
        finally:
            self._sink = None
            self._generations.clear()

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        """Deliver at once."""
        for message in batch:
            if self._sink is not None and message.channel in self._generations:
                self._sink.deliver(message.channel, self._generations[message.channel], message.frame, None, None)
        return [Receipt(message.id, message.channel, message.topic, None, False) for message in batch]

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        """Confirm at once."""
        for channel in wanted:
            self._generations[channel] = generation
            if self._sink is not None:
                self._sink.subscribed(channel, generation, None)
        return dict.fromkeys(wanted)

    async def unsubscribe(self, channels: Collection[str], /) -> None:
        """Forget them."""
        for channel in channels:
            self._generations.pop(channel, None)

    async def ping(self, /) -> None:
        """Reach what is always there."""

    def native(self, kind: type[T], /) -> NoReturn:
        """Have nothing to give."""
        raise Unsupported(f"the toy transport has no {kind.__name__}; it has no client at all")
