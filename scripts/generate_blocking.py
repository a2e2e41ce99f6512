"""Write the blocking façade from the asynchronous one.

Usage: ``python scripts/generate_blocking.py [--check]``

Signatures, overloads and docstrings of ``Realtime``, ``Subscription`` and ``Run`` are taken from their source and turned into those of ``core/fanwire/blocking/``. What a method does
follows from its shape: see :func:`body`. With ``--check`` nothing is written; the difference is shown, and the exit code is 1 if there is any.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ("Cannot", "Face", "Module", "generate", "main")

CHECKOUT = Path(__file__).resolve().parent.parent
CORE = CHECKOUT / "core" / "fanwire"

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Cannot(Exception):
    """The source has something that this script does not know how to turn."""


class Face(NamedTuple):
    """One class to generate."""

    name: str
    """Of the source class; ``Blocking`` is put before it."""

    base: str
    """Where what cannot be generated is written by hand."""

    target: str
    """What the body of a method calls the object that the call goes to."""

    doc: str
    """Its docstring: what differs from the source class differs most here."""

    bases: tuple[tuple[str, str], ...] = ()
    """Base classes of the source whose public members belong to it, with their files."""

    skip: frozenset[str] = frozenset()
    """Public members that are not for users, or that the base has under another name."""

    bodies: Mapping[str, str] = {}
    """Bodies that do not follow from the shape of the method."""

    texts: Mapping[str, tuple[tuple[str, str], ...]] = {}
    """What to replace in the docstring of a method, beyond :data:`TEXTS`; each must be found."""


class Module(NamedTuple):
    """One file to generate."""

    source: str
    """Path of what it is made from."""

    path: str
    """Path of the file, both from the package's directory."""

    doc: str
    imports: str
    """Beyond those of the source."""

    faces: tuple[Face, ...]


TYPES = {
    "AsyncGenerator": "Generator",
    "AsyncIterator": "Iterator",
    "asynccontextmanager": "contextmanager",
    "Run": "BlockingRun",
    "Steps": "BlockingSteps",
    "Subscription": "BlockingSubscription",
}
"""Names in signatures."""

WRAPPED = ("Run", "Steps", "Subscription")
"""What methods return of ours, to be wrapped in turn."""

TEXTS = (
    ("``async with``", "``with``"),
    ("async with ", "with "),
    ("async for ", "for "),
    ("await ", ""),
    ("An asynchronous context manager", "A context manager"),
    ("``Realtime.", "``BlockingRealtime."),
    ("by default the Realtime's", "by default the BlockingRealtime's"),
    ("Closed: this Realtime is not open.", "Closed: this BlockingRealtime is closed."),
    ("this Realtime", "this BlockingRealtime"),
)
"""What to replace in all docstrings."""

REALTIME = """
Typed realtime channels for code without an event loop: Django, Flask, Celery, scripts.

It has what :class:`~fanwire.Realtime` has, without ``async`` and ``await``::

    with BlockingRealtime.from_url("redis://localhost:6379") as rt:
        with rt.subscribe(chat.status) as messages:
            rt.publish(chat.status, Status(message="Thinking..."))
            print(messages.get(timeout=5.0).data)

Or make one per process, as a global, and use it: it connects at first use, in a thread of its own, and is closed when the interpreter exits::

    rt = BlockingRealtime.from_url("redis://localhost:6379")  # no I/O, no thread


    @app.post("/say")
    def say() -> str:
        return rt.publish(chat.status, Status(message=request.form["text"])).id

Servers and task queues that fork their workers (gunicorn, uWSGI, Celery) may fork before or after that: each child opens a connection of its own at its first use. A
subscription, a run and what ``events()`` gives belong to the process they were made in. A first use may fail like entering does, with ``ConnectFailed`` and its kin; the next one
tries again.

All methods may be called from any number of threads at once, though not in one that runs an event loop, which they would block: that is a ``WrongLoop`` error. An interrupt, as by
Ctrl-C, ends a call at once. Schemas and ``on_invalid`` are called in the thread of the connection. At the interpreter's exit waits for messages end as soon as the main thread
has ended, so that threads can be joined; publishing goes on until :mod:`atexit` closes it, for five seconds at most.

Args:
    transport: Carries the messages; a copy of it is opened, so it may be in use elsewhere. :meth:`from_url` makes one.
    timeout: Seconds that a publish may take, unless it says otherwise.
    connect_timeout: Seconds that connecting, and subscribing, may take.
    buffer: Messages that one subscription may have waiting; beyond them the oldest are given up, announced as a gap.
    buffer_bytes: Bytes of frames that one subscription may have waiting.
    buffer_bytes_total: Bytes of frames that all subscriptions together may have waiting.
    linger: Seconds that a channel stays subscribed at the broker after its last subscription has gone.
    require: Capabilities without which it must not start, by the names of :meth:`Capabilities.names`.
    on_invalid: Called with each message that had to be skipped, in place of a log line. Must not block.
    codec: The wire format.
    clock: Where time comes from; for tests.

Raises:
    ConfigError: a setting is out of range, an unknown capability is required, or the transport cannot be copied, as when it was given a client's own objects.
    Unsupported: the transport does not declare a required capability.
"""

