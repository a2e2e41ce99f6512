"""Input line by line, from a file or standard input, as it comes."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, final

import anyio
import anyio.lowlevel

from ..errors import ConfigError

__all__ = ("MAX_LINE", "Line", "Source", "open_source", "read_lines")

MAX_LINE: Final = 64 * 2**20
"""Bytes of a line at most: no transport carries a message that large, so it is no line at all."""

_CHUNK: Final = 65_536
_MARK: Final = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A line that is not blank."""

    number: int
    """From 1, blank lines included."""

    text: bytes
    """Without its end."""


@final
@dataclass(frozen=True, slots=True)
class Source:
    """Where lines come from."""

    name: str
    """What messages call it."""

    file: BinaryIO
    size: int | None
    """Bytes there are, where that is known."""


@contextmanager
def open_source(path: str) -> Generator[Source]:
    """Open a file; ``-`` is standard input.

    Raises:
        ConfigError: it cannot be opened.
    """
    if path == "-":
        stream: BinaryIO | None = getattr(sys.stdin, "buffer", None)  # a program without a console has no standard input
        if stream is None:
            raise ConfigError("there is no standard input; give --file FILE")
        yield Source("standard input", stream, None)
        return
    shown = path.encode(errors="backslashreplace").decode()  # a file name may hold bytes that are no text
    try:
        if not path:
            raise FileNotFoundError  # Path("") would be the working directory
        file = Path(path).open("rb", buffering=0)  # noqa: SIM115 - closed below; an error of the body is not one of opening
    except FileNotFoundError as error:
        raise ConfigError(f"--file {shown!r}: there is no such file; give one of JSON lines, or - for standard input") from error
    except IsADirectoryError as error:
        raise ConfigError(f"--file {shown!r} is a directory; give a file of JSON lines") from error
    except (OSError, ValueError) as error:  # ValueError: a path that cannot be, such as one with a NUL
        raise ConfigError(f"--file {shown!r} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    with file:
        status = os.fstat(file.fileno())
        yield Source(shown, file, status.st_size if stat.S_ISREG(status.st_mode) else None)


async def read_lines(source: Source) -> AsyncGenerator[Sequence[Line]]:
    """Yield the lines that are there, as soon as there are any; blank ones are left out.

    Raises:
        ConfigError: it cannot be read, or a line has no end.
    """
    rest, number = b"", 0
    async for chunk in _chunks(source):
        *whole, rest = (rest + chunk).split(b"\n")
        if whole:
            yield _numbered(whole, number)
            number += len(whole)
        if len(rest) > MAX_LINE:
            raise ConfigError(f"line {number + 1} of {source.name} is longer than {MAX_LINE:,} bytes; write one JSON value a line")
    yield _numbered([rest], number)


def _numbered(texts: Sequence[bytes], before: int) -> Sequence[Line]:
    lines = (Line(number, (text.removeprefix(_MARK) if number == 1 else text).strip()) for number, text in enumerate(texts, before + 1))
    return [line for line in lines if line.text]


async def _chunks(source: Source) -> AsyncGenerator[bytes]:
    """Yield what can be read, without holding up the event loop where the system can tell when there is something."""
    try:
        descriptor: int | None = source.file.fileno()
    except OSError:
        descriptor = None
    waits = source.size is None
    while True:
        try:
            if descriptor is None:
                chunk = source.file.read(_CHUNK)
            else:
                waits = waits and await _readable(descriptor)
                chunk = os.read(descriptor, _CHUNK)
        except OSError as error:
            raise ConfigError(f"{source.name} cannot be read ({error.strerror or error})") from error
        if not chunk:
            return
        yield chunk
        await anyio.lowlevel.checkpoint()


async def _readable(descriptor: int) -> bool:
    """Wait until there is something to read; return ``False`` where the system refuses to wait, since there always is."""
    try:
        await anyio.wait_readable(descriptor)
    except (OSError, NotImplementedError, ValueError):
        return False
    return True
