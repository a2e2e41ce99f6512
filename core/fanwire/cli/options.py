"""The options that commands share, and their words in ``--help``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from .completion import complete_scheme, complete_url

__all__ = ("AppDir", "As", "ByName", "Config", "Debug", "Json", "Namespace", "Param", "Scheme", "Seconds", "Url", "UrlArgument")

_CHANNEL: Final = "Which channel"
_BROKER: Final = "Which broker"

_URL = "Broker; by default FANWIRE_URL, fanwire.toml or [tool.fanwire] of pyproject.toml."

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and fanwire's log.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, errors included.")]

Url = Annotated[str | None, typer.Option("--url", metavar="URL", help=_URL, autocompletion=complete_url)]
UrlArgument = Annotated[str | None, typer.Argument(metavar="URL", help=_URL, autocompletion=complete_url)]
Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Configuration to read in place of fanwire.toml and pyproject.toml of this directory.")
]
Namespace = Annotated[str | None, typer.Option("--namespace", metavar="NAME", help="Prefix of everything on the broker.")]
Seconds = Annotated[float | None, typer.Option("--timeout", metavar="SECONDS", help="How long to wait for the broker.")]

Param = Annotated[
    list[str] | None, typer.Option("--param", "-p", metavar="NAME=VALUE", help="Param of a declared channel; once for each.", show_default=False)
]
As = Annotated[
    str | None, typer.Option("--as", metavar="MODULE:CLASS", help="Declaration of the channel whose name is given: checks the name, and the data.")
]
ByName = Annotated[bool, typer.Option("--by-name", help="Take CHANNEL for a name, also where it looks like MODULE:CLASS.")]
AppDir = Annotated[Path, typer.Option("--app-dir", metavar="DIR", help="Where modules are looked for first.", show_default=False)]

Scheme = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SCHEME]...", help="Only these, and everything about them.", autocompletion=complete_scheme, show_default=False),
]
