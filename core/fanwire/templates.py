"""Name templates of channels: ``agent-chat:{thread_id}`` to and from the values of its params.

Names decide who may read what, so both directions are exact: two different sets of values never share a name, and one name has one reading. A name is cut from
the left: each placeholder takes the shortest text that is followed by the next literal, the last one takes the rest. That is linear in the length of the name,
which a stranger may have sent, and needs no backtracking.
"""

from __future__ import annotations

import keyword
import string
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import DeclarationError, InvalidName
from .names import check_channel_name

__all__ = ("Template", "parse_template")


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template: ``literals[0] fields[0] literals[1] ... fields[-1] literals[-1]``.

    Attributes:
        text: As written by the user.
        fields: Names of the placeholders, in order.
        literals: The text around them, one more than there are fields.
    """

    text: str
    fields: tuple[str, ...]
    literals: tuple[str, ...]

    def fill(self, texts: Mapping[str, str]) -> str:
        """Return the name for the texts of all fields. It is not checked."""
        parts = [self.literals[0]]
        for field, literal in zip(self.fields, self.literals[1:], strict=True):
            parts += (texts[field], literal)
        return "".join(parts)

    def split(self, name: str) -> dict[str, str] | None:
        """Return the texts of all fields, or ``None`` if the name is not of this template."""
        first, last = self.literals[0], self.literals[-1]
        if not self.fields:
            return {} if name == first else None
        at, end = len(first), len(name) - len(last)
        if not name.startswith(first) or not name.endswith(last):
            return None
        texts: dict[str, str] = {}
        for field, literal in zip(self.fields, self.literals[1:-1], strict=False):
            stop = name.find(literal, at + 1, end)
            if stop < 0:
                return None
            texts[field] = name[at:stop]
            at = stop + len(literal)
        if at >= end:
            return None
        texts[self.fields[-1]] = name[at:end]
        return texts


def parse_template(text: str) -> Template:
    """Read a template.

    Args:
        text: The name of a channel, with ``{param}`` where a value goes. ``{{`` and ``}}`` are braces.

    Returns:
        The template.

    Raises:
        DeclarationError: If a placeholder is anything but the plain name of a param, two of them touch, one appears twice, or the text around them cannot be
            part of a name.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        raise DeclarationError(f"name= is a str, not {type(text).__name__}")
    fields: list[str] = []
    literals = [""]
    touching = False
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise DeclarationError(f"template {text!r}: {error}; write a brace itself as {{{{ or }}}}") from error
    for literal, field, spec, conversion in parts:
        literals[-1] += literal
        touching = touching and not literal
        if field is None:
            continue
        _check_placeholder(text, field, spec, conversion)
        if touching:
            raise DeclarationError(
                f"template {text!r}: {{{fields[-1]}}} and {{{field}}} touch, so a name could be read in many ways; put a separator between"
            )
        if field in fields:
            raise DeclarationError(f"template {text!r}: {{{field}}} appears twice; once is enough, the rest of the name follows from it")
        fields.append(field)
        literals.append("")
        touching = True
    template = Template(text, tuple(fields), tuple(literals))
    try:
        check_channel_name(template.fill(dict.fromkeys(fields, "x")))  # a stand-in, so that what is wrong is the text around it
    except InvalidName as error:
        raise DeclarationError(f"template {text!r}: {error}") from error
    return template


def _check_placeholder(text: str, field: str, spec: str | None, conversion: str | None) -> None:
    written = field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
    if conversion or spec:
        raise DeclarationError(f"template {text!r}: {{{written}}} formats its value, which could not be read back; write {{{field}}}")
    if not field.isidentifier() or keyword.iskeyword(field):
        raise DeclarationError(f"template {text!r}: {{{written}}} is not the name of a param; declare one and name it in the braces")
