"""How a command ends: exit codes, and every error as one line with its remedy, or as one JSON object.

Exit codes:

* 0: done, and what was to be verified is right
* 1: failed: refused by the broker, lost, or verified wrong; or a defect
* 2: an argument, the data, a file or the configuration is wrong
* 3: the broker cannot be reached, or did not answer in time
* 4: the broker refuses the credentials, or what they may not do
* 130: interrupted (Ctrl-C); 143: terminated (``SIGTERM``)

With ``--json`` an error is one object on standard error: ``code`` (stable, as in :mod:`fanwire.errors`), ``message``, ``remedy`` (``null`` where the message says it) and
``retryable``. A traceback appears with ``--debug`` only. Secrets are taken out of both.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple, final

from ..errors import (
    AuthError,
    ConfigError,
    DeclarationError,
    FanwireError,
    InvalidName,
    InvalidPayload,
    PartialPublish,
    PayloadTooLarge,
    Timeout,
    Unavailable,
    Unsupported,
)
from .redaction import forget, scrub

__all__ = (
    "EXIT_CODES",
    "FAILED",
    "INTERRUPTED",
    "OK",
    "REFUSED",
    "UNAVAILABLE",
    "USAGE",
    "Located",
    "OutputClosed",
    "Report",
    "guarded",
    "one_line",
    "report_of",
    "tell",
)

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
UNAVAILABLE: Final = 3
REFUSED: Final = 4
INTERRUPTED: Final = 130

EXIT_CODES: Final = """\b
Exit codes:
  0    done, and what was to be verified is right
  1    failed, lost, or verified wrong
  2    an argument, the data, a file or the configuration is wrong
  3    the broker cannot be reached, or did not answer in time
  4    the broker refuses the credentials, or what they may not do
  130  interrupted (Ctrl-C); 143 terminated (SIGTERM)"""
"""For ``--help``."""

_EXTRA: Final = frozenset({"rich", "typer"})
_CODES: Final[tuple[tuple[tuple[type[FanwireError], ...], int], ...]] = (
    ((AuthError,), REFUSED),
    ((Unavailable, Timeout), UNAVAILABLE),
    ((ConfigError, DeclarationError, InvalidName, InvalidPayload, PayloadTooLarge, Unsupported), USAGE),
)


@final
class OutputClosed(Exception):
    """Standard output cannot be written to, so there is nobody to go on for.

    Args:
        reason: Why, or ``None`` if its reader has left, which needs no explanation.
    """

    def __init__(self, reason: str | None) -> None:
        super().__init__(reason)
        self.reason = reason


@final
class Located(Exception):
    """An error that belongs to a place of the input.

    Args:
        where: The place, such as ``line 3 of data.jsonl``.
        error: The error.
        after: What else is to be known, such as how much was done before it.
    """

    def __init__(self, where: str, error: FanwireError, after: str = "") -> None:
        super().__init__(where, error, after)
        self.where = where
        self.error = error
        self.after = after


class Report(NamedTuple):
    """What is told about an error."""

    code: str
    message: str
    remedy: str | None
    retryable: bool
    exit_code: int

    def line(self) -> str:
        """Return it for people."""
        return f"fanwire: {self.message}{f' ({self.remedy})' if self.remedy else ''}"

    def json(self) -> str:
        """Return it for programs."""
        return json.dumps({"code": self.code, "message": self.message, "remedy": self.remedy, "retryable": self.retryable})


def report_of(error: BaseException, *, debug: bool = False) -> Report:
    """Return what to tell about an error, without secrets."""
    if isinstance(error, Located):
        inner = report_of(error.error, debug=debug)
        return inner._replace(message=f"{error.where}: {inner.message}{f'; {error.after}' if error.after else ''}")
    if isinstance(error, FanwireError):
        from .diagnosis import diagnose

        decisive = (
            next((result for result in error.results if isinstance(result, FanwireError)), error) if isinstance(error, PartialPublish) else error
        )
        code = next((code for kinds, code in _CODES if isinstance(error, kinds)), FAILED)
        return Report(error.code, one_line(str(error)), diagnose(decisive).remedy, error.retryable, code)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _EXTRA:
        return Report("missing_extra", f"the command line needs {error.name}, which is not installed", 'pip install "fanwire[cli]"', False, USAGE)
    remedy = None if debug else "--debug shows the traceback"
    return Report("unexpected", one_line(f"unexpected {type(error).__name__}: {error}"), remedy, False, FAILED)


def one_line(text: str) -> str:
    """Return ``text`` as one printable line, without secrets."""
    shown = "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in scrub(text))
    return " ".join(shown.split())


def guarded(command: Callable[[], int], *, debug: bool = False, as_json: bool = False) -> int:
    """Run a command; return its exit code, whatever happens.

    Args:
        command: Returns its exit code.
        debug: Whether errors are shown with their traceback, and fanwire's log too.
        as_json: Whether errors are JSON.
    """
    # Deferred: anyio is not needed to show help.
    from .running import Interrupted

    forget()
    try:
        with _logging(debug=debug):
            return command()
    except KeyboardInterrupt:
        return _interrupted(signal.SIGINT, as_json=as_json)
    except Interrupted as interrupted:
        return _interrupted(interrupted.number, as_json=as_json)
    except OutputClosed as error:
        _abandon_stdout()
        if error.reason is not None:
            tell(Report("output", f"standard output cannot be written ({error.reason})", None, False, FAILED), as_json=as_json)
        return FAILED
    except Exception as error:  # noqa: BLE001 - the outermost place: whatever it is, the user gets one line
        if debug:
            print(scrub("".join(traceback.format_exception(error))), end="", file=sys.stderr)
        report = report_of(error, debug=debug)
        tell(report, as_json=as_json)
        return report.exit_code


def _interrupted(number: int, *, as_json: bool) -> int:
    word = "interrupted" if number == signal.SIGINT else "terminated"
    tell(Report(word, word, None, False, 128 + number), as_json=as_json)
    return 128 + number


def tell(report: Report, *, as_json: bool) -> None:
    """Print a report to standard error."""
    print(report.json() if as_json else report.line(), file=sys.stderr)


@contextmanager
def _logging(*, debug: bool) -> Generator[None]:
    """Keep log records out of the output, where an error is one line; with ``--debug`` show them.

    Without any handler Python would print warnings, such as one for each attempt to connect.
    """
    logger = logging.getLogger("fanwire")
    level = logger.level
    handler: logging.Handler = logging.NullHandler()
    if debug:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handler.addFilter(_Scrub())
        logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Scrub(logging.Filter):
    """Takes secrets out of log records."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = scrub(record.getMessage()), None
        return True


def _abandon_stdout() -> None:
    """Let the interpreter's last flush go nowhere: whoever read the output has left."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
