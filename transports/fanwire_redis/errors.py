"""The one place where the server's and the client's errors become fanwire's."""

from __future__ import annotations

from typing import Final

import redis.exceptions as client

from fanwire.errors import ConfigError, ConnectFailed, ConnectionLost, FanwireError, Internal, PermissionDenied, Unauthenticated, Unavailable

from .wire import ServerError

__all__ = ("connect_error", "server_error")

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


def server_error(error: ServerError) -> FanwireError:
    """Return the error for an error reply."""
    code, text = error.code, str(error)[:200]
    made: FanwireError
    if code == "NOPERM":
        made = PermissionDenied(f"redis: this user may not do that: {text}")
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
    if isinstance(error, client.AuthenticationError | client.AuthorizationError) or "WRONGPASS" in text or "NOAUTH" in text:
        made = Unauthenticated(f"redis: {where} refuses the credentials: {text}")
    elif isinstance(error, client.NoPermissionError):
        made = PermissionDenied(f"redis: {where}: {text}")
    elif isinstance(error, client.ResponseError) and "DB index" in text:
        made = ConfigError(f"redis: {where}: {text}")
    else:
        made = ConnectFailed(f"redis: no connection to {where}: {text}")
    made.__cause__ = error
    return made
