"""Names that brokers, protocols and file systems have been known to trip over, legal and illegal; after the idea of go-cloud's ``escape`` tests."""

from __future__ import annotations

import unicodedata

__all__ = ("illegal_names", "legal_names")

_PRINTABLE = [chr(code) for code in range(0x21, 0x7F)]

_PATTERNS = (
    "room:1",
    "room:11",
    "room:",
    ":room",
    "room",
    "Room:1",
    "ROOM:1",
    "rooM:1",
    "room:*",
    "room:?",
    "room:[0-9]",
    "room:[!1]",
    "room:{1,2}",
    "room.*",
    "room.>",
    "room.1",
    "room/1",
    "room/+",
    "room/#",
    "room..1",
    ".room",
    "room.",
    "*",
    "**",
    "*.*",
    ">",
    "*.>",
    "?",
    "#",
    "+",
    "{room}1",
    "{room}",
    "{}",
    "{}room",
    "{room",
    "room}{1}",
    "{{room}}",
    "[a]",
    "[]",
    "^",
    "$",
    "$SYS.1",
    "$JS.API.INFO",
    "$share/a/room",
    "_INBOX.room",
    "__consumer_offsets",
    "__keyspace@0__:room",
)
"""Wildcards, hash tags, prefixes of one another, and what servers keep for themselves."""

_ESCAPES = (
    "%",
    "%%",
    "%2",
    "%2F",
    "%2f",
    "%252F",
    "%00",
    "%0d%0a",
    "%E2%98%BA",
    "=2F",
    "==",
    "_2F",
    "~1",
    "&amp;",
    "\\x2f",
    "\\u002f",
    "\\0",
    "\\n",
    "\\",
    "\\\\",
    "a\\b",
    '"',
    '""',
    'a"b',
    "'",
    "`a`",
    "a,b",
    "a;b",
    "a|b",
    "a=b&c=d",
    "a?b=c",
    "a#b",
    "a@b",
    "..",
    ".",
    "...",
    "../a",
    "a/../b",
    "/",
    "//",
    "/a",
    "a/",
    "a//b",
    "C:\\a",
    "a b",
    "a  b",
    "a\u00a0b",
    "a\u200bb",
    "a\u200db",
    "a\u3000b",
    "+a",
    "a+b",
    "-",
    "--",
    "-1",
    "0",
    "00",
    "1e5",
    "1.0",
    "null",
    "None",
    "true",
    "NaN",
    "undefined",
    "con",
    "<script>",
    "${a}",
    "{0}",
    "%s",
)
"""What an encoding of names may produce for another name, and what a parser may take for something else."""

_LETTERS = (
    "é",
    "É",
    "e",
    "E",
    "ß",
    "ss",
    "SS",
    "ẞ",
    "ﬁ",
    "fi",
    "I",
    "i",
    "İ",
    "\u0131",
    "Σ",
    "\u03c3",
    "ς",
    "Ω",
    "\uff21",
    "A",
    "漢字",
    "한글",
    "ключ",
    "🧵",
    "👩\u200d👩\u200d👧",
    "\U0010fffd",
)
"""Pairs that are equal in lower case, in upper case or under compatibility normalisation, and planes of Unicode."""


def legal_names(limit: int) -> list[str]:
    """Return names that may exist, all different.

    Args:
        limit: Bytes of UTF-8 that a name may have, at least 32. The longest returned have as many.
    """
    lengths = [length for length in (2, 16, 31, 32, 63, 64, 65, 127, 128, 129, 200, 254, 255, limit - 1, limit) if 2 <= length <= limit]
    names = [*_PRINTABLE, *(f"x{char}y" for char in _PRINTABLE), *_PATTERNS, *_ESCAPES, *_LETTERS]
    names += [f"{length:x}".ljust(length, "z") for length in lengths]
    names += ["é" * (limit // 2), "漢" * (limit // 3), "." * limit, "%" * limit, "A" * limit, "a" * limit]
    return list(dict.fromkeys(name for name in names if len(name.encode()) <= limit))


def illegal_names() -> list[str]:
    """Return names that may not exist on any transport."""
    controls = [f"a{chr(code)}b" for code in (*range(0x20), 0x7F, 0x80, 0x85, 0x9F, 0x2028, 0x2029, 0x202E, 0x2066, 0x200F, 0xD800, 0xDFFF)]
    spaces = [" a", "a ", "\u00a0a", "a\u3000", " ", "\t", "a\r\n", "a\r\nPUB b 1\r\nx\r\n"]
    decomposed = [unicodedata.normalize("NFD", name) for name in ("é", "한글", "ﬁé")]
    return ["", *controls, *spaces, *decomposed, "\u212b", "\u2126", "x" * 256, "é" * 128, "x" * 100_000]
