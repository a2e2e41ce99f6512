"""What channels and topics may be called."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fanwire.errors import InvalidName
from fanwire.names import MAX_CHANNEL_BYTES, MAX_TOPIC_BYTES, check_channel_name, check_topic_name

CHECKS = pytest.mark.parametrize(
    ("check", "limit"),
    [pytest.param(check_channel_name, MAX_CHANNEL_BYTES, id="channel"), pytest.param(check_topic_name, MAX_TOPIC_BYTES, id="topic")],
)
Check = Callable[[str], str]

REFUSED_ANYWHERE = [*(chr(c) for c in range(0x20)), "\x7f", "\x80", "\x9f", "\ud800", "\udfff", "\u2028", "\u2029"]
BIDI = ["\u061c", "\u200e", "\u200f", "\u202a", "\u202b", "\u202c", "\u202d", "\u202e", "\u2066", "\u2067", "\u2068", "\u2069"]
SPACES = [" ", "\xa0", "\u1680", "\u2000", "\u2003", "\u200a", "\u202f", "\u205f", "\u3000"]


def allowed(name: str, limit: int) -> bool:
    """The rules once more, written as differently from the code as may be."""
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return False
    return (
        0 < len(encoded) <= limit
        and name.strip() == name
        and unicodedata.normalize("NFC", name) == name
        and not any(
            unicodedata.category(c) in {"Cc", "Zl", "Zp"} or unicodedata.bidirectional(c) in BIDI_CLASSES or c in "\u061c\u200e\u200f" for c in name
        )
    )


BIDI_CLASSES = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}


@CHECKS
@pytest.mark.parametrize("name", ["a", "agent-chat:thread_abc", "a b", "système", "频道", "a/b.c*d>e#f+g", "a\\b", '"', "%0d%0a", "{x}", "👩‍👩‍👧", "0", "-", "."])  # fmt: skip
def test_a_good_name_is_returned_as_it_is(check: Check, limit: int, name: str) -> None:
    assert check(name) is name


@CHECKS
def test_the_limit_counts_bytes_of_utf_8(check: Check, limit: int) -> None:
    assert check("x" * limit)
    assert check("é" * (limit // 2))
    for name in ("x" * (limit + 1), "é" * (limit // 2 + 1), "😀" * (limit // 4 + 1)):
        with pytest.raises(InvalidName, match=f"at most {limit} bytes"):
            check(name)


@CHECKS
def test_an_over_long_name_is_not_echoed(check: Check, limit: int) -> None:
    for name in ("x" * 10_000_000, "é" * limit, "x" * limit + "\n"):
        with pytest.raises(InvalidName) as caught:
            check(name)
        assert len(str(caught.value)) < 250
        assert name not in str(caught.value)
        assert name[:20] in str(caught.value), "enough of it to find it"


@CHECKS
@pytest.mark.parametrize("char", [*REFUSED_ANYWHERE, *BIDI], ids=lambda char: f"U+{ord(char):04X}")
@pytest.mark.parametrize("name", ["{}ab", "a{}b", "ab{}"])
def test_refused_characters_are_named_by_code_point(check: Check, limit: int, name: str, char: str) -> None:
    with pytest.raises(InvalidName, match=rf"U\+{ord(char):04X} at position {name.index('{')}") as caught:
        check(name.format(char))
    assert str(caught.value).isprintable()  # the text itself must be safe to print


@CHECKS
@pytest.mark.parametrize("space", SPACES, ids=lambda char: f"U+{ord(char):04X}")
def test_white_space_is_refused_at_the_ends_only(check: Check, limit: int, space: str) -> None:
    for name, where in ((f"{space}a", "begins"), (f"a{space}", "ends"), (space, "begins")):
        composed = unicodedata.normalize("NFC", name)
        with pytest.raises(InvalidName, match=rf"{where} with white space \(U\+{ord(composed.strip('a')):04X}\)"):
            check(composed)
    if unicodedata.is_normalized("NFC", space):
        assert check(f"a{space}b")


@CHECKS
def test_names_are_nfc(check: Check, limit: int) -> None:
    assert check("é")
    with pytest.raises(InvalidName, match=r"not in Unicode NFC from U\+0065 at position 1"):
        check("xe\u0301")
    with pytest.raises(InvalidName, match=r"NFC from U\+212B at position 0"):
        check("\u212b")  # the Ångström sign, which looks like the letter


@CHECKS
def test_empty_and_other_types(check: Check, limit: int) -> None:
    with pytest.raises(InvalidName, match="must not be empty"):
        check("")
    for other in (None, 3, b"abc", ["a"]):
        with pytest.raises(InvalidName, match=f"is a str, not {type(other).__name__}"):
            check(cast("str", other))  # what a caller without a type checker may pass


@CHECKS
@given(name=st.text(max_size=140) | st.text(alphabet="aé\u0301\ud800\n \u202e\u2028", max_size=8))
@example(name="a" * 200)
@example(name="e\u0301")
def test_exactly_the_names_of_the_rules_pass(check: Check, limit: int, name: str) -> None:
    if allowed(name, limit):
        assert check(name) is name
        return
    with pytest.raises(InvalidName) as caught:
        check(name)
    assert len(str(caught.value)) < 400
