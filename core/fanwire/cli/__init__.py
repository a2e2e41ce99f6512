"""The command line: ``fanwire --help``. Needs the extra ``cli`` (typer and rich); ``import fanwire`` does not load it.

* ``app``: the commands and their options; ``options`` and ``completion`` are shared by them
* ``errors``: exit codes, every error as one line or one JSON object; ``diagnosis``: what it most likely means; ``redaction``: no secrets in either
* ``connection``: which broker; ``targets``: which channel; ``starts``: where reading begins; ``lines``: input line by line; ``output``: writing
* ``running``: Ctrl-C and ``SIGTERM``
* ``transports``, ``publish``, ``tail`` with ``tail_view``, ``check`` with ``check_view``: a command each
* ``demo``: the job, a document streamed to three subscribers and verified
* ``demo_view``: what is shown of it, live on a terminal and in plain lines elsewhere
* ``document``: where the document comes from
"""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import NoReturn

__all__ = ("main",)

_EXTRA = frozenset({"rich", "typer"})


def main() -> NoReturn:
    """Run the command line and exit. The exit codes are in :mod:`fanwire.cli.errors`."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        print('fanwire: the command line needs typer and rich: pip install "fanwire[cli]"', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("fanwire: interrupted", file=sys.stderr)
        sys.exit(130)
    for stream in (sys.stdout, sys.stderr):
        # What the terminal's encoding lacks is shown by its number; it must not end the program.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="fanwire")
    sys.exit(0)
