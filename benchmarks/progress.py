"""Shows how far a run has come: a bar on a terminal where rich is installed, plain lines otherwise. Always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol

__all__ = ("Progress", "progress")


class Progress(Protocol):
    """A display of steps done out of a known number."""

    def stage(self, label: str, /) -> None:
        """Say what comes next."""
        ...

    def advance(self) -> None:
        """One step is done."""
        ...


class _Lines:
    """One line per stage."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._start = time.monotonic()

    def stage(self, label: str, /) -> None:
        print(f"[{time.monotonic() - self._start:5.0f} s, {100 * self._done // self._total:3d} %] {label}", file=sys.stderr, flush=True)

    def advance(self) -> None:
        self._done += 1


@contextmanager
def progress(total: int) -> Generator[Progress]:
    """Open the display that suits standard error.

    Args:
        total: Number of steps to come; at least one.

    Yields:
        The display.
    """
    try:
        from rich.console import Console
        from rich.progress import Progress as Bar
    except ImportError:
        yield _Lines(total)
        return
    if not sys.stderr.isatty():
        yield _Lines(total)
        return
    with Bar(console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)

        class _Bar:
            def stage(self, label: str, /) -> None:
                bar.update(task, description=label)

            def advance(self) -> None:
                bar.advance(task)

        yield _Bar()
