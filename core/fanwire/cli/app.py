"""The commands and their options, as they are typed. What they do is in a module each, imported when one is called: help must come at once.

Exit codes are in :mod:`fanwire.cli.errors`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, final

import typer

from .. import __version__
from ..errors import ConfigError
from ._group import Group
from .errors import EXIT_CODES, FAILED, OK, USAGE, guarded
from .options import AppDir, As, ByName, Config, Debug, Json, Namespace, Param, Scheme, Seconds, Url, UrlArgument

if TYPE_CHECKING:
    from ..realtime import Realtime
    from .demo import DemoResult, WorkerProcess
    from .demo_view import Screen
    from .document import Document

__all__ = ("app",)

_PATIENCE: Final = 5.0
"""Seconds that ``check`` waits by default: less than others, for somebody is waiting to hear what is wrong."""

app: typer.Typer = typer.Typer(
    cls=Group,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]},
)


@final
@dataclass(slots=True)
class _Settings:
    debug: bool = False


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fanwire {__version__}")
        raise typer.Exit(OK)


_VERSION = typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")


@app.callback(invoke_without_command=True, epilog=EXIT_CODES)
def fanwire(
    context: typer.Context,
    version: Annotated[bool, _VERSION] = False,  # noqa: ARG001 - its callback acts
    debug: Debug = False,
) -> None:
    """Typed realtime channels for Python, over the message broker you already run."""
    context.obj = _Settings(debug)
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(USAGE)


def _end(context: typer.Context, command: Callable[[], int], *, debug: bool, as_json: bool) -> None:
    """Run a command, and exit with its code."""
    settings = context.find_object(_Settings)
    raise typer.Exit(guarded(command, debug=debug or (settings is not None and settings.debug), as_json=as_json))


# ---------------------------------------------------------------- transports


@app.command(epilog=EXIT_CODES, short_help="List what is installed, and what it can do.")
def transports(context: typer.Context, schemes: Scheme = None, as_json: Json = False, debug: Debug = False) -> None:
    """List the transports that are installed, what each can do, and how to install those that are missing."""

    def command() -> int:
        from .transports import transports

        return transports(schemes or [], json=as_json)

    _end(context, command, debug=debug, as_json=as_json)


# ---------------------------------------------------------------- publish

_PUBLISHING: Final = f"""\b
Examples:
  fanwire publish agent-chat:thread_1 status '{{"message": "Thinking..."}}'
  fanwire publish shop.channels:AgentChat --param thread_id=thread_1 status '{{"message": "Done"}}'
  producer | fanwire publish agent-chat:thread_1 tokens -

{EXIT_CODES}"""


@app.command(epilog=_PUBLISHING, short_help="Publish messages from an argument, a file or standard input.")
def publish(
    context: typer.Context,
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="Name of a channel, or MODULE:CLASS that declares it: then data is validated.")],
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Name of a topic.")],
    data: Annotated[str | None, typer.Argument(metavar="DATA|-", help="One JSON value; - reads one from each line of standard input.")] = None,
    file: Annotated[str | None, typer.Option("--file", "-f", metavar="FILE", help="Read one JSON value from each line of FILE.")] = None,
    key: Annotated[
        str | None, typer.Option("--key", "-k", metavar="KEY", help="Idempotency key: a repeat is dropped. Of many lines, line 7 has KEY-7.")
    ] = None,
    headers: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME=VALUE", help="Text that travels along; once for each.", show_default=False)
    ] = None,
    params: Param = None,
    declared_by: As = None,
    by_name: ByName = False,
    app_dir: AppDir = Path(),
    url: Url = None,
    config: Config = None,
    namespace: Namespace = None,
    timeout: Seconds = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Publish one message, or one for each line of a file or of standard input.

    Lines are published as they come, in batches. What stands before a faulty line is published, nothing behind it is; the error names the line.
    """

    def command() -> int:
        from .connection import Place
        from .publish import Order, publish
        from .targets import Lookup, parse_pairs

        lookup = Lookup(directory=app_dir, params=parse_pairs("--param", params or []), declared_by=declared_by, by_name=by_name)
        order = Order(channel=channel, topic=topic, data=data, file=file, key=key, headers=headers or [], lookup=lookup, json=as_json)
        return publish(order, Place(url=url, config=config, namespace=namespace, timeout=timeout))

    _end(context, command, debug=debug, as_json=as_json)


# ---------------------------------------------------------------- tail

_TAILING: Final = f"""\b
Examples:
  fanwire tail agent-chat:thread_1
  fanwire tail shop.channels:AgentChat --param thread_id=thread_1 --topic status --from 5m
  fanwire tail agent-chat:thread_1 agent-chat:thread_2 --json --count 3 --for 10

{EXIT_CODES}

Ctrl-C is the usual end: it prints the summary. With --for and --count, fewer messages than --count are a failure."""