SUBSCRIPTION = """
Messages of one or more channels, from the moment it is entered, for a thread.

Made by ``BlockingRealtime.subscribe``; nothing happens before ``with``. Entering returns once the broker has confirmed: a publish made right after is seen. It is its own iterator, and
:meth:`get` waits for as long as it is told; a timeout, a ``break``, Ctrl-C or an exception in the consumer loses nothing, and going on goes on with the next message::

    with rt.subscribe(chat.status) as messages:
        for message in messages:
            ...
        while True:
            try:
                message = messages.get(timeout=15.0)
            except fanwire.errors.Timeout:
                ...  # nothing for 15 s

One thread iterates at a time; another one may :meth:`close` it, which ends the iteration. Messages come to the thread by chunks of what is queued, 256 at most, so that a hop
between threads is paid once for all of them.
"""

RUN = """
One attempt of a unit of work that is retried until it succeeds. Made by ``rt.run()``, anew for each attempt.

What it publishes carries the run's id::

    run = rt.run("order-17", steps=store)
    run.publish(chat.tokens, Token(token="Hello"))  # again on every attempt
    run.step.publish("done", chat.status, Status(message="Done"))  # once, however often the work is retried

After Inngest's ``publish`` and ``step.publish``.
"""

STEPS = """
The steps of one attempt of a run: what is recorded is not done again.

A step is known by its id. An id that is used several times within an attempt, as in a loop, stands for as many steps, by their order: ``id``, ``id:1``, ``id:2``
(Inngest's rule). Attempts must therefore go through their steps in the same order.
"""

MODULES = (
    Module(
        "realtime.py",
        "blocking/realtime.py",
        "BlockingRealtime: what users without an event loop hold.",
        "from ..realtime import Realtime\nfrom .lifetime import Lifetime, configured, copied, unchecked\nfrom .run import BlockingRun\nfrom .subscription import BlockingSubscription\n"
        "from contextlib import contextmanager\nfrom collections.abc import Generator, Iterator\n",
        (
            Face(
                "Realtime",
                "Lifetime",
                "realtime",
                REALTIME,
                bases=(("Session", "session.py"),),
                skip=frozenset({"aclose", "blocking"}),
                bodies={
                    "from_config": "made = cls.__new__(cls)\nLifetime.__init__(made, configured(path, settings))\nreturn made",
                    "__init__": "make = copied(transport)\nsuper().__init__(lambda: Realtime(make(), {settings}))",
                },
                texts={"stats": (("since it was entered", "since it was opened"),)},
            ),
        ),
    ),
    Module(
        "subscription.py",
        "blocking/subscription.py",
        "BlockingSubscription: a context manager and iterator of messages.",
        "from .feed import BlockingBatches, Feed\nfrom collections.abc import Iterator\n",
        (
            Face(
                "Subscription",
                "Feed[Item_co]",
                "subscription",
                SUBSCRIPTION,
                skip=frozenset({"give_back", "owe", "position", "stats", "take_now"}),
                bodies={
                    "batches": "self._plan.batches(max_size=max_size, max_wait=max_wait)  # refuses what is out of range\n"
                    "return BlockingBatches(self, max_size, max_wait)",
                },
                texts={"batches": (("fewer turns of the loop where messages come in bursts", "as they are queued where messages come in bursts"),)},
            ),
        ),
    ),
    Module(
        "runs/run.py",
        "blocking/run.py",
        "BlockingRun: publishing from work that is retried, without an event loop.",
        "from .lifetime import Part, unchecked\nfrom ..runs.run import Run, Steps\n",
        (
            Face("Run", "Part[Run]", "run", RUN),
            Face(
                "Steps",
                "Part[Steps]",
                "steps",
                STEPS,
                texts={
                    "run": (
                        ("What to run.", "What to run, in this thread."),
                        ("the function is no ``async`` one", "the function is an ``async`` one"),
                    ),
                },
            ),
        ),
    ),
)


