"""Options of the Redis transport, and what a URL means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias, final
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, SecretStr

from fanwire.errors import ConfigError
from fanwire.transport import TransportOptions

__all__ = ("RedisOptions", "Target", "parse_target")


def _existing(path: Path) -> Path:
    text = str(path)
    if len(text) > 500 or not text.isprintable() or "-----BEGIN" in text:  # what a file holds, which may be a secret
        raise ValueError("that is no path: give that of a file")
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return path


File: TypeAlias = Annotated[Path, AfterValidator(_existing)]
"""A file that has to be there: else each attempt to connect would fail, and be tried again."""


@final
class RedisOptions(TransportOptions):
    """Options of ``redis://`` and its relatives."""

    history: int = Field(default=1000, ge=0)
    """Messages kept per channel, at least; 0 keeps none and publishes plainly."""

    ttl: float = Field(default=600.0, ge=0.001, le=315_360_000)
    """Seconds that a channel's history, and its idempotency keys, are kept after its last message or subscription."""

    max_payload: int = Field(default=2**20, ge=1)
    """Bytes of one encoded message."""

    probe: float = Field(default=5.0, gt=0)
    """Seconds between probes of each connection, and for an answer to one: a connection that is half open is found within little more than twice that."""

    client_name: str = Field(default="fanwire", pattern=r"^[!-~]{0,64}$")
    """What the server lists the connections as."""

    tls: bool = False
    """Whether to use TLS; ``rediss://`` does so by itself."""

    tls_ca: File | None = None
    """File of the certificates that a TLS server's is verified against; by default the system's."""

    tls_cert: File | None = None
    """File of the client's certificate."""

    tls_key: File | None = None
    """File of the client's key."""

    tls_verify: bool = True
    """Whether a TLS server's certificate and name are verified."""

    sentinel_tls: bool | None = None
    """Whether the sentinels are spoken to by TLS; by default as the servers are."""

    sentinel_username: str | None = None
    sentinel_password: SecretStr | None = None
    """Credentials of the sentinels themselves; those in the URL are the servers'."""

    @property
    def patience(self) -> float:
        """Seconds that a server may take to accept a connection, and to answer on it: less than ``probe``, so that who waits as long as that is told of one that does not."""
        return 0.8 * self.probe


@final
class Target(NamedTuple):
    """What a URL names."""

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    path: str
    """Of a Unix socket."""

    service: str
    """Name of the master that sentinels watch."""

    db: int
    username: str | None
    password: str | None

    def credentials(self) -> dict[str, Any]:  # Any: keyword arguments of the client
        """Return them as the client takes them."""
        return {"username": self.username, "password": self.password}


_DEFAULT_PORTS = {"redis+sentinel": 26379}


def parse_target(url: str) -> Target:
    """Take apart a URL without its query.

    Raises:
        ConfigError: it is not one of the forms below.
    """
    parts = urlsplit(url)
    scheme = parts.scheme
    credentials, at, hosts = parts.netloc.rpartition("@")
    username, colon, password = credentials.partition(":")
    known = (unquote(username) or None) if at else None, (unquote(password) or None) if colon else None
    if scheme == "redis+unix":
        if hosts or not parts.path.strip("/"):
            raise ConfigError("a URL of a Unix socket is redis+unix:///path/to/socket, or redis+unix://user:password@/path/to/socket")
        return Target(scheme, (), unquote(parts.path), "", 0, *known)
    found = tuple(_host(text, _DEFAULT_PORTS.get(scheme, 6379)) for text in (hosts or "localhost").split(","))
    rest = [unquote(piece) for piece in parts.path.split("/") if piece]
    if scheme == "redis+sentinel":
        if not 1 <= len(rest) <= 2:
            raise ConfigError("a URL of sentinels is redis+sentinel://host:26379,host:26379/service, with /db behind it if it is not 0")
        return Target(scheme, found, "", rest[0], _db(rest[1:]), *known)
    if len(found) > 1 and scheme != "redis+cluster":
        raise ConfigError(f"a {scheme}:// URL has one host; redis+sentinel:// and redis+cluster:// take several")
    if scheme == "redis+cluster" and rest:
        raise ConfigError("a cluster has database 0 only: leave the path of the URL out")
    if len(rest) > 1:
        raise ConfigError(f"a {scheme}:// URL is {scheme}://host:port/db")
    return Target(scheme, found, "", "", _db(rest), *known)


def _host(text: str, default: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        return unquote(parts.hostname or "localhost"), parts.port or default
    except ValueError as error:
        raise ConfigError(f"{text!r} in the URL is not host:port") from error


def _db(rest: list[str]) -> int:
    if not rest:
        return 0
    if not rest[0].isascii() or not rest[0].isdecimal():
        raise ConfigError(f"{rest[0]!r} in the URL is no database number")
    return int(rest[0])
