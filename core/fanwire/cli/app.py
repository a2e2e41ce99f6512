"""Options, exit codes, and errors in one line each.

Exit codes:

* 0: done, and what was to be verified is right
* 1: the job failed, or what it verified is wrong
* 2: an argument, a file or the configuration is wrong
* 130: interrupted (Ctrl-C); 143: terminated (``SIGTERM``)
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Final, final

import typer
from rich.console import Console

from .. import __version__
from ..errors import AuthError, ConfigError, FanwireError, Internal, Timeout, Unavailable
from ..realtime import Realtime
from .demo import DemoResult, run_demo
from .demo_view import JsonScreen, LiveScreen, OutputClosed, PlainScreen, Screen
from .document import Document, load_document
from .running import Interrupted, run

__all__ = ("FAILED", "INTERRUPTED", "OK", "USAGE", "app")

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130

_REMEDIES: Final[tuple[tuple[type[FanwireError], str], ...]] = (
    (Unavailable, "is the broker running, and is the URL right?"),
    (Timeout, "a longer --timeout may help"),
    (AuthError, "check the credentials in the URL"),
    (Internal, "please report it, with the output of --debug"),
)
"""What to do about errors whose text cannot know it. The others say it themselves."""

app: typer.Typer = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@final
@dataclass(slots=True)
class _Settings:
    debug: bool = False


_DEBUG = typer.Option("--debug", help="Show the traceback of an error.")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fanwire {__version__}")
        raise typer.Exit(OK)


_VERSION = typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")


@app.callback()
def fanwire(
    context: typer.Context,
    version: Annotated[bool, _VERSION] = False,  # noqa: ARG001 - its callback acts
    debug: Annotated[bool, _DEBUG] = False,
) -> None:
    """Typed realtime channels for Python, over the message broker you already run.

    Exit codes: 0 done; 1 failed, or verified wrong; 2 an argument, a file or the configuration is wrong; 130 interrupted, 143 terminated.
    """
    context.obj = _Settings(debug)


@app.command()
def demo(
    context: typer.Context,
    source: Annotated[
        str | None, typer.Option("--input", "-i", metavar="FILE|-", help="Text to stream, in UTF-8; by default fanwire's README.")
    ] = None,
    url: Annotated[str, typer.Option("--url", help="Broker to stream over.")] = "memory://",
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
    debug: Annotated[bool, _DEBUG] = False,
) -> None:
    """Stream a document token by token, as an AI chat's reply, to three live subscribers, and verify what each received."""
    settings = context.find_object(_Settings)
    raise typer.Exit(_guarded(lambda: _demo(source, url, rate, timeout, as_json), debug or (settings is not None and settings.debug)))


def _demo(source: str | None, url: str, rate: float | None, timeout: float, as_json: bool) -> int:
    if rate is not None and not rate >= 0:
        raise ConfigError(f"--tokens-per-second must be 0 or more, got {rate:g}")
    if not timeout > 0:
        raise ConfigError(f"--timeout must be more than 0 seconds, got {timeout:g}")
    document = load_document(source)
    live = not as_json and sys.stdout.isatty() and os.environ.get("TERM", "") not in {"dumb", "unknown"}
    screen: Screen = JsonScreen() if as_json else LiveScreen(Console(file=sys.stdout, highlight=False)) if live else PlainScreen()
    if rate is None:
        rate = max(400.0, document.size / 50) if live else 0.0  # a token is about five bytes, and nobody watches for more than ten seconds
    realtime = open_realtime(url, timeout)
    result = run(_stream, document, realtime, screen, rate, timeout)
    screen.report(result)
    return OK if result.verdict == "passed" else FAILED


def open_realtime(url: str, timeout: float) -> Realtime:
    """Make the Realtime a command works with."""
    return Realtime.from_url(url, timeout=timeout, connect_timeout=timeout)


async def _stream(document: Document, realtime: Realtime, screen: Screen, rate: float, timeout: float) -> DemoResult:
    async with realtime as rt:
        return await run_demo(document, rt, screen, rate=rate, timeout=timeout)


# ---------------------------------------------------------------- errors


def _guarded(command: Callable[[], int], debug: bool) -> int:
    """Run a command; return its exit code, whatever happens."""
    try:
        return command()
    except KeyboardInterrupt:
        print("fanwire: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Interrupted as interrupted:
        print("fanwire: interrupted" if interrupted.number == signal.SIGINT else "fanwire: terminated", file=sys.stderr)
        return 128 + interrupted.number
    except OutputClosed as error:
        _abandon_stdout()
        if error.reason is not None:
            print(f"fanwire: standard output cannot be written ({error.reason})", file=sys.stderr)
        return FAILED
    except Exception as error:  # noqa: BLE001 - the outermost place: whatever it is, the user gets one line
        return _explain(error, debug)


def _explain(error: Exception, debug: bool) -> int:
    """Print what went wrong and what to do, in one line; return the exit code."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, FanwireError):
        remedy = next((f" ({text})" for kind, text in _REMEDIES if isinstance(error, kind)), "")
        text = f"{error}{remedy}"
    else:
        hint = "" if debug else " (--debug shows the traceback)"
        text = f"unexpected {type(error).__name__}: {error}{hint}"
    print(f"fanwire: {' '.join(text.split())}", file=sys.stderr)
    return USAGE if isinstance(error, ConfigError) else FAILED


def _abandon_stdout() -> None:
    """Let the interpreter's last flush go nowhere: whoever read the output has left."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
