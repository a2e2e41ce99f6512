"""Which broker a command talks to: ``--url`` and its companions over the environment and the configuration files."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, final

from ..errors import ConfigError
from .redaction import hide, secrets_of

if TYPE_CHECKING:
    from ..config import Settings
    from ..events import InvalidMessage
    from ..realtime import Realtime

__all__ = ("Place", "load", "open_realtime", "opened", "seconds")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What the common options say; ``None`` leaves it to the environment and the configuration files."""

    url: str | None = None
    config: Path | None = None
    namespace: str | None = None
    timeout: float | None = None
    """Seconds, for connecting, subscribing and publishing."""


def seconds(option: str, value: float | None) -> None:
    """Refuse what is no time to wait.

    Raises:
        ConfigError: it is not more than 0.
    """
    if value is not None and not value > 0:
        raise ConfigError(f"{option} must be more than 0 seconds, got {value:g}")


def load(place: Place) -> Settings:
    """Read the configuration, and remember which secrets must not be shown.

    Raises:
        ConfigError: something in it is wrong, or nothing says which broker.
    """
    from ..config import load_settings

    seconds("--timeout", place.timeout)

    def read(place: Place) -> Settings:
        return load_settings(path=place.config, url=place.url, namespace=place.namespace, timeout=place.timeout, connect_timeout=place.timeout)

    if place.url is not None:
        hide(secrets_of(place.url, {}))
    try:
        settings = read(place)
    except ConfigError as error:
        if place.url is None:
            try:
                read(replace(place, url="memory://"))
            except ConfigError:
                pass
            else:
                raise ConfigError(f"{error}; or give --url URL") from None  # everything else is in order: it is the URL that is missing
        raise
    hide(secrets_of(settings.url.get_secret_value(), settings.options))
    return settings


def open_realtime(place: Place, *, on_invalid: Callable[[InvalidMessage], None] | None = None) -> Realtime:
    """Make the Realtime a command works with.

    Args:
        place: Which broker.
        on_invalid: Called with messages that have to be skipped; by default they are logged.

    Raises:
        ConfigError: as :func:`load`, or the transport refuses its options.
    """
    from ..realtime import Realtime

    load(place)
    return Realtime.from_config(
        place.config, url=place.url, namespace=place.namespace, timeout=place.timeout, connect_timeout=place.timeout, on_invalid=on_invalid
    )


@asynccontextmanager
async def opened(realtime: Realtime) -> AsyncGenerator[Realtime]:
    """Enter a Realtime and close it without waiting: a command has waited for what it published, and told what did not get through."""
    async with realtime as rt:
        try:
            yield rt
        finally:
            await rt.aclose(0.0)
