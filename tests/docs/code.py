"""What the code in a page promises about itself, turned into checks.

* ``expression  # -> 'text'``: the expression has that ``repr``; ``...`` stands for anything.
* ``statement  # raises Name`` or ``# raises Name: text``: it raises that error; what is said of its text is its beginning, with ``...`` for anything.

The comment may also stand alone below the statement, and go on in further lines that are indented behind their ``#``.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from contextlib import AbstractContextManager
from types import CodeType, TracebackType
from typing import final

from tests.docs.markdown import Block

__all__ = ("CHECKS", "Promise", "compiled", "is_coroutine", "matches", "runs_on")

_PROMISE = re.compile(r"#\s*(->|raises)\s+(.+?)\s*$")
_LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
_RAISES, _EXPECT = "__raises__", "__expect__"


class Promise(AssertionError):
    """Code does not do what the page says."""


def matches(expected: str, actual: str, *, beginning: bool = False) -> bool:
    """Whether a text is as a page shows it, where ``...`` stands for anything within a line, the spaces that align it included."""
    pattern = ".*?".join(map(re.escape, re.split(r" *\.\.\.", expected)))
    return re.match(pattern if beginning else rf"{pattern}\Z", actual) is not None


@final
class _Raises(AbstractContextManager[None]):
    """Wants an error of a certain class."""

    def __init__(self, wanted: str) -> None:
        self.name, _, self.text = (part.strip() for part in wanted.partition(":"))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> bool:
        if error is None:
            raise Promise(f"nothing was raised, the page says {self.name}")
        if not isinstance(error, Exception):
            return False
        if self.name not in {base.__name__ for base in type(error).__mro__}:
            raise Promise(f"{type(error).__name__} was raised, the page says {self.name}: {error}") from error
        if self.text and not matches(self.text, str(error), beginning=True):
            raise Promise(f"the page says {self.text!r}, the error says {str(error)!r}") from error
        return True


def _expect(value: object, expected: str) -> None:
    if not matches(expected, repr(value)):
        raise Promise(f"the page says {expected}, it is {value!r}")


CHECKS: dict[str, object] = {_RAISES: _Raises, _EXPECT: _expect}
"""What the namespace of compiled code has to hold."""


def compiled(block: Block) -> CodeType:
    """Compile a block, its promises as checks; lines are those of the page.

    Raises:
        SyntaxError: it is no Python.
        Promise: a promise stands beside no statement.
    """
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    filename = str(block.page)
    source = "\n" * (block.line - 1) + block.code
    tree = compile(source, filename, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
    promises = _promises(source)
    checked = ast.fix_missing_locations(_Checks(promises).visit(tree))
    assert isinstance(checked, ast.Module)
    if promises:
        (line, _), (kind, text) = next(iter(promises.items()))
        raise Promise(f"{filename}:{line}: nothing to check for `{kind} {text}`")
    code: CodeType = compile(checked, filename, "exec", flags, dont_inherit=True)
    return code


def is_coroutine(code: CodeType) -> bool:
    """Whether a block awaits at its top level."""
    return bool(code.co_flags & inspect.CO_COROUTINE)


def runs_on(block: Block) -> bool:
    """Whether a block iterates over messages without an end, as a subscriber in a service does."""
    # Functions are left out: what calls them is another block.
    pending: list[ast.AST] = [compile(block.code, str(block.page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST, dont_inherit=True)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.AsyncFor) and not any(isinstance(inner, ast.Break) for inner in ast.walk(node)):
            return True
        pending += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    return False


_Key = tuple[int, int | None]
"""A line; and the column of a comment that stands alone below it."""


def _promises(source: str) -> dict[_Key, tuple[str, str]]:
    """Return what the comments promise, by the line of code they belong to: their own, or the one above comments that stand alone."""
    found: dict[_Key, tuple[str, str]] = {}
    above = 0
    last: _Key | None = None
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        (line, column), alone = token.start, not token.line[: token.start[1]].strip()
        if token.type != tokenize.COMMENT:
            above = above if token.type in _LAYOUT else token.end[0]
        elif match := _PROMISE.match(token.string):
            last = (above, column) if alone else (line, None)
            if last in found:
                raise Promise(f"line {line}: a second promise for line {last[0]}")
            found[last] = (match[1], match[2])
        elif alone and last is not None and token.string.startswith("#   "):
            kind, text = found[last]
            found[last] = (kind, f"{text} {token.string[1:].strip()}")
        else:
            last = None
    return found


class _Checks(ast.NodeTransformer):
    """Puts a check around each statement that has a promise beside it: on its first line for a compound one, else on its last, or below it."""

    def __init__(self, promises: dict[_Key, tuple[str, str]]) -> None:
        self.promises = promises

    def visit(self, node: ast.AST) -> ast.AST:
        """Look at a node, its own line before those of what it holds."""
        if not isinstance(node, ast.stmt):
            return self.generic_visit(node)
        end = node.end_lineno or node.lineno
        line = node.lineno if hasattr(node, "body") else end
        promise = self.promises.pop((line, None), None) or self.promises.pop((end, node.col_offset), None)
        inner = self.generic_visit(node)
        if promise is None:
            return inner
        kind, text = promise
        if kind == "raises":
            call = ast.Call(ast.Name(_RAISES, ast.Load()), [ast.Constant(text)], [])
            return ast.copy_location(ast.With([ast.withitem(call)], [node]), node)
        if not isinstance(node, ast.Expr):
            raise Promise(f"line {line}: `-> {text}` stands beside a statement that has no value")
        checked = ast.Call(ast.Name(_EXPECT, ast.Load()), [node.value, ast.Constant(text)], [])
        return ast.copy_location(ast.Expr(checked), node)
