"""A command in a pseudo-terminal of its own, as somebody sits before it: what it shows is read, keys are typed, Ctrl-C included."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ("CTRL_C", "CTRL_D", "Terminal", "environment", "plain")

CTRL_C = "\x03"
CTRL_D = "\x04"
ROOT = Path(__file__).resolve().parents[2]

# Makes the terminal the controlling one of the new session, so that what is typed there becomes a signal; a function for Popen to run would forbid threads.
_LAUNCH = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[a-zA-Z]|\][^\x07]*\x07)")
_DROPPED = frozenset({"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"})


def plain(text: str) -> str:
    """Return what was written without what moves the cursor and sets colours."""
    return _ESCAPES.sub("", text).replace("\r\n", "\n")


def environment(**changes: str) -> dict[str, str]:
    """Return an environment in which a child finds these tests, and in which nothing says how to draw or which broker to use."""
    kept = {name: value for name, value in os.environ.items() if name not in _DROPPED and not name.startswith("FANWIRE_")}
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **changes}


class Terminal:
    """Runs a program until the context is left."""

    def __init__(
        self, program: Sequence[str | Path], *, env: Mapping[str, str] | None = None, rows: int = 24, columns: int = 100, cwd: Path | None = None
    ) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (rows, columns))
        command = [sys.executable, "-c", _LAUNCH, *map(str, program)]
        self._process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=dict(env or environment()), cwd=cwd, start_new_session=True
        )
        os.close(slave)
        self._written = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    @property
    def raw(self) -> str:
        """Everything written so far."""
        return self._written.decode(errors="replace")

    @property
    def text(self) -> str:
        """The same without escape sequences."""
        return plain(self.raw)

    def wait_for(self, pattern: str, seconds: float = 20) -> str:
        """Read until the pattern appears; return the text so far."""
        until = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            assert self._read(until), f"{pattern!r} did not appear in: {self.text!r}"
        return self.text

    def type(self, keys: str) -> None:
        """Type."""
        os.write(self._master, keys.encode())

    def wait(self, seconds: float = 20) -> tuple[int, str]:
        """Read to the end; return the exit code and the text."""
        until = time.monotonic() + seconds
        while self._read(until):
            pass
        return self._process.wait(max(0.1, until - time.monotonic())), self.text

    def _read(self, until: float) -> bool:
        """Read a piece; return `False` at the end."""
        readable, _, _ = select.select([self._master], [], [], max(0.0, until - time.monotonic()))
        assert readable, f"nothing more was written behind: {self.text!r}"
        try:
            piece = os.read(self._master, 65_536)
        except OSError:  # Linux says so when the last writer has closed the terminal
            return False
        self._written += piece
        return bool(piece)