# ---------------------------------------------------------------- reading


class Source:
    """A module's text and tree."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.text = path.read_text(encoding="utf-8")
        self.lines = self.text.splitlines()
        self.tree = ast.parse(self.text)

    def cls(self, name: str) -> ast.ClassDef:
        """Return a class's definition."""
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return node
        raise Cannot(f"{self.name} has no class {name}")

    def head(self, function: Function) -> str:
        """Return what stands before the body of a function: comments right above it, decorators, signature."""
        first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
        while self.lines[first - 2].lstrip().startswith("#"):
            first -= 1
        last, column = function.body[0].lineno, function.body[0].col_offset
        return "\n".join([*self.lines[first - 1 : last - 1], self.lines[last - 1][:column]]).rstrip()


def is_overload(function: Function) -> bool:
    """Tell whether it is one of the signatures of an overloaded function."""
    return "overload" in decorators(function)


def decorators(function: Function) -> list[str]:
    """Return the names of a function's decorators."""
    return [ast.unparse(decorator) for decorator in function.decorator_list]


def members(cls: ast.ClassDef) -> Iterator[list[Function]]:
    """Yield the public methods of a class, each with its overloads before it."""
    group: list[Function] = []
    for node in cls.body:
        if isinstance(node, Function) and (not node.name.startswith("_") or node.name == "__init__"):
            group.append(node)
            if not is_overload(node):
                yield group
                group = []