@app.command(epilog=_TAILING, short_help="Show messages as they come, gaps included.")
def tail(
    context: typer.Context,
    channels: Annotated[list[str], typer.Argument(metavar="CHANNEL", help="Names of channels, or MODULE:CLASS that declares one.")],
    topics: Annotated[
        list[str] | None, typer.Option("--topic", "-t", metavar="TOPIC", help="Only this topic; once for each.", show_default=False)
    ] = None,
    begin: Annotated[
        str, typer.Option("--from", metavar="START", help="Where to begin: live, earliest, 10 or last:10, 5m, an ISO 8601 time, or a cursor.")
    ] = "live",
    count: Annotated[int | None, typer.Option("--count", "-n", metavar="N", help="End after N messages.")] = None,
    duration: Annotated[float | None, typer.Option("--for", metavar="SECONDS", help="End after so long.")] = None,
    params: Param = None,
    declared_by: As = None,
    by_name: ByName = False,
    app_dir: AppDir = Path(),
    url: Url = None,
    config: Config = None,
    namespace: Namespace = None,
    timeout: Seconds = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the messages of channels as they come, and every gap, invalid message and change of the connection."""

    def command() -> int:
        from .connection import Place
        from .tail import Watch, tail
        from .targets import Lookup, parse_pairs

        lookup = Lookup(directory=app_dir, params=parse_pairs("--param", params or []), declared_by=declared_by, by_name=by_name)
        watch = Watch(channels=channels, topics=topics or [], begin=begin, count=count, duration=duration, lookup=lookup, json=as_json)
        return tail(watch, Place(url=url, config=config, namespace=namespace, timeout=timeout))

    _end(context, command, debug=debug, as_json=as_json)


# ---------------------------------------------------------------- check


@app.command(epilog=EXIT_CODES, short_help="Find out whether a broker can be used, and why not.")
def check(
    context: typer.Context,
    url: UrlArgument = None,
    pings: Annotated[int, typer.Option("--pings", metavar="N", help="Round trips to time.")] = 20,
    config: Config = None,
    namespace: Namespace = None,
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="How long to wait for the broker, at each step.")] = _PATIENCE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find out whether a broker can be used, how fast it is, and what the credentials allow; and if not, why.

    It connects, then subscribes, publishes, receives and reads history on a channel of its own that nobody else uses. One message stays in the history of that channel.
    """

    def command() -> int:
        from .check import check
        from .connection import Place

        return check(Place(url=url, config=config, namespace=namespace, timeout=timeout), pings=pings, json=as_json)

    _end(context, command, debug=debug, as_json=as_json)


# ---------------------------------------------------------------- demo


@app.command(epilog=EXIT_CODES, short_help="Stream a document to three subscribers, and verify it.")
def demo(
    context: typer.Context,
    source: Annotated[
        str | None, typer.Option("--input", "-i", metavar="FILE|-", help="Text to stream, in UTF-8; by default fanwire's README.")
    ] = None,
    url: Annotated[str, typer.Option("--url", metavar="URL", envvar="FANWIRE_URL", help="Broker to stream over.")] = "memory://",
    rate: Annotated[
        float | None,
        typer.Option(
            "--tokens-per-second",
            "--speed",
            metavar="N",
            help="0 is as fast as possible. By default 400 on a terminal, or more to be done within 10 seconds; elsewhere 0.",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="How long to wait for the broker, and for the last messages to arrive.")
    ] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as one JSON object, and nothing else.")] = False,
    debug: Debug = False,
) -> None:
    """Stream a document token by token, as an AI chat's reply, to three live subscribers, and verify what each received."""
    _end(context, lambda: _demo(source, url, rate, timeout, as_json), debug=debug, as_json=as_json)


def _demo(source: str | None, url: str, rate: float | None, timeout: float, as_json: bool) -> int:
    from rich.console import Console

    from .demo import WorkerProcess
    from .demo_view import JsonScreen, LiveScreen, PlainScreen
    from .document import load_document
    from .running import run

    if rate is not None and not rate >= 0:
        raise ConfigError(f"--tokens-per-second must be 0 or more, got {rate:g}")
    if not timeout > 0:
        raise ConfigError(f"--timeout must be more than 0 seconds, got {timeout:g}")
    document = load_document(source)
    live = not as_json and sys.stdout.isatty() and os.environ.get("TERM", "") not in {"dumb", "unknown"}
    screen: Screen = JsonScreen() if as_json else LiveScreen(Console(file=sys.stdout, highlight=False)) if live else PlainScreen()
    if rate is None:
        # A token is about five bytes, half are sent twice, and nobody watches for more than ten seconds.
        rate = max(400.0, document.size / 33) if live else 0.0
    realtime = open_realtime(url, timeout)
    result = run(_stream, document, realtime, WorkerProcess(url), screen, rate, timeout)
    screen.report(result)
    return OK if result.verdict == "passed" else FAILED


def open_realtime(url: str, timeout: float) -> Realtime:
    """Make the Realtime the demo works with: the embedded one or that of the URL, whatever else is configured."""
    from ..realtime import Realtime

    return Realtime.from_url(url, timeout=timeout, connect_timeout=timeout)


async def _stream(document: Document, realtime: Realtime, worker: WorkerProcess, screen: Screen, rate: float, timeout: float) -> DemoResult:
    from .demo import run_demo

    async with realtime as rt:
        return await run_demo(document, rt, screen, worker, rate=rate, timeout=timeout)
