"""The scripts that run on the server, and what came of calling one."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Final, NamedTuple, TypeAlias, final

from .wire import Command, Reply, ServerError, Wire

__all__ = ("HEAD", "LOOK", "PAGE", "PUBLISH", "Call", "Script", "run")

Call: TypeAlias = tuple[Sequence[bytes], Sequence[bytes | str | int]]
"""Keys and arguments."""


@final
class Script(NamedTuple):
    """A script and the digest the server knows it by."""

    source: bytes
    sha: str

    @classmethod
    def read(cls, name: str) -> Script:
        """Read a script of this package."""
        source = files("fanwire_redis").joinpath(name).read_bytes()
        return cls(source, sha1(source, usedforsecurity=False).hexdigest())


PUBLISH: Final = Script.read("publish.lua")
HEAD: Final = Script.read("head.lua")
LOOK: Final = Script.read("look.lua")
PAGE: Final = Script.read("page.lua")


async def run(wire: Wire, script: Script, calls: Sequence[Call]) -> list[Reply]:
    """Call a script several times, in one round trip; an error is a :class:`ServerError` in its place.

    The first call on a connection is by the script's source, which the server then remembers. One that finds the script gone is repeated by its source: calls whose order
    matters must not be made together.
    """
    commands: list[Command] = []
    for keys, arguments in calls:
        if script.sha in wire.scripts:
            commands.append(("EVALSHA", script.sha, len(keys), *keys, *arguments))
        else:
            wire.scripts.add(script.sha)
            commands.append(("EVAL", script.source, len(keys), *keys, *arguments))
    replies = await wire.send(commands, len(commands))
    gone = [index for index, reply in enumerate(replies) if isinstance(reply, ServerError) and reply.code == "NOSCRIPT"]
    if gone:
        again: list[Command] = [("EVAL", script.source, *commands[index][2:]) for index in gone]
        for index, reply in zip(gone, await wire.send(again, len(again)), strict=True):
            replies[index] = reply
    return replies
