"""Every public name has a full type, and ``Any`` is part of one only where a reason is written down here."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

import fanwire
import fanwire.channels
import fanwire.errors
from tests.untested import require

ANY = {
    "blocking.realtime.BlockingRealtime.from_config": "as of Realtime",
    "blocking.realtime.BlockingRealtime.from_url": "as of Realtime",
    "blocking.realtime.BlockingRealtime.history": "as of Realtime",
    "blocking.realtime.BlockingRealtime.publish_many": "as of Realtime",
    "blocking.realtime.BlockingRealtime.subscribe": "as of Realtime",
    "channels.Channel.topics": "topics of a class have different payloads; the attributes are typed",
    "channels.declared_topics": "as above",
    "dynamic.ChannelFactory.__init__": "takes what channel() has made of such a mapping",
    "dynamic.ChannelFactory.topics": "the functional form: a mapping's values cannot be followed by checkers, and the design says so",
    "dynamic.DynamicChannel.__init__": "takes what channel() has made of such a mapping",
    "dynamic.DynamicChannel.topics": "as above",
    "dynamic.DynamicChannel.__getattr__": "as above",
    "dynamic.DynamicChannel.__getitem__": "as above",
    "messages.RawMessage.data": "nothing has checked it: that is what the view is for",
    "messages.is_topic": "any message may be asked about",
    "realtime.Realtime.from_config": "settings are checked when they are loaded",
    "realtime.Realtime.from_url": "settings are checked by the constructor",
    "realtime.Realtime.history": "topics of different payloads, or of a channel",
    "realtime.Realtime.publish_many": "messages of different topics",
    "runs.run.Run.publish_many": "messages of different topics",
    "realtime.Realtime.subscribe": "more than eight topics of different payloads, or a channel; up to eight are typed",
    "topics.TopicRef.__init__": "a reference made by hand without a schema carries any JSON",
}
"""Symbols whose type holds ``Any``, by module and name, each with the reason."""

DECLARED = "fanwire.testing.tools.Room."
"""A channel as users declare them: its topics have the types that ``topic`` infers, which is the point of it."""

EXPORTS: tuple[ModuleType, ...] = (fanwire, fanwire.channels, fanwire.errors)


# ---------------------------------------------------------------- completeness


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_public_symbol_has_a_known_type(tmp_path: Path) -> None:
    require("pyright", importlib.util.find_spec("pyright") is not None, "completeness of the public types")
    root = Path(fanwire.__file__).parent.parent
    (tmp_path / "pyrightconfig.json").write_text("{}", encoding="utf-8")
    command = [sys.executable, "-m", "pyright", "--verifytypes", "fanwire", "--ignoreexternal", "--outputjson", "--pythonpath", sys.executable]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    report: dict[str, Any] = json.loads(result.stdout)["typeCompleteness"]  # Any: pyright's own format
    assert report["packageRootDirectory"] == str(root / "fanwire")
    assert report["exportedSymbolCounts"]["withKnownType"] > 300, "it looked at our package"
    # What merely refers to a symbol without a type follows from it, so the symbols at fault are those whose own annotation is named.
    at_fault = {
        symbol["name"]: item["message"].splitlines()[0]
        for symbol in report["symbols"]
        if symbol["isExported"] and not (symbol["isTypeKnown"] and not symbol["isTypeAmbiguous"])
        for item in symbol["diagnostics"]
        if "partially unknown" not in item["message"] and not symbol["name"].startswith(DECLARED)
    }
    assert at_fault == {}
    assert report["completenessScore"] > 0.995, "but for the topics of that channel, and the checks that use it"


# ---------------------------------------------------------------- Any


def exported() -> Iterator[type | FunctionType]:
    seen: set[object] = set()
    for module in EXPORTS:
        for name in getattr(module, "__all__"):  # noqa: B009 - a module may have none, for a checker
            value = getattr(module, name)
            if isinstance(value, type | FunctionType) and value not in seen:
                seen.add(value)
                yield value


def definition(value: type | FunctionType) -> list[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return the definitions of a class, or of a function and its overloads."""
    module = sys.modules[value.__module__]
    tree = ast.parse(textwrap.dedent(inspect.getsource(module)))
    return [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == value.__name__]


def typed_members(nodes: Iterable[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.expr]]:
    """Yield each annotation a user's checker sees: of overloads rather than of what implements them, and of public members."""
    nodes = list(nodes)
    overloaded = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_overload(node)}
    for node in nodes:
        match node:
            case ast.ClassDef(body=body, name=name):
                yield from typed_members(body, f"{prefix}{name}.")
            case ast.If(body=body, orelse=orelse):
                yield from typed_members([*body, *orelse], prefix)
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation) if is_public(name):
                yield prefix + name, annotation
            case ast.FunctionDef() | ast.AsyncFunctionDef() if is_public(node.name):
                if node.name == "__init__":
                    yield from attributes(node, prefix)
                if is_overload(node) or node.name not in overloaded:
                    yield from ((prefix + node.name, annotation) for annotation in signature(node))
            case _:
                pass


def attributes(init: ast.FunctionDef | ast.AsyncFunctionDef, prefix: str) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.walk(init):
        match node:
            case ast.AnnAssign(target=ast.Attribute(value=ast.Name(id="self"), attr=name), annotation=annotation) if is_public(name):
                yield prefix + name, annotation
            case _:
                pass


def signature(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.expr]:
    arguments = function.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if argument is not None and argument.annotation is not None:
            yield argument.annotation
    if function.returns is not None:
        yield function.returns


def is_overload(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(isinstance(decorator, ast.Name) and decorator.id == "overload" for decorator in function.decorator_list)


def is_public(name: str) -> bool:
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


def holds_any(annotation: ast.expr) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(ast.parse(ast.unparse(annotation).strip("'\""))))


def symbols_with_any() -> set[str]:
    found: set[str] = set()
    for value in exported():
        classes = [cls for cls in inspect.getmro(value) if cls.__module__.startswith("fanwire")] if isinstance(value, type) else [value]
        for owner in classes:
            module = owner.__module__.removeprefix("fanwire.")
            found |= {f"{module}.{name}" for name, annotation in typed_members(definition(owner)) if holds_any(annotation)}
    return found


def test_any_is_part_of_a_public_type_only_where_a_reason_is_given() -> None:
    assert symbols_with_any() == set(ANY)
    assert all(ANY.values())


def test_any_is_found_wherever_it_may_hide() -> None:
    source = """
    class C:
        a: dict[str, Any]
        _b: Any
        if TYPE_CHECKING:
            c: "list[Any]"
        def __init__(self, d: Any) -> None:
            self.e: Any = d
            self._f: Any = d
        @property
        def g(self) -> Any: ...
        @overload
        def h(self, x: int) -> int: ...
        @overload
        def h(self, x: Any) -> str: ...
        def h(self, x: object) -> object: ...
        @overload
        def i(self, x: int) -> int: ...
        def i(self, x: Any) -> Any: ...
        def j(self, *args: Any) -> None: ...
        async def k(self, **kwargs: Any) -> None: ...
        def _l(self) -> Any: ...
        def m(self, Anyone: int) -> int: ...
        class N:
            o: Any
    """
    nodes = ast.parse(textwrap.dedent(source)).body
    found = {name for name, annotation in typed_members(nodes) if holds_any(annotation)}
    assert found == {"C.a", "C.c", "C.__init__", "C.e", "C.g", "C.h", "C.j", "C.k", "C.N.o"}
