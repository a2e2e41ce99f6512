"""The document that is streamed: a file, standard input, or this project's README."""

from __future__ import annotations

import hashlib
import re
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import BinaryIO, Final, final

from ..errors import ConfigError

__all__ = ("MAX_BYTES", "Document", "load_document", "make_document", "split_tokens")

MAX_BYTES: Final = 64 * 2**20
"""Bytes of a document at most: it is held in memory, once per subscriber."""

_TOKEN = re.compile(r"\s{0,32}\S{1,24}|\s{1,32}")


@final
@dataclass(frozen=True, slots=True)
class Document:
    """A text, and what identifies it."""

    name: str
    text: str
    size: int
    """Bytes of the text in UTF-8."""

    sha256: str
    """Of those bytes, in hexadecimal."""


def load_document(source: str | None) -> Document:
    """Read the document to stream.

    Args:
        source: Path of a file; ``-`` for standard input; ``None`` for the README of this project: that of the checkout the package lies in, else the long
            description in the metadata of the installed distribution, which is the same text.

    Returns:
        The document.

    Raises:
        ConfigError: it cannot be read, is empty, larger than 64 MiB, or no UTF-8 text.
    """
    if source is None:
        return _readme()
    if source == "-":
        return make_document("standard input", _read_stdin())
    try:
        if not source:
            raise FileNotFoundError  # Path("") would be the working directory
        with Path(source).open("rb") as file:
            return make_document(source, file.read(MAX_BYTES + 1))
    except FileNotFoundError as error:
        raise ConfigError(f"{source!r}: there is no such file; give the path of a text in UTF-8, or - for standard input") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{source!r} is a directory; give the path of a text in UTF-8") from error
    except (OSError, ValueError) as error:  # ValueError: a path that cannot be, such as one with a NUL
        if isinstance(error, ConfigError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{source!r} cannot be read ({reason}); give the path of a text in UTF-8 that you may read") from error


def make_document(name: str, data: bytes) -> Document:
    """Check what was read.

    Args:
        name: Where it came from, as it is shown to the user.
        data: Its bytes. Line ends and a byte order mark are part of the document and stay as they are.

    Returns:
        The document.

    Raises:
        ConfigError: it is empty, larger than 64 MiB, or no UTF-8 text.
    """
    if not data:
        raise ConfigError(f"{name!r} is empty: there is nothing to stream; give a document with --input FILE")
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{name!r} is larger than {MAX_BYTES:,} bytes; give a smaller document")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{name!r} is not UTF-8 text (byte 0x{data[error.start]:02x} at offset {error.start:,}); convert it first, for instance with iconv -t UTF-8"
        ) from error
    name = name.encode(errors="backslashreplace").decode()  # a file name may hold bytes that are no text
    return Document(name, text, len(data), hashlib.sha256(data).hexdigest())


def split_tokens(text: str) -> Sequence[str]:
    """Cut a text into pieces of about a word, as a language model produces them.

    Args:
        text: Any text.

    Returns:
        Pieces of 1 to 56 characters, each a word with the white space before it, or a part of one. Joined they are exactly the text.
    """
    return _TOKEN.findall(text)


def _read_stdin() -> bytes:
    stream: BinaryIO | None = getattr(sys.stdin, "buffer", None)  # a program without a console has no standard input
    if stream is None:
        raise ConfigError("there is no standard input; give a document with --input FILE")
    return stream.read(MAX_BYTES + 1)


def _readme() -> Document:
    found = _checkout_readme(Path(__file__).resolve())
    if found is not None:
        return make_document("README.md", found.read_bytes())
    try:
        known = metadata("fanwire")
    except PackageNotFoundError:
        known = None
    if known is None or "Description" not in known:
        raise ConfigError("the README of fanwire is not installed; give a document with --input FILE")
    return make_document("README of fanwire", known["Description"].encode())


def _checkout_readme(module: Path) -> Path | None:
    """Find README.md beside the pyproject.toml of this project, above ``module``: an environment may lie inside another project, which has one of its own."""
    for directory in module.parents:
        project, readme = directory / "pyproject.toml", directory / "README.md"
        if project.is_file() and readme.is_file():
            try:
                described = tomllib.loads(project.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            match described:
                case {"project": {"name": "fanwire"}}:
                    return readme
                case _:
                    pass
    return None
