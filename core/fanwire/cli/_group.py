"""The commands as a group. In a module of its own, and a private one, because typer's class derives from one without types."""

from __future__ import annotations

import sys
from typing import Any, Protocol, final, runtime_checkable

import typer
from typer.core import TyperGroup

from .errors import FAILED, OK, Report, one_line, tell

__all__ = ("Group",)


@runtime_checkable
class _Usage(Protocol):
    """What typer raises about wrong usage, whichever version of it, and of click underneath."""

    exit_code: int

    def format_message(self) -> str: ...


@final
class Group(TyperGroup):
    """The commands. Wrong usage is one line as well, or one object with ``--json``."""

    # Any: as typer declares it, which passes on what it is given
    def main(
        self,
        args: Any = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """See typer; exits, unless ``standalone_mode`` is off."""
        given = list(sys.argv[1:] if args is None else args)
        try:
            result = super().main(given, prog_name, complete_var, standalone_mode=False, windows_expand_args=windows_expand_args, **extra)
        except typer.Abort:
            result = FAILED
        except Exception as error:
            if not isinstance(error, _Usage):
                raise
            path = getattr(getattr(error, "ctx", None), "command_path", "fanwire")
            report = Report("usage", one_line(error.format_message()).rstrip("."), f"see {path} --help", False, error.exit_code)
            tell(report, as_json="--json" in given[: given.index("--") if "--" in given else None])
            result = error.exit_code
        if standalone_mode:
            sys.exit(result if isinstance(result, int) else OK)
        return result
