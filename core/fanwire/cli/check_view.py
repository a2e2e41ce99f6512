"""What ``fanwire check`` shows: a line per step, with a moving one for the present step on a terminal; or one JSON object."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self, final

from .output import as_json, emit, make_console, printable

if TYPE_CHECKING:
    from .check import Outcome, Step

__all__ = ("JsonScreen", "LiveScreen", "PlainScreen", "Screen")

_WORDS: Final = {"ok": "ok", "failed": "FAILED", "skipped": "-"}
_STYLES: Final = {"ok": "bold green", "failed": "bold red", "skipped": "dim"}


class Screen(Protocol):
    """Where it is shown; a context manager for as long as there are steps."""

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /) -> None: ...

    def begin(self, name: str, /) -> None:
        """A step begins."""
        ...

    def end(self, step: Step, /) -> None:
        """It is over."""
        ...

    def report(self, outcome: Outcome, /) -> None:
        """All are over."""
        ...


class _Quiet:
    """A screen without a picture to take down."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /) -> None:
        return None

    def begin(self, name: str, /) -> None:
        """Show nothing."""


def _spent(step: Step) -> str:
    return "" if step.seconds is None or step.status == "skipped" else f"{step.seconds * 1_000:,.1f} ms"


def _advice(step: Step) -> str | None:
    """Return the diagnosis of a failed step."""
    if step.status != "failed":
        return None
    return f"{step.diagnosis}{'' if step.remedy is None else f': {step.remedy}'}"


@final
class PlainScreen(_Quiet):
    """A line per step."""

    def end(self, step: Step, /) -> None:
        """Print it."""
        emit(f"{_WORDS[step.status]:<8}{step.name:<14}{_spent(step):>12}  {printable(step.detail)}".rstrip())
        if advice := _advice(step):
            emit(f"{'':<36}{advice}")

    def report(self, outcome: Outcome, /) -> None:
        """Print the verdict."""
        emit(outcome.verdict())


@final
class JsonScreen(_Quiet):
    """One JSON object at the end."""

    def end(self, step: Step, /) -> None:
        """Show nothing."""

    def report(self, outcome: Outcome, /) -> None:
        """Print everything."""
        emit(as_json(outcome.plain()))


@final
class LiveScreen:
    """A line per step, and a moving one for the step that is under way."""

    def __init__(self) -> None:
        self._console = make_console(sys.stdout)
        self._status = self._console.status("")

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /) -> None:
        self._status.stop()

    def begin(self, name: str, /) -> None:
        """Name it in the moving line."""
        self._status.update(f"{name} ...")

    def end(self, step: Step, /) -> None:
        """Print it."""
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2, 0, 0))
        for width in (6, 12):
            grid.add_column(width=width, no_wrap=True)
        grid.add_column(width=11, justify="right", no_wrap=True)
        grid.add_column(overflow="fold")
        detail = Text(printable(step.detail), style="dim" if step.status == "skipped" else "")
        if advice := _advice(step):
            detail.append(f"\n{advice}", "bold")
        grid.add_row(Text(_WORDS[step.status], style=_STYLES[step.status]), step.name, Text(_spent(step), style="dim"), detail)
        self._console.print(grid)

    def report(self, outcome: Outcome, /) -> None:
        """Print the verdict."""
        from rich.text import Text

        self._console.print(Text(outcome.verdict(), style=_STYLES["failed" if outcome.failed else "ok"]))
