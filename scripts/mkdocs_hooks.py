"""What MkDocs does to fanwire's pages beyond its plugins: docstrings as Markdown, and links from names in the text to the reference."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from textwrap import dedent
from typing import TYPE_CHECKING, Any, Final

from griffe import Attribute, Class, Docstring, Extension, Function, Module, Object

if TYPE_CHECKING:
    from griffe import ObjectNode
    from mkdocs.structure.pages import Page

__all__ = ("PUBLIC", "PlainDocstrings", "linked", "on_page_markdown", "plain", "targets")

PUBLIC: Final = (
    "fanwire",
    "fanwire.blocking",
    "fanwire.capabilities",
    "fanwire.channels",
    "fanwire.clock",
    "fanwire.codec",
    "fanwire.config",
    "fanwire.errors",
    "fanwire.events",
    "fanwire.registry",
    "fanwire.runs",
    "fanwire.testing.step_stores",
    "fanwire.transport",
    "fanwire_memory",
    "fanwire_redis",
    "fanwire_schemas.attrs",
    "fanwire_schemas.msgspec",
)
"""Modules whose every name in ``__all__`` is in the reference."""

_METHODS: Final = {
    "rt.blocking": "fanwire.Realtime.blocking",
    "rt.events": "fanwire.Realtime.events",
    "rt.history": "fanwire.Realtime.history",
    "rt.publish": "fanwire.Realtime.publish",
    "rt.publish_many": "fanwire.Realtime.publish_many",
    "rt.run": "fanwire.Realtime.run",
    "rt.stats": "fanwire.Realtime.stats",
    "rt.subscribe": "fanwire.Realtime.subscribe",
    "run.publish": "fanwire.runs.Run.publish",
    "run.step.publish": "fanwire.runs.Steps.publish",
    "run.step.run": "fanwire.runs.Steps.run",
}
"""What the pages call methods, by the names of their examples."""

_MOST_OVERLOADS: Final = 3
"""More signatures than these tell a reader less than the one they stand for."""

# ---------------------------------------------------------------- docstrings

_ROLE = re.compile(r":(?:class|meth|func|mod|attr|data|exc):`~?(?:[\w.]+\.)?([\w]+(?:\(\))?)`")
_ENTRY = re.compile(r"^    (\w+): (.*\n(?: {8}.*\n)*)", re.MULTILINE)
_HEADED = re.compile(r"(?<=\n\n)([A-Z]\w*)\n((?: {4}.*\n|\n(?= {4}))+)")
_LITERAL = re.compile(r"^(?P<indent> *)(?P<text>\S.*)?::$")


def plain(text: str) -> str:
    """Return a docstring as Markdown: roles as code, a literal block behind ``::`` as a fenced one, and a word above an indented part as its heading."""
    headed = _HEADED.sub(lambda match: f"**{match[1]}**\n\n{dedent(match[2])}", f"{text}\n").rstrip("\n")
    return "\n".join(_fenced(_ROLE.sub(r"`\1`", headed).splitlines()))


def _fenced(lines: list[str]) -> Iterator[str]:
    at = 0
    while at < len(lines):
        match = _LITERAL.match(lines[at])
        at += 1
        if match is None:
            yield lines[at - 1]
            continue
        indent = match["indent"]
        if match["text"]:
            # "Example:" alone would begin a section.
            yield f"{indent}{match['text']}:" if " " in match["text"] else f"{indent}*{match['text']}:*"
        while at < len(lines) and not lines[at].strip():
            at += 1
        end = at
        while end < len(lines) and (not lines[end].strip() or lines[end].startswith(f"{indent}    ")):
            end += 1
        code = [line[len(indent) + 4 :] for line in lines[at:end]]
        while code and not code[-1].strip():
            code.pop()
        yield ""
        yield f"{indent}```{_language(code)}"
        yield from (f"{indent}{line.replace('``', '')}" for line in code)
        yield f"{indent}```"
        yield ""
        at = end


def _language(code: list[str]) -> str:
    try:
        compile("\n".join(code), "docstring", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError:
        return "text"
    return "python"


class PlainDocstrings(Extension):
    """Griffe's extension for the above. It also leaves out long lists of overloads, and what a constructor happens to assign to an attribute."""

    # Any: griffe passes what its agents have at hand
    def on_instance(self, *, node: ast.AST | ObjectNode, obj: Object, **kwargs: Any) -> None:
        """Rewrite a docstring."""
        if obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring.value)

    def on_package(self, *, pkg: Module, **kwargs: Any) -> None:  # Any: as above
        """Leave out what tells a reader nothing, once all is read."""
        pending: list[Object] = [pkg]
        while pending:
            found = pending.pop()
            if isinstance(found, Function) and found.overloads and len(found.overloads) > _MOST_OVERLOADS:
                found.overloads = None
            if isinstance(found, Attribute):
                _undress(found)
            if isinstance(found, Class):
                _hand_down(found)
            if isinstance(found, Module | Class):
                pending += [member for member in found.members.values() if isinstance(member, Object)]


