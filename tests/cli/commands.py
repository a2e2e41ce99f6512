"""How the tests of the command line call it within their own process."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from fanwire import Realtime
from fanwire.cli import app as cli
from fanwire.cli import check, check_view, connection, tail, tail_view, transports
from fanwire.cli import publish as publish_module
from fanwire.cli.connection import Place
from fanwire.events import InvalidMessage
from fanwire.messages import Message
from fanwire_memory import MemoryTransport
from tests.cli.beside import publish

__all__ = ("fanwire", "on_a_terminal", "one_line", "one_object", "store", "stored", "using")

_NONE = dict.fromkeys(("FANWIRE_URL", "FANWIRE_NAMESPACE", "FANWIRE_TIMEOUT"))


def fanwire(*arguments: object, stdin: bytes | str | None = None, env: dict[str, str] | None = None) -> Result:
    """Call the command line; nothing in the environment says which broker."""
    return CliRunner(env={**_NONE, **(env or {})}).invoke(cli.app, list(map(str, arguments)), input=stdin)


def one_line(result: Result) -> str:
    """Return the only line on standard error; there must be no traceback and nothing on standard output."""
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("fanwire: ")
    return line.removeprefix("fanwire: ")


def one_object(result: Result) -> dict[str, object]:
    """Return the only JSON object on standard error; there must be nothing on standard output."""
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    found: dict[str, object] = json.loads(line)
    assert set(found) == {"code", "message", "remedy", "retryable"}
    return found


def using(monkeypatch: pytest.MonkeyPatch, transport: MemoryTransport, **settings: float) -> MemoryTransport:
    """Let every command use this transport, whatever its URL."""

    def open_realtime(place: Place, *, on_invalid: Callable[[InvalidMessage], None] | None = None) -> Realtime:
        connection.load(Place(url=place.url or "memory://", timeout=place.timeout))
        timeout = place.timeout or 10.0
        return Realtime(transport, on_invalid=on_invalid, **{"timeout": timeout, "connect_timeout": timeout, **settings})  # type: ignore[arg-type]  # numbers

    monkeypatch.setattr(connection, "open_realtime", open_realtime)
    return transport


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, width: int = 100) -> io.StringIO:
    """Let every command draw as on a terminal, within this process; return what it draws."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=width, height=24, color_system="truecolor", highlight=False, markup=False, emoji=False)
    for module in (transports, publish_module, tail, check, check_view, tail_view):
        for name, stand_in in (("on_terminal", lambda _: True), ("make_console", lambda _: console)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, stand_in)
    return written


def store(transport: MemoryTransport, channel: str, *messages: tuple[str, Any], **more: Any) -> None:  # Any: JSON, and what publish takes
    """Publish messages, `(topic, data)` each, before a command is called."""

    async def fill() -> None:
        async with Realtime(transport) as rt:
            for topic, data in messages:
                await publish(rt, channel, topic, data, **more)

    anyio.run(fill)


def stored(transport: MemoryTransport, channel: str) -> list[Message[Any]]:  # Any: JSON
    """Return what a channel's history holds."""

    async def read() -> list[Message[Any]]:
        async with Realtime(transport) as rt:
            return list(await rt.history(channel))

    return anyio.run(read)
