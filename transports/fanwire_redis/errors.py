"""The one place where the server's and the client's errors become fanwire's."""

from __future__ import annotations

from typing import Final

import redis.exceptions as client
from redis.asyncio.sentinel import MasterNotFoundError

from fanwire.errors import (
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    FanwireError,
    Internal,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    Unsupported,
)

from .wire import ServerError

__all__ = ("GRANT", "connect_error", "is_stale", "is_transient", "server_error")

GRANT: Final = (
    "~{<namespace>:* &{<namespace>:* +ping +info +client|kill +client|info +client|setname +subscribe +unsubscribe +ssubscribe +sunsubscribe +publish +spublish "
    "+multi +exec +eval +evalsha +xadd +xdel +xrange +xrevrange +xinfo|stream +pexpire +get +set"
)
"""What a user of the server needs, see the package's docstring."""

_TRANSIENT: Final = frozenset({"LOADING", "BUSY", "CLUSTERDOWN", "TRYAGAIN"})
"""What passes by itself, without anybody doing anything."""

_UNAVAILABLE: Final = {
    "LOADING": "the server is loading its data",
    "BUSY": "the server is busy with somebody's script",
    "MASTERDOWN": "the replica has lost its master",
    "CLUSTERDOWN": "the cluster is down",
    "TRYAGAIN": "the cluster is moving the channel",
    "NOREPLICAS": "the server has too few replicas to accept writes",
    "MISCONF": "the server cannot save its data and accepts no writes",
    "OOM": "the server is out of memory",
}
_STALE: Final = {
    "READONLY": "the server is a replica now",
    "MOVED": "the cluster has moved the channel",
    "ASK": "the cluster is moving the channel",
    "UNBLOCKED": "the server gave up its role",
}
"""What another connection may not meet."""
_CREDENTIALS: Final = ("WRONGPASS", "NOAUTH", "invalid username-password pair", "Authentication required")
_HINTS: Final = (
    ("CERTIFICATE_VERIFY_FAILED", ": set tls_ca to the authority that signed it, or tls_verify=false"),
    ("WRONG_VERSION_NUMBER", ": that is no TLS server, use redis:// or tls=false"),
    ("Protocol error", ": is that a Redis server?"),
    ("Connection reset", ": does it want TLS? Then use rediss:// or tls=true"),
    ("Connection closed by server", ": does it want TLS? Then use rediss:// or tls=true"),
    ("while writing to socket", ": does it want TLS? Then use rediss:// or tls=true"),
    ("the handler is closed", ": does it want TLS? Then use rediss:// or tls=true"),  # uvloop's
)
_FORBIDDEN: Final = ("ACL failure in script", "The user executing the script can't")
"""How servers say in a script what is NOPERM outside of one, by their versions."""


def is_stale(error: ServerError) -> bool:
    """Tell whether the server is the wrong one by now: others are to be looked for."""
    return error.code in _STALE


def is_transient(error: ServerError) -> bool:
    """Tell whether the same command will be accepted after a while."""
    return error.code in _TRANSIENT


def server_error(error: ServerError) -> FanwireError:
    """Return the error for an error reply."""
    code, text = error.code, str(error)[:200]
    made: FanwireError
    if code == "NOPERM" or any(sign in text for sign in _FORBIDDEN):
        made = PermissionDenied(f"redis: this user may not do that: {text}; grant it {GRANT}")
    elif code in ("NOAUTH", "WRONGPASS"):
        made = Unauthenticated(f"redis: {text}")
    elif code in _UNAVAILABLE:
        made = Unavailable(f"redis: {_UNAVAILABLE[code]}: {text}")
    elif code in _STALE:
        made = ConnectionLost(f"redis: {_STALE[code]}: {text}")
    elif code == "WRONGTYPE":
        made = ConfigError(f"redis: a key of this namespace holds something else than fanwire's: {text}; choose another namespace")
    else:
        made = Internal(f"redis: unexpected reply: {text}")
    made.__cause__ = error
    return made


def connect_error(error: Exception, where: str) -> FanwireError:
    """Return the error for a connection that could not be made."""
    text = str(error) or type(error).__name__
    made: FanwireError
    if isinstance(error, MasterNotFoundError):
        made = ConnectFailed(f"redis: no connection to {where}: they name no such master; is that its name, and is it up?")
    elif isinstance(error, client.AuthenticationError | client.AuthorizationError) or any(sign in text for sign in _CREDENTIALS):
        hint = ": set sentinel_username and sentinel_password" if where.startswith("the sentinel ") else ""
        made = Unauthenticated(f"redis: {where} refuses the credentials: {text}{hint}")
    elif isinstance(error, client.NoPermissionError):
        made = PermissionDenied(f"redis: {where}: {text}")
    elif isinstance(error, client.ResponseError) and "DB index" in text:
        made = ConfigError(f"redis: {where}: {text}")
    elif isinstance(error, client.ResponseError) and "unknown command" in text and "SENTINEL" in text.upper():
        made = Unsupported(f"redis: {where} is no sentinel: use redis://")
    else:
        hint = next((hint for sign, hint in _HINTS if sign in text), "")
        made = ConnectFailed(f"redis: no connection to {where}: {text}{hint}")
    made.__cause__ = error
    return made