def _undress(attribute: Attribute) -> None:
    """Leave out what a constructor happens to assign, and internal types."""
    if attribute.labels & {"instance-attribute", "class-attribute"} == {"instance-attribute"}:
        attribute.value = None
    if str(attribute.annotation).startswith("_"):
        attribute.annotation = attribute.value = None


def _hand_down(owner: Class) -> None:
    """Give attributes what the docstring of their class says about them, so that it is not shown twice."""
    if owner.docstring is None:
        return
    before, heading, section = owner.docstring.value.partition("\nAttributes:\n")
    described, blank, after = section.partition("\n\n")
    entries = _ENTRY.findall(f"{described}\n")
    members = [owner.members.get(name) for name, _ in entries]
    if not heading or not all(isinstance(member, Attribute) for member in members):
        return
    for member, (_, text) in zip(members, entries, strict=True):
        if isinstance(member, Attribute) and member.docstring is None:
            member.docstring = Docstring(
                " ".join(text.split()), parent=member, parser=owner.docstring.parser, parser_options=owner.docstring.parser_options
            )
    owner.docstring.value = f"{before}{blank}{after}"


# ---------------------------------------------------------------- links

_OUTSIDE = re.compile(r"(^ *```.*?^ *```|^#.*?$|^ *:::.*?$|\[[^\]]*\]\([^)]*\)|<!--.*?-->)", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"(?<![\[`\w])`([A-Za-z][\w.]*)(\(\))?`(?![`\]])")


def targets() -> dict[str, str]:
    """Return the path in the reference of each name that the text of a page may use."""
    found: dict[str, str] = {}
    for name in PUBLIC:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        for public in getattr(module, "__all__", ()):
            if public[0].isupper():  # `topic` and `channel` are words, too
                found.setdefault(public, f"{name}.{public}")
    return found | _METHODS


def linked(markdown: str, known: dict[str, str]) -> str:
    """Link the first mention of each public name to the reference; headings, code and what is a link already are left alone."""
    left = dict(known)

    def link(match: re.Match[str]) -> str:
        path = left.pop(match[1], None)
        return match[0] if path is None else f"[{match[0]}][{path}]"

    parts = _OUTSIDE.split(markdown)
    return "".join(part if index % 2 else _NAME.sub(link, part) for index, part in enumerate(parts))


# Any: MkDocs' own objects, of which nothing is used
def on_page_markdown(markdown: str, /, *, page: Page, config: Any, files: Any) -> str:  # noqa: ARG001
    """MkDocs' hook: rewrite a page before it is rendered."""
    return markdown if page.file.src_uri.startswith("reference/") else linked(markdown, _known())


_cache: dict[str, str] = {}


def _known() -> dict[str, str]:
    if not _cache:
        _cache.update(targets())
    return _cache