def attributes(cls: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    """Yield name, type and description of the public attributes that the constructor sets."""
    for init in cls.body:
        if isinstance(init, ast.FunctionDef) and init.name == "__init__":
            for node, after in zip(init.body, [*init.body[1:], None], strict=True):
                match node, after:
                    case ast.AnnAssign(target=ast.Attribute(attr=name), annotation=kind), ast.Expr(value=ast.Constant(value=str(text))) if (
                        not name.startswith("_")
                    ):
                        yield name, ast.unparse(kind), text
                    case ast.AnnAssign(target=ast.Attribute(attr=name), annotation=kind), _ if not name.startswith("_"):
                        yield name, ast.unparse(kind), ""
                    case _:
                        pass


# ---------------------------------------------------------------- turning


def turned(head: str, where: str) -> str:
    """Turn the text of a signature."""
    code = re.sub(r"\basync def\b", "def", head)
    code = re.sub(rf"\b({'|'.join(TYPES)})\b", lambda found: TYPES[found[1]], code)
    code = re.sub(r"\bAwaitable\[(\w+)\]", r"\1", code)
    left = re.search(r"\b(?:[Aa]sync\w*|Awaitable|Coroutine)\b", re.sub("#.*", "", code))
    if left:
        raise Cannot(f"{where}: do not know what {left[0]} is without an event loop")
    return code


def documented(function: Function, face: Face) -> str:
    """Turn the docstring of a function."""
    text = ast.get_docstring(function)
    if text is None:
        raise Cannot(f"{face.name}.{function.name} has no docstring")
    for old, new in TEXTS:
        text = text.replace(old, new)
    for old, new in face.texts.get(function.name, ()):
        if old not in text:
            raise Cannot(f"{face.name}.{function.name}: its docstring no longer has {old!r}")
        text = text.replace(old, new)
    return text


def arguments(function: Function, *, of: str = "call") -> str:
    """Return what passes a function's arguments on."""
    found: list[str] = []
    given = function.args
    for argument in [*given.posonlyargs, *given.args]:
        if argument.arg in {"self", "cls"}:
            continue
        kind = ast.unparse(argument.annotation) if argument.annotation else ""
        if "Awaitable[" in kind:
            found.append(f"job.in_caller({argument.arg})")
        elif argument in given.posonlyargs:
            found.append(argument.arg)
        else:
            found.append(f"{argument.arg}={argument.arg}")
    if of == "init":
        found = []
    if given.vararg:
        found.append(f"*{given.vararg.arg}")
    found += [f"{argument.arg}={argument.arg}" for argument in given.kwonlyargs]
    if given.kwarg:
        found.append(f"**{given.kwarg.arg}")
    return ", ".join(found)


def taken(function: Function) -> list[str]:
    """Return what takes the items out of a function's iterables: in the caller's thread, for they may come from code that must not run on the loop."""
    given = [
        argument.arg for argument in function.args.posonlyargs if argument.annotation and ast.unparse(argument.annotation).startswith("Iterable[")
    ]
    return [f"{name} = tuple({name})" for name in given]


def body(group: Sequence[Function], face: Face) -> str:
    """Return the code of a method, by its shape."""
    function = group[-1]
    name, names, target = function.name, decorators(function), face.target
    returns = ast.unparse(function.returns) if function.returns else ""
    wrapped = next((kind for kind in WRAPPED if re.match(rf"{kind}\b", returns)), None)
    method = f"{target}.{name}"
    whole = face.name == "Realtime"
    if name in face.bodies:
        return face.bodies[name].format(settings=arguments(function, of="init"))
    if "classmethod" in names:
        return f"made = cls.__new__(cls)\n{face.base}.__init__(made, lambda: {face.name}.{name}({arguments(function)}))\nreturn made"
    if "asynccontextmanager" in names:
        return f"with self._follow(lambda {target}: {method}({arguments(function)})) as items:\n    yield items"
    if isinstance(function, ast.AsyncFunctionDef):
        call = f"{f'unchecked({method})' if len(group) > 1 else method}({arguments(function)})"
        code = f"return self._call_back(lambda {target}, job: {call})" if "job." in call else f"return self._call(lambda {target}: {call})"
        return "\n".join([*taken(function), code])
    here = "self._realtime" if whole else "self._plan"
    passed = "" if "property" in names else f"({arguments(function)})"
    if wrapped == "Subscription" and whole:
        return f"return BlockingSubscription(self, {f'unchecked({here}.{name})' if len(group) > 1 else f'{here}.{name}'}{passed})"
    if wrapped == "Subscription":
        return f"return BlockingSubscription(self._owner, self._view().{name}{passed})"
    if wrapped and whole:
        return f"return Blocking{wrapped}(self, {here}.{name}{passed}, lambda {target}: {method}{passed})"
    if wrapped:
        return f"return Blocking{wrapped}(self._owner, {here}.{name}{passed}, lambda realtime: self._on(realtime).{name}{passed})"
    if len(group) > 1 or "Async" in returns:
        raise Cannot(f"{face.name}.{name}: do not know what to do with a method of this shape")
    return f"return {here}.{name}{passed}"


# ---------------------------------------------------------------- writing


def indented(text: str, by: int) -> str:
    """Indent all lines but empty ones."""
    return "\n".join(f"{' ' * by}{line}" if line else line for line in text.splitlines())


def quoted(text: str, by: int) -> str:
    """Return a docstring."""
    lines = text.strip().splitlines()
    return indented('"""' + "\n".join(lines) + ('\n"""' if len(lines) > 1 else '"""'), by)


def written(face: Face, source: Source) -> str:
    """Return a class."""
    cls = source.cls(face.name)
    parts = [f"@final\nclass Blocking{face.name}({face.base}):\n{quoted(face.doc, 4)}"]
    if "__init__" not in face.bodies:
        parts.append("    __slots__ = ()")
    places = [(source.cls(face.name), source), *((Source(CORE / path).cls(base), Source(CORE / path)) for base, path in face.bases)]
    for node, place in places:
        if node is not cls or face.name != "Realtime":
            parts += [attribute(face, name, kind, text) for name, kind, text in attributes(node) if name not in face.skip]
        for group in members(node):
            constructor = group[-1].name == "__init__"
            if group[-1].name not in face.skip and (not constructor or (node is cls and "__init__" in face.bodies)):
                parts.append(method(group, face, place))
    return "\n\n".join(parts)


def attribute(face: Face, name: str, kind: str, text: str) -> str:
    """Return a property that stands for a public attribute."""
    here = "self._realtime" if face.name == "Realtime" else "self._plan"
    return f"    @property\n    def {name}(self) -> {kind}:\n{quoted(text or f'The {name} it was made with.', 8)}\n        return {here}.{name}"


def method(group: Sequence[Function], face: Face, source: Source) -> str:
    """Return a method, with its overloads."""
    where = f"{face.name}.{group[-1].name}"
    code = [f"{turned(source.head(overload), where)} ..." for overload in group[:-1]]
    code.append(turned(source.head(group[-1]), where))
    if group[-1].name != "__init__":
        code.append(quoted(documented(group[-1], face), 8))
    code.append(indented(body(group, face), 8))
    return "\n".join(code)


def imports(module: Module) -> str:
    """Return the imports of the sources, as seen from the package ``blocking``, and those of the module's own; ruff takes out what is not needed."""
    always: list[str] = module.imports.splitlines()
    checking: list[str] = []
    folder = "".join(f"{part}." for part in Path(module.source).parts[:-1])
    for path in (module.source, *(path for face in module.faces for _, path in face.bases)):
        for node in Source(CORE / path).tree.body:
            guarded = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            found = checking if guarded else always
            for statement in node.body if isinstance(node, ast.If) and guarded else [node]:
                if isinstance(statement, ast.Import | ast.ImportFrom) and getattr(statement, "module", "") not in {"__future__", "blocking"}:
                    found.append(re.sub(r"^from \.(?=\w)", f"from ..{folder}", ast.unparse(statement)))
    return "\n".join([*always, "if TYPE_CHECKING:", *(f"    {line}" for line in checking)] if checking else always)


def generate(module: Module) -> str:
    """Return the text of one file.

    Raises:
        Cannot: the source has something that this script does not know how to turn.
    """
    source = Source(CORE / module.source)
    classes = "\n\n\n".join(written(face, source) for face in module.faces)
    ours = {f"Blocking{face.name}" for face in module.faces}
    variables = [
        ast.unparse(node)
        for node in source.tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for name in [node.targets[0] if isinstance(node, ast.Assign) else node.target]
        if isinstance(name, ast.Name) and name.id != "__all__" and "TypeVar" in ast.unparse(node) and re.search(rf"\b{name.id}\b", classes)
    ]
    private = sorted(set(re.findall(r"= (_[A-Z][A-Z_]*)\b", classes)))
    borrowed = "".join(
        f"from ..{module.source.removesuffix('.py').replace('/', '.')} import {name}  # pyright: ignore[reportPrivateUsage]  # a default, by identity\n"
        for name in private
    )
    text = (
        f'"""{module.doc}\n\nGenerated from core/fanwire/{module.source} by scripts/generate_blocking.py: change that file, and run ``make generate``.\n"""\n\n'
        f"from __future__ import annotations\n\n{borrowed}{imports(module)}\n\n"
        f"__all__ = ({', '.join(repr(name) for name in sorted(ours))},)\n\n" + "\n".join(variables) + f"\n\n\n{classes}\n"
    )
    return tidy(text, f"core/fanwire/{module.path}")


def tidy(text: str, name: str) -> str:
    """Let ruff take out what is not needed, and format the rest."""
    prune = ["check", "--fix", "--quiet", "--select", "F401,I", "-"]
    for command in (prune, prune, ["format", "--quiet", "-"]):  # twice: an empty `if TYPE_CHECKING` goes after the first time
        ruff = [sys.executable, "-m", "ruff", *command[:-1], "--stdin-filename", name, command[-1]]
        result = subprocess.run(ruff, cwd=CHECKOUT, input=text, capture_output=True, text=True, check=False)
        if result.returncode:
            raise Cannot(f"ruff refuses what was made for {name}:\n{result.stdout}{result.stderr}")
        text = re.sub(r"^if TYPE_CHECKING:\n    pass\n", "", result.stdout, flags=re.MULTILINE)
    return text


def main(args: Sequence[str] | None = None) -> int:
    """Write the files, or check that they are what would be written."""
    parser = argparse.ArgumentParser(description="Write core/fanwire/blocking/ from the asynchronous façade.")
    parser.add_argument("--check", action="store_true", help="write nothing; show the difference, and fail if there is any")
    check: bool = parser.parse_args(args).check
    stale = 0
    for module in MODULES:
        path = CORE / module.path
        try:
            text = generate(module)
        except Cannot as error:
            print(f"core/fanwire/{module.path} cannot be generated: {error}", file=sys.stderr)
            return 1
        there = path.read_text(encoding="utf-8") if path.exists() else ""
        if text == there:
            continue
        stale += 1
        name = f"core/fanwire/{module.path}"
        if check:
            sys.stdout.writelines(
                difflib.unified_diff(there.splitlines(keepends=True), text.splitlines(keepends=True), name, f"{name} (as generated)")
            )
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    if check and stale:
        print(
            f"{stale} of {len(MODULES)} files of the blocking façade are out of date: run `make generate` and look at the difference", file=sys.stderr
        )
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
